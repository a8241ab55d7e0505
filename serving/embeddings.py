"""GetEmbeddings and Search: vectors by id, and the nearest ones. Functions of one publication and one request."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from governance.errors import NotServed
from serving.columns import bitmap, get_ids, packed, set_ids
from serving.index import VectorSpace
from serving.limits import MAX_EXCLUDED, MAX_MESSAGE_BYTES, MAX_NEIGHBORS, MAX_QUERIES, MAX_ROWS, MAX_TAGS
from serving.problems import FieldProblem, TooLarge, shown
from serving.state import Published
from serving.v1 import embeddings_pb2, values_pb2

__all__ = ["get_embeddings", "search"]

_COUNTS: Final = embeddings_pb2.SearchResponse.COUNTS_FIELD_NUMBER
_SCORES: Final = embeddings_pb2.SearchResponse.SCORES_FIELD_NUMBER


def get_embeddings(
    published: Published, request: embeddings_pb2.GetEmbeddingsRequest
) -> embeddings_pb2.GetEmbeddingsResponse:
    """Answers one request.

    Raises:
        RequestInvalid: see `proto/serving/v1/embeddings.proto`.
        NotServed: no such space.
    """
    space = _space(published, request.space)
    rows, found = space.find(_ids(space, request.ids, "ids", "ids", MAX_ROWS))
    size = len(rows) * space.meta.dimension * 4
    if size > MAX_MESSAGE_BYTES - 64 * 1024:
        raise TooLarge("ids", "bytes of vectors asked for", size, MAX_MESSAGE_BYTES - 64 * 1024)
    vectors = space.vectors(rows)
    vectors[~found] = 0
    return embeddings_pb2.GetEmbeddingsResponse(
        vectors=vectors.astype("<f4", copy=False).tobytes(),
        dimension=space.meta.dimension,
        found=bitmap(found),
        release=space.meta.release_id,
        publication=published.sequence,
    )


def search(published: Published, request: embeddings_pb2.SearchRequest) -> embeddings_pb2.SearchResponse:
    """Answers one request, which may hold many queries.

    Raises:
        RequestInvalid: see `proto/serving/v1/embeddings.proto`.
        NotServed: no such space.
    """
    space = _space(published, request.space)
    if not 1 <= request.k <= MAX_NEIGHBORS:
        raise FieldProblem("k", f"found {request.k:,}, allowed: 1 to {MAX_NEIGHBORS:,}")
    minimum = request.minimum_score if request.HasField("minimum_score") else None
    if minimum is not None and np.isnan(minimum):
        raise FieldProblem("minimum_score", "found NaN, allowed: a number")
    if len(request.tags) > MAX_TAGS:
        raise TooLarge("tags", "tags", len(request.tags), MAX_TAGS)
    exclude = None
    if request.HasField("exclude") and request.exclude.WhichOneof("values"):
        excluded, known = space.find(_ids(space, request.exclude, "exclude", "ids", MAX_EXCLUDED))
        exclude = excluded[known]
    queries, own_rows, found = _queries(space, request)
    hits = space.search(
        queries,
        request.k,
        own_rows=None if request.include_self else own_rows,
        minimum_score=minimum,
        exclude=exclude,
        tags=tuple(request.tags),
    )
    counts = np.zeros(len(found), dtype="<u4")
    counts[found] = hits.counts
    response = embeddings_pb2.SearchResponse(
        found=bitmap(found), release=space.meta.release_id, publication=published.sequence
    )
    set_ids(response.ids, space.ids(hits.rows))
    response.MergeFromString(packed(_COUNTS, counts) + packed(_SCORES, hits.scores.astype("<f4", copy=False)))
    return response


def _space(published: Published, name: str) -> VectorSpace:
    space = published.spaces.get(name)
    if space is None:
        known = ", ".join(sorted(published.spaces)) or "none"
        raise NotServed(f"no embedding space {shown(name)}; published: {known}")
    return space


def _ids(space: VectorSpace, message: values_pb2.Ids, where: str, what: str, most: int) -> NDArray[Any]:
    if message.WhichOneof("values") is None:
        raise FieldProblem(where, f"found no ids; give {space.meta.key_type} ids")
    kind, ids = get_ids(message)
    if kind != space.meta.key_type:
        raise FieldProblem(where, f"found {kind} ids, allowed: {space.meta.key_type}")
    if len(ids) > most:
        raise TooLarge(where, what, len(ids), most)
    return ids


def _queries(
    space: VectorSpace, request: embeddings_pb2.SearchRequest
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, NDArray[np.bool_]]:
    """The query vectors to search with `(m, d)`, the row each one is, if any, and which of the q queries they are."""
    kind = request.WhichOneof("queries")
    if kind == "ids":
        rows, found = space.find(_ids(space, request.ids, "ids", "queries", MAX_QUERIES))
        return space.vectors(rows[found]), rows[found], found
    if kind is None:
        raise FieldProblem("queries", "found none; give vectors or ids")
    width = 4 * space.meta.dimension
    if len(request.vectors) % width:
        raise FieldProblem(
            "vectors", f"found {len(request.vectors):,} bytes, allowed: a multiple of {width} (dimension * 4)"
        )
    if len(request.vectors) // width > MAX_QUERIES:
        raise TooLarge("vectors", "queries", len(request.vectors) // width, MAX_QUERIES)
    vectors = np.frombuffer(request.vectors, "<f4").reshape(-1, space.meta.dimension)
    if not np.isfinite(vectors).all():
        raise FieldProblem("vectors", "found NaN or infinite values, allowed: finite ones")
    return vectors, None, np.ones(len(vectors), dtype=bool)
