"""Refused requests on their way into the ledger, so that a reviewer sees what was tried."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from governance.errors import PolicyRefused
from governance.ledger import Ledger
from governance.policy.decisions import Decision

__all__ = ["RefusalRecorder", "enforce"]


def enforce(ledger: Ledger, decisions: Iterable[tuple[Decision, str | None]]) -> None:
    """Lets everything pass that is allowed; else records every refusal in the ledger and raises for all of them.

    Args:
        ledger: takes the REFUSED entries.
        decisions: each with the account that would have paid, or None.

    Raises:
        PolicyRefused: some decision refuses.
    """
    refused = [(decision, account) for decision, account in decisions if not decision.allowed]
    for decision, account in refused:
        ledger.refuse(account, decision.subject, recorded_reason(decision))
    if refused:
        raise PolicyRefused(tuple((str(d.action), d.subject, d.rules, d.explanation) for d, _ in refused))


def recorded_reason(decision: Decision) -> str:
    """What the ledger keeps of a refusal: action, rule ids and what was found; names and numbers of rules only."""
    return f"policy refuses to {decision.action}: {decision.explanation}"


class RefusalRecorder:
    """Records refused reads: each kind of refusal once, however often it is tried.

    A caller that asks ten thousand times a second must not be able to fill the ledger, so only the first refusal of a
    (caller, purpose, view) is recorded, and no more than `most` kinds for as long as the process lives.

    Args:
        record: writes one entry: subject and reason.
        most: how many kinds are recorded.
    """

    def __init__(self, record: Callable[[str, str], None], *, most: int = 1000) -> None:
        self._record = record
        self._most = most
        self._lock = threading.Lock()
        self._known: set[tuple[str, str]] = set()

    def __call__(self, decision: Decision) -> bool:
        """Records a refusal unless one like it was recorded before.

        Returns:
            Whether an entry was written.
        """
        key = (decision.subject, decision.explanation)
        with self._lock:
            if decision.allowed or key in self._known or len(self._known) >= self._most:
                return False
            self._known.add(key)
        self._record(decision.subject, recorded_reason(decision))
        return True
