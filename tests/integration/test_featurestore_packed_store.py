"""The packed store behind Feast's interface, with Feast's own SQLite store as the oracle."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.feast_repository import quiet_feast

with quiet_feast():
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.infra.online_stores.sqlite import SqliteOnlineStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Int64List, StringList, Value
    from feast.repo_config import RepoConfig
    from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

    from featurestore.online.packed_sqlite import PackedSqliteOnlineStore

pytestmark = pytest.mark.filterwarnings("ignore")  # Feast warns of its own deprecations

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    Int64: INT64.map(lambda v: Value(int64_val=v)),
    Int32: st.integers(-(1 << 31), (1 << 31) - 1).map(lambda v: Value(int32_val=v)),
    Float64: st.floats().map(lambda v: Value(double_val=v)),
    Float32: st.floats(width=32).map(lambda v: Value(float_val=v)),
    Bool: st.booleans().map(lambda v: Value(bool_val=v)),
    String: TEXT.map(lambda v: Value(string_val=v)),
    Bytes: st.binary(max_size=6).map(lambda v: Value(bytes_val=v)),
    UnixTimestamp: INT64.map(lambda v: Value(unix_timestamp_val=v)),
    Array(Int64): st.lists(INT64, max_size=3).map(lambda v: Value(int64_list_val=Int64List(val=v))),
    Array(String): st.lists(TEXT, max_size=3).map(lambda v: Value(string_list_val=StringList(val=v))),
}
KEYS = [
    ("number", ValueType.INT64, INT64.map(lambda v: Value(int64_val=v))),
    ("code", ValueType.STRING, TEXT.map(lambda v: Value(string_val=v))),
    ("small", ValueType.INT32, st.integers(-9, 9).map(lambda v: Value(int32_val=v))),
]
TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def view(keys: list[tuple[str, Any, Any]], kinds: list[Any], name: str = "v") -> FeatureView:
    with quiet_feast():
        return FeatureView(
            name=name,
            entities=[Entity(name=key, join_keys=[key], value_type=kind) for key, kind, _ in keys],
            schema=[Field(name=f"f{i}", dtype=kind) for i, kind in enumerate(kinds)],
            source=FileSource(name="source", path="nowhere.parquet", timestamp_field="event_timestamp"),
            ttl=timedelta(days=1),
        )


@contextmanager
def store(kind: str) -> Iterator[tuple[Any, RepoConfig]]:
    with TemporaryDirectory() as folder, quiet_feast():
        packed = "featurestore.online.packed_sqlite.PackedSqliteOnlineStore"
        config = RepoConfig(
            project="p",
            provider="local",
            registry=str(Path(folder, "registry.db")),
            online_store={"type": packed if kind == "packed" else "sqlite", "path": str(Path(folder, "online.db"))},
            entity_key_serialization_version=3,
        )
        yield PackedSqliteOnlineStore() if kind == "packed" else SqliteOnlineStore(), config


@pytest.fixture
def packed() -> Iterator[tuple[Any, RepoConfig]]:
    with store("packed") as pair:
        yield pair


@st.composite
def tables(draw: st.DrawFn) -> tuple[FeatureView, list[Any], list[Any]]:
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique_by=lambda key: key[0]))
    kinds = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=6))
    entity_keys = [
        EntityKey(join_keys=[name for name, _, _ in keys], entity_values=values)
        for values in draw(
            st.lists(
                st.tuples(*(values for _, _, values in keys)),
                max_size=8,
                unique_by=lambda values: tuple(value.SerializeToString() for value in values),
            )
        )
    ]
    rows = [
        (
            key,
            {f"f{i}": draw(st.just(Value()) | VALUES[kind]) for i, kind in enumerate(kinds)},
            draw(TIMES),
            None,
        )
        for key in entity_keys[: draw(st.integers(0, len(entity_keys)))]
    ]
    return view(keys, kinds), entity_keys, rows


def values_of(rows: list[Any], names: list[str]) -> list[Any]:
    return [
        None if values is None else {name: values[name].SerializeToString() for name in names} for _, values in rows
    ]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(), st.data())
def test_it_reads_what_feasts_own_store_reads(table: tuple[FeatureView, list[Any], list[Any]], data: Any) -> None:
    definition, keys, rows = table
    every = [feature.name for feature in definition.features]
    names = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    answers = []
    for kind in ("packed", "feast"):
        with store(kind) as (online, config):
            online.update(config, [], [definition], [], [], partial=False)
            online.online_write_batch(config, definition, rows, None)
            online.online_write_batch(config, definition, rows, None)
            some = online.online_read(config, definition, keys, list(names))
            everything = online.online_read(config, definition, keys)
        answers.append((values_of(some, names), values_of(everything, every)))
        if kind == "packed":  # Feast's own store keeps whole seconds, in local time
            assert [at for at, _ in some] == [at for _, _, at, _ in rows] + [None] * (len(keys) - len(rows))
            assert all(set(values) == set(names) for _, values in some if values is not None)
    assert answers[0] == answers[1]


def row(number: int, at: datetime, **values: Value) -> tuple[Any, dict[str, Any], datetime, None]:
    return EntityKey(join_keys=["number"], entity_values=[Value(int64_val=number)]), values, at, None


NOON = datetime(2025, 11, 10, 12, tzinfo=UTC)


def test_a_view_that_gains_a_feature_keeps_its_rows(packed: tuple[Any, RepoConfig]) -> None:
    online, config = packed
    narrow, wide = view(KEYS[:1], [Int64]), view(KEYS[:1], [Int64, String])
    online.online_write_batch(config, narrow, [row(1, NOON, f0=Value(int64_val=5))], None)
    new = row(2, NOON, f0=Value(int64_val=6), f1=Value(string_val="x"))
    online.online_write_batch(config, wide, [new], None)
    old, fresh = online.online_read(config, wide, [row(1, NOON)[0], new[0]])
    assert old == (NOON, {"f0": Value(int64_val=5), "f1": Value()})
    assert fresh == (NOON, {"f0": Value(int64_val=6), "f1": Value(string_val="x")})
    assert online.online_read(config, narrow, [new[0]]) == [(NOON, {"f0": Value(int64_val=6)})]


def test_a_value_of_another_type_than_declared_comes_back_as_it_is(packed: tuple[Any, RepoConfig]) -> None:
    online, config = packed
    definition = view(KEYS[:1], [Int64])
    rows = [row(1, NOON, f0=Value(string_val="x")), row(2, NOON, f0=Value(int64_val=2)), row(3, NOON)]
    online.online_write_batch(config, definition, rows, None)
    found = online.online_read(config, definition, [entity_key for entity_key, *_ in rows])
    assert [values["f0"] for _, values in found] == [Value(string_val="x"), Value(int64_val=2), Value()]


def test_a_later_row_stays_and_a_naive_time_is_utc(packed: tuple[Any, RepoConfig]) -> None:
    online, config = packed
    definition = view(KEYS[:1], [Int64])
    told: list[int] = []
    for at, value in ((NOON, 1), (NOON - timedelta(microseconds=1), 2), (NOON.replace(tzinfo=None), 3)):
        online.online_write_batch(config, definition, [row(1, at, f0=Value(int64_val=value))], told.append)
    assert online.online_read(config, definition, [row(1, NOON)[0]]) == [(NOON, {"f0": Value(int64_val=3)})]
    assert told == [1, 1, 1]


def test_delete_update_and_teardown(packed: tuple[Any, RepoConfig]) -> None:
    online, config = packed
    first, second = view(KEYS[:1], [Int64], "first"), view(KEYS[:1], [Int64], "second")
    rows = [row(number, NOON, f0=Value(int64_val=number)) for number in (1, 2)]
    keys = [entity_key for entity_key, *_ in rows]

    def found(definition: FeatureView) -> list[bool]:
        return [values is not None for _, values in online.online_read(config, definition, keys)]

    for definition in (first, second):
        online.online_write_batch(config, definition, rows, None)
    online.delete_entities(config, first, keys[:1])
    assert (found(first), found(second)) == ([False, True], [True, True])
    online.update(config, [first], [second], [], [], partial=False)
    assert (found(first), found(second)) == ([False, False], [True, True])
    online.teardown(config, [second], [])
    assert found(second) == [False, False]


def test_asynchronously(packed: tuple[Any, RepoConfig]) -> None:
    online, config = packed
    definition = view(KEYS[:1], [Int64])
    assert online.async_supported.read
    assert online.async_supported.write

    async def both() -> Any:
        await online.online_write_batch_async(config, definition, [row(1, NOON, f0=Value(int64_val=1))], None)
        return await online.online_read_async(config, definition, [row(1, NOON)[0]])

    assert asyncio.run(both()) == [(NOON, {"f0": Value(int64_val=1)})]
