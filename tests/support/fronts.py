"""Servers of a few handlers, for tests: our front, and grpcio's server as the oracle."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from serving.admission import WorkerPool
from serving.front import Dispatcher, Front, Limits, MethodTable

Handlers = Mapping[str, Mapping[str, Any]]
"""Service → method → handler."""


@contextmanager
def front_server(
    handlers: Handlers,
    *,
    interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = (),
    control: Handlers | None = None,
    limits: Limits | None = None,
    queue_seconds: float = 5.0,
    threads: int = 2,
) -> Iterator[str]:
    """Our front; gives its address."""
    methods = MethodTable(interceptors)
    for service, own in handlers.items():
        methods.add(service, own)
    for service, own in (control or {}).items():
        methods.add(service, own, control=True)
    pool = WorkerPool(threads, queue_seconds)
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    front = Front(Dispatcher(methods, limits or Limits(), pool, queue_seconds, lambda _: None, threads), listening)
    front.start()
    try:
        yield address
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
