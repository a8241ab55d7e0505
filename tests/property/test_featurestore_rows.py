"""Packed rows and entity keys: what goes in comes out, and nothing else is taken for a row."""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.online.keys import encode_value, key_columns
from featurestore.publication import FeatureField, KeyField, PublishedRelease, PublishedView
from featurestore.rows import Column, Kind, RowField, Rows, RowSchema, Texts, key_bytes, pack, text_keys, unpack
from featurestore.rows.codec import row_tags
from governance.errors import PublicationCorrupt, RequestInvalid

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.INT64: INT64,
    Kind.INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    Kind.FLOAT64: st.floats(),
    Kind.FLOAT32: st.floats(width=32),
    Kind.BOOL: st.booleans(),
    Kind.TIMESTAMP: INT64,
    Kind.SECONDS: INT64,
    Kind.DATE: st.integers(-(1 << 31), (1 << 31) - 1),
    Kind.STRING: st.text().map(str.encode),
    Kind.BYTES: st.binary(),
    Kind.FLOAT32S: st.lists(st.floats(width=32), max_size=3).map(lambda v: np.array(v, "<f4").tobytes()),
    Kind.VALUE: st.binary(),
}


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
        given_values = values[field.name]
        nulls = np.array([value is None for value in given_values], bool)
        column: Any
        if field.kind.dtype is None:
            column = Texts.of([b"hidden" if value is None else value for value in given_values])
        else:
            column = np.array([1 if value is None else value for value in given_values], field.kind.dtype)
        columns[field.name] = Column(values=column, nulls=nulls)
    rows = pack(schema, columns, event_times=np.array(times, np.int64), releases=7)
    assert rows.joined().tolist() == rows.tolist()
    return rows.tolist()


def read(schema: RowSchema, rows: list[bytes]) -> Rows:
    return unpack(schema, Texts.of(rows))


def is_empty(value: Any) -> bool:
    return value in (0, b"") or (isinstance(value, float) and math.isnan(value))


def same(left: Any, right: Any) -> bool:
    return left == right or (isinstance(left, float) and math.isnan(left) and math.isnan(right))


@given(tables())
def test_rows_come_back_as_they_went_in(table: tuple[RowSchema, list[int], dict[str, list[Any]]]) -> None:
    schema, times, values = table
    rows = packed(schema, times, values)
    assert row_tags(Texts.of(rows)).tolist() == [schema.tag] * len(times)
    found = read(schema, rows)
    assert found.event_times.tolist() == times
    assert found.releases.tolist() == [7] * len(times)
    columns, nulls = found.values(tuple(values)), found.nulls(tuple(values))
    for (name, expected), null in zip(values.items(), nulls, strict=True):
        assert null.tolist() == [value is None for value in expected]
        for value, wanted in zip(columns[name].tolist(), expected, strict=True):
            assert (
                is_empty(value) if wanted is None else same(value, wanted)
            )  # what is null leaves no trace of what it was


@given(tables(), st.data())
def test_one_column_reads_like_all(
    table: tuple[RowSchema, list[int], dict[str, list[Any]]], data: st.DataObject
) -> None:
    schema, times, values = table
    rows = read(schema, packed(schema, times, values))
    name = data.draw(st.sampled_from(sorted(values)))
    every, one = rows.values(tuple(values)), rows.values((name, "absent"))
    assert set(one) == {name}
    assert repr(one[name].tolist()) == repr(every[name].tolist())
    own, absent = rows.nulls((name, "absent"))
    assert own.tolist() == rows.nulls((name,))[0].tolist()
    assert absent.all()


@given(tables(), st.data())
def test_any_selection_of_rows(table: tuple[RowSchema, list[int], dict[str, list[Any]]], data: st.DataObject) -> None:
    schema, times, values = table
    rows, names = read(schema, packed(schema, times, values)), tuple(values)
    at = np.array(data.draw(st.lists(st.integers(0, len(times)), max_size=8)), np.int64)
    some = rows.padded().take(at)
    columns, nulls = some.values(names), some.nulls(names)
    for name, null in zip(names, nulls, strict=True):
        whole = rows.values((name,))[name].tolist()
        for position, value, gone in zip(at.tolist(), columns[name].tolist(), null.tolist(), strict=True):
            if position < len(times):
                assert gone == (values[name][position] is None)
                assert repr(value) == repr(whole[position])
            else:
                assert gone
                assert is_empty(value)


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
            read(schema, [*rows[:at], broken, *rows[at + 1 :]])


def test_another_schema_has_another_tag() -> None:
    fields = (RowField(name="a", kind=Kind.FLOAT32), RowField(name="b", kind=Kind.STRING))
    schema = RowSchema(fields=fields)
    assert RowSchema.from_json(schema.to_json()) == schema
    vector = RowField(name="a", kind=Kind.FLOAT32, dimension=3)
    assert RowSchema.from_json(RowSchema(fields=(vector,)).to_json()).fields == (vector,)
    others = [fields[::-1], fields[:1], (RowField(name="a", kind=Kind.INT32), fields[1]), (vector, fields[1])]
    assert len({schema.tag, *(RowSchema(fields=other).tag for other in others)}) == 5


@pytest.mark.parametrize(("kind", "dimension"), [(Kind.INT32, 3), (Kind.FLOAT32, 0), (Kind.FLOAT32, 1 << 20)])
def test_vectors_that_cannot_be(kind: Kind, dimension: int) -> None:
    with pytest.raises(ValueError, match="vectors are float32"):
        RowField(name="a", kind=kind, dimension=dimension)


def test_a_row_without_a_header_or_of_another_version_is_refused() -> None:
    for row in (b"abc", b"\1" * 24):
        with pytest.raises(PublicationCorrupt):
            row_tags(Texts.of([row]))


KEYS = st.one_of(INT64, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))


def one_key(value: int | str) -> Any:
    return np.array([value], np.int64) if isinstance(value, int) else text_keys([value])


@given(st.tuples(KEYS, KEYS), st.tuples(KEYS, KEYS))
def test_different_keys_have_different_bytes(left: tuple[Any, Any], right: tuple[Any, Any]) -> None:
    (a,) = key_bytes({"x": one_key(left[0]), "y": one_key(left[1])}).tolist()
    (b,) = key_bytes({"y": one_key(right[1]), "x": one_key(right[0])}).tolist()
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
    (found,) = key_columns(view(kind), {"k0": column}).values()
    assert (found.strings() if isinstance(found, Texts) else found.tolist()) == stored


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
        key_columns(view(kind), {"k0": [value]})
    assert "yesterday" not in str(caught.value)
    assert "20250102" not in str(caught.value)


def test_key_columns_are_those_of_the_view() -> None:
    two = view("int64", "string")
    with pytest.raises(RequestInvalid, match="needed: k0, k1"):
        key_columns(two, {"k0": [1]})
    with pytest.raises(RequestInvalid, match="needed: k0, k1"):
        key_columns(two, {"k0": [1], "k1": ["a"], "k2": [1]})
    with pytest.raises(RequestInvalid, match="differ in length"):
        key_columns(two, {"k0": [1, 2], "k1": ["a"]})
