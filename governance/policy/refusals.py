"""Refused requests on their way into the ledger, so that a reviewer sees what was tried."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence

from governance.errors import LedgerError, PolicyRefused
from governance.ledger import Ledger, open_ledger
from governance.policy.decisions import Decision
from governance.settings import Settings

__all__ = ["RefusalRecorder", "enforce", "record_refusal", "record_refusals"]

_LOG = logging.getLogger("hedgerow.policy")


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
        record_refusal(ledger, decision, account)
    if refused:
        raise PolicyRefused(tuple((str(d.action), d.subject, d.rules, d.explanation) for d, _ in refused))


def record_refusal(ledger: Ledger, decision: Decision, account: str | None = None) -> int:
    """Writes one REFUSED entry: action, subject, rule ids and what was found; nothing of anybody's data.

    Returns:
        The entry's sequence number.
    """
    return ledger.refuse(account, decision.subject, _reason(decision), rules=decision.rules)


def record_refusals(ledger: Ledger, decisions: Sequence[Decision]) -> None:
    """Records refusals that the ledger does not hold yet: a publication that is tried every hour is refused once."""
    if not decisions:
        return
    known = {(entry.subject, entry.detail.get("reason")) for entry in ledger.entries() if entry.detail.get("rules")}
    for decision in decisions:
        if (decision.subject, _reason(decision)) not in known:
            record_refusal(ledger, decision)


def _reason(decision: Decision) -> str:
    return f"policy refuses to {decision.action}: {decision.explanation}"


class RefusalRecorder:
    """Records refused reads: each kind of refusal once, however often it is tried.

    A caller that asks ten thousand times a second must not be able to fill the ledger, so only the first refusal of a
    (caller, purpose, view) is recorded, and no more than `most` kinds for as long as the process lives. The audit log
    has a line for every call. Safe to call from many threads. A ledger that cannot be written changes no decision: it
    is logged, and tried again the next time.

    Args:
        record: writes one entry.
        most: how many kinds are recorded.
    """

    def __init__(self, record: Callable[[Decision], object], *, most: int = 1000) -> None:
        self._record = record
        self._most = most
        self._lock = threading.Lock()
        self._known: set[tuple[str, str]] = set()

    @classmethod
    def to_ledger(cls, settings: Settings) -> RefusalRecorder:
        """Records into the project's ledger, which is opened for each entry: they are few, and threads many.

        Where only serving is deployed there is no ledger, and none is made: the audit log is all there is.
        """

        def record(decision: Decision) -> None:
            if settings.ledger.url is None and not settings.ledger_path.is_file():
                return
            with open_ledger(settings) as ledger:
                record_refusal(ledger, decision)

        return cls(record)

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
        try:
            self._record(decision)
        except LedgerError as error:
            _LOG.warning("a refused read could not be recorded (%s); it stays refused", type(error).__name__)
            with self._lock:
                self._known.discard(key)
            return False
        return True
