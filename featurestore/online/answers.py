"""Putting an `OnlineColumns` together, whatever store the rows came from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.freshness import fresh
from featurestore.online.reader import EMPTY_VALUES, NUMPY_TYPES, OnlineColumns
from featurestore.publication import FeatureField, PublishedView
from governance.errors import RequestInvalid

__all__ = ["Answer", "wanted_fields"]


def wanted_fields(view: PublishedView, features: Sequence[str]) -> list[FeatureField]:
    """The view's fields for these names.

    Raises:
        RequestInvalid: the view has no such feature.
    """
    fields = {field.name: field for field in view.features}
    if unknown := [name for name in features if name not in fields]:
        raise RequestInvalid(f"{view.name}: no feature {', '.join(unknown)}; it has: {', '.join(fields)}")
    return [fields[name] for name in dict.fromkeys(features)]


class Answer:
    """n rows in the making: not found, until a reader puts something there.

    Attributes:
        values: feature → `(n,)`, to be filled where a row was found and the value is not null.
        nulls: feature → bool `(n,)`, True until told otherwise.
        found: bool `(n,)`, False until told otherwise.
        times: event times in microseconds since 1970 UTC, int64 `(n,)`.
    """

    def __init__(self, fields: Sequence[FeatureField], count: int) -> None:
        self._empty = {field.name: EMPTY_VALUES[field.type] for field in fields}
        self.values: dict[str, NDArray[Any]] = {
            field.name: np.full(count, EMPTY_VALUES[field.type], NUMPY_TYPES[field.type]) for field in fields
        }
        self.nulls: dict[str, NDArray[np.bool_]] = {field.name: np.ones(count, bool) for field in fields}
        self.found: NDArray[np.bool_] = np.zeros(count, bool)
        self.times: NDArray[np.int64] = np.zeros(count, np.int64)

    def finish(self, ttl_seconds: int, now: datetime) -> OnlineColumns:
        """Takes rows older than the ttl away and hands the columns over."""
        stale = self.found & ~fresh(self.times, ttl_seconds, now)
        self.found &= ~stale
        if stale.any():
            for name, column in self.values.items():
                column[stale] = self._empty[name]
                self.nulls[name][stale] = True
        event_times = self.times.astype("M8[us]")
        event_times[~self.found] = np.datetime64("NaT")
        return OnlineColumns(values=self.values, nulls=self.nulls, found=self.found, event_times=event_times)
