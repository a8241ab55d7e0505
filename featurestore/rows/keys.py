"""Entity keys, one column per join key, as the bytes that stores look up and as the hashes that indexes probe.

As bytes, a key is its values in the order of the join keys' names, each a kind byte and the value: `i` and 8 bytes
(big-endian) for integers, `s` or `b`, a u32 length (big-endian) and the content for text and bytes. Join key names are
not repeated in every row: they belong to the view, and each view has a table of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featurestore.rows.texts import Texts

__all__ = ["KeyColumn", "key_bytes", "key_hashes", "text_keys"]

KeyColumn = NDArray[np.int64] | Texts
"""n values of one join key: integers `(n,)`, or texts as UTF-8."""


def text_keys(values: Sequence[str]) -> Texts:
    """A key column of Python strings.

    Raises:
        TypeError: a value is not a string.
        UnicodeEncodeError: lone surrogates, which are not text.
    """
    return Texts.encoded(values)


def key_bytes(columns: Mapping[str, KeyColumn]) -> Texts:
    """The byte strings of n keys, from one column per join key."""
    parts = [part for name in sorted(columns) for part in _parts(columns[name])]
    return parts[0] if len(parts) == 1 else Texts.joined(parts)


def key_hashes(columns: Sequence[KeyColumn]) -> NDArray[np.uint64]:
    """64-bit hashes of n keys, `(n,)`. For one column of integers they are a permutation: no two keys share one.

    Args:
        columns: one per join key, in an order that is always the same.
    """
    hashes = _hash(columns[0])
    for column in columns[1:]:
        hashes = _mix(np.multiply(hashes, _COMBINE, dtype=np.uint64) + _hash(column))
    return hashes


_INTEGER: Final = np.dtype([("kind", "S1"), ("value", ">i8")])
_U: Final = np.uint64
_ONE: Final = np.uint64(1)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = _U(30), _U(27), _U(31)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)
_COMBINE: Final = np.uint64(0x9E3779B97F4A7C15)
_BASE: Final = np.uint64(0xD6E8FEB86659FD93)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a permutation of 64 bits that spreads every bit."""
    values = (values ^ (values >> _SHIFT_1)) * _MIX_1
    values = (values ^ (values >> _SHIFT_2)) * _MIX_2
    return values ^ (values >> _SHIFT_3)


def _hash(column: KeyColumn) -> NDArray[np.uint64]:
    if not isinstance(column, Texts):
        return _mix(column.view(np.uint64))
    count, width = len(column), column.width
    if count == 1:
        width = len(column.data)
    if width is not None:
        terms = np.add(column.data.reshape(count, width), _ONE, dtype=np.uint64) * _powers(width)[:width]
        return _mix(terms.sum(axis=1, dtype=np.uint64) + np.array([width], np.uint64) * _COMBINE)
    lengths = column.lengths
    positions = np.arange(len(column.data)) - column.offsets[:-1].repeat(lengths)
    longest = int(lengths.max(initial=0))
    terms = (column.data.astype(np.uint64) + _ONE) * _powers(longest).take(positions)
    sums = np.zeros(len(terms) + 1, np.uint64)
    terms.cumsum(out=sums[1:])
    at = sums.take(column.offsets)
    return _mix(at[1:] - at[:-1] + lengths.astype(np.uint64) * _COMBINE)


def _powers(count: int) -> NDArray[np.uint64]:
    """The first powers of the hash's base, modulo 2^64."""
    if count <= len(_POWERS):
        return _POWERS
    return np.cumprod(np.full(count, _BASE), dtype=np.uint64)


_POWERS: Final[NDArray[np.uint64]] = np.cumprod(np.full(256, _BASE), dtype=np.uint64)


def _parts(column: KeyColumn) -> list[Texts]:
    count = len(column)
    if not isinstance(column, Texts):
        packed = np.empty(count, _INTEGER)
        packed["kind"] = b"i"
        packed["value"] = column
        size = _INTEGER.itemsize
        return [Texts(data=packed.view(np.uint8), offsets=np.arange(0, size * count + size, size), width=size)]
    heads = np.zeros(count, [("kind", "S1"), ("length", ">u4")])
    heads["kind"], heads["length"] = b"s", column.lengths
    return [Texts.fixed(heads.view(np.uint8).reshape(count, 5)), column]
