"""What requests to a space and its answers have in common, kept for each space of a publication.

As with features (`serving.plans`), the usual requests are read from their bytes: the space's name comes first, and what
is asked for is one run of memory behind it. Everything else is left to protobuf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.limits import MAX_ROWS
from serving.problems import UnknownName, shown
from serving.v1 import embeddings_pb2, values_pb2
from serving.wire import IdRun, delimited, first_field, header, uint

if TYPE_CHECKING:
    from serving.index import VectorSpace
    from serving.state import Published

__all__ = ["SpacePlan", "asked_ids", "asked_neighbors", "space_plan"]

_IDS: Final = embeddings_pb2.GetEmbeddingsRequest.IDS_FIELD_NUMBER
_INTEGERS: Final = values_pb2.Ids.INT64S_FIELD_NUMBER
_QUERIES: Final = header(embeddings_pb2.SearchRequest.VECTORS_FIELD_NUMBER, 0)[:1]
_K: Final = embeddings_pb2.SearchRequest.K_FIELD_NUMBER << 3
_FLOAT: Final = np.dtype("<f4")


def _before(size: int) -> bytes:
    """What stands before the integers of a GetEmbeddingsRequest's ids."""
    values = header(1, size)
    ids = header(_INTEGERS, len(values) + size) + values
    return header(_IDS, len(ids) + size) + ids


_RUN: Final = IdRun(_before, MAX_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpacePlan:
    """A space, ready to answer.

    Attributes:
        space: opened.
        resources: what is read, as access rules name it.
        vectors_end: how a `GetEmbeddingsResponse` ends when all ids were found.
        hits_end: how a `SearchResponse` ends when all queries were answered.
    """

    space: VectorSpace
    resources: tuple[str, ...]
    vectors_end: bytes
    hits_end: bytes


def space_plan(published: Published, name: str, where: str = "") -> SpacePlan:
    """The plan of a space, made once.

    Args:
        where: what a field violation's path begins with.

    Raises:
        UnknownName: no such space.
    """
    key = delimited(1, name.encode())
    plan = published.space_plans.get(key)
    if plan is None:
        space = published.spaces.get(name)
        if space is None:
            problem = f"no embedding space {shown(name)}"
            raise UnknownName(f"{where}space", problem, {own: (own,) for own in published.spaces})
        release = space.meta.release_id.encode()
        plan = published.space_plans[key] = SpacePlan(
            space=space,
            resources=(name,),
            vectors_end=uint(2, space.meta.dimension) + delimited(4, release) + uint(5, published.sequence),
            hits_end=delimited(5, release) + uint(6, published.sequence),
        )
    return plan


def asked_ids(published: Published, data: bytes) -> tuple[SpacePlan, NDArray[np.int64]] | None:
    """Space and integers of a GetEmbeddingsRequest in its wire form; None where it must be parsed."""
    end = first_field(data)
    plan = published.space_plans.get(data[:end])
    if plan is None or plan.space.meta.key_type != "int64":
        return None
    ids = _RUN.find(data, end)
    return None if ids is None else (plan, ids)


def asked_neighbors(published: Published, data: bytes) -> tuple[SpacePlan, NDArray[Any], int] | None:
    """Space, vectors `(q * d,)` and k of a SearchRequest in its wire form; None where it must be parsed.

    It is found where it holds whole vectors and a k of at most 16 bits, and nothing else.
    """
    end = first_field(data)
    plan = published.space_plans.get(data[:end])
    if plan is None or not data.startswith(_QUERIES, end):
        return None
    size, start = _varint(data, end + 1)
    after = start + size
    if size % (4 * plan.space.meta.dimension) or not size or after >= len(data) or data[after] != _K:
        return None
    k, stop = _varint(data, after + 1)
    if stop != len(data):
        return None
    return plan, np.frombuffer(data, _FLOAT, size // 4, start), k


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of up to 21 bits that stands there, and where it ends; 0 and 0 where there is none."""
    value = 0
    for place, byte in enumerate(data[at : at + 3]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return 0, 0
