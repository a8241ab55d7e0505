"""Integer sums for each partition, with public partitions filled in.

Sums are of 64-bit integers and exact: a unit adds at most `linf <= 2^31` steps to a partition (checked), so no sum of
fewer than 2^32 units can overflow, and Spark's ANSI mode makes an overflow an error rather than a wrapped number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from governance.errors import DefinitionError
from pipelines.definitions import PublicColumn, PublicPartitions, Signal
from pipelines.engine.inputs import SignalInputs
from pipelines.measurements import Recipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["check_no_overflow", "sum_partitions"]


def check_no_overflow(signal: Signal, recipe: Recipe) -> None:
    """Refuses bounds under which a 64-bit sum over 2^32 units could overflow.

    Raises:
        DefinitionError: the interval has too many steps for so many rows.
    """
    for measure in recipe.measures:
        if measure.linf > 2**31:
            raise DefinitionError(
                signal.identity,
                f"{measure.name}: one unit could add {measure.linf:,} grid steps to a partition, allowed: at most "
                "2^31; "
                "lower max_rows_per_partition or give the interval a coarser step",
            )


def sum_partitions(
    bounded: DataFrame, signal: Signal, recipe: Recipe, inputs: SignalInputs, spark: SparkSession
) -> DataFrame:
    """Sums the bounded contributions of each partition.

    With public partitions every public key gets a row, zeros where nobody is; other keys are dropped. With private
    selection a row appears for each key that anybody has: it must go through selection before it may be seen.

    Returns:
        `__k0..` and `__m0..` (int64), one row for each partition.
    """
    from pyspark.sql import functions as F

    keys = [f"__k{i}" for i in range(len(signal.entity.keys))]
    measures = [f"__m{i}" for i in range(len(recipe.measures))]
    sums = bounded.groupBy(*keys).agg(*(F.sum(name).alias(name) for name in measures))
    if not isinstance(signal.partitions, PublicPartitions):
        return sums
    public = _public_keys(signal, signal.partitions, inputs, dict(sums.dtypes), spark)
    filled = public.join(sums, keys, "left")
    return filled.select(*keys, *(F.coalesce(F.col(name), F.lit(0).cast("long")).alias(name) for name in measures))


def _public_keys(
    signal: Signal, partitions: PublicPartitions, inputs: SignalInputs, types: dict[str, str], spark: SparkSession
) -> DataFrame:
    from pyspark.sql import functions as F

    product: DataFrame | None = None
    for i, key in enumerate(signal.entity.keys):
        domain, name = partitions.domains[key], f"__k{i}"
        if isinstance(domain, PublicColumn):
            files = (str(file) for file in inputs.domains[key].files)
            column = F.col(domain.column).cast(types[name])
            values = spark.read.parquet(*files).select(column.alias(name)).where(F.col(name).isNotNull()).distinct()
        else:
            if any(_spark_type(value) != types[name] for value in domain):
                raise DefinitionError(
                    signal.identity,
                    f"partitions: the domain of {key!r} is of {_spark_type(domain[0])}s, but the data has "
                    f"{types[name]}s",
                )
            values = spark.createDataFrame([(value,) for value in domain], f"{name} {types[name]}")
        product = values if product is None else product.crossJoin(F.broadcast(values))
    if product is None:
        raise DefinitionError(signal.identity, "partitions: no key")
    return product


def _spark_type(value: object) -> str:
    return {"int": "bigint", "str": "string", "date": "date"}[type(value).__name__]
