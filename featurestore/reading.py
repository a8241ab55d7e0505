"""Reads what one publication holds: from snapshots, and from the online store for views that take pushes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Any

from featurestore.freshness import earliest, project_clock
from featurestore.online import OnlineColumns, open_reader
from featurestore.online.keys import key_columns
from featurestore.online.packed import wanted_fields
from featurestore.online.packed_reader import PackedReader
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
    published meanwhile. Of a view that takes pushes, every row is pushed or of a release that the publication names:
    rows of the next release, which lie in the store before it is in force, give way to those of the snapshot.
    Made by `open_published_reader`.

    Attributes:
        snapshots: of the views that are answered from them.
    """

    def __init__(
        self, publication: Publication, opened: Mapping[str, Snapshot], store: _LateStore, clock: Callable[[], datetime]
    ) -> None:
        pushed = {view.name for view in publication.views if view.takes_pushes}
        self.snapshots = {name: snapshot for name, snapshot in opened.items() if name not in pushed}
        self._opened = opened
        self._store = store
        self._clock = clock

    def get(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> FeatureColumns:
        """See `OnlineReader.get`."""
        snapshot = self.snapshots.get(view.name)
        if snapshot is None:
            return self._store.opened().get(view, features, keys, self._opened.get(view.name))
        names = tuple(field.name for field in wanted_fields(view, features))
        answer = snapshot.get(key_columns(view, keys), names)
        return answer.since(earliest(view.ttl_seconds, self._clock())) if view.ttl_seconds else answer

    def look_up(
        self, view: PublishedView, features: tuple[str, ...], keys: Mapping[str, Sequence[Any]]
    ) -> Runs | FeatureColumns:
        """See `OnlineReader.look_up`."""
        snapshot = self.snapshots.get(view.name)
        if snapshot is None:
            return self._store.opened().look_up(view, features, keys, self._opened.get(view.name))
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
        opened = open_snapshots(settings, publication, self._opened)
        return PublishedReader(publication, opened, self._store, self._clock)


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
    return PublishedReader(publication, open_snapshots(settings, publication), store, now)


class _LateStore:
    """An online store that is opened when it is first needed: most publications answer without one."""

    def __init__(self, open_store: Callable[[], PackedReader]) -> None:
        self._open = open_store
        self._lock = Lock()
        self._reader: PackedReader | None = None

    def opened(self) -> PackedReader:
        with self._lock:
            if self._reader is None:
                self._reader = self._open()
            return self._reader

    def close(self) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.close()
