"""Contribution bounds: from events to at most L0 rows of each privacy unit, one a partition, in whole grid steps.

Sensitivity. Every step is a function of one unit's own rows and of two public salts: rows are cut by a window over
(unit, partition), partitions by a window over the unit. So taking one unit away takes away exactly its own bounded rows
and changes nobody else's, whatever the order of the data. What is left of a unit is at most L0 rows; each holds, for
every measurement, a sum of at most `max_rows_per_partition` integers that were clamped to the measurement's range
before (`Measure.linf`). This holds for any value of the salts: they need not be secret, and serve only to make the
sample random.

Sampling. A row's rank is its salted 64-bit hash (xxHash64 over unit, partition, event time and values), so which rows
and partitions are kept is uniform over units' choices and does not depend on the order, on files or on other users.
Rows that are equal in all those columns share one hash: they are interchangeable, and are kept or dropped together as
far as the bound allows.

One exchange by unit serves every step: the later groupings and windows contain the unit's columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.definitions import Signal
from pipelines.engine.inputs import SignalInputs, event_seconds
from pipelines.measurements import Measure, MeasureKind, Recipe

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

__all__ = ["Salts", "bound"]


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
    valued = [measure for measure in recipe.measures if measure.column is not None]
    value_names = [f"__v{i}" for i in range(len(valued))]
    values = [_grid_value(measure).alias(name) for measure, name in zip(valued, value_names, strict=True)]
    time = [event_seconds(signal, inputs).alias("__t")] if valued else []
    rows = events.select(*units, *keys, *values, *time).repartition(*unit_names)

    limit = signal.bounds.max_rows_per_partition
    group = [*unit_names, *key_names]
    if not valued:
        # Without values the rows of a unit in a partition are alike: their number is all there is.
        contributions = rows.groupBy(*group).agg(F.least(F.count(F.lit(1)), F.lit(limit)).alias("__rows"))
    else:
        rank = F.xxhash64(F.lit(salts.rows), *group, "__t", *value_names)
        if limit == 1:
            # The row of the smallest hash; equal hashes fall back on the values, so ties cannot depend on order.
            first = F.min(F.struct(rank.alias("rank"), *value_names))
            contributions = (
                rows.groupBy(*group)
                .agg(first.alias("__first"))
                .select(
                    *group,
                    F.lit(1).cast("long").alias("__rows"),
                    *(F.col(f"__first.{n}").alias(n) for n in value_names),
                )
            )
        else:
            order = Window.partitionBy(*group).orderBy(rank, *value_names)
            kept = rows.withColumn("__rank", F.row_number().over(order)).where(F.col("__rank") <= limit)
            contributions = kept.groupBy(*group).agg(
                F.count(F.lit(1)).alias("__rows"), *(F.sum(name).alias(name) for name in value_names)
            )

    partition_rank = F.xxhash64(F.lit(salts.partitions), *group)
    order = Window.partitionBy(*unit_names).orderBy(partition_rank, *key_names)
    kept = contributions.withColumn("__rank", F.row_number().over(order)).where(
        F.col("__rank") <= signal.bounds.max_partitions
    )
    measured = [_measured(measure, valued, value_names).alias(f"__m{i}") for i, measure in enumerate(recipe.measures)]
    return kept.select(*key_names, *measured)


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


def _grid_value(measure: Measure) -> Column:
    """Clamp, round half up to the grid, clamp to whole steps, and centre: an integer within `Measure`'s range."""
    from pyspark.sql import functions as F

    if measure.interval is None or measure.column is None:
        raise ValueError(f"{measure.name} reads no value")
    lowest, highest = measure.interval.grid
    value = F.col(measure.column).cast("double")
    # NaN has been refused by then; here it would count as the lower bound, so that no value escapes the clamp.
    clamped = F.greatest(
        F.least(F.nanvl(value, F.lit(measure.interval.lower)), F.lit(measure.interval.upper)),
        F.lit(measure.interval.lower),
    )
    steps = F.floor(clamped / F.lit(measure.grid_step) + F.lit(0.5)).cast("long")
    whole = F.greatest(F.least(steps, F.lit(highest).cast("long")), F.lit(lowest).cast("long"))
    return whole - F.lit(measure.centre).cast("long")


def _measured(measure: Measure, valued: list[Measure], value_names: list[str]) -> Column:
    from pyspark.sql import functions as F

    if measure.kind is MeasureKind.UNITS:
        return F.lit(1).cast("long")
    if measure.kind is MeasureKind.ROWS:
        return F.col("__rows").cast("long")
    return F.col(value_names[valued.index(measure)]).cast("long")
