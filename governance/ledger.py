"""The privacy ledger: an append-only record of every reservation, draw and release, and the caps they must fit.

A run passes through RESERVE (before any data is read), DRAW (before the first noisy byte is written) and COMMIT
(after the atomic publish). RELEASE gives a reservation back, and only before DRAW: once noise may have been seen, the
loss has happened. So at every instant `held + spent` bounds what any observer can have learned, and a crash can only
over-count.

    RESERVE ──▶ DRAW ──▶ COMMIT
       └──▶ RELEASE

Entries are canonical JSON, the leaves of a Merkle tree (RFC 6962). Every transaction signs the new tree's head and
publishes it outside the database (`governance.heads`). An operation reads the newest entries of its account and run and
costs O(log n); what reads everything checks everything. Entries hold no user ids, keys or values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from governance.balances import AccountState, Balance, Entry, EntryKind, Request, Run, runs_of
from governance.errors import ConfigError, LedgerCorrupt, LedgerError
from governance.heads import PUBLIC_KEY_FILE, HeadFiles
from governance.keys import load_signing_key, make_signing_key
from governance.privacy import PrivacyLoss
from governance.recording import Recorder, entry_of, stored_tree
from governance.reservations import check_request, hold, known_reservation, open_in, refusal_of
from governance.settings import Account, Settings
from governance.storage import EntryStore
from governance.storage.sqlite import SqliteStore
from governance.verify.entries import Row, RowChecker, Source
from governance.verify.findings import Finding, Problem
from governance.verify.heads import TreeHead, read_public_key
from governance.verify.merkle import Frontier, Tree
from governance.verify.proofs import CONSISTENCY_SCHEMA, INCLUSION_SCHEMA

__all__ = ["Balance", "Entry", "EntryKind", "Ledger", "Request", "Run", "open_ledger"]

KEY_FILE = "ledger.ed25519"
_AFTER = {
    EntryKind.DRAW: EntryKind.RESERVE,
    EntryKind.COMMIT: EntryKind.DRAW,
    EntryKind.RELEASE: EntryKind.RESERVE,
}
_RESTORE = "run 'hedgerow ledger verify' to see all that is wrong, and restore the ledger from a backup"


def _utc_now() -> datetime:
    return datetime.now(UTC)


def open_ledger(settings: Settings, *, clock: Callable[[], datetime] = _utc_now) -> Ledger:
    """The project's ledger: SQLite in its state folder, or PostgreSQL where `[ledger] url` names one.

    Raises:
        LedgerError: the database cannot be used.
        LedgerCorrupt: it is not a ledger.
    """
    heads = HeadFiles(settings.state_dir, settings.ledger.witnesses)
    key_path = settings.keys_dir / KEY_FILE
    if settings.ledger.url is None:
        return Ledger(settings.ledger_path, heads=heads, key_path=key_path, clock=clock)
    from governance.storage.postgres import PostgresStore

    return Ledger(PostgresStore(settings.ledger.url), heads=heads, key_path=key_path, clock=clock)


class Ledger:
    """The ledger in one store. Safe for many processes; one instance per thread.

    Args:
        target: an SQLite file (made if absent), or a store.
        heads: where signed heads are published; None: the file's folder.
        key_path: the signing key; None: `keys/ledger.ed25519` beside the file.
        clock: gives the current aware UTC time.

    Raises:
        LedgerError: the database cannot be used.
        LedgerCorrupt: it is not a ledger.
    """

    def __init__(
        self,
        target: Path | EntryStore,
        *,
        heads: HeadFiles | None = None,
        key_path: Path | None = None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._clock = clock
        if isinstance(target, Path):
            self._store: EntryStore = SqliteStore(target)
            heads = heads or HeadFiles(target.parent)
            key_path = key_path or target.parent / "keys" / KEY_FILE
        else:
            self._store = target
        if heads is None or key_path is None:
            raise LedgerError("a ledger in a store needs to be told where its heads and its key are")
        self._heads = heads
        self._key_path = key_path
        self._private_key: Ed25519PrivateKey | None = None
        self._authentic: TreeHead | None = None

    def close(self) -> None:
        """Closes the database."""
        self._store.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The database's path, or its URL without the password."""
        return self._store.name

    @property
    def head_files(self) -> tuple[Path, ...]:
        """Where signed heads are published, the ledger's own file first."""
        return self._heads.paths

    # --- reading -----------------------------------------------------------------------------------------------

    def entries(self) -> tuple[Entry, ...]:
        """All entries in order, checked: form, place, hash, the signed root over them, and the published heads.

        Raises:
            LedgerCorrupt: an entry was edited, removed or reordered, or the ledger is older than its published heads.
        """
        return self._checked()[0]

    def head(self) -> TreeHead | None:
        """The newest signed head; None before the first entry."""
        with self._store.reading():
            return stored_tree(self._store)[1]

    def balances(self) -> tuple[Balance, ...]:
        """Every opened account's balance, in the order of opening; of one that renews, its latest period's."""
        accounts: dict[str, AccountState] = {}
        periods: dict[str, dict[str, AccountState]] = {}
        for entry in self.entries():
            if entry.account is not None and entry.state is not None:
                state = accounts[entry.account] = AccountState.from_json(entry.state)
                if entry.period is not None:
                    periods.setdefault(entry.account, {})[entry.period] = state
        found = []
        for name, state in accounts.items():
            booked = periods.get(name, {})
            period = max(booked, default=None)
            found.append(Balance.of(name, state.in_period(booked[period]) if period else state, period))
        return tuple(found)

    def balance(self, account: Account, period: str | None = None) -> Balance:
        """One account's balance; an account never used has spent nothing.

        Args:
            account: which one.
            period: of an account that renews; None: the latest in which something was booked.
        """
        with self._store.reading():
            if period is None and account.renews_days is not None:
                period = max(self._store.periods_of_account(account.name), default=None)
            state = Recorder(self._store, Frontier(), self._clock).balance(account.name, period)
        return Balance.of(account.name, state or AccountState.opened(account.cap, 0, account.renews_days), period)

    def account_state(self, name: str) -> AccountState | None:
        """An account over all its periods, with its cap and the entry that set it; None if it is not open."""
        with self._store.reading():
            return Recorder(self._store, Frontier(), self._clock).account(name)

    def runs(self) -> tuple[Run, ...]:
        """Every run and its latest state, in the order of their first entries."""
        return tuple(runs_of(self.entries()).values())

    def run(self, run_id: str) -> Run | None:
        """One run as it is now."""
        with self._store.reading():
            rows = self._store.of_run(run_id)
        return runs_of(entry_of(row, self.name) for row in rows).get(run_id)

    def runs_of_release(self, release_id: str) -> tuple[Run, ...]:
        """The runs that worked on one release, in the order of their first entries."""
        with self._store.reading():
            rows = self._store.of_subject(release_id)
        return tuple(runs_of(entry_of(row, self.name) for row in rows).values())

    def source(self) -> Source:
        """All rows unchecked, for `governance.verify`. A database file is better read by that module itself."""
        with self._store.reading():
            rows, head, altered = list(self._store.rows()), self._store.head(), self._store.altered()
        return Source(
            name=self.name,
            rows=[_row(row) for row in rows],
            signed_head=head.signed if head else None,
            frontier=head.frontier if head else None,
            findings=[
                Finding(problem=Problem.SCHEMA_CHANGED, subject=self.name, message=f"{what.capitalize()}.")
                for what in altered
            ],
        )

    def public_key(self) -> Ed25519PublicKey:
        """The key that heads are checked with.

        Raises:
            ConfigError: neither the private key nor the published half is there.
        """
        try:
            return self._signing_key().public_key()
        except FileNotFoundError:
            path = self._heads.own / PUBLIC_KEY_FILE
            try:
                return read_public_key(path)
            except (OSError, ValueError):
                raise ConfigError(f"{path}: the ledger's public key is missing; restore it from a witness") from None

    # --- proofs ------------------------------------------------------------------------------------------------

    def inclusion_proofs(self, sequences: Iterable[int]) -> dict[int, dict[str, Any]]:
        """For each entry a document that proves it to be in the signed tree; see `governance.verify.proofs`.

        Raises:
            LedgerError: no such entry.
            LedgerCorrupt: the ledger does not hold together.
        """
        entries, head = self._checked()
        tree = Tree(bytes.fromhex(entry.hash) for entry in entries)
        proofs: dict[int, dict[str, Any]] = {}
        for sequence in sequences:
            if head is None or not 1 <= sequence <= len(entries):
                raise LedgerError(f"{self.name}: found entry {sequence}, allowed: 1 to {len(entries)}")
            proofs[sequence] = {
                "schema": INCLUSION_SCHEMA,
                "entry": entries[sequence - 1].to_json(),
                "head": head.to_json(),
                "path": [node.hex() for node in tree.inclusion_proof(sequence - 1)],
            }
        return proofs

    def consistency_proof(self, old: TreeHead) -> dict[str, Any]:
        """A document that proves an earlier head's tree to be a prefix of the newest one's.

        Raises:
            LedgerError: the ledger has not grown to that head's size.
            LedgerCorrupt: the ledger does not hold together.
        """
        entries, head = self._checked()
        if head is None or old.size > head.size:
            raise LedgerError(f"{self.name}: found a head of {old.size} entries, allowed: up to {len(entries)}")
        tree = Tree(bytes.fromhex(entry.hash) for entry in entries)
        return {
            "schema": CONSISTENCY_SCHEMA,
            "old": old.to_json(),
            "head": head.to_json(),
            "path": [node.hex() for node in tree.consistency_proof(old.size)],
        }

    # --- writing -----------------------------------------------------------------------------------------------

    def open_account(self, account: Account) -> None:
        """Opens an account with its cap; opening it again with the same cap changes nothing.

        Raises:
            ConfigError: it is open with another cap, or renews differently.
        """
        with self.recording() as book:
            open_in(book, account)

    def reserve(self, run_id: str, account: Account, subject: str, loss: PrivacyLoss, period: str | None = None) -> int:
        """Sets one loss aside, or refuses: `reserve_all` of a single request.

        Returns:
            The RESERVE entry's sequence number.
        """
        request = Request(run_id=run_id, account=account, subject=subject, loss=loss, period=period)
        return self.reserve_all((request,))[0]

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
            check_request(request)
        if not unique:
            return ()
        with self.recording() as book:
            for request in unique.values():
                open_in(book, request.account)
            known = {run_id: known_reservation(book, request) for run_id, request in unique.items()}
            fresh = [request for run_id, request in unique.items() if known[run_id] is None]
            refusal = refusal_of(book, fresh)
            if refusal is None:
                for request in fresh:
                    known[request.run_id] = hold(book, request)
        if refusal is not None:
            raise refusal
        return tuple(sequence for request in requests if (sequence := known[request.run_id]) is not None)

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
        with self.recording() as book:
            for entry in book.of_run(run_id):
                if (entry.kind, entry.account, dict(entry.detail)) == (EntryKind.COMMIT, None, detail):
                    return entry.sequence
                raise LedgerError(f"run {run_id}: recorded before with another content; use a new run id")
            about = book.of_subject(subject)
            if any(entry.kind is EntryKind.COMMIT and dict(entry.detail) != detail for entry in about):
                raise LedgerError(
                    f"{subject}: committed before with another manifest; restore the release from a backup"
                )
            return book.append(EntryKind.COMMIT, run_id=run_id, subject=subject, detail=detail)

    def refuse(self, account: str | None, subject: str, reason: str, *, rules: Sequence[str] = ()) -> int:
        """Records a request that was refused for another reason than the cap.

        Args:
            account: whose budget it would have used, if any.
            subject: what was asked for.
            reason: why, without values, ids or keys.
            rules: ids of the policy rules that refused.
        """
        detail = {"reason": reason, **({"rules": list(rules)} if rules else {})}
        with self.recording() as book:
            return book.append(EntryKind.REFUSED, account=account, subject=subject, detail=detail)

    def publish_head(self) -> TreeHead | None:
        """Publishes the newest head to every file that lacks it: what a crash may have left undone."""
        with self.recording():
            pass
        return self._authentic

    # --- inside ------------------------------------------------------------------------------------------------

    def _advance(self, run_id: str, kind: EntryKind, detail: dict[str, Any]) -> int:
        with self.recording() as book:
            mine = book.of_run(run_id)
            if not mine:
                raise LedgerError(f"run {run_id}: not in the ledger; reserve first")
            for entry in mine:
                if entry.kind is kind:
                    if dict(entry.detail) == detail or kind is EntryKind.RELEASE:
                        return entry.sequence
                    raise LedgerError(f"run {run_id}: {kind} recorded before with another content")
            first, last = mine[0], mine[-1]
            if last.kind is not _AFTER[kind] or first.account is None:
                raise LedgerError(f"run {run_id}: {kind} needs {_AFTER[kind]} before it, found {last.kind}")
            state = book.balance(first.account, first.period)
            if state is None:
                raise LedgerCorrupt(f"{self.name}: account {first.account} was never opened; {_RESTORE}")
            loss = PrivacyLoss.from_json(first.detail["loss"])
            if kind is EntryKind.DRAW:
                state = state.draw(loss)
            elif kind is EntryKind.RELEASE:
                state = state.give_back(loss)
            return book.append(
                kind,
                account=first.account,
                period=first.period,
                run_id=run_id,
                subject=first.subject,
                detail=detail,
                state=state,
            )

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """One transaction: entries on top of the authentic tree, then one signed head, then its publication.

        Raises:
            LedgerCorrupt: the head is not authentic, or the database is older than what was published.
            ConfigError: the key or a witness is missing.
            LedgerError: the database or a file of heads cannot be used.
        """
        with self._store.writing():
            frontier, head = stored_tree(self._store)
            self._check_head(head)
            self._heads.check(self.name, head, self._heads.newest())
            book = Recorder(self._store, frontier, self._clock)
            yield book
            if book.recorded:
                head = book.seal(self._key_for(head), head)
        self._authentic = head
        if head is not None:
            self._heads.publish(head, self.public_key())

    def _checked(self) -> tuple[tuple[Entry, ...], TreeHead | None]:
        """All entries and the head that signs them."""
        published = self._heads.newest()  # read first: another process may record and publish while we read
        with self._store.reading():
            checker = RowChecker()
            checked = [checker.check(_row(row)) for row in self._store.rows()]
            for finding in (*checker.findings, *checker.places()):
                raise LedgerCorrupt(f"{self.name}: {finding.subject}: {finding.message} {_RESTORE.capitalize()}.")
            frontier, head = stored_tree(self._store)
        derived = Frontier()
        for entry in checked:
            derived = derived.append(entry.leaf)
        if derived != frontier:
            raise LedgerCorrupt(f"{self.name}: its entries are not those that its signed head covers; {_RESTORE}")
        self._check_head(head)
        self._heads.check(self.name, head, published)
        entries = tuple(
            Entry(**{**entry.value, "kind": EntryKind(entry.value["kind"])}, hash=entry.leaf.hex())
            for entry in checked
            if entry.value is not None
        )
        return entries, head

    def _check_head(self, head: TreeHead | None) -> None:
        """Returns if the ledger's key signed the head."""
        if head is not None and head != self._authentic:
            if not head.is_signed_by(self.public_key()):
                raise LedgerCorrupt(f"{self.name}: its head is not signed by the ledger's key; {_RESTORE}")
            self._authentic = head

    def _signing_key(self) -> Ed25519PrivateKey:
        if self._private_key is None:
            self._private_key = load_signing_key(self._key_path)
        return self._private_key

    def _key_for(self, head: TreeHead | None) -> Ed25519PrivateKey:
        """The signing key; made for a new ledger only, so that a lost key is not silently replaced by another."""
        if head is None and self._private_key is None:
            self._private_key = make_signing_key(self._key_path)
        try:
            return self._signing_key()
        except FileNotFoundError:
            raise ConfigError(
                f"{self._key_path}: the ledger's signing key is missing, so nothing was recorded; restore it from a "
                "backup"
            ) from None


def _row(row: tuple[object, ...]) -> Row:
    return Row(sequence=row[0], columns=tuple(row[1:6]), body=row[6], digest=row[7])
