"""An opened space: look up, search under conditions, leave out what was removed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.rows import PlaceTable
from serving.index.engine import Matrix, Rows, allowed, compare, mapped, nearest, normalise, threads
from serving.index.gpu import Accelerated, accelerated
from serving.index.kinds import IndexKind
from serving.index.layout import (
    IDS,
    INDEX,
    NAMES,
    ORDER,
    PLACES,
    PROBES,
    UNIT,
    VECTORS,
    corrupt,
    read_array,
    read_tags,
    verified,
)
from serving.index.pages import touch
from serving.index.probes import measured
from serving.index.tuning import DEPTHS

__all__ = ["Hits", "VectorSpace"]

_SLACK: Final = 0.02
"""By so much the recall of an index may differ from what was measured at publish, on another processor."""

_STEP_ROWS: Final = 16
"""Rows that a walk compares for each unit of its breadth, about."""

_NO_ROWS: Final[Rows] = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Neighbors of q queries, nearest first, one query after another.

    Attributes:
        counts: `(q,)`, how many each query has.
        rows: `(sum(counts),)`, positions in the space.
        scores: `(sum(counts),)`, larger is nearer.
    """

    counts: NDArray[np.int64]
    rows: Rows
    scores: Matrix


class VectorSpace:
    """An opened space: immutable, mapped, safe to use from many threads at once. FAISS works outside Python's lock.

    Attributes:
        directory: where its files lie.
        meta: what the directory says about itself.
    """

    __slots__ = (
        "_compared", "_gpu", "_ids", "_index", "_l2", "_order", "_places", "_positions", "_removed", "_tags",
        "_vectors", "directory", "meta",
    )  # fmt: skip

    def __init__(self, directory: Path) -> None:
        """Opens a space ready to serve: files verified, pages in memory, recall measured again.

        Raises:
            NotPublished: no such directory.
            PublicationCorrupt: a file is missing or differs from what `meta.json` says, or the index finds less than it
                did at publish.
        """
        self.directory = directory
        self.meta = meta = verified(directory)
        shape = (meta.rows, meta.dimension)
        self._l2 = meta.metric == "l2"
        self._ids: NDArray[Any]
        self._order = _NO_ROWS
        self._places: PlaceTable | None = None
        self._positions: dict[str, int] = {}
        self._removed = _NO_ROWS
        try:
            self._vectors: Matrix = read_array(directory / VECTORS, "<f4", shape)
            unit = directory / UNIT
            self._compared: Matrix = read_array(unit, "<f4", shape) if UNIT in meta.files else self._vectors
            if meta.key_type == "int64":
                self._ids = read_array(directory / IDS, "<i8", shape[:1])
                if PLACES in meta.files:
                    size = meta.files[PLACES][0] // 8
                    self._places = PlaceTable.checked(self._ids, read_array(directory / PLACES, "<i8", (size,)))
                else:
                    self._order = read_array(directory / ORDER, "<i8", shape[:1])
            else:
                names = json.loads((directory / NAMES).read_bytes())
                self._ids = np.array(names, dtype=object)
                self._positions = {name: row for row, name in enumerate(names)}
            self._tags = read_tags(directory)
            probes = min(meta.tuning.probes, meta.rows)
            depth = min(DEPTHS[1], meta.rows - 1) if probes else 0
            truth = read_array(directory / PROBES, "<f4", (probes, depth))
            self._index = mapped(directory / INDEX, meta.index)
            if (len(self._ids), self._index.ntotal, self._index.d) != (meta.rows, *shape):
                raise ValueError("sizes that differ from meta.json")
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise corrupt(directory, type(error).__name__) from None
        touch(tuple(directory / name for name in meta.files))
        self._probe(truth[:, : DEPTHS[0]])
        self._gpu: Accelerated | None = accelerated(self._index, meta.index, self._compared, l2=self._l2)

    def _probe(self, truth: Matrix) -> None:
        """Measures recall again, on one thread: a server that opens this space beside another one is busy."""
        if not truth.size:
            return
        effort = self.meta.tuning.effort(DEPTHS[0])
        with threads(1):
            recall = measured(self._index, self.meta.index, self._compared, truth, effort, l2=self._l2)
        if recall < self.meta.tuning.recall_10 - _SLACK:
            raise corrupt(
                self.directory, f"recall {recall:.3f}, measured {self.meta.tuning.recall_10:.3f} at publish: it"
            )

    # --- reading ---------------------------------------------------------------------------------------------------

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags of the space, sorted."""
        return tuple(self._tags)

    @property
    def removed(self) -> int:
        """How many rows are left out of every answer."""
        return len(self._removed)

    def without(self, ids: NDArray[np.int64] | Sequence[str]) -> VectorSpace:
        """The same space, sharing its pages, in which these ids do not exist. Unknown ids are fine.

        What is removed stays on disk until the space is built anew; see `serving.spaces.remove_vectors`.
        """
        rows, found = self.find(ids)
        other = object.__new__(VectorSpace)
        for name in VectorSpace.__slots__:
            setattr(other, name, getattr(self, name))
        other._removed = np.union1d(self._removed, rows[found])
        return other

    def find(self, ids: NDArray[np.int64] | Sequence[str]) -> tuple[Rows, NDArray[np.bool_]]:
        """Looks ids up.

        Args:
            ids: `(n,)`, int64 or texts as `meta.key_type` says.

        Returns:
            Rows `(n,)`, 0 where not found, and whether each was found, `(n,)`.
        """
        rows = self.locate(ids)
        found = rows < self.meta.rows
        return np.where(found, rows, 0), found

    def locate(self, ids: NDArray[np.int64] | Sequence[str]) -> Rows:
        """The rows of ids, `(n,)`; `meta.rows` where there is none. See `find`."""
        none = self.meta.rows
        if self._places is not None:
            rows = self._places.find(np.asarray(ids, dtype=np.int64))
        elif self.meta.key_type == "int64":
            wanted = np.asarray(ids, dtype=np.int64)
            places = np.minimum(np.searchsorted(self._ids, wanted, sorter=self._order), none - 1)
            rows = self._order[places]
            rows = np.where(self._ids[rows] == wanted, rows, none)
        else:
            rows = np.fromiter((self._positions.get(name, none) for name in ids), np.int64, len(ids))
        return np.where(_among(rows, self._removed), none, rows) if self._removed.size else rows

    def ids(self, rows: Rows) -> NDArray[Any]:
        """The ids of rows: `(n,)` int64, or texts in an object array."""
        return self._ids.take(rows)

    def vectors(self, rows: Rows) -> Matrix:
        """The released vectors of rows, `(n, d)`, a copy."""
        return self._vectors.take(rows, axis=0)

    # --- searching -------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: Matrix,
        k: int,
        *,
        own_rows: Rows | None = None,
        minimum_score: float | None = None,
        exclude: Rows | None = None,
        tags: Sequence[str] = (),
        allow: Rows | None = None,
    ) -> Hits:
        """Finds the nearest rows to each query.

        Args:
            queries: `(q, d)`, finite.
            k: at least 1.
            own_rows: `(q,)`; the row that a query must not return, usually itself.
            minimum_score: only neighbors with at least this score.
            exclude: rows never returned.
            tags: only rows with one of these tags; empty: no condition.
            allow: only these rows; None: no condition.

        Returns:
            At most k neighbors a query. Scores are cosine, dot product, or minus the squared Euclidean distance.
        """
        queries = (
            normalise(queries) if self.meta.metric == "cosine" else np.ascontiguousarray(queries, dtype=np.float32)
        )
        if not len(queries):
            return _hits(np.empty((0, 1), np.float32), np.empty((0, 1), np.int64), minimum_score)
        hidden = self._removed if exclude is None else np.union1d(exclude, self._removed)
        if tags or allow is not None:
            scores, rows = self._selected(queries, k, own_rows, self._eligible(tags, allow, hidden))
        elif len(hidden) or own_rows is not None:
            scores, rows = self._fetched(queries, k, own_rows, hidden)
        else:
            scores, rows = self._nearest(queries, min(k, self.meta.rows), self.meta.tuning.effort(k))
            last = rows[:, -1]
            if last[last.argmin()] < 0:
                scores, rows = self._filled(queries, scores, rows, np.arange(self.meta.rows), None)
            elif minimum_score is None:  # all there, as they mostly are
                return Hits(counts=np.full(len(rows), rows.shape[1]), rows=rows.ravel(), scores=scores.ravel())
        return _hits(scores, rows, minimum_score)

    def _nearest(self, queries: Matrix, k: int, effort: int, selector: Any = None) -> tuple[Matrix, Rows]:
        """Through the index: scores `(q, k)`, larger is nearer, and rows `(q, k)`, -1 where there are fewer."""
        if self._gpu is not None and selector is None and self._gpu.takes(k):
            return self._gpu.nearest(queries, k, effort)
        return nearest(self._index, self.meta.index, self._compared, queries, k, effort, l2=self._l2, selector=selector)

    def _fetched(self, queries: Matrix, k: int, own_rows: Rows | None, hidden: Rows) -> tuple[Matrix, Rows]:
        """More than k, and the hidden ones dropped: as near as without conditions, however near the hidden rows are.

        Queries that are left with too few are asked again for four times as many.
        """
        total = self.meta.rows
        width = min(k, total)
        scores, rows = np.zeros((len(queries), width), np.float32), np.full((len(queries), width), -1, np.int64)
        pending = np.arange(len(queries))
        own = None if own_rows is None else np.asarray(own_rows)
        most = min(k + len(hidden) + (own is not None), total)
        fetch = min(k + (own is not None) + min(len(hidden), max(k, _STEP_ROWS)), most)
        while pending.size:
            effort = self.meta.tuning.effort(fetch if len(hidden) else k)
            some_scores, some_rows = self._nearest(queries[pending], fetch, effort)
            keep = (some_rows >= 0) & ~_among(some_rows, hidden)
            if own is not None:
                keep &= some_rows != own[pending, None]
            scores[pending], rows[pending] = _first(some_scores, some_rows, keep, width)
            if fetch == most:
                break
            pending = pending[keep.sum(axis=1) < width]
            fetch = min(4 * fetch, most)
        if rows[:, -1].min() < 0:
            visible = np.setdiff1d(np.arange(total), hidden, assume_unique=True)
            scores, rows = self._filled(queries, scores, rows, visible, own)
        return scores, rows

    def _selected(self, queries: Matrix, k: int, own_rows: Rows | None, among: Rows) -> tuple[Matrix, Rows]:
        """Only some rows, ascending: by a selector within the index, or one by one where they are few."""
        available = len(among)
        wanted = min(k + (own_rows is not None), available)
        if not wanted:
            return np.empty((len(queries), 1), np.float32), np.full((len(queries), 1), -1, np.int64)
        total, kind = self.meta.rows, self.meta.index
        # So much less of what the index looks at is allowed, so much more it must look at.
        effort = -(-self.meta.tuning.effort(k) * total // available)
        looked_at = total
        if kind.graph:
            looked_at = effort * _STEP_ROWS
        elif kind is not IndexKind.FLAT:
            looked_at = effort * total // self._index.nlist
        if available <= max(looked_at, wanted):
            scores, rows = self._one_by_one(queries, wanted, among)
        else:
            mask = np.zeros(total, dtype=bool)
            mask[among] = True
            scores, rows = self._nearest(queries, wanted, effort, allowed(mask))
        if rows[:, -1].min() < 0:
            scores, rows = self._filled(queries, scores, rows, among, None)
        if own_rows is None:
            return scores, rows
        return _first(scores, rows, (rows >= 0) & (rows != own_rows[:, None]), min(k, wanted))

    def _filled(
        self, queries: Matrix, scores: Matrix, rows: Rows, among: Rows, own: Rows | None
    ) -> tuple[Matrix, Rows]:
        """Queries that came back with too few rows are answered one by one."""
        short, k = np.flatnonzero(rows[:, -1] < 0), rows.shape[1]
        fetch = min(k + (own is not None), len(among))
        if not fetch:
            return scores, rows
        scores, rows = scores.copy(), rows.copy()
        found_scores, found = self._one_by_one(queries[short], fetch, among)
        keep = found >= 0 if own is None else (found >= 0) & (found != own[short, None])
        scores[short], rows[short] = _first(found_scores, found, keep, k)
        return scores, rows

    def _one_by_one(self, queries: Matrix, k: int, among: Rows) -> tuple[Matrix, Rows]:
        scores, rows = compare(queries, self._compared, among, k, l2=self._l2)
        return (-scores if self._l2 else scores), rows

    def _eligible(self, tags: Sequence[str], allow: Rows | None, hidden: Rows) -> Rows:
        """The rows that conditions leave, ascending. The work follows their number, not the space's."""
        rows = _NO_ROWS if allow is None else np.unique(allow)
        if tags:
            tagged = [self._tags[tag] for tag in dict.fromkeys(tags) if tag in self._tags]
            either = tagged[0] if len(tagged) == 1 else np.unique(np.concatenate([_NO_ROWS, *tagged]))
            rows = either if allow is None else rows[_among(rows, either)]
        return rows[~_among(rows, hidden)] if hidden.size else rows


def _among(rows: Rows, ordered: Rows) -> NDArray[np.bool_]:
    """Which rows are in an ascending array."""
    if not ordered.size:
        return np.zeros(rows.shape, bool)
    places = np.minimum(np.searchsorted(ordered, rows), len(ordered) - 1)
    return np.asarray(ordered[places] == rows)


def _first(scores: Matrix, rows: Rows, keep: NDArray[np.bool_], k: int) -> tuple[Matrix, Rows]:
    """The first k kept of each query, in order: `(q, m)` → `(q, k)`, padded with row -1."""
    order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
    kept = np.take_along_axis(keep, order, axis=1)
    found = np.where(kept, np.take_along_axis(rows, order, axis=1), -1)
    values = np.take_along_axis(scores, order, axis=1)
    if (lacking := k - order.shape[1]) > 0:
        found = np.pad(found, ((0, 0), (0, lacking)), constant_values=-1)
        values = np.pad(values, ((0, 0), (0, lacking)))
    return values, found


def _hits(scores: Matrix, rows: Rows, minimum_score: float | None) -> Hits:
    keep = rows >= 0
    if minimum_score is not None:
        keep &= scores >= np.float32(minimum_score)
    return Hits(counts=keep.sum(axis=1), rows=rows[keep], scores=scores[keep])
