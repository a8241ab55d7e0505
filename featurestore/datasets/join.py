"""Which row was the newest at a time. Exact, and vectorised: sorting, and one binary search for all questions.

Keys and times become ranks, so that (key, time) is one integer; then the newest row at or before a time is the one
before the place where (key, time) would stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["newest_rows"]


def newest_rows(
    asked_keys: Sequence[Any],
    asked_times: NDArray[np.int64],
    row_keys: Sequence[Any],
    event_times: NDArray[np.int64],
    known_from: NDArray[np.int64],
    *,
    ttl: int | None = None,
) -> NDArray[np.int64]:
    """For each question the row of the same key with the latest event time that was known then; -1 where there is none.

    Args:
        asked_keys: one Arrow array of n values for each join key; a null finds nothing.
        asked_times: `(n,)`, in the unit of the others.
        row_keys: one Arrow array of m values for each join key, typed like `asked_keys`.
        event_times: `(m,)`; a key has no two rows of the same event time.
        known_from: `(m,)`; a row is not used for questions before it.
        ttl: rows whose event time is older than this at the time asked are not used; None: none is too old.

    Returns:
        Positions among the m rows, `(n,)`.
    """
    count = len(asked_times)
    if not len(event_times) or not count:
        return np.full(count, -1, np.int64)
    asked, rows = _codes(asked_keys, row_keys)
    moments, ranks = np.unique(np.concatenate([asked_times, known_from]), return_inverse=True)
    places = rows * len(moments) + ranks[count:]
    order = np.lexsort((event_times, places))
    newest = _running_newest(rows[order], event_times[order])
    at = np.searchsorted(places[order], asked * len(moments) + ranks[:count], side="right") - 1
    candidates = order[newest[np.maximum(at, 0)]]
    good = (at >= 0) & (asked >= 0) & (rows[candidates] == asked)
    if ttl is not None:
        good &= event_times[candidates] >= asked_times - ttl
    return np.where(good, candidates, -1)


def _running_newest(keys: NDArray[np.int64], event_times: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of m rows, sorted by key, the position of the latest event among it and those of its key before it.

    A release that was made after one of a later window never comes into force.
    """
    ranks = np.unique(event_times, return_inverse=True)[1]
    latest = keys * (ranks.max() + 1) + ranks
    best = np.maximum.accumulate(latest)
    position = np.where(latest == best, np.arange(len(keys)), 0)
    return np.maximum.accumulate(position)


def _codes(left: Sequence[Any], right: Sequence[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole numbers for keys: the same where the keys are the same; -1 where a part of one is null."""
    import pyarrow as pa

    count = len(left[0])
    codes: NDArray[np.int64] | None = None
    for ours, theirs in zip(left, right, strict=True):
        both = pa.concat_arrays([ours, theirs])
        encoded = both.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if codes is None:
            codes = encoded
        else:
            missing = (codes < 0) | (encoded < 0)
            codes = np.unique(codes * (encoded.max() + 2) + encoded + 1, return_inverse=True)[1].astype(np.int64)
            codes[missing] = -1
    assert codes is not None, "a view has keys"
    return codes[:count], codes[count:]
