"""Carries a ledger of the first format (a hash chain without balances or heads) over to the present one, atomically.

Every entry keeps its number, kind, time, run, subject and detail, so manifests still name the right entries. The new
database is written beside the old one and takes its name in one rename; the old file stays as `ledger.format-1.db`.
A crash leaves the old ledger in force, and the migration can be run again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from governance.balances import AccountState, EntryKind
from governance.canonical import sha256_hex
from governance.errors import LedgerCorrupt, LedgerError
from governance.files import sync_directory
from governance.heads import HeadFiles
from governance.keys import make_signing_key
from governance.privacy import PrivacyLoss
from governance.recording import Recorder
from governance.storage.sqlite import SqliteStore
from governance.verify.merkle import Frontier

__all__ = ["migrate"]

_GENESIS = "0" * 64


def _utc_now() -> datetime:
    return datetime.now(UTC)


def migrate(path: Path, *, heads: HeadFiles, key_path: Path, clock: Callable[[], datetime] = _utc_now) -> int:
    """Migrates the database at `path` and publishes its first signed head.

    Returns:
        How many entries were carried over.

    Raises:
        LedgerError: it is not of the first format, or in use.
        LedgerCorrupt: its hash chain is broken; nothing was changed.
    """
    kept, fresh = path.with_name("ledger.format-1.db"), path.with_name(f".{path.name}.migrating")
    old = _read(path)
    for leftover in (fresh, *(fresh.with_name(fresh.name + end) for end in ("-wal", "-shm"))):
        leftover.unlink(missing_ok=True)
    store = SqliteStore(fresh)
    try:
        with store.writing():
            at = [clock()]
            book = Recorder(store, Frontier(), lambda: at[0])
            for value in old:
                at[0] = datetime.fromisoformat(value["at"])
                _carry(book, value)
            at[0] = clock()
            key = make_signing_key(key_path)
            head = book.seal(key, None) if old else None
    finally:
        store.close()
    _sync(fresh)
    kept.unlink(missing_ok=True)
    os.link(path, kept)
    fresh.replace(path)
    sync_directory(path.parent)
    if head is not None:
        heads.publish(head, key.public_key())
    return len(old)


def _read(path: Path) -> list[dict[str, Any]]:
    """The old entries, with their chain checked, from a database that nobody else has open."""
    if not path.is_file():
        raise LedgerError(f"{path}: there is no ledger; nothing to migrate")
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as database:
            names = {row[1] for row in database.execute("PRAGMA table_info(entries)")}
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version != 0 or names != {"sequence", "body", "hash"}:
                raise LedgerError(f"{path}: not a ledger of the first format; nothing to migrate")
            database.execute("PRAGMA journal_mode=DELETE")  # refused while another process has it open
            rows = database.execute("SELECT sequence, body, hash FROM entries ORDER BY sequence").fetchall()
    except sqlite3.OperationalError as error:
        raise LedgerError(f"{path}: in use or not readable ({error}); stop every run and try again") from None
    except sqlite3.DatabaseError as error:
        raise LedgerCorrupt(f"{path}: not a ledger database ({error}); restore it from a backup") from None
    previous, entries = _GENESIS, []
    for position, (sequence, body, digest) in enumerate(rows, start=1):
        value = json.loads(body) if isinstance(body, str) and sha256_hex(body.encode()) == digest else None
        if value is None or (sequence, value["sequence"], value["previous"]) != (position, position, previous):
            raise LedgerCorrupt(
                f"{path}: entry {position} does not match its hash chain; restore the ledger from a backup; nothing "
                "was changed"
            )
        previous = digest
        entries.append(value)
    return entries


def _carry(book: Recorder, value: Mapping[str, Any]) -> None:
    """Appends one old entry, with the balance that it leads to."""
    kind, account, detail = EntryKind(value["kind"]), value["account"], value["detail"]
    state: AccountState | None = None
    if kind is EntryKind.OPEN:
        detail = {"cap": detail["cap"], "renews": None}
        state = AccountState.opened(PrivacyLoss.from_json(detail["cap"]), book.next_sequence, None)
    elif account is not None and kind is not EntryKind.REFUSED:
        before = book.account(account)
        if before is None:
            raise LedgerCorrupt(f"entry {value['sequence']}: account {account} was never opened; nothing was changed")
        first = book.of_run(value["run_id"])
        loss = PrivacyLoss.from_json((first[0].detail if first else detail)["loss"])
        steps = {EntryKind.RESERVE: before.hold, EntryKind.DRAW: before.draw, EntryKind.RELEASE: before.give_back}
        state = steps[kind](loss) if kind in steps else before
    book.append(kind, subject=value["subject"], detail=detail, account=account, run_id=value["run_id"], state=state)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
