"""Which release a served row comes from. The online store keeps event times; this turns them into release ids."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Final

from featurestore.publication import PublishedView
from governance.errors import ReleaseError
from governance.release import ReleaseStore

__all__ = ["ReleaseNames"]

_REMEMBERED: Final = 10_000


class ReleaseNames:
    """Names releases by view and event time, and remembers. Safe to use from many threads.

    While a publication is under way, or after one that was killed, the online store holds rows of a release that the
    publication in force does not list yet. They are named from the release's manifest.

    Args:
        releases_dir: `Settings.releases_dir`; may be absent where only serving is deployed.
    """

    def __init__(self, releases_dir: Path) -> None:
        self._store = ReleaseStore(releases_dir)
        self._known: dict[tuple[str, datetime], str] = {}
        self._unknown: dict[tuple[str, datetime], int] = {}

    def name(self, view: PublishedView, event_time: datetime) -> str | None:
        """The release whose rows of this view carry this event time; None for rows of no release.

        Args:
            view: from the publication in force.
            event_time: naive, in UTC.
        """
        key = (view.name, event_time)
        if (known := self._known.get(key)) is not None:
            return known
        found = view.release_at(event_time) or self._unlisted(view, event_time)
        if found is not None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = found
        return found

    def _unlisted(self, view: PublishedView, event_time: datetime) -> str | None:
        """Looks through the manifests of the view's signal, unless that was in vain and none has come since."""
        directory = self._store.root / view.signal / f"v{view.version}"
        try:
            changed = directory.stat().st_mtime_ns
        except OSError:
            return None
        key = (view.name, event_time)
        if self._unknown.get(key) == changed:
            return None
        for path in sorted(directory.iterdir()):
            try:
                manifest = self._store.load(path.relative_to(self._store.root).as_posix())
            except (ReleaseError, OSError):
                continue
            if manifest.window_end is not None and manifest.window_end.replace(tzinfo=None) == event_time:
                return manifest.release_id
        if len(self._unknown) >= _REMEMBERED:
            self._unknown.clear()
        self._unknown[key] = changed
        return None
