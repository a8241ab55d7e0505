"""Several serving processes on one port, and the one process that starts, watches and ends them.

The supervisor reserves the port, starts the workers (fresh interpreters, each with its own gRPC core), and every worker
listens on the same port with SO_REUSEPORT, so the kernel spreads connections over them. A worker that dies is started
again; SIGTERM drains them all. A worker whose supervisor is gone drains too.
"""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from governance.errors import ConfigError, HedgerowError, PortBusy

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from governance.settings import Settings
    from serving.config import ServerConfig

__all__ = ["serve_processes"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_METRICS_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"
_LOOK_SECONDS: Final = 0.2
_RESTART_SECONDS: Final = 1.0


def serve_processes(
    settings: Settings,
    config: ServerConfig,
    *,
    ready: Callable[[str, int], None],
    ended: threading.Event,
) -> None:
    """Runs `config.listen.processes` workers until `ended` is set, then drains them.

    Args:
        ready: called once, when all workers answer, with the address and the publication.
        ended: set by whoever wants the server to end.

    Raises:
        HedgerowError: what the first workers report when they cannot start, see `serving.server.start_server`.
        PortBusy: the address is in use.
        ConfigError: an address cannot be listened on.
    """
    reserved, port = _reserve(config.listen.host, config.listen.port)
    folder = Path(tempfile.mkdtemp(prefix="hedgerow-metrics-"))
    os.environ[_METRICS_DIR] = str(folder)
    workers: list[_Worker] = []
    try:
        with reserved, _metrics_served(config):
            workers += [_Worker(settings, config, port) for _ in range(config.listen.processes)]
            told = [worker.wait_until_ready() for worker in workers]
            ready(*told[0])
            _watch(workers, settings, config, port, ended)
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.join(config.limits.drain_seconds + 10)
        del os.environ[_METRICS_DIR]
        shutil.rmtree(folder, ignore_errors=True)


def _watch(workers: list[_Worker], settings: Settings, config: ServerConfig, port: int, ended: threading.Event) -> None:
    while not ended.wait(_LOOK_SECONDS):
        for position, worker in enumerate(workers):
            if not worker.alive and time.monotonic() - worker.since >= _RESTART_SECONDS:
                if (reason := worker.not_started) is not None:
                    _LOG.error("a serving process could not start: %s; starting another", reason)
                else:
                    _LOG.error("a serving process ended with code %s; starting another", worker.exitcode)
                _forget_metrics(worker.pid)
                workers[position] = _Worker(settings, config, port)


class _Worker:
    """One worker process, and the pipe by which it tells that it answers and learns that its supervisor is gone."""

    def __init__(self, settings: Settings, config: ServerConfig, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self.since = time.monotonic()
        self._process: SpawnProcess = context.Process(
            target=_work, args=(theirs, settings, config, port), name="hedgerow-serving"
        )
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def exitcode(self) -> int | None:
        return self._process.exitcode

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def wait_until_ready(self) -> tuple[str, int]:
        """Its address and publication.

        Raises:
            HedgerowError: it could not start.
        """
        try:
            told: tuple[str, int] | HedgerowError = self._ours.recv()
        except EOFError:
            raise ConfigError("a serving process ended before it could answer; its log says why") from None
        if isinstance(told, HedgerowError):
            raise told
        return told

    @property
    def not_started(self) -> HedgerowError | None:
        """Of one that has ended: why it could not start, if it told."""
        try:
            while self._ours.poll():
                if isinstance(told := self._ours.recv(), HedgerowError):
                    return told
        except (EOFError, OSError):
            pass
        return None

    def end(self) -> None:
        if self._process.is_alive():
            self._process.terminate()

    def join(self, seconds: float) -> None:
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _work(supervisor: Connection, settings: Settings, config: ServerConfig, port: int) -> None:
    """A worker's whole life."""
    from serving.logs import log_to_stderr
    from serving.server import start_server

    log_to_stderr(config.logs.format)
    ended = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the supervisor decides
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        server = start_server(settings, port=port, config=config, shared_port=True)
    except HedgerowError as error:
        supervisor.send(_portable(error))
        raise SystemExit(2) from None
    with server:
        supervisor.send((server.address, server.publication))
        threading.Thread(target=_until_gone, args=(supervisor, ended), daemon=True).start()
        ended.wait()


def _until_gone(supervisor: Connection, ended: threading.Event) -> None:
    try:
        supervisor.recv()
    except (EOFError, OSError):
        ended.set()


def _portable(error: HedgerowError) -> HedgerowError:
    """The error as one that can be sent: its message, in a class whose constructor takes a message."""
    return ConfigError(str(error))


def _reserve(host: str, port: int) -> tuple[socket.socket, int]:
    """A bound socket that does not listen: it keeps the port, and connections go to those that listen."""
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(target)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(f"{host}:{port}") from None
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; correct [listen]") from None
    return reserved, int(reserved.getsockname()[1])


@contextmanager
def _metrics_served(config: ServerConfig) -> Iterator[None]:
    """The metrics of all workers, added up, from this process."""
    if config.metrics is None:
        yield
        return
    from prometheus_client import CollectorRegistry, multiprocess

    from serving.metrics import serve_registry

    registry = CollectorRegistry()
    collector: Any = multiprocess.MultiProcessCollector
    collector(registry)
    close = serve_registry(registry, config.metrics.host, config.metrics.port)
    try:
        yield
    finally:
        close()


def _forget_metrics(pid: int | None) -> None:
    """Takes a dead worker's gauges out of the sums; its counts stay."""
    if pid is not None:
        from prometheus_client import multiprocess

        forget: Any = multiprocess.mark_process_dead
        forget(pid)
