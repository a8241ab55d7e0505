"""Integer sums for each partition, with public partitions filled in.

Sums are of 64-bit integers and exact: a unit adds at most `linf <= 2^31` steps to a partition (checked by
`calibrate`), so no sum of fewer than 2^32 units can overflow, and Spark's ANSI mode makes an overflow an error rather
than a wrapped number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from governance.errors import DefinitionError
from pipelines.definitions import PublicPartitions, Signal
from pipelines.engine.bounding import measured
from pipelines.engine.inputs import SignalInputs, public_values
from pipelines.measurements import Recipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["sum_partitions"]


def sum_partitions(
    bounded: DataFrame, signal: Signal, recipe: Recipe, inputs: SignalInputs, spark: SparkSession
) -> DataFrame:
    """Sums what `bounding.bound` gives over buckets, for each partition.

    With public partitions every public key gets a row, zeros where nobody is; other keys are dropped. With private
    selection a row appears for each key that anybody has: it must go through selection before it may be seen.

    Returns:
        `__k0..` and `__m0..` (int64), one row for each partition.
    """
    from pyspark.sql import functions as F

    keys = [f"__k{i}" for i in range(len(signal.entity.keys))]
    totals = [name for name in bounded.columns if name not in keys]
    measures = [measured(measure, recipe).alias(f"__m{i}") for i, measure in enumerate(recipe.measures)]
    sums = bounded.groupBy(*keys).agg(*(F.sum(name).alias(name) for name in totals)).select(*keys, *measures)
    if not isinstance(signal.partitions, PublicPartitions):
        return sums
    public = _public_keys(signal, signal.partitions, inputs, dict(sums.dtypes), spark)
    filled = public.join(sums, keys, "left")
    names = [f"__m{i}" for i in range(len(recipe.measures))]
    return filled.select(*keys, *(F.coalesce(F.col(name), F.lit(0).cast("long")).alias(name) for name in names))


def _public_keys(
    signal: Signal, partitions: PublicPartitions, inputs: SignalInputs, types: dict[str, str], spark: SparkSession
) -> DataFrame:
    from pyspark.sql import functions as F

    product: DataFrame | None = None
    for i, key in enumerate(signal.entity.keys):
        name = f"__k{i}"
        values = public_values(partitions, inputs, key, types[name], spark).withColumnRenamed(key, name)
        product = values if product is None else product.crossJoin(F.broadcast(values))
    if product is None:
        raise DefinitionError(signal.identity, "partitions: no key")
    return product
