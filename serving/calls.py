"""From functions to gRPC methods: parse, answer, serialise, and the right status for whatever goes wrong.

Methods take and give bytes, so that a message that does not parse is INVALID_ARGUMENT too, and never INTERNAL. A fault
of the server itself is UNKNOWN with a fixed text; the log names the kind of fault and the line, never a value.
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

from governance.errors import HedgerowError, NotServed, RequestInvalid, ServerUnavailable, StoreUnreachable
from serving.embeddings import get_embeddings, search
from serving.features import get_features
from serving.limits import MAX_MESSAGE_BYTES
from serving.problems import DETAILS_TRAILER, Details, FieldProblem, Overloaded, TooLarge, encode_details
from serving.snapshots import get_catalogue, get_catalogue_info
from serving.state import Published
from serving.v1 import embeddings_pb2, features_pb2, snapshots_pb2

__all__ = ["SERVICES", "add_services"]

SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (features_pb2, "FeatureService"),
        (embeddings_pb2, "EmbeddingService"),
        (snapshots_pb2, "SnapshotService"),
    )
)
"""Full names of the services, as health and reflection know them."""

_LOG: Final = logging.getLogger("hedgerow.serving")
_RETRY_SECONDS: Final = 1

Current = Callable[[], Published]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    code: grpc.StatusCode
    message: str
    details: Details = field(default_factory=Details)


def add_services(server: grpc.Server, current: Current, *, concurrent_downloads: int) -> None:
    """Adds the three services.

    Args:
        current: gives the publication in force; asked once a call.
        concurrent_downloads: catalogue streams at one time; each holds a thread while its client reads.
    """
    features, embeddings, snapshots = SERVICES
    slots = threading.BoundedSemaphore(concurrent_downloads)
    _add(server, features, {"GetFeatures": _unary(current, features_pb2.GetFeaturesRequest, get_features)})
    _add(
        server,
        embeddings,
        {
            "GetEmbeddings": _unary(current, embeddings_pb2.GetEmbeddingsRequest, get_embeddings),
            "Search": _unary(current, embeddings_pb2.SearchRequest, search),
        },
    )
    _add(
        server,
        snapshots,
        {
            "GetCatalogueInfo": _unary(current, snapshots_pb2.GetCatalogueInfoRequest, get_catalogue_info),
            "GetCatalogue": _stream(current, snapshots_pb2.GetCatalogueRequest, get_catalogue, slots),
        },
    )


def _add(server: grpc.Server, service: str, methods: dict[str, Any]) -> None:
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))


def _unary(current: Current, request_type: type[Message], answer: Callable[..., Message]) -> Any:
    def call(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            _check_deadline(context)
            response = answer(current(), _parse(request_type, data)).SerializeToString()
            if len(response) > MAX_MESSAGE_BYTES:
                raise TooLarge("request", "bytes in the answer", len(response), MAX_MESSAGE_BYTES)
            return response
        except Exception as error:  # noqa: BLE001 - every failure becomes a status here, and nowhere else
            failure = _failure(error)
        _abort(context, failure)

    return grpc.unary_unary_rpc_method_handler(call)


def _stream(
    current: Current,
    request_type: type[Message],
    answer: Callable[..., Iterator[Message]],
    slots: threading.BoundedSemaphore,
) -> Any:
    def call(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        if not slots.acquire(blocking=False):
            _abort(context, _failure(Overloaded("too many downloads now; try again", _RETRY_SECONDS)))
        try:
            _check_deadline(context)
            for part in answer(current(), _parse(request_type, data)):
                yield part.SerializeToString()
            return
        except Exception as error:  # noqa: BLE001 - as above
            failure = _failure(error)
        finally:
            slots.release()
        _abort(context, failure)

    return grpc.unary_stream_rpc_method_handler(call)


class _Expired(Exception):
    """The caller's deadline passed, or the caller left, while the call waited for a thread."""


def _check_deadline(context: grpc.ServicerContext) -> None:
    remaining: float | None = context.time_remaining()
    if not context.is_active() or (remaining is not None and remaining <= 0):
        raise _Expired


def _parse(request_type: type[Message], data: bytes) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError:
        name = request_type.DESCRIPTOR.full_name
        raise FieldProblem("request", f"the bytes are not a {name} message; use the published proto files") from None


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
