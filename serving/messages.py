"""A caller's arguments as request messages: pure functions, shared by the two clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from governance.errors import RequestInvalid
from serving.columns import set_column, set_ids, text_array
from serving.v1 import embeddings_pb2, features_pb2, recommendation_pb2

__all__ = ["context_request", "embeddings_request", "features_request", "search_request"]


def features_request(
    entities: Mapping[str, ArrayLike], features: Sequence[str] | None, service: str | None
) -> features_pb2.GetFeaturesRequest:
    """See `Client.get_features`.

    Raises:
        RequestInvalid: not exactly one of features and service, or keys that no key column can hold.
    """
    if (features is None) == (service is None):
        raise RequestInvalid("get_features: give either features or service")
    request = features_pb2.GetFeaturesRequest()
    _select(request, features, service)
    for name, keys in entities.items():
        array, kind = _key_column(name, keys)
        set_column(request.keys.add(name=name), kind, array)
    return request


def embeddings_request(space: str, ids: ArrayLike) -> embeddings_pb2.GetEmbeddingsRequest:
    """See `Client.get_embeddings`.

    Raises:
        RequestInvalid: ids that are neither integers nor texts.
    """
    request = embeddings_pb2.GetEmbeddingsRequest(space=space)
    set_ids(request.ids, _ids("ids", ids))
    return request


def search_request(
    space: str,
    k: int,
    vectors: ArrayLike | None,
    ids: ArrayLike | None,
    min_score: float | None,
    include_self: bool,
    exclude: ArrayLike,
    allow: ArrayLike | None,
    tags: Sequence[str],
) -> embeddings_pb2.SearchRequest:
    """See `Client.search`.

    Raises:
        RequestInvalid: not exactly one of vectors and ids, or values that the message cannot hold.
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
    if allow is not None:
        set_ids(request.allow, _ids("allow", allow))
    return request


def context_request(
    candidates: embeddings_pb2.SearchRequest,
    user: features_pb2.GetFeaturesRequest | None,
    item_features: Sequence[str] | None,
    item_service: str | None,
) -> recommendation_pb2.GetRecommendationContextRequest:
    """See `Client.get_recommendation_context`.

    Raises:
        RequestInvalid: both item features and an item service.
    """
    request = recommendation_pb2.GetRecommendationContextRequest(candidates=candidates, user=user)
    if item_features is not None and item_service is not None:
        raise RequestInvalid("get_recommendation_context: give either item_features or item_service")
    if item_features is not None or item_service is not None:
        _select(request.items, item_features, item_service)
    return request


def _select(
    message: features_pb2.GetFeaturesRequest | recommendation_pb2.ItemFeatures,
    features: Sequence[str] | None,
    service: str | None,
) -> None:
    if service is not None:
        message.feature_service = service
    else:
        message.features.SetInParent()
        message.features.references.extend(features or ())


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
