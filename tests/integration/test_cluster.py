"""A real standalone cluster: the same release as on one machine, whatever fails on the way.

One driver process runs every scenario on the same master and two workers; the reference is a local run in this process
with the same key. Only what the key is is patched: everything else is `pipelines.run.run`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from governance.ledger import EntryKind, Ledger
from governance.release import ReleaseStore
from governance.settings import load_settings
from pipelines.ingest import ingest
from pipelines.noise import KeyedNoise, ReleaseKey
from pipelines.run import run
from tests.support.cluster import environment, standalone_cluster
from tests.support.faulty_noise import FAULTS, FaultyNoise
from tests.support.projects import make_events, write_definition, write_tables

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
KEY = bytes(range(32))
SCENARIOS = tuple((fault, layout) for fault in FAULTS for layout in ("unsorted", "clustered"))
PROJECT = """
[project]
name = "cluster"

[calendar]
first_day = 2025-11-03
last_day = 2025-11-23

[[accounts]]
dataset = "events"
unit = "user_id"
rho = "1.0"
delta = "1e-6"

[spark]
master = "{master}"
driver_memory = "600m"
executor_memory = "600m"
shuffle_partitions = 4
release_files = 2
"""
SIGNAL = """
from datetime import timedelta

from pipelines import *

WEEKLY = Signal(
    name="weekly",
    version=1,
    owner="tests",
    purpose=Purpose.TRENDS,
    description="Users of each item.",
    source=EventSource(name="events", table="{table}", timestamp="ts", person="user_id"),
    privacy_unit=PrivacyUnit("user_id"),
    entity=Entity("item", ("item_id",)),
    aggregates={{"users": Count(), "total": Sum("value", Interval(0, 5))}},
    window=Window(timedelta(days=7)),
    bounds=KeepRandom(max_partitions=3, max_rows_per_partition=1),
    partitions=PublicPartitions({{"item_id": tuple(range(12))}}),
    budget_per_release=ZCDP(0.25),
    ttl=timedelta(days=14),
)
"""
DRIVER = """
import json, os, sys
from pathlib import Path
from governance.settings import load_settings
from pipelines.noise import KeyedNoise, ReleaseKey
from pipelines.run import run
from tests.support.faulty_noise import FaultyNoise

key = bytes.fromhex(sys.argv[1])
ReleaseKey.fresh = classmethod(lambda cls: cls(key))
for folder, fault in json.loads(sys.argv[2]):
    noise = lambda key: FaultyNoise(KeyedNoise(key), fault, os.path.join(folder, "attempts"))
    print([str(result.outcome) for result in run(load_settings(Path(folder)), noise=noise)], flush=True)
from pyspark import SparkContext
context = SparkContext.getOrCreate()
print(context.master)
context.stop()
"""
SPECULATION = " ".join(
    f"--conf {setting}"
    for setting in (
        "spark.speculation=true",
        "spark.speculation.interval=200ms",
        "spark.speculation.task.duration.threshold=3s",
        "spark.cores.max=2",
    )
)


def project(folder: Path, data: Path, layout: str, master: str) -> Path:
    """A project over shared data."""
    (folder / "attempts").mkdir(parents=True)
    (folder / "hedgerow.toml").write_text(PROJECT.format(master=master), encoding="utf-8")
    write_definition(folder, SIGNAL.format(table=data / layout))
    return folder


def name_of(fault: str, layout: str) -> str:
    return f"{fault}-{layout}".replace(" ", "_")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Every scenario's project after its run, by fault and layout; fault `local` is the reference."""
    root = tmp_path_factory.mktemp("cluster")
    write_tables(root, make_events(events=20_000, users=500), files=4)
    data = root / "data"
    (data / "events.parquet").rename(data / "unsorted")
    ingest((data / "unsorted",), data / "clustered", person="user_id", time="ts", buckets=6, workers=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ReleaseKey, "fresh", classmethod(lambda cls: cls(KEY)))
        for layout in ("unsorted", "clustered"):
            folder = project(root / name_of("local", layout), data, layout, "local[2]")

            def noise(key: ReleaseKey, folder: Path = folder) -> FaultyNoise:
                return FaultyNoise(KeyedNoise(key), "none", str(folder / "attempts"))

            run(load_settings(folder), noise=noise)
    with standalone_cluster(root / "spark") as master:
        work = [
            (str(project(root / name_of(fault, layout), data, layout, master)), fault) for fault, layout in SCENARIOS
        ]
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, KEY.hex(), json.dumps(work)],
            env={**environment(), "PYTHONPATH": str(ROOT), "PYSPARK_SUBMIT_ARGS": f"{SPECULATION} pyspark-shell"},
            capture_output=True,
            text=True,
            timeout=3000,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == master
    return lambda fault, layout: root / name_of(fault, layout)


def released(folder: Path) -> dict[str, bytes]:
    """The release's files, by name."""
    store = ReleaseStore(load_settings(folder).releases_dir)
    manifest = store.load("weekly/v1/2025-11-17")
    store.verify_files(manifest)
    files = store.data_files(manifest)
    assert sum(pq.read_metadata(file).num_rows for file in files) == 12
    return {file.name: file.read_bytes() for file in files}


@pytest.mark.parametrize(("fault", "layout"), SCENARIOS)
def test_every_file_is_the_local_one(fault: str, layout: str, runs: Callable[[str, str], Path]) -> None:
    """To the byte."""
    assert released(runs(fault, layout)) == released(runs("local", layout))


@pytest.mark.parametrize(("fault", "layout"), SCENARIOS)
def test_the_ledger_has_one_draw_and_one_commit(fault: str, layout: str, runs: Callable[[str, str], Path]) -> None:
    with Ledger(load_settings(runs(fault, layout)).ledger_path) as ledger:
        kinds = [entry.kind for entry in ledger.entries()]
    assert [kinds.count(kind) for kind in (EntryKind.RESERVE, EntryKind.DRAW, EntryKind.COMMIT)] == [1, 1, 1]


@pytest.mark.parametrize(("fault", "layout"), SCENARIOS)
def test_every_attempt_draws_the_same_noise(fault: str, layout: str, runs: Callable[[str, str], Path]) -> None:
    folder = runs(fault, layout)
    answers = defaultdict(list)
    for attempt in (folder / "attempts").glob("*.*.*"):
        asked, drawn, _ = attempt.name.split(".")
        answers[asked].append(drawn)
    assert answers
    assert all(len(set(drawn)) == 1 for drawn in answers.values())
    if fault != "none":
        assert (folder / "attempts" / "marker").exists()
        assert max(map(len, answers.values())) > 1, "the fault did not make Spark try again"


def test_both_layouts_release_the_same(runs: Callable[[str, str], Path]) -> None:
    assert released(runs("local", "unsorted")) == released(runs("local", "clustered"))


def test_nothing_was_left_on_the_workers_that_tells_exact_sums(runs: Callable[[str, str], Path]) -> None:
    """Executors log nothing: not even how many bytes a block of exact sums has."""
    logs = list((runs("none", "unsorted").parent / "spark").glob("work-*/app-*/*/std*"))
    assert logs
    for log in logs:
        text = log.read_text(errors="replace")
        assert "stored as values" not in text
        assert "bytes result sent to driver" not in text
