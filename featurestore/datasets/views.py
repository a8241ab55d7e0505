"""What one view answers to label rows: the releases that may, and which row of which is the newest known.

`ViewJoin` is a frozen value that says all of it, so that the same code runs here and in the tasks of a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.column_types import arrow_type
from featurestore.datasets.join import newest_rows
from featurestore.datasets.labels import one_array
from featurestore.publication import FeatureField, PublishedView
from featurestore.released import read_release

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["RELEASE", "UsableRelease", "ViewJoin", "column_name"]

RELEASE = "release"
"""The name, after the view's, of the column with the release that answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableRelease:
    """A release that is known at the time of a label.

    Attributes:
        release_id, sha256: of it.
        window_end: ISO 8601.
        known_from: from when on its values count, ISO 8601.
        end, since: the same two in microseconds since 1970 UTC.
        files: with its rows.
    """

    release_id: str
    sha256: str
    window_end: str
    known_from: str
    end: int
    since: int
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewJoin:
    """How a view is joined.

    Attributes:
        view: its keys and ttl are used.
        features: those that are wanted.
        in_force: only the newest release at a time answers.
        releases: oldest first.
    """

    view: PublishedView
    features: tuple[FeatureField, ...]
    in_force: bool
    releases: tuple[UsableRelease, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the join keys."""
        return tuple(key.name for key in self.view.keys)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the training set gains: the features and, last, the release."""
        return tuple(column_name(self.view.name, name) for name in (*(f.name for f in self.features), RELEASE))

    def read(self, files: Sequence[Path], release: int) -> pa.Table:
        """Keys and wanted features of some files of a release.

        Args:
            files: of `releases[release].files`.
            release: its position.

        Raises:
            ReleaseCorrupt: they cannot be read as the manifest says.
        """
        return read_release(files, self.view, self.features, self.releases[release].release_id)

    def newest(
        self, asked_keys: Sequence[Any], times: NDArray[np.int64], rows: pa.Table, release_of: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """For each label row the row that answers it, `(n,)`; -1 where none does.

        Args:
            asked_keys: an Arrow array of n values for each key, see `labels.label_keys`.
            times: of the labels, microseconds since 1970 UTC, `(n,)`.
            rows: m rows of releases, as `read` gives them, all of a key that is asked for.
            release_of: positions of their releases, `(m,)`.
        """
        if not rows.num_rows:
            return np.full(len(times), -1, np.int64)
        ends = np.array([release.end for release in self.releases], np.int64)
        since = np.array([release.since for release in self.releases], np.int64)
        found = newest_rows(
            asked_keys,
            times,
            [one_array(rows[name]) for name in self.keys],
            ends[release_of],
            since[release_of],
            ttl=self.view.ttl_seconds * 1_000_000 if self.view.ttl_seconds else None,
        )
        if self.in_force:
            found = np.where(release_of[found] == _in_force(times, ends, since), found, -1)
        return found

    def answers(self, rows: pa.Table, release_of: NDArray[np.int64], found: NDArray[np.int64]) -> list[Any]:
        """The columns that n label rows gain, see `columns`: null where no row answers.

        Args:
            rows, release_of: as in `newest`; features are enough.
            found: positions of the rows that answer, -1 where none does, `(n,)`.
        """
        import pyarrow as pa

        missing = found < 0
        places: Any = pa.array(found, mask=missing)
        columns: list[Any] = []
        for feature in self.features:
            kind: Any = arrow_type(feature.type)
            columns.append(rows[feature.name].take(places) if rows.num_rows else pa.nulls(len(found), kind))
        releases: Any = pa.array(self.releases_of(release_of, found).astype(np.int32), mask=missing)
        ids = pa.array([release.release_id for release in self.releases], pa.string())
        return [*columns, pa.DictionaryArray.from_arrays(releases, ids)]

    def releases_of(self, release_of: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the releases that answer, `(n,)`; 0 where none does."""
        return np.where(found >= 0, release_of[found], 0) if len(release_of) else np.zeros(len(found), np.int64)

    def counts(self, release_of: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many label rows each release answers, `(releases,)`."""
        return np.bincount(self.releases_of(release_of, found)[found >= 0], minlength=len(self.releases))


def column_name(view: str, feature: str) -> str:
    """What a view's feature is called in a training set."""
    return f"{view}__{feature}"


def _in_force(times: NDArray[np.int64], ends: NDArray[np.int64], since: NDArray[np.int64]) -> NDArray[np.int64]:
    """The release with the latest window among those known at each time, `(n,)`; -1 where there is none."""
    order = np.lexsort((ends, since))
    newest = np.array([order[: i + 1][np.argmax(ends[order[: i + 1]])] for i in range(len(order))], np.int64)
    at = np.searchsorted(since[order], times, side="right") - 1
    return np.where(at >= 0, newest[np.maximum(at, 0)], -1)
