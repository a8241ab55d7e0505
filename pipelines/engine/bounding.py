"""Contribution bounds on Spark: from files of events to exact sums over bounded contributions, for each partition.

Sensitivity. Every step is a function of one unit's own rows, of public facts and of two salts: rows are made one by one
(rows.py), cut within (unit, partition), partitions within the unit (kernel.py). So taking one unit away takes away
exactly its own bounded rows and changes nobody else's, whatever the order of the data. This holds for any value of the
salts: they need not be secret, and serve only to make the sample random. It needs all rows of a unit in one place.

Two ways bring them there.

    unsorted    tasks read row groups, split rows by a hash of their unit into buckets and send each bucket as a few
                large Arrow blobs; after one exchange each bucket is bounded by itself
    clustered   `hedgerow ingest` has laid events out in buckets by person: each task reads whole buckets, checks that
                every person is in the bucket where they belong, and bounds them; nothing is exchanged

What comes out is small (one row for each key and task) and exact. It stays in Spark's memory and scratch space; the
driver learns whether there was a problem, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pipelines.calibration import Calibration
from pipelines.definitions import AdaptiveWeights, ClipNorm, PrivateSelection, Signal, UnitKind, WeightedUnits
from pipelines.engine.first_round import Found
from pipelines.engine.hashing import row_hashes
from pipelines.engine.inputs import SignalInputs, row_plan
from pipelines.engine.kernel import Bounds, Salts, Sum, bounded_sums
from pipelines.engine.layout import Layout
from pipelines.engine.rows import RowPlan, rows_of
from pipelines.engine.scan import Bucket, Part, buckets_of, parts_of, read_parts, tasks_of
from pipelines.engine.sums import int_column, merged_sums
from pipelines.recipes import Recipe
from pipelines.windows import Span

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["bound", "bounds_of", "raise_problem"]

_ROWS_PER_BUCKET = 1_000_000
_ROWS_BEFORE_FLUSH = 2_000_000
_ROWS_PER_PARTITION = 8_000_000
_MOST_BUCKETS = 4096
_BUCKET_SALT = 0x6865646765726F77
_ROWS_BEFORE_MERGE = 500_000

LATE, PROBLEM = "__late", "__problem"


def bounds_of(
    signal: Signal,
    recipe: Recipe,
    calibration: Calibration,
    salts: Salts,
    *,
    first: bool = False,
    found: Found | None = None,
) -> Bounds:
    """What the kernel needs to know.

    Args:
        signal: the definition.
        recipe: its measurements.
        calibration: their scales.
        salts: of the run.
        first: whether this is the first of two rounds of selection, which sums weights alone.
        found: the keys of the first round, in the second.
    """
    mechanisms = calibration.summed
    if first and recipe.first is not None:
        mechanisms = (calibration.mechanism(recipe.first),)
    by = signal.partitions.by if isinstance(signal.partitions, PrivateSelection) else None
    positions = {code: index for index, code in enumerate(recipe.codes)}
    return Bounds(
        units=len(signal.privacy_unit.columns) + (signal.privacy_unit.per is not None),
        keys=len(signal.entity.keys),
        bits=tuple(code.bits for code in recipe.codes),
        sums=tuple(
            Sum.of(mechanism.measure, -1 if mechanism.measure.code is None else positions[mechanism.measure.code])
            for mechanism in mechanisms
        ),
        max_partitions=signal.bounds.max_partitions,
        max_rows=None if isinstance(signal.bounds, ClipNorm) else signal.bounds.max_rows_per_partition,
        max_weighted=by.max_keys if isinstance(by, WeightedUnits | AdaptiveWeights) else 0,
        norm=signal.bounds.l2 if isinstance(signal.bounds, ClipNorm) else 0.0,
        salts=salts,
        found=found,
    )


def bound(
    signal: Signal,
    recipe: Recipe,
    calibration: Calibration,
    inputs: SignalInputs,
    span: Span,
    salts: Salts,
    spark: SparkSession,
    scratch: Path | None = None,
    *,
    first: bool = False,
    found: Found | None = None,
) -> DataFrame:
    """Bounds every unit's contribution and sums what is left.

    Args:
        signal: the definition.
        recipe: its measurements.
        calibration: their noise, of which only the scales of `ClipNorm` are used.
        inputs: the tables.
        span: the window.
        salts: of the run.
        spark: the session.
        scratch: a folder that all workers share and the caller removes when the result is no longer needed: blobs then
            pass through files in it instead of Spark's own exchange, which copies them four times. None: the exchange.
        first: whether this is the first of two rounds of selection.
        found: the keys of the first round, in the second.

    Returns:
        Lazily, `__k0 ..` (the entity's keys, in order), `__m0 ..` (int64, or lists of int64), for each key one row from
        each task that met it; and rows with no key that carry `__late` (units with rows that came too late) or
        `__problem` (position in `row_plan(...).problems`, from 0).
    """
    plan = row_plan(signal, recipe, inputs, span)
    bounds = bounds_of(signal, recipe, calibration, salts, first=first, found=found)
    parallelism = spark.sparkContext.defaultParallelism
    layout = inputs.events.layout
    shape = _Shape(kinds=_kinds(signal, inputs), wide=tuple(one.wide for one in bounds.sums))
    if layout is not None and _fits(layout, signal):
        tasks = buckets_of(inputs.events, layout, plan, parallelism)
        stage = _Clustered(tasks=tasks, plan=plan, bounds=bounds, shape=shape, layout=layout)
        return spark.range(0, len(tasks), 1, max(1, len(tasks))).mapInArrow(stage, shape.spark)
    parts = parts_of(inputs.events.files, plan)
    reading = tasks_of(parts, 2 * parallelism)
    rows = sum(part.rows for part in parts)
    buckets = min(_MOST_BUCKETS, max(2, -(-rows // _ROWS_PER_BUCKET)))
    partitions = min(buckets, max(2 * parallelism, -(-rows // _ROWS_PER_PARTITION)))
    folder = None if scratch is None else str(scratch)
    split = _Split(tasks=reading, plan=plan, buckets=buckets, partitions=partitions, scratch=folder)
    blobs = spark.range(0, len(reading), 1, max(1, len(reading))).mapInArrow(
        split, "part int, bucket int, kind int, data binary"
    )
    return blobs.repartitionById(partitions, "part").mapInArrow(_Bound(bounds=bounds, shape=shape), shape.spark)


def raise_problem(sums: DataFrame, signal: Signal, recipe: Recipe, inputs: SignalInputs, span: Span) -> int:
    """Computes what `bound` gives, which should be cached, and refuses if there was a problem.

    Returns:
        How many units had rows that came too late: exact, so noise has to be added before anybody sees it.

    Raises:
        InputError: null, not finite, or of a wrong length; nothing was drawn.
    """
    from pyspark.sql import functions as F

    told = sums.where(F.col("__k0").isNull()).select(PROBLEM, LATE).collect()  # at most a few rows from each task
    found = [row[PROBLEM] for row in told if row[PROBLEM] is not None]
    if found:
        raise row_plan(signal, recipe, inputs, span).problems[min(found)].error()
    return sum(row[LATE] or 0 for row in told)


def _fits(layout: Layout, signal: Signal) -> bool:
    """Whether a layout by person keeps this signal's units whole: a person, or a person's day."""
    unit = signal.privacy_unit
    return unit.kind is UnitKind.PERSON and layout.person == signal.source.person and layout.person in unit.columns


def _kinds(signal: Signal, inputs: SignalInputs) -> tuple[str, ...]:
    """Spark types of the keys."""
    kinds = {"integer": "bigint", "text": "string", "date": "date"}
    return tuple(kinds[inputs.key_kinds[key]] for key in signal.entity.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """What a task gives: sums for keys, or a row without a key that tells of late units or a problem."""

    kinds: tuple[str, ...]
    wide: tuple[bool, ...]

    @property
    def spark(self) -> str:
        """As Spark's schema text."""
        keys = [f"__k{i} {kind}" for i, kind in enumerate(self.kinds)]
        sums = [f"__m{i} {'array<bigint>' if wide else 'bigint'}" for i, wide in enumerate(self.wide)]
        return ", ".join([*keys, *sums, f"{LATE} bigint", f"{PROBLEM} int"])

    def batch(self, columns: Mapping[str, Any], n: int) -> pa.RecordBatch:
        """A batch of n rows; columns that are not given are null."""
        import pyarrow as pa

        types: dict[str, Any] = {
            f"__k{i}": {"bigint": pa.int64(), "string": pa.string(), "date": pa.date32()}[kind]
            for i, kind in enumerate(self.kinds)
        }
        types |= {f"__m{i}": pa.list_(pa.int64()) if wide else pa.int64() for i, wide in enumerate(self.wide)}
        types |= {LATE: pa.int64(), PROBLEM: pa.int32()}
        arrays = [columns[name] if name in columns else pa.nulls(n, kind) for name, kind in types.items()]
        return pa.RecordBatch.from_arrays(arrays, names=list(types))

    def keyless(self, name: str, value: int) -> pa.RecordBatch:
        """A row that tells one number."""
        import pyarrow as pa

        return self.batch({name: pa.array([value], pa.int32() if name == PROBLEM else pa.int64())}, 1)

    def merged(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The sums of one task, keys of several buckets merged as far as memory is worth it."""
        held: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            held.append(batch)
            rows += batch.num_rows * (50 if any(self.wide) else 1)
            if rows >= _ROWS_BEFORE_MERGE:
                yield from self._flushed(held)
                held, rows = [], 0
        yield from self._flushed(held)

    def _flushed(self, held: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        if not held:
            return
        table = pa.Table.from_batches(held)
        merged = table if len(held) == 1 else merged_sums(table, tuple(f"__k{i}" for i in range(len(self.kinds))))
        for batch in merged.combine_chunks().to_batches():
            yield self.batch({name: batch.column(name) for name in batch.schema.names}, batch.num_rows)


_ROWS, _LATE_UNITS, _PROBLEM = range(3)
_IN_FILE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """Reads a task's parts and splits their rows by bucket; gives an Arrow stream for each bucket now and then."""

    tasks: tuple[tuple[Part, ...], ...]
    plan: RowPlan
    buckets: int
    partitions: int
    scratch: str | None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column(0).to_numpy().tolist():
                yield from self._task(task)

    def _task(self, task: int) -> Iterator[pa.RecordBatch]:
        pending: dict[tuple[int, int], list[pa.Table]] = {}
        held = flushes = 0
        for made in rows_of(read_parts(self.tasks[task], self.plan), self.plan):
            if made.problem >= 0:
                yield _blob(made.problem % self.partitions, made.problem, _PROBLEM, b"")
                return
            self._split(made.rows, _ROWS, pending)
            if made.late is not None:
                self._split(made.late, _LATE_UNITS, pending)
            held += made.rows.num_rows
            if held >= _ROWS_BEFORE_FLUSH:
                yield from self._flushed(pending, f"{task}-{flushes}")
                held, flushes = 0, flushes + 1
        yield from self._flushed(pending, f"{task}-{flushes}")

    def _split(self, rows: pa.Table, kind: int, pending: dict[tuple[int, int], list[pa.Table]]) -> None:
        import numpy as np

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
            pending.setdefault((bucket, kind), []).append(ordered.slice(start, stop - start))

    def _flushed(self, pending: dict[tuple[int, int], list[pa.Table]], name: str) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for (bucket, kind), tables in sorted(pending.items()):
            table = _encoded(pa.concat_tables(tables), texts_only=self.scratch is not None)
            if self.scratch is None:
                sink = pa.BufferOutputStream()
                with pa.ipc.new_stream(sink, table.schema) as stream:
                    stream.write_table(table)
                yield _blob(bucket % self.partitions, bucket, kind, sink.getvalue())
                continue
            path = f"{self.scratch}/{name}-{bucket}-{kind}"
            # A task may run twice at a time: each writes its own file, and the same bytes get the name.
            own = f"{path}.{uuid4().hex}"
            with pa.OSFile(own, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
            Path(own).replace(path)
            yield _blob(bucket % self.partitions, bucket, kind + _IN_FILE, path.encode())
        pending.clear()


def _blob(part: int, bucket: int, kind: int, data: pa.Buffer | bytes) -> pa.RecordBatch:
    import pyarrow as pa

    size = len(data)
    offsets = pa.array([0, size], pa.int32()).buffers()[1]
    buffer = pa.py_buffer(data)
    binary = pa.Array.from_buffers(pa.binary(), 1, [None, offsets, buffer])
    numbers = [pa.array([number], pa.int32()) for number in (part, bucket, kind)]
    return pa.RecordBatch.from_arrays([*numbers, binary], names=["part", "bucket", "kind", "data"])


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
class _Bound:
    """Bounds the buckets of a partition, one after the other."""

    bounds: Bounds
    shape: _Shape

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        rows: dict[int, list[pa.Table]] = {}
        late: dict[int, list[pa.Table]] = {}
        for batch in batches:
            data = batch.column("data")
            numbers = [batch.column(name).to_pylist() for name in ("bucket", "kind")]
            for i, (bucket, kind) in enumerate(zip(*numbers, strict=True)):
                if kind == _PROBLEM:
                    yield self.shape.keyless(PROBLEM, bucket)
                    return
                blob = data[i].as_buffer()
                source = pa.memory_map(blob.to_pybytes().decode()) if kind >= _IN_FILE else blob
                with pa.ipc.open_stream(source) as stream:
                    (rows if kind % _IN_FILE == _ROWS else late).setdefault(bucket, []).append(stream.read_all())
        for bucket in sorted(late):
            yield self.shape.keyless(LATE, _distinct_units(_together(late.pop(bucket))))
        yield from self.shape.merged(self._sums(rows))

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
class _Clustered:
    """Reads whole buckets of a layout and bounds each."""

    tasks: tuple[tuple[Bucket, ...], ...]
    plan: RowPlan
    bounds: Bounds
    shape: _Shape
    layout: Layout

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        keyless: list[pa.RecordBatch] = []
        for batch in batches:
            for task in batch.column(0).to_numpy().tolist():
                yield from self.shape.merged(self._sums(self.tasks[task], keyless))
        yield from keyless

    def _sums(self, buckets: tuple[Bucket, ...], keyless: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for bucket in buckets:
            tables, late = [], []
            for made in rows_of(read_parts(bucket.parts, self.plan), self.plan):
                if made.problem >= 0:
                    keyless.append(self.shape.keyless(PROBLEM, made.problem))
                    return
                tables.append(made.rows)
                if made.late is not None:
                    late.append(made.late)
            if late:
                keyless.append(self.shape.keyless(LATE, _distinct_units(pa.concat_tables(late))))
            if tables:
                rows = pa.concat_tables(tables).combine_chunks()
                self.layout.check_bucket(rows.column(f"__u{self.plan.units.index(self.layout.person)}"), bucket.index)
                yield from bounded_sums(rows, self.bounds)
