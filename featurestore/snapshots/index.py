"""Which row holds a key, for all keys of a request at once, without a loop.

Single integer keys that lie close together have a table of places (`featurestore.rows.places`).

All others are found by hash: rows lie in the order of their keys' hashes, so that the top bits of a hash say where to
look. `starts[b]` is the first row whose hash begins with the bits b. With about one row for each b, the row sought is
one of the few from there on; `window`, the most rows that share a b, is known when the index is built. So every key is
looked up by the same three steps: hash, start, compare the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from featurestore.rows import KeyColumn, PlaceTable, Texts, key_hashes

__all__ = ["HashIndex", "KeyIndex", "TableIndex", "build_index"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TableIndex:
    """An index over N integer keys that lie close together.

    Attributes:
        keys: the one column of N keys, in row order.
        table: where each of them stands.
    """

    keys: tuple[NDArray[np.int64]]
    table: PlaceTable

    def find(self, keys: Sequence[KeyColumn]) -> NDArray[np.int64]:
        """The rows of n keys, int64 `(n,)`; N where there is none. See `HashIndex.find`."""
        (column,) = keys
        assert not isinstance(column, Texts), "key columns have the index's types"
        return self.table.find(column)


@dataclass(frozen=True, kw_only=True, eq=False)
class HashIndex:
    """An index over the keys of N rows that lie in the order of their hashes.

    Attributes:
        keys: one column per join key, of N values, in row order.
        hashes: uint64 `(N + window,)`: the rows' hashes, rising, then zeros.
        starts: uint32 `(2^bits + 1,)`: the first row of each bucket.
        window: the most rows in one bucket, at least 1.
    """

    keys: tuple[KeyColumn, ...]
    hashes: NDArray[np.uint64]
    starts: NDArray[np.uint32]
    window: int

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """0, 1, ... over one window."""
        return np.arange(self.window)

    @cached_property
    def rows(self) -> int:
        """N."""
        return len(self.hashes) - self.window

    def find(self, keys: Sequence[KeyColumn]) -> NDArray[np.int64]:
        """The rows of n keys, int64 `(n,)`; N where there is none.

        Args:
            keys: one column per join key, typed and ordered like `self.keys`.
        """
        hashes = key_hashes(keys)
        first = self.starts.take(_buckets(hashes, len(self.starts) - 1)).astype(np.int64)
        same = self.hashes.take(first[:, None] + self.steps) == hashes[:, None]
        rows = first + same.argmax(axis=1)
        there = self.hashes.take(rows) == hashes
        there &= rows < self.rows  # a key whose hash is 0 may meet the zeros at the end
        rows = np.where(there, rows, self.rows)
        if len(self.keys) == 1 and not isinstance(self.keys[0], Texts):
            return rows  # the hash of one integer is that integer's alone
        return self._verified(keys, rows, same, first)

    def _verified(
        self, keys: Sequence[KeyColumn], rows: NDArray[np.int64], same: NDArray[np.bool_], first: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Takes rows back whose key is another one of the same hash, and finds the right one among several."""
        found = np.flatnonzero(rows < self.rows)
        if _are(self.keys, rows, keys, found):
            return rows
        wrong = found[~_equal(self.keys, rows[found], keys, found)]
        rows[wrong] = self.rows
        for at in wrong.tolist():  # two keys of one 64-bit hash: next to never
            for candidate in (first[at] + np.flatnonzero(same[at])).tolist():
                if candidate < self.rows and _equal(self.keys, np.array([candidate]), keys, np.array([at]))[0]:
                    rows[at] = candidate
        return rows


KeyIndex = TableIndex | HashIndex


def build_index(keys: Sequence[KeyColumn]) -> tuple[KeyIndex, NDArray[np.int64]]:
    """Builds the index of n keys.

    Args:
        keys: one column per join key.

    Returns:
        The index, and the order that the rows must be put in: row i of the index is row `order[i]` of the input.

    Raises:
        ValueError: a key occurs twice, or there are 2^32 rows or more.
    """
    if len(keys) == 1 and not isinstance(keys[0], Texts) and (found := _table_index(keys[0])) is not None:
        return found
    hashes = key_hashes(keys)
    count = len(hashes)
    if count >= 1 << 32:
        raise ValueError("2^32 rows or more")
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    ordered = tuple(column.take(order) for column in keys)
    _check_unique(ordered, hashes)
    buckets = 1 << max(count - 1, 0).bit_length()
    starts = np.searchsorted(_buckets(hashes, buckets), np.arange(buckets + 1)).astype(np.uint32)
    window = max(int(np.diff(starts.astype(np.int64)).max(initial=0)), 1)
    padded = np.concatenate([hashes, np.zeros(window, np.uint64)])
    return HashIndex(keys=ordered, hashes=padded, starts=starts, window=window), order


def _table_index(keys: NDArray[np.int64]) -> tuple[TableIndex, NDArray[np.int64]] | None:
    """A table and the order of the rows, which is the keys'; None where the keys lie too far apart for one.

    Raises:
        ValueError: a key occurs twice.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    table = PlaceTable.of(ordered)
    if table is None:
        return None
    if (ordered[1:] == ordered[:-1]).any():
        raise ValueError("a key occurs twice")
    return TableIndex(keys=(ordered,), table=table), order


def _buckets(hashes: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """The top bits of each hash; `buckets` is a power of two."""
    bits = buckets.bit_length() - 1
    if bits == 0:
        return np.zeros(len(hashes), np.int64)
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


def _check_unique(keys: Sequence[KeyColumn], hashes: NDArray[np.uint64]) -> None:
    """Returns if no key occurs twice; equal keys have equal hashes, so they lie within one run.

    Raises:
        ValueError: one does.
    """
    twins = np.flatnonzero(hashes[1:] == hashes[:-1])
    if not len(twins):
        return
    seen = set()
    members = np.union1d(twins, twins + 1)
    columns = [column.take(members).tolist() for column in keys]
    for key in zip(*columns, strict=True):
        if key in seen:
            raise ValueError("a key occurs twice")
        seen.add(key)


def _are(
    stored: Sequence[KeyColumn], rows: NDArray[np.int64], asked: Sequence[KeyColumn], at: NDArray[np.int64]
) -> bool:
    """Whether the stored keys at `rows[at]` are the asked ones at `at`, all of them: they are, next to always."""
    every = len(at) == len(rows)
    places = rows if every else rows[at]
    for ours, theirs in zip(stored, asked, strict=True):
        if isinstance(ours, Texts):
            assert isinstance(theirs, Texts), "key columns have the index's types"
            if not ours.are(places, theirs if every else theirs.take(at)):
                return False
        elif ours.take(places).tobytes() != theirs.take(at).astype(np.int64, copy=False).tobytes():  # type: ignore[union-attr]
            return False
    return True


def _equal(
    stored: Sequence[KeyColumn], rows: NDArray[np.int64], asked: Sequence[KeyColumn], at: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the stored keys at `rows` are the asked ones at `at`, bool `(len(at),)`."""
    same: NDArray[np.bool_] = np.ones(len(at), bool)
    for ours, theirs in zip(stored, asked, strict=True):
        left, right = ours.take(rows), theirs.take(at)
        if isinstance(left, Texts):
            assert isinstance(right, Texts), "key columns have the index's types"
            same &= left.equals(right)
        else:
            same &= left == right
    return same
