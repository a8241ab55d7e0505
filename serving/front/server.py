"""Listens, and runs the event loop on a thread of its own, until it is drained."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from serving.front.connection import Connection
from serving.front.dispatch import Dispatcher

__all__ = ["Front"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_AT_ONCE: Final = 64
_LOOK_SECONDS: Final = 0.2
_FORGIVE_SECONDS: Final = 5.0
_HANDSHAKE_SECONDS: Final = 10.0
_FAREWELL_SECONDS: Final = 3.0
"""A peer may take so long over the last bytes of a TLS connection; some never say that they have them."""
_LEAVE_SECONDS: Final = 1.0
"""After so long a peer that has not answered our PING is told which stream was the last."""
_STOP_SECONDS: Final = 1.0


class Front:
    """A gRPC server on one listening socket.

    Args:
        dispatcher: what is served, and how much of it.
        listening: bound and listening; ours from now on.
        tls: gives the context for the next connection; None: no TLS.
        initializer: run first on the event loop's thread.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        listening: socket.socket,
        tls: Callable[[], ssl.SSLContext] | None = None,
        initializer: Callable[[], None] = lambda: None,
    ) -> None:
        import uvloop

        self._dispatcher = dispatcher
        self._listening = listening
        self._tls = tls
        self._initializer = initializer
        self._loop: Any = uvloop.new_event_loop()
        self._loop.set_exception_handler(_log_fault)
        self._tasks: set[Any] = set()
        self._forgiven = time.monotonic()
        self._draining = False
        self._stopped = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="serving-front", daemon=True)
        dispatcher.loop = self._loop
        listening.setblocking(False)

    def start(self) -> None:
        """Begins to answer."""
        self._loop.call_soon(self._listen)
        self._thread.start()

    def stop(self, grace_seconds: float) -> None:
        """Takes no new connections and calls, lets running ones end, and ends what has not after the grace.

        Idempotent; returns when all is over.
        """
        if not self._stopped.acquire(blocking=False):
            self._thread.join()
            return
        asyncio.run_coroutine_threadsafe(self._drain(grace_seconds), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._initializer()
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    # --- on the event loop --------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._loop.add_reader(self._listening.fileno(), self._accept)
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    _LOG.error("no new connections for a moment: %s", error.strerror)
                    self._loop.remove_reader(self._listening.fileno())
                    self._loop.call_later(0.2, self._accept_again)
                return
            if len(self._dispatcher.connections) + len(self._tasks) >= self._dispatcher.limits.connections:
                # Who has done nothing for longest makes room; where all have calls, the new one is turned away.
                longest = min(self._dispatcher.connections, key=lambda one: one.idle_since, default=None)
                if longest is None or longest.idle_since == math.inf:
                    accepted.close()
                    continue
                longest.abort()
            task = self._loop.create_task(self._welcome(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _accept_again(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    async def _welcome(self, accepted: socket.socket) -> None:
        connection = Connection(self._dispatcher)
        try:
            accepted.setblocking(False)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if accepted.family in (socket.AF_INET, socket.AF_INET6):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure: dict[str, Any] = {}
            if self._tls is not None:
                secure = {
                    "ssl": self._tls(),
                    "ssl_handshake_timeout": _HANDSHAKE_SECONDS,
                    "ssl_shutdown_timeout": _FAREWELL_SECONDS,
                }
            await self._loop.connect_accepted_socket(lambda: connection, accepted, **secure)
        except OSError:
            accepted.close()  # a peer that does not get through TLS, or is gone already
            return
        if self._draining:
            self._take_leave(connection)

    def _look(self) -> None:
        now = time.monotonic()
        forgive = now - self._forgiven > _FORGIVE_SECONDS
        if forgive:
            self._forgiven = now
        for connection in list(self._dispatcher.connections):
            connection.look(now)
            if forgive:
                connection.forgive()
        self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    async def _drain(self, grace_seconds: float) -> None:
        until = time.monotonic() + grace_seconds
        self._accept()  # what has connected already is not turned away
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        self._draining = True
        connections = self._dispatcher.connections
        for connection in list(connections):
            self._take_leave(connection)
        if self._tasks:  # who gets through TLS meanwhile may have sent a call with its last words
            await asyncio.wait(self._tasks, timeout=min(grace_seconds, _LEAVE_SECONDS))
        await self._gone(until - time.monotonic())
        self._looking.cancel()
        for connection in list(connections):
            connection.stop()
        for task in self._tasks:
            task.cancel()
        await self._gone(_STOP_SECONDS)
        for connection in list(connections):
            connection.abort()
        await self._gone(_STOP_SECONDS)

    def _take_leave(self, connection: Connection) -> None:
        """Has a connection end with the calls that its peer has begun."""
        connection.drain()
        self._loop.call_later(_LEAVE_SECONDS, connection.leave)

    async def _gone(self, seconds: float) -> None:
        """Waits until no connection is left, so long at most."""
        gone = asyncio.Event()
        self._dispatcher.emptied = gone.set
        if self._dispatcher.connections and seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(gone.wait(), seconds)


def _log_fault(_loop: Any, context: dict[str, Any]) -> None:
    """A fault on the loop. Its text may hold a value or a peer's address, so only kinds and places are logged."""
    error = context.get("exception")
    if error is None or isinstance(error, OSError | EOFError):
        return  # a peer that does not get through TLS, or is gone
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    place = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    _LOG.error("%s at %s", type(error).__name__, place)
