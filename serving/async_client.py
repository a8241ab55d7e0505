"""The same client for asyncio: every method of `serving.client.Client` that a model's request path needs.

```python
async with AsyncClient("127.0.0.1:7433", purpose="ranking") as client:
    table, near = await asyncio.gather(
        client.get_features(service="ranking_item", entities={"item_id": [3, 8, 12]}),
        client.search("item_content", ids=[3], k=10),
    )
```
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, TypeVar

import grpc
from numpy.typing import ArrayLike

from governance.errors import RequestInvalid
from serving.answers import (
    Embeddings,
    FeatureTable,
    Neighbors,
    RecommendationContext,
    read_context,
    read_embeddings,
    read_feature_table,
    read_neighbors,
)
from serving.channel import ClientTls, Token, call_metadata, channel_options, read_answer, typed_error
from serving.messages import context_request, embeddings_request, features_request, search_request
from serving.v1 import embeddings_pb2_grpc, features_pb2, features_pb2_grpc, recommendation_pb2_grpc

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
    ) -> None:
        if connections < 1:
            raise RequestInvalid(f"connections: found {connections}, allowed: at least 1")
        self._target = target
        self._timeout = timeout_seconds
        self._purpose = purpose
        self._token = token
        options = channel_options(tls)
        self._channels: list[Any] = [
            grpc.aio.insecure_channel(target, options)
            if tls is None
            else grpc.aio.secure_channel(target, tls.credentials(), options)
            for _ in range(connections)
        ]
        self._turns = itertools.cycle(self._channels)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        for channel in self._channels:
            await channel.close()

    async def get_features(
        self,
        *,
        entities: Mapping[str, ArrayLike],
        features: Sequence[str] | None = None,
        service: str | None = None,
    ) -> FeatureTable:
        """See `Client.get_features`."""
        request = features_request(entities, features, service)
        stub: Any = features_pb2_grpc.FeatureServiceStub(next(self._turns))
        return await self._call(stub.GetFeatures, request, read_feature_table)

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
        stub: Any = features_pb2_grpc.FeatureServiceStub(next(self._turns))
        metadata = call_metadata(self._purpose, self._token)
        parts = stub.StreamFeatures(request, timeout=timeout_seconds, metadata=metadata)
        try:
            async for message in parts:
                yield read_answer(read_feature_table, message.part, self._target)
        except grpc.aio.AioRpcError as error:
            raise typed_error(error, self._target) from None
        finally:
            parts.cancel()

    async def get_embeddings(self, space: str, ids: ArrayLike) -> Embeddings:
        """See `Client.get_embeddings`."""
        stub: Any = embeddings_pb2_grpc.EmbeddingServiceStub(next(self._turns))
        return await self._call(stub.GetEmbeddings, embeddings_request(space, ids), read_embeddings)

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
        stub: Any = embeddings_pb2_grpc.EmbeddingServiceStub(next(self._turns))
        return await self._call(stub.Search, request, lambda message: read_neighbors(message, k))

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
        stub: Any = recommendation_pb2_grpc.RecommendationServiceStub(next(self._turns))
        return await self._call(stub.GetRecommendationContext, request, lambda message: read_context(message, k))

    async def _call(self, method: Any, request: Any, read: Callable[[Any], _T]) -> _T:
        metadata = call_metadata(self._purpose, self._token)
        try:
            response = await method(request, timeout=self._timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise typed_error(error, self._target) from None
        return read_answer(read, response, self._target)
