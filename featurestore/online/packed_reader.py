"""Reads packed rows straight into columns, from whichever store holds them; Feast takes no part.

Publishing writes a release's rows before its publication comes into force. An answer of the publication in force holds
none of them: in their place stand the rows of the release that is in force, out of its snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from featurestore.freshness import earliest
from featurestore.online.keys import key_columns
from featurestore.online.packed import RowRuns, feature_columns, of_other_releases
from featurestore.online.reader import OnlineColumns, online_columns
from featurestore.publication import PublishedView
from featurestore.rows import FeatureColumns, KeyColumn, RowSchema, Runs, Texts, key_bytes
from featurestore.snapshots import Snapshot

__all__ = ["PackedReader", "RowSource"]

_REMEMBERED: Final = 1_024


class RowSource(Protocol):
    """Where packed rows lie: `PackedDatabase` or `PackedRedis`."""

    def read(self, table: str, keys: Texts) -> list[bytes | None]:
        """The packed rows of n keys, None where there is none."""
        ...

    def schema(self, tag: int) -> RowSchema:
        """The schema that a row's tag names."""
        ...

    def close(self) -> None:
        """Gives connections back."""
        ...


class PackedReader:
    """An `OnlineReader` over packed rows.

    Args:
        source: where they lie.
        project: the project's name, part of every table's name.
        clock: gives the current aware UTC time, for ttl.
    """

    def __init__(self, source: RowSource, project: str, clock: Callable[[], datetime]) -> None:
        self._source = source
        self._project = project
        self._clock = clock
        self._runs: dict[tuple[str, tuple[str, ...]], RowRuns] = {}

    def get(
        self,
        view: PublishedView,
        features: Sequence[str],
        keys: Mapping[str, Sequence[Any]],
        released: Snapshot | None = None,
    ) -> FeatureColumns:
        """See `OnlineReader.get`.

        Args:
            view, features, keys: as there.
            released: the view's release in force: its rows stand in for those of releases that the view does not name.
                None: such rows are not found.
        """
        columns = key_columns(view, keys)
        oldest = earliest(view.ttl_seconds, self._clock()) if view.ttl_seconds else None
        return self._columns(view, features, columns, self._rows(view, columns), oldest, released)

    def look_up(
        self,
        view: PublishedView,
        features: tuple[str, ...],
        keys: Mapping[str, Sequence[Any]],
        released: Snapshot | None = None,
    ) -> Runs | FeatureColumns:
        """See `OnlineReader.look_up`; `released` as in `get`."""
        runs = self._runs.get((view.name, features))
        if runs is None or runs.view is not view:  # never seen, or published anew
            runs = RowRuns(view, features)
            if len(self._runs) >= _REMEMBERED:
                self._runs.clear()
            self._runs[view.name, features] = runs
        columns = key_columns(view, keys)
        rows = self._rows(view, columns)
        oldest = earliest(view.ttl_seconds, self._clock()) if view.ttl_seconds else None
        if (found := runs.read(rows, self._source.schema, oldest)) is not None:
            return found
        return self._columns(view, features, columns, rows, oldest, released)

    def read(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> OnlineColumns:
        """See `OnlineReader.read`."""
        return online_columns(view, self.get(view, features, keys))

    def _rows(self, view: PublishedView, keys: Mapping[str, KeyColumn]) -> list[bytes | None]:
        return self._source.read(f"{self._project}_{view.name}", key_bytes(keys))

    def _columns(
        self,
        view: PublishedView,
        features: Sequence[str],
        keys: Mapping[str, KeyColumn],
        rows: list[bytes | None],
        oldest: int | None,
        released: Snapshot | None,
    ) -> FeatureColumns:
        """The answer that rows of any schemas and releases give."""
        answer = feature_columns(view, features, rows, self._source.schema)
        unnamed = bool((answer.found & (answer.release_indexes < 0)).any())  # pushed, or of another release
        if unnamed and len(others := of_other_releases(view, rows)):
            standing: list[bytes | None] = [None] * len(others)
            if released is not None:
                standing = released.packed({name: column.take(others) for name, column in keys.items()})
            for place, row in zip(others.tolist(), standing, strict=True):
                rows[place] = row

            def schema_of(tag: int) -> RowSchema:
                own = None if released is None else released.schema
                return own if own is not None and own.tag == tag else self._source.schema(tag)

            answer = feature_columns(view, features, rows, schema_of)
        return answer if oldest is None else answer.since(oldest)

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
