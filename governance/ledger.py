"""The privacy ledger: an append-only record of every reservation, draw and release, and the caps they must fit.

A run passes through RESERVE (before any data is read), DRAW (before the first noisy byte is written) and COMMIT
(after the atomic publish). RELEASE gives a reservation back, and only before DRAW: once noise may have been seen, the
loss has happened. So at every instant `held + spent` bounds what any observer can have learned, and a crash can only
over-count.

    RESERVE ──▶ DRAW ──▶ COMMIT
       └──▶ RELEASE

Entries are canonical JSON chained by SHA-256. They hold no user ids, keys or values.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from governance.balances import Balance, Entry, EntryKind, Request, Run, balance_of, runs_of, shortage
from governance.canonical import canonical_bytes, sha256_hex
from governance.errors import BudgetExceeded, ConfigError, LedgerCorrupt, LedgerError
from governance.privacy import PrivacyLoss
from governance.settings import Account

__all__ = ["Balance", "Entry", "EntryKind", "Ledger", "Request", "Run"]

_WAL_ATTEMPTS = 600
_GENESIS = "0" * 64
_TABLES = """
CREATE TABLE IF NOT EXISTS entries (
    sequence INTEGER PRIMARY KEY CHECK (sequence > 0),
    body TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE
) STRICT;
CREATE TRIGGER IF NOT EXISTS entries_keep_update BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_keep_delete BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
"""


_AFTER = {
    EntryKind.DRAW: (EntryKind.RESERVE,),
    EntryKind.COMMIT: (EntryKind.DRAW,),
    EntryKind.RELEASE: (EntryKind.RESERVE,),
}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """The ledger in one SQLite file (WAL, `synchronous=FULL`). Safe for many processes; one instance per thread.

    Args:
        path: the database; its folder is made if absent.
        clock: gives the current aware UTC time.

    Raises:
        LedgerCorrupt: the file is not a ledger.
    """

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = _utc_now) -> None:
        self._clock = clock
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"{path}: the ledger's folder cannot be made ({error.strerror}); correct [project] state"
            ) from None
        with self._database_errors():
            self._database = sqlite3.connect(path, timeout=60, isolation_level=None)
            try:
                self._use_wal()
                self._database.execute("PRAGMA synchronous=FULL")
                self._database.executescript(_TABLES)
            except BaseException:
                self._database.close()
                raise

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

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading -----------------------------------------------------------------------------------------------

    def entries(self) -> tuple[Entry, ...]:
        """All entries in order, with the hash chain checked.

        Raises:
            LedgerCorrupt: an entry was edited, removed or reordered.
        """
        with self._database_errors():
            rows = self._database.execute("SELECT sequence, body, hash FROM entries ORDER BY sequence").fetchall()
        previous, parsed = _GENESIS, []
        for position, (sequence, body, digest) in enumerate(rows, start=1):
            if sequence != position:
                raise LedgerCorrupt(f"{self._path}: entry {position} is missing; restore the ledger from a backup")
            entry = self._parse(sequence, body, digest)
            if entry.previous != previous or sha256_hex(body.encode()) != digest:
                raise LedgerCorrupt(
                    f"{self._path}: entry {sequence} does not match its hash chain; restore the ledger from a backup"
                )
            previous = digest
            parsed.append(entry)
        return tuple(parsed)

    def balances(self) -> tuple[Balance, ...]:
        """Every opened account's balance, in the order of opening."""
        entries = self.entries()
        opened = [entry.account for entry in entries if entry.kind is EntryKind.OPEN and entry.account]
        return tuple(balance_of(name, entries) for name in opened)

    def balance(self, account: Account) -> Balance:
        """One account's balance; an account never used has spent nothing."""
        entries = self.entries()
        if any(entry.kind is EntryKind.OPEN and entry.account == account.name for entry in entries):
            return balance_of(account.name, entries)
        return Balance(account=account.name, cap=account.cap, spent=PrivacyLoss.zero(), held=PrivacyLoss.zero())

    def runs(self) -> tuple[Run, ...]:
        """Every run and its latest state, in the order of their first entries."""
        return tuple(runs_of(self.entries()).values())

    # --- writing -----------------------------------------------------------------------------------------------

    def open_account(self, account: Account) -> None:
        """Opens an account with its cap; opening it again with the same cap changes nothing.

        Raises:
            ConfigError: it is open with another cap.
        """
        with self._transaction():
            entries = self.entries()
            for entry in entries:
                if entry.kind is EntryKind.OPEN and entry.account == account.name:
                    cap = PrivacyLoss.from_json(entry.detail["cap"])
                    if cap != account.cap:
                        raise ConfigError(
                            f"account {account.name}: hedgerow.toml says rho={account.cap.rho}, "
                            f"delta={account.cap.delta}, "
                            f"but the ledger opened it with rho={cap.rho}, delta={cap.delta}; restore the old cap"
                        )
                    return
            detail = {"cap": account.cap.to_json()}
            self._append(EntryKind.OPEN, account.name, None, account.name, detail)

    def reserve(self, run_id: str, account: Account, subject: str, loss: PrivacyLoss) -> int:
        """Sets one loss aside, or refuses: `reserve_all` of a single request.

        Returns:
            The RESERVE entry's sequence number.
        """
        return self.reserve_all((Request(run_id=run_id, account=account, subject=subject, loss=loss),))[0]

    def reserve_all(self, requests: Sequence[Request]) -> tuple[int, ...]:
        """Sets the losses of several releases aside, all of them or none. Call before reading any data.

        Args:
            requests: what is asked for; accounts are opened if they are not open yet. Asking again for a run id with
                the same content returns the same entry.

        Returns:
            The RESERVE entries' sequence numbers, in the order of the requests.

        Raises:
            BudgetExceeded: some account cannot carry all of them; a REFUSED entry records the request.
            LedgerError: a loss is negative or not finite, or a run id is known with another content.
        """
        unique = {request.run_id: request for request in requests}
        for request in requests:
            if unique[request.run_id] != request:
                raise LedgerError(f"run {request.run_id}: asked for twice with different content; use a new run id")
            loss = request.loss
            if not all(amount.is_finite() and amount >= 0 for amount in (loss.rho, loss.delta)):
                raise LedgerError(
                    f"{request.subject}: found rho={loss.rho}, delta={loss.delta}, allowed: finite and not negative; "
                    "correct what computed the loss"
                )
            self.open_account(request.account)
        with self._transaction():
            entries = self.entries()
            known = {run_id: self._reserved(request, entries) for run_id, request in unique.items()}
            fresh = [request for run_id, request in unique.items() if known[run_id] is None]
            refusal = self._refusal(fresh, entries)
            if refusal is None:
                for request in fresh:
                    detail = {"loss": request.loss.to_json()}
                    known[request.run_id] = self._append(
                        EntryKind.RESERVE, request.account.name, request.run_id, request.subject, detail
                    )
        if refusal is not None:
            raise refusal
        return tuple(sequence for request in requests if (sequence := known[request.run_id]) is not None)

    def _reserved(self, request: Request, entries: tuple[Entry, ...]) -> int | None:
        """The entry that has recorded this very request, if any."""
        mine = [entry for entry in entries if entry.run_id == request.run_id]
        if not mine:
            return None
        first, loss = mine[0], request.loss.to_json()
        same = (first.account, first.subject, dict(first.detail)) == (
            request.account.name,
            request.subject,
            {"loss": loss},
        )
        if first.kind is not EntryKind.RESERVE or not same:
            raise LedgerError(f"run {request.run_id}: recorded before with another content; use a new run id")
        if mine[-1].kind is EntryKind.RELEASE:
            raise LedgerError(f"run {request.run_id}: its reservation was given back; use a new run id")
        return first.sequence

    def _refusal(self, requests: Sequence[Request], entries: tuple[Entry, ...]) -> BudgetExceeded | None:
        """The first account that cannot carry its share, after recording that it was asked to."""
        for name in dict.fromkeys(request.account.name for request in requests):
            mine = [request for request in requests if request.account.name == name]
            total = sum((request.loss for request in mine), PrivacyLoss.zero())
            remaining = balance_of(name, entries).remaining
            short = shortage(total, remaining)
            if short is not None:
                quantity, requested, left = short
                subject = mine[0].subject if len(mine) == 1 else f"{mine[0].subject} and {len(mine) - 1} more"
                detail = {
                    "loss": total.to_json(),
                    "remaining": remaining.to_json(),
                    "reason": f"{quantity} over the account's cap",
                }
                self._append(EntryKind.REFUSED, name, None, subject, detail)
                return BudgetExceeded(name, subject, quantity, requested, left)
        return None

    def draw(self, run_id: str) -> int:
        """Records that noise is about to be drawn: from here the loss is spent. Idempotent."""
        return self._advance(run_id, EntryKind.DRAW, {})

    def commit(self, run_id: str, manifest_sha256: str) -> int:
        """Records that the release is published whole. Idempotent for the same manifest."""
        return self._advance(run_id, EntryKind.COMMIT, {"manifest_sha256": manifest_sha256})

    def release(self, run_id: str, reason: str) -> int:
        """Gives a reservation back.

        Raises:
            LedgerError: the run has drawn noise; the loss has happened.
        """
        return self._advance(run_id, EntryKind.RELEASE, {"reason": reason})

    def commit_public(self, run_id: str, subject: str, manifest_sha256: str) -> int:
        """Records a release made from public inputs alone: it touches no account. Idempotent for the same manifest.

        Raises:
            LedgerError: the run id is known with another body, or the release with another manifest.
        """
        detail = {"loss": PrivacyLoss.zero().to_json(), "manifest_sha256": manifest_sha256}
        with self._transaction():
            entries = self.entries()
            for entry in entries:
                if entry.run_id == run_id:
                    if (entry.kind, entry.account, dict(entry.detail)) == (EntryKind.COMMIT, None, detail):
                        return entry.sequence
                    raise LedgerError(f"run {run_id}: recorded before with another content; use a new run id")
            if any(e.subject == subject and e.kind is EntryKind.COMMIT and dict(e.detail) != detail for e in entries):
                raise LedgerError(
                    f"{subject}: committed before with another manifest; restore the release from a backup"
                )
            return self._append(EntryKind.COMMIT, None, run_id, subject, detail)

    def refuse(self, account: str | None, subject: str, reason: str) -> int:
        """Records a request that was refused for another reason than the cap."""
        with self._transaction():
            return self._append(EntryKind.REFUSED, account, None, subject, {"reason": reason})

    # --- inside ------------------------------------------------------------------------------------------------

    def _advance(self, run_id: str, kind: EntryKind, detail: dict[str, Any]) -> int:
        with self._transaction():
            entries = self.entries()
            mine = [entry for entry in entries if entry.run_id == run_id]
            if not mine:
                raise LedgerError(f"run {run_id}: not in the ledger; reserve first")
            for entry in mine:
                if entry.kind is kind:
                    if dict(entry.detail) == detail or kind is EntryKind.RELEASE:
                        return entry.sequence
                    raise LedgerError(f"run {run_id}: {kind} recorded before with another content")
            last = mine[-1]
            if last.kind not in _AFTER[kind]:
                allowed = " or ".join(_AFTER[kind])
                raise LedgerError(f"run {run_id}: {kind} needs {allowed} before it, found {last.kind}")
            return self._append(kind, last.account, run_id, last.subject, detail)

    def _append(
        self,
        kind: EntryKind,
        account: str | None,
        run_id: str | None,
        subject: str,
        detail: Mapping[str, Any],
    ) -> int:
        last = self._database.execute("SELECT sequence, hash FROM entries ORDER BY sequence DESC LIMIT 1").fetchone()
        sequence, previous = (last[0] + 1, last[1]) if last else (1, _GENESIS)
        body = canonical_bytes(
            {
                "sequence": sequence,
                "kind": str(kind),
                "at": self._clock().isoformat(timespec="milliseconds"),
                "account": account,
                "run_id": run_id,
                "subject": subject,
                "detail": detail,
                "previous": previous,
            }
        )
        self._database.execute(
            "INSERT INTO entries (sequence, body, hash) VALUES (?, ?, ?)", (sequence, body.decode(), sha256_hex(body))
        )
        return sequence

    def _parse(self, sequence: int, body: str, digest: str) -> Entry:
        try:
            value = json.loads(body)
            if value["sequence"] != sequence:
                raise ValueError("sequence")
            return Entry(**{**value, "kind": EntryKind(value["kind"])}, hash=digest)
        except (ValueError, KeyError, TypeError):
            raise LedgerCorrupt(
                f"{self._path}: entry {sequence} cannot be parsed; restore the ledger from a backup"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block or nothing of it; a full disk rolls back by itself."""
        with self._database_errors():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{self._path}: the ledger's database cannot be used: {error}") from None
        except sqlite3.DatabaseError as error:
            raise LedgerCorrupt(f"{self._path}: not a ledger database ({error}); restore it from a backup") from None
