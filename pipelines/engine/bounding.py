"""Contribution bounds: from events to at most L0 rows of each privacy unit, one a partition, in whole grid steps.

Sensitivity. Every step is a function of one unit's own rows and of two public salts: rows are cut within
(unit, partition), partitions within the unit. So taking one unit away takes away exactly its own bounded rows
and changes nobody else's, whatever the order of the data. What is left of a unit is at most L0 rows; each holds, for
every measurement, a sum of at most `max_rows_per_partition` integers that were clamped to the measurement's range
before (`Measure.linf`). This holds for any value of the salts: they need not be secret, and serve only to make the
sample random.

Sampling. A row's rank is the upper 33 bits of a salted 64-bit hash (xxHash64 over unit, partition, event time and
values), so which rows and partitions are kept is uniform over units' choices and does not depend on the order, on files
or on other users. Rows that are equal in all those columns share one rank: they are interchangeable, and are kept or
dropped together as far as the bound allows. Values decide between equal ranks, so ties cannot depend on the order.

How. Spark reads, joins and computes ranks and codes as columns; rows then go to Python in Arrow batches, are split by
a hash of their unit into buckets, exchanged as a few large blobs instead of as rows, and bounded bucket by bucket
(kernel.py). A unit's rows all carry the same bucket, so it meets itself in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.definitions import Interval, Signal
from pipelines.engine.inputs import SignalInputs, event_seconds
from pipelines.engine.kernel import CODE_BITS, Bounds
from pipelines.measurements import Measure, MeasureKind, Recipe

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

__all__ = ["Salts", "bound", "measured"]

_ROWS_PER_BUCKET = 1_000_000
_ROWS_BEFORE_FLUSH = 2_000_000
_MOST_BUCKETS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Salts:
    """Random 64-bit numbers of one run; public once used."""

    rows: int
    partitions: int


def bound(events: DataFrame, signal: Signal, recipe: Recipe, inputs: SignalInputs, salts: Salts) -> DataFrame:
    """Bounds every unit's contribution and sums what is left.

    Returns:
        `__k0..` (the entity's keys, in order), `__units`, `__rows` and `__v0..` (int64): exact sums over bounded
        contributions, one row for each key and bucket; a key may come from several buckets.
    """
    from pyspark.sql import functions as F

    units, unit_names = _unit_columns(signal, inputs)
    keys = [_key_column(events, name).alias(f"__k{i}") for i, name in enumerate(signal.entity.keys)]
    key_names = [f"__k{i}" for i in range(len(keys))]
    group = [*unit_names, *key_names]
    values = _values(recipe)
    bounds = Bounds(
        units=tuple(unit_names),
        keys=tuple(key_names),
        max_partitions=signal.bounds.max_partitions,
        max_rows=signal.bounds.max_rows_per_partition,
        value_bits=tuple(value.bits for value in values),
    )
    codes = [_code(value).alias(value.name) for value in values]
    time = [event_seconds(signal, inputs).alias("__t")] if values else []
    rows = events.select(*units, *keys, *time, *codes)
    row: list[str] = []
    if values:
        hashed = F.xxhash64(F.lit(salts.rows).cast("long"), *group, "__t", *bounds.values)
        rank = F.shiftleft(F.shiftright(hashed, CODE_BITS), CODE_BITS)
        rows = rows.withColumn("__row", _packed(rank, values) if bounds.packed else rank)
        row = ["__row"] if bounds.packed else ["__row", *bounds.values]

    buckets = _buckets(inputs)
    ranked = rows.select(
        *group,
        *row,
        F.xxhash64(F.lit(salts.partitions).cast("long"), *group).alias("__p"),
        F.pmod(F.xxhash64(*unit_names), F.lit(buckets)).cast("int").alias("__b"),
    )
    types = dict(ranked.dtypes)
    schema = ", ".join(
        [*(f"{name} {types[name]}" for name in key_names), *(f"{name} bigint" for name in bounds.totals)]
    )
    blobs = ranked.mapInArrow(_Split(buckets=buckets), "bucket int, data binary")
    return blobs.repartitionById(buckets, "bucket").mapInArrow(_Bound(bounds=bounds), schema)


def measured(measure: Measure, recipe: Recipe) -> Column:
    """A measurement's value from the sums that `bound` gives, summed over buckets."""
    from pyspark.sql import functions as F

    if measure.kind is MeasureKind.UNITS:
        return F.col("__units")
    if measure.kind is MeasureKind.ROWS:
        return F.col("__rows")
    value = next(v for v in _values(recipe) if (v.column, v.interval) == (measure.column, measure.interval))
    # Codes count from the lowest step; the measurement counts from its centre (0 for a plain sum).
    return F.col(value.name) + F.col("__rows") * F.lit(value.interval.grid[0] - measure.centre).cast("long")


def _buckets(inputs: SignalInputs) -> int:
    """How many buckets: enough for a bucket's rows to fit a worker's memory. It shows in no released byte."""
    return min(_MOST_BUCKETS, max(2, -(-inputs.events.rows // _ROWS_PER_BUCKET)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """Splits rows by bucket; gives one Arrow IPC stream for each bucket and each few million rows."""

    buckets: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        pending: list[list[pa.RecordBatch]] = [[] for _ in range(self.buckets)]
        held = 0
        for batch in batches:
            self._split(batch, pending)
            held += batch.num_rows
            if held >= _ROWS_BEFORE_FLUSH:
                yield from self._flushed(pending)
                held = 0
        yield from self._flushed(pending)

    def _split(self, batch: pa.RecordBatch, pending: list[list[pa.RecordBatch]]) -> None:
        import numpy as np
        import pyarrow as pa

        buckets = batch.column("__b").to_numpy().astype(np.uint16)
        order = np.argsort(buckets, kind="stable")
        edges = np.searchsorted(buckets[order], np.arange(self.buckets + 1))
        ordered = batch.select([name for name in batch.schema.names if name != "__b"]).take(pa.array(order, pa.int64()))
        for bucket in np.flatnonzero(np.diff(edges)).tolist():
            start, stop = int(edges[bucket]), int(edges[bucket + 1])
            pending[bucket].append(ordered.slice(start, stop - start))

    @staticmethod
    def _flushed(pending: list[list[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for bucket, parts in enumerate(pending):
            if not parts:
                continue
            sink = pa.BufferOutputStream()
            table = pa.Table.from_batches(parts).combine_chunks()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            data = pa.array([sink.getvalue().to_pybytes()], pa.binary())
            yield pa.RecordBatch.from_arrays([pa.array([bucket], pa.int32()), data], names=["bucket", "data"])
            parts.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """Bounds the buckets of a partition, one after the other."""

    bounds: Bounds

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        from pipelines.engine.kernel import bounded_sums

        tables: dict[int, list[pa.Table]] = {}
        for batch in batches:
            buckets: list[int] = batch.column(0).to_numpy().tolist()
            for bucket, data in zip(buckets, batch.column(1), strict=True):
                with pa.ipc.open_stream(data.as_buffer()) as stream:
                    tables.setdefault(bucket, []).append(stream.read_all())
        while tables:
            _, parts = tables.popitem()
            yield from bounded_sums(pa.concat_tables(parts), self.bounds).to_batches()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Value:
    """A value column on its grid, shared by every measurement that reads it with the same interval.

    Its code is the number of steps above the lowest one: an integer of `bits` bits.
    """

    name: str
    column: str
    interval: Interval

    @property
    def bits(self) -> int:
        lowest, highest = self.interval.grid
        return max(1, (highest - lowest).bit_length())


def _values(recipe: Recipe) -> list[_Value]:
    read = dict.fromkeys((m.column, m.interval) for m in recipe.measures if m.column and m.interval)
    return [_Value(name=f"__v{i}", column=column, interval=interval) for i, (column, interval) in enumerate(read)]


def _packed(rank: Column, values: list[_Value]) -> Column:
    """`rank` in the upper 33 bits, the values' codes below it, the first one highest: one integer that sorts alike."""
    from pyspark.sql import functions as F

    packed, offset = rank, CODE_BITS
    for value in values:
        offset -= value.bits
        packed = packed.bitwiseOR(F.shiftleft(value.name, offset))
    return packed


def _unit_columns(signal: Signal, inputs: SignalInputs) -> tuple[list[Column], list[str]]:
    from pyspark.sql import functions as F

    columns = [F.col(column).alias(f"__u{i}") for i, column in enumerate(signal.privacy_unit.columns)]
    if signal.privacy_unit.per is not None:
        seconds, length = event_seconds(signal, inputs), int(signal.privacy_unit.per.total_seconds())
        start = seconds - F.pmod(seconds, F.lit(length))
        columns.append(start.alias(f"__u{len(columns)}"))
    return columns, [f"__u{i}" for i in range(len(columns))]


def _key_column(events: DataFrame, name: str) -> Column:
    """A key in one of the three released types: int64, string or date."""
    from pyspark.sql import functions as F

    kind = dict(events.dtypes)[name]
    return F.col(name).cast("long") if kind in ("tinyint", "smallint", "int", "bigint") else F.col(name)


def _code(value: _Value) -> Column:
    """Clamp, round half up to the grid, clamp to whole steps: the number of steps above the lowest one."""
    from pyspark.sql import functions as F

    interval = value.interval
    lowest, highest = interval.grid
    number = F.col(value.column).cast("double")
    # NaN has been refused by then; here it would count as the lower bound, so that no value escapes the clamp.
    finite = F.nanvl(number, F.lit(interval.lower))
    clamped = F.greatest(F.least(finite, F.lit(interval.upper)), F.lit(interval.lower))
    steps = F.floor(clamped / F.lit(interval.grid_step) + F.lit(0.5)).cast("long")
    return F.greatest(F.least(steps, F.lit(highest).cast("long")), F.lit(lowest).cast("long")) - F.lit(lowest).cast(
        "long"
    )
