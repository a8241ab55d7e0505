"""Arrow tables on their way through Spark: tasks that are numbered, and exchanges of packed tables.

Tasks are RDDs rather than DataFrames. What passes between stages is a few dozen Arrow streams, so there is nothing for
a query planner to plan, for generated code to speed up or for a row format to hold, and all three cost seconds in a
JVM that has just started. Spark still places tasks, runs them again when they fail, and keeps what they exchanged.

    task      gives items, each addressed to a partition of the next exchange
    partition   gets all items addressed to it, from all tasks, in no particular order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.engine.hashing import row_hashes
from pipelines.engine.sums import int_column

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import RDD, SparkContext

__all__ = ["Item", "exchanged", "forget", "numbered", "packed", "partitions_of", "place_of", "split", "unpacked"]

Item = tuple[int, Any]
"""(partition of the next exchange, what is sent there)"""

_KEY_SALT = 0x6B65797370726561


def numbered(spark: SparkContext, count: int, work: Callable[[Iterable[int]], Iterable[Item]]) -> RDD[Item]:
    """Tasks 0, 1, ..., count - 1, which `work` is called with."""
    numbers: RDD[int] = spark.parallelize(range(count), max(1, count))
    return numbers.mapPartitions(work)


def exchanged(items: RDD[Item], partitions: int) -> RDD[Item]:
    """All items of a partition in one place. What was exchanged is kept until `forget`: later jobs start from it."""
    return items.partitionBy(partitions, place_of)


def place_of(partition: int) -> int:
    """Items are addressed by the partition's number."""
    return partition


def forget(items: RDD[Item]) -> None:
    """Removes what was exchanged on the way to these items; Spark's own cleaner does so only when memory runs short."""
    # PySpark has no name for this method of Spark's RDD.
    items._jrdd.rdd().cleanShuffleDependencies(False)  # noqa: SLF001


# --- tables -----------------------------------------------------------------------------------------------------------


def packed(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def unpacked(streams: Sequence[bytes]) -> pa.Table | None:
    """What `packed` made of tables of one schema, as one; None of nothing."""
    import pyarrow as pa

    tables = []
    for data in streams:
        with pa.ipc.open_stream(data) as stream:
            tables.append(stream.read_all())
    return pa.concat_tables(tables) if tables else None


def partitions_of(table: pa.Table, columns: Sequence[str], partitions: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A partition for each row by the contents of some columns, shape `(n,)`; it depends on nothing else."""
    hashes = row_hashes(table, columns, _KEY_SALT) >> np.uint64(33)
    return (hashes % np.uint64(partitions)).astype(np.int64)


def split(table: pa.Table, columns: Sequence[str], partitions: int) -> Iterator[tuple[int, pa.Table]]:
    """A table's rows by partition, in order; partitions without rows are left out."""
    if not table.num_rows:
        return
    if partitions == 1:
        yield 0, table
        return
    places = partitions_of(table, columns, partitions)
    order = np.argsort(places, kind="stable")
    edges = np.searchsorted(places[order], np.arange(partitions + 1))
    ordered = table.take(int_column(order))
    for place in np.flatnonzero(np.diff(edges)).tolist():
        yield place, ordered.slice(int(edges[place]), int(edges[place + 1] - edges[place]))
