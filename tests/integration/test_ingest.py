"""`hedgerow ingest` with real worker processes: what it writes, refuses, repeats, and leaves when it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.errors import (
    ColumnMissing,
    ColumnTypeError,
    ConfigError,
    EngineError,
    HedgerowError,
    InputError,
    InputMissing,
    LayoutCorrupt,
    NullValue,
    RunInProgress,
)
from governance.files import exclusive_lock
from pipelines import KeepRandom
from pipelines.engine.inputs import open_inputs
from pipelines.engine.kernel import Salts
from pipelines.engine.layout import LAYOUT_NAME, Layout
from pipelines.engine.release import Engine
from pipelines.engine.session import spark_context
from pipelines.engine.tables import open_table
from pipelines.ingest import Ingested, ingest
from pipelines.noise import KeyedNoise, ReleaseKey
from pipelines.plan import plan_signal
from tests.support.fronts import comes_true
from tests.support.projects import SPAN, START, a_signal, engine_settings
from tests.support.written import released_table

SECOND = int(START.timestamp())


def events(seed: int, n: int = 4000, people: int = 300, day: int = 0, **columns: Any) -> pa.Table:
    random = np.random.default_rng(seed)
    given: dict[str, Any] = {
        "user_id": random.integers(0, people, n),
        "item_id": np.minimum(random.geometric(0.2, n), 20),
        "ts": SECOND + day * 86400 + random.integers(0, 86400, n),
        **columns,
    }
    return pa.table(given)


def write(path: Path, table: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=900)
    return path


def lay(sources: list[Path], into: Path, **options: Any) -> Ingested:
    options = {"person": "user_id", "time": "ts", "buckets": 5, "workers": 2, **options}
    return ingest(tuple(sources), into, **options)


def rows(folder: Path) -> list[tuple[Any, ...]]:
    table = pa.concat_tables([pq.read_table(file, partitioning=None) for file in open_table(folder, ".").files])
    return sorted(zip(*(column.to_pylist() for column in table.columns), strict=True))


def rows_in(*tables: pa.Table) -> list[tuple[Any, ...]]:
    return sorted(row for table in tables for row in zip(*(c.to_pylist() for c in table.columns), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[pa.Table]]:
    """A table of two batches of several files, several days, and text beside numbers."""
    root = tmp_path_factory.mktemp("laid")
    tables = [events(day, day=day, note=[f"é{i}" for i in range(4000)]) for day in range(3)]
    files = [write(root / "raw" / f"{day}.parquet", table) for day, table in enumerate(tables)]
    lay(files[:2], root / "events")
    lay(files[2:], root / "events", buckets=None)
    return root / "events", tables


def test_all_rows_are_there_and_nothing_else(laid: tuple[Path, list[pa.Table]]) -> None:
    folder, tables = laid
    assert rows(folder) == rows_in(*tables)


def test_a_person_lies_in_one_bucket_over_all_batches_sorted_within_a_file(laid: tuple[Path, list[pa.Table]]) -> None:
    folder, _ = laid
    layout = Layout.read(folder)
    assert len(layout.batches) == 2
    homes = defaultdict(set)
    for file in layout.files:
        assert file.path.startswith(f"bucket={file.bucket:04d}/")
        parquet = pq.ParquetFile(folder / file.path)
        people: list[Any] = parquet.read(columns=["user_id"]).column(0).to_pylist()
        assert people == sorted(people)
        for person in people:
            homes[person].add(file.bucket)
        group = parquet.metadata.row_group(0)
        statistics: Any = group.column(parquet.metadata.schema.names.index("ts")).statistics
        assert statistics.has_min_max
        assert group.column(0).compression == "LZ4"
    assert {len(buckets) for buckets in homes.values()} == {1}
    assert set().union(*homes.values()) == set(range(5))


def test_row_groups_keep_to_days_where_there_are_enough_rows(tmp_path: Path) -> None:
    parts = [events(day, n=60_000, day=day) for day in range(2)]
    lay([write(tmp_path / "raw.parquet", pa.concat_tables(parts))], tmp_path / "events", buckets=1)
    (file,) = Layout.read(tmp_path / "events").files
    footer = pq.read_metadata(tmp_path / "events" / file.path)
    place = footer.schema.names.index("ts")
    days: list[Any] = [footer.row_group(i).column(place).statistics for i in range(footer.num_row_groups)]
    assert [(one.min // 86400, one.max // 86400) for one in days] == [(SECOND // 86400 + i,) * 2 for i in range(2)]


def test_the_same_files_twice_change_nothing(laid: tuple[Path, list[pa.Table]], tmp_path: Path) -> None:
    folder, tables = laid
    before = contents(folder)
    copies = [write(tmp_path / f"renamed-{i}.parquet", table) for i, table in enumerate(tables)]
    done = lay(copies, folder)
    assert (done.batch, len(done.known), done.new) == (None, 3, ())
    assert contents(folder) == before


def test_only_what_is_new_is_appended(tmp_path: Path) -> None:
    one, two = events(1), events(2, day=1)
    first = write(tmp_path / "raw" / "1.parquet", one)
    lay([tmp_path / "raw"], tmp_path / "events")
    second = write(tmp_path / "raw" / "2.parquet", two)
    done = lay([tmp_path / "raw"], tmp_path / "events")
    assert (done.known, done.new) == ((str(first),), (str(second),))
    assert rows(tmp_path / "events") == rows_in(one, two)


def test_the_batch_id_is_of_the_contents_alone(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.parquet", events(i)) for i in range(2)]
    one = lay(files, tmp_path / "one")
    two = lay(files[::-1], tmp_path / "two", workers=1, buckets=3)
    assert one.batch == two.batch is not None


def _null_person(root: Path) -> list[Path]:
    return [write(root / "x.parquet", events(1, user_id=[None, *range(3999)]))]


def _null_person_without_statistics(root: Path) -> list[Path]:
    pq.write_table(events(1, user_id=[None, *range(3999)]), root / "x.parquet", write_statistics=False)
    return [root / "x.parquet"]


def _null_time_without_statistics(root: Path) -> list[Path]:
    pq.write_table(events(1, ts=[None, *range(3999)]), root / "x.parquet", write_statistics=False)
    return [root / "x.parquet"]


def _float_person(root: Path) -> list[Path]:
    return [write(root / "x.parquet", events(1, user_id=np.zeros(4000)))]


def _another_type(root: Path) -> list[Path]:
    return [write(root / "x.parquet", events(1, item_id=["a"] * 4000))]


def _another_column(root: Path) -> list[Path]:
    return [write(root / "x.parquet", events(1, more=[1] * 4000))]


def _one_column_less(root: Path) -> list[Path]:
    return [write(root / "x.parquet", events(1).drop_columns(["item_id"]))]


def _the_same_twice(root: Path) -> list[Path]:
    return [write(root / name, events(1)) for name in ("x.parquet", "y.parquet")]


def _torn(root: Path) -> list[Path]:
    path = write(root / "x.parquet", events(1))
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)  # pages, not the footer
    path.write_bytes(data)
    return [path]


def _no_parquet(root: Path) -> list[Path]:
    (root / "x.parquet").write_bytes(b"user_id,item_id\n")
    return [root / "x.parquet"]


@pytest.mark.parametrize(
    ("sources", "error"),
    [
        (_null_person, NullValue),
        (_null_person_without_statistics, NullValue),
        (_null_time_without_statistics, NullValue),
        (_float_person, ColumnTypeError),
        (_another_type, ColumnTypeError),
        (_another_column, ColumnMissing),
        (_one_column_less, ColumnMissing),
        (_the_same_twice, InputError),
        (_torn, InputMissing),
        (_no_parquet, InputMissing),
        (lambda root: [root / "absent.parquet"], InputMissing),
        (lambda _: [], InputMissing),
    ],
)
def test_bad_input_is_refused_and_loses_nothing(
    sources: Callable[[Path], list[Path]], error: type[HedgerowError], tmp_path: Path
) -> None:
    into = tmp_path / "events"
    lay([write(tmp_path / "good.parquet", events(0))], into)
    before = contents(into)
    (tmp_path / "bad").mkdir()
    with pytest.raises(error) as raised:
        lay([*sources(tmp_path / "bad")], into)
    assert contents(into) == before
    assert rows(into) == rows_in(events(0))
    assert "3999" not in str(raised.value)


def test_wrong_targets(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", events(0))
    lay([good], tmp_path / "events")
    with pytest.raises(ConfigError, match="laid out by 'user_id'"):
        lay([good], tmp_path / "events", person="item_id")
    with pytest.raises(ConfigError, match="has 5 buckets"):
        lay([good], tmp_path / "events", buckets=6)
    with pytest.raises(ConfigError, match="allowed: 1 to"):
        lay([good], tmp_path / "new", buckets=0)
    with pytest.raises(ConfigError, match="is a file"):
        lay([good], write(tmp_path / "file.parquet", events(3)))
    with pytest.raises(ConfigError, match="not ingested"):
        lay([good], write(tmp_path / "plain" / "x.parquet", events(1)).parent)
    with pytest.raises(InputError, match="somewhere else"):
        lay([tmp_path / "events"], tmp_path / "events")
    with exclusive_lock(tmp_path / "events" / ".ingest.lock", "x"), pytest.raises(RunInProgress):
        lay([good], tmp_path / "events")


def test_files_of_an_unfinished_batch_are_no_part_of_the_table_and_go_with_the_next(tmp_path: Path) -> None:
    into = tmp_path / "events"
    lay([write(tmp_path / "1.parquet", events(1))], into)
    stray = write(into / "bucket=0000" / "unfinished-0.parquet", events(9))
    assert rows(into) == rows_in(events(1))
    lay([write(tmp_path / "2.parquet", events(2))], into)
    assert not stray.exists()
    assert rows(into) == rows_in(events(1), events(2))


@pytest.mark.parametrize("damage", ["gone", "longer"])
def test_a_file_of_the_layout_that_changed_is_noticed(damage: str, tmp_path: Path) -> None:
    into = tmp_path / "events"
    lay([write(tmp_path / "1.parquet", events(1))], into)
    victim = into / Layout.read(into).files[0].path
    if damage == "gone":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes() + b"x")
    with pytest.raises(LayoutCorrupt, match="1 files"):
        open_table(tmp_path, "events")


INGEST = """
import sys
from pathlib import Path
from pipelines.ingest import ingest

reached = []

def told(what, part):
    print(what, part, flush=True)
    if reached:
        sys.stdin.read()  # what comes is a signal, now if it has not come before
    if f"{what} {part}".startswith(sys.argv[3]):
        reached.append(what)

if __name__ == "__main__":
    source, into = map(Path, sys.argv[1:3])
    ingest((source,), into, person="user_id", time="ts", workers=1, progress=told)
"""


def session(leader: int) -> list[int]:
    """Processes that a process began, and those of these."""
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("stage", "ended"),
    [
        ("dealing events to buckets 0.0", signal.SIGINT),
        ("writing buckets 0.", signal.SIGKILL),
        pytest.param("dealing events to buckets 0.0", signal.SIGKILL, marks=pytest.mark.long),
        pytest.param("writing buckets 0.", signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_an_ingest_that_is_stopped_leaves_the_table_as_it_was(
    ended: signal.Signals, stage: str, tmp_path: Path
) -> None:
    into = tmp_path / "events"
    lay([write(tmp_path / "1.parquet", events(1))], into)
    layout = (into / LAYOUT_NAME).read_bytes()
    more = write(tmp_path / "raw" / "2.parquet", events(2, n=100_000))
    script = tmp_path / "ingest.py"
    script.write_text(INGEST)
    command = [sys.executable, str(script), str(more), str(into), stage]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True, env=environment, start_new_session=True) as it:
        assert it.stdout is not None
        assert any(line.startswith(stage) for line in it.stdout)
        it.send_signal(ended)
        assert it.wait() != 0
        assert comes_true(lambda: not session(it.pid), 60.0), "a worker outlives who gave it work"
    assert (into / LAYOUT_NAME).read_bytes() == layout
    assert rows(into) == rows_in(events(1))
    if ended == signal.SIGINT:
        assert not (into / "_ingesting").exists()
    done = lay([more], into)
    assert done.new == (str(more),)
    assert rows(into) == rows_in(events(1), events(2, n=100_000))


def test_a_worker_that_is_killed_is_told(tmp_path: Path) -> None:
    into = tmp_path / "events"

    def kill_the_workers(what: str, part: float) -> None:
        if what.startswith("dealing") and not part:
            for child in psutil.Process().children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.send_signal(signal.SIGKILL)
            time.sleep(0.2)

    with pytest.raises(EngineError, match="a worker process was killed"):
        lay([write(tmp_path / "1.parquet", events(1))], into, progress=kill_the_workers)
    lay([tmp_path / "1.parquet"], into)
    assert rows(into) == rows_in(events(1))


def test_a_clustered_release_is_the_unsorted_one_to_the_byte(tmp_path: Path) -> None:
    tables = [events(day, n=6000, day=day, value=np.arange(6000) % 7 / 2) for day in range(9)]
    for index, table in enumerate(tables):
        write(tmp_path / "raw" / f"{index}.parquet", table)
    lay([tmp_path / "raw"], tmp_path / "laid")
    write(tmp_path / "raw" / "10.parquet", events(10, n=6000, day=1, value=np.zeros(6000)))
    lay([tmp_path / "raw"], tmp_path / "laid")
    settings = engine_settings(tmp_path)
    spark = spark_context(settings.spark)
    key = ReleaseKey(bytes(range(32)))
    released = []
    for index, table_name in enumerate(("raw", "laid")):
        signal_ = a_signal(bounds=KeepRandom(max_partitions=4, max_rows_per_partition=2))
        signal_ = replace(signal_, source=replace(signal_.source, table=table_name))
        plan = plan_signal(signal_, settings)
        engine = Engine(
            plan=plan,
            inputs=open_inputs(signal_, plan.recipe, tmp_path),
            span=SPAN,
            salts=Salts(rows=key.salt("rows"), partitions=key.salt("partitions")),
            scratch=tmp_path / f"scratch-{index}",
        )
        with engine.sums(spark) as sums:
            released.append(released_table(sums, KeyedNoise(key)))
    assert released[0].num_rows > 5
    assert released[0].equals(released[1])


def test_a_person_in_a_wrong_bucket_stops_the_run(tmp_path: Path) -> None:
    lay([write(tmp_path / "1.parquet", events(1))], tmp_path / "data" / "events.parquet")
    folder = tmp_path / "data" / "events.parquet"
    layout = Layout.read(folder)
    (folder / LAYOUT_NAME).write_bytes(replace(layout, salt=layout.salt ^ 1).to_bytes())
    settings = engine_settings(tmp_path)
    spark = spark_context(settings.spark)
    plan = plan_signal(a_signal(), settings)
    inputs = open_inputs(plan.signal, plan.recipe, tmp_path)
    engine = Engine(plan=plan, inputs=inputs, span=SPAN, salts=Salts(rows=1, partitions=2))
    from pipelines.engine.failures import no_data_in_errors

    with pytest.raises(LayoutCorrupt, match="persons of other buckets"), no_data_in_errors("x"), engine.sums(spark):
        pytest.fail("bounds would not hold")
