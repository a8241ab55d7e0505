"""`PackedRedisOnlineStore`: the online store for production.

```yaml
online_store:
  type: featurestore.online.packed_redis.PackedRedisOnlineStore
  connection_string: redis-1:6379,redis-2:6379,ssl=true,ssl_ca_certs=/etc/redis/ca.pem,password=...
  topology: cluster            # or single, sentinel (with sentinel_master)
  key_ttl_seconds: 604800      # absent: rows stay until they are deleted
```
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal
from weakref import WeakKeyDictionary

from feast.feature_view import FeatureView
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from featurestore.online.feast_store import FeastAnswer, PackedOnlineStore, table_name
from featurestore.online.feast_values import entity_key_bytes
from featurestore.online.redis_client import RedisAddress
from featurestore.online.redis_rows import PackedRedis
from featurestore.rows import PackedRows, RowSchema, Texts
from governance.settings import RedisTopology

__all__ = ["PackedRedisOnlineStore", "PackedRedisOnlineStoreConfig"]


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):
    """The `online_store` section of feature_store.yaml."""

    type: Literal["featurestore.online.packed_redis.PackedRedisOnlineStore"] = (
        "featurestore.online.packed_redis.PackedRedisOnlineStore"
    )
    connection_string: str = "localhost:6379"
    topology: Literal["single", "sentinel", "cluster"] = "single"
    sentinel_master: str = "mymaster"
    key_ttl_seconds: int | None = None


class PackedRedisOnlineStore(PackedOnlineStore):
    """Feast's online store interface over `PackedRedis`."""

    def __init__(self) -> None:
        self._opened: dict[RedisAddress, PackedRedis] = {}
        self._asynchronous: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[RedisAddress, Any]] = WeakKeyDictionary()

    def rows(self, config: RepoConfig) -> PackedRedis:
        """The Redis of a configuration."""
        address = _address(config)
        if address not in self._opened:
            self._opened.setdefault(address, PackedRedis(address))
        return self._opened[address]

    def write_rows(self, config: RepoConfig, table: str, schema: RowSchema, keys: Texts, rows: PackedRows) -> None:
        """See `PackedOnlineStore.write_rows`; in batches."""
        lifetime = config.online_store.key_ttl_seconds
        self.rows(config).write(table, schema, keys, rows, lifetime_seconds=lifetime)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> FeastAnswer:
        """The same as `online_read` without a thread: one connection pool for each event loop."""
        store = self.rows(config)
        clients = self._asynchronous.setdefault(asyncio.get_running_loop(), {})
        address = _address(config)
        if address not in clients:
            clients[address] = store.connect_async()
        rows = await store.read_async(table_name(config, table), entity_key_bytes(entity_keys), clients[address])
        return self.answer(store, table, rows, requested_features)

    async def close(self) -> None:
        """Closes the connections of this event loop, and those of no loop."""
        for client in self._asynchronous.pop(asyncio.get_running_loop(), {}).values():
            await PackedRedis.disconnect_async(client)
        for store in self._opened.values():
            store.close()
        self._opened.clear()


def _address(config: RepoConfig) -> RedisAddress:
    store = config.online_store
    return RedisAddress.parse(store.connection_string, RedisTopology(store.topology), store.sentinel_master)
