"""Prometheus metrics: what the server does and how fast, without a label that could hold an id.

    hedgerow_calls_total{method, code}                  calls that ended
    hedgerow_call_seconds{method}                       histogram: from the thread's first look at a call to its answer
    hedgerow_calls_refused_total{method}                calls refused because the queue was full
    hedgerow_queue_waiting, hedgerow_queue_most         calls waiting for a thread; how many may
    hedgerow_release_age_seconds{view}                  since the newest release's window ended
    hedgerow_publication                                sequence number of the publication in force
    hedgerow_plans                                      selections whose plan is cached
    hedgerow_audit_unwritten                            records that the audit log's file has not taken yet

With several worker processes the library's files in `PROMETHEUS_MULTIPROC_DIR` add them up; the supervisor sets it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from governance.errors import ConfigError

__all__ = ["Metrics", "MetricsInterceptor", "serve_registry"]

_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The server's metrics in a registry of their own.

    Args:
        registry: where they are registered; None: a new one.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        own = self.registry
        self.calls = Counter("hedgerow_calls", "Calls that ended.", ("method", "code"), registry=own)
        self.seconds = Histogram(
            "hedgerow_call_seconds", "Time a call takes.", ("method",), buckets=_BUCKETS, registry=own
        )
        self.refused = Counter(
            "hedgerow_calls_refused", "Calls refused because the queue was full.", ("method",), registry=own
        )
        self.waiting = Gauge(
            "hedgerow_queue_waiting", "Calls waiting for a thread.", multiprocess_mode="livesum", registry=own
        )
        self.most = Gauge("hedgerow_queue_most", "Calls that may wait.", multiprocess_mode="livesum", registry=own)
        self.age = Gauge(
            "hedgerow_release_age_seconds",
            "Since the newest release's window ended.",
            ("view",),
            multiprocess_mode="livemax",
            registry=own,
        )
        self.publication = Gauge(
            "hedgerow_publication", "The publication in force.", multiprocess_mode="livemin", registry=own
        )
        self.plans = Gauge(
            "hedgerow_plans", "Selections with a cached plan.", multiprocess_mode="livesum", registry=own
        )
        self.unwritten = Gauge(
            "hedgerow_audit_unwritten", "Audit records not written yet.", multiprocess_mode="livesum", registry=own
        )


def serve_registry(registry: CollectorRegistry, host: str, port: int) -> Callable[[], None]:
    """Lets Prometheus read a registry over HTTP.

    Returns:
        What ends that.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        listening, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; correct [metrics]") from None

    def close() -> None:
        listening.shutdown()
        listening.server_close()

    return close


class MetricsInterceptor(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in its stubs only
    """Counts and times every call.

    Args:
        metrics: where to.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """See `grpc.ServerInterceptor`."""
        handler, method = continuation(details), details.method.removeprefix("/")
        if handler is None or handler.request_streaming:
            return handler
        if handler.response_streaming:
            return handler._replace(unary_stream=self._timed_stream(handler.unary_stream, method))
        return handler._replace(unary_unary=self._timed(handler.unary_unary, method))

    def _timed(self, behavior: Callable[..., Any], method: str) -> Callable[..., Any]:
        seconds = self._metrics.seconds.labels(method)
        succeeded = self._metrics.calls.labels(method, "OK")

        def call(request: Any, context: grpc.ServicerContext) -> Any:
            began = time.perf_counter()
            try:
                answer = behavior(request, context)
            except BaseException:
                self._metrics.calls.labels(method, _code(context)).inc()
                raise
            finally:
                seconds.observe(time.perf_counter() - began)
            succeeded.inc()
            return answer

        return call

    def _timed_stream(self, behavior: Callable[..., Any], method: str) -> Callable[..., Any]:
        seconds = self._metrics.seconds.labels(method)

        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            began = time.perf_counter()
            code = "CANCELLED"
            try:
                yield from behavior(request, context)
                code = "OK"
            except GeneratorExit:
                raise
            except BaseException:
                code = _code(context)
                raise
            finally:
                seconds.observe(time.perf_counter() - began)
                self._metrics.calls.labels(method, code).inc()

        return call


def _code(context: Any) -> str:
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
