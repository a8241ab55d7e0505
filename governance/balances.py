"""The ledger's values, and the arithmetic of an account: pure, exact.

Every entry about an account states the account as it is after it (`AccountState`), so the newest one is all that the
next operation needs, and a verifier can compare each with what the entries add up to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

from governance.errors import LedgerCorrupt
from governance.privacy import PrivacyLoss
from governance.settings import Account

__all__ = ["AccountState", "Balance", "Entry", "EntryKind", "Request", "Run", "runs_of", "shortage"]


class EntryKind(StrEnum):
    """What an entry records."""

    OPEN = "OPEN"
    RESERVE = "RESERVE"
    DRAW = "DRAW"
    COMMIT = "COMMIT"
    RELEASE = "RELEASE"
    REFUSED = "REFUSED"
    CAP_CHANGE = "CAP-CHANGE"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """An account after an entry.

    Attributes:
        cap: what may be spent: in all, or in each period of an account that renews.
        cap_entry: the entry that set it (OPEN or CAP-CHANGE).
        renews: length of a period in days; None: the account never renews.
        spent: drawn (committed or not); of the entry's period where it has one, else of everything.
        held: reserved and not yet drawn or given back; likewise.
        lifetime_spent: drawn over all periods.
        lifetime_held: held over all periods.
    """

    cap: PrivacyLoss
    cap_entry: int
    renews: int | None
    spent: PrivacyLoss
    held: PrivacyLoss
    lifetime_spent: PrivacyLoss
    lifetime_held: PrivacyLoss

    @classmethod
    def opened(cls, cap: PrivacyLoss, cap_entry: int, renews: int | None) -> AccountState:
        """An account of which nothing is spent."""
        zero = PrivacyLoss.zero()
        return cls(
            cap=cap,
            cap_entry=cap_entry,
            renews=renews,
            spent=zero,
            held=zero,
            lifetime_spent=zero,
            lifetime_held=zero,
        )

    @property
    def remaining(self) -> PrivacyLoss:
        """Cap less spent and held."""
        return self.cap - self.spent - self.held

    def hold(self, loss: PrivacyLoss) -> AccountState:
        """After a RESERVE."""
        return replace(self, held=self.held + loss, lifetime_held=self.lifetime_held + loss)

    def give_back(self, loss: PrivacyLoss) -> AccountState:
        """After a RELEASE."""
        return replace(self, held=self.held - loss, lifetime_held=self.lifetime_held - loss)

    def draw(self, loss: PrivacyLoss) -> AccountState:
        """After a DRAW."""
        given = self.give_back(loss)
        return replace(given, spent=self.spent + loss, lifetime_spent=self.lifetime_spent + loss)

    def in_period(self, newest: AccountState | None) -> AccountState:
        """This account (its newest state) with what is spent and held in one period, whose newest state is given."""
        zero = PrivacyLoss.zero()
        spent, held = (zero, zero) if newest is None else (newest.spent, newest.held)
        return replace(self, spent=spent, held=held)

    def overall(self) -> AccountState:
        """This account with what is spent and held over everything."""
        return replace(self, spent=self.lifetime_spent, held=self.lifetime_held)

    def to_json(self) -> dict[str, Any]:
        """As entries hold it."""
        lifetime = None
        if self.renews is not None:
            lifetime = {"held": self.lifetime_held.to_json(), "spent": self.lifetime_spent.to_json()}
        return {
            "cap": self.cap.to_json(),
            "cap_entry": self.cap_entry,
            "held": self.held.to_json(),
            "lifetime": lifetime,
            "renews": self.renews,
            "spent": self.spent.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AccountState:
        """The inverse of `to_json`."""
        spent, held = PrivacyLoss.from_json(value["spent"]), PrivacyLoss.from_json(value["held"])
        lifetime = value["lifetime"]
        return cls(
            cap=PrivacyLoss.from_json(value["cap"]),
            cap_entry=value["cap_entry"],
            renews=value["renews"],
            spent=spent,
            held=held,
            lifetime_spent=PrivacyLoss.from_json(lifetime["spent"]) if lifetime else spent,
            lifetime_held=PrivacyLoss.from_json(lifetime["held"]) if lifetime else held,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the ledger.

    Attributes:
        sequence: 1, 2, 3, ...
        kind: what it records.
        at: ISO 8601 UTC.
        account: `dataset/unit`; None where no account is touched (public inputs).
        period: first day of the period that is booked, where the account renews.
        run_id: which run; None for OPEN, REFUSED and CAP-CHANGE.
        subject: the release's id, or the account's name for OPEN and CAP-CHANGE.
        detail: the kind's own fields (`loss`, `cap`, `manifest_sha256`, `reason` ...).
        state: the account after this entry; None where no account changes.
        hash: the entry's leaf hash in the Merkle tree, hex.
    """

    sequence: int
    kind: EntryKind
    at: str
    account: str | None
    period: str | None
    run_id: str | None
    subject: str
    detail: Mapping[str, Any]
    state: Mapping[str, Any] | None
    hash: str

    def to_json(self) -> dict[str, Any]:
        """The entry's body: its canonical JSON is the leaf of the Merkle tree."""
        return {
            "account": self.account,
            "at": self.at,
            "detail": self.detail,
            "kind": str(self.kind),
            "period": self.period,
            "run_id": self.run_id,
            "sequence": self.sequence,
            "state": self.state,
            "subject": self.subject,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """What an account has left.

    Attributes:
        account: `dataset/unit`.
        cap: what may be spent in all, or in each period of an account that renews.
        spent: drawn (committed or not): it has happened.
        held: reserved and not yet drawn or given back.
        period: first day of the period that `spent` and `held` are about; None: everything.
        lifetime_spent: drawn over all periods; None where the account does not renew (`spent` is all).
    """

    account: str
    cap: PrivacyLoss
    spent: PrivacyLoss
    held: PrivacyLoss
    period: str | None = None
    lifetime_spent: PrivacyLoss | None = None

    @property
    def remaining(self) -> PrivacyLoss:
        """Cap less spent and held; never negative while the ledger's rule holds."""
        return self.cap - self.spent - self.held

    @classmethod
    def of(cls, account: str, state: AccountState, period: str | None) -> Balance:
        """From an account's state."""
        return cls(
            account=account,
            cap=state.cap,
            spent=state.spent,
            held=state.held,
            period=period,
            lifetime_spent=None if state.renews is None else state.lifetime_spent,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A loss that somebody wants set aside.

    Attributes:
        run_id: unique to one run.
        account: which account pays.
        subject: the release's id.
        loss: what the release will cost.
        period: `Account.period` of the release's window, where the account renews; else None.
    """

    run_id: str
    account: Account
    subject: str
    loss: PrivacyLoss
    period: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of one run."""

    run_id: str
    account: str | None
    subject: str
    loss: PrivacyLoss
    state: EntryKind
    manifest_sha256: str | None
    period: str | None = None


def shortage(loss: PrivacyLoss, remaining: PrivacyLoss) -> tuple[str, Decimal, Decimal] | None:
    """The first quantity that does not fit, as (name, requested, remaining)."""
    if loss.rho > remaining.rho:
        return "rho", loss.rho, remaining.rho
    if loss.delta > remaining.delta:
        return "delta", loss.delta, remaining.delta
    return None


def runs_of(entries: Iterable[Entry]) -> dict[str, Run]:
    """Every run's latest state, by run id, in the order of their first entries.

    Raises:
        LedgerCorrupt: a run without a loss.
    """
    runs: dict[str, Run] = {}
    for entry in entries:
        if entry.run_id is None:
            continue
        before = runs.get(entry.run_id)
        if before is not None:
            loss = before.loss
        elif "loss" in entry.detail:
            loss = PrivacyLoss.from_json(entry.detail["loss"])
        else:
            raise LedgerCorrupt(f"entry {entry.sequence}: run {entry.run_id} never reserved; restore the ledger")
        runs[entry.run_id] = Run(
            run_id=entry.run_id,
            account=entry.account,
            subject=entry.subject,
            loss=loss,
            state=entry.kind,
            manifest_sha256=entry.detail.get("manifest_sha256"),
            period=entry.period,
        )
    return runs
