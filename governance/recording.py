"""One transaction of the ledger: entries appended to the authentic tree, one signed head for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.balances import AccountState, Entry, EntryKind
from governance.canonical import canonical_bytes
from governance.errors import LedgerCorrupt, LedgerError
from governance.storage import EntryStore, StoredEntry, StoredHead
from governance.verify.entries import columns_of
from governance.verify.heads import NO_PREVIOUS, TreeHead, fingerprint
from governance.verify.merkle import Frontier, leaf_hash

__all__ = ["Recorder", "entry_of", "stored_tree"]

_LONGEST_TEXT = 1000


def entry_of(row: tuple[object, ...], ledger: str) -> Entry:
    """A stored row as an entry, checked against its own hash and its look-up columns.

    Raises:
        LedgerCorrupt: it is not what was recorded.
    """
    sequence, body, digest = row[0], row[6], row[7]
    try:
        if not isinstance(body, str) or leaf_hash(body.encode()).hex() != digest:
            raise ValueError("hash")
        value = json.loads(body)
        if value["sequence"] != sequence or columns_of(value) != row[1:6]:
            raise ValueError("columns")
        return Entry(**{**value, "kind": EntryKind(value["kind"])}, hash=str(digest))
    except (ValueError, KeyError, TypeError):
        raise LedgerCorrupt(
            f"{ledger}: entry {sequence} is not what was recorded; run 'hedgerow ledger verify' and restore the ledger "
            "from a backup"
        ) from None


def stored_tree(store: EntryStore) -> tuple[Frontier, TreeHead | None]:
    """The tree over all entries as the store holds it; its signature is not checked here.

    Raises:
        LedgerCorrupt: frontier, head and number of entries contradict each other.
    """
    stored, size = store.head(), store.size()
    try:
        if stored is None:
            if size:
                raise ValueError("entries without a head")
            return Frontier(), None
        head = TreeHead.from_line(stored.signed)
        frontier = Frontier.from_text(head.size, stored.frontier)
        if frontier.root.hex() != head.root or size != head.size:
            raise ValueError("another tree")
    except ValueError:
        raise LedgerCorrupt(
            f"{store.name}: its tree head does not fit its entries; run 'hedgerow ledger verify' and restore the "
            "ledger from a backup"
        ) from None
    return frontier, head


class Recorder:
    """Appends entries inside one transaction of a store.

    Args:
        store: inside `writing()`.
        frontier: the tree so far, authentic.
        clock: gives the current aware UTC time.
    """

    def __init__(self, store: EntryStore, frontier: Frontier, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._frontier = frontier
        self._clock = clock
        self._accounts: dict[str, AccountState | None] = {}
        self._periods: dict[tuple[str, str], AccountState | None] = {}
        self.recorded = 0

    # --- looking up ----------------------------------------------------------------------------------------------

    def account(self, name: str) -> AccountState | None:
        """An account over everything; None if it is not open."""
        if name not in self._accounts:
            state = self._state(self._store.newest_of_account(name))
            self._accounts[name] = None if state is None else state.overall()
        return self._accounts[name]

    def balance(self, name: str, period: str | None) -> AccountState | None:
        """An account with what is spent and held in one period, or over everything; None if it is not open."""
        overall = self.account(name)
        if overall is None or period is None:
            return overall
        if (name, period) not in self._periods:
            self._periods[name, period] = self._state(self._store.newest_of_period(name, period))
        return overall.in_period(self._periods[name, period])

    def of_run(self, run_id: str) -> list[Entry]:
        """A run's entries in order."""
        return [entry_of(row, self._store.name) for row in self._store.of_run(run_id)]

    def entry(self, sequence: int) -> Entry:
        """One entry.

        Raises:
            LedgerCorrupt: it is not there, or not what was recorded.
        """
        row = self._store.row(sequence)
        if row is None:
            raise LedgerCorrupt(f"{self._store.name}: entry {sequence} is missing; restore the ledger from a backup")
        return entry_of(row, self._store.name)

    def of_subject(self, subject: str) -> list[Entry]:
        """A release's entries in order."""
        return [entry_of(row, self._store.name) for row in self._store.of_subject(subject)]

    def periods(self, account: str) -> tuple[str, ...]:
        """The periods of an account in which something was booked."""
        return self._store.periods_of_account(account)

    def _state(self, row: tuple[object, ...] | None) -> AccountState | None:
        if row is None:
            return None
        entry = entry_of(row, self._store.name)
        return None if entry.state is None else AccountState.from_json(entry.state)

    # --- appending -----------------------------------------------------------------------------------------------

    @property
    def next_sequence(self) -> int:
        """The number that the next entry gets."""
        return self._frontier.size + 1

    def append(
        self,
        kind: EntryKind,
        *,
        subject: str,
        detail: Mapping[str, Any],
        account: str | None = None,
        period: str | None = None,
        run_id: str | None = None,
        state: AccountState | None = None,
    ) -> int:
        """Appends one entry and returns its number.

        Raises:
            LedgerError: a text that a ledger does not take.
        """
        for text in (account, period, run_id, subject):
            if text is not None and (len(text) > _LONGEST_TEXT or not text.isprintable()):
                raise LedgerError(
                    f"{str(kind).lower()}: names and ids: allowed: up to {_LONGEST_TEXT} printable characters; "
                    "correct the name"
                )
        entry = Entry(
            sequence=self.next_sequence,
            kind=kind,
            at=self._clock().isoformat(timespec="milliseconds"),
            account=account,
            period=period,
            run_id=run_id,
            subject=subject,
            detail=detail,
            state=None if state is None else state.to_json(),
            hash="",
        )
        try:
            body = canonical_bytes(entry.to_json())
        except UnicodeEncodeError:
            raise LedgerError(f"{kind}: its texts: allowed: Unicode; correct the text") from None
        leaf = leaf_hash(body)
        stated = state is not None
        self._store.append(
            StoredEntry(
                sequence=entry.sequence,
                kind=str(kind),
                account=account if stated else None,
                period=period if stated else None,
                run_id=run_id,
                subject=subject,
                body=body.decode(),
                hash=leaf.hex(),
            )
        )
        self._frontier = self._frontier.append(leaf)
        self.recorded += 1
        if account is not None and state is not None:
            self._accounts[account] = state.overall()
            if period is not None:
                self._periods[account, period] = state
        return entry.sequence

    def seal(self, key: Ed25519PrivateKey, previous: TreeHead | None) -> TreeHead:
        """Signs the tree as it is now and stores the head.

        Args:
            key: the ledger's.
            previous: the head before; None for the first.
        """
        unsigned = TreeHead(
            size=self._frontier.size,
            root=self._frontier.root.hex(),
            at=self._clock().isoformat(timespec="milliseconds"),
            key=fingerprint(key.public_key()),
            previous=NO_PREVIOUS if previous is None else previous.digest,
        )
        head = replace(unsigned, signature=key.sign(unsigned.signed_bytes()).hex())
        self._store.put_head(StoredHead(frontier=self._frontier.text, signed=head.to_line()))
        return head
