"""The interface of a store, and the statements that every store shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from governance.verify.entries import COLUMNS

__all__ = ["EntryStore", "StoredEntry", "StoredHead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEntry:
    """One row: the columns that entries are looked up by, the entry's canonical JSON and its leaf hash (hex).

    `account` and `period` are set where the entry states an account's balance.
    """

    sequence: int
    kind: str
    account: str | None
    period: str | None
    run_id: str | None
    subject: str
    body: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHead:
    """The tree over all rows: `Frontier.text` and the signed head's line."""

    frontier: str
    signed: str


_SELECT = f"SELECT {', '.join(COLUMNS)} FROM entries "  # noqa: S608 - constant names


class EntryStore(ABC):
    """Rows of entries and the newest head. One instance per thread.

    Attributes:
        name: what messages call it: a path, or a URL without its password.
    """

    name: str

    @abstractmethod
    def writing(self) -> AbstractContextManager[None]:
        """A transaction with no other writer: all of the block or nothing of it, durable when it ends.

        Raises:
            LedgerError: the database cannot be used; nothing was written.
            LedgerCorrupt: it is not a ledger.
        """

    @abstractmethod
    def reading(self) -> AbstractContextManager[None]:
        """A transaction that sees one moment.

        Raises:
            LedgerError: the database cannot be used.
            LedgerCorrupt: it is not a ledger.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the connection."""

    @abstractmethod
    def _query(self, statement: str, parameters: Sequence[object] = ()) -> Iterator[tuple[object, ...]]:
        """Runs one statement with `?` for parameters."""

    def altered(self) -> tuple[str, ...]:
        """What of the database's own guard against change is missing, in words; inside a transaction."""
        return ()

    # --- inside a transaction ----------------------------------------------------------------------------------

    def append(self, entry: StoredEntry) -> None:
        """Adds a row."""
        marks = ", ".join("?" for _ in COLUMNS)
        statement = f"INSERT INTO entries ({', '.join(COLUMNS)}) VALUES ({marks})"  # noqa: S608 - constant names
        self._run(statement, tuple(getattr(entry, name) for name in COLUMNS))

    def head(self) -> StoredHead | None:
        """The newest head; None before the first entry."""
        for frontier, signed in self._query("SELECT frontier, signed FROM head"):
            return StoredHead(frontier=str(frontier), signed=str(signed))
        return None

    def put_head(self, head: StoredHead) -> None:
        """Replaces the newest head."""
        self._run("DELETE FROM head")
        self._run("INSERT INTO head (one, frontier, signed) VALUES (1, ?, ?)", (head.frontier, head.signed))

    def size(self) -> int:
        """The largest sequence number; 0 without entries."""
        for (size,) in self._query("SELECT coalesce(max(sequence), 0) FROM entries"):
            return int(str(size))
        return 0

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Every row in order, `COLUMNS` as they are found."""
        return self._query(_SELECT + "ORDER BY sequence")

    def row(self, sequence: int) -> tuple[object, ...] | None:
        """One row."""
        return next(self._query(_SELECT + "WHERE sequence = ?", (sequence,)), None)

    def newest_of_account(self, account: str) -> tuple[object, ...] | None:
        """The last row that states this account's balance."""
        return next(self._query(_SELECT + "WHERE account = ? ORDER BY sequence DESC LIMIT 1", (account,)), None)

    def newest_of_period(self, account: str, period: str) -> tuple[object, ...] | None:
        """The last row that states this account's balance in one of its periods."""
        statement = _SELECT + "WHERE account = ? AND period = ? ORDER BY sequence DESC LIMIT 1"
        return next(self._query(statement, (account, period)), None)

    def periods_of_account(self, account: str) -> tuple[str, ...]:
        """Every period in which something was booked, sorted."""
        statement = "SELECT DISTINCT period FROM entries WHERE account = ? AND period IS NOT NULL ORDER BY period"
        return tuple(str(period) for (period,) in self._query(statement, (account,)))

    def of_run(self, run_id: str) -> tuple[tuple[object, ...], ...]:
        """A run's rows in order."""
        return tuple(self._query(_SELECT + "WHERE run_id = ? ORDER BY sequence", (run_id,)))

    def of_subject(self, subject: str) -> tuple[tuple[object, ...], ...]:
        """A release's rows in order."""
        return tuple(self._query(_SELECT + "WHERE subject = ? ORDER BY sequence", (subject,)))

    def _run(self, statement: str, parameters: Sequence[object] = ()) -> None:
        for _ in self._query(statement, parameters):
            pass
