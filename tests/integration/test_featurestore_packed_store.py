"""The packed stores behind Feast's interface: one conformance suite, with Feast's own stores as the oracle."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.feast_repository import quiet_feast
from featurestore.rows import unpack
from governance.errors import ConfigError, StoreUnreachable
from tests.support.redis import held_port, redis_cluster, redis_sentinel, redis_server, tls_in_front

with quiet_feast():
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
    from feast.data_source import PushMode
    from feast.infra.online_stores.redis import RedisOnlineStore
    from feast.infra.online_stores.sqlite import SqliteOnlineStore
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import FloatList, Int64List, StringList, Value
    from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp, from_value_type
    from feast.utils import _convert_arrow_to_proto

    from featurestore.online.feast_columns import packed_table
    from featurestore.online.feast_values import entity_key_bytes, microseconds_of, value_columns
    from featurestore.online.packed_redis import PackedRedisOnlineStore
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
    Array(Float32): st.lists(st.floats(width=32), max_size=3).map(lambda v: Value(float_list_val=FloatList(val=v))),
    Array(Int64): st.lists(INT64, max_size=3).map(lambda v: Value(int64_list_val=Int64List(val=v))),
    Array(String): st.lists(TEXT, max_size=3).map(lambda v: Value(string_list_val=StringList(val=v))),
}
KEYS = [
    ("number", ValueType.INT64, INT64.map(lambda v: Value(int64_val=v))),
    ("code", ValueType.STRING, TEXT.map(lambda v: Value(string_val=v))),
    ("small", ValueType.INT32, st.integers(-9, 9).map(lambda v: Value(int32_val=v))),
]
TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
NOON = datetime(2025, 11, 10, 12, tzinfo=UTC)
PACKED_SQLITE = "featurestore.online.packed_sqlite.PackedSqliteOnlineStore"
PACKED_ENGINE = "featurestore.online.feast_engine.PackedComputeEngine"
PACKED_REDIS = "featurestore.online.packed_redis.PackedRedisOnlineStore"


@dataclass(frozen=True)
class Kind:
    """How to make one store: its class, and the `online_store` section, `{folder}` filled in."""

    store: type
    options: dict[str, Any] = field(hash=False)
    engine: bool = False

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, RepoConfig]]:
        with TemporaryDirectory() as folder, quiet_feast():
            online = self.store()
            yield online, self.config(Path(folder))
            if isinstance(online, RedisOnlineStore):
                online._client.close()
            else:
                asyncio.run(online.close())

    def config(self, folder: Path) -> RepoConfig:
        return RepoConfig(
            project=f"p{uuid4().hex[:8]}",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={name: str(value).format(folder=folder) for name, value in self.options.items()},
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
            batch_engine={"type": PACKED_ENGINE} if self.engine else "local",
        )


@pytest.fixture(scope="module")
def redis_address() -> Iterator[str]:
    with redis_server() as address:
        yield address


@pytest.fixture(scope="module")
def kinds(redis_address: str) -> Iterator[dict[str, Kind]]:
    """All stores; cluster, Sentinel and TLS are started when a test first asks for them."""
    with ExitStack() as stack:
        yield Kinds(stack, redis_address)


class Kinds(dict[str, Kind]):
    def __init__(self, stack: ExitStack, address: str) -> None:
        self._stack, self._address = stack, address

    def __missing__(self, name: str) -> Kind:
        self[name] = self._made(name)
        return self[name]

    def _made(self, name: str) -> Kind:
        if name == "sqlite":
            return Kind(PackedSqliteOnlineStore, {"type": PACKED_SQLITE, "path": "{folder}/online.db"})
        if name == "feast-sqlite":
            return Kind(SqliteOnlineStore, {"type": "sqlite", "path": "{folder}/online.db"})
        if name == "feast-redis":
            return Kind(RedisOnlineStore, {"type": "redis", "connection_string": self._address})
        options = {"type": PACKED_REDIS, "connection_string": self._address}
        if name == "redis-tls":
            address, certificate = self._stack.enter_context(tls_in_front(self._address))
            options["connection_string"] = f"{address},ssl=true,ssl_ca_certs={certificate}"
        elif name == "redis-sentinel":
            _, _, sentinel = self._stack.enter_context(redis_sentinel())
            options |= {"connection_string": sentinel, "topology": "sentinel"}
        elif name == "redis-cluster":
            nodes = self._stack.enter_context(redis_cluster())
            options |= {"connection_string": nodes, "topology": "cluster"}
        return Kind(PackedRedisOnlineStore, options)


def view(keys: list[tuple[str, Any, Any]], types: list[Any], name: str = "v") -> FeatureView:
    with quiet_feast():
        return FeatureView(
            name=name,
            entities=[Entity(name=key, join_keys=[key], value_type=kind) for key, kind, _ in keys],
            schema=[
                *(Field(name=key, dtype=from_value_type(kind)) for key, kind, _ in keys),
                *(Field(name=f"f{i}", dtype=kind) for i, kind in enumerate(types)),
            ],
            source=FileSource(name="source", path="nowhere.parquet", timestamp_field="event_timestamp"),
            ttl=timedelta(days=1),
        )


@st.composite
def tables(draw: st.DrawFn) -> tuple[FeatureView, list[Any], list[Any]]:
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique_by=lambda key: key[0]))
    types = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=6))
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
            {f"f{i}": draw(st.just(Value()) | VALUES[kind]) for i, kind in enumerate(types)},
            draw(TIMES),
            None,
        )
        for key in entity_keys[: draw(st.integers(0, len(entity_keys)))]
    ]
    return view(keys, types), entity_keys, rows


def values_of(rows: list[Any], names: list[str]) -> list[Any]:
    """What the stores must agree on: values and nulls. Feast's Redis store has an empty row where there is none."""
    plain = [
        None if values is None else {name: values[name].SerializeToString() for name in names} for _, values in rows
    ]
    return [None if row is None or not any(row.values()) else row for row in plain]


@pytest.mark.parametrize("oracle", ["feast-sqlite", "feast-redis"])
@pytest.mark.parametrize("packed", ["sqlite", "redis"])
def test_it_reads_what_feasts_own_stores_read(packed: str, oracle: str, kinds: dict[str, Kind]) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(tables(), st.data())
    def compare(table: tuple[FeatureView, list[Any], list[Any]], data: Any) -> None:
        definition, keys, rows = table
        every = [feature.name for feature in definition.features]
        names = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
        answers = []
        for kind in (packed, oracle):
            with kinds[kind].opened() as (online, config):
                online.update(config, [], [definition], [], [], partial=False)
                online.online_write_batch(config, definition, rows, None)
                online.online_write_batch(config, definition, rows, None)
                some = online.online_read(config, definition, keys, list(names))
                everything = online.online_read(config, definition, keys, list(every))
                if kind == packed:  # Feast's own stores keep whole seconds
                    assert [at for at, _ in some] == [at for _, _, at, _ in rows] + [None] * (len(keys) - len(rows))
                    assert all(set(values) == set(names) for _, values in some if values is not None)
                    assert online.online_read(config, definition, keys) == everything
                answers.append((values_of(some, names), values_of(everything, every)))
                online.teardown(config, [definition], [])
        assert answers[0] == answers[1]

    compare()


ARROW: dict[Any, tuple[Any, st.SearchStrategy[Any]]] = {
    Int64: (pa.int64(), st.integers(-(1 << 53), 1 << 53)),  # Feast takes integers with nulls among them through floats
    Int32: (pa.int32(), st.integers(-(1 << 31), (1 << 31) - 1)),
    Float64: (pa.float64(), st.floats()),
    Float32: (pa.float32(), st.floats(width=32)),
    Bool: (pa.bool_(), st.booleans()),
    String: (pa.string(), TEXT),
    Bytes: (pa.binary(), st.binary(min_size=1, max_size=6)),
    Array(Float32): (pa.list_(pa.float32()), st.lists(st.floats(width=32), max_size=3)),
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(list(ARROW)), min_size=1, max_size=5), st.integers(1, 5), st.booleans(), st.data())
def test_columns_are_packed_like_single_values(types: list[Any], count: int, zoned: bool, data: Any) -> None:
    """What the engine writes is what Feast's own conversion of every value gives."""
    definition = view(KEYS[:2], types)
    times = data.draw(st.lists(TIMES, min_size=count, max_size=count))
    columns = {
        "number": pa.array(data.draw(st.lists(INT64, min_size=count, max_size=count)), pa.int64()),
        "code": pa.array(data.draw(st.lists(TEXT, min_size=count, max_size=count)), pa.string()),
        "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")).cast(
            pa.timestamp("us", "UTC" if zoned else None)
        ),
    }
    for i, kind in enumerate(types):
        arrow, values = ARROW[kind]
        drawn = data.draw(
            st.lists(values if kind in (Int32, Int64, Bool) else st.none() | values, min_size=count, max_size=count)
        )
        columns[f"f{i}"] = pa.array(drawn, arrow)
    table = pa.table(columns)
    packed = packed_table(definition, table)
    assert packed is not None
    schema, keys, rows = packed
    value_types = {name: kind for name, kind, _ in KEYS[:2]}
    wanted = _convert_arrow_to_proto(table, definition, value_types)
    names = tuple(f"f{i}" for i in range(len(types)))
    assert keys.tolist() == entity_key_bytes([key for key, _, _, _ in wanted]).tolist()
    assert rows.event_times.tolist() == [microseconds_of(at) for _, _, at, _ in wanted]
    found = value_columns(unpack(schema, rows.joined()), names)
    expected = [[features[name] for _, features, _, _ in wanted] for name in names]
    assert [[value.SerializeToString() for value in column] for column in found] == [
        [value.SerializeToString() for value in column] for column in expected
    ]


def test_what_takes_single_values_goes_feasts_way() -> None:
    """Types that Arrow holds otherwise than rows do are left to Feast: no guesses."""
    definition = view(KEYS[:1], [Int64])
    good = {
        "number": pa.array([1]),
        "f0": pa.array([2]),
        "event_timestamp": pa.array([NOON], pa.timestamp("us", "UTC")),
    }
    assert packed_table(definition, pa.table(good)) is not None
    for name, column in (
        ("f0", pa.array([2.0])),
        ("f0", pa.array(["2"])),
        ("number", pa.array([None], pa.int64())),
        ("number", pa.array([1.0])),
        ("event_timestamp", pa.array([None], pa.timestamp("us", "UTC"))),
        ("event_timestamp", pa.array([20_000], pa.date32())),
    ):
        assert packed_table(definition, pa.table({**good, name: column})) is None
    assert packed_table(definition, pa.table(good).drop_columns(["f0"])) is None
    lists = view(KEYS[:1], [Array(Float32)])
    for column in (pa.array([[1]], pa.list_(pa.int64())), pa.array([[None]], pa.list_(pa.float32()))):
        assert packed_table(lists, pa.table({**good, "f0": column})) is None
    assert packed_table(view(KEYS[:1], [Bytes]), pa.table({**good, "f0": pa.array([b""])})) is None


def row(number: int, at: datetime, **values: Value) -> tuple[Any, dict[str, Any], datetime, None]:
    return EntityKey(join_keys=["number"], entity_values=[Value(int64_val=number)]), values, at, None


class StoreConformance:
    """What every packed store does, however it is reached. Subclasses name it."""

    kind: str

    @pytest.fixture
    def store(self, kinds: dict[str, Kind]) -> Iterator[tuple[Any, RepoConfig]]:
        with kinds[self.kind].opened() as pair:
            yield pair

    def test_a_view_that_gains_a_feature_keeps_its_rows(self, store: tuple[Any, RepoConfig]) -> None:
        online, config = store
        narrow, wide = view(KEYS[:1], [Int64]), view(KEYS[:1], [Int64, String])
        online.online_write_batch(config, narrow, [row(1, NOON, f0=Value(int64_val=5))], None)
        new = row(2, NOON, f0=Value(int64_val=6), f1=Value(string_val="x"))
        online.online_write_batch(config, wide, [new], None)
        old, fresh = online.online_read(config, wide, [row(1, NOON)[0], new[0]])
        assert old == (NOON, {"f0": Value(int64_val=5), "f1": Value()})
        assert fresh == (NOON, {"f0": Value(int64_val=6), "f1": Value(string_val="x")})
        assert online.online_read(config, narrow, [new[0]]) == [(NOON, {"f0": Value(int64_val=6)})]

    def test_a_value_of_another_type_than_declared_comes_back_as_it_is(self, store: tuple[Any, RepoConfig]) -> None:
        online, config = store
        definition = view(KEYS[:1], [Int64])
        rows = [row(1, NOON, f0=Value(string_val="x")), row(2, NOON, f0=Value(int64_val=2)), row(3, NOON)]
        online.online_write_batch(config, definition, rows, None)
        found = online.online_read(config, definition, [entity_key for entity_key, *_ in rows])
        assert [values["f0"] for _, values in found] == [Value(string_val="x"), Value(int64_val=2), Value()]

    def test_a_later_row_stays_and_a_naive_time_is_utc(self, store: tuple[Any, RepoConfig]) -> None:
        online, config = store
        definition = view(KEYS[:1], [Int64])
        told: list[int] = []
        for at, value in ((NOON, 1), (NOON - timedelta(microseconds=1), 2), (NOON.replace(tzinfo=None), 3)):
            online.online_write_batch(config, definition, [row(1, at, f0=Value(int64_val=value))], told.append)
        assert online.online_read(config, definition, [row(1, NOON)[0]]) == [(NOON, {"f0": Value(int64_val=3)})]
        assert told == [1, 1, 1]

    def test_times_far_from_now_keep_their_order(self, store: tuple[Any, RepoConfig]) -> None:
        """Event times are compared as 64-bit integers, not as the doubles that scripts of Redis count in."""
        online, config = store
        definition = view(KEYS[:1], [Int64])
        far = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
        for times in ([far, far - timedelta(microseconds=1)], [datetime(1, 1, 1, tzinfo=UTC), NOON]):
            online.online_write_batch(
                config, definition, [row(1, at, f0=Value(int64_val=i)) for i, at in enumerate(times)], None
            )
        assert online.online_read(config, definition, [row(1, NOON)[0]]) == [(far, {"f0": Value(int64_val=0)})]

    def test_delete_update_and_teardown(self, store: tuple[Any, RepoConfig]) -> None:
        online, config = store
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

    def test_asynchronously(self, store: tuple[Any, RepoConfig]) -> None:
        online, config = store
        definition = view(KEYS[:1], [Int64])
        assert online.async_supported.read
        assert online.async_supported.write

        async def both() -> Any:
            await online.online_write_batch_async(config, definition, [row(1, NOON, f0=Value(int64_val=1))], None)
            try:
                wanted = [row(number, NOON)[0] for number in (1, 2)]
                assert await online.online_read_async(config, definition, []) == []
                return await online.online_read_async(config, definition, wanted)
            finally:
                await online.close()

        for _ in range(2):  # in a loop of its own each time
            assert asyncio.run(both()) == [(NOON, {"f0": Value(int64_val=1)}), (None, None)]

    def test_more_rows_than_a_batch(self, store: tuple[Any, RepoConfig]) -> None:
        online, config = store
        definition = view(KEYS[1:2], [Int64, String])
        rows = [
            (
                EntityKey(join_keys=["code"], entity_values=[Value(string_val="x{}" * (i % 3) + str(i))]),
                {"f0": Value(int64_val=i), "f1": Value(string_val="y" * (i % 5))},
                NOON,
                None,
            )
            for i in range(2_500)
        ]
        online.online_write_batch(config, definition, rows, None)
        found = online.online_read(config, definition, [entity_key for entity_key, *_ in rows[::-1]])
        assert [values for _, values in found] == [values for _, values, *_ in rows[::-1]]
        online.teardown(config, [definition], [])
        found = online.online_read(config, definition, [entity_key for entity_key, *_ in rows])
        assert found == [(None, None)] * len(rows)

    def test_feasts_whole_interface(self, kinds: dict[str, Kind], tmp_path: Path) -> None:
        """Apply, materialize, materialize_incremental, push, reading both ways, a gained column, delete, teardown."""
        feast_through(kinds[self.kind], tmp_path)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_feasts_whole_interface_with_the_packed_engine(kind: str, kinds: dict[str, Kind], tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a value went through a protobuf on its way to materialize")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feast.infra.compute_engines.local.nodes._convert_arrow_to_proto", refuse)
        feast_through(replace(kinds[kind], engine=True), tmp_path)


def feast_through(kind: Kind, folder: Path) -> None:
    with quiet_feast():
        feast = FeatureStore(config=kind.config(folder))
        use_all(feast, folder)
        asyncio.run(feast.close())


def use_all(feast: FeatureStore, folder: Path) -> None:
    entity = Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)
    path = folder / "rows.parquet"
    now = datetime.now(UTC).replace(microsecond=0)
    frame = pd.DataFrame(
        {
            "user": [1, 2, 2, 3],
            "score": [0.5, 0.25, 0.75, None],
            "name": ["a", "b", "c", None],
            "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]],
            "extra": [10, 20, 21, 30],
            "event_timestamp": [now - timedelta(hours=hours) for hours in (3, 3, 2, 1)],
        }
    )
    frame.to_parquet(path)

    def definition(*more: Field, name: str = "scores") -> FeatureView:
        batch = FileSource(name=f"{name}_batch", path=str(path), timestamp_field="event_timestamp")
        return FeatureView(
            name=name,
            entities=[entity],
            ttl=timedelta(days=2),
            schema=[
                Field(name="score", dtype=Float64),
                Field(name="name", dtype=String),
                Field(name="vector", dtype=Array(Float32)),
                *more,
            ],
            source=PushSource(name=f"{name}_push", batch_source=batch),
        )

    def read(*features: str) -> dict[str, list[Any]]:
        rows = [{"user": user} for user in (3, 1, 2, 4)]
        answer = feast.get_online_features(features=list(features), entity_rows=rows).to_dict()

        async def asynchronously() -> Any:
            await feast.initialize()
            try:
                return (await feast.get_online_features_async(features=list(features), entity_rows=rows)).to_dict()
            finally:
                await feast.close()

        assert asyncio.run(asynchronously()) == answer
        return answer

    feast.apply([entity, definition(), definition(name="others")])
    feast.materialize(now - timedelta(days=1), now - timedelta(hours=2, minutes=30), ["scores"])
    answer = read("scores:score", "scores:name", "scores:vector")
    assert answer["score"] == [None, 0.5, 0.25, None]
    assert answer["name"] == [None, "a", "b", None]
    assert answer["vector"] == [None, [1.0, 2.0], [3.0, 4.0], None]
    feast.materialize_incremental(now, ["scores"])
    assert read("scores:score", "scores:name")["score"] == [None, 0.5, 0.75, None]
    assert read("scores:name")["name"] == [None, "a", "c", None]
    pushed = frame.iloc[[0]].assign(score=0.9, name="pushed", event_timestamp=now)
    feast.push("scores_push", pushed.drop(columns="extra"), to=PushMode.ONLINE)
    feast.push("scores_push", pushed.drop(columns="extra").assign(score=0.1, event_timestamp=now - timedelta(days=1)))
    assert read("scores:score")["score"] == [None, 0.9, 0.75, None]  # an older row changes nothing

    feast.apply([entity, definition(Field(name="extra", dtype=Int64))])
    answer = read("scores:extra", "scores:score")
    assert answer["extra"] == [None] * 4
    assert answer["score"] == [None, 0.9, 0.75, None]
    feast.materialize(now - timedelta(days=1), now, ["scores"])
    answer = read("scores:extra", "scores:score")
    assert answer["extra"] == [30, None, 21, None]  # user 1 was pushed later than it was materialised
    assert answer["score"] == [None, 0.9, 0.75, None]

    feast.materialize(now - timedelta(days=1), now, ["others"])
    feast.apply([], objects_to_delete=[feast.get_feature_view("scores")], partial=False)
    feast.apply([entity, definition()])
    assert read("scores:score")["score"] == [None] * 4
    assert read("others:score")["score"] == [None, 0.5, 0.75, None]
    feast.teardown()


class TestPackedSqlite(StoreConformance):
    kind = "sqlite"


class TestPackedRedis(StoreConformance):
    kind = "redis"

    def test_rows_live_as_long_as_they_are_told(self, kinds: dict[str, Kind]) -> None:
        kind = kinds["redis"]
        definition, wanted = view(KEYS[:1], [Int64]), [row(1, NOON)[0]]
        with Kind(kind.store, {**kind.options, "key_ttl_seconds": 3600}).opened() as (online, config):
            online.online_write_batch(config, definition, [row(1, NOON, f0=Value(int64_val=1))], None)
            assert online.online_read(config, definition, wanted)[0][1] is not None
            client = online.rows(config)._client
            assert 3_000_000 < max(client.pttl(key) for key in client.scan_iter()) <= 3_600_000
            online.teardown(config, [definition], [])
        with Kind(kind.store, {**kind.options, "key_ttl_seconds": 1}).opened() as (online, config):
            online.online_write_batch(config, definition, [row(1, NOON, f0=Value(int64_val=1))], None)
            deadline = time.monotonic() + 60
            while online.online_read(config, definition, wanted)[0][1] is not None:
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def test_nothing_is_left_behind(self, store: tuple[Any, RepoConfig]) -> None:
        online, config = store
        definition = view(KEYS[:1], [Int64])
        online.online_write_batch(config, definition, [row(1, NOON, f0=Value(int64_val=1))], None)
        client = online.rows(config)._client
        before = client.dbsize()
        online.teardown(config, [definition], [])
        assert client.dbsize() == before - 1

    def test_it_is_not_there(self) -> None:
        with held_port() as port:
            options = {"type": PACKED_REDIS, "connection_string": f"127.0.0.1:{port},password=secret"}
            with Kind(PackedRedisOnlineStore, options).opened() as (online, config):
                with pytest.raises(StoreUnreachable, match="does not answer") as caught:
                    online.online_read(config, view(KEYS[:1], [Int64]), [row(1, NOON)[0]])
                assert "secret" not in str(caught.value)


class TestPackedRedisOverTls(StoreConformance):
    kind = "redis-tls"

    def test_another_certificate_is_not_trusted(self, kinds: dict[str, Kind]) -> None:
        address = kinds["redis-tls"].options["connection_string"].partition(",")[0]
        for options in (f"{address},ssl=true", address):
            kind = Kind(PackedRedisOnlineStore, {"type": PACKED_REDIS, "connection_string": options})
            with kind.opened() as (online, config), pytest.raises(StoreUnreachable):
                online.online_read(config, view(KEYS[:1], [Int64]), [row(1, NOON)[0]])


class TestPackedRedisCluster(StoreConformance):
    kind = "redis-cluster"

    def test_rows_are_spread_over_the_nodes(self, store: tuple[Any, RepoConfig]) -> None:
        online, config = store
        definition = view(KEYS[:1], [Int64])
        rows = [row(i, NOON, f0=Value(int64_val=i)) for i in range(600)]
        online.online_write_batch(config, definition, rows, None)
        client = online.rows(config)._client
        counts = [client.get_redis_connection(node).dbsize() for node in client.get_primaries()]
        assert len(counts) == 3
        assert min(counts) > 100
        online.teardown(config, [definition], [])


class TestPackedRedisSentinel(StoreConformance):
    kind = "redis-sentinel"


def test_a_master_that_dies_is_replaced() -> None:
    """Sentinel makes the replica the master; the store goes there with no new configuration."""
    with redis_sentinel() as (master, _, sentinel):
        options = {"type": PACKED_REDIS, "connection_string": sentinel, "topology": "sentinel"}
        with Kind(PackedRedisOnlineStore, options).opened() as (online, config):
            definition = view(KEYS[:1], [Int64])
            online.online_write_batch(config, definition, [row(1, NOON, f0=Value(int64_val=1))], None)
            client = online.rows(config)._client
            deadline = time.monotonic() + 60
            while not client.wait(1, 1_000):
                assert time.monotonic() < deadline, "the replica has no row"
            client.execute_command("CONFIG", "SET", "repl-diskless-sync", "yes")
            process = client.info("server")["process_id"]
            os.kill(process, 9)  # started by this test
            with redis.Redis.from_url(f"redis://{sentinel}") as watching:
                watching.execute_command("SENTINEL", "SET", "mymaster", "down-after-milliseconds", "1000")
            deadline = time.monotonic() + 180
            while True:
                try:
                    found = online.online_read(config, definition, [row(1, NOON)[0]])
                    online.online_write_batch(config, definition, [row(2, NOON, f0=Value(int64_val=2))], None)
                    break
                except StoreUnreachable:
                    assert time.monotonic() < deadline, f"{master} has no successor"
                    time.sleep(0.1)
            assert found == [(NOON, {"f0": Value(int64_val=1)})]


def test_an_option_that_no_client_knows(redis_address: str) -> None:
    options = {"type": PACKED_REDIS, "connection_string": f"{redis_address},pasword=secret"}
    with Kind(PackedRedisOnlineStore, options).opened() as (online, config):
        with pytest.raises(ConfigError, match="found: pasword") as caught:
            online.online_read(config, view(KEYS[:1], [Int64]), [row(1, NOON)[0]])
        assert "secret" not in str(caught.value)
