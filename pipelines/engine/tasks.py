"""What tasks do: read, make rows, bring each unit's rows together, bound and sum them. Frozen values that are called.

    Split       reads row groups and sends rows, by a hash of their unit, to buckets
    Bound       bounds the buckets of a partition, one after the other
    Clustered   reads whole buckets of a layout by person and bounds each

`Bound` and `Clustered` send exact sums by key to the partitions from 0 on, and what they have to tell to the one after
the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from governance.errors import LayoutCorrupt
from pipelines.engine.bounds import Bounds
from pipelines.engine.exchange import Item, packed, split
from pipelines.engine.hashing import encoded, row_hashes
from pipelines.engine.kernel import bounded_sums
from pipelines.engine.layout import Layout
from pipelines.engine.rows import RowPlan, rows_of
from pipelines.engine.scan import Bucket, Part, read_parts
from pipelines.engine.sums import int_column, merged_sums

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bound", "Clustered", "Split", "Told"]

_ROWS_BEFORE_FLUSH = 2_000_000
_ROWS_BEFORE_MERGE = 500_000
_BUCKET_SALT = 0x6865646765726F77


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a task says beside its sums.

    Attributes:
        problem: position in `RowPlan.problems` of one that was met, or -1.
        misplaced: a bucket of a layout that holds persons of others, or -1.
        late_units: units with rows that came too late.
        sums: rows of exact sums that were sent.
    """

    problem: int = -1
    misplaced: int = -1
    late_units: int = 0
    sums: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Where sums go."""

    keys: tuple[str, ...]
    partitions: int
    wide: bool

    def told(self, **what: int) -> Item:
        """Something to tell."""
        return self.partitions, Told(**what)

    def sums(self, batches: Iterator[pa.RecordBatch]) -> Iterator[Item]:
        """The sums of one task, keys of several buckets merged as far as memory is worth it."""
        held: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            held.append(batch)
            rows += batch.num_rows * (50 if self.wide else 1)
            if rows >= _ROWS_BEFORE_MERGE:
                yield from self._flushed(held)
                held, rows = [], 0
        if held:
            yield from self._flushed(held)

    def _flushed(self, held: list[pa.RecordBatch]) -> Iterator[Item]:
        import pyarrow as pa

        table = pa.Table.from_batches(held)
        merged = table if len(held) == 1 else merged_sums(table, self.keys)
        for place, part in split(merged, self.keys, self.partitions):
            yield place, packed(part)
        yield self.told(sums=merged.num_rows)


@dataclass(frozen=True, slots=True)
class Blob:
    """Rows of one bucket as an Arrow stream, or the path of a file with one."""

    bucket: int
    late: bool
    data: bytes | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Reads a task's parts and splits their rows by bucket; gives an Arrow stream for each bucket now and then."""

    tasks: tuple[tuple[Part, ...], ...]
    plan: RowPlan
    buckets: int
    partitions: int
    scratch: str | None

    def __call__(self, tasks: Iterable[int]) -> Iterator[Item]:
        """Blobs, each addressed to its bucket's partition; or what went wrong."""
        for task in tasks:
            yield from self._task(task)

    def _task(self, task: int) -> Iterator[Item]:
        pending: dict[tuple[int, bool], list[pa.Table]] = {}
        held = flushes = 0
        for made in rows_of(read_parts(self.tasks[task], self.plan), self.plan):
            if made.problem >= 0:
                yield made.problem % self.partitions, Told(problem=made.problem)
                return
            self._split(made.rows, False, pending)
            if made.late is not None:
                self._split(made.late, True, pending)
            held += made.rows.num_rows
            if held >= _ROWS_BEFORE_FLUSH:
                yield from self._flushed(pending, f"{task}-{flushes}")
                held, flushes = 0, flushes + 1
        yield from self._flushed(pending, f"{task}-{flushes}")

    def _split(self, rows: pa.Table, late: bool, pending: dict[tuple[int, bool], list[pa.Table]]) -> None:
        if not rows.num_rows:
            return
        units = [name for name in rows.column_names if name.startswith("__u")]
        buckets = (row_hashes(rows, units, _BUCKET_SALT) >> np.uint64(40)) % np.uint64(self.buckets)
        codes = buckets.astype(np.uint16)
        order = np.argsort(codes, kind="stable")
        edges = np.searchsorted(codes[order], np.arange(self.buckets + 1))
        ordered = rows.take(int_column(order))
        for bucket in np.flatnonzero(np.diff(edges)).tolist():
            start, stop = int(edges[bucket]), int(edges[bucket + 1])
            pending.setdefault((bucket, late), []).append(ordered.slice(start, stop - start))

    def _flushed(self, pending: dict[tuple[int, bool], list[pa.Table]], name: str) -> Iterator[Item]:
        import pyarrow as pa

        for (bucket, late), tables in sorted(pending.items()):
            table = _encoded(pa.concat_tables(tables), texts_only=self.scratch is not None)
            data: bytes | str
            if self.scratch is None:
                data = packed(table)
            else:
                data = f"{self.scratch}/{name}-{bucket}-{int(late)}"
                # A task may run twice at a time: each writes its own file, and the same bytes get the name.
                own = f"{data}.{uuid4().hex}"
                Path(own).touch(mode=0o600, exist_ok=False)  # raw rows, whoever may read the folder
                with pa.OSFile(own, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
                    stream.write_table(table)
                Path(own).replace(data)
            yield bucket % self.partitions, Blob(bucket, late, data)
        pending.clear()


def _encoded(table: pa.Table, *, texts_only: bool) -> pa.Table:
    """Units and keys as dictionaries with short indices: less to send. Numbers that go to files stay as they are."""
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        if field.name.startswith("__v") or (texts_only and field.type != pa.string()):
            continue
        encoded: Any = table.column(index).combine_chunks().dictionary_encode()
        if len(encoded.dictionary) <= 2**15:
            encoded = pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.int16()), encoded.dictionary)
        table = table.set_column(index, field.name, encoded)
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Bounds the buckets of a partition, one after the other."""

    bounds: Bounds
    sent: Sent

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """Exact sums, and what there is to tell."""
        import pyarrow as pa

        rows: dict[int, list[pa.Table]] = {}
        late: dict[int, list[pa.Table]] = {}
        for _, item in items:
            if isinstance(item, Told):
                yield self.sent.told(problem=item.problem)
                return
            source = item.data if isinstance(item.data, bytes) else pa.memory_map(item.data)
            with pa.ipc.open_stream(source) as stream:
                (late if item.late else rows).setdefault(item.bucket, []).append(stream.read_all())
        for bucket in sorted(late):
            yield self.sent.told(late_units=_distinct_units(_together(late.pop(bucket))))
        yield from self.sent.sums(self._sums(rows))

    def _sums(self, rows: dict[int, list[pa.Table]]) -> Iterator[pa.RecordBatch]:
        for bucket in sorted(rows):
            yield from bounded_sums(_together(rows.pop(bucket)), self.bounds)


def _together(tables: list[pa.Table]) -> pa.Table:
    """Blobs of one bucket as one table: indices in one width, one dictionary for each column."""
    import pyarrow as pa

    wide = [
        (f.name, pa.dictionary(pa.int32(), f.type.value_type) if pa.types.is_dictionary(f.type) else f.type)
        for f in tables[0].schema
    ]
    schema = pa.schema(wide)
    return pa.concat_tables([table.cast(schema) for table in tables]).unify_dictionaries()


def _distinct_units(table: pa.Table) -> int:
    return int(table.group_by(table.column_names, use_threads=False).aggregate([]).num_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustered:
    """Reads whole buckets of a layout and bounds each."""

    tasks: tuple[tuple[Bucket, ...], ...]
    plan: RowPlan
    bounds: Bounds
    layout: Layout
    sent: Sent

    def __call__(self, tasks: Iterable[int]) -> Iterator[Item]:
        """Exact sums, and what there is to tell."""
        told: list[Item] = []
        for task in tasks:
            yield from self.sent.sums(self._sums(self.tasks[task], told))
        yield from told

    def _sums(self, buckets: tuple[Bucket, ...], told: list[Item]) -> Iterator[pa.RecordBatch]:
        for bucket in buckets:
            tables, late = [], []
            for made in rows_of(read_parts(bucket.parts, self.plan), self.plan):
                if made.problem >= 0:
                    told.append(self.sent.told(problem=made.problem))
                    return
                tables.append(made.rows)
                if made.late is not None:
                    late.append(made.late)
            rows, too_late = self._by_person(tables), self._by_person(late)
            # Whoever were in two buckets would be bounded twice, or counted twice among those who came too late.
            if not (self._belongs(rows, bucket) and self._belongs(too_late, bucket)):
                told.append(self.sent.told(misplaced=bucket.index))
                return
            if too_late is not None:
                told.append(self.sent.told(late_units=_distinct_units(too_late)))
            if rows is not None:
                yield from bounded_sums(rows, self.bounds)

    @property
    def _person(self) -> int:
        """Which of the units' columns is the person's."""
        return self.plan.units.index(self.layout.person)

    def _by_person(self, tables: list[pa.Table]) -> pa.Table | None:
        """Tables as one, its persons encoded; None of nothing."""
        import pyarrow as pa

        if not tables:
            return None
        table, place = pa.concat_tables(tables).combine_chunks(), self._person
        return table.set_column(place, f"__u{place}", encoded(table.column(place)))

    def _belongs(self, table: pa.Table | None, bucket: Bucket) -> bool:
        """Whether everybody belongs to a bucket. An exception of a task would reach the driver without its type."""
        try:
            if table is not None:
                self.layout.check_bucket(table.column(self._person), bucket.index)
        except LayoutCorrupt:
            return False
        return True
