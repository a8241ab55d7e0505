"""How much work a server takes on: bounded queues whose bound follows the server's own speed.

A queue that is longer than its calls' deadlines does work that nobody waits for. So the bound is a time, not a number:
each call that waited tells how fast the queue moves (Little's law: throughput = calls ahead / time waited), and a call
that would wait longer than `queue_seconds` is refused at once with RESOURCE_EXHAUSTED and the time to wait. When speed
drops suddenly, calls that have waited twice as long are refused when their turn comes, so a queue that became too long
is gone at once.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import grpc

from serving.problems import DETAILS_TRAILER, Details, encode_details

__all__ = ["QueueSpeed", "WorkerPool", "refusal"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_GAIN: Final = 0.1
_LEAST_AHEAD: Final = 2
"""So many calls ahead make a measurement of throughput."""
_FIRST_WAITING: Final = 64
"""So many may wait until the first measurements."""
_MOST_WAITING: Final = 4_096
_RETRY_SECONDS: Final = (0.05, 5.0)


class QueueSpeed:
    """How fast a queue moves, and so how long it may be.

    Args:
        queue_seconds: how long a call may wait in it.
        least: so many may wait at any speed.

    Attributes:
        most_waiting: so many calls may wait now.
    """

    def __init__(self, queue_seconds: float, least: int = 16) -> None:
        self._queue_seconds = queue_seconds
        self._least = least
        self._moves(_FIRST_WAITING / queue_seconds)

    def retry_seconds(self, waiting: int) -> float:
        """After about this time, so many calls are done."""
        least, most = _RETRY_SECONDS
        return min(most, max(least, waiting / self._rate))

    def note(self, ahead: int, waited: float) -> None:
        """A call's turn has come.

        Args:
            ahead: how many were before it when it came.
            waited: seconds since.
        """
        if waited > 2 * self._queue_seconds:
            # refusals empty the queue fast and say nothing of the speed
            self._moves(max(self._rate * (1 - _GAIN), 1.0))
        elif ahead >= _LEAST_AHEAD:
            self._moves(self._rate + _GAIN * (ahead / max(waited, 1e-6) - self._rate))

    def _moves(self, rate: float) -> None:
        """The queue moves by so many calls a second."""
        self._rate = rate
        self.most_waiting = min(_MOST_WAITING, max(self._least, int(rate * self._queue_seconds)))


class WorkerPool:
    """The threads that answer what takes long, and what is known of the queue before them.

    Args:
        threads: how many.
        queue_seconds: how long a call may wait for a thread.
        initializer: run in each thread first.
    """

    def __init__(self, threads: int, queue_seconds: float, initializer: Callable[[], None] | None = None) -> None:
        self._work: queue.SimpleQueue[tuple[float, int, Callable[..., None], tuple[Any, ...]] | None]
        self._work = queue.SimpleQueue()
        self._most_waited = 2 * queue_seconds
        self._speed = QueueSpeed(queue_seconds, 2 * threads)
        self._turn = threading.local()
        self._initializer = initializer
        self._threads = [threading.Thread(target=self._serve, name=f"serving-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Calls that no thread has begun."""
        return self._work.qsize()

    @property
    def most_waiting(self) -> int:
        """So many calls may wait now."""
        return self._speed.most_waiting

    @property
    def full(self) -> bool:
        """Whether the next call would wait too long."""
        return self._work.qsize() >= self._speed.most_waiting

    @property
    def overdue(self) -> bool:
        """Asked by a call on its thread: whether it has waited so long that it is better refused than answered."""
        waited: float = getattr(self._turn, "waited", 0.0)
        return waited > self._most_waited

    @property
    def retry_seconds(self) -> float:
        """After about this time, what waits now is done."""
        return self._speed.retry_seconds(self.waiting)

    def submit(self, function: Callable[..., None], *args: Any) -> None:
        """Queues a call, and notes when and behind how many. What it raises is logged by its kind."""
        self._work.put((time.monotonic(), self.waiting, function, args))

    def close(self) -> None:
        """Ends the threads once what is queued is done. Idempotent."""
        for _ in self._threads:
            self._work.put(None)

    def _serve(self) -> None:
        if self._initializer is not None:
            self._initializer()
        while (work := self._work.get()) is not None:
            since, ahead, function, args = work
            self._turn.waited = waited = time.monotonic() - since
            self._speed.note(ahead, waited)
            try:
                function(*args)
            except Exception as error:  # noqa: BLE001 - a thread must outlive whatever it is given
                _LOG.error("%s on a serving thread", type(error).__name__)
            del work, function, args  # what a call held is free while its thread waits for the next


def refusal(retry_seconds: float) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Message and trailing metadata of a refusal."""
    message = f"the server is overloaded; try again in {retry_seconds:g} s"
    details = encode_details(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message, Details(retry_seconds=retry_seconds))
    return message, ((DETAILS_TRAILER, details),)
