"""What each unit adds to each partition, scaled where `ClipNorm` asks for it, and summed by key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.bounds import Bounds, Sum
from pipelines.engine.sums import by_key, int_column
from pipelines.measurements import TREE_FANOUT, WEIGHTS, MeasureKind

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Codes", "Indices", "Pairs", "Rows", "Weights", "matrix_of", "summed"]

Indices = NDArray[np.int64]
_BATCH_CELLS = 2**22


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """The codes of sorted rows.

    Attributes:
        bits: of each code; 0 for a vector, which is not here.
        words: all codes of a row in the lowest bits of one word, the first one uppermost; None: in columns.
        columns: one array for each code where they do not fit a word; an empty one for a vector.
    """

    bits: tuple[int, ...]
    words: Indices | None = None
    columns: tuple[Indices, ...] = ()

    def of(self, code: int) -> Indices:
        """One code of every row, shape `(n,)`."""
        if self.words is None:
            return self.columns[code]
        return (self.words >> sum(self.bits[code + 1 :])) & ((1 << self.bits[code]) - 1)

    def at(self, rows: Indices) -> Codes:
        """The codes of some rows."""
        if self.words is not None:
            return Codes(bits=self.bits, words=self.words[rows])
        columns = tuple(column[rows] if len(column) else column for column in self.columns)
        return Codes(bits=self.bits, columns=columns)


@dataclass(slots=True, kw_only=True)
class Rows:
    """Rows sorted by (unit, key), equal codes side by side; each (unit, key) is a pair."""

    codes: Codes
    order: Indices | None
    """Where each row was, if it has to be known."""
    starts: Indices
    """Where each pair starts."""
    stops: Indices
    units: Indices
    """Dense unit of each pair; pairs of one unit are side by side."""
    keys: Indices
    """Dense key of each pair."""


def matrix_of(table: pa.Table, position: int) -> NDArray[np.int32]:
    """A vector code's rows, shape `(n, d)`."""
    column: Any = table.column(f"__v{position}").combine_chunks()
    return np.asarray(column.flatten().to_numpy()).reshape(len(column), -1)


@dataclass(slots=True, kw_only=True)
class Pairs:
    """Contributions of each (unit, partition)."""

    table: pa.Table
    rows: Rows
    chosen: NDArray[np.bool_] | None

    def values(self, one: Sum) -> Indices:
        """A plain number for each pair, before scaling."""
        starts, stops = self.rows.starts, self.rows.stops
        if one.kind is MeasureKind.UNITS:
            return np.full(len(starts), one.steps, dtype=np.int64)
        if one.kind is MeasureKind.ROWS:
            return self._row_counts() * one.steps
        codes = self.rows.codes.of(one.code) + one.offset
        if one.kind is MeasureKind.CENTRED_SQUARES:
            codes = codes * codes - one.centre
        if self.chosen is not None:
            codes = np.where(self.chosen, codes, 0)
        return np.add.reduceat(codes, starts) if len(starts) < int(stops[-1]) else codes

    def _row_counts(self) -> Indices:
        if self.chosen is None:
            return self.rows.stops - self.rows.starts
        return np.add.reduceat(self.chosen.astype(np.int64), self.rows.starts)

    def rows_kept(self) -> tuple[Indices, Indices]:
        """The rows that count (sorted places) and the pair of each."""
        pair = np.repeat(np.arange(len(self.rows.starts)), self.rows.stops - self.rows.starts)
        if self.chosen is None:
            return np.arange(len(pair)), pair
        places = np.flatnonzero(self.chosen)
        return places, pair[places]

    def bins(self, one: Sum) -> tuple[Indices, Indices, Indices]:
        """(pair, bin, rows) for each bin of each pair that has some."""
        places, pair = self.rows_kept()
        index = self.rows.codes.at(places).of(one.code)
        inside = index < one.width
        cells, found = np.unique(pair[inside] * one.width + index[inside], return_counts=True)
        return cells // one.width, cells % one.width, found.astype(np.int64)

    def vectors(self, one: Sum) -> tuple[Indices, NDArray[np.int64]]:
        """The pairs, and the sum of each one's vectors, shape `(pairs, d)`."""
        assert self.rows.order is not None
        places, pair = self.rows_kept()
        matrix = matrix_of(self.table, one.code)[self.rows.order[places]].astype(np.int64)
        starts = np.flatnonzero(np.concatenate([[True], pair[1:] != pair[:-1]]))
        return pair[starts], np.add.reduceat(matrix, starts, axis=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Selection weights of n (unit, key) pairs.

    Attributes:
        keys: dense key of each.
        over_all: what its unit gives it, float64 `(n,)`; each unit's have norm 1.
        over_open: the same over the keys that no first round found; 0 for those that it did.
    """

    keys: Indices
    over_all: NDArray[np.float64]
    over_open: NDArray[np.float64]

    def of(self, kind: MeasureKind) -> NDArray[np.float64]:
        """Those of a first round, or of the only or second one."""
        return self.over_all if kind is MeasureKind.FIRST_WEIGHT else self.over_open


def summed(bounds: Bounds, pairs: Pairs, weights: Weights, names: dict[str, pa.Array[Any]]) -> Iterator[pa.RecordBatch]:
    """The sums of every key that some unit keeps, in batches of bounded size."""
    import pyarrow as pa

    keys, weighted = pairs.rows.keys, weights.keys
    there = np.zeros(len(next(iter(names.values()))), dtype=np.bool_)
    there[keys] = there[weighted] = True
    present = np.flatnonzero(there)
    place = np.cumsum(there) - 1
    at, n = place[keys], len(present)
    factors = _clip_factors(pairs, bounds) if bounds.norm else None
    arrays: list[Any] = []
    for one in bounds.sums:
        if one.kind in WEIGHTS:
            each = np.floor(one.steps * weights.of(one.kind)).astype(np.int64)
            arrays.append(by_key(place[weighted], each, n))
        elif one.wide:
            arrays.append(_wide_sums(pairs, one, at, n, factors))
        elif one.kind is MeasureKind.UNITS and factors is None:
            arrays.append(np.bincount(at, minlength=n) * one.steps)
        else:
            arrays.append(by_key(at, _scaled(pairs.values(one), one, factors), n))
    cells = max(1, *(one.width for one in bounds.sums))
    size = max(1, _BATCH_CELLS // cells)
    for start in range(0, n, size):
        chunk = int_column(present[start : start + size])
        columns: list[pa.Array[Any]] = [values.take(chunk) for values in names.values()]
        columns += [int_column(array[start : start + size]) for array in arrays]
        labels = [*names, *(f"__m{i}" for i in range(len(arrays)))]
        yield pa.RecordBatch.from_arrays(columns, names=labels)


def _wide_sums(pairs: Pairs, one: Sum, at: Indices, n: int, factors: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """Sums of a measurement with several coordinates, shape `(n, width)`."""
    sums = np.zeros((n, one.width), dtype=np.int64)
    if one.kind is MeasureKind.VECTOR:
        pair, vectors = pairs.vectors(one)
        if factors is not None:
            vectors = np.trunc(vectors * factors[pair][:, None]).astype(np.int64)
        np.add.at(sums, at[pair], vectors)
        return sums
    pair, index, found = pairs.bins(one)
    values = found * one.steps
    if factors is not None:
        values = np.trunc(values * factors[pair]).astype(np.int64)
    cells = at[pair] * one.width + index
    np.add.at(sums.reshape(-1), cells, values)
    return sums


# --- ClipNorm ---------------------------------------------------------------------------------------------------------


def _clip_factors(pairs: Pairs, bounds: Bounds) -> NDArray[np.float64]:
    """For each pair, by how much its unit's whole vector is scaled: `min(1, l2 / norm)`.

    Scaled values are rounded towards zero, so no coordinate grows and the norm stays below l2; the factor is lowered by
    one part in 10^9 against rounding in the norm itself.
    """
    rows = pairs.rows
    squares = np.zeros(len(rows.starts))
    for one in bounds.sums:
        if not one.clip_scale:
            continue
        if one.kind is MeasureKind.VECTOR:
            pair, vectors = pairs.vectors(one)
            squares[pair] += np.square(vectors / one.clip_scale).sum(axis=1)
        elif one.wide:
            pair, _, found = pairs.bins(one)
            levels = _levels(one)
            squares += np.bincount(pair, np.square(found * (one.steps / one.clip_scale)), len(squares))
            for fanout in levels:
                _, upper, more = _merged(pairs, one, fanout)
                squares += np.bincount(upper, np.square(more * (one.steps / one.clip_scale)), len(squares))
        else:
            squares += np.square(pairs.values(one) / one.clip_scale)
    norms = np.sqrt(np.bincount(rows.units, squares))
    factors = np.minimum(1.0, bounds.norm * (1 - 1e-9) / np.maximum(norms, 1e-300))
    return np.asarray(factors[rows.units])


def _levels(one: Sum) -> list[int]:
    """How many leaves a node of each upper level of a tree has."""
    leaves, levels = TREE_FANOUT, []
    while one.kind is MeasureKind.TREE and leaves < one.width:
        levels.append(leaves)
        leaves *= TREE_FANOUT
    return levels


def _merged(pairs: Pairs, one: Sum, leaves: int) -> tuple[Indices, Indices, Indices]:
    """(node, pair, rows) of an upper level of a tree."""
    pair, index, found = pairs.bins(one)
    width = -(-one.width // leaves)
    cells, inverse = np.unique(pair * width + index // leaves, return_inverse=True)
    return cells % width, cells // width, np.bincount(inverse, found).astype(np.int64)


def _scaled(values: Indices, one: Sum, factors: NDArray[np.float64] | None) -> Indices:
    if factors is None or not one.clip_scale:
        return values
    return np.trunc(values * factors).astype(np.int64)
