"""Entries in one SQLite file: WAL, `synchronous=FULL`, STRICT tables, triggers against change."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from governance.errors import LedgerCorrupt, LedgerError
from governance.storage.store import EntryStore
from governance.verify.entries import APPLICATION_ID, FORMAT, SQLITE_SCHEMA

__all__ = ["SqliteStore"]

_WAL_ATTEMPTS = 600
_OLD_FORMAT = (
    "{path}: this ledger was written by hedgerow 0.1 in its first format; run 'hedgerow ledger migrate', which carries "
    "every entry over and keeps the old table"
)


class SqliteStore(EntryStore):
    """One file. Safe for many processes of one machine.

    Args:
        path: the database; its folder is made if absent.

    Raises:
        LedgerError: it cannot be opened, or is of an earlier format.
        LedgerCorrupt: the file is not a ledger.
    """

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"{path}: the ledger's folder cannot be made ({error.strerror}); correct [project] state"
            ) from None
        with self._errors():
            self._database = sqlite3.connect(path, timeout=60, isolation_level=None)
            try:
                self._use_wal()
                self._database.execute("PRAGMA synchronous=FULL")
                self._make_tables()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time; a full disk rolls back by itself."""
        with self._transaction("BEGIN IMMEDIATE"):
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One moment of the database."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with self._errors():
            self._database.execute(begin)
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def _query(self, statement: str, parameters: Sequence[object] = ()) -> Iterator[tuple[object, ...]]:
        yield from self._database.execute(statement, parameters)

    def _use_wal(self) -> None:
        """Where several open a new ledger at once, the switch to WAL does not wait for its turn: it is tried again."""
        for remaining in reversed(range(_WAL_ATTEMPTS)):
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or not remaining:
                    raise
                time.sleep(0.1)
            else:
                return

    def _make_tables(self) -> None:
        """Makes what a new ledger has; what an existing one has must be this format's."""
        if self._format() == FORMAT:
            return
        with self._transaction("BEGIN IMMEDIATE"):
            found, tables = self._format(), {row[0] for row in self._query("SELECT name FROM sqlite_schema")}
            if found == FORMAT:
                return
            if found == 0 and not tables:
                for statement in SQLITE_SCHEMA.values():
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA application_id={APPLICATION_ID}")
                self._database.execute(f"PRAGMA user_version={FORMAT}")
                return
            if found == 0 and "entries" in tables and "head" not in tables:
                raise LedgerError(_OLD_FORMAT.format(path=self.name))
            raise LedgerCorrupt(
                f"{self.name}: not a ledger database of format {FORMAT} (found format {found}); restore it from a "
                "backup, or use the version of hedgerow that wrote it"
            )

    def _format(self) -> int:
        (found,) = self._database.execute("PRAGMA user_version").fetchone()
        return int(found)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{self.name}: the ledger's database cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise LedgerCorrupt(f"{self.name}: not a ledger database ({error}); restore it from a backup") from None
