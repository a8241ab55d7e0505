"""The publication in force, as the serving process holds it.

A watcher looks at the publication record; when another one is in force, it is opened and verified beside the old one
and swapped in as one value, so a call sees the old publication or the new one, whole. One that cannot be opened is
refused with a line in the log, and the last good one stays.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from featurestore.publication import PUBLICATION_FILE, load_publication
from featurestore.reading import PublishedReader, open_published_reader
from governance.errors import HedgerowError, StoreUnreachable
from governance.settings import Settings
from serving.state import Published, open_published

__all__ = ["InForce"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_WATCH_SECONDS: Final = 0.25


class InForce:
    """Holds the publication in force and looks for the next one.

    Args:
        settings: the project.
        looked: called after each look, swap or not, with what is in force.

    Raises:
        NotPublished: nothing is published yet.
        PublicationCorrupt: what is published differs from its record.
    """

    def __init__(self, settings: Settings, looked: Callable[[Published], None] = lambda _: None) -> None:
        self._settings = settings
        self._looked = looked
        self._path = settings.serving_dir / PUBLICATION_FILE
        self._seen = _identity(self._path)
        self._reader: PublishedReader | None = None
        self._published = self._open(None)
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="publication", daemon=True)
        self._watcher.start()

    def current(self) -> Published:
        """The publication in force."""
        return self._published

    def close(self) -> None:
        """Ends the watcher and gives the store's connections back. Idempotent."""
        if not self._ended.is_set():
            self._ended.set()
            self._watcher.join()
            if self._reader is not None:
                self._reader.close()

    def _open(self, previous: Published | None) -> Published:
        """Opens what is published now, beside what is in force."""
        publication = load_publication(self._settings)
        if self._reader is None:
            reader = open_published_reader(self._settings, publication)
        else:
            reader = self._reader.following(self._settings, publication)
        published = open_published(self._settings, publication, reader, previous)
        self._reader = reader
        return published

    def _watch(self) -> None:
        told = ""
        while not self._ended.wait(_WATCH_SECONDS):
            self._looked(self._published)
            found = _identity(self._path)
            if found is None or found == self._seen:
                continue
            self._seen = found
            try:
                self._published = self._open(self._published)
                _LOG.info("publication %d is in force", self._published.sequence)
                told = ""
            except Exception as error:  # noqa: BLE001 - the watcher must outlive whatever a record holds
                reason = str(error) if isinstance(error, HedgerowError) else type(error).__name__
                if reason != told:
                    _LOG.warning("publication %d stays in force: %s", self._published.sequence, reason)
                told = reason
                if isinstance(error, StoreUnreachable):
                    self._seen = None  # nothing is wrong with the record: try again


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What changes when the record is replaced; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
