"""GetEmbeddings, StreamEmbeddings and Search: vectors by id, and the nearest ones.

Functions of one publication and one request; answers are serialised messages, written around arrays (`serving.wire`).
Permission is asked for before anything else of a space is told, such as its type of ids or its dimension.
A request may come as a message or in its wire form, which the usual ones are read from directly.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from serving.problems import FieldProblem, TooLarge
from serving.space_plans import SpacePlan, asked_ids, asked_neighbors, space_plan
from serving.state import Published
from serving.v1 import embeddings_pb2, values_pb2
from serving.wire import Buffer, delimited, header, packed, parsed, uint

__all__ = ["get_embeddings", "search", "search_space", "stream_embeddings"]


def get_embeddings(published: Published, request: embeddings_pb2.GetEmbeddingsRequest | bytes, permit: Permit) -> bytes:
    """Answers one request with a serialised `GetEmbeddingsResponse`.

    Raises:
        RequestInvalid: see `proto/serving/v1/embeddings.proto`.
        NotServed: no such space.
        AccessDenied: the caller may not read it.
    """
    known = asked_ids(published, request if isinstance(request, bytes) else request.SerializeToString())
    if known is not None:
        plan, ids = known
        permit(plan.resources, len(ids))
    else:
        message = parsed(embeddings_pb2.GetEmbeddingsRequest, request) if isinstance(request, bytes) else request
        plan = space_plan(published, message.space)
        permit(plan.resources, _asked(message.ids))
        ids = _ids(plan.space, message.ids, "ids", MAX_ROWS)
    _check_size(plan.space, len(ids), "ids")
    return _encode_vectors(plan, ids)


def stream_embeddings(
    published: Published, request: embeddings_pb2.StreamEmbeddingsRequest, permit: Permit
) -> Iterator[bytes]:
    """Answers in serialised `StreamEmbeddingsResponse` parts, all from one release.

    Raises:
        RequestInvalid, NotServed, AccessDenied: as `get_embeddings`.
    """
    plan = space_plan(published, request.request.space, "request.")
    space = plan.space
    permit(plan.resources, _asked(request.request.ids))
    step = request.part_rows or min(MAX_ROWS, MAX_MESSAGE_BYTES // (8 * space.meta.dimension))
    if step > MAX_ROWS:
        raise FieldProblem("part_rows", f"found {step:,}, allowed: 1 to {MAX_ROWS:,}, or 0 for as many")
    _check_size(space, step, "part_rows")
    ids = _ids(space, request.request.ids, "request.ids", MAX_STREAM_ROWS)
    for start in range(0, len(ids), step):
        yield delimited(1, _encode_vectors(plan, ids[start : start + step]))


def search(published: Published, request: embeddings_pb2.SearchRequest | bytes, permit: Permit) -> bytes:
    """Answers one request, which may hold many queries, with a serialised `SearchResponse`.

    Raises:
        RequestInvalid: see `proto/serving/v1/embeddings.proto`.
        NotServed: no such space.
        AccessDenied: the caller may not read it.
    """
    data = request if isinstance(request, bytes) else request.SerializeToString()
    if (known := asked_neighbors(published, data)) is None:
        message = parsed(embeddings_pb2.SearchRequest, request) if isinstance(request, bytes) else request
        return search_space(published, message, permit)[0]
    plan, values, k = known
    permit(plan.resources, len(values) // plan.space.meta.dimension)
    _check_k(k, "")
    queries = _checked_vectors(plan.space, values, "")
    hits = plan.space.search(queries, k)
    return _encode_hits(plan, hits, None, plan.space.ids(hits.rows))


def search_space(
    published: Published, request: embeddings_pb2.SearchRequest, permit: Permit, where: str = ""
) -> tuple[bytes, VectorSpace, NDArray[Any]]:
    """`search` as a part of another request, whose field paths begin with `where`: answer, space and the ids found."""
    plan = space_plan(published, request.space, where)
    space = plan.space
    by_ids = request.WhichOneof("queries") == "ids"
    permit(plan.resources, _asked(request.ids) if by_ids else len(request.vectors) // (4 * space.meta.dimension))
    _check_k(request.k, where)
    minimum = request.minimum_score if request.HasField("minimum_score") else None
    if minimum is not None and np.isnan(minimum):
        raise FieldProblem(f"{where}minimum_score", "found NaN, allowed: a number")
    tags = tuple(request.tags)
    if len(tags) > MAX_TAGS:
        raise TooLarge(f"{where}tags", "tags", len(tags), MAX_TAGS)
    conditions: dict[str, NDArray[np.int64]] = {}
    if request.HasField("exclude"):
        conditions |= _condition(space, request.exclude, "exclude", MAX_EXCLUDED, where)
    if request.HasField("allow"):
        conditions |= _condition(space, request.allow, "allow", MAX_ALLOWED, where)
    queries, own_rows, found = _queries(space, request, where)
    hits = space.search(
        queries,
        request.k,
        own_rows=None if request.include_self else own_rows,
        minimum_score=minimum,
        tags=tags,
        **conditions,
    )
    ids = space.ids(hits.rows)
    return _encode_hits(plan, hits, found, ids), space, ids


def _encode_vectors(plan: SpacePlan, ids: NDArray[Any]) -> bytes:
    """A serialised `GetEmbeddingsResponse`."""
    space = plan.space
    rows = space.locate(ids)
    if len(rows) and rows[rows.argmax()] < space.meta.rows:  # all found
        raw = space.vectors(rows)
        return b"".join((header(1, raw.nbytes), raw.data, plan.vectors_end))
    found = rows < space.meta.rows
    raw = space.vectors(np.where(found, rows, 0))
    raw[~found] = 0
    bits = bitmap(found)
    dimension = uint(2, space.meta.dimension)
    parts: tuple[Buffer, ...] = (
        header(1, raw.nbytes) if raw.nbytes else b"",
        raw.data,
        dimension,
        delimited(3, bits) if bits else b"",
        plan.vectors_end[len(dimension) :],
    )
    return b"".join(parts)


def _encode_hits(plan: SpacePlan, hits: Hits, found: NDArray[np.bool_] | None, ids: NDArray[Any]) -> bytes:
    """A serialised `SearchResponse`. A query whose id has no vector has no neighbors.

    Args:
        found: which queries have a vector; None: all.
        ids: of the hits.
    """
    bits = b"" if found is None else bitmap(found)
    counts = hits.counts.astype("<u4")
    if bits:
        assert found is not None, "there are no bits of nothing"
        counts = np.zeros(len(found), dtype="<u4")
        counts[found] = hits.counts
    whole = b"".join(
        (
            packed(1, counts),
            delimited(2, encode_ids(ids)),
            packed(3, hits.scores.astype("<f4", copy=False)),
            delimited(4, bits) if bits else b"",
            plan.hits_end,
        )
    )
    if len(whole) > MAX_MESSAGE_BYTES:
        raise TooLarge("request", "bytes in the answer", len(whole), MAX_MESSAGE_BYTES)
    return whole


def _asked(ids: values_pb2.Ids) -> int:
    """How many ids are asked for, rightly or not."""
    return len(ids.int64s.values) + len(ids.strings.values)


def _check_k(k: int, where: str) -> None:
    if not 1 <= k <= MAX_NEIGHBORS:
        raise FieldProblem(f"{where}k", f"found {k:,}, allowed: 1 to {MAX_NEIGHBORS:,}")


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


def _condition(
    space: VectorSpace, message: values_pb2.Ids, name: str, most: int, where: str
) -> dict[str, NDArray[np.int64]]:
    """The rows that a condition names, by its name; nothing where it has no ids."""
    if message.WhichOneof("values") is None:
        return {}
    rows, there = space.find(_ids(space, message, f"{where}{name}", most))
    return {name: rows[there]}


def _queries(
    space: VectorSpace, request: embeddings_pb2.SearchRequest, where: str
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None, NDArray[np.bool_] | None]:
    """The query vectors to search with `(m, d)`, the row each one is, if any, and which of the q queries they are.

    None of the latter: all.
    """
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
    return _checked_vectors(space, np.frombuffer(request.vectors, "<f4"), where), None, None


def _checked_vectors(space: VectorSpace, values: NDArray[np.float32], where: str) -> NDArray[np.float32]:
    """Whole vectors, one after another, as `(q, d)`: not too many, and finite."""
    vectors = values.reshape(-1, space.meta.dimension)
    if len(vectors) > MAX_QUERIES:
        raise TooLarge(f"{where}vectors", "queries", len(vectors), MAX_QUERIES)
    # A sum of squares is finite only where all values are, and quicker to ask; it may overflow where they are.
    if not isfinite(np.vdot(values, values)) and not np.isfinite(values).all():
        raise FieldProblem(f"{where}vectors", "found NaN or infinite values, allowed: finite ones")
    return vectors
