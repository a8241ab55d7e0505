"""The online store: the newest rows by key.

Reading guide
    reader           the interface that serving reads through
    keys             entity keys: what Feast holds for them; checking those of a request
    packed           packed rows → an answer, whatever schemas wrote them
    packed_reader    the two together, over either store
    database         packed rows in SQLite
    redis_rows       packed rows in Redis
    redis_client     reaching Redis: single, Sentinel, cluster
    feast_store      both behind Feast's online store interface: packed_sqlite, packed_redis
    feast_values     packed columns from and to Feast's values
    feast_engine     Feast's materialize without a protobuf for every value: feast_columns
    writer           what publishing writes rows through

Only the `feast_` and `packed_sqlite`, `packed_redis` modules import Feast when they are imported.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from featurestore.feast_repository import ONLINE_FILE
from featurestore.freshness import project_clock
from featurestore.online.database import PackedDatabase
from featurestore.online.packed_reader import PackedReader, RowSource
from featurestore.online.reader import EMPTY_VALUES, NUMPY_TYPES, OnlineColumns, OnlineReader
from governance.settings import OnlineStoreType, Settings

__all__ = ["EMPTY_VALUES", "NUMPY_TYPES", "OnlineColumns", "OnlineReader", "open_reader"]


def open_reader(settings: Settings, *, clock: Callable[[], datetime] | None = None) -> PackedReader:
    """Opens the project's online store for reading.

    Args:
        settings: the project.
        clock: gives the current aware UTC time, by which rows grow too old; None: `project_clock`.

    Returns:
        A reader that many threads may use at once.

    Raises:
        NotPublished: nothing was published yet.
        StoreUnreachable: the store does not answer.
    """
    now = clock or project_clock(settings)
    source: RowSource
    if settings.online_store.type is OnlineStoreType.SQLITE:
        source = PackedDatabase(settings.feature_repo_dir / ONLINE_FILE, read_only=True)
    else:
        from featurestore.online.redis_client import RedisAddress
        from featurestore.online.redis_rows import PackedRedis

        source = PackedRedis(RedisAddress.of(settings))
    return PackedReader(source, settings.name, now)
