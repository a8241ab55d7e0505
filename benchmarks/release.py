"""One release against the same query without privacy, on generated events, in the same Spark session.

    python -m benchmarks.release [--rows N] [--json]

Workload: 100,000 users, 10,000 items with zipf popularity; at most 20 items a user and one row an item; values in [0,
5]; epsilon 1, delta 1e-6; count and sum per item, unknown item keys and again with public keys. `plain` is Spark's
own groupBy of the same input with the same aggregates, written to parquet like the release.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from governance.privacy import PrivacyLoss
from governance.settings import Account, Settings, Spark
from pipelines import (
    ApproxDP,
    Count,
    Entity,
    EventSource,
    Interval,
    KeepRandom,
    PrivacyUnit,
    PrivateSelection,
    PublicPartitions,
    Purpose,
    Signal,
    Sum,
    Window,
)
from pipelines.engine.aggregate import sum_partitions
from pipelines.engine.bounding import Salts, bound
from pipelines.engine.inputs import open_inputs, read_events
from pipelines.engine.noisy import add_noise
from pipelines.engine.session import spark_session
from pipelines.noise import KeyedNoise, ReleaseKey
from pipelines.plan import plan_signal
from pipelines.windows import Span

USERS, ITEMS, CHUNK = 100_000, 10_000, 2_000_000
SPAN = Span(datetime(2025, 11, 3, tzinfo=UTC), datetime(2025, 11, 10, tzinfo=UTC))
SIGNAL = Signal(
    name="items",
    version=1,
    owner="benchmarks",
    purpose=Purpose.ANALYTICS,
    description="Users and values of each item.",
    source=EventSource(name="events", table="events", timestamp="ts", person="user_id"),
    privacy_unit=PrivacyUnit("user_id"),
    entity=Entity("item", ("item_id",)),
    aggregates={"users": Count(), "total": Sum("value", Interval(0, 5))},
    window=Window(timedelta(days=7)),
    bounds=KeepRandom(max_partitions=20, max_rows_per_partition=1),
    partitions=PrivateSelection(delta=5e-7),
    budget_per_release=ApproxDP(epsilon=1.0, delta=1e-6),
    ttl=timedelta(days=7),
)
PUBLIC = replace(SIGNAL, partitions=PublicPartitions({"item_id": tuple(range(ITEMS))}))


def generate(directory: Path, rows: int, seed: int = 20251103) -> None:
    """Writes the events in files of two million rows, unsorted."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, ITEMS + 1)
    cumulative = np.cumsum(weights / weights.sum())
    start = int(SPAN.start.timestamp())
    directory.mkdir(parents=True)
    for index, offset in enumerate(range(0, rows, CHUNK)):
        n = min(CHUNK, rows - offset)
        table = pa.table(
            {
                "user_id": random.integers(0, USERS, n),
                "item_id": np.searchsorted(cumulative, random.random(n)).astype(np.int64),
                "value": np.round(random.uniform(0, 5, n), 1),
                "ts": start + random.integers(0, 7 * 86400, n),
            }
        )
        pq.write_table(table, directory / f"part-{index:04d}.parquet", row_group_size=500_000)


def timed(work: Callable[[Path], None], directory: Path, repeats: int) -> float:
    """Best of a few repeats, in seconds."""
    best = float("inf")
    for index in range(repeats):
        target = directory / f"{work.__name__}-{index}"
        start = time.perf_counter()
        work(target)
        best = min(best, time.perf_counter() - start)
    return best


def measure(rows: int, repeats: int, directory: Path) -> dict[str, Any]:
    """Everything, as one JSON object."""
    generate(directory / "events", rows)
    cap = PrivacyLoss.of("100", "1e-3")
    settings = Settings(
        root=directory,
        name="benchmark",
        signals_dir=directory,
        state_dir=directory / "var",
        accounts=(Account(dataset="events", unit="user_id", cap=cap),),
        spark=Spark(master="local[2]", driver_memory="3g", shuffle_partitions=max(8, rows // 1_000_000)),
    )
    spark = spark_session(settings.spark)
    from pyspark.sql import functions as F

    def plain(target: Path) -> None:
        events = spark.read.parquet(str(directory / "events"))
        counted = events.groupBy("item_id").agg(F.count(F.lit(1)).alias("users"), F.sum("value").alias("total"))
        counted.write.parquet(str(target))

    def releaser(signal: Signal) -> Callable[[Path], None]:
        def release(target: Path) -> None:
            key = ReleaseKey.fresh()
            plan = plan_signal(signal, settings)
            inputs = open_inputs(signal, plan.recipe, settings.root)
            salts = Salts(rows=key.salt("rows"), partitions=key.salt("partitions"))
            events = read_events(signal, inputs, SPAN, spark)
            sums = sum_partitions(bound(events, signal, plan.recipe, inputs, salts), signal, plan.recipe, inputs, spark)
            add_noise(sums, signal, plan.recipe, plan.calibration, KeyedNoise(key)).write.parquet(str(target))

        return release

    work = directory / "work"
    plain_seconds = timed(plain, work / "plain", repeats)
    release_seconds = timed(releaser(SIGNAL), work / "private", repeats)
    public_seconds = timed(releaser(PUBLIC), work / "public", repeats)
    truth = spark.read.parquet(str(directory / "events")).groupBy("item_id").agg(F.countDistinct("user_id").alias("n"))
    true_keys = truth.count()
    document = {
        "benchmark": "release",
        "rows": rows,
        "plain_seconds": round(plain_seconds, 2),
        "release_seconds": round(release_seconds, 2),
        "ratio": round(release_seconds / plain_seconds, 2),
        "rows_per_second": round(rows / release_seconds),
        "true_keys": true_keys,
        **accuracy(work / "private" / "release-0", settings, SIGNAL),
        "public": {
            "release_seconds": round(public_seconds, 2),
            "ratio": round(public_seconds / plain_seconds, 2),
            **accuracy(work / "public" / "release-0", settings, PUBLIC),
        },
        "peak_rss_gib": round(peak_rss_gib(), 2),
    }
    spark.stop()
    return document


def accuracy(target: Path, settings: Settings, signal: Signal) -> dict[str, Any]:
    """Released keys, and the mean absolute error of the noisy counts against the noise's own expectation."""
    released = pq.read_table(target)
    stddev = plan_signal(signal, settings).calibration.mechanism("users").noise_stddev
    return {
        "released_keys": released.num_rows,
        "count_noise_mae": round(stddev * (2 / np.pi) ** 0.5, 2),
        "count_noise_stddev": round(stddev, 2),
    }


def peak_rss_gib() -> float:
    """Peak resident memory of this process and of its largest child (the JVM)."""
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + children) / 2**20


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="hedgerow-bench-"))
    try:
        document = measure(arguments.rows, arguments.repeats, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(document) if arguments.json else json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
