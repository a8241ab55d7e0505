"""What ledger entries add up to: pure functions from entries to runs and balances."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from governance.errors import LedgerCorrupt
from governance.privacy import PrivacyLoss
from governance.settings import Account

__all__ = ["Balance", "Entry", "EntryKind", "Request", "Run", "balance_of", "runs_of", "shortage"]


class EntryKind(StrEnum):
    """What an entry records."""

    OPEN = "OPEN"
    RESERVE = "RESERVE"
    DRAW = "DRAW"
    COMMIT = "COMMIT"
    RELEASE = "RELEASE"
    REFUSED = "REFUSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger.

    Attributes:
        sequence: 1, 2, 3, ...
        kind: what it records.
        at: ISO 8601 UTC.
        account: `dataset/unit`; None where no account is touched (public inputs).
        run_id: which run; None for OPEN and REFUSED.
        subject: the release's id, or the account's name for OPEN.
        detail: the kind's own fields (`loss`, `cap`, `manifest_sha256`, `reason` ...).
        previous: hash of the entry before.
        hash: SHA-256 of this entry's canonical JSON, `previous` included.
    """

    sequence: int
    kind: EntryKind
    at: str
    account: str | None
    run_id: str | None
    subject: str
    detail: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """An account's state.

    Attributes:
        account: `dataset/unit`.
        cap: what may be spent in all.
        spent: drawn (committed or not): it has happened.
        held: reserved and not yet drawn or given back.
    """

    account: str
    cap: PrivacyLoss
    spent: PrivacyLoss
    held: PrivacyLoss

    @property
    def remaining(self) -> PrivacyLoss:
        """Cap less spent and held; never negative while the ledger's rule holds."""
        return self.cap - self.spent - self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A loss that somebody wants set aside.

    Attributes:
        run_id: unique to one run.
        account: which account pays.
        subject: the release's id.
        loss: what the release will cost.
    """

    run_id: str
    account: Account
    subject: str
    loss: PrivacyLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of one run."""

    run_id: str
    account: str | None
    subject: str
    loss: PrivacyLoss
    state: EntryKind
    manifest_sha256: str | None


def shortage(loss: PrivacyLoss, remaining: PrivacyLoss) -> tuple[str, Decimal, Decimal] | None:
    """The first quantity that does not fit, as (name, requested, remaining)."""
    if loss.rho > remaining.rho:
        return "rho", loss.rho, remaining.rho
    if loss.delta > remaining.delta:
        return "delta", loss.delta, remaining.delta
    return None


def runs_of(entries: tuple[Entry, ...]) -> dict[str, Run]:
    """Every run's latest state, by run id, in the order of their first entries.

    Raises:
        LedgerCorrupt: a run without a loss.
    """
    runs: dict[str, Run] = {}
    for entry in entries:
        if entry.run_id is None:
            continue
        before = runs.get(entry.run_id)
        loss = (
            PrivacyLoss.from_json(entry.detail["loss"]) if "loss" in entry.detail else before.loss if before else None
        )
        if loss is None:
            raise LedgerCorrupt(f"entry {entry.sequence}: run {entry.run_id} never reserved; restore the ledger")
        runs[entry.run_id] = Run(
            run_id=entry.run_id,
            account=entry.account,
            subject=entry.subject,
            loss=loss,
            state=entry.kind,
            manifest_sha256=entry.detail.get("manifest_sha256"),
        )
    return runs


def balance_of(name: str, entries: tuple[Entry, ...]) -> Balance:
    """An opened account's balance."""
    cap = next(
        PrivacyLoss.from_json(entry.detail["cap"])
        for entry in entries
        if entry.kind is EntryKind.OPEN and entry.account == name
    )
    spent = held = PrivacyLoss.zero()
    for run in runs_of(entries).values():
        if run.account != name:
            continue
        if run.state in (EntryKind.DRAW, EntryKind.COMMIT):
            spent = spent + run.loss
        elif run.state is EntryKind.RESERVE:
            held = held + run.loss
    return Balance(account=name, cap=cap, spent=spent, held=held)
