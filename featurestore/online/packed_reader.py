"""Reads packed rows straight into columns, from whichever store holds them; Feast takes no part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from featurestore.freshness import earliest
from featurestore.online.keys import key_columns
from featurestore.online.packed import RowRuns, feature_columns
from featurestore.online.reader import OnlineColumns, online_columns
from featurestore.publication import PublishedView
from featurestore.rows import FeatureColumns, RowSchema, Runs, Texts, key_bytes

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

    def get(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> FeatureColumns:
        """See `OnlineReader.get`."""
        rows = self._rows(view, keys)
        answer = feature_columns(view, features, rows, self._source.schema)
        return answer.since(earliest(view.ttl_seconds, self._clock())) if view.ttl_seconds else answer

    def look_up(
        self, view: PublishedView, features: tuple[str, ...], keys: Mapping[str, Sequence[Any]]
    ) -> Runs | FeatureColumns:
        """See `OnlineReader.look_up`."""
        runs = self._runs.get((view.name, features))
        if runs is None or runs.view is not view:  # never seen, or published anew
            runs = RowRuns(view, features)
            if len(self._runs) >= _REMEMBERED:
                self._runs.clear()
            self._runs[view.name, features] = runs
        rows = self._rows(view, keys)
        oldest = earliest(view.ttl_seconds, self._clock()) if view.ttl_seconds else None
        if (found := runs.read(rows, self._source.schema, oldest)) is not None:
            return found
        answer = feature_columns(view, features, rows, self._source.schema)
        return answer if oldest is None else answer.since(oldest)

    def read(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> OnlineColumns:
        """See `OnlineReader.read`."""
        return online_columns(view, self.get(view, features, keys))

    def _rows(self, view: PublishedView, keys: Mapping[str, Sequence[Any]]) -> list[bytes | None]:
        return self._source.read(f"{self._project}_{view.name}", key_bytes(key_columns(view, keys)))

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
