"""Packed rows and entity keys: what goes in comes out, and nothing else is taken for a row."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.online.keys import encode_columns, encode_value, feast_keys
from featurestore.online.rows import Column, Kind, RowField, RowSchema, pack, tags, unpack
from featurestore.publication import FeatureField, KeyField, PublishedRelease, PublishedView
from governance.errors import PublicationCorrupt, RequestInvalid

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.INT64: INT64,
    Kind.INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    Kind.FLOAT64: st.floats(),
    Kind.FLOAT32: st.floats(width=32),
    Kind.BOOL: st.booleans(),
    Kind.TIMESTAMP: INT64,
    Kind.STRING: st.text().map(str.encode),
    Kind.BYTES: st.binary(),
    Kind.VALUE: st.binary(),
}
DTYPES = {
    Kind.INT64: "i8",
    Kind.INT32: "i4",
    Kind.FLOAT64: "f8",
    Kind.FLOAT32: "f4",
    Kind.BOOL: "?",
    Kind.TIMESTAMP: "i8",
}
EMPTY = {Kind.STRING: b"", Kind.BYTES: b"", Kind.VALUE: b""}


@st.composite
def tables(draw: st.DrawFn) -> tuple[RowSchema, list[int], dict[str, list[Any]]]:
    kinds = draw(st.lists(st.sampled_from(list(Kind)), min_size=1, max_size=12))
    count = draw(st.integers(0, 6))
    schema = RowSchema(fields=tuple(RowField(name=f"c{i}", kind=kind) for i, kind in enumerate(kinds)))
    times = draw(st.lists(INT64, min_size=count, max_size=count))
    values = {
        field.name: draw(st.lists(st.none() | VALUES[field.kind], min_size=count, max_size=count))
        for field in schema.fields
    }
    return schema, times, values


def packed(schema: RowSchema, times: list[int], values: dict[str, list[Any]]) -> list[bytes]:
    columns = {}
    for field in schema.fields:
        nulls = np.array([value is None for value in values[field.name]], bool)
        filled = [EMPTY.get(field.kind, 0) if value is None else value for value in values[field.name]]
        array = np.empty(len(filled), DTYPES.get(field.kind, "O"))
        array[:] = filled
        columns[field.name] = Column(values=array, nulls=nulls)
    return pack(schema, np.array(times, np.int64), columns)


def same(left: Any, right: Any) -> bool:
    return left == right or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


@given(tables())
def test_rows_come_back_as_they_went_in(table: tuple[RowSchema, list[int], dict[str, list[Any]]]) -> None:
    schema, times, values = table
    rows = packed(schema, times, values)
    assert tags(rows).tolist() == [schema.tag] * len(times)
    found_times, columns = unpack(schema, rows, list(values))
    assert found_times.tolist() == times
    for name, expected in values.items():
        found = columns[name]
        assert found.nulls.tolist() == [value is None for value in expected]
        assert all(
            same(value, wanted)
            for value, null, wanted in zip(found.values.tolist(), found.nulls.tolist(), expected, strict=True)
            if not null
        )


@given(tables(), st.data())
def test_one_column_reads_like_all(
    table: tuple[RowSchema, list[int], dict[str, list[Any]]], data: st.DataObject
) -> None:
    schema, times, values = table
    rows = packed(schema, times, values)
    name = data.draw(st.sampled_from(sorted(values)))
    _, every = unpack(schema, rows, list(values))
    _, one = unpack(schema, rows, [name, "absent"])
    assert set(one) == {name}
    assert one[name].nulls.tolist() == every[name].nulls.tolist()
    assert one[name].values.tobytes() == every[name].values.tobytes() or (
        one[name].values.tolist() == every[name].values.tolist()
    )


@given(tables(), st.data())
def test_a_row_of_another_length_is_refused(
    table: tuple[RowSchema, list[int], dict[str, list[Any]]], data: st.DataObject
) -> None:
    schema, times, values = table
    rows = packed(schema, times, values)
    if not rows:
        return
    at = data.draw(st.integers(0, len(rows) - 1))
    cut = data.draw(st.integers(1, len(rows[at])))
    for broken in (rows[at][:-cut], rows[at] + b"\0" * cut):
        with pytest.raises(PublicationCorrupt):
            unpack(schema, [*rows[:at], broken, *rows[at + 1 :]], list(values))


def test_another_schema_has_another_tag() -> None:
    fields = (RowField(name="a", kind=Kind.INT64), RowField(name="b", kind=Kind.STRING))
    schema = RowSchema(fields=fields)
    assert RowSchema.from_json(schema.to_json()) == schema
    others = [fields[::-1], fields[:1], (RowField(name="a", kind=Kind.INT32), fields[1])]
    assert len({schema.tag, *(RowSchema(fields=other).tag for other in others)}) == 4


def test_a_row_too_short_for_a_tag_is_refused() -> None:
    with pytest.raises(PublicationCorrupt):
        tags([b"abc"])


KEYS = st.one_of(INT64, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


@given(st.tuples(KEYS, KEYS), st.tuples(KEYS, KEYS))
def test_different_keys_have_different_bytes(left: tuple[Any, Any], right: tuple[Any, Any]) -> None:
    (a,) = encode_columns({"x": [left[0]], "y": [left[1]]})
    (b,) = encode_columns({"y": [right[1]], "x": [right[0]]})
    assert (a == b) == (left == right)
    assert a == encode_value(left[0]) + encode_value(left[1])


def view(*kinds: str) -> PublishedView:
    return PublishedView(
        name="v_v1",
        signal="v",
        version=1,
        entity="e",
        keys=tuple(KeyField(name=f"k{i}", type=kind) for i, kind in enumerate(kinds)),
        features=(FeatureField(name="f", type="int64", description="", noise_stddev=None),),
        ttl_seconds=0,
        purpose="ranking",
        releases=(PublishedRelease(release_id="v/v1/a", event_time="2025-11-10T00:00:00+00:00", sha256=""),),
    )


@pytest.mark.parametrize(
    ("kind", "column", "stored"),
    [
        ("int64", [1, np.int32(2)], [1, 2]),
        ("int64", np.array([1, 2], np.uint8), [1, 2]),
        ("string", ["a", np.str_("ü")], ["a", "ü"]),
        ("string", np.array(["a", "ü"]), ["a", "ü"]),
        ("date", [date(2025, 1, 2), np.datetime64("2025-01-02"), "2025-01-02"], ["2025-01-02"] * 3),
        ("date", np.array(["2025-01-02"], "M8[D]"), ["2025-01-02"]),
        ("date", np.array(["2025-01-02"], "M8[ns]"), ["2025-01-02"]),
        ("float64", [1, 0.1, -0.0, np.float32(0.5)], ["1.0", "0.1", "0.0", "0.5"]),
        ("bool", [True, np.bool_(False)], ["true", "false"]),
        ("int64", [], []),
    ],
)
def test_keys_of_a_request(kind: str, column: Any, stored: list[Any]) -> None:
    assert feast_keys(view(kind), {"k0": column}) == {"k0": stored}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int64", 1.0),
        ("int64", True),
        ("int64", "1"),
        ("int64", None),
        ("int64", 1 << 63),
        ("string", 1),
        ("string", b"a"),
        ("string", "\ud800"),
        ("date", "yesterday"),
        ("date", np.datetime64("NaT")),
        ("date", 20250102),
        ("float64", float("nan")),
        ("float64", "1.0"),
        ("bool", 1),
    ],
)
def test_a_key_of_another_type_is_refused_without_being_told(kind: str, value: Any) -> None:
    with pytest.raises(RequestInvalid, match=f"'k0' has values that are not {kind}") as caught:
        feast_keys(view(kind), {"k0": [value]})
    assert "yesterday" not in str(caught.value)
    assert "20250102" not in str(caught.value)


def test_key_columns_are_those_of_the_view() -> None:
    two = view("int64", "string")
    with pytest.raises(RequestInvalid, match="needed: k0, k1"):
        feast_keys(two, {"k0": [1]})
    with pytest.raises(RequestInvalid, match="needed: k0, k1"):
        feast_keys(two, {"k0": [1], "k1": ["a"], "k2": [1]})
    with pytest.raises(RequestInvalid, match="differ in length"):
        feast_keys(two, {"k0": [1, 2], "k1": ["a"]})
