"""Bounds the contributions of many whole units at once and sums what is left: NumPy over Arrow columns, no Spark.

Input are the rows of some units, all rows of each of them; output are exact sums over their bounded contributions.

    __u0 ..     which privacy unit
    __k0 ..     the partition's key
    __v0 ..     the row's codes (`pipelines.measurements.Code`), one column each; a vector is a list of d integers

What is kept, under `KeepRandom`. Of each unit the L0 partitions with the smallest salted hash of (unit, key). Of each
(unit, partition) the m rows with the smallest salted hash of (unit, key, codes, j), where j = 0, 1, ... numbers the
unit's rows that are equal in all of that: equal rows are interchangeable, so this is uniform over rows, duplicates
included, and depends on nothing but the unit's own rows as a multiset. Ties of hashes are decided by the contents.

How it is fast. Units, keys and codes become dense integers, and where they fit into 64 bits together, one sort of plain
words puts a partition's rows side by side; otherwise a sort by columns does. Hashes are computed only for what has to
be cut. Where hashes are shortened to fit a word, a tie falls back to the full hashes and then to the contents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.bounds import Bounds, Salts, Sum
from pipelines.engine.contributions import Codes, Indices, Pairs, Rows, Weights, matrix_of, summed
from pipelines.engine.hashing import (
    Hashes,
    content_hashes,
    dense_codes,
    first_rows,
    joint_codes,
    mixed_with,
    row_hashes,
)
from pipelines.engine.sums import int_column

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bounds", "Salts", "Sum", "bounded_sums"]


def bounded_sums(table: pa.Table, bounds: Bounds) -> Iterator[pa.RecordBatch]:
    """Sums over the bounded contributions of the units in `table`.

    Args:
        table: all rows of these units, in any order, without nulls.
        bounds: the bounds and the measurements.

    Yields:
        Each key once: the key columns, and `__m0 ..` (int64, or lists of int64 of a wide measurement's width).
    """
    if not table.num_rows:
        return
    units, unit_hashes, _ = _dense(table, [f"__u{i}" for i in range(bounds.units)], bounds.salts.partitions)
    keys, key_hashes, names = _dense(table, bounds.key_names, bounds.salts.partitions + 1)
    rows = _sorted(table, bounds, units, keys)
    pair_hashes = mixed_with(unit_hashes[rows.units], key_hashes[rows.keys])
    position, counts = _positions(rows, pair_hashes, bounds, names)
    weights = _weights(rows, bounds, position, counts, names)
    if bounds.max_partitions is not None and int(counts.max()) > bounds.max_partitions:
        kept = np.flatnonzero(position < bounds.max_partitions)
        rows, pair_hashes = _restricted(rows, kept), pair_hashes[kept]
    chosen = _chosen_rows(rows, pair_hashes, bounds, table)
    yield from summed(bounds, Pairs(table=table, rows=rows, chosen=chosen), weights, names)


# --- who is who -------------------------------------------------------------------------------------------------------


def _dense(table: pa.Table, columns: Sequence[str], salt: int) -> tuple[Indices, Hashes, dict[str, pa.Array[Any]]]:
    """Dense codes of rows that are equal in `columns`, and by code the hash of the contents and the columns."""
    if len(columns) == 1:
        codes, values = dense_codes(table.column(columns[0]))
        return codes, content_hashes(values, salt), {columns[0]: values}
    codes, n = joint_codes(table, columns)
    distinct = table.select(columns).take(int_column(first_rows(codes, n)))
    return codes, row_hashes(distinct, columns, salt), {name: _plain(distinct.column(name)) for name in columns}


def _plain(column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    values: Any = column.combine_chunks()
    decoded: pa.Array[Any] = values.dictionary_decode() if hasattr(values, "dictionary_decode") else values
    return decoded


# --- sorting ----------------------------------------------------------------------------------------------------------


def _sorted(table: pa.Table, bounds: Bounds, units: Indices, keys: Indices) -> Rows:
    unit_bits = int(units.max()).bit_length()
    key_bits = int(keys.max()).bit_length()
    vectors = any(bits == 0 for bits in bounds.bits)
    code_bits = sum(bounds.bits)
    order: Indices | None = None
    if not vectors and unit_bits + key_bits + code_bits <= 63:
        word = units << key_bits
        word |= keys
        for i, bits in enumerate(bounds.bits):
            word <<= bits
            word |= table.column(f"__v{i}").to_numpy()
        word.sort()
        codes = Codes(bits=bounds.bits, words=word)
        pairs = word >> code_bits
    else:
        columns = [_narrow(table, i) if bits else _vector_order(table, i) for i, bits in enumerate(bounds.bits)]
        order = np.lexsort((*reversed(columns), keys, units))
        narrow = (
            column[order] if bits else np.zeros(0, np.int64) for column, bits in zip(columns, bounds.bits, strict=True)
        )
        codes = Codes(bits=bounds.bits, columns=tuple(narrow))
        pairs = (units[order] << key_bits) | keys[order]
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]]))
    first = pairs[starts]
    return Rows(
        codes=codes,
        order=order,
        starts=starts,
        stops=np.append(starts[1:], len(pairs)),
        units=first >> key_bits,
        keys=first & ((1 << key_bits) - 1),
    )


def _narrow(table: pa.Table, position: int) -> Indices:
    return table.column(f"__v{position}").to_numpy().astype(np.int64, copy=False)


def _vector_order(table: pa.Table, position: int) -> Indices:
    """Ranks of vectors by content: equal exactly where vectors are."""
    matrix = matrix_of(table, position)
    rows = np.ascontiguousarray(matrix).view(np.dtype((np.void, matrix.dtype.itemsize * matrix.shape[1]))).ravel()
    return np.unique(rows, return_inverse=True)[1].astype(np.int64)


# --- partitions of a unit ---------------------------------------------------------------------------------------------


def _positions(rows: Rows, hashes: Hashes, bounds: Bounds, names: dict[str, pa.Array[Any]]) -> tuple[Indices, Indices]:
    """Each pair's rank among the partitions of its unit, from 0, and how many partitions its unit has.

    Ranks are told only where some unit has more partitions than are kept; elsewhere any order will do.
    """
    firsts = np.flatnonzero(np.concatenate([[True], rows.units[1:] != rows.units[:-1]]))
    sizes = np.diff(np.append(firsts, len(rows.units)))
    counts = np.repeat(sizes, sizes)
    position = np.arange(len(rows.units)) - np.repeat(firsts, sizes)
    limits = [limit for limit in (bounds.max_partitions, bounds.max_weighted or None) if limit is not None]
    if not limits or int(sizes.max()) <= min(limits):
        return position, counts
    crowded = np.flatnonzero(counts > min(limits))
    order = _order_by_hash(rows.units[crowded], hashes[crowded], lambda: _content_ranks(rows.keys[crowded], names))
    ranked = crowded[order]
    ranks = np.empty(len(position), dtype=np.int64)
    # Pairs of one unit fill the same places in both orders, so the places' positions are the ranks.
    ranks[ranked] = position[crowded]
    position[crowded] = ranks[crowded]
    return position, counts


def _order_by_hash(groups: Indices, hashes: Hashes, ties: Any) -> Indices:
    """Order by (group, hash); `ties` gives the rank of contents where hashes are equal.

    `groups` ascend already. One sort of words that hold the group, the hash's upper bits and the index.
    """
    n = len(groups)
    dense = np.cumsum(np.concatenate([[0], (groups[1:] != groups[:-1]).astype(np.int64)])).astype(np.uint64)
    group_bits, index_bits = int(dense[-1]).bit_length(), max(1, (n - 1).bit_length())
    hash_bits = 64 - group_bits - index_bits
    if hash_bits >= 20:
        shift = np.uint64(index_bits)
        word = hashes >> np.uint64(group_bits + index_bits) << shift
        if group_bits:
            word |= dense << np.uint64(64 - group_bits)
        word |= np.arange(n, dtype=np.uint64)
        word.sort()
        upper = word >> shift
        if not np.any(upper[1:] == upper[:-1]):
            return (word & np.uint64((1 << index_bits) - 1)).astype(np.int64)
    order = np.lexsort((hashes, dense))
    same = (hashes[order][1:] == hashes[order][:-1]) & (dense[order][1:] == dense[order][:-1])
    return np.lexsort((ties(), hashes, dense)) if np.any(same) else order


def _content_ranks(codes: Indices, names: dict[str, pa.Array[Any]]) -> Indices:
    """Ranks of keys by their contents, which do not depend on what else is in the table."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = pa.table(dict(names))
    order = pc.sort_indices(columns, sort_keys=[(name, "ascending") for name in names]).to_numpy()
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[codes]


def _weights(
    rows: Rows, bounds: Bounds, position: Indices, counts: Indices, names: dict[str, pa.Array[Any]]
) -> Weights:
    """Selection weights: each unit's have norm 1, over all of its keys and over those that no first round found."""
    given = np.flatnonzero(position < bounds.max_weighted)
    keys = rows.keys[given]
    over_all = 1 / np.sqrt(np.minimum(counts[given], bounds.max_weighted))
    if bounds.found is None:
        return Weights(keys=keys, over_all=over_all, over_open=over_all)
    open_keys = ~bounds.found.among(names)[keys]
    units = rows.units[given]
    shares = np.bincount(units, open_keys)[units]
    over_open = np.where(open_keys, 1 / np.sqrt(np.maximum(shares, 1)), 0.0)
    return Weights(keys=keys, over_all=over_all, over_open=over_open)


def _restricted(rows: Rows, kept: Indices) -> Rows:
    """The rows of some pairs alone."""
    at, starts, stops = _rows_of(rows, kept)
    return Rows(
        codes=rows.codes.at(at),
        order=None if rows.order is None else rows.order[at],
        starts=starts,
        stops=stops,
        units=rows.units[kept],
        keys=rows.keys[kept],
    )


def _rows_of(rows: Rows, pairs: Indices) -> tuple[Indices, Indices, Indices]:
    """The rows of some pairs, one pair after the other, and where each pair then starts and stops among them."""
    lengths = rows.stops[pairs] - rows.starts[pairs]
    stops = np.cumsum(lengths)
    starts = stops - lengths
    at = np.repeat(rows.starts[pairs] - starts, lengths)
    at += np.arange(len(at))
    return at, starts, stops


# --- rows of a partition ----------------------------------------------------------------------------------------------


def _chosen_rows(rows: Rows, pair_hashes: Hashes, bounds: Bounds, table: pa.Table) -> NDArray[np.bool_] | None:
    """Which rows count; None: all of them."""
    sizes = rows.stops - rows.starts
    if bounds.max_rows is None or int(sizes.max()) <= bounds.max_rows:
        return None
    crowded = np.flatnonzero(sizes > bounds.max_rows)
    lengths = sizes[crowded]
    at, starts, _ = _rows_of(rows, crowded)
    within = np.arange(len(at)) - np.repeat(starts, lengths)
    chosen = np.ones(int(rows.stops[-1]), dtype=np.bool_)
    if not bounds.bits:
        chosen[at] = within < bounds.max_rows
        return chosen
    group = np.repeat(np.arange(len(crowded)), lengths)
    narrow = rows.codes.at(at)
    codes = [narrow.of(i) if bits else _vector_hashes(rows, i, at, table) for i, bits in enumerate(bounds.bits)]
    # j numbers rows that are equal in unit, key and codes; such rows are side by side.
    new = np.concatenate([[True], group[1:] != group[:-1]])
    for code in codes:
        new[1:] |= code[1:] != code[:-1]
    run = np.flatnonzero(new)
    repeat = np.arange(len(at)) - np.repeat(run, np.diff(np.append(run, len(at))))
    salt = np.full(1, bounds.salts.rows % 2**64, dtype=np.uint64)
    hashes = np.repeat(mixed_with(pair_hashes[crowded], salt), lengths)
    for code in codes:
        hashes = mixed_with(hashes, code.view(np.uint64))
    hashes = mixed_with(hashes, repeat.view(np.uint64))
    order = _order_by_hash(group, hashes, lambda: np.arange(len(at)))
    keep = np.zeros(len(at), dtype=np.bool_)
    keep[order] = within < bounds.max_rows
    chosen[at] = keep
    return chosen


def _vector_hashes(rows: Rows, code: int, at: Indices, table: pa.Table) -> Indices:
    """A hash of the contents of a vector at some sorted rows."""
    assert rows.order is not None
    matrix = matrix_of(table, code)[rows.order[at]]
    hashes = np.zeros(len(at), dtype=np.uint64)
    for column in range(matrix.shape[1]):
        hashes = mixed_with(hashes, matrix[:, column].astype(np.int64).view(np.uint64))
    return hashes.view(np.int64)
