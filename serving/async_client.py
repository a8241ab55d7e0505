"""The same client for asyncio: every method of `serving.client.Client`, to be awaited or iterated.

```python
async with AsyncClient("127.0.0.1:7433", purpose="ranking") as client:
    table, near = await asyncio.gather(
        client.get_features(service="ranking_item", entities={"item_id": [3, 8, 12]}),
        client.search("item_content", ids=[3], k=10),
    )
```
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

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

__all__ = ["AsyncClient"]

_T = TypeVar("_T")


class AsyncClient:
    """Connections to one server, used from one event loop. Arguments as of `serving.client.Client`."""

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

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        for connection in self._turns.all:
            await connection.channel.close()

    async def get_features(
        self,
        *,
        entities: Mapping[str, ArrayLike],
        features: Sequence[str] | None = None,
        service: str | None = None,
    ) -> FeatureTable:
        """See `Client.get_features`."""
        request = features_request(entities, features, service)
        return await self._call(lambda connection: connection.features.GetFeatures, request, read_feature_table)

    async def stream_features(
        self,
        *,
        entities: Mapping[str, ArrayLike],
        features: Sequence[str] | None = None,
        service: str | None = None,
        part_rows: int = 0,
        timeout_seconds: float = 60.0,
    ) -> AsyncIterator[FeatureTable]:
        """See `Client.stream_features`."""
        request = features_pb2.StreamFeaturesRequest(
            request=features_request(entities, features, service), part_rows=part_rows
        )
        messages = self._stream(lambda connection: connection.features.StreamFeatures, request, timeout_seconds)
        async with aclosing(messages):
            async for message in messages:
                yield read_answer(read_feature_table, message.part, self._target)

    async def get_embeddings(self, space: str, ids: ArrayLike) -> Embeddings:
        """See `Client.get_embeddings`."""
        request = embeddings_request(space, ids)
        return await self._call(lambda connection: connection.embeddings.GetEmbeddings, request, read_embeddings)

    async def stream_embeddings(
        self, space: str, ids: ArrayLike, *, part_rows: int = 0, timeout_seconds: float = 60.0
    ) -> AsyncIterator[Embeddings]:
        """See `Client.stream_embeddings`."""
        request = embeddings_pb2.StreamEmbeddingsRequest(request=embeddings_request(space, ids), part_rows=part_rows)
        messages = self._stream(lambda connection: connection.embeddings.StreamEmbeddings, request, timeout_seconds)
        async with aclosing(messages):
            async for message in messages:
                yield read_answer(read_embeddings, message.part, self._target)

    async def search(
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
        """See `Client.search`."""
        request = search_request(space, k, vectors, ids, min_score, include_self, exclude, allow, tags)
        return await self._call(
            lambda connection: connection.embeddings.Search, request, lambda message: read_neighbors(message, k)
        )

    async def get_recommendation_context(
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
        """See `Client.get_recommendation_context`."""
        user = None if user_entities is None else features_request(user_entities, user_features, user_service)
        candidates = search_request(space, k, vectors, ids, min_score, include_self, exclude, allow, tags)
        request = context_request(candidates, user, item_features, item_service)
        return await self._call(
            lambda connection: connection.recommendation.GetRecommendationContext,
            request,
            lambda message: read_context(message, k),
        )

    async def catalogue_info(self) -> CatalogueInfo:
        """See `Client.catalogue_info`."""
        return await self._call(
            lambda connection: connection.snapshots.GetCatalogueInfo,
            snapshots_pb2.GetCatalogueInfoRequest(),
            lambda message: read_catalogue_info(message.info),
        )

    async def catalogue(self, *, timeout_seconds: float = 60.0) -> CatalogueDownload:
        """See `Client.catalogue`."""
        request = snapshots_pb2.GetCatalogueRequest()
        parts = CatalogueParts(self._target)
        messages = self._stream(lambda connection: connection.snapshots.GetCatalogue, request, timeout_seconds)
        async with aclosing(messages):
            async for message in messages:
                parts.take(message)
        return parts.whole()

    async def _call(self, method: Callable[[Stubs], Any], request: Any, read: Callable[[Any], _T]) -> _T:
        with self._errors():
            response = await self._send(method, request)
        return read_answer(read, response, self._target)

    async def _send(self, method: Callable[[Stubs], Any], request: Any) -> Any:
        metadata = call_metadata(self._purpose, self._token)
        connection, other = self._turns.next_two()
        first = method(connection)(request, timeout=self._timeout, metadata=metadata)
        if self._hedge_after is None:
            return await first
        calls = {asyncio.ensure_future(_answer(first))}
        try:
            done, _ = await asyncio.wait(calls, timeout=self._hedge_after)
            if not done:
                second = method(other)(request, timeout=self._timeout, metadata=metadata)
                calls.add(asyncio.ensure_future(_answer(second)))
                done, rest = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                if rest and all(map(_another_may_succeed, done)):
                    done, _ = await asyncio.wait(rest)
            return min(done, key=_another_may_succeed).result()
        finally:
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _stream(
        self, method: Callable[[Stubs], Any], request: Any, timeout_seconds: float
    ) -> AsyncGenerator[Any]:
        metadata = call_metadata(self._purpose, self._token)
        parts = method(self._turns.next())(request, timeout=timeout_seconds, metadata=metadata)
        try:
            with self._errors():
                async for part in parts:
                    yield part
        finally:
            parts.cancel()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise typed_error(error, self._target) from None


async def _answer(call: Any) -> Any:
    """A call's answer, as a task that ends the call when it is itself ended."""
    try:
        return await call
    finally:
        call.cancel()


def _another_may_succeed(task: asyncio.Task[Any]) -> bool:
    error = task.exception()
    return isinstance(error, grpc.aio.AioRpcError) and error.code() in ANOTHER_MAY_SUCCEED


def _channel(target: str, tls: ClientTls | None) -> Any:
    options = channel_options(tls)
    if tls is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, tls.credentials(), options)
