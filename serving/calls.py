"""From functions to gRPC methods: who calls, parse, answer, and the right status for whatever goes wrong.

Methods give bytes: answers are written as such anyway (`serving.wire`). A message that does not parse is
INVALID_ARGUMENT, never INTERNAL. What is out of order at the server is told with a fixed text, since files and hosts
are for its log. A fault of the server itself is UNKNOWN with a fixed text; the log names the kind of fault and the
line, never a value.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.message import Message

from governance.errors import (
    AccessDenied,
    HedgerowError,
    NotAuthenticated,
    NotServed,
    RequestInvalid,
    ServerUnavailable,
    StoreUnreachable,
)
from serving.access import Permit
from serving.embeddings import get_embeddings, search, stream_embeddings
from serving.features import get_features, stream_features
from serving.front import QUICK
from serving.gate import Entry, Gate
from serving.problems import (
    DETAILS_TRAILER,
    Details,
    FieldProblem,
    Overloaded,
    TooLarge,
    UnknownName,
    encode_details,
)
from serving.quick import SearchPace, mapped_embeddings, mapped_features
from serving.recommendation import get_recommendation_context
from serving.snapshots import get_catalogue, get_catalogue_info
from serving.state import Published
from serving.v1 import embeddings_pb2, features_pb2, recommendation_pb2, snapshots_pb2
from serving.wire import parsed

__all__ = ["SERVICES", "method_handlers"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_RETRY_SECONDS: Final = 1

Current = Callable[[], Published]
Request = Message | bytes | FieldProblem
"""A request, parsed or in its wire form, or what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """A method: its request, and the function that answers it with bytes, or with one piece of bytes after another.

    `request` is None where that function takes the request in its wire form. `quick` says of a request whether it is
    answered where it was read, see `serving.quick`.
    """

    request: type[Message] | None
    answer: Callable[..., Any]
    streams: bool = False
    quick: Callable[[Published, Any], bool] | None = None


_PACE: Final = SearchPace()


def _timed_search(published: Published, request: embeddings_pb2.SearchRequest, permit: Permit) -> bytes:
    began = time.perf_counter()
    answer = search(published, request, permit)
    _PACE.note(published, request, time.perf_counter() - began)
    return answer


_METHODS: Final = {
    "hedgerow.serving.v1.FeatureService": {
        "GetFeatures": _Method(request=None, answer=get_features, quick=mapped_features),
        "StreamFeatures": _Method(request=features_pb2.StreamFeaturesRequest, answer=stream_features, streams=True),
    },
    "hedgerow.serving.v1.EmbeddingService": {
        "GetEmbeddings": _Method(request=None, answer=get_embeddings, quick=mapped_embeddings),
        "StreamEmbeddings": _Method(
            request=embeddings_pb2.StreamEmbeddingsRequest, answer=stream_embeddings, streams=True
        ),
        "Search": _Method(request=embeddings_pb2.SearchRequest, answer=_timed_search, quick=_PACE.search),
    },
    "hedgerow.serving.v1.RecommendationService": {
        "GetRecommendationContext": _Method(
            request=recommendation_pb2.GetRecommendationContextRequest,
            answer=get_recommendation_context,
            quick=_PACE.context,
        ),
    },
    "hedgerow.serving.v1.SnapshotService": {
        "GetCatalogueInfo": _Method(request=snapshots_pb2.GetCatalogueInfoRequest, answer=get_catalogue_info),
        "GetCatalogue": _Method(request=snapshots_pb2.GetCatalogueRequest, answer=get_catalogue, streams=True),
    },
}

SERVICES: Final = tuple(_METHODS)
"""Full names of the services, as health and reflection know them."""


def method_handlers(
    current: Current, gate: Gate, *, concurrent_streams: int
) -> Mapping[str, Mapping[str, grpc.RpcMethodHandler[Any, Any]]]:
    """Service → method → handler, as grpcio's server and ours take them.

    Args:
        current: gives the publication in force; asked once a call.
        gate: says who calls and what they may read.
        concurrent_streams: streams at one time; each holds a thread while its client reads.
    """
    slots = threading.BoundedSemaphore(concurrent_streams)
    return {
        service: {
            name: _stream(f"{service}/{name}", method, current, gate, slots)
            if method.streams
            else _unary(f"{service}/{name}", method, current, gate)
            for name, method in methods.items()
        }
        for service, methods in _METHODS.items()
    }


def _unary(name: str, method: _Method, current: Current, gate: Gate) -> Any:
    answer, is_quick = method.answer, method.quick

    def call(request: Request, context: grpc.ServicerContext) -> bytes:
        entry = gate.entry(name)
        try:
            _check_deadline(context)
            gate.identify(entry, context)
            response: bytes = answer(current(), _whole(request), entry)
        except Exception as error:  # noqa: BLE001 - every failure becomes a status here, and nowhere else
            failure = _told(error, entry)
        else:
            gate.leave(entry, "OK")
            return response
        gate.leave(entry, failure.code.name)
        _abort(context, failure)

    def quick(request: Request) -> bool:
        try:
            return isinstance(request, FieldProblem) or (is_quick is not None and is_quick(current(), request))
        except Exception:  # noqa: BLE001 - the call itself will fail the same way, and soon
            return True

    setattr(call, QUICK, quick)
    return grpc.unary_unary_rpc_method_handler(call, request_deserializer=_parser(method.request))


def _stream(name: str, method: _Method, current: Current, gate: Gate, slots: threading.BoundedSemaphore) -> Any:
    answer = method.answer

    def call(request: Request, context: grpc.ServicerContext) -> Iterator[bytes]:
        entry = gate.entry(name)
        if not slots.acquire(blocking=False):
            failure = _failure(Overloaded("too many streams now; try again", _RETRY_SECONDS))
            gate.leave(entry, failure.code.name)
            _abort(context, failure)
        code = "CANCELLED"  # unless it comes to an end
        try:
            _check_deadline(context)
            gate.identify(entry, context)
            yield from answer(current(), _whole(request), entry)
            code = "OK"
            return
        except Exception as error:  # noqa: BLE001 - as above
            failure = _told(error, entry)
            code = failure.code.name
        finally:
            slots.release()
            gate.leave(entry, code)
        _abort(context, failure)

    return grpc.unary_stream_rpc_method_handler(call, request_deserializer=_parser(method.request))


class _Expired(Exception):
    """The caller's deadline passed while the call waited for a thread."""


def _check_deadline(context: grpc.ServicerContext) -> None:
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise _Expired


def _parser(request_type: type[Message] | None) -> Callable[[bytes], Request] | None:
    """What makes a request of bytes; of bytes that are none, what is wrong with them."""
    if request_type is None:
        return None

    def parse(data: bytes) -> Request:
        try:
            return parsed(request_type, data)
        except FieldProblem as problem:
            return problem

    return parse


def _whole(request: Request) -> Message | bytes:
    if isinstance(request, FieldProblem):
        raise request
    return request


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    code: grpc.StatusCode
    message: str
    details: Details = field(default_factory=Details)


def _told(error: Exception, entry: Entry) -> _Failure:
    """Status, message and details for what went wrong, as this caller may know it."""
    if not isinstance(error, UnknownName):
        return _failure(error)
    if error.within:
        try:
            entry(error.within, 0)
        except AccessDenied as denied:
            return _failure(denied)
    text = error.told(entry.may_read)
    return _Failure(code=grpc.StatusCode.NOT_FOUND, message=text, details=Details(violations=((error.field, text),)))


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
        case StoreUnreachable():
            _LOG.warning("%s", text)
            return _unavailable("the online store does not answer; try again, and see the server's log")
        case ServerUnavailable():
            return _unavailable(text)
        case _Expired():
            return _Failure(code=grpc.StatusCode.DEADLINE_EXCEEDED, message="the deadline passed before work began")
        case HedgerowError():
            _LOG.warning("%s", text)
            told = "something is out of order at the server; its log says what"
            return _Failure(code=grpc.StatusCode.FAILED_PRECONDITION, message=told)
        case _:
            return _fault(error)


def _unavailable(text: str) -> _Failure:
    return _Failure(code=grpc.StatusCode.UNAVAILABLE, message=text, details=Details(retry_seconds=_RETRY_SECONDS))


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
