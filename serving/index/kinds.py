"""Which index for how many vectors, which recall and which memory. Pure functions over numbers.

Measured on two cores, 100,000 × 64, recall@10 at least 0.95 (ADR-0011): a graph over one byte a value is the fastest
index on clustered, correlated and structureless vectors alike, and the only fast one on the latter two. Inverted lists
are as fast only where vectors cluster, but build ten times faster and hold no links, so they take over where a graph
would take hours to build or not fit.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["FLAT_ROWS", "LINKS", "METRICS", "IndexKind", "candidates", "lists", "resident_bytes", "subquantizers"]

METRICS: Final = ("cosine", "dot", "l2")

FLAT_ROWS: Final = 20_000
"""Up to so many rows a scan of all is fast enough, and exact."""

GRAPH_ROWS: Final = 5_000_000
"""Up to so many rows a graph builds in minutes."""

BYTE_LISTS_ROWS: Final = 20_000_000
"""Up to so many rows lists keep a byte a value; beyond, half a byte."""

LINKS: Final = 32
"""Links of a vector in a graph; twice as many on its ground floor."""

_NARROW: Final = 32
_MOST_LISTS: Final = 65_536
_TRAINING_ROWS: Final = 39  # FAISS's least for a list


class IndexKind(StrEnum):
    """How a space is searched."""

    FLAT = "flat"
    """Every vector is compared: exact."""
    HNSW = "hnsw"
    """A graph of neighbors over the vectors themselves."""
    HNSW_SQ8 = "hnsw_sq8"
    """The same graph over one byte a value; what it finds is compared again with the vectors themselves."""
    IVF_SQ8 = "ivf_sq8"
    """Lists of vectors near one centroid, one byte a value, compared again."""
    IVF_PQ = "ivf_pq"
    """Lists, product-quantised to half a byte a value, compared again."""

    @property
    def graph(self) -> bool:
        """Whether effort is the breadth of a walk over a graph."""
        return self is IndexKind.HNSW or self is IndexKind.HNSW_SQ8

    @property
    def compared_again(self) -> int:
        """Candidates fetched for each neighbor and compared with the vectors themselves; 0: scores are exact."""
        if self is IndexKind.IVF_PQ:
            return 16
        return 2 if self is IndexKind.HNSW_SQ8 or self is IndexKind.IVF_SQ8 else 0


def candidates(rows: int, dimension: int, *, recall: float, memory_bytes: int | None = None) -> tuple[IndexKind, ...]:
    """The kinds to try, best first; the first one that reaches the recall is taken.

    Args:
        rows: n.
        dimension: d.
        recall: the declared recall@10, in (0, 1]; 1 asks for an exact search.
        memory_bytes: what the index may keep in memory; None: no limit.

    Returns:
        At least one kind unless nothing fits into `memory_bytes`. Without a limit the last one is exact.
    """
    kinds: tuple[IndexKind, ...]
    if rows <= FLAT_ROWS or recall >= 1:
        kinds = (IndexKind.FLAT,)
    elif rows <= GRAPH_ROWS and dimension < _NARROW:
        kinds = (IndexKind.HNSW, IndexKind.FLAT)
    elif rows <= GRAPH_ROWS:
        kinds = (IndexKind.HNSW_SQ8, IndexKind.HNSW, IndexKind.FLAT)
    elif rows <= BYTE_LISTS_ROWS:
        kinds = (IndexKind.IVF_SQ8, IndexKind.HNSW_SQ8, IndexKind.FLAT)
    else:
        kinds = (IndexKind.IVF_PQ, IndexKind.IVF_SQ8, IndexKind.HNSW_SQ8, IndexKind.FLAT)
    if memory_bytes is None:
        return kinds
    if recall < 1:
        kinds = tuple(dict.fromkeys((*kinds, IndexKind.IVF_SQ8, IndexKind.IVF_PQ)))
    return tuple(kind for kind in kinds if resident_bytes(kind, rows, dimension) <= memory_bytes)


def resident_bytes(kind: IndexKind, rows: int, dimension: int) -> int:
    """What a search keeps in memory, about. Vectors that are only compared again are read by the page: not counted."""
    links = (2 * LINKS + 2) * 4  # a row's links on the ground floor, and its share of the floors above
    row = {
        IndexKind.FLAT: 4 * dimension,
        IndexKind.HNSW: 4 * dimension + links,
        IndexKind.HNSW_SQ8: dimension + links,
        IndexKind.IVF_SQ8: dimension + 8,
        IndexKind.IVF_PQ: subquantizers(dimension) + 8,
    }[kind]
    centroids = 0 if kind.graph or kind is IndexKind.FLAT else 4 * dimension * lists(rows)
    return rows * row + centroids


def lists(rows: int) -> int:
    """How many lists: four times the square root of n, but no more than each has rows to learn from."""
    return max(1, min(int(4 * rows**0.5), rows // _TRAINING_ROWS, _MOST_LISTS))


def subquantizers(dimension: int) -> int:
    """Bytes of a product-quantised vector: one for two values, or for the fewest more that divide d."""
    width = next(width for width in range(min(2, dimension), dimension + 1) if dimension % width == 0)
    return dimension // width
