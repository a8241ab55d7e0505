"""Salted 64-bit hashes of column contents, vectorised: what sampling and buckets go by.

`content_hashes` depends on a value and a salt alone, not on its row, its neighbors or how Arrow encodes it: a number is
mixed as it is, a text by its bytes. Privacy does not rest on these hashes, for any function of one unit's own rows
gives bounded contributions (bounding.py); that samples are uniform does, and tests/statistical checks it.

The mixer is a multiply and xorshift finaliser of the splitmix64 family (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "Hashes",
    "content_hashes",
    "dense_codes",
    "encoded",
    "first_rows",
    "joint_codes",
    "mixed",
    "mixed_with",
    "row_hashes",
]

Hashes = NDArray[np.uint64]

_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_S1, _S2, _S3 = np.uint64(30), np.uint64(27), np.uint64(31)
_LONGEST_VECTORISED = 64
_SMALL_RANGE, _RANGE_PER_ROW = 2**16, 2


def mixed(values: Hashes) -> Hashes:
    """A bijection of 64-bit words in which every output bit depends on every input bit."""
    words = values + _GOLDEN
    words ^= words >> _S1
    words *= _M1
    words ^= words >> _S2
    words *= _M2
    words ^= words >> _S3
    return words


def mixed_with(hashes: Hashes, more: Hashes) -> Hashes:
    """Hashes of pairs."""
    return mixed((hashes * _GOLDEN) ^ more)


def content_hashes(values: pa.Array[Any], salt: int) -> Hashes:
    """Hashes of an array of whole numbers, dates or texts without nulls, shape `(n,)`."""
    from pyarrow import types

    start = np.uint64(salt % 2**64)
    if types.is_integer(values.type) or types.is_date(values.type):
        return mixed(_whole(values).view(np.uint64) ^ start)
    return _text_hashes(values, start)


def _whole(values: pa.Array[Any]) -> NDArray[np.int64]:
    import pyarrow as pa
    from pyarrow import types

    if types.is_date32(values.type):
        values = values.cast(pa.int32())
    elif types.is_date64(values.type):
        values = values.cast(pa.date32()).cast(pa.int32())
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.int64)


def _text_hashes(values: pa.Array[Any], start: np.uint64) -> Hashes:
    """Hashes of texts by their bytes, eight at a time; long ones are digested first."""
    import pyarrow as pa

    texts = values.cast(pa.large_binary())
    buffers: list[Any] = texts.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    buffer = buffers[2]
    data = np.frombuffer(buffer, dtype=np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    lengths = np.diff(offsets)
    hashes = mixed(lengths.view(np.uint64) ^ start)
    short = np.flatnonzero(lengths <= _LONGEST_VECTORISED)
    for position in range(0, int(lengths[short].max(initial=0)), 8):
        rows = short[lengths[short] > position]
        # One byte at a time into a word: the last word of a text is padded with zeros, and its length is hashed too.
        word = np.zeros(len(rows), dtype=np.uint64)
        for byte in range(8):
            inside = lengths[rows] > position + byte
            at = offsets[rows] + (position + byte)
            word[inside] |= data[at[inside]].astype(np.uint64) << np.uint64(8 * byte)
        hashes[rows] = mixed_with(hashes[rows], word)
    if len(short) < len(texts):
        import hashlib

        for row in np.flatnonzero(lengths > _LONGEST_VECTORISED).tolist():
            text = data[offsets[row] : offsets[row + 1]].tobytes()
            digest = hashlib.blake2b(text, digest_size=8, key=int(start).to_bytes(8, "little")).digest()
            hashes[row] = np.frombuffer(digest, dtype=np.uint64)[0]
    return hashes


def dense_codes(column: pa.ChunkedArray[Any] | pa.Array[Any]) -> tuple[NDArray[np.int64], pa.Array[Any]]:
    """Codes 0, 1, 2, ... that are equal exactly where values are, and the distinct values by code."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        chunks: list[Any] = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        # Chunks share a dictionary (`Table.unify_dictionaries`).
        codes = [chunk.indices.to_numpy() for chunk in chunks]
        joined = codes[0] if len(codes) == 1 else np.concatenate(codes)
        return joined.astype(np.int64, copy=False), chunks[0].dictionary
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_int64(column.type) and len(column) and not column.null_count:
        found = _codes_by_place(column.to_numpy())
        if found is not None:
            return found[0], pa.array(found[1])
    encoded: Any = column.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary


def encoded(column: pa.ChunkedArray[Any]) -> pa.Array[Any]:
    """A column as its dense codes and distinct values, so that whoever asks `dense_codes` for them finds them there."""
    import pyarrow as pa

    codes, distinct = dense_codes(column)
    return pa.DictionaryArray.from_arrays(codes, distinct)


def joint_codes(table: pa.Table, columns: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """Dense codes of rows that are equal exactly where rows agree in all of `columns`, and how many codes there are."""
    codes, distinct = dense_codes(table.column(columns[0]))
    n = len(distinct)
    for name in columns[1:]:
        more, values = dense_codes(table.column(name))
        both, codes = np.unique(codes * len(values) + more, return_inverse=True)
        n = len(both)
    return codes, n


def first_rows(codes: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The first row of each of n codes."""
    first = np.zeros(n, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return first


def _codes_by_place(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Codes of numbers that lie close together, or in long runs, without hashing any; else None."""
    low, high = int(numbers.min()), int(numbers.max())
    if high - low < max(_SMALL_RANGE, _RANGE_PER_ROW * len(numbers)):
        places = numbers - low
        there = np.zeros(high - low + 1, dtype=np.bool_)
        there[places] = True
        distinct: NDArray[np.int64] = np.flatnonzero(there) + np.int64(low)
        codes: NDArray[np.int64] = np.cumsum(there, dtype=np.int64) - 1
        return codes[places], distinct
    change = numbers[1:] != numbers[:-1]
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    distinct = numbers[starts]
    if not np.all(distinct[1:] > distinct[:-1]):
        return None
    return np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(numbers)))), distinct


def row_hashes(rows: pa.Table, columns: Sequence[str], salt: int) -> Hashes:
    """A hash of each row's contents in some columns: equal where they are."""
    hashes = _column_hashes(rows.column(columns[0]), salt)
    for name in columns[1:]:
        hashes = mixed_with(hashes, _column_hashes(rows.column(name), salt))
    return hashes


def _column_hashes(column: pa.ChunkedArray[Any], salt: int) -> Hashes:
    from pyarrow import types

    values = column.combine_chunks()
    if types.is_integer(values.type) or types.is_date(values.type):
        return content_hashes(values, salt)
    codes, distinct = dense_codes(values)
    return content_hashes(distinct, salt)[codes]
