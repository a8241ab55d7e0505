"""What accounts have lost: over their lifetime, by period, by window and by release, each in rho, delta and epsilon.

Rho and delta add up exactly, and their sum bounds the loss also where later releases were chosen after seeing earlier
ones (a zCDP filter: Whitehouse, Ramdas, Rogers, Wu 2023, Theorem 1). Epsilon is read off by the tight conversion at a
stated delta (`PrivacyLoss.epsilon`). A plan fixed in advance may be told a smaller epsilon by privacy loss
distributions; that is another claim, under another name (`pipelines.fixed_plan`), and never what the ledger charges.

A part's epsilon says what that part alone reveals: epsilons of parts do not add up to the whole's; rho and delta do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from governance.balances import AccountState, Entry, EntryKind, Run, runs_of
from governance.privacy import PrivacyLoss

__all__ = ["FILTER_CLAIM", "AccountView", "LossView", "Part", "account_views"]

FILTER_CLAIM = "zCDP filter: rho and delta add up; holds also for releases chosen after seeing earlier ones"
_SPENT = (EntryKind.DRAW, EntryKind.COMMIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossView:
    """A loss and what it means.

    Attributes:
        loss: exact.
        epsilon: at `epsilon_delta`, rounded up to six decimals; None where delta alone exceeds it.
        epsilon_delta: the reporting delta.
    """

    loss: PrivacyLoss
    epsilon: float | None
    epsilon_delta: float

    @classmethod
    def of(cls, loss: PrivacyLoss, delta: float) -> LossView:
        """The loss with its epsilon at `delta`."""
        epsilon = loss.epsilon(delta)
        return cls(
            loss=loss, epsilon=None if math.isinf(epsilon) else math.ceil(epsilon * 1e6) / 1e6, epsilon_delta=delta
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**self.loss.to_json(), "epsilon": self.epsilon, "epsilon_delta": self.epsilon_delta}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One period, window or release.

    Attributes:
        name: first day of the period, the window's name, or the release's id.
        spent: drawn, published or not.
        runs: how many runs drew noise.
    """

    name: str
    spent: LossView
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """One account.

    Attributes:
        account: `dataset/unit`.
        cap: in all, or in each period.
        renews_days: length of a period; None: it never renews.
        lifetime: spent over everything ever released.
        held: reserved now.
        periods: by period, oldest first; empty where the account does not renew.
        windows: by the window of event time that releases are about, in order.
        releases: by release, in order of their first spend.
    """

    account: str
    cap: LossView
    renews_days: int | None
    lifetime: LossView
    held: PrivacyLoss
    periods: tuple[Part, ...]
    windows: tuple[Part, ...]
    releases: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""

        def parts(items: tuple[Part, ...]) -> list[dict[str, Any]]:
            return [{"name": item.name, "spent": item.spent.to_json(), "runs": item.runs} for item in items]

        return {
            "account": self.account,
            "claim": FILTER_CLAIM,
            "cap": self.cap.to_json(),
            "renews_days": self.renews_days,
            "lifetime": self.lifetime.to_json(),
            "held": self.held.to_json(),
            "periods": parts(self.periods),
            "windows": parts(self.windows),
            "releases": parts(self.releases),
        }


def account_views(entries: Iterable[Entry], delta: float) -> tuple[AccountView, ...]:
    """Every opened account, in the order of opening.

    Args:
        entries: all of the ledger's, checked.
        delta: the reporting delta.
    """
    kept = tuple(entries)
    states: dict[str, AccountState] = {}
    for entry in kept:
        if entry.account is not None and entry.state is not None:
            states[entry.account] = AccountState.from_json(entry.state)
    runs = tuple(runs_of(kept).values())
    return tuple(_view(name, state, runs, delta) for name, state in states.items())


def _view(name: str, state: AccountState, runs: tuple[Run, ...], delta: float) -> AccountView:
    mine = tuple(run for run in runs if run.account == name)
    spent = tuple(run for run in mine if run.state in _SPENT)
    return AccountView(
        account=name,
        cap=LossView.of(state.cap, delta),
        renews_days=state.renews,
        lifetime=LossView.of(_total(spent), delta),
        held=_total(run for run in mine if run.state is EntryKind.RESERVE),
        periods=_parts(spent, lambda run: run.period, delta, ordered=True),
        windows=_parts(spent, lambda run: run.subject.rpartition("/")[2], delta, ordered=True),
        releases=_parts(spent, lambda run: run.subject, delta, ordered=False),
    )


def _parts(runs: tuple[Run, ...], key: Callable[[Run], str | None], delta: float, *, ordered: bool) -> tuple[Part, ...]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        name = key(run)
        if name is not None:
            groups.setdefault(name, []).append(run)
    names = sorted(groups) if ordered else list(groups)
    return tuple(
        Part(name=name, spent=LossView.of(_total(groups[name]), delta), runs=len(groups[name])) for name in names
    )


def _total(runs: Iterable[Run]) -> PrivacyLoss:
    return sum((run.loss for run in runs), PrivacyLoss.zero())
