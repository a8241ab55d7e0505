"""Exact 64-bit sums by key, and how they lie in Arrow columns.

No overflow: a unit adds at most 2^31 steps to a coordinate (checked by `calibrate`), so sums of fewer than 2^32 units
fit 64 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.hashing import first_rows, joint_codes

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["by_key", "int_column", "int_matrix", "merged_sums"]

Integers = NDArray[np.int64]
_EXACT = 2**52  # sums in floats are exact up to here


def by_key(place: Integers, values: Integers, n: int) -> Integers:
    """Exact sums of `values` for each place from 0 to n - 1, shape `(n,)`."""
    if not len(values):
        return np.zeros(n, dtype=np.int64)
    if max(abs(int(values.max())), abs(int(values.min()))) * len(values) < _EXACT:
        return np.bincount(place, weights=values, minlength=n).astype(np.int64)
    order = np.argsort(place, kind="stable")
    ordered = place[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sums = np.zeros(n, dtype=np.int64)
    sums[ordered[starts]] = np.add.reduceat(values[order], starts)
    return sums


def int_column(values: Integers) -> pa.Array[Any]:
    """Shape `(n,)` as int64, shape `(n, w)` as lists of int64."""
    import pyarrow as pa

    if values.ndim == 1:
        return pa.array(values, pa.int64())
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).reshape(-1), pa.int64()))


def int_matrix(column: pa.ChunkedArray[Any]) -> Integers:
    """What `int_column` made; a null is a zero, or a row of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values: Any = column.combine_chunks()
    if not pa.types.is_list(values.type):
        return np.asarray((values.fill_null(0) if values.null_count else values).to_numpy(), dtype=np.int64)
    flat = values.flatten().to_numpy().astype(np.int64, copy=False)
    if not values.null_count:
        return np.asarray(flat.reshape(len(values), -1)) if len(values) else flat.reshape(0, 0)
    there = pc.is_valid(values).to_numpy(zero_copy_only=False)
    width = len(flat) // max(1, int(there.sum()))
    matrix = np.zeros((len(values), width), dtype=np.int64)
    matrix[there] = flat.reshape(-1, width) if width else flat.reshape(int(there.sum()), 0)
    return matrix


def merged_sums(table: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    """One row for each key: the sums of its rows. Other columns are int64, or lists of int64 of one width."""
    import pyarrow as pa

    codes, n = joint_codes(table, keys)
    if n == table.num_rows:
        return table
    first = int_column(first_rows(codes, n))
    columns: dict[str, Any] = {name: table.column(name).take(first) for name in keys}
    for name in table.column_names:
        if name in columns:
            continue
        numbers = int_matrix(table.column(name))
        if numbers.ndim == 1:
            columns[name] = int_column(by_key(codes, numbers, n))
        else:
            order = np.argsort(codes, kind="stable")
            starts = np.searchsorted(codes[order], np.arange(n))
            columns[name] = int_column(np.add.reduceat(numbers[order], starts, axis=0))
    return pa.table(columns)
