"""Reads what one publication holds: from snapshots, and from the online store for views that take pushes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Any

from featurestore.freshness import earliest, project_clock
from featurestore.online import OnlineColumns, OnlineReader, open_reader
from featurestore.online.keys import key_columns
from featurestore.online.packed import wanted_fields
from featurestore.online.reader import online_columns
from featurestore.publication import Publication, PublishedView
from featurestore.rows import FeatureColumns, Runs
from featurestore.snapshots import Snapshot
from featurestore.snapshots.published import open_snapshots
from governance.settings import Settings

__all__ = ["PublishedReader", "open_published_reader"]


class PublishedReader:
    """An `OnlineReader` over one publication; many threads may use it at once.

    A view that only releases write is answered from its snapshot: every row of an answer is of one release, whatever is
    published meanwhile. Made by `open_published_reader`.
    """

    def __init__(self, snapshots: Mapping[str, Snapshot], store: _LateStore, clock: Callable[[], datetime]) -> None:
        self.snapshots = snapshots
        self._store = store
        self._clock = clock

    def get(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> FeatureColumns:
        """See `OnlineReader.get`."""
        snapshot = self.snapshots.get(view.name)
        if snapshot is None:
            return self._store.opened().get(view, features, keys)
        names = tuple(field.name for field in wanted_fields(view, features))
        answer = snapshot.get(key_columns(view, keys), names)
        return answer.since(earliest(view.ttl_seconds, self._clock())) if view.ttl_seconds else answer

    def look_up(
        self, view: PublishedView, features: tuple[str, ...], keys: Mapping[str, Sequence[Any]]
    ) -> Runs | FeatureColumns:
        """See `OnlineReader.look_up`."""
        snapshot = self.snapshots.get(view.name)
        if snapshot is None:
            return self._store.opened().look_up(view, features, keys)
        wanted_fields(view, features)
        oldest = earliest(view.ttl_seconds, self._clock()) if view.ttl_seconds else None
        return snapshot.look_up(key_columns(view, keys), features, earliest=oldest)

    def read(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> OnlineColumns:
        """See `OnlineReader.read`."""
        return online_columns(view, self.get(view, features, keys))

    def close(self) -> None:
        """Closes the online store, also for readers of later publications; snapshots go with their last reference."""
        self._store.close()

    def following(self, settings: Settings, publication: Publication) -> PublishedReader:
        """The reader of the next publication: takes over the online store and the snapshots that did not change.

        Raises:
            NotPublished: a snapshot is not there.
            PublicationCorrupt: one is refused. This reader goes on answering.
        """
        return PublishedReader(open_snapshots(settings, publication, self.snapshots), self._store, self._clock)


def open_published_reader(
    settings: Settings, publication: Publication, *, clock: Callable[[], datetime] | None = None
) -> PublishedReader:
    """Opens the snapshots of a publication; the online store is opened at its first use.

    Args:
        settings: the project.
        publication: what to read.
        clock: gives the current aware UTC time, by which rows grow too old; None: `project_clock`.

    Raises:
        NotPublished: a snapshot is not there.
        PublicationCorrupt: one is refused.
    """
    now = clock or project_clock(settings)
    store = _LateStore(lambda: open_reader(settings, clock=now))
    return PublishedReader(open_snapshots(settings, publication), store, now)


class _LateStore:
    """An online store that is opened when it is first needed: most publications answer without one."""

    def __init__(self, open_store: Callable[[], OnlineReader]) -> None:
        self._open = open_store
        self._lock = Lock()
        self._reader: OnlineReader | None = None

    def opened(self) -> OnlineReader:
        with self._lock:
            if self._reader is None:
                self._reader = self._open()
            return self._reader

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
