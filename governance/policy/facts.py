"""A published manifest as a request, so that publishing is decided by what ran, not by what somebody planned."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Literal

from governance.policy.requests import Action, ReleaseRequest
from governance.release import Manifest
from governance.settings import Account, Settings

__all__ = ["account_epsilon", "request_of_manifest"]


def request_of_manifest(
    settings: Settings,
    manifest: Manifest,
    *,
    action: Literal[Action.RUN, Action.PUBLISH] = Action.PUBLISH,
    now: datetime | None = None,
) -> ReleaseRequest:
    """The facts that a policy decides by, as a release's manifest states them.

    Args:
        settings: knows the account's cap.
        manifest: of a release.
        action: what is about to be done with it.
        now: for the age of its window; None where that is not asked.
    """
    guarantee, signal = manifest.guarantee, manifest.signal
    private = [source for source in manifest.inputs if source.access == "private"]
    account = next((a for a in settings.accounts if a.name == manifest.ledger.account), None)
    return ReleaseRequest(
        action=action,
        subject=manifest.release_id,
        signal=signal.name,
        owner=signal.owner,
        description=signal.description,
        purpose=signal.purpose,
        datasets=frozenset(source.dataset for source in private),
        columns=frozenset(name for source in private for name in source.columns)
        | frozenset(column.name for column in manifest.columns),
        unit=guarantee.unit,
        epsilon=math.inf if guarantee.epsilon is None else guarantee.epsilon,
        account_epsilon=account_epsilon(account, guarantee.epsilon_delta) if private else 0.0,
        epsilon_delta=guarantee.epsilon_delta,
        # In whole units, of which each adds 1 at most.
        group_threshold=None if guarantee.threshold is None else math.floor(guarantee.threshold),
        ttl=timedelta(seconds=signal.ttl_seconds),
        age=now - manifest.window_end if now is not None and manifest.window_end is not None else None,
    )


def account_epsilon(account: Account | None, delta: float) -> float:
    """Epsilon of everything that an account's cap lets happen; infinite without an account or a finite epsilon."""
    return math.inf if account is None else account.cap.epsilon(delta)
