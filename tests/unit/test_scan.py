"""Which row groups are read: those that may hold rows of the window, dealt evenly, each once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engine import scan
from pipelines.engine.scan import Part, parts_of, read_parts, tasks_of, time_range
from tests.support.kernel import plan_of
from tests.support.projects import EVENTS, SPAN, START, a_signal

T0, END = int(START.timestamp()), int(SPAN.end.timestamp())
WEEK = END - T0


def write(path: Path, moments: Any, **options: Any) -> Path:
    n = len(moments)
    pq.write_table(pa.table({"user_id": range(n), "item_id": range(n), "ts": moments}), path, **options)
    return path


KINDS = {
    "whole seconds": pa.array,
    "microseconds": lambda seconds: pa.array(
        [datetime.fromtimestamp(s, UTC) for s in seconds], pa.timestamp("us", "UTC")
    ),
    "naive milliseconds": lambda seconds: pa.array(
        [datetime.fromtimestamp(s, UTC).replace(tzinfo=None) for s in seconds], pa.timestamp("ms")
    ),
}


def plan(**changes: Any) -> Any:
    return plan_of(a_signal(**changes), ["user_id", "item_id", "ts"])


@pytest.mark.parametrize("kind", KINDS)
def test_row_groups_outside_of_the_window_are_not_read(kind: str, tmp_path: Path) -> None:
    """One row group a week; the edges are the window's own, to the second."""
    moments = [T0 - WEEK, T0 - 1, T0, END - 1, END, END + WEEK - 1, T0 - 1, T0]
    file = write(tmp_path / "a.parquet", KINDS[kind](moments), row_group_size=2)
    assert [(part.group, part.rows, part.cut) for part in parts_of((file,), plan())] == [(1, 2, False), (3, 2, True)]


@pytest.mark.parametrize("elsewhere", [T0 - WEEK, T0 + 5, END + WEEK])
def test_a_field_of_a_struct_is_not_the_event_time(elsewhere: int, tmp_path: Path) -> None:
    """A leaf of the same name that comes first, in and out of the window; and one that even has the same path."""
    moments = [T0 - 1, T0, END - 1, END]
    columns: dict[str, Any] = {"user_id": range(4), "item_id": range(4), "meta": [{"ts": elsewhere}] * 4}
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"meta": columns["meta"], **columns, "ts": moments}), file, row_group_size=1)
    assert [(part.group, part.cut) for part in parts_of((file,), plan())] == [(1, False), (2, False)]
    assert time_range(pq.read_metadata(file), "ts") == (T0 - 1, END)
    dotted = plan_of(a_signal(source=replace(EVENTS, timestamp="meta.ts")), ["user_id", "item_id", "meta.ts"])
    pq.write_table(pa.table({**columns, "meta.ts": moments}), file, row_group_size=1)
    assert [(part.group, part.cut) for part in parts_of((file,), dotted)] == [(group, True) for group in range(4)]
    assert time_range(pq.read_metadata(file), "meta.ts") is None


def test_without_statistics_everything_is_read_and_cut(tmp_path: Path) -> None:
    bare = write(tmp_path / "a.parquet", pa.array([T0, END]), write_statistics=False)
    with_null = write(tmp_path / "b.parquet", pa.array([T0, None]))
    days = write(tmp_path / "c.parquet", pa.array([date(2025, 11, 3)] * 2))
    empty = write(tmp_path / "d.parquet", pa.array([], pa.int64()))
    parts = parts_of((bare, with_null, days, empty), plan())
    assert [part.cut for part in parts] == [True, True, True]
    assert str(empty) not in {part.file for part in parts}


def test_each_row_is_read_once_and_only_the_columns_that_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.parquet", pa.array([T0 + i for i in range(100)]), row_group_size=40)
    spared = replace(plan(), time_needed=False)
    for limit in (500_000, 7):
        monkeypatch.setattr(scan, "_CHUNK", limit)
        for wanted in (plan(), spared):
            chunks = list(read_parts(parts_of((file,), wanted), wanted))
            assert sorted(i for chunk, _ in chunks for i in chunk.column("user_id").to_pylist()) == list(range(100))
            assert not any(cut for _, cut in chunks)
            assert ("ts" in chunks[0][0].column_names) is wanted.time_needed
        assert (max(chunk.num_rows for chunk, _ in chunks) <= 7) is (limit == 7)


@pytest.mark.parametrize("least", [1, 2, 4, 100])
def test_parts_are_dealt_evenly(least: int) -> None:
    parts = tuple(Part(f"f{i}", 0, rows, True) for i, rows in enumerate([50, 1, 1, 1, 30, 20, 40]))
    tasks = tasks_of(parts, least)
    assert sorted(part.file for task in tasks for part in task) == sorted(part.file for part in parts)
    assert len(tasks) == min(least, len(parts))
    sizes = [sum(part.rows for part in task) for task in tasks]
    assert max(sizes) <= max(50, 2 * 143 / len(tasks))
    assert tasks_of((), least) == ((),)
