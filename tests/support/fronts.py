"""Servers of a few handlers, for tests: our front, and grpcio's server as the oracle."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc

from serving.admission import WorkerPool
from serving.front import Dispatcher, Front, Limits, MethodTable

Handlers = Mapping[str, Mapping[str, Any]]
"""Service → method → handler."""

UNHURRIED: Final = "[limits]\nqueue_seconds = 5.0\n"
"""For `hedgerow serve` where its queue is not what is tested: on a busy machine a call may wait for a second or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Our front, in this process.

    Attributes:
        address: `host:port`.
        front: what listens.
        dispatcher: what it counts is looked at between calls only.
        pool: its threads.
    """

    address: str
    front: Front
    dispatcher: Dispatcher
    pool: WorkerPool

    def holds(self, size: int) -> bool:
        """Whether so many bytes of answers wait, now or soon: a PING may be answered before a call that came first."""
        return comes_true(lambda: self.dispatcher.held >= size)


@contextmanager
def front_server(handlers: Handlers, **how: Any) -> Iterator[str]:
    """Our front; gives its address. Takes what `running_front` takes."""
    with running_front(handlers, **how) as running:
        yield running.address


@contextmanager
def running_front(
    handlers: Handlers,
    *,
    interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (),
    control: Handlers | None = None,
    limits: Limits | None = None,
    queue_seconds: float = 5.0,
    threads: int = 2,
    tls: Callable[[], ssl.SSLContext] | None = None,
    send_buffer_bytes: int | None = None,
    refused: Callable[[str], None] = lambda _: None,
) -> Iterator[Running]:
    """Our front.

    Args:
        send_buffer_bytes: what the kernel takes of answers that nobody reads, where a test needs it small.
    """
    methods = MethodTable(interceptors)
    for service, own in handlers.items():
        methods.add(service, own)
    for service, own in (control or {}).items():
        methods.add(service, own, control=True)
    pool = WorkerPool(threads, queue_seconds)
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    if send_buffer_bytes is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    dispatcher = Dispatcher(methods, limits or Limits(), pool, queue_seconds, refused, threads)
    front = Front(dispatcher, listening, tls)
    front.start()
    try:
        yield Running(address=address, front=front, dispatcher=dispatcher, pool=pool)
    finally:
        front.stop(1.0)
        pool.close()


@contextmanager
def grpcio_server(handlers: Handlers, *, threads: int = 2) -> Iterator[str]:
    """grpcio's server of the same handlers; gives its address."""
    server = grpc.server(ThreadPoolExecutor(threads))
    for service, own in handlers.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, dict(own)),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(1.0).wait()


def comes_true(holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether something holds, now or soon: what a server's own thread does is seen a moment later."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
