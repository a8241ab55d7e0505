"""One release against the same query without privacy, on generated events, every engine measured the same way.

    python -m benchmarks.release [--rows N] [--json]        one size
    python -m benchmarks.release --slope [--json]           seconds and driver memory from 1 to 50 million rows

Workload: 100,000 users, 10,000 items with zipf popularity; at most 20 items a user and one row an item; values in [0,
5]; epsilon 1, delta 1e-6; count and sum per item; unknown item keys, and again with public ones.

    plain       Spark's own groupBy of the events, the same aggregates without bounds or noise, written to parquet
    unsorted    the release of the same files
    clustered   the release of the same events after `hedgerow ingest`

Protocol. Each engine runs in a fresh process with a Spark of the same settings; it is started `--repeats` times,
engines taking turns, and the best counts. What is timed of a release is `pipelines.run.run`, all that `hedgerow run`
does once it has read its settings: recovery, plan, policy, reservation, opening and checking inputs, starting Python's
workers, bounding, naming what was read, noise, selection, writing, manifest, publishing and the ledger's commit, each
synced to disk. Starting Spark is not counted, for any of them (`session_seconds`, `plain_session_seconds`: plain's has
SQL, which a release does not start), nor is loading what a plan is computed with (`plan_seconds`: the first plan).

    first       the first query of a fresh session: what a nightly job pays. **Headline: `*_seconds`, `ratio`.** A job
                releases a window once, so nothing is warm: neither the JVM's compiler nor workers
    warm        the best of three more in the same session, as a long-lived service would pay: `warm`

`peak_rss_gib` is the largest sum of resident memory over the whole process tree (driver, JVM, Python workers; pages
that they share count more than once), sampled every 20 ms from the session's start to the end of the first release of
the unsorted events; plain's and the clustered one's are beside it.

Accuracy. `count_mae` compares released counts with the number of users under the definition's own bounds (the same
engine, the same sample of contributions, noise of zero scale), so it is the noise's error;
`count_mae_against_unbounded` compares with all users of each item, so what bounding leaves out is in it too. It is that
of releases with a fixed secret, made by the engine alone beside the timed ones, whose secrets are fresh as they must
be: the same rows, sample and noise whenever this is run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from governance.privacy import PrivacyLoss
from governance.settings import Account, Calendar, Settings, Spark
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
from pipelines.run import run
from pipelines.windows import Span, Starting

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

    from pipelines.plan import SignalPlan

USERS, ITEMS, CHUNK = 100_000, 10_000, 2_000_000
SECRET = bytes(range(32))
SLOPE = (1_000_000, 3_000_000, 10_000_000, 20_000_000, 50_000_000)
SPAN = Span(datetime(2025, 11, 3, tzinfo=UTC), datetime(2025, 11, 10, tzinfo=UTC))
EVENTS = EventSource(name="events", table="events", timestamp="ts", person="user_id")
PRIVATE = Signal(
    name="items",
    version=1,
    owner="benchmarks",
    purpose=Purpose.ANALYTICS,
    description="Users and values of each item.",
    source=EVENTS,
    privacy_unit=PrivacyUnit("user_id"),
    entity=Entity("item", ("item_id",)),
    aggregates={"users": Count(), "total": Sum("value", Interval(0, 5))},
    window=Window(timedelta(days=7)),
    bounds=KeepRandom(max_partitions=20, max_rows_per_partition=1),
    partitions=PrivateSelection(delta=5e-7),
    budget_per_release=ApproxDP(epsilon=1.0, delta=1e-6),
    ttl=timedelta(days=7),
)
PUBLIC = replace(PRIVATE, partitions=PublicPartitions({"item_id": tuple(range(ITEMS))}))
CLUSTERED = replace(EVENTS, table="clustered")
ENGINES = {
    "unsorted": PRIVATE,
    "clustered": replace(PRIVATE, source=CLUSTERED),
    "public": PUBLIC,
    "public_clustered": replace(PUBLIC, source=CLUSTERED),
}


def generate(directory: Path, rows: int, seed: int = 20251103) -> None:
    """Writes the events in files of two million rows, unsorted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, ITEMS + 1)
    cumulative = np.cumsum(weights / weights.sum())
    start = int(SPAN.start.timestamp())
    directory.mkdir(parents=True)
    for index, offset in enumerate(range(0, rows, CHUNK)):
        n = min(CHUNK, rows - offset)
        columns: dict[str, Any] = {
            "user_id": random.integers(0, USERS, n),
            "item_id": np.searchsorted(cumulative, random.random(n)).astype(np.int64),
            "value": np.round(random.uniform(0, 5, n), 1),
            "ts": start + random.integers(0, 7 * 86400, n),
        }
        pq.write_table(pa.table(columns), directory / f"part-{index:04d}.parquet", row_group_size=500_000)


# --- in an engine's own process ---------------------------------------------------------------------------------------


class Memory:
    """Samples the resident memory of this process and of all below it."""

    def __init__(self) -> None:
        import psutil

        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = self.driver = 0

    def _watch(self) -> None:
        import psutil

        while not self._stop.wait(0.02):
            own, total = self._process.memory_info().rss, 0
            for process in self._process.children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak, self.driver = max(self.peak, own + total), max(self.driver, own)

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """The peaks in GiB: of the tree, and of this process, Spark's driver, alone."""
        self._stop.set()
        self._thread.join()
        return {"peak_rss_gib": round(self.peak / 2**30, 3), "driver_python_gib": round(self.driver / 2**30, 3)}


def settings_of(directory: Path, cores: int, state: Path) -> Settings:
    """A project that pays for anything, with a state of its own."""
    cap = PrivacyLoss.of("100", "1e-3")
    return Settings(
        root=directory,
        name="benchmark",
        signals_dir=directory,
        state_dir=state,
        calendar=Calendar(first_day=SPAN.start.date(), last_day=(SPAN.end - timedelta(days=1)).date()),
        accounts=(Account(dataset="events", unit="user_id", cap=cap),),
        spark=Spark(master=f"local[{cores}]", driver_memory="3g", shuffle_partitions=8),
    )


def plain(spark: SparkSession, directory: Path, target: Path) -> None:
    """The query without privacy."""
    from pyspark.sql import functions as F

    events = spark.read.parquet(str(directory / "events"))
    counted = events.groupBy("item_id").agg(F.count(F.lit(1)).alias("users"), F.sum("value").alias("total"))
    counted.write.parquet(str(target))


def release(spark: SparkContext, plan: SignalPlan, directory: Path, target: Path, *, zero: bool = False) -> None:
    """The engine alone, with a fixed secret: for figures of accuracy, not of time."""
    from pipelines.engine.inputs import check_footers, open_inputs
    from pipelines.engine.kernel import Salts
    from pipelines.engine.release import Engine
    from pipelines.noise import KeyedNoise, ReleaseKey, ZeroNoise

    key = ReleaseKey(SECRET)
    inputs = open_inputs(plan.signal, plan.recipe, directory)
    check_footers(plan.signal, inputs)
    scratch = target.with_name(f"{target.name}-scratch")
    engine = Engine(
        plan=plan,
        inputs=inputs,
        span=SPAN,
        salts=Salts(rows=key.salt("rows"), partitions=key.salt("partitions")),
        scratch=scratch,
    )
    try:
        with engine.sums(spark) as sums:
            sums.write(ZeroNoise() if zero else KeyedNoise(key), target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run_engine(name: str, directory: Path, cores: int, warm: int, target: Path) -> dict[str, Any]:
    """One engine in this process: the first run, more while it is warm, and memory."""
    from pipelines.engine.session import spark_context, spark_session
    from pipelines.plan import plan_signal

    settings = settings_of(directory, cores, target / "var")
    signal = ENGINES.get(name, PUBLIC)
    start = time.perf_counter()
    plan_signal(signal, settings)
    plan_seconds = time.perf_counter() - start
    memory = Memory()
    memory.start()
    start = time.perf_counter()
    context = spark_context(settings.spark)
    session = spark_session(settings.spark) if name in ("plain", "truth") else None
    session_seconds = time.perf_counter() - start

    def work(version: int) -> float:
        begin = time.perf_counter()
        if name == "plain" and session is not None:
            plain(session, directory, target / str(version))
        else:
            run(settings, definitions=(replace(signal, version=version),), windows=Starting((SPAN.start.date(),)))
        return time.perf_counter() - begin

    if name == "truth" and session is not None:
        release(context, plan_signal(PUBLIC, settings), directory, target / "bounded", zero=True)
        for engine, one in ENGINES.items():
            release(context, plan_signal(one, settings), directory, target / engine)
        from pyspark.sql import functions as F

        events = session.read.parquet(str(directory / "events")).select("item_id", "user_id").distinct()
        events.groupBy("item_id").agg(F.count(F.lit(1)).alias("users")).write.parquet(str(target / "unbounded"))
        return {}
    first = work(1)
    told: dict[str, Any] = {"first_seconds": first, **memory.stop()}
    runs = [work(version) for version in range(2, 2 + warm)]
    java: Any = context._jvm  # noqa: SLF001 - the one way to the heap of the JVM that drives Spark
    java.java.lang.System.gc()
    runtime = java.java.lang.Runtime.getRuntime()
    told["driver_heap_gib"] = round((runtime.totalMemory() - runtime.freeMemory()) / 2**30, 3)
    context.stop()
    return {
        **told,
        "warm_seconds": min(runs) if runs else None,
        "plan_seconds": plan_seconds,
        "session_seconds": session_seconds,
    }


# --- in the process that compares -------------------------------------------------------------------------------------


def in_own_process(name: str, directory: Path, cores: int, warm: int, target: Path) -> dict[str, Any]:
    """Runs an engine in a fresh process."""
    arguments = [name, str(directory), str(cores), str(warm), str(target)]
    command = [sys.executable, "-m", "benchmarks.release", "--engine", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def best_of(engines: tuple[str, ...], directory: Path, cores: int, repeats: int, warm: int) -> dict[str, Any]:
    """Each engine's best times; engines take turns, so that what else the machine does hits all alike."""
    best: dict[str, dict[str, Any]] = {}
    for turn in range(repeats):
        for name in engines:
            target = directory / "out" / f"{name}-{turn}"
            told = in_own_process(name, directory, cores, warm, target)
            kept = best.setdefault(name, told)
            for field, value in told.items():
                kept[field] = (
                    min(kept[field], value) if field.endswith("_seconds") and value is not None else kept[field]
                )
    return best


def counts(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Items, and users of each."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder, columns=["item_id", "users"]).sort_by("item_id")
    return table.column("item_id").to_numpy(), table.column("users").to_numpy()


def accuracy(released: Path, truth: Path) -> dict[str, Any]:
    """Released keys and the errors of their counts."""
    items, users = counts(released)
    errors = {}
    for name in ("bounded", "unbounded"):
        exact = np.zeros(ITEMS)
        of, value = counts(truth / name)
        exact[of] = value
        errors[name] = float(np.abs(users - exact[items]).mean())
    return {
        "released_keys": len(items),
        "count_mae": round(errors["bounded"], 2),
        "count_mae_against_unbounded": round(errors["unbounded"], 2),
    }


def measure(rows: int, repeats: int, warm: int, cores: int, directory: Path) -> dict[str, Any]:
    """One size, as one JSON object."""
    from pipelines.ingest import ingest

    generate(directory / "events", rows)
    start = time.perf_counter()
    ingest((directory / "events",), directory / "clustered", person="user_id", time="ts", workers=cores)
    ingest_seconds = time.perf_counter() - start
    best = best_of(("plain", *ENGINES), directory, cores, repeats, warm)
    in_own_process("truth", directory, cores, 0, directory / "truth")
    items, _ = counts(directory / "truth" / "unbounded")

    def ratios(kind: str) -> dict[str, Any]:
        base = best["plain"][f"{kind}_seconds"]
        if base is None:
            return {}
        named = {"": "unsorted", "clustered_": "clustered"}
        public = {"": "public", "clustered_": "public_clustered"}

        def of(names: dict[str, str]) -> dict[str, Any]:
            told: dict[str, Any] = {}
            for prefix, name in names.items():
                seconds = best[name][f"{kind}_seconds"]
                told[f"{prefix or 'release_'}seconds"] = round(seconds, 2)
                told[f"{prefix}ratio"] = round(seconds / base, 2)
            return told

        return {"plain_seconds": round(base, 2), **of(named), "public": of(public)}

    headline, others = ratios("first"), ratios("warm")
    truth = directory / "truth"
    return {
        "benchmark": "release",
        "rows": rows,
        "cores": cores,
        **{field: value for field, value in headline.items() if field != "public"},
        "ingest_seconds": round(ingest_seconds, 2),
        "rows_per_second": round(rows / best["unsorted"]["first_seconds"]),
        "clustered_rows_per_second": round(rows / best["clustered"]["first_seconds"]),
        "peak_rss_gib": best["unsorted"]["peak_rss_gib"],
        "plain_peak_rss_gib": best["plain"]["peak_rss_gib"],
        "clustered_peak_rss_gib": best["clustered"]["peak_rss_gib"],
        "true_keys": len(items),
        **accuracy(truth / "unsorted", truth),
        "same_release_from_both_layouts": same_rows(truth / "unsorted", truth / "clustered"),
        "public": {**headline["public"], **accuracy(truth / "public", truth)},
        "warm": others,
        "plan_seconds": round(best["unsorted"]["plan_seconds"], 2),
        "session_seconds": round(best["unsorted"]["session_seconds"], 2),
        "plain_session_seconds": round(best["plain"]["session_seconds"], 2),
    }


def same_rows(one: Path, two: Path) -> bool:
    """Whether two releases are equal, to the bit."""
    import pyarrow.parquet as pq

    first, second = (pq.read_table(folder).sort_by("item_id") for folder in (one, two))
    return bool(first.equals(second))


def slope(sizes: tuple[int, ...], cores: int, directory: Path) -> dict[str, Any]:
    """Seconds for each row and memory of the driver, by size; the first run of a fresh session, unsorted."""
    steps = []
    for rows in sizes:
        folder = directory / str(rows)
        generate(folder / "events", rows)
        told = in_own_process("unsorted", folder, cores, 0, folder / "out")
        shutil.rmtree(folder)
        steps.append(
            {
                "rows": rows,
                "release_seconds": round(told["first_seconds"], 2),
                "microseconds_per_row": round(told["first_seconds"] / rows * 1e6, 3),
                "peak_rss_gib": told["peak_rss_gib"],
                "driver_python_gib": told["driver_python_gib"],
                "driver_heap_gib": told["driver_heap_gib"],
            }
        )
    costs = [step["microseconds_per_row"] for step in steps]
    growth = max(later / earlier for i, earlier in enumerate(costs) for later in costs[i:])
    return {"benchmark": "release slope", "cores": cores, "largest_growth_per_row": round(growth, 2), "sizes": steps}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=2, help="fresh processes of each engine")
    parser.add_argument("--warm", type=int, default=3, help="more runs in each process")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--slope", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SLOPE), help="rows, with --slope")
    parser.add_argument("--json", action="store_true", help="on one line")
    parser.add_argument("--engine", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        name, directory, cores, warm, target = arguments.engine
        # Spark's own words go to standard error; the last line of standard output is the result.
        told = run_engine(name, Path(directory), int(cores), int(warm), Path(target))
        print(json.dumps(told))
        return
    directory = Path(tempfile.mkdtemp(prefix="hedgerow-bench-", dir=os.environ.get("TMPDIR")))
    try:
        if arguments.slope:
            document = slope(tuple(arguments.sizes), arguments.cores, directory)
        else:
            document = measure(arguments.rows, arguments.repeats, arguments.warm, arguments.cores, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(document) if arguments.json else json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
