"""The serving process: a threaded gRPC server around the publication in force.

A watcher looks at the publication record; when another one is in force, it is opened and verified beside the old one
and swapped in as one value, so a call sees the old publication or the new one, whole. One that cannot be opened is
refused with a line in the log, and the last good one stays.
"""

from __future__ import annotations

import errno
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from featurestore.online import OnlineReader, open_reader
from featurestore.publication import PUBLICATION_FILE, load_publication
from governance.errors import ConfigError, HedgerowError, PortBusy, StoreUnreachable
from governance.settings import Settings
from serving.calls import SERVICES, add_services
from serving.index import single_threaded
from serving.limits import MAX_MESSAGE_BYTES
from serving.state import Published, open_published

__all__ = ["RunningServer", "start_server"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_WATCH_SECONDS: Final = 0.25
_LAST_PORT: Final = 65_535
_WAITING_CALLS: Final = 64
"""Calls that may wait for each thread; more are refused with RESOURCE_EXHAUSTED."""


class RunningServer:
    """A server that answers. Use as a context manager, or call `stop`.

    Attributes:
        address: `host:port` that it listens on.
    """

    def __init__(self, address: str, server: grpc.Server, state: _State, checks: health.HealthServicer) -> None:
        self.address = address
        self._server = server
        self._state = state
        self._health = checks

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def publication(self) -> int:
        """Sequence number of the publication in force."""
        return self._state.current().sequence

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Refuses new calls, lets running ones end, and returns when they have or the grace is over. Idempotent."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_seconds).wait()
        self._state.close()


def start_server(settings: Settings, *, host: str | None = None, port: int | None = None) -> RunningServer:
    """Opens what is published and starts to answer.

    Args:
        host: where to listen; `settings.serving.host` if None.
        port: 0 picks a free one; `settings.serving.port` if None.

    Raises:
        NotPublished: nothing is published yet.
        PublicationCorrupt: what is published differs from its record.
        StoreUnreachable: the online store cannot be opened.
        PortBusy: the address is in use.
        ConfigError: the address cannot be listened on.
    """
    host = settings.serving.host if host is None else host
    port = settings.serving.port if port is None else port
    address = _free_address(host, port)
    state = _State(settings)
    try:
        threads = max(1, settings.serving.threads)
        server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="serving", initializer=single_threaded),
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ),
            maximum_concurrent_rpcs=threads * _WAITING_CALLS,
        )
        add_services(server, state.current, concurrent_downloads=max(1, threads // 2))
        checks = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        for name in ("", *SERVICES):
            checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            bound = server.add_insecure_port(address)
        except RuntimeError:
            raise PortBusy(address) from None
        server.start()
    except BaseException:
        state.close()
        raise
    return RunningServer(_join(host, bound), server, state, checks)


class _State:
    """Holds the publication in force and looks for the next one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = settings.serving_dir / PUBLICATION_FILE
        self._seen = _identity(self._path)
        self._reader: OnlineReader | None = None
        try:
            self._published = self._open(None)
        except BaseException:
            self._close_reader()
            raise
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="publication", daemon=True)
        self._watcher.start()

    def current(self) -> Published:
        """The publication in force."""
        return self._published

    def close(self) -> None:
        """Ends the watcher and gives the store's connections back."""
        if not self._ended.is_set():
            self._ended.set()
            self._watcher.join()
            self._close_reader()

    def _open(self, previous: Published | None) -> Published:
        """Opens what is published now. The online store is reached once there are views."""
        publication = load_publication(self._settings)
        if publication.views and self._reader is None:
            self._reader = open_reader(self._settings)
        return open_published(self._settings, publication, self._reader, previous)

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _watch(self) -> None:
        told = ""
        while not self._ended.wait(_WATCH_SECONDS):
            found = _identity(self._path)
            if found is None or found == self._seen:
                continue
            self._seen = found
            try:
                self._published = self._open(self._published)
                _LOG.info("publication %d is in force", self._published.sequence)
                told = ""
            except Exception as error:  # noqa: BLE001 - the watcher must outlive whatever a record holds
                reason = str(error) if isinstance(error, HedgerowError) else type(error).__name__
                if reason != told:
                    _LOG.warning("publication %d stays in force: %s", self._published.sequence, reason)
                told = reason
                if isinstance(error, StoreUnreachable):
                    self._seen = None  # nothing is wrong with the record: try again


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What changes when the record is replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _free_address(host: str, port: int) -> str:
    """`host:port` after a trial that tells a busy port from a host that is not this machine's."""
    address = _join(host, port)
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"cannot listen on {address}: allowed ports: 0 to {_LAST_PORT}")
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(target)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(address) from None
        raise ConfigError(
            f"cannot listen on {address}: {error.strerror}; choose --host and --port of this machine"
        ) from None
    return address


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
