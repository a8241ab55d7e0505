"""How much work a server takes on: a bounded queue whose bound follows the server's own speed.

A queue that is longer than its calls' deadlines does work that nobody waits for. So the bound is a time, not a number:
each call that waited tells how fast the queue moves (Little's law: throughput = calls ahead / time waited), and a call
that would wait longer than `queue_seconds` is refused at once with RESOURCE_EXHAUSTED and the time to wait, before its
message is read. When speed drops suddenly, calls that have waited twice as long are refused when their turn comes, so a
queue that became too long is gone at once. Refusals wait for no thread, and health checks have their own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Final

import grpc

from serving.problems import DETAILS_TRAILER, Details, encode_details

__all__ = ["AdmissionInterceptor", "WorkerPool"]

_GAIN: Final = 0.1
_LEAST_AHEAD: Final = 2
"""So many calls ahead make a measurement of throughput."""
_FIRST_WAITING: Final = 64
"""So many may wait until the first measurements."""
_MOST_WAITING: Final = 4_096
_CONTROL: Final = "/grpc.health.v1.Health/"
_RETRY_SECONDS: Final = (0.05, 5.0)


class WorkerPool(ThreadPoolExecutor):
    """The threads that answer, and what is known of the queue before them.

    Args:
        threads: how many.
        queue_seconds: how long a call may wait for a thread.
        initializer: run in each thread first.
    """

    def __init__(self, threads: int, queue_seconds: float, initializer: Callable[[], None] | None = None) -> None:
        super().__init__(threads, thread_name_prefix="serving", initializer=initializer)
        self._queue_seconds = queue_seconds
        self._least = 2 * threads
        self._turn = threading.local()
        self._rate = _FIRST_WAITING / queue_seconds

    @property
    def waiting(self) -> int:
        """Calls that no thread has begun."""
        return self._work_queue.qsize()

    @property
    def most_waiting(self) -> int:
        """So many calls may wait now."""
        return min(_MOST_WAITING, max(self._least, int(self._rate * self._queue_seconds)))

    @property
    def full(self) -> bool:
        """Whether the next call would wait too long."""
        return self.waiting >= self.most_waiting

    @property
    def overdue(self) -> bool:
        """Asked by a call on its thread: whether it has waited so long that it is better refused than answered."""
        waited: float = getattr(self._turn, "waited", 0.0)
        return waited > 2 * self._queue_seconds

    @property
    def retry_seconds(self) -> float:
        """After about this time, what waits now is done."""
        least, most = _RETRY_SECONDS
        return min(most, max(least, self.waiting / self._rate))

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queues a call, and notes when and behind how many."""
        return super().submit(self._run, time.monotonic(), self.waiting, function, args, kwargs)

    def _run(
        self, since: float, ahead: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        waited = max(time.monotonic() - since, 1e-6)
        self._turn.waited = waited
        if waited > 2 * self._queue_seconds:
            self._rate = max(
                self._rate * (1 - _GAIN), 1.0
            )  # refusals empty the queue fast and say nothing of the speed
        elif ahead >= _LEAST_AHEAD:
            self._rate += _GAIN * (ahead / waited - self._rate)
        return function(*args, **kwargs)


class _AtOnce(ThreadPoolExecutor):
    """Runs what is submitted in the submitting thread. gRPC takes thread pools only."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the future carries it, as a pool's would
            done.set_exception(error)
        return done


@lru_cache(maxsize=64)
def _refusal(seconds: float) -> tuple[str, tuple[tuple[str, bytes], ...]]:
    """Message and trailer of a refusal, made once: refusals must stay cheap."""
    message = f"the server is overloaded; try again in {seconds:g} s"
    details = encode_details(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message, Details(retry_seconds=seconds))
    return message, ((DETAILS_TRAILER, details),)


class AdmissionInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Refuses calls while the pool is full, and answers health checks whatever it is.

    Args:
        pool: the server's.
        refused: told the method of each call that was refused.
    """

    def __init__(self, pool: WorkerPool, refused: Callable[[str], None] = lambda _: None) -> None:
        self._pool = pool
        self._refused = refused
        self._aside = ThreadPoolExecutor(2, thread_name_prefix="serving-aside")
        self._health: dict[str, Any] = {}

        def refuse(_requests: Any, context: grpc.ServicerContext) -> Any:
            message, trailer = _refusal(round(pool.retry_seconds, 1) or 0.05)
            context.set_trailing_metadata(trailer)
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)

        # A handler of streams is called without waiting for the request's message, whatever the client sends.
        # And as it waits for nothing, it runs where the call is noticed, which saves the way to another thread.
        refuse.experimental_thread_pool = _AtOnce(1)  # type: ignore[attr-defined]
        self._refuse = grpc.stream_stream_rpc_method_handler(refuse)

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.ServerInterceptor`."""
        if details.method.startswith(_CONTROL):
            return self._set_aside(details.method, continuation(details))
        if self._pool.full:
            self._refused(details.method)
            return self._refuse
        return continuation(details)

    def close(self) -> None:
        """Ends the threads once they are idle."""
        self._aside.shutdown(wait=False)

    def _set_aside(self, method: str, handler: Any) -> Any:
        """A health check's handler, run by the threads aside."""
        if handler is None or handler.unary_unary is None:
            return handler
        if (known := self._health.get(method)) is None:

            def behavior(request: Any, context: grpc.ServicerContext) -> Any:
                return handler.unary_unary(request, context)

            behavior.experimental_thread_pool = self._aside  # type: ignore[attr-defined]
            known = self._health[method] = handler._replace(unary_unary=behavior)
        return known
