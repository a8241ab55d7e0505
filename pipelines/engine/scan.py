"""Which parts of which files each task reads, and the reading: parquet row groups by pyarrow, inside the task.

Only the columns that are needed are read, and only row groups whose statistics let them hold rows of the window; where
all of a row group lies in the window, the event time is not even read. Rows never pass through the JVM on the way in.

Files are read by path, by every worker: on a cluster they must lie on storage that all of its machines share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.engine.layout import Layout
from pipelines.engine.rows import RowPlan
from pipelines.engine.tables import Table, leaves_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bucket", "Part", "buckets_of", "parts_of", "read_parts", "tasks_of", "time_range"]

ROWS_PER_TASK = 4_000_000
_CLUSTERED_ROWS_PER_TASK = 16_000_000
_CHUNK = 500_000


@dataclass(frozen=True, slots=True)
class Part:
    """A row group: file, index, rows, and whether it must be cut to the window."""

    file: str
    group: int
    rows: int
    cut: bool


def parts_of(files: tuple[Path, ...], plan: RowPlan) -> tuple[Part, ...]:
    """The row groups that may hold rows of the window."""
    import pyarrow.parquet as pq

    parts = []
    for file in files:
        footer = pq.read_metadata(file)
        place = leaves_of(footer).get(plan.time)
        for index in range(footer.num_row_groups):
            group = footer.row_group(index)
            bounds = None if place is None else _bounds(group.column(place).statistics, footer.schema.column(place))
            if bounds is not None and (bounds[1] < plan.start or bounds[0] >= plan.end):
                continue
            inside = bounds is not None and bounds[0] >= plan.start and bounds[1] < plan.end
            parts.append(Part(str(file), index, group.num_rows, not inside))
    return tuple(part for part in parts if part.rows)


def time_range(footer: Any, column: str) -> tuple[float, float] | None:
    """Smallest and largest event time of a file in Unix seconds; None where its footer does not settle it."""
    place = leaves_of(footer).get(column)
    if place is None:
        return None
    groups = [footer.row_group(index).column(place) for index in range(footer.num_row_groups)]
    found = [_bounds(group.statistics, footer.schema.column(place)) for group in groups if group.num_values]
    if not found or any(one is None for one in found):
        return None
    known = [one for one in found if one is not None]
    return min(low for low, _ in known), max(high for _, high in known)


def _bounds(statistics: Any, column: Any) -> tuple[float, float] | None:
    """Smallest and largest event time of a row group in Unix seconds; None where its footer does not settle it."""
    if statistics is None or not statistics.has_min_max or statistics.null_count is None or statistics.null_count:
        return None
    low, high = _second(statistics.min, column), _second(statistics.max, column)
    return None if low is None or high is None else (low, high)


def _second(value: Any, column: Any) -> float | None:
    if isinstance(value, datetime):
        return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date) or not isinstance(value, int):
        return None
    return float(value) if column.logical_type.type in ("NONE", "INT") else None


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket's row groups that may hold rows of the window."""

    index: int
    parts: tuple[Part, ...]


def buckets_of(table: Table, layout: Layout, plan: RowPlan, parallelism: int) -> tuple[tuple[Bucket, ...], ...]:
    """Tasks of whole buckets, about equal in rows: one for each core, or more where a task would be large."""
    bucket_of = layout.bucket_of(table.path)
    buckets: dict[int, list[Part]] = {}
    for part in parts_of(table.files, plan):
        buckets.setdefault(bucket_of[part.file], []).append(part)
    sizes = {index: sum(part.rows for part in parts) for index, parts in buckets.items()}
    count = max(1, min(len(sizes), max(parallelism, sum(sizes.values()) // _CLUSTERED_ROWS_PER_TASK)))
    tasks: list[list[Bucket]] = [[] for _ in range(count)]
    loads = [0] * count
    for index in sorted(sizes, key=lambda index: (-sizes[index], index)):
        least = loads.index(min(loads))
        tasks[least].append(Bucket(index, tuple(buckets[index])))
        loads[least] += sizes[index]
    return tuple(tuple(task) for task in tasks if task)


def tasks_of(parts: tuple[Part, ...], least: int) -> tuple[tuple[Part, ...], ...]:
    """Parts dealt to tasks of about equal size: at least `least` of them, if there are as many parts."""
    count = max(1, min(len(parts), max(least, sum(part.rows for part in parts) // ROWS_PER_TASK)))
    tasks: list[list[Part]] = [[] for _ in range(count)]
    sizes = [0] * count
    for part in sorted(parts, key=lambda part: -part.rows):
        smallest = sizes.index(min(sizes))
        tasks[smallest].append(part)
        sizes[smallest] += part.rows
    return tuple(tuple(task) for task in tasks)


def read_parts(parts: tuple[Part, ...], plan: RowPlan) -> Iterator[tuple[pa.Table, bool]]:
    """The rows of some parts in chunks, and whether each must be cut to the window."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for part in parts:
        spared = () if part.cut or plan.time_needed else (plan.time,)
        columns = [column for column in plan.columns if column not in spared]
        with pq.ParquetFile(part.file, memory_map=True) as file:
            if part.rows <= 2 * _CHUNK:
                yield file.read_row_group(part.group, columns=columns, use_threads=False), part.cut
                continue
            batches = file.iter_batches(_CHUNK, row_groups=[part.group], columns=columns, use_threads=False)
            for batch in batches:
                yield pa.Table.from_batches([batch]), part.cut
