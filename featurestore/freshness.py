"""What time it is for a project, and which rows are too old for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta

import numpy as np
from numpy.typing import NDArray

from governance.settings import Settings

__all__ = ["earliest", "fresh", "microseconds", "project_clock"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def project_clock(settings: Settings) -> Callable[[], datetime]:
    """The clock that ages are counted by: aware, UTC.

    A project whose calendar states the last day of its data lives at the end of that day, for ever: released rows of a
    closed data set do not grow old while nothing new can come. Without a stated last day it is the real time.
    """
    last_day = settings.calendar.last_day
    if last_day is None:
        return lambda: datetime.now(UTC)
    standing = datetime.combine(last_day + timedelta(days=1), time.min, UTC)
    return lambda: standing


def fresh(event_times: NDArray[np.int64], ttl_seconds: int, now: datetime) -> NDArray[np.bool_]:
    """Which rows are not older than the ttl.

    Args:
        event_times: microseconds since 1970 UTC, `(n,)`.
        ttl_seconds: 0: never too old.
        now: aware.

    Returns:
        bool `(n,)`.
    """
    if ttl_seconds == 0:
        return np.ones(len(event_times), bool)
    return event_times >= earliest(ttl_seconds, now)


def earliest(ttl_seconds: int, now: datetime) -> int:
    """The oldest event time, in microseconds since 1970 UTC, that is still fresh."""
    return microseconds(now) - ttl_seconds * 1_000_000


def microseconds(instant: datetime) -> int:
    """An aware time in microseconds since 1970 UTC."""
    return (instant - _EPOCH) // timedelta(microseconds=1)
