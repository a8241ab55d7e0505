"""The publication in force, as the serving process holds it.

A watcher looks at the publication record; when another one is in force, it is opened and verified beside the old one
and swapped in as one value, so a call sees the old publication or the new one, whole. One that cannot be opened is
refused with a line in the log, and the last good one stays; it is tried again, ever more rarely, as long as its record
stands, because its files may still be on their way, or what failed was the disk or a limit of this process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from featurestore.publication import PUBLICATION_FILE, load_publication
from featurestore.reading import PublishedReader, open_published_reader
from governance.errors import HedgerowError
from governance.settings import Settings
from serving.state import Published, open_published

__all__ = ["InForce"]

_LOG: Final = logging.getLogger("hedgerow.serving")
_WATCH_SECONDS: Final = 0.25
_MOST_RETRY_SECONDS: Final = 4.0
_RETRY_SHARE: Final = 10
"""A try is made again after so many times as long as it took: verifying must not keep the machine busy."""

_Identity = tuple[int, int, int]
"""Of a record: changes when it is replaced."""


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
        self._told = ""
        self._failed: _Identity | None = None  # the record that could not be opened
        self._pause, self._again = 0.0, 0.0
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
        while not self._ended.wait(_WATCH_SECONDS):
            for look in (self._tell, self._take_over):
                try:
                    look()
                except Exception as error:  # noqa: BLE001 - the watcher must outlive whatever it meets
                    reason = str(error) if isinstance(error, HedgerowError) else type(error).__name__
                    if reason != self._told:
                        _LOG.warning("publication %d stays in force: %s", self._published.sequence, reason)
                    self._told = reason

    def _tell(self) -> None:
        self._looked(self._published)

    def _take_over(self) -> None:
        """Opens the publication that the record names, if it is another one and it is time to try.

        Raises:
            HedgerowError, OSError: it cannot be opened now.
        """
        found, began = _identity(self._path), time.monotonic()
        if found is None or found == self._seen or (found == self._failed and began < self._again):
            return
        try:
            self._published = self._open(self._published)
        except Exception:
            ended = time.monotonic()
            self._pause = min(2 * self._pause, _MOST_RETRY_SECONDS) if found == self._failed else _WATCH_SECONDS
            self._again = ended + max(self._pause, _RETRY_SHARE * (ended - began))
            self._failed = found
            raise
        self._seen, self._failed, self._told = found, None, ""
        _LOG.info("publication %d is in force", self._published.sequence)


def _identity(path: Path) -> _Identity | None:
    """What changes when the record is replaced; None where there is none.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
