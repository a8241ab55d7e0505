"""What serving reads features through: columns in, columns out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurestore.publication import PublishedView
from featurestore.rows import FeatureColumns, Runs, Texts

__all__ = ["EMPTY_VALUES", "NUMPY_TYPES", "OnlineColumns", "OnlineReader", "online_columns"]

NUMPY_TYPES = {"int64": "<i8", "float64": "<f8", "string": "O", "date": "<M8[D]", "bool": "?"}
"""Column type → numpy dtype of `OnlineColumns.values`."""

EMPTY_VALUES: Mapping[str, Any] = {
    "int64": 0,
    "float64": float("nan"),
    "string": "",
    "date": np.datetime64("NaT", "D"),
    "bool": False,
}
"""Column type → what stands in `OnlineColumns.values` where the value is null or the row is not found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineColumns:
    """What one read found, in numpy's own types: n rows, in the order of the keys that were asked for.

    Attributes:
        values: feature → array `(n,)`, typed by `NUMPY_TYPES`; `EMPTY_VALUES` where null or not found.
        nulls: feature → bool `(n,)`; True where there is no value (null in the release, or the row was not found).
        found: bool `(n,)`; False for keys that were not released, or whose row is older than the view's ttl.
        event_times: datetime64[us] in UTC, `(n,)`; NaT where not found. `PublishedView.release_at` names the release.
    """

    values: Mapping[str, NDArray[Any]]
    nulls: Mapping[str, NDArray[np.bool_]]
    found: NDArray[np.bool_]
    event_times: NDArray[np.datetime64]


class OnlineReader(Protocol):
    """Reads the newest released rows. Implementations are safe to call from many threads at once."""

    def get(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> FeatureColumns:
        """Looks rows up by key.

        Args:
            view: from the publication in force.
            features: names of features of that view; none is allowed and tells which keys are found.
            keys: one column per key of the view, named as the view names it, all of one length n. Fast: int64 arrays,
                and lists of strings or `Texts`. Any values of the key's type are understood (dates: `datetime.date`,
                `datetime64[D]` or ISO text).

        Returns:
            n rows; those older than the view's ttl are not found.

        Raises:
            RequestInvalid: a key column is missing, unknown, of another length or type, or a feature is unknown.
            StoreUnreachable: the online store does not answer.
            PublicationCorrupt: the store holds what was never published.
        """
        ...

    def look_up(
        self, view: PublishedView, features: tuple[str, ...], keys: Mapping[str, Sequence[Any]]
    ) -> Runs | FeatureColumns:
        """The same answer, as runs where all rows and values are there, of one release, and no feature is a text."""
        ...

    def read(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> OnlineColumns:
        """The same answer in numpy's own types."""
        ...

    def close(self) -> None:
        """Gives connections back; the reader cannot be used afterwards."""
        ...


def online_columns(view: PublishedView, answer: FeatureColumns) -> OnlineColumns:
    """An answer in numpy's own types."""
    types = {field.name: field.type for field in view.features}
    event_times = answer.event_times.astype("M8[us]")
    event_times[~answer.found] = np.datetime64("NaT")
    return OnlineColumns(
        values={name: _numpy(column, types[name], answer.null(name)) for name, column in answer.values.items()},
        nulls={name: answer.null(name) for name in answer.names},
        found=answer.found,
        event_times=event_times,
    )


def _numpy(column: NDArray[Any] | Texts, kind: str, nulls: NDArray[np.bool_]) -> NDArray[Any]:
    if isinstance(column, Texts):
        array = np.empty(len(column), object)
        array[:] = column.strings() if kind == "string" else column.tolist()
        return array
    if kind in ("date", "timestamp"):
        instants = column.astype(np.int64).astype("M8[D]" if kind == "date" else "M8[us]")
        instants[nulls] = "NaT"
        return instants
    return column
