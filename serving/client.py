"""The client that a recommendation model uses: numpy columns in, numpy columns out.

    with Client("127.0.0.1:7433") as client:
        table = client.get_features(features=["item_week_v1:users"], entities={"item_id": [3, 8, 12]})
        table["item_week_v1:users"]                # float64 or int64 array of 3
        table.releases                             # the releases behind it
        near = client.search("item_content", ids=[3], k=10)

It needs grpcio, protobuf and numpy, nothing else of the platform. Every call has a deadline. A server that is away for
a moment (UNAVAILABLE) is asked again by gRPC itself within that deadline. One client may be used from many threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from governance.errors import NotServed, RequestInvalid, ServerUnavailable, ServingError
from serving.answers import (
    CatalogueDownload,
    CatalogueInfo,
    Embeddings,
    FeatureTable,
    Neighbors,
    read_catalogue_info,
    read_embeddings,
    read_feature_table,
    read_neighbors,
)
from serving.columns import set_column, set_ids, text_array
from serving.limits import MAX_MESSAGE_BYTES
from serving.problems import DETAILS_TRAILER, Details, Overloaded, decode_details
from serving.v1 import (
    embeddings_pb2,
    embeddings_pb2_grpc,
    features_pb2,
    features_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
)

__all__ = ["CatalogueDownload", "CatalogueInfo", "Client", "Embeddings", "FeatureTable", "Neighbors"]

_SERVICE_CONFIG: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)
_MAX_CATALOGUE_BYTES: Final = 1 << 30

_T = TypeVar("_T")


class Client:
    """A connection to one server.

    Args:
        target: `host:port`.
        timeout_seconds: deadline of every call but `catalogue`, retries included.
    """

    def __init__(self, target: str, *, timeout_seconds: float = 5.0) -> None:
        self._target = target
        self._timeout = timeout_seconds
        self._channel = grpc.insecure_channel(
            target,
            options=(
                ("grpc.enable_retries", 1),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.min_reconnect_backoff_ms", 1_000),
                ("grpc.max_reconnect_backoff_ms", 1_000),
                ("grpc.service_config", _SERVICE_CONFIG),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ),
        )
        self._features = features_pb2_grpc.FeatureServiceStub(self._channel)
        self._embeddings = embeddings_pb2_grpc.EmbeddingServiceStub(self._channel)
        self._snapshots = snapshots_pb2_grpc.SnapshotServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        self._channel.close()

    def get_features(
        self,
        *,
        entities: Mapping[str, ArrayLike],
        features: Sequence[str] | None = None,
        service: str | None = None,
    ) -> FeatureTable:
        """Reads features of n entities.

        Args:
            entities: key name → `(n,)` keys: integers, texts, floats, booleans or days (`date` or `datetime64[D]`).
            features: `view:feature` references; or
            service: a feature service's name.

        Raises:
            RequestInvalid: unknown or missing keys, wrong types, unequal lengths, too many rows.
            NotServed: a feature, view or service that is not published.
            ServerUnavailable: no answer before the deadline, or the online store is down.
        """
        if (features is None) == (service is None):
            raise RequestInvalid("get_features: give either features or service")
        request = features_pb2.GetFeaturesRequest()
        if service is not None:
            request.feature_service = service
        else:
            request.features.SetInParent()
            request.features.references.extend(features or ())
        for name, keys in entities.items():
            array, kind = _key_column(name, keys)
            set_column(request.keys.add(name=name), kind, array)
        return self._call(self._features.GetFeatures, request, read_feature_table)

    def get_embeddings(self, space: str, ids: ArrayLike) -> Embeddings:
        """Reads vectors of `(n,)` ids.

        Raises:
            RequestInvalid: ids of another type than the space's, or too many.
            NotServed: no such space.
            ServerUnavailable: no answer before the deadline.
        """
        request = embeddings_pb2.GetEmbeddingsRequest(space=space)
        set_ids(request.ids, _ids("ids", ids))
        return self._call(self._embeddings.GetEmbeddings, request, read_embeddings)

    def search(
        self,
        space: str,
        *,
        k: int,
        vectors: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        min_score: float | None = None,
        include_self: bool = False,
        exclude: ArrayLike = (),
        tags: Sequence[str] = (),
    ) -> Neighbors:
        """Finds the k nearest items to each of q queries.

        Args:
            space: the space's name.
            k: 1 to 1,000.
            vectors: queries `(q, d)`, or one `(d,)`; or
            ids: `(q,)` items whose neighbors are sought.
            min_score: only neighbors with at least this score.
            include_self: whether an item may be its own neighbor.
            exclude: ids never to return.
            tags: only items with at least one of these.

        Raises:
            RequestInvalid: wrong types, sizes or values.
            NotServed: no such space.
            ServerUnavailable: no answer before the deadline.
        """
        if (vectors is None) == (ids is None):
            raise RequestInvalid("search: give either vectors or ids")
        if not 0 <= k < 1 << 32:
            raise RequestInvalid(f"search: k is {k}, allowed: 1 to 1,000")
        request = embeddings_pb2.SearchRequest(space=space, k=k, include_self=include_self, tags=tags)
        if vectors is not None:
            request.vectors = np.atleast_2d(np.asarray(vectors, dtype="<f4")).tobytes()
        elif ids is not None:
            set_ids(request.ids, _ids("ids", ids))
        if min_score is not None:
            request.minimum_score = min_score
        if np.size(excluded := np.asarray(exclude)):
            set_ids(request.exclude, _ids("exclude", excluded))
        return self._call(self._embeddings.Search, request, lambda response: read_neighbors(response, k))

    def catalogue_info(self) -> CatalogueInfo:
        """Describes the newest device catalogue.

        Raises:
            NotServed: none is published.
            ServerUnavailable: no answer before the deadline.
        """
        request = snapshots_pb2.GetCatalogueInfoRequest()
        return self._call(
            self._snapshots.GetCatalogueInfo, request, lambda response: read_catalogue_info(response.info)
        )

    def catalogue(self, *, timeout_seconds: float = 60.0) -> CatalogueDownload:
        """Downloads the newest device catalogue and checks its size and hash.

        Raises:
            NotServed: none is published.
            ServerUnavailable: not whole before the deadline.
            ServingError: the bytes are not what the server announced.
        """
        with self._errors():
            parts: Any = self._snapshots.GetCatalogue(snapshots_pb2.GetCatalogueRequest(), timeout=timeout_seconds)
            info = read_catalogue_info(next(parts).info)
            if info.size_bytes > _MAX_CATALOGUE_BYTES:
                parts.cancel()
                raise ServingError(f"{self._target}: the catalogue has {info.size_bytes:,} bytes, allowed: {1 << 30:,}")
            data = bytearray()
            for part in parts:
                data += part.data
                if len(data) > info.size_bytes:
                    parts.cancel()
                    break
        if len(data) != info.size_bytes or hashlib.sha256(data).hexdigest() != info.sha256:
            raise ServingError(f"{self._target}: the catalogue is not what the server announced; download it again")
        return CatalogueDownload(info=info, data=bytes(data))

    def _call(self, method: Callable[..., Any], request: Any, read: Callable[[Any], _T]) -> _T:
        with self._errors():
            response = method(request, timeout=self._timeout)
        try:
            return read(response)
        except ValueError:
            raise ServingError(
                f"{self._target}: the answer cannot be read; use a client of the server's version"
            ) from None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise _typed(error, self._target) from None


def _typed(error: Any, target: str) -> ServingError:
    code, text = error.code(), error.details() or ""
    trailer = next((value for key, value in error.trailing_metadata() or () if key == DETAILS_TRAILER), None)
    details = decode_details(trailer) if isinstance(trailer, bytes) else Details()
    if code is grpc.StatusCode.NOT_FOUND:
        return NotServed(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.retry_seconds is not None:
        return Overloaded(f"{target}: {text}", int(details.retry_seconds))
    if code is grpc.StatusCode.INVALID_ARGUMENT or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.violations):
        return RequestInvalid(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return RequestInvalid(f"{target}: a message over {MAX_MESSAGE_BYTES:,} bytes; split the request")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerUnavailable(f"{target}: no answer in time; check the address, or raise timeout_seconds")
    return ServerUnavailable(f"{target}: {code.name}: {text}; is the server running there?")


def _key_column(name: str, values: ArrayLike) -> tuple[NDArray[Any], str]:
    """A key column's array `(n,)` and type name."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise RequestInvalid(f"entities: key {name!r} has shape {array.shape}, allowed: (n,)")
    kind = array.dtype.kind
    if kind == "b":
        return array, "bool"
    if kind == "f":
        return array, "float64"
    if kind == "M":
        return array.astype("M8[D]"), "date"
    if kind in "iu":
        return _int64(f"entities: key {name!r}", array), "int64"
    items = array.tolist()
    if kind == "U" or (kind == "O" and all(isinstance(item, str) for item in items)):
        return text_array(items), "string"
    try:
        if kind == "O" and all(hasattr(item, "isoformat") for item in items):
            return np.asarray(items, dtype="M8[D]"), "date"
    except ValueError:
        pass
    raise RequestInvalid(
        f"entities: key {name!r} has type {array.dtype}, allowed: integers, texts, floats, booleans or days"
    )


def _ids(where: str, values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise RequestInvalid(f"{where}: found shape {array.shape}, allowed: (n,)")
    items = array.tolist()
    if array.dtype.kind in "iu" or not items:
        return _int64(where, array)
    if all(isinstance(item, str) for item in items):
        return text_array(items)
    raise RequestInvalid(f"{where}: found {array.dtype}, allowed: integers or texts")


def _int64(where: str, array: NDArray[Any]) -> NDArray[np.int64]:
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise RequestInvalid(f"{where}: found values beyond 64-bit signed integers")
    return array.astype(np.int64)
