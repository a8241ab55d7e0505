"""OpenTelemetry traces by its own gRPC interceptor (extra `hedgerow[traces]`), sent over OTLP.

A span says method, status and time. The interceptor records no message and no metadata but the caller's address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from governance.errors import EnvironmentProblem

__all__ = ["start_traces"]


def start_traces(endpoint: str, sample: float) -> tuple[grpc.ServerInterceptor[Any, Any], Callable[[], None]]:
    """An interceptor, and what sends the last spans and ends it.

    Args:
        endpoint: of an OTLP collector, `http://host:port`.
        sample: share of calls that begin a trace here; a caller's own decision is kept.

    Raises:
        EnvironmentProblem: the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.grpc import server_interceptor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(f"[traces] needs {error.name}; pip install 'hedgerow[traces]'") from None
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(sample), resource=Resource.create({"service.name": "hedgerow"})
    )
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://")))
    )
    interceptor: grpc.ServerInterceptor[Any, Any] = server_interceptor(tracer_provider=provider)  # type: ignore[no-untyped-call]
    return interceptor, provider.shutdown
