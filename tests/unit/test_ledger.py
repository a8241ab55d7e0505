"""The ledger in SQLite: what every ledger does, and what only a file can suffer."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from governance.errors import LedgerCorrupt, LedgerError
from governance.ledger import Ledger
from governance.privacy import PrivacyLoss
from governance.storage.sqlite import SqliteStore
from tests.support.ledger_conformance import ACCOUNT, SMALL, LedgerConformance


class TestSqlite(LedgerConformance):
    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        return str(tmp_path / "var" / "ledger.db")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path, clock=lambda: datetime(2025, 11, 3, 12, tzinfo=UTC)) as opened:
        yield opened


def test_a_failed_write_leaves_nothing(ledger: Ledger, path: Path) -> None:
    """A full disk: the transaction is undone, the error is typed, and the ledger works on when there is room again."""
    ledger.reserve("r1", ACCOUNT, "s/v1/x", SMALL)
    pages = _database(ledger).execute("PRAGMA page_count").fetchone()[0]
    _database(ledger).execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerError, match="full"):
        ledger.refuse(None, "s", "x" * 20_000)
    _database(ledger).execute("PRAGMA max_page_count=1000000")
    ledger.reserve("r2", ACCOUNT, "s/v1/y", SMALL)
    assert ledger.balance(ACCOUNT).held == PrivacyLoss.of("0.2", "2e-7")


# --- tampering --------------------------------------------------------------------------------------------------------


def fill(ledger: Ledger) -> None:
    for k in range(3):
        ledger.reserve(f"r{k}", ACCOUNT, f"s/v1/{k}", SMALL)
        ledger.draw(f"r{k}")
        ledger.commit(f"r{k}", "m")


def test_the_database_itself_keeps_entries(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    with closing(sqlite3.connect(path)) as raw:
        for statement in ("UPDATE entries SET body = '{}'", "DELETE FROM entries WHERE sequence = 2"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


EDIT = 'UPDATE entries SET body = replace(body, \'"rho":"0.1"\', \'"rho":"0.0"\') WHERE sequence = 2'


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ([EDIT], "entry 2: It does not match the hash"),
        (["UPDATE entries SET hash = 'f' || substr(hash, 2) WHERE sequence = 3"], "entry 3: It does not match"),
        (["UPDATE entries SET body = 'null' WHERE sequence = 4"], "entry 4: The ledger cannot have written it"),
        (["UPDATE entries SET body = '{' WHERE sequence = 4"], "entry 4: The ledger cannot have written it"),
        (["UPDATE entries SET run_id = 'r2' WHERE sequence = 4"], "entry 4: The columns it is looked up by"),
        (["UPDATE entries SET account = NULL WHERE sequence = 10"], "entry 10: The columns it is looked up by"),
        (["DELETE FROM entries WHERE sequence = 1"], "entry 1: It is gone"),
        (["DELETE FROM entries WHERE sequence = 5"], "entry 5: It is gone"),
        (["DELETE FROM entries WHERE sequence = 10"], "its tree head does not fit"),
        (
            [
                "UPDATE entries SET sequence = 100 WHERE sequence = 2",
                "UPDATE entries SET sequence = 2 WHERE sequence = 5",
                "UPDATE entries SET sequence = 5 WHERE sequence = 100",
            ],
            "entry 5: It stands at place 2",
        ),
        (
            [
                "INSERT INTO entries SELECT 11, kind, account, period, run_id, subject, body, hash FROM entries "
                "WHERE sequence = 10"
            ],
            "entry 10: It stands at place 10, and is there more than once",
        ),
        (["DELETE FROM head"], "its tree head does not fit"),
        (["UPDATE head SET frontier = replace(frontier, '0', '1')"], "its tree head does not fit"),
        (['UPDATE head SET signed = replace(signed, \'"at":"2\', \'"at":"1\')'], "not signed by the ledger's key"),
        (["DROP TABLE entries", "CREATE TABLE entries (sequence INTEGER)"], "cannot be used"),
    ],
)
def test_tampering_shows(path: Path, statements: list[str], message: str) -> None:
    with Ledger(path, clock=lambda: datetime(2025, 11, 3, 12, tzinfo=UTC)) as ledger:
        fill(ledger)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER entries_keep_update")
        raw.execute("DROP TRIGGER entries_keep_delete")
        for statement in statements:
            assert raw.execute(statement).rowcount != 0
    with Ledger(path) as ledger:
        for call in (ledger.entries, ledger.balances, ledger.runs, lambda: ledger.inclusion_proofs([1])):
            with pytest.raises(LedgerError, match=message):
                call()


@pytest.mark.parametrize(
    "statement",
    [
        EDIT,
        "UPDATE entries SET body = CAST(body AS BLOB) WHERE sequence = 10",
        "UPDATE entries SET body = '7' WHERE sequence = 10",
        "UPDATE entries SET period = 'x' WHERE sequence = 10",
        "DELETE FROM entries WHERE sequence = 10",
        "DELETE FROM head",
    ],
)
def test_an_operation_refuses_what_it_reads_of_a_changed_record(path: Path, statement: str) -> None:
    """Whatever an operation builds on is checked: its run, its account's newest entry, the tree."""
    with Ledger(path) as ledger:
        fill(ledger)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER entries_keep_update")
        raw.execute("DROP TRIGGER entries_keep_delete")
        if "BLOB" in statement:  # STRICT refuses another type; an editor of the file would not ask
            with pytest.raises(sqlite3.IntegrityError, match="cannot store BLOB"):
                raw.execute(statement)
            return
        raw.execute(statement)
    with Ledger(path) as ledger:
        if statement == EDIT:
            with pytest.raises(LedgerCorrupt, match="entry 2 is not what was recorded"):
                ledger.draw("r0")
        else:
            with pytest.raises(LedgerCorrupt, match=r"not what was recorded|does not fit"):
                ledger.reserve("new", ACCOUNT, "s/v1/x", SMALL)


def _database(ledger: Ledger) -> sqlite3.Connection:
    """The connection of a ledger in SQLite."""
    assert isinstance(ledger._store, SqliteStore)
    return ledger._store._database


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look at" * 40, b"SQLite format 3\0" + b"\1" * 200]
)
def test_a_file_that_is_no_ledger(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match="restore it from a backup"):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_damaged_page(path: Path) -> None:
    with Ledger(path) as ledger:
        for k in range(100):
            ledger.refuse(None, f"s{k}", "x" * 500)
        _database(ledger).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = bytearray(path.read_bytes())
    for start in range(4096 * 2, len(damaged), 4096):
        damaged[start : start + 100] = b"\xff" * 100
    path.write_bytes(bytes(damaged))
    with Ledger(path) as ledger, pytest.raises(LedgerError, match=r"malformed|cannot be"):
        ledger.entries()


def test_a_place_where_no_ledger_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LedgerError, match="the ledger's folder cannot be made"):
        Ledger(tmp_path / "file" / "ledger.db")
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(LedgerError, match="unable to open"):
        Ledger(tmp_path / "ledger.db")


def test_entries_are_canonical_and_hold_the_time(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    with closing(sqlite3.connect(path)) as raw:
        for (body,) in raw.execute("SELECT body FROM entries"):
            value = json.loads(body)
            assert body == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            assert value["at"] == "2025-11-03T12:00:00.000+00:00"
