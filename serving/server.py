"""One serving process: the front (`serving.front`) around the publication in force."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from governance.errors import ConfigError, PortBusy
from governance.policy import Decision, RefusalRecorder, load_policy
from governance.settings import Settings
from serving.access import Authorizer, PolicyAuthorizer, deny, open_to_all
from serving.admission import WorkerPool
from serving.audit import AuditLog
from serving.calls import SERVICES, method_handlers
from serving.config import MetricsPort, ServerConfig, TlsFiles, demo_config
from serving.front import Dispatcher, Front, Limits, MethodTable, handlers_of
from serving.gate import Gate, Identify, anonymous
from serving.index import single_threaded
from serving.limits import MAX_MESSAGE_BYTES
from serving.metrics import Metrics, MetricsInterceptor, serve_registry
from serving.state import Published
from serving.tls import Tls, server_contexts
from serving.tokens import Certificates, Tokens, read_rules
from serving.watch import InForce

__all__ = ["RunningServer", "project_authorizer", "start_server"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_LAST_PORT: Final = 65_535
_BACKLOG: Final = 1_024


class RunningServer:
    """A server that answers. Use as a context manager, or call `stop`.

    Attributes:
        address: `host:port` that it listens on.
        metrics: what it has counted.
    """

    def __init__(
        self,
        address: str,
        front: Front,
        in_force: InForce,
        checks: health.HealthServicer,
        metrics: Metrics,
        drain_seconds: float,
        closing: ExitStack,
    ) -> None:
        self.address = address
        self.metrics = metrics
        self._front = front
        self._in_force = in_force
        self._health = checks
        self._drain_seconds = drain_seconds
        self._closing = closing

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def publication(self) -> int:
        """Sequence number of the publication in force."""
        return self._in_force.current().sequence

    def serve_metrics(self, config: MetricsPort | None) -> None:
        """Lets Prometheus read the metrics over HTTP, if the configuration says where.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        if config is not None:
            self._closing.callback(serve_registry(self.metrics.registry, config.host, config.port))

    def stop(self, grace_seconds: float | None = None) -> None:
        """Refuses new calls, lets running ones end, and returns when they have or the grace is over. Idempotent.

        Args:
            grace_seconds: None: as configured.
        """
        self._health.enter_graceful_shutdown()
        self._front.stop(self._drain_seconds if grace_seconds is None else grace_seconds)
        self._closing.close()


def start_server(
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
    config: ServerConfig | None = None,
    authorizer: Authorizer | None = None,
    shared_port: bool = False,
) -> RunningServer:
    """Opens what is published and starts to answer.

    Args:
        host: where to listen; the configuration's if None.
        port: 0 picks a free one; the configuration's if None.
        config: how to run; None: open to all, where hedgerow.toml says.
        authorizer: who may read what; None: `project_authorizer`, with refusals in the project's ledger.
        shared_port: whether other processes listen on the same port (SO_REUSEPORT).

    Raises:
        NotPublished: nothing is published yet.
        PublicationCorrupt: what is published differs from its record.
        PortBusy: the address is in use.
        ConfigError: the address cannot be listened on, or a file that the configuration names cannot be used.
    """
    config = demo_config(settings) if config is None else config
    host = config.listen.host if host is None else host
    port = config.listen.port if port is None else port
    with ExitStack() as closing:
        contexts = None if config.tls is None else _contexts(config.tls)
        bound = closing.enter_context(_bound(host, port, shared_port=shared_port))
        metrics = Metrics()
        pool = WorkerPool(config.listen.threads, config.limits.queue_seconds, single_threaded)
        closing.callback(pool.close)
        checks = health.HealthServicer(experimental_non_blocking=True)
        gate = Gate(
            _identify(config),
            authorizer or project_authorizer(settings, config, _refusals(settings, closing)),
            _audit(config, closing),
        )
        looked = _looked(metrics, pool, checks, gate)
        in_force = InForce(settings, looked)
        closing.callback(in_force.close)
        methods = MethodTable(_interceptors(config, metrics, closing))
        for service, handlers in method_handlers(in_force.current, gate, concurrent_streams=_streams(config)).items():
            methods.add(service, handlers)
        for service, handlers in _control(checks).items():
            methods.add(service, handlers, control=True)
        dispatcher = Dispatcher(
            methods,
            Limits(message_bytes=MAX_MESSAGE_BYTES),
            pool,
            config.limits.queue_seconds,
            lambda method: metrics.refused.labels(method).inc(),
            _streams(config),
        )
        with _told_of(host, port):
            bound.listen(_BACKLOG)  # not before: others on the port answer meanwhile
        front = Front(dispatcher, bound, contexts, single_threaded)
        front.start()
        looked(in_force.current())
        return RunningServer(
            _join(host, int(bound.getsockname()[1])),
            front,
            in_force,
            checks,
            metrics,
            config.limits.drain_seconds,
            closing.pop_all(),
        )


def project_authorizer(settings: Settings, config: ServerConfig, refused: Callable[[Decision], object]) -> Authorizer:
    """Who may read what: everyone in a demonstration; in production whom the project's policy lets, else nobody.

    Args:
        refused: told of each refusal by the policy.

    Raises:
        ConfigError: the policy cannot be used.
    """
    if config.mode == "demo":
        return open_to_all
    policy = load_policy(settings)
    return PolicyAuthorizer(policy, refused) if policy.declared else deny


def _refusals(settings: Settings, closing: ExitStack) -> RefusalRecorder:
    refusals = RefusalRecorder.to_ledger(settings)
    closing.callback(refusals.close)
    return refusals


def _streams(config: ServerConfig) -> int:
    """Streams at one time: a stream holds its thread while its client reads, so half of the threads stay free."""
    return min(config.limits.concurrent_streams, max(1, config.listen.threads // 2))


def _looked(
    metrics: Metrics, pool: WorkerPool, checks: health.HealthServicer, gate: Gate
) -> Callable[[Published], None]:
    """What is told after each look at the publication: gauges, and which services have something to serve."""

    def looked(published: Published) -> None:
        metrics.waiting.set(pool.waiting)
        metrics.most.set(pool.most_waiting)
        metrics.publication.set(published.sequence)
        metrics.plans.set(len(published.plans))
        metrics.unwritten.set(gate.unwritten)
        now = time.time()
        for view in published.views.values():
            ended = datetime.fromisoformat(view.releases[-1].event_time)
            ended = ended.replace(tzinfo=UTC) if ended.tzinfo is None else ended
            metrics.age.labels(view.name).set(now - ended.timestamp())
        serving = (
            bool(published.views),
            bool(published.spaces),
            bool(published.spaces),
            published.catalogue is not None,
        )
        recording = gate.recording
        for name, there in zip(("", *SERVICES), (True, *serving), strict=True):
            is_up = there and recording
            status = health_pb2.HealthCheckResponse.SERVING if is_up else health_pb2.HealthCheckResponse.NOT_SERVING
            checks.set(name, status)

    return looked


def _identify(config: ServerConfig) -> Identify:
    if config.tokens is not None:
        tokens = config.tokens
        return Tokens(
            read_rules(
                tokens.public_key,
                algorithm=tokens.algorithm,
                issuer=tokens.issuer,
                audience=tokens.audience,
                leeway_seconds=tokens.leeway_seconds,
            )
        )
    return Certificates() if config.tls is not None and config.tls.client_ca is not None else anonymous


def _audit(config: ServerConfig, closing: ExitStack) -> AuditLog | None:
    if config.audit is None:
        return None
    audit = AuditLog(config.audit.file)
    closing.callback(audit.close)
    return audit


def _interceptors(config: ServerConfig, metrics: Metrics, closing: ExitStack) -> list[grpc.ServerInterceptor[Any, Any]]:
    if config.traces is None:
        return [MetricsInterceptor(metrics)]
    from serving.traces import start_traces

    traces, close = start_traces(config.traces.endpoint, config.traces.sample)
    closing.callback(close)
    return [traces, MetricsInterceptor(metrics)]


def _control(checks: health.HealthServicer) -> dict[str, Any]:
    """Health and reflection."""
    about = reflection.ReflectionServicer((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME))
    return {
        **handlers_of(health_pb2_grpc.add_HealthServicer_to_server, checks),
        **handlers_of(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, about),
    }


def _contexts(files: TlsFiles) -> Callable[[], ssl.SSLContext]:
    return server_contexts(Tls(certificate=files.certificate, key=files.key, client_ca=files.client_ca))


def _bound(host: str, port: int, *, shared_port: bool) -> socket.socket:
    """A socket that has its address, and does not listen yet.

    Raises:
        PortBusy: the address is in use.
        ConfigError: it is not one of this machine's.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"cannot listen on {_join(host, port)}: allowed ports: 0 to {_LAST_PORT}")
    with _told_of(host, port), ExitStack() as undone:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = undone.enter_context(socket.socket(family, socket.SOCK_STREAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(target)
        undone.pop_all()
        return bound


@contextmanager
def _told_of(host: str, port: int) -> Iterator[None]:
    """What the system says of an address, as errors of ours."""
    address = _join(host, port)
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(address) from None
        raise ConfigError(
            f"cannot listen on {address}: {error.strerror}; choose --host and --port of this machine"
        ) from None


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
