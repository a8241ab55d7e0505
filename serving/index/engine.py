"""The few FAISS calls that everything else is made of: build, map, walk, compare. No state, no policy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from serving.index.kinds import LINKS, IndexKind, lists, subquantizers

__all__ = [
    "Matrix",
    "Rows",
    "allowed",
    "compare",
    "compare_each",
    "faiss",
    "mapped",
    "nearest",
    "normalise",
    "scan",
    "single_threaded",
    "threads",
    "trained",
    "walk",
]

faiss: Any = _faiss  # its type stubs describe the C++ functions, not the Python ones

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]
Found = tuple[Matrix, Rows]
"""Scores and rows, both `(q, k)`, best first; row -1 where there are fewer."""

_CLASSES: Final = {
    IndexKind.FLAT: "IndexFlat",
    IndexKind.HNSW: "IndexHNSWFlat",
    IndexKind.HNSW_SQ8: "IndexHNSWSQ",
    IndexKind.IVF_SQ8: "IndexIVFScalarQuantizer",
    IndexKind.IVF_PQ: "IndexIVFPQ",
}
_BUILD_BREADTH: Final = 64
_CODE_ROWS: Final = 100_000
_CLUSTER_ROUNDS: Final = 8
_CLUSTER_ROWS: Final = 48
_SEED: Final = 20251103


def single_threaded() -> None:
    """Makes FAISS use only the calling thread in calls from it; a server's parallelism is its requests."""
    faiss.omp_set_num_threads(1)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """FAISS calls from this thread use so many threads until the block ends."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def normalise(matrix: Matrix) -> Matrix:
    """The rows at Euclidean length 1, a copy; a row of zeros stays."""
    unit = np.array(matrix, dtype=np.float32, order="C")
    faiss.fvec_renorm_L2(unit.shape[1], len(unit), faiss.swig_ptr(unit))
    return unit


# --- building --------------------------------------------------------------------------------------------------


def trained(kind: IndexKind, matrix: Matrix, *, l2: bool, rows: int) -> Any:
    """An empty index that has learnt its codes.

    Args:
        matrix: `(n, d)`, what there is to learn from; a seeded sample is taken.
        l2: by Euclidean distance; else by inner product.
        rows: how many vectors it will hold.
    """
    dimension, measure = matrix.shape[1], faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT
    byte = faiss.ScalarQuantizer.QT_8bit
    learn = _CODE_ROWS
    match kind:
        case IndexKind.FLAT:
            return faiss.IndexFlat(dimension, measure)
        case IndexKind.HNSW:
            index = faiss.IndexHNSWFlat(dimension, LINKS, measure)
        case IndexKind.HNSW_SQ8:
            index = faiss.IndexHNSWSQ(dimension, byte, LINKS, measure)
        case _:
            learn = _CLUSTER_ROWS * lists(rows)
            index = _inverted(kind, dimension, lists(rows), measure)
    if kind.graph:
        index.hnsw.efConstruction = _BUILD_BREADTH
    if not index.is_trained:
        few = min(learn, len(matrix))
        picked = np.random.default_rng(_SEED).choice(len(matrix), few, replace=False)
        index.train(matrix[np.sort(picked)])
    return index


def _inverted(kind: IndexKind, dimension: int, number: int, measure: int) -> Any:
    coarse = faiss.IndexFlat(dimension, measure)
    if kind is IndexKind.IVF_SQ8:
        index = faiss.IndexIVFScalarQuantizer(coarse, dimension, number, faiss.ScalarQuantizer.QT_8bit, measure)
    else:
        index = faiss.IndexIVFPQ(coarse, dimension, number, subquantizers(dimension), 8, measure)
        index.pq.cp.niter = _CLUSTER_ROUNDS
        index.pq.cp.max_points_per_centroid = _CLUSTER_ROWS
        index.pq.cp.min_points_per_centroid = 1
    index.own_fields = True
    coarse.this.disown()
    index.cp.niter = _CLUSTER_ROUNDS
    index.cp.max_points_per_centroid = _CLUSTER_ROWS
    index.cp.min_points_per_centroid = 1
    return index


def mapped(path: Path, kind: IndexKind) -> Any:
    """The index in a file: its codes, links and lists stay in the file's pages, shared between processes.

    Raises:
        RuntimeError: not an index that FAISS reads.
        ValueError: an index of another kind.
    """
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    if not isinstance(index, getattr(faiss, _CLASSES[kind])):
        raise ValueError(type(index).__name__)
    return index


# --- searching -------------------------------------------------------------------------------------------------


def allowed(mask: NDArray[np.bool_]) -> Any:
    """A selector of the rows where the mask `(n,)` is true."""
    bits = np.packbits(mask, bitorder="little")
    return faiss.IDSelectorBitmap(bits)


def walk(index: Any, kind: IndexKind, queries: Matrix, k: int, effort: int, selector: Any = None) -> Found:
    """The index's own answer, with its own scores: larger inner product first, or smaller squared distance first.

    Args:
        queries: `(q, d)`, C order.
        effort: breadth of the walk (graphs) or lists looked into; flat: not used.
        selector: only these rows.
    """
    effort = max(effort, k) if kind.graph else effort
    parameters = _unconditional(kind, effort) if selector is None else _parameters(kind, effort, selector)
    scores: Matrix = np.empty((len(queries), k), np.float32)
    rows: Rows = np.empty((len(queries), k), np.int64)
    pointer = faiss.swig_ptr
    index.search_c(len(queries), pointer(queries), k, pointer(scores), pointer(rows), parameters)
    return scores, rows


def _parameters(kind: IndexKind, effort: int, selector: Any) -> Any:
    match kind:
        case IndexKind.FLAT:
            return faiss.SearchParameters(sel=selector)
        case IndexKind.HNSW | IndexKind.HNSW_SQ8:
            return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        case IndexKind.IVF_SQ8:
            return faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        case _:
            return faiss.IVFPQSearchParameters(nprobe=effort, sel=selector)


@lru_cache(maxsize=1024)
def _unconditional(kind: IndexKind, effort: int) -> Any:
    """Made once and only ever read: making them takes as long as a short walk."""
    return _parameters(kind, effort, None)


def nearest(
    index: Any,
    kind: IndexKind,
    matrix: Matrix,
    queries: Matrix,
    k: int,
    effort: int,
    *,
    l2: bool,
    selector: Any = None,
) -> tuple[Matrix, Rows]:
    """What the index finds, with exact scores.

    Args:
        matrix: `(n, d)`, the vectors that candidates are compared with again.
        queries: `(q, d)`, C order.
        effort: see `engine.walk`.
        selector: only these rows.

    Returns:
        Scores `(q, k)`, larger is nearer, and rows `(q, k)`, -1 where there are fewer (their scores mean nothing).
    """
    again = kind.compared_again
    scores, rows = walk(index, kind, queries, min(max(again, 1) * k, len(matrix)), effort, selector)
    if again:
        scores, rows = compare_each(queries, matrix, rows, k, l2=l2)
    return (-scores if l2 else scores), rows


def compare_each(queries: Matrix, matrix: Matrix, among: Rows, k: int, *, l2: bool) -> Found:
    """Each query against its own rows, exactly.

    Args:
        queries: `(q, d)`, C order.
        matrix: `(n, d)`, C order.
        among: `(q, m)`, C order; a row of -1 ends a query's rows.
    """
    return _by_rows(queries, matrix, among, among.shape[1], among.shape[1], k, l2=l2)


def compare(queries: Matrix, matrix: Matrix, among: Rows, k: int, *, l2: bool) -> Found:
    """All queries against the same rows `among` `(m,)`, exactly; nothing is copied."""
    return _by_rows(queries, matrix, among, len(among), 0, k, l2=l2)


def _by_rows(queries: Matrix, matrix: Matrix, among: Rows, number: int, stride: int, k: int, *, l2: bool) -> Found:
    scores: Matrix = np.empty((len(queries), k), np.float32)
    rows: Rows = np.empty((len(queries), k), np.int64)
    pointer = faiss.swig_ptr
    compute = faiss.knn_L2sqr_by_idx if l2 else faiss.knn_inner_products_by_idx
    compute(
        pointer(queries),
        pointer(matrix),
        pointer(among),
        matrix.shape[1],
        len(queries),
        len(matrix),
        number,
        k,
        pointer(scores),
        pointer(rows),
        stride,
    )
    return scores, rows


def scan(queries: Matrix, matrix: Matrix, k: int, *, l2: bool) -> Found:
    """All queries against all rows of a matrix, exactly."""
    scores, rows = faiss.knn(queries, matrix, k, faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT)
    return scores, rows
