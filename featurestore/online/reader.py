"""What serving reads features through: columns in, columns out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featurestore.publication import PublishedView

__all__ = ["EMPTY_VALUES", "NUMPY_TYPES", "OnlineColumns", "OnlineReader"]

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
    """What one read found: n rows, in the order of the keys that were asked for.

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

    def read(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> OnlineColumns:
        """Looks rows up by key.

        Args:
            view: from the publication in force.
            features: names of features of that view; none is allowed and tells which keys are found.
            keys: one column per key of the view, named as the view names it, all of one length n. Values are Python or
                numpy values of the key's type (dates: `datetime.date`, `datetime64[D]` or ISO text).

        Returns:
            n rows.

        Raises:
            RequestInvalid: a key column is missing, unknown, of another length or type, or a feature is unknown.
            StoreUnreachable: the online store does not answer.
        """
        ...

    def close(self) -> None:
        """Gives connections back; the reader cannot be used afterwards."""
        ...
