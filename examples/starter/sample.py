"""Two thousand invented events of people who read articles; the same every time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

__all__ = ["EVENTS", "FIRST_DAY", "TOPICS", "WEEKS", "write_sample"]

TOPICS = ("arts", "cities", "food", "health", "nature", "science", "sport", "travel")
FIRST_DAY = datetime(2025, 10, 6, tzinfo=UTC)  # a Monday
WEEKS = 4
EVENTS = 2_000
_READERS = 400


def write_sample(path: Path) -> None:
    """Writes `user_id, topic, minutes, read_at` as parquet, in order of time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = np.random.default_rng(7)
    activity = stream.lognormal(0, 0.8, size=_READERS)
    readers = stream.choice(_READERS, size=EVENTS, p=activity / activity.sum())
    favourite = stream.integers(len(TOPICS), size=_READERS)
    anything = stream.integers(len(TOPICS), size=EVENTS)
    topics = np.where(stream.random(EVENTS) < 0.6, favourite[readers], anything)
    seconds = np.sort(stream.integers(WEEKS * 7 * 86_400, size=EVENTS))
    table = pa.table(
        {
            "user_id": pa.array(readers + 1, pa.int64()),
            "topic": pa.array([TOPICS[index] for index in topics.tolist()], pa.string()),
            "minutes": pa.array(np.round(stream.gamma(2.0, 3.0, size=EVENTS), 1), pa.float64()),
            "read_at": pa.array(
                [FIRST_DAY + timedelta(seconds=second) for second in seconds.tolist()], pa.timestamp("us", tz="UTC")
            ),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
