"""The client that a recommendation model uses: numpy columns in, numpy columns out.

    with Client("127.0.0.1:7433", purpose="ranking") as client:
        table = client.get_features(features=["item_week_v1:users"], entities={"item_id": [3, 8, 12]})
        table["item_week_v1:users"]                # float64 or int64 array of 3
        table.releases                             # the releases behind it
        near = client.search("item_content", ids=[3], k=10)

It needs grpcio, protobuf and numpy, nothing else of the platform. Every call has a deadline. A server that is away for
a moment (UNAVAILABLE) is asked again by gRPC itself within that deadline, as long as the budget of retries lasts. One
client may be used from many threads; `serving.async_client` has the same methods for asyncio.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import grpc
from numpy.typing import ArrayLike

from serving.answers import (
    CatalogueDownload,
    CatalogueInfo,
    CatalogueParts,
    Embeddings,
    FeatureTable,
    Neighbors,
    RecommendationContext,
    read_catalogue_info,
    read_context,
    read_embeddings,
    read_feature_table,
    read_neighbors,
)
from serving.channel import (
    ANOTHER_MAY_SUCCEED,
    ClientTls,
    Stubs,
    Token,
    Turns,
    call_metadata,
    channel_options,
    read_answer,
    typed_error,
)
from serving.messages import context_request, embeddings_request, features_request, search_request
from serving.v1 import embeddings_pb2, features_pb2, snapshots_pb2

__all__ = [
    "CatalogueDownload",
    "CatalogueInfo",
    "Client",
    "ClientTls",
    "Embeddings",
    "FeatureTable",
    "Neighbors",
    "RecommendationContext",
]

_PATIENCE_SECONDS: Final = 5.0
"""Beyond a call's deadline, gRPC itself ends it; this is for gRPC to say so."""

_T = TypeVar("_T")


class Client:
    """Connections to one server, or to several processes behind one address.

    Args:
        target: `host:port`.
        timeout_seconds: deadline of every call but streams, retries included.
        purpose: what is read for; policies decide by it.
        token: a signed token, or a function that gives the current one.
        tls: None: no TLS.
        connections: how many; calls take turns. More than one reaches several processes behind one port.
        hedge_after_seconds: when an answer takes longer, the same call is sent on another connection too (there are two
            at least), and the first answer is taken; None: never. Every call here only reads, so asking twice changes
            nothing but load. Streams are not hedged. gRPC's own hedging policy is not used: the C core that Python
            runs on does not implement it.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_seconds: float = 5.0,
        purpose: str = "",
        token: Token | None = None,
        tls: ClientTls | None = None,
        connections: int = 1,
        hedge_after_seconds: float | None = None,
    ) -> None:
        self._target = target
        self._timeout = timeout_seconds
        self._purpose = purpose
        self._token = token
        self._hedge_after = hedge_after_seconds
        self._turns = Turns(lambda: _channel(target, tls), connections, hedged=hedge_after_seconds is not None)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        for connection in self._turns.all:
            connection.channel.close()

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
            AccessDenied, NotAuthenticated: the server does not let this caller read this.
            Overloaded: the server is busy; `retry_seconds` says for how long.
            ServerUnavailable: no answer before the deadline, or the online store is down.
        """
        request = features_request(entities, features, service)
        return self._call(lambda connection: connection.features.GetFeatures, request, read_feature_table)

    def stream_features(
        self,
        *,
        entities: Mapping[str, ArrayLike],
        features: Sequence[str] | None = None,
        service: str | None = None,
        part_rows: int = 0,
        timeout_seconds: float = 60.0,
    ) -> Iterator[FeatureTable]:
        """Reads features of up to 1,000,000 entities in parts, in their order, all from one publication.

        Args:
            entities, features, service: as in `get_features`.
            part_rows: rows of one part, at most 10,000; 0: as many.
            timeout_seconds: for the whole stream.

        Raises:
            ServingError: as `get_features`.
        """
        request = features_pb2.StreamFeaturesRequest(
            request=features_request(entities, features, service), part_rows=part_rows
        )
        for message in self._stream(lambda connection: connection.features.StreamFeatures, request, timeout_seconds):
            yield read_answer(read_feature_table, message.part, self._target)

    def get_embeddings(self, space: str, ids: ArrayLike) -> Embeddings:
        """Reads vectors of `(n,)` ids.

        Raises:
            RequestInvalid: ids of another type than the space's, or too many.
            NotServed: no such space.
            AccessDenied, NotAuthenticated, Overloaded, ServerUnavailable: as `get_features`.
        """
        request = embeddings_request(space, ids)
        return self._call(lambda connection: connection.embeddings.GetEmbeddings, request, read_embeddings)

    def stream_embeddings(
        self, space: str, ids: ArrayLike, *, part_rows: int = 0, timeout_seconds: float = 60.0
    ) -> Iterator[Embeddings]:
        """Reads vectors of up to 1,000,000 ids in parts, in their order, all from one release.

        Raises:
            ServingError: as `get_embeddings`.
        """
        request = embeddings_pb2.StreamEmbeddingsRequest(request=embeddings_request(space, ids), part_rows=part_rows)
        for message in self._stream(
            lambda connection: connection.embeddings.StreamEmbeddings, request, timeout_seconds
        ):
            yield read_answer(read_embeddings, message.part, self._target)

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
        allow: ArrayLike | None = None,
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
            allow: only these ids; None: no condition.
            tags: only items with at least one of these.

        Raises:
            RequestInvalid: wrong types, sizes or values.
            NotServed: no such space.
            AccessDenied, NotAuthenticated, Overloaded, ServerUnavailable: as `get_features`.
        """
        request = search_request(space, k, vectors, ids, min_score, include_self, exclude, allow, tags)
        return self._call(
            lambda connection: connection.embeddings.Search, request, lambda message: read_neighbors(message, k)
        )

    def get_recommendation_context(
        self,
        space: str,
        *,
        k: int,
        vectors: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        min_score: float | None = None,
        include_self: bool = False,
        exclude: ArrayLike = (),
        allow: ArrayLike | None = None,
        tags: Sequence[str] = (),
        user_entities: Mapping[str, ArrayLike] | None = None,
        user_features: Sequence[str] | None = None,
        user_service: str | None = None,
        item_features: Sequence[str] | None = None,
        item_service: str | None = None,
    ) -> RecommendationContext:
        """A user's features, a search and the candidates' features in one round trip, from one publication.

        Args:
            space, k, vectors, ids, min_score, include_self, exclude, allow, tags: as in `search`.
            user_entities: whose features are wanted; None: nobody's.
            user_features, user_service: which, as in `get_features`.
            item_features, item_service: which features of the candidates; neither: none.

        Raises:
            ServingError: as `get_features` and `search`.
        """
        user = None if user_entities is None else features_request(user_entities, user_features, user_service)
        candidates = search_request(space, k, vectors, ids, min_score, include_self, exclude, allow, tags)
        request = context_request(candidates, user, item_features, item_service)
        return self._call(
            lambda connection: connection.recommendation.GetRecommendationContext,
            request,
            lambda message: read_context(message, k),
        )

    def catalogue_info(self) -> CatalogueInfo:
        """Describes the newest device catalogue.

        Raises:
            NotServed: none is published.
            ServerUnavailable: no answer before the deadline.
        """
        request = snapshots_pb2.GetCatalogueInfoRequest()
        return self._call(
            lambda connection: connection.snapshots.GetCatalogueInfo,
            request,
            lambda message: read_catalogue_info(message.info),
        )

    def catalogue(self, *, timeout_seconds: float = 60.0) -> CatalogueDownload:
        """Downloads the newest device catalogue and checks its size and hash.

        Raises:
            NotServed: none is published.
            ServerUnavailable: not whole before the deadline.
            ServingError: the bytes are not what the server announced.
        """
        request = snapshots_pb2.GetCatalogueRequest()
        parts = CatalogueParts(self._target)
        for part in self._stream(lambda connection: connection.snapshots.GetCatalogue, request, timeout_seconds):
            parts.take(part)
        return parts.whole()

    def _call(self, method: Callable[[Stubs], Any], request: Any, read: Callable[[Any], _T]) -> _T:
        with self._errors():
            response = self._send(method, request)
        return read_answer(read, response, self._target)

    def _send(self, method: Callable[[Stubs], Any], request: Any) -> Any:
        metadata = call_metadata(self._purpose, self._token)
        connection, other = self._turns.next_two()
        first = method(connection)
        if self._hedge_after is None:
            return first(request, timeout=self._timeout, metadata=metadata)
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        calls = [first.future(request, timeout=self._timeout, metadata=metadata)]
        calls[0].add_done_callback(done.put)
        try:
            answer = done.get(timeout=self._hedge_after)
        except queue.Empty:
            calls.append(method(other).future(request, timeout=self._timeout, metadata=metadata))
            calls[1].add_done_callback(done.put)
            answer = done.get(timeout=self._timeout + _PATIENCE_SECONDS)
            if answer.code() in ANOTHER_MAY_SUCCEED:
                answer = done.get(timeout=self._timeout + _PATIENCE_SECONDS)
        for call in calls:
            call.cancel()
        return answer.result()

    def _stream(self, method: Callable[[Stubs], Any], request: Any, timeout_seconds: float) -> Iterator[Any]:
        metadata = call_metadata(self._purpose, self._token)
        parts = method(self._turns.next())(request, timeout=timeout_seconds, metadata=metadata)
        try:
            with self._errors():
                yield from parts
        finally:
            parts.cancel()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise typed_error(error, self._target) from None


def _channel(target: str, tls: ClientTls | None) -> grpc.Channel:
    options = channel_options(tls)
    if tls is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, tls.credentials(), options)
