"""Arrays in and out of messages: the copied wire form is what protobuf itself would have written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from serving.columns import KINDS, bitmap, get_column, get_ids, set_column, set_ids, text_array, unbitmap
from serving.v1 import features_pb2, values_pb2
from serving.wire import packed


@pytest.mark.parametrize("rows", [0, 1, 15, 16, 17, 2047, 2048, 300_000])
def test_packed_is_the_wire_form_that_protobuf_writes(rows: int) -> None:
    values = np.arange(rows, dtype="<i8") - 7
    assert packed(1, values) == values_pb2.Int64Values(values=values.tolist()).SerializeToString()
    view = features_pb2.ViewRows(event_times=values.tolist())
    assert packed(3, values) == view.SerializeToString()


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("int64", np.array([0, -1, 2**63 - 1, -(2**63)])),
        ("float64", np.array([0.0, -0.5, np.inf, np.nan, 5e-324])),
        ("float32", np.array([1.5, -2.25], dtype=np.float32)),
        ("bool", np.array([True, False, True])),
        ("date", np.array(["1969-12-31", "2025-02-28", "9999-12-31"], dtype="M8[D]")),
        ("timestamp", np.array(["2025-11-10T00:00:00.000001"], dtype="M8[us]")),
        ("string", text_array(["", "żółw", "日本"])),
        ("bytes", text_array([b"", b"\xff\x00"])),
        ("int64", np.array([], dtype=np.int64)),
        ("string", text_array([])),
    ],
)
def test_columns_come_back_as_they_went(kind: str, array: np.ndarray) -> None:
    column = features_pb2.FeatureColumn(reference="v:f")
    set_column(column, kind, array)
    again = features_pb2.FeatureColumn.FromString(column.SerializeToString())
    found_kind, found = get_column(again)
    assert found_kind == kind
    assert found.dtype == array.dtype
    assert np.array_equal(found, array, equal_nan=kind == "float64")


def test_strided_and_big_endian_arrays_are_written_right() -> None:
    for array in (np.arange(10)[::3], np.arange(4, dtype=">i8"), np.arange(4, dtype=np.int32)):
        column = features_pb2.KeyColumn()
        set_column(column, "int64", array)
        assert list(column.int64s.values) == array.tolist()


def test_not_a_time_is_written_as_the_epoch() -> None:
    column = features_pb2.FeatureColumn()
    set_column(column, "date", np.array(["NaT", "1970-01-03"], dtype="M8[D]"))
    assert list(column.dates.days) == [0, 2]


def test_every_kind_of_the_message_has_a_name() -> None:
    fields = {field.name for field in features_pb2.FeatureColumn.DESCRIPTOR.oneofs_by_name["values"].fields}
    assert fields == set(KINDS)


def test_vectors_come_as_rows() -> None:
    column = features_pb2.FeatureColumn(vectors=values_pb2.VectorValues(dimension=2, values=[1, 2, 3, 4]))
    assert get_column(column)[1].tolist() == [[1, 2], [3, 4]]
    column.vectors.dimension = 3
    with pytest.raises(ValueError, match="not whole"):
        get_column(column)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 1000])
def test_bitmaps_come_back_as_they_went(rows: int) -> None:
    mask = np.random.default_rng(rows).random(rows) < 0.5
    assert np.array_equal(unbitmap(bitmap(mask), rows), mask)
    assert bitmap(np.ones(rows, dtype=bool)) == b""
    assert unbitmap(b"", rows).all()


def test_bit_order_is_as_documented() -> None:
    mask = np.zeros(10, dtype=bool)
    mask[[1, 9]] = True
    assert bitmap(mask) == bytes((0b00000010, 0b00000010))


def test_a_bitmap_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="9 rows"):
        unbitmap(b"\x00", 9)


@pytest.mark.parametrize("ids", [np.array([3, -1]), text_array(["a", ""]), np.array([], np.int64), text_array([])])
def test_ids_come_back_as_they_went(ids: Any) -> None:
    message = values_pb2.Ids()
    set_ids(message, ids)
    kind, found = get_ids(values_pb2.Ids.FromString(message.SerializeToString()))
    assert kind == ("string" if ids.dtype == object else "int64")
    assert found.tolist() == ids.tolist()


def test_absent_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        get_column(features_pb2.KeyColumn(name="x"))
    with pytest.raises(ValueError, match="no ids"):
        get_ids(values_pb2.Ids())
