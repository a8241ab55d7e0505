"""`PackedSqliteOnlineStore`: packed rows behind Feast's own interface, by its extension point.

```yaml
online_store:
  type: featurestore.online.packed_sqlite.PackedSqliteOnlineStore
  path: online.db
```

Materialize, push, get_online_features, delete and teardown work as with any store of Feast's. What differs from Feast's
SQLite store: a view's features are written and read together, and a row never replaces a later one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.value_type import ValueType

from featurestore.online.database import PackedDatabase
from featurestore.online.keys import encode_value
from featurestore.online.rows import Column, Kind, RowField, RowSchema, pack, tags, unpack

__all__ = ["PackedSqliteOnlineStore", "PackedSqliteOnlineStoreConfig"]

FeastRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

_KINDS: Final = {
    ValueType.INT64: Kind.INT64,
    ValueType.INT32: Kind.INT32,
    ValueType.DOUBLE: Kind.FLOAT64,
    ValueType.FLOAT: Kind.FLOAT32,
    ValueType.BOOL: Kind.BOOL,
    ValueType.UNIX_TIMESTAMP: Kind.TIMESTAMP,
    ValueType.STRING: Kind.STRING,
    ValueType.BYTES: Kind.BYTES,
}
_MEMBERS: Final = {
    Kind.INT64: "int64_val",
    Kind.INT32: "int32_val",
    Kind.FLOAT64: "double_val",
    Kind.FLOAT32: "float_val",
    Kind.BOOL: "bool_val",
    Kind.TIMESTAMP: "unix_timestamp_val",
    Kind.STRING: "string_val",
    Kind.BYTES: "bytes_val",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):
    """The `online_store` section of feature_store.yaml."""

    type: Literal["featurestore.online.packed_sqlite.PackedSqliteOnlineStore"] = (
        "featurestore.online.packed_sqlite.PackedSqliteOnlineStore"
    )
    path: str = "online.db"


class PackedSqliteOnlineStore(OnlineStore):
    """Feast's online store interface over `PackedDatabase`."""

    def __init__(self) -> None:
        self._databases: dict[Path, PackedDatabase] = {}

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes have an async form; it uses a thread."""
        return SupportedAsyncMethods(read=True, write=True)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Writes rows in one transaction; one with an earlier event time than the stored row changes nothing."""
        if not data:
            return
        times = np.array([_micros(timestamp) for _, _, timestamp, _ in data], np.int64)
        fields, columns = [], {}
        for feature in table.features:
            values = [features.get(feature.name) for _, features, _, _ in data]
            kind, columns[feature.name] = _column(values, _KINDS.get(feature.dtype.to_value_type()))
            fields.append(RowField(name=feature.name, kind=kind))
        schema = RowSchema(fields=tuple(fields))
        self._database(config).write(
            _table(config, table),
            schema,
            [_key(entity_key) for entity_key, _, _, _ in data],
            times.tolist(),
            pack(schema, times, columns),
        )
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """The same in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Event time and values for each key, `(None, None)` where there is no row."""
        names = list(requested_features or [feature.name for feature in table.features])
        database = self._database(config)
        rows = database.read(_table(config, table), [_key(entity_key) for entity_key in entity_keys])
        answer: list[tuple[datetime | None, dict[str, Value] | None]] = [(None, None)] * len(rows)
        there = [(at, row) for at, row in enumerate(rows) if row is not None]
        tag_of = tags([row for _, row in there])
        for tag in np.unique(tag_of).tolist():
            mine = [pair for pair, own in zip(there, tag_of.tolist(), strict=True) if own == tag]
            schema = database.schema(tag)
            kinds = {field.name: field.kind for field in schema.fields}
            times, columns = unpack(schema, [row for _, row in mine], names)
            values = {name: _values(columns[name], kinds[name]) for name in names if name in columns}
            for i, (at, _) in enumerate(mine):
                features = {name: values[name][i] if name in values else Value() for name in names}
                answer[at] = (_EPOCH + timedelta(microseconds=int(times[i])), features)
        return answer

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The same in a thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def delete_entities(self, config: RepoConfig, table: FeatureView, entity_keys: Sequence[EntityKey]) -> None:
        """Removes the rows of these entities from one view."""
        self._database(config).delete(_table(config, table), [_key(entity_key) for entity_key in entity_keys])

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Makes and removes the tables of views."""
        database = self._database(config)
        for table in tables_to_keep:
            database.create(_table(config, table))
        for table in tables_to_delete:
            database.drop(_table(config, table))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """Removes the tables of these views."""
        for table in tables:
            self._database(config).drop(_table(config, table))

    def _database(self, config: RepoConfig) -> PackedDatabase:
        path = Path(config.online_store.path)
        if not path.is_absolute() and config.repo_path:
            path = Path(config.repo_path) / path
        if path not in self._databases:
            self._databases.setdefault(path, PackedDatabase(path))
        return self._databases[path]


def _table(config: RepoConfig, table: FeatureView) -> str:
    return str(compute_table_id(config.project, table, config.registry.enable_online_feature_view_versioning))


def _key(entity_key: EntityKey) -> bytes:
    pairs = sorted(zip(entity_key.join_keys, entity_key.entity_values, strict=True), key=lambda pair: pair[0])
    return b"".join(encode_value(getattr(value, value.WhichOneof("val"))) for _, value in pairs)


def _micros(timestamp: datetime) -> int:
    aware = timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _column(values: Sequence[Value | None], kind: Kind | None) -> tuple[Kind, Column]:
    """A packed column, and its kind: `VALUE` where a value is not of the declared type, or the type has no kind."""
    members = [None if value is None else value.WhichOneof("val") for value in values]
    nulls = np.array([member in (None, "null_val") for member in members], bool)
    if kind is None or any(not null and member != _MEMBERS[kind] for member, null in zip(members, nulls, strict=True)):
        return Kind.VALUE, Column(
            values=_objects([b"" if value is None else value.SerializeToString() for value in values]), nulls=nulls
        )
    member = _MEMBERS[kind]
    empty = Value()
    plain = [getattr(empty if value is None else value, member) for value in values]
    if kind is Kind.STRING:
        return kind, Column(values=_objects([text.encode() for text in plain]), nulls=nulls)
    if kind is Kind.BYTES:
        return kind, Column(values=_objects(plain), nulls=nulls)
    return kind, Column(values=np.array(plain), nulls=nulls)


def _objects(values: list[bytes]) -> np.ndarray[Any, np.dtype[Any]]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _values(column: Column, kind: Kind) -> list[Value]:
    if kind is Kind.VALUE:
        return [
            Value() if null else Value.FromString(data)
            for data, null in zip(column.values, column.nulls.tolist(), strict=True)
        ]
    member = _MEMBERS[kind]
    plain = [str(text, "utf-8") for text in column.values] if kind is Kind.STRING else column.values.tolist()
    return [
        Value() if null else Value(**{member: value}) for value, null in zip(plain, column.nulls.tolist(), strict=True)
    ]
