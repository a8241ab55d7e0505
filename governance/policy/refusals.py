"""Refused requests on their way into the ledger, so that a reviewer sees what was tried."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from governance.errors import HedgerowError, PolicyRefused
from governance.ledger import Ledger, open_ledger
from governance.policy.decisions import Decision
from governance.settings import Settings

__all__ = ["RefusalRecorder", "enforce", "record_refusal", "record_refusals"]

_LOG: Final = logging.getLogger("hedgerow.policy")
_RETRY_SECONDS: Final = (1.0, 60.0)
_CLOSING_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.02
"""Between two entries: signing takes the interpreter from those who are served."""

Record = Callable[[Decision, bool], object]
"""Writes one entry; told whether that was tried before, when it may have been written all the same."""


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
    """Records refused reads, on a thread of its own: each kind of refusal once, however often it is tried.

    A caller that asks ten thousand times a second must be able neither to fill the ledger nor to hold others up. So
    only the first refusal of a (caller, purpose, view) is recorded, no more than `most` kinds for as long as the
    process lives, and whoever is refused never waits for it. The audit log has a line for every call. A ledger that
    cannot be written, for whatever reason, changes no decision: that is logged, and tried again until it succeeds.

    Safe to call from many threads. The thread starts with the first refusal.

    Args:
        opened: gives what writes entries, for as long as its context lasts; opened when there is something to write.
        most: how many kinds are recorded.
    """

    def __init__(self, opened: Callable[[], AbstractContextManager[Record]], *, most: int = 1000) -> None:
        self._opened = opened
        self._most = most
        self._lock = threading.Lock()
        self._known: set[tuple[str, str]] = set()
        self._waiting: deque[Decision] = deque()
        self._come = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None
        self._told = ""

    @classmethod
    def to_ledger(cls, settings: Settings) -> RefusalRecorder:
        """Records into the project's ledger, which is opened when there is something to write.

        Where only serving is deployed there is no ledger, and none is made: the audit log is all there is.
        """

        @contextmanager
        def opened() -> Iterator[Record]:
            if settings.ledger.url is None and not settings.ledger_path.is_file():
                yield lambda _decision, _again: None
                return
            with open_ledger(settings) as ledger:

                def record(decision: Decision, again: bool) -> None:
                    if again:
                        record_refusals(ledger, (decision,))
                    else:
                        record_refusal(ledger, decision)

                yield record

        return cls(opened)

    def __call__(self, decision: Decision) -> bool:
        """Takes a refusal unless one like it was taken before. Never waits.

        Returns:
            Whether an entry will be written.
        """
        key = (decision.subject, decision.explanation)
        with self._lock:
            if decision.allowed or key in self._known or len(self._known) >= self._most or self._closing.is_set():
                return False
            self._known.add(key)
            self._waiting.append(decision)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_all, name="refusals", daemon=True)
                self._writer.start()
        self._come.set()
        return True

    def close(self, seconds: float = _CLOSING_SECONDS) -> None:
        """Writes what was taken, if that takes no longer than this. Idempotent."""
        with self._lock:
            self._closing.set()
        self._come.set()
        if self._writer is not None:
            self._writer.join(seconds)
            if left := len(self._waiting):
                _LOG.warning("%d refused reads could not be recorded in the ledger", left)

    def _write_all(self) -> None:
        least, most = _RETRY_SECONDS
        pause = 0.0
        while True:
            self._come.wait()
            last = self._closing.is_set()
            self._come.clear()
            if self._write_waiting(again=pause > 0):
                pause = 0.0
            else:
                pause = min(2 * pause, most) if pause else least
                self._closing.wait(pause)
                self._come.set()
            if last:
                return
            if self._closing.is_set():
                self._come.set()

    def _write_waiting(self, *, again: bool) -> bool:
        """Writes what waits; whether all of it was written."""
        if not self._waiting:
            return True
        try:
            with self._opened() as record:
                while self._waiting:
                    record(self._waiting[0], again)
                    again = False
                    self._waiting.popleft()
                    self._closing.wait(_PAUSE_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever fails, decisions stay and the thread lives
            reason = str(error) if isinstance(error, HedgerowError) else type(error).__name__
            if reason != self._told:
                _LOG.warning("a refused read could not be recorded; it stays refused and is tried again (%s)", reason)
            self._told = reason
            return False
        self._told = ""
        return True
