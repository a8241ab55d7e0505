"""From functions to gRPC methods: who calls, parse, answer, and the right status for whatever goes wrong.

Methods take and give bytes: answers are written as bytes anyway (`serving.wire`), and a message that does not parse is
INVALID_ARGUMENT too, never INTERNAL. A fault of the server itself is UNKNOWN with a fixed text; the log names the kind
of fault and the line, never a value.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message

from governance.errors import (
    AccessDenied,
    HedgerowError,
    NotAuthenticated,
    NotServed,
    RequestInvalid,
    ServerUnavailable,
    StoreUnreachable,
)
from serving.embeddings import get_embeddings, search, stream_embeddings
from serving.features import get_features, stream_features
from serving.gate import Gate
from serving.problems import DETAILS_TRAILER, Details, FieldProblem, Overloaded, TooLarge, encode_details
from serving.recommendation import get_recommendation_context
from serving.snapshots import get_catalogue, get_catalogue_info
from serving.state import Published
from serving.v1 import embeddings_pb2, features_pb2, recommendation_pb2, snapshots_pb2

__all__ = ["SERVICES", "add_services"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_RETRY_SECONDS: Final = 1

Current = Callable[[], Published]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """A method: its request, and the function that answers it with bytes, or with one piece of bytes after another."""

    request: type[Message]
    answer: Callable[..., Any]
    streams: bool = False


_METHODS: Final = {
    "hedgerow.serving.v1.FeatureService": {
        "GetFeatures": _Method(request=features_pb2.GetFeaturesRequest, answer=get_features),
        "StreamFeatures": _Method(request=features_pb2.StreamFeaturesRequest, answer=stream_features, streams=True),
    },
    "hedgerow.serving.v1.EmbeddingService": {
        "GetEmbeddings": _Method(request=embeddings_pb2.GetEmbeddingsRequest, answer=get_embeddings),
        "StreamEmbeddings": _Method(
            request=embeddings_pb2.StreamEmbeddingsRequest, answer=stream_embeddings, streams=True
        ),
        "Search": _Method(request=embeddings_pb2.SearchRequest, answer=search),
    },
    "hedgerow.serving.v1.RecommendationService": {
        "GetRecommendationContext": _Method(
            request=recommendation_pb2.GetRecommendationContextRequest, answer=get_recommendation_context
        ),
    },
    "hedgerow.serving.v1.SnapshotService": {
        "GetCatalogueInfo": _Method(request=snapshots_pb2.GetCatalogueInfoRequest, answer=get_catalogue_info),
        "GetCatalogue": _Method(request=snapshots_pb2.GetCatalogueRequest, answer=get_catalogue, streams=True),
    },
}

SERVICES: Final = tuple(_METHODS)
"""Full names of the services, as health and reflection know them."""


def add_services(
    server: grpc.Server,
    current: Current,
    gate: Gate,
    *,
    concurrent_streams: int,
    overdue: Callable[[], bool] = lambda: False,
) -> None:
    """Adds every service.

    Args:
        current: gives the publication in force; asked once a call.
        gate: says who calls and what they may read.
        concurrent_streams: streams at one time; each holds a thread while its client reads.
        overdue: asked by each call on its thread: whether it has waited too long to be answered.
    """
    slots = threading.BoundedSemaphore(concurrent_streams)
    for service, methods in _METHODS.items():
        handlers = {
            name: _stream(f"{service}/{name}", method, current, gate, slots)
            if method.streams
            else _unary(f"{service}/{name}", method, current, gate, overdue)
            for name, method in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        server.add_registered_method_handlers(service, handlers)  # type: ignore[attr-defined]  # newer than its stubs


def _unary(name: str, method: _Method, current: Current, gate: Gate, overdue: Callable[[], bool]) -> Any:
    answer, request_type = method.answer, method.request

    def call(data: bytes, context: grpc.ServicerContext) -> bytes:
        entry = gate.entry(name)
        try:
            _check_deadline(context)
            if overdue():
                raise Overloaded("the server is overloaded; try again", _RETRY_SECONDS)
            gate.identify(entry, context)
            response: bytes = answer(current(), _parse(request_type, data), entry)
        except Exception as error:  # noqa: BLE001 - every failure becomes a status here, and nowhere else
            failure = _failure(error)
        else:
            gate.leave(entry, "OK")
            return response
        gate.leave(entry, failure.code.name)
        _abort(context, failure)

    return grpc.unary_unary_rpc_method_handler(call)


def _stream(name: str, method: _Method, current: Current, gate: Gate, slots: threading.BoundedSemaphore) -> Any:
    answer, request_type = method.answer, method.request

    def call(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        entry = gate.entry(name)
        if not slots.acquire(blocking=False):
            failure = _failure(Overloaded("too many streams now; try again", _RETRY_SECONDS))
            gate.leave(entry, failure.code.name)
            _abort(context, failure)
        code = "CANCELLED"  # unless it comes to an end
        try:
            _check_deadline(context)
            gate.identify(entry, context)
            yield from answer(current(), _parse(request_type, data), entry)
            code = "OK"
            return
        except Exception as error:  # noqa: BLE001 - as above
            failure = _failure(error)
            code = failure.code.name
        finally:
            slots.release()
            gate.leave(entry, code)
        _abort(context, failure)

    return grpc.unary_stream_rpc_method_handler(call)


class _Expired(Exception):
    """The caller's deadline passed while the call waited for a thread."""


def _check_deadline(context: grpc.ServicerContext) -> None:
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise _Expired


def _parse(request_type: type[Message], data: bytes) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError:
        name = request_type.DESCRIPTOR.full_name
        raise FieldProblem("request", f"the bytes are not a {name} message; use the published proto files") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    code: grpc.StatusCode
    message: str
    details: Details = field(default_factory=Details)


def _failure(error: Exception) -> _Failure:
    """Status, message and details for what went wrong."""
    text = str(error)
    match error:
        case FieldProblem():
            large = isinstance(error, TooLarge)
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if large else grpc.StatusCode.INVALID_ARGUMENT
            return _Failure(code=code, message=text, details=Details(violations=((error.field, error.problem),)))
        case RequestInvalid():
            details = Details(violations=(("request", text),))
            return _Failure(code=grpc.StatusCode.INVALID_ARGUMENT, message=text, details=details)
        case NotServed():
            return _Failure(code=grpc.StatusCode.NOT_FOUND, message=text)
        case NotAuthenticated():
            return _Failure(code=grpc.StatusCode.UNAUTHENTICATED, message=text)
        case AccessDenied():
            return _Failure(code=grpc.StatusCode.PERMISSION_DENIED, message=text)
        case Overloaded():
            details = Details(retry_seconds=error.retry_seconds)
            return _Failure(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message=text, details=details)
        case StoreUnreachable() | ServerUnavailable():
            _LOG.warning("%s", text)
            details = Details(retry_seconds=_RETRY_SECONDS)
            return _Failure(code=grpc.StatusCode.UNAVAILABLE, message=text, details=details)
        case _Expired():
            return _Failure(code=grpc.StatusCode.DEADLINE_EXCEEDED, message="the deadline passed before work began")
        case HedgerowError():
            _LOG.warning("%s", text)
            return _Failure(code=grpc.StatusCode.FAILED_PRECONDITION, message=text)
        case _:
            return _fault(error)


def _fault(error: Exception) -> _Failure:
    """A fault of the server. Its text may hold a value, so only its kind and place are logged."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    place = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    _LOG.error("%s at %s", type(error).__name__, place)
    return _Failure(code=grpc.StatusCode.UNKNOWN, message="the server failed at this request; its log names the fault")


def _abort(context: grpc.ServicerContext, failure: _Failure) -> NoReturn:
    code = failure.code.value[0]
    context.set_trailing_metadata(((DETAILS_TRAILER, encode_details(code, failure.message, failure.details)),))
    context.abort(failure.code, failure.message)
    raise AssertionError("abort returns never")
