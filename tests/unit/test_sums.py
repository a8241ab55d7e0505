"""Exact sums by key: beyond what floats hold, of lists, with nulls, merged over tasks."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from pipelines.engine.sums import by_key, int_column, int_matrix, merged_sums


def test_sums_are_exact_beyond_what_floats_hold() -> None:
    """Two values whose sum a float would round, and the largest that bounds allow."""
    place = np.array([1, 0, 1, 3])
    values = np.array([2**62, -5, 1 - 2**61, 2**53 + 1])
    assert by_key(place, values, 5).tolist() == [-5, 2**62 + 1 - 2**61, 0, 2**53 + 1, 0]
    many = np.full(1 << 16, 2**31)
    assert by_key(np.zeros(1 << 16, np.int64), many, 1).tolist() == [2**47]
    assert by_key(np.zeros(0, np.int64), np.zeros(0, np.int64), 2).tolist() == [0, 0]


def test_small_and_large_sums_agree() -> None:
    rng = np.random.default_rng(1)
    place, values = rng.integers(0, 50, 5000), rng.integers(-(2**20), 2**20, 5000)
    small = by_key(place, values, 50)
    assert (by_key(place, values * 2**35, 50) == small * 2**35).all(), "the way for large values gives the same"


@pytest.mark.parametrize("shape", [(0,), (3,), (3, 2), (0, 2), (2, 0)])
def test_columns_come_back_as_they_went(shape: tuple[int, ...]) -> None:
    values = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape) - 2**62
    back = int_matrix(pa.chunked_array([int_column(values)]))
    assert back.size == values.size
    assert back.ravel().tolist() == values.ravel().tolist()


def test_nulls_are_zeros() -> None:
    assert int_matrix(pa.chunked_array([[1, None, 3]])).tolist() == [1, 0, 3]
    lists = pa.chunked_array([pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64()))])
    assert int_matrix(lists).tolist() == [[1, 2], [0, 0], [3, 4]]


def test_rows_of_one_key_become_one() -> None:
    table = pa.table(
        {
            "__k0": ["a", "b", "a", "a"],
            "__k1": [date(2025, 1, 1), date(2025, 1, 1), date(2025, 1, 2), date(2025, 1, 1)],
            "__m0": [1, 2, 3, 2**60],
            "__m1": pa.array([[1, 0], [0, 1], None, [5, 5]], pa.list_(pa.int64())),
        }
    )
    merged = merged_sums(table, ("__k0", "__k1")).to_pylist()
    assert sorted((row["__k0"], row["__k1"].day, row["__m0"], row["__m1"]) for row in merged) == [
        ("a", 1, 2**60 + 1, [6, 5]),
        ("a", 2, 3, [0, 0]),
        ("b", 1, 2, [0, 1]),
    ]
    single = table.slice(0, 2)
    assert merged_sums(single, ("__k0", "__k1")) is single, "nothing to do"
