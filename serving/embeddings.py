"""GetEmbeddings, StreamEmbeddings and Search: vectors by id, and the nearest ones.

Functions of one publication and one request; answers are serialised messages, written around arrays (`serving.wire`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from governance.errors import NotServed
from serving.access import Permit
from serving.columns import bitmap, encode_ids, get_ids
from serving.index import Hits, VectorSpace
from serving.limits import (
    MAX_ALLOWED,
    MAX_EXCLUDED,
    MAX_MESSAGE_BYTES,
    MAX_NEIGHBORS,
    MAX_QUERIES,
    MAX_ROWS,
    MAX_STREAM_ROWS,
    MAX_TAGS,
)
from serving.problems import FieldProblem, TooLarge, shown
from serving.state import Published
from serving.v1 import embeddings_pb2, values_pb2
from serving.wire import Buffer, delimited, header, packed, uint

__all__ = ["get_embeddings", "search", "search_space", "stream_embeddings"]


def get_embeddings(published: Published, request: embeddings_pb2.GetEmbeddingsRequest, permit: Permit) -> bytes:
    """Answers one request with a serialised `GetEmbeddingsResponse`.

    Raises:
        RequestInvalid: see `proto/serving/v1/embeddings.proto`.
        NotServed: no such space.
        AccessDenied: the caller may not read it.
    """
    space = _space(published, request.space)
    ids = _ids(space, request.ids, "ids", MAX_ROWS)
    _check_size(space, len(ids), "ids")
    permit((request.space,), len(ids))
    return _encode_vectors(published, space, ids)


def stream_embeddings(
    published: Published, request: embeddings_pb2.StreamEmbeddingsRequest, permit: Permit
) -> Iterator[bytes]:
    """Answers in serialised `StreamEmbeddingsResponse` parts, all from one release.

    Raises:
        RequestInvalid, NotServed, AccessDenied: as `get_embeddings`.
    """
    space = _space(published, request.request.space)
    step = request.part_rows or min(MAX_ROWS, MAX_MESSAGE_BYTES // (8 * space.meta.dimension))
    if step > MAX_ROWS:
        raise FieldProblem("part_rows", f"found {step:,}, allowed: 1 to {MAX_ROWS:,}, or 0 for as many")
    _check_size(space, step, "part_rows")
    ids = _ids(space, request.request.ids, "request.ids", MAX_STREAM_ROWS)
    permit((request.request.space,), len(ids))
    for start in range(0, len(ids), step):
        yield delimited(1, _encode_vectors(published, space, ids[start : start + step]))


def search(published: Published, request: embeddings_pb2.SearchRequest, permit: Permit) -> bytes:
    """Answers one request, which may hold many queries, with a serialised `SearchResponse`.

    Raises:
        RequestInvalid: see `proto/serving/v1/embeddings.proto`.
        NotServed: no such space.
        AccessDenied: the caller may not read it.
    """
    return search_space(published, request, permit)[0]


def search_space(
    published: Published, request: embeddings_pb2.SearchRequest, permit: Permit, where: str = ""
) -> tuple[bytes, VectorSpace, NDArray[Any]]:
    """`search` as a part of another request, whose field paths begin with `where`: answer, space and the ids found."""
    space = _space(published, request.space)
    if not 1 <= request.k <= MAX_NEIGHBORS:
        raise FieldProblem(f"{where}k", f"found {request.k:,}, allowed: 1 to {MAX_NEIGHBORS:,}")
    minimum = request.minimum_score if request.HasField("minimum_score") else None
    if minimum is not None and np.isnan(minimum):
        raise FieldProblem(f"{where}minimum_score", "found NaN, allowed: a number")
    if len(request.tags) > MAX_TAGS:
        raise TooLarge(f"{where}tags", "tags", len(request.tags), MAX_TAGS)
    conditions: dict[str, NDArray[np.int64]] = {}
    for name, message, most in (("exclude", request.exclude, MAX_EXCLUDED), ("allow", request.allow, MAX_ALLOWED)):
        if message.WhichOneof("values") is not None:
            rows, known = space.find(_ids(space, message, f"{where}{name}", most))
            conditions[name] = rows[known]
    queries, own_rows, found = _queries(space, request, where)
    permit((request.space,), len(found))
    hits = space.search(
        queries,
        request.k,
        own_rows=None if request.include_self else own_rows,
        minimum_score=minimum,
        tags=tuple(request.tags),
        **conditions,
    )
    ids = space.ids(hits.rows)
    return _encode_hits(published, space, hits, found, ids), space, ids


def _encode_vectors(published: Published, space: VectorSpace, ids: NDArray[Any]) -> bytes:
    """A serialised `GetEmbeddingsResponse`."""
    rows, found = space.find(ids)
    vectors = space.vectors(rows)
    bits = bitmap(found)
    if bits:
        vectors[~found] = 0
    raw = np.ascontiguousarray(vectors, dtype="<f4")
    parts: tuple[Buffer, ...] = (
        header(1, raw.nbytes) if raw.nbytes else b"",
        raw.data,
        uint(2, space.meta.dimension),
        delimited(3, bits) if bits else b"",
        delimited(4, space.meta.release_id.encode()),
        uint(5, published.sequence),
    )
    return b"".join(parts)


def _encode_hits(
    published: Published, space: VectorSpace, hits: Hits, found: NDArray[np.bool_], ids: NDArray[Any]
) -> bytes:
    """A serialised `SearchResponse`. A query whose id has no vector has no neighbors."""
    bits = bitmap(found)
    counts = hits.counts.astype("<u4")
    if bits:
        counts = np.zeros(len(found), dtype="<u4")
        counts[found] = hits.counts
    whole = b"".join(
        (
            packed(1, counts),
            delimited(2, encode_ids(ids)),
            packed(3, hits.scores.astype("<f4", copy=False)),
            delimited(4, bits) if bits else b"",
            delimited(5, space.meta.release_id.encode()),
            uint(6, published.sequence),
        )
    )
    if len(whole) > MAX_MESSAGE_BYTES:
        raise TooLarge("request", "bytes in the answer", len(whole), MAX_MESSAGE_BYTES)
    return whole


def _space(published: Published, name: str) -> VectorSpace:
    space = published.spaces.get(name)
    if space is None:
        known = ", ".join(sorted(published.spaces)) or "none"
        raise NotServed(f"no embedding space {shown(name)}; published: {known}")
    return space


def _check_size(space: VectorSpace, rows: int, where: str) -> None:
    size, most = rows * space.meta.dimension * 4, MAX_MESSAGE_BYTES - 64 * 1024
    if size > most:
        raise TooLarge(where, "bytes of vectors asked for", size, most)


def _ids(space: VectorSpace, message: values_pb2.Ids, where: str, most: int, what: str = "ids") -> NDArray[Any]:
    if message.WhichOneof("values") is None:
        raise FieldProblem(where, f"found no ids; give {space.meta.key_type} ids")
    kind, ids = get_ids(message)
    if kind != space.meta.key_type:
        raise FieldProblem(where, f"found {kind} ids, allowed: {space.meta.key_type}")
    if len(ids) > most:
        raise TooLarge(where, what, len(ids), most)
    return ids


def _queries(
    space: VectorSpace, request: embeddings_pb2.SearchRequest, where: str
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, NDArray[np.bool_]]:
    """The query vectors to search with `(m, d)`, the row each one is, if any, and which of the q queries they are."""
    kind = request.WhichOneof("queries")
    if kind == "ids":
        rows, found = space.find(_ids(space, request.ids, f"{where}ids", MAX_QUERIES, "queries"))
        return space.vectors(rows[found]), rows[found], found
    if kind is None:
        raise FieldProblem(f"{where}queries", "found none; give vectors or ids")
    width = 4 * space.meta.dimension
    if len(request.vectors) % width:
        raise FieldProblem(
            f"{where}vectors", f"found {len(request.vectors):,} bytes, allowed: a multiple of {width} (dimension * 4)"
        )
    if len(request.vectors) // width > MAX_QUERIES:
        raise TooLarge(f"{where}vectors", "queries", len(request.vectors) // width, MAX_QUERIES)
    vectors = np.frombuffer(request.vectors, "<f4").reshape(-1, space.meta.dimension)
    if not np.isfinite(vectors).all():
        raise FieldProblem(f"{where}vectors", "found NaN or infinite values, allowed: finite ones")
    return vectors, None, np.ones(len(vectors), dtype=bool)
