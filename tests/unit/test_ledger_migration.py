"""A ledger of the first format: refused with the way out, and carried over whole or not at all."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from governance.canonical import canonical_bytes, sha256_hex
from governance.errors import LedgerCorrupt, LedgerError
from governance.heads import HeadFiles
from governance.ledger import EntryKind, Ledger
from governance.migration import migrate
from governance.privacy import PrivacyLoss
from governance.settings import Account
from governance.verify.verification import verify

ACCOUNT = Account(dataset="events", unit="user_id", cap=PrivacyLoss.of("1", "1e-6"))
LOSS = {"loss": {"rho": "0.1", "delta": "0.0000001"}}
ZERO = {"rho": "0", "delta": "0"}
OLD: tuple[tuple[str, str | None, str | None, str, dict[str, Any]], ...] = (
    ("OPEN", ACCOUNT.name, None, ACCOUNT.name, {"cap": {"rho": "1", "delta": "0.000001"}}),
    ("RESERVE", ACCOUNT.name, "a", "s/v1/a", LOSS),
    ("RESERVE", ACCOUNT.name, "b", "s/v1/b", LOSS),
    ("DRAW", ACCOUNT.name, "a", "s/v1/a", {}),
    ("RELEASE", ACCOUNT.name, "b", "s/v1/b", {"reason": "input missing"}),
    ("COMMIT", ACCOUNT.name, "a", "s/v1/a", {"manifest_sha256": "ab" * 32}),
    ("COMMIT", None, "p", "items/v1/x", {"loss": ZERO, "manifest_sha256": "cd" * 32}),
    ("REFUSED", ACCOUNT.name, None, "s/v1/c", {"loss": LOSS["loss"], "remaining": ZERO, "reason": "rho over"}),
    ("RESERVE", ACCOUNT.name, "d", "s/v1/d", LOSS),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database as hedgerow 0.1 wrote it."""
    path = tmp_path / "var" / "ledger.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(
            "CREATE TABLE entries (sequence INTEGER PRIMARY KEY CHECK (sequence > 0), body TEXT NOT NULL, "
            "hash TEXT NOT NULL UNIQUE) STRICT"
        )
        previous = "0" * 64
        for sequence, (kind, account, run_id, subject, detail) in enumerate(OLD, start=1):
            body = canonical_bytes(
                {
                    "sequence": sequence,
                    "kind": kind,
                    "at": f"2025-11-03T12:00:0{sequence}.000+00:00",
                    "account": account,
                    "run_id": run_id,
                    "subject": subject,
                    "detail": detail,
                    "previous": previous,
                }
            )
            previous = sha256_hex(body)
            database.execute("INSERT INTO entries VALUES (?, ?, ?)", (sequence, body.decode(), previous))
    return path


def carry_over(path: Path) -> int:
    return migrate(path, heads=HeadFiles(path.parent), key_path=path.parent / "keys" / "ledger.ed25519")


def test_every_entry_is_carried_over(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="run 'hedgerow ledger migrate'"):
        Ledger(path)
    assert path.read_bytes() == before
    assert carry_over(path) == len(OLD)
    with Ledger(path) as ledger:
        entries = ledger.entries()
        found = [(str(e.kind), e.account, e.run_id, e.subject) for e in entries]
        assert found == [(kind, account, run_id, subject) for kind, account, run_id, subject, _ in OLD]
        assert [entry.at[-14:] for entry in entries] == [f":00:0{k}.000+00:00"[-14:] for k in range(1, len(OLD) + 1)]
        balance = ledger.balance(ACCOUNT)
        assert (balance.spent, balance.held) == (PrivacyLoss.of("0.1", "1e-7"), PrivacyLoss.of("0.1", "1e-7"))
        assert {run.run_id: run.state for run in ledger.runs()}["b"] is EntryKind.RELEASE
        assert verify(ledger.source(), key=ledger.public_key(), head_files=ledger.head_files).findings == ()
        ledger.draw("d")
    assert path.with_name("ledger.format-1.db").is_file()
    with pytest.raises(LedgerError, match="not a ledger of the first format"):
        carry_over(path)


def test_a_broken_chain_is_not_carried_over(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("UPDATE entries SET body = replace(body, '0.1', '0.0') WHERE sequence = 3")
    before = path.read_bytes()
    with pytest.raises(LedgerCorrupt, match="entry 3 does not match its hash chain"):
        carry_over(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM entries").fetchone() == (len(OLD),)
    assert len(path.read_bytes()) == len(before)


def test_a_ledger_in_use_is_not_carried_over(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as living:
        living.execute("SELECT * FROM entries").fetchall()
        with pytest.raises(LedgerError, match="in use or not readable"):
            carry_over(path)


def test_a_crash_in_between_leaves_the_old_ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path, __: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            carry_over(path)
    with pytest.raises(LedgerError, match="run 'hedgerow ledger migrate'"):
        Ledger(path)
    assert carry_over(path) == len(OLD)


def test_nothing_to_migrate(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        carry_over(tmp_path / "ledger.db")
