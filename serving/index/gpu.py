"""The same search on a GPU, where FAISS is built for one and finds one.

Graphs do not exist there, and need not: a GPU compares a query with every vector faster than a processor walks a graph.
So flat and graph spaces are searched exactly, and lists as lists. Conditions (allow-lists, tags) stay on the processor,
whose index is mapped anyway. A GPU index takes one search at a time, so a lock stands before it: it gains by many
queries in one call.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from serving.index.engine import Matrix, Rows, faiss, nearest
from serving.index.kinds import IndexKind

__all__ = ["Accelerated", "accelerated"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_MOST: Final = 2_048


class Accelerated:
    """A copy of an index on a device."""

    __slots__ = ("_index", "_kind", "_l2", "_lock", "_matrix")

    def __init__(
        self, index: Any, kind: IndexKind, matrix: Matrix, *, l2: bool, to_device: Callable[[Any], Any]
    ) -> None:
        """Copies an index to a device.

        Args:
            index: the space's index, of `kind`.
            matrix: `(n, d)`, what candidates are compared with; where `index` is a graph, the flat index's vectors.
            to_device: copies a FAISS index there.

        Raises:
            RuntimeError: the device cannot hold it.
        """
        self._kind = IndexKind.FLAT if kind.graph else kind
        self._matrix, self._l2 = matrix, l2
        if kind.graph:
            index = faiss.IndexFlat(matrix.shape[1], faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT)
            index.add(matrix)
        self._index = to_device(index)
        self._lock = threading.Lock()

    def takes(self, k: int) -> bool:
        """Whether the device selects so many: FAISS's kernels end at 2,048."""
        return k * max(1, self._kind.compared_again) <= _MOST

    def nearest(self, queries: Matrix, k: int, effort: int) -> tuple[Matrix, Rows]:
        """As `engine.nearest`, without a selector; a flat copy is exact whatever the effort."""
        with self._lock:
            return nearest(self._index, self._kind, self._matrix, queries, k, min(effort, _MOST), l2=self._l2)


def accelerated(index: Any, kind: IndexKind, matrix: Matrix, *, l2: bool) -> Accelerated | None:
    """The index on the first GPU; None where there is none, or where it does not fit (which is logged)."""
    if not faiss.get_num_gpus():
        return None
    resources = faiss.StandardGpuResources()
    try:
        return Accelerated(
            index,
            kind,
            matrix,
            l2=l2,
            to_device=lambda ours: faiss.index_cpu_to_gpu(resources, 0, ours),
        )
    except RuntimeError as error:
        _LOG.warning("the GPU does not take the %s index (%s): searching on the processor", kind, type(error).__name__)
        return None
