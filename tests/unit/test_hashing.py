"""Content hashes: of values alone, however Arrow holds them; written down a second time in plain Python."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.engine.hashing import content_hashes, dense_codes, mixed, mixed_with, row_hashes
from tests.support.bounded import content_hash

TEXTS = ["", "a", "b", "ab", "abcdefg", "abcdefgh", "abcdefghi", "ü", "é" * 31, "x" * 63, "x" * 64, "x" * 65, "y" * 999]
NUMBERS = [0, 1, -1, 2**63 - 1, -(2**63), 2**40, 12345]
DATES = [date(1970, 1, 1), date(1969, 12, 31), date(2025, 11, 3), date(9999, 12, 31)]
ARRAYS: dict[str, tuple[list[Any], pa.DataType]] = {
    "texts": (TEXTS, pa.string()),
    "large texts": (TEXTS, pa.large_string()),
    "int64": (NUMBERS, pa.int64()),
    "int32": ([0, 1, -1, 2**31 - 1], pa.int32()),
    "uint8": ([0, 1, 255], pa.uint8()),
    "dates": (DATES, pa.date32()),
    "dates in milliseconds": (DATES, pa.date64()),
}


@pytest.mark.parametrize("salt", [0, 7, -7, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("kind", ARRAYS)
def test_hashes_equal_the_plain_ones(kind: str, salt: int) -> None:
    values, arrow = ARRAYS[kind]
    found = content_hashes(pa.array(values, arrow), salt)
    assert found.tolist() == [content_hash(value, salt) for value in values]
    assert len(set(found.tolist())) == len(values)


def test_neither_slices_nor_neighbours_matter() -> None:
    array = pa.array(TEXTS)
    whole = content_hashes(array, 3)
    for start in range(len(TEXTS)):
        assert content_hashes(array.slice(start, 2), 3).tolist() == whole[start : start + 2].tolist()
    assert content_hashes(array.slice(0, 0), 3).tolist() == []
    assert content_hashes(pa.array([""]), 3).tolist() == whole[:1].tolist()


def test_bytes_that_are_no_text_have_hashes_of_their_own() -> None:
    raw = [bytes([65, byte]) for byte in range(128, 256)]
    odd = pa.array(raw, pa.binary()).view(pa.string())
    found = content_hashes(odd, 1)
    assert found.tolist() == [content_hash(value, 1) for value in raw]
    assert len(set(found.tolist())) == 128


def test_the_mixer_is_a_bijection_that_changes_half_the_bits() -> None:
    words = np.arange(1 << 16, dtype=np.uint64)
    assert len(np.unique(mixed(words))) == 1 << 16
    flipped = [
        int(a ^ b).bit_count() for a, b in zip(mixed(words[:500]), mixed(words[:500] ^ np.uint64(1)), strict=True)
    ]
    assert np.mean(flipped) == pytest.approx(32, abs=1)
    one, two = mixed(words[:2])
    pair = mixed_with(np.array([one, two]), np.array([two, one]))
    assert pair[0] != pair[1], "the order of a pair counts"


@pytest.mark.parametrize("encode", [False, True])
def test_dense_codes(encode: bool) -> None:
    column = pa.chunked_array([["b", "a"], ["b", "c", "a"]])
    if encode:
        column = column.dictionary_encode().unify_dictionaries()
    codes, distinct = dense_codes(column)
    assert distinct.take(pa.array(codes)).to_pylist() == ["b", "a", "b", "c", "a"]
    assert sorted(set(codes.tolist())) == [0, 1, 2]


def test_hashes_of_units_are_equal_where_their_columns_are() -> None:
    one = pa.table({"__u0": ["a", "a", "b", "a"], "__u1": [1, 2, 1, 1]})
    hashes = row_hashes(one, ["__u0", "__u1"], 5)
    assert hashes[0] == hashes[3]
    assert len(set(hashes.tolist())) == 3
    encoded = one.set_column(0, "__u0", one.column(0).dictionary_encode())
    assert row_hashes(encoded, ["__u0", "__u1"], 5).tolist() == hashes.tolist()
    assert row_hashes(one, ["__u0", "__u1"], 6).tolist() != hashes.tolist()
