"""What publishing writes rows through. Feast's `materialize` works on the same stores; this is far faster.

Feast turns every value into a protobuf on its way; here columns are packed as columns.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from featurestore.feast_repository import ONLINE_FILE
from featurestore.freshness import earliest, microseconds
from featurestore.online.database import PackedDatabase
from featurestore.publication import PublishedView
from featurestore.released import ReleasedRows
from featurestore.rows import key_bytes
from governance.settings import OnlineStoreType, Settings

__all__ = ["OnlineWriter", "PackedWriter", "open_writer"]


class OnlineWriter(Protocol):
    """Puts released rows into the online store."""

    def write(self, view: PublishedView, rows: ReleasedRows) -> None:
        """Writes one release's rows. Writing again changes nothing.

        In a view that only releases write, rows of other keys go: what is there is the newest release. In one that
        takes pushes they stay until they are older than the view's ttl.

        Raises:
            StoreUnreachable: the store does not take them.
        """
        ...

    def close(self) -> None:
        """Gives connections back."""
        ...


def open_writer(settings: Settings, clock: Callable[[], datetime]) -> OnlineWriter:
    """Opens the project's online store for writing.

    Args:
        settings: the project.
        clock: gives the current aware UTC time, by which rows grow too old.

    Raises:
        StoreUnreachable: it does not answer; nothing was written.
    """
    if settings.online_store.type is OnlineStoreType.SQLITE:
        return PackedWriter(settings, clock)
    return RedisWriter(settings, clock)


class PackedWriter:
    """Writes packed rows to SQLite: a release in one transaction."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._database = PackedDatabase(settings.feature_repo_dir / ONLINE_FILE)
        self._settings = settings
        self._clock = clock

    def write(self, view: PublishedView, rows: ReleasedRows) -> None:
        """See `OnlineWriter.write`."""
        self._database.write(
            f"{self._settings.name}_{view.name}",
            rows.schema,
            key_bytes(rows.keys),
            rows.packed(),
            older_go=oldest_kept(view, rows, self._clock()),
        )

    def close(self) -> None:
        """Closes the database."""
        self._database.close()


class RedisWriter:
    """Writes packed rows to Redis, in batches; a reader may see some of them before the others."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        from featurestore.online.redis_client import RedisAddress
        from featurestore.online.redis_rows import PackedRedis

        self._redis = PackedRedis(RedisAddress.of(settings))
        self._settings = settings
        self._clock = clock

    def write(self, view: PublishedView, rows: ReleasedRows) -> None:
        """See `OnlineWriter.write`."""
        table = f"{self._settings.name}_{view.name}"
        lifetime = self._lifetime_seconds(view, rows)
        self._redis.write(table, rows.schema, key_bytes(rows.keys), rows.packed(), lifetime_seconds=lifetime)
        oldest = oldest_kept(view, rows, self._clock())
        if oldest is not None:
            self._redis.delete_before(table, oldest)

    def close(self) -> None:
        """Closes the connections."""
        self._redis.close()

    def _lifetime_seconds(self, view: PublishedView, rows: ReleasedRows) -> float | None:
        """After which Redis may drop the rows; never in a project whose time stands still, as Redis' own does not."""
        if not view.ttl_seconds or self._settings.calendar.last_day is not None:
            return None
        return view.ttl_seconds - (microseconds(self._clock()) - rows.event_time) / 1e6


def oldest_kept(view: PublishedView, rows: ReleasedRows, now: datetime) -> int | None:
    """The event time, in microseconds, before which a view's rows go when a release is written; None: none go."""
    if not view.takes_pushes:
        return rows.event_time
    return earliest(view.ttl_seconds, now) if view.ttl_seconds else None
