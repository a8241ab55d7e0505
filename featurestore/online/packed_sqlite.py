"""`PackedSqliteOnlineStore`: the embedded online store.

```yaml
online_store:
  type: featurestore.online.packed_sqlite.PackedSqliteOnlineStore
  path: online.db
```
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from featurestore.online.database import PackedDatabase
from featurestore.online.feast_store import PackedOnlineStore, table_name
from featurestore.rows import PackedRows, RowSchema, Texts

__all__ = ["PackedSqliteOnlineStore", "PackedSqliteOnlineStoreConfig"]


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):
    """The `online_store` section of feature_store.yaml."""

    type: Literal["featurestore.online.packed_sqlite.PackedSqliteOnlineStore"] = (
        "featurestore.online.packed_sqlite.PackedSqliteOnlineStore"
    )
    path: str = "online.db"


class PackedSqliteOnlineStore(PackedOnlineStore):
    """Feast's online store interface over `PackedDatabase`."""

    def __init__(self) -> None:
        self._databases: dict[Path, PackedDatabase] = {}

    def rows(self, config: RepoConfig) -> PackedDatabase:
        """The database file of a configuration; a relative path is in the repository."""
        path = Path(config.online_store.path)
        if not path.is_absolute() and config.repo_path:
            path = Path(config.repo_path) / path
        if path not in self._databases:
            self._databases.setdefault(path, PackedDatabase(path))
        return self._databases[path]

    def write_rows(self, config: RepoConfig, table: str, schema: RowSchema, keys: Texts, rows: PackedRows) -> None:
        """See `PackedOnlineStore.write_rows`; all in one transaction."""
        self.rows(config).write(table, schema, keys, rows)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Makes and removes the tables of views."""
        super().update(config, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial)
        for table in tables_to_keep:
            self.rows(config).create(table_name(config, table))

    async def close(self) -> None:
        """Closes the databases."""
        for database in self._databases.values():
            database.close()
        self._databases.clear()
