"""Packed rows behind Feast's online store interface, by its extension point: what both stores share.

Materialize, push, get_online_features (also asynchronous), delete and teardown work as with any store of Feast's. What
differs: a view's features are written and read together, and a row never replaces a later one. What Feast lacks:
`delete_entities` removes single entities.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig

from featurestore.online.feast_values import KINDS, column_of, entity_key_bytes, microseconds_of, value_columns
from featurestore.online.packed import by_schema
from featurestore.rows import PackedRows, RowField, RowSchema, Texts, pack

__all__ = ["FeastAnswer", "FeastRow", "PackedOnlineStore", "RowStore"]

FeastRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
FeastAnswer = list[tuple[datetime | None, dict[str, Value] | None]]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RowStore(Protocol):
    """What both stores can do with packed rows."""

    def read(self, table: str, keys: Texts) -> list[bytes | None]:
        """The packed rows of n keys, None where there is none."""
        ...

    def delete(self, table: str, keys: Texts) -> None:
        """Removes the rows of these keys."""
        ...

    def drop(self, table: str) -> None:
        """Removes a view's rows."""
        ...

    def schema(self, tag: int) -> RowSchema:
        """The schema that a row's tag names."""
        ...

    def close(self) -> None:
        """Gives connections back."""
        ...


class PackedOnlineStore(OnlineStore):
    """Feast's online store interface over packed rows."""

    @abstractmethod
    def rows(self, config: RepoConfig) -> RowStore:
        """The rows that a configuration names; opened once."""

    @abstractmethod
    def write_rows(self, config: RepoConfig, table: str, schema: RowSchema, keys: Texts, rows: PackedRows) -> None:
        """Writes packed rows; one with an earlier event time than the stored row changes nothing."""

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        """Reads and writes have an async form."""
        return SupportedAsyncMethods(read=True, write=True)

    # --- Feast's interface -------------------------------------------------------------------------------------

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeastRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Writes rows; of several with the same key the latest stays, and among equally late ones the last."""
        if not data:
            return
        times = np.array([microseconds_of(timestamp) for _, _, timestamp, _ in data], np.int64)
        fields, columns = [], {}
        for feature in table.features:
            values = [features.get(feature.name) for _, features, _, _ in data]
            kind, columns[feature.name] = column_of(values, KINDS.get(feature.dtype.to_value_type()))
            fields.append(RowField(name=feature.name, kind=kind))
        schema = RowSchema(fields=tuple(fields))
        keys = entity_key_bytes([entity_key for entity_key, _, _, _ in data])
        self.write_rows(config, table_name(config, table), schema, keys, pack(schema, columns, event_times=times))
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
    ) -> FeastAnswer:
        """Event time and values for each key, `(None, None)` where there is no row."""
        store = self.rows(config)
        rows = store.read(table_name(config, table), entity_key_bytes(entity_keys))
        return self.answer(store, table, rows, requested_features)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> FeastAnswer:
        """The same in a thread."""
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],  # noqa: ARG002
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Removes the rows of views that are no more."""
        for table in tables_to_delete:
            self.rows(config).drop(table_name(config, table))

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002
        """Removes the rows of these views."""
        for table in tables:
            self.rows(config).drop(table_name(config, table))

    # --- more than Feast has -----------------------------------------------------------------------------------

    def delete_entities(self, config: RepoConfig, table: FeatureView, entity_keys: Sequence[EntityKey]) -> None:
        """Removes the rows of these entities from one view."""
        self.rows(config).delete(table_name(config, table), entity_key_bytes(entity_keys))

    @staticmethod
    def answer(
        store: RowStore, table: FeatureView, rows: Sequence[bytes | None], requested_features: list[str] | None
    ) -> FeastAnswer:
        """n packed rows as Feast wants them."""
        names = tuple(requested_features or [feature.name for feature in table.features])
        answer: FeastAnswer = [(None, None)] * len(rows)
        for places, part in by_schema(rows, store.schema):
            columns = value_columns(part, names)
            times = part.event_times.tolist()
            for at, time, *row in zip(places.tolist(), times, *columns, strict=True):
                answer[at] = (_EPOCH + timedelta(microseconds=time), dict(zip(names, row, strict=True)))
        return answer


def table_name(config: RepoConfig, table: FeatureView) -> str:
    """What the rows of a view are kept under."""
    return str(compute_table_id(config.project, table, config.registry.enable_online_feature_view_versioning))
