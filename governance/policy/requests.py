"""What a policy is asked: may this release be planned, run or published; may this caller read this view?

Requests are facts, already computed: a decision reads no file, no clock and no data.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Literal

__all__ = ["Action", "ReadRequest", "ReleaseRequest", "Request"]


class Action(StrEnum):
    """When a policy is asked."""

    PLAN = "plan"
    RUN = "run"
    PUBLISH = "publish"
    READ = "read"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRequest:
    """A release that somebody wants to plan, run or publish.

    Attributes:
        action: which of them.
        subject: the release's id, or `name vN` of a definition.
        signal: the definition's name.
        owner: who answers for it.
        description: what it is.
        purpose: what it may be used for.
        datasets: private datasets that it reads; empty for public inputs alone.
        columns: columns that it reads of private datasets, and those that it releases.
        unit: the privacy unit's label; empty for public inputs alone.
        epsilon: of one release, at `epsilon_delta`; infinite if there is no finite one.
        account_epsilon: of everything that the account's cap lets happen (in one period, if it renews), at
            `epsilon_delta`.
        epsilon_delta: the delta at which both are told.
        group_threshold: fewest (noisy) units of a group that is released; None where keys are public, so that every
            key is released with noise whether or not anybody is in it.
        ttl: how long after its window's end a value may be served; zero for public facts that do not age.
        age: time since the window's end, where something is about to be published; None before.
    """

    action: Literal[Action.PLAN, Action.RUN, Action.PUBLISH]
    subject: str
    signal: str
    owner: str
    description: str
    purpose: str
    datasets: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    unit: str = ""
    epsilon: float = 0.0
    account_epsilon: float = 0.0
    epsilon_delta: float = 1e-6
    group_threshold: int | None = None
    ttl: timedelta = timedelta(0)
    age: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """A caller that wants to read.

    Attributes:
        caller: the service's authenticated name; empty if nobody said who it is.
        purpose: what it says it reads for.
        view: a feature view (`genre_weekly_v1`), a vector space or a catalogue.
    """

    caller: str
    purpose: str
    view: str

    @property
    def action(self) -> Action:
        """Always a read."""
        return Action.READ

    @property
    def subject(self) -> str:
        """The view."""
        return self.view


Request = ReleaseRequest | ReadRequest
