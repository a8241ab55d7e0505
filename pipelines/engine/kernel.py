"""Bounds the contributions of many whole units at once: vectorised over Arrow columns, no Spark.

Input are the rows of some units, all rows of each of them; output are exact sums over their bounded contributions.

    unit        which privacy unit: dense codes 0, 1, 2, ... (dictionary encoding)
    __p         the partition's rank for this unit: a salted hash, the same on every row of (unit, partition)
    __k0 ..     the partition's key
    __row       a row's rank, absent where only rows count
    __v0 ..     its values' codes; where they fit, they are packed into the lower 31 bits of `__row` instead

One sort by (unit, rank of partition) puts the rows of a partition together and the partitions of a unit in the order of
their ranks, so "the first L0 partitions of each unit" and "the m lowest rows of each partition" are runs in sorted
order.

The sort key holds the unit's code and the upper bits of the partition's rank in one 64-bit word. Two partitions of
one unit that share those bits would run together: that is looked for, and then an exact sort by the full rank and the
key decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bounds", "bounded_sums"]

CODE_BITS = 31
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the kernel needs to know of a signal.

    Attributes:
        units: names of the unit columns.
        keys: names of the key columns.
        max_partitions: L0.
        max_rows: rows of a unit kept in a partition.
        value_bits: bits of each value's code, the first one highest in `__row`; empty where only rows count.
    """

    units: tuple[str, ...]
    keys: tuple[str, ...]
    max_partitions: int
    max_rows: int
    value_bits: tuple[int, ...]

    @property
    def packed(self) -> bool:
        """Whether the codes fit below the rank in `__row`."""
        return sum(self.value_bits) <= CODE_BITS

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values."""
        return tuple(f"__v{i}" for i in range(len(self.value_bits)))

    @property
    def totals(self) -> tuple[str, ...]:
        """Names of the sums that come out."""
        return ("__units", "__rows", *self.values)


def bounded_sums(table: pa.Table, bounds: Bounds) -> pa.Table:
    """Sums over the bounded contributions of the units in `table`.

    Args:
        table: all rows of these units, in any order; `__p` int64, `__row` int64 if there are values.

    Returns:
        One row for each key: the key columns, `__units`, `__rows` and `__v0 ..` (int64 sums of codes).
    """
    import pyarrow as pa

    order, starts, unit = _grouped(table, bounds)
    # Position of each (unit, partition) among the partitions of its unit.
    first = np.flatnonzero(np.concatenate([[True], unit[1:] != unit[:-1]])) if len(unit) else np.zeros(0, np.int64)
    position = np.arange(len(unit)) - np.repeat(first, np.diff(np.append(first, len(unit))))
    kept = position < bounds.max_partitions

    stops = np.append(starts[1:], len(order))
    columns: dict[str, Any] = {key: table.column(key).take(_arrow(order[starts[kept]])) for key in bounds.keys}
    columns["__units"] = np.ones(int(kept.sum()), dtype=np.int64)
    columns["__rows"] = np.minimum(stops - starts, bounds.max_rows)[kept].astype(np.int64)
    for name, sums in zip(bounds.values, _value_sums(table, order, starts, stops, bounds), strict=True):
        columns[name] = sums[kept]
    grouped = pa.table(columns).group_by(list(bounds.keys), use_threads=False)
    summed = grouped.aggregate([(name, "sum") for name in bounds.totals])
    return summed.rename_columns({f"{name}_sum": name for name in bounds.totals}).select([*bounds.keys, *bounds.totals])


def _grouped(table: pa.Table, bounds: Bounds) -> tuple[Indices, Indices, Indices]:
    """Rows in order of (unit, partition rank), where each (unit, partition) starts, and each one's unit."""
    codes = _unit_codes(table, bounds.units)
    ranks = table.column("__p").to_numpy().view(np.uint64) ^ np.uint64(1 << 63)  # signed order as unsigned
    bits = max(1, int(codes.max(initial=0)).bit_length())
    word = (codes.astype(np.uint64) << np.uint64(64 - bits)) | (ranks >> np.uint64(bits))
    order = np.argsort(word)
    changes = word[order][1:] != word[order][:-1]
    if _runs_mix_partitions(table, bounds, order, changes, ranks):
        order = _exact_order(table, bounds, codes, ranks)
        changes = _key_changes(table, bounds, order) | (codes[order][1:] != codes[order][:-1])
    starts = np.flatnonzero(np.concatenate([[True], changes])) if len(order) else np.zeros(0, np.int64)
    return order, starts, codes[order[starts]]


def _unit_codes(table: pa.Table, units: Sequence[str]) -> Indices:
    """Dense codes of the units: equal exactly where all unit columns are."""
    codes = _codes(table.column(units[0]))
    for name in units[1:]:
        more = _codes(table.column(name))
        _, codes = np.unique(codes * (int(more.max(initial=0)) + 1) + more, return_inverse=True)
    return codes


def _codes(column: pa.ChunkedArray[Any]) -> Indices:
    encoded: Any = column.combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(), dtype=np.int64)


def _arrow(indices: Indices) -> pa.Int64Array:
    import pyarrow as pa

    return pa.array(indices, pa.int64())


def _runs_mix_partitions(
    table: pa.Table, bounds: Bounds, order: Indices, changes: NDArray[np.bool_], ranks: NDArray[np.uint64]
) -> bool:
    """Whether a run of equal words holds two partitions: different full ranks, or one rank for two keys."""
    same = ~changes
    sorted_ranks = ranks[order]
    if np.any(same & (sorted_ranks[1:] != sorted_ranks[:-1])):
        return True
    return bool(np.any(same & _key_changes(table, bounds, order)))


def _key_changes(table: pa.Table, bounds: Bounds, order: Indices) -> NDArray[np.bool_]:
    """Between which neighbors in this order the key differs."""
    changes = np.zeros(max(0, len(order) - 1), dtype=np.bool_)
    for key in bounds.keys:
        codes = _codes(table.column(key))[order]
        changes |= codes[1:] != codes[:-1]
    return changes


def _exact_order(table: pa.Table, bounds: Bounds, codes: Indices, ranks: NDArray[np.uint64]) -> Indices:
    """Order by unit, full rank, then key: what the shortened word stands for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns: dict[str, Any] = {"unit": pa.array(codes), "rank": pa.array(ranks)}
    columns |= {f"key{i}": table.column(key) for i, key in enumerate(bounds.keys)}
    indices = pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in columns])
    return np.asarray(indices.to_numpy(), dtype=np.int64)


def _value_sums(table: pa.Table, order: Indices, starts: Indices, stops: Indices, bounds: Bounds) -> list[Indices]:
    """For each (unit, partition), the sum of each value's codes over its `max_rows` lowest rows."""
    if not bounds.value_bits:
        return []
    if not len(starts):
        return [np.zeros(0, dtype=np.int64) for _ in bounds.values]
    rows: Indices = table.column("__row").to_numpy()[order]
    if bounds.packed and bounds.max_rows == 1:
        return _unpacked(np.minimum.reduceat(rows, starts), bounds.value_bits)
    group = np.repeat(np.arange(len(starts)), stops - starts)
    if bounds.packed:
        within = np.lexsort((rows, group))
        codes = _unpacked(rows[within], bounds.value_bits)
    else:
        values = [table.column(name).to_numpy()[order] for name in bounds.values]
        within = np.lexsort((*reversed(values), rows, group))
        codes = [value[within] for value in values]
    chosen = np.arange(len(rows)) - np.repeat(starts, stops - starts) < bounds.max_rows
    return [np.add.reduceat(np.where(chosen, code, 0), starts) for code in codes]


def _unpacked(rows: Indices, value_bits: Sequence[int]) -> list[Indices]:
    codes, offset = [], CODE_BITS
    for bits in value_bits:
        offset -= bits
        codes.append((rows >> offset) & ((1 << bits) - 1))
    return codes
