"""Contribution bounds: from events to at most L0 rows of each privacy unit, one a partition, in whole grid steps.

Sensitivity. Every step is a function of one unit's own rows and of two public salts: rows are cut by a window over
(unit, partition), partitions by a window over the unit. So taking one unit away takes away exactly its own bounded rows
and changes nobody else's, whatever the order of the data. What is left of a unit is at most L0 rows; each holds, for
every measurement, a sum of at most `max_rows_per_partition` integers that were clamped to the measurement's range
before (`Measure.linf`). This holds for any value of the salts: they need not be secret, and serve only to make the
sample random.

Sampling. A row's rank is the upper 33 bits of a salted 64-bit hash (xxHash64 over unit, partition, event time and
values), so which rows and partitions are kept is uniform over units' choices and does not depend on the order, on files
or on other users. Rows that are equal in all those columns share one rank: they are interchangeable, and are kept or
dropped together as far as the bound allows. Values decide between equal ranks, so ties cannot depend on the order.

One exchange by unit serves every step: the later groupings and windows contain the unit's columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.definitions import Interval, Signal
from pipelines.engine.inputs import SignalInputs, event_seconds
from pipelines.measurements import Measure, MeasureKind, Recipe

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["Salts", "bound"]


_CODE_BITS = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Salts:
    """Random 64-bit numbers of one run; public once used."""

    rows: int
    partitions: int


def bound(events: DataFrame, signal: Signal, recipe: Recipe, inputs: SignalInputs, salts: Salts) -> DataFrame:
    """Bounds every unit's contribution.

    Returns:
        One row for each (unit, partition) that is kept: `__k0..` (the entity's keys, in order) and `__m0..` (int64,
        in the recipe's order of measurements).
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    units, unit_names = _unit_columns(signal, inputs)
    keys = [_key_column(events, name).alias(f"__k{i}") for i, name in enumerate(signal.entity.keys)]
    key_names = [f"__k{i}" for i in range(len(keys))]
    group = [*unit_names, *key_names]
    values = _values(recipe)
    limit = signal.bounds.max_rows_per_partition
    if not values:
        # Without values the rows of a unit in a partition are alike: their number is all there is.
        rows = events.select(*units, *keys).repartition(*unit_names)
        counted = F.least(F.count(F.lit(1)), F.lit(limit)).alias("__rows")
        contributions = rows.groupBy(*group).agg(counted)
    else:
        time = event_seconds(signal, inputs).alias("__t")
        codes = [_code(value).alias(value.name) for value in values]
        rank = F.shiftright(F.xxhash64(F.lit(salts.rows), *group, "__t", *(value.name for value in values)), _CODE_BITS)
        ranked = events.select(*units, *keys, time, *codes).withColumn("__rank", rank)
        packed = sum(value.bits for value in values) <= _CODE_BITS
        if packed:
            # Rank and values in one integer that sorts alike: less to exchange, and a minimum that needs no sort.
            ranked = ranked.withColumn("__row", _packed(values))
        row = ["__row"] if packed else ["__rank", *(value.name for value in values)]
        rows = ranked.select(*group, *row).repartition(*unit_names)
        if limit == 1:
            first = F.min("__row").alias("__row") if packed else F.min(F.struct(*row)).alias("__row")
            kept = rows.groupBy(*group).agg(first)
            unpacked = _unpacked(values) if packed else [F.col(f"__row.{value.name}") for value in values]
            columns = [column.alias(value.name) for column, value in zip(unpacked, values, strict=True)]
            contributions = kept.select(*group, F.lit(1).cast("long").alias("__rows"), *columns)
        else:
            order = Window.partitionBy(*group).orderBy(*row)
            kept = rows.withColumn("__n", F.row_number().over(order)).where(F.col("__n") <= limit)
            unpacked = _unpacked(values) if packed else [F.col(value.name) for value in values]
            sums = [F.sum(column).alias(value.name) for column, value in zip(unpacked, values, strict=True)]
            contributions = kept.groupBy(*group).agg(F.count(F.lit(1)).alias("__rows"), *sums)

    partition_rank = F.xxhash64(F.lit(salts.partitions), *group)
    order = Window.partitionBy(*unit_names).orderBy(partition_rank, *key_names)
    kept = contributions.withColumn("__n", F.row_number().over(order)).where(
        F.col("__n") <= signal.bounds.max_partitions
    )
    measured = [_measured(measure, values).alias(f"__m{i}") for i, measure in enumerate(recipe.measures)]
    return kept.select(*key_names, *measured)


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


def _packed(values: list[_Value]) -> Column:
    """`rank` in the upper 33 bits, the values' codes below it, the first one highest."""
    from pyspark.sql import functions as F

    packed, offset = F.shiftleft("__rank", _CODE_BITS), _CODE_BITS
    for value in values:
        offset -= value.bits
        packed = packed.bitwiseOR(F.shiftleft(value.name, offset))
    return packed


def _unpacked(values: list[_Value]) -> list[Column]:
    from pyspark.sql import functions as F

    columns, offset = [], _CODE_BITS
    for value in values:
        offset -= value.bits
        columns.append(F.shiftright("__row", offset).bitwiseAND(F.lit((1 << value.bits) - 1).cast("long")))
    return columns


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


def _measured(measure: Measure, values: list[_Value]) -> Column:
    from pyspark.sql import functions as F

    if measure.kind is MeasureKind.UNITS:
        return F.lit(1).cast("long")
    if measure.kind is MeasureKind.ROWS:
        return F.col("__rows").cast("long")
    value = next(value for value in values if (value.column, value.interval) == (measure.column, measure.interval))
    # Codes count from the lowest step; the measurement counts from its centre (0 for a plain sum).
    return F.col(value.name) + F.col("__rows") * F.lit(value.interval.grid[0] - measure.centre).cast("long")
