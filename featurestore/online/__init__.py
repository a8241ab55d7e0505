"""The online store: the newest released rows by key.

Reading guide
    reader           the interface that serving reads through, and the shape of an answer
    answers          putting such an answer together: nulls, not found, too old
    keys             entity keys as bytes; checking the keys of a request
    rows             packed rows as bytes, and back into columns
    database         packed rows in SQLite
    packed_reader    reading them, without Feast
    packed_sqlite    the same rows behind Feast's online store interface
    feast_redis      Feast's own Redis store
    writer           what publishing writes rows through

Only `packed_sqlite` imports Feast when it is imported; the others do where they need it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from featurestore.feast_repository import ONLINE_FILE
from featurestore.freshness import project_clock
from featurestore.online.packed_reader import PackedReader
from featurestore.online.reader import EMPTY_VALUES, NUMPY_TYPES, OnlineColumns, OnlineReader
from governance.settings import OnlineStoreType, Settings

__all__ = ["EMPTY_VALUES", "NUMPY_TYPES", "OnlineColumns", "OnlineReader", "open_reader"]


def open_reader(settings: Settings, *, clock: Callable[[], datetime] | None = None) -> OnlineReader:
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
    if settings.online_store.type is OnlineStoreType.SQLITE:
        return PackedReader(settings.feature_repo_dir / ONLINE_FILE, settings.name, now)
    from featurestore.online.feast_redis import RedisReader

    return RedisReader(settings, now)
