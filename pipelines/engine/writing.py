"""From exact sums to files of released rows, on Spark's workers.

Which row lands in which file, and where in it, is a function of the released rows alone: rows go to files by a hash of
their key and lie there in the keys' order. How many tasks there were, and which sums were not selected, changes
nothing.

Few sums: one task draws all noise, applies all steps and writes all files. Many: noise is drawn where the sums of a key
are, released rows go to where a step needs them side by side, and in the end to their files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from governance.errors import EngineError
from pipelines.definitions import ConsistentWith
from pipelines.engine.bounding import ExactSums
from pipelines.engine.bounds import sum_fields
from pipelines.engine.exchange import Item, exchanged, forget, packed, partitions_of, split, unpacked
from pipelines.engine.first_round import FirstRound
from pipelines.engine.inputs import SignalInputs
from pipelines.engine.noisy import Noising
from pipelines.engine.post_processing import Step
from pipelines.engine.rows import Values
from pipelines.engine.sums import int_column
from pipelines.engine.tasks import Told
from pipelines.noise import Distribution, NoiseSource
from pipelines.plan import SignalPlan

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import Broadcast

__all__ = ["PublicKeys", "Writing", "key_schema", "released_schema", "write_found"]

_SUMS_IN_ONE_TASK = 200_000
_KEYS_AT_ONCE = 1_000_000
_ROWS_IN_A_GROUP = 1_000_000


def key_schema(inputs: SignalInputs, names: tuple[str, ...]) -> pa.Schema:
    """The keys' names and types: int64, string or date32."""
    import pyarrow as pa

    kinds: dict[str, pa.DataType] = {"integer": pa.int64(), "text": pa.string(), "date": pa.date32()}
    return pa.schema([(name, kinds[kind]) for name, kind in zip(names, inputs.key_kinds.values(), strict=True)])


def released_schema(plan: SignalPlan, inputs: SignalInputs, steps: tuple[Step, ...]) -> pa.Schema:
    """Names and types of the released columns."""
    import pyarrow as pa

    kinds: dict[str, Any] = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "vector": pa.list_(pa.float32()),
    }
    # Counts that are moved by least squares are whole numbers no more.
    fractions = {name for step in steps if isinstance(step.step, ConsistentWith) for name in step.columns}
    columns = [
        (column.name, pa.float64() if column.name in fractions else kinds[column.type])
        for column in plan.recipe.columns
    ]
    return pa.schema([*key_schema(inputs, plan.signal.entity.keys), *(pa.field(*column) for column in columns)])


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """Every combination of the public values of each key.

    Attributes:
        domains: values of each key; doubles are allowed.
        schema: names and types of the keys.
    """

    domains: tuple[Values, ...]
    schema: pa.Schema

    @classmethod
    def of(cls, domains: tuple[Values | None, ...], schema: pa.Schema) -> PublicKeys | None:
        """None where keys are private."""
        given = tuple(values for values in domains if values is not None)
        return cls(domains=given, schema=schema) if given else None

    def table(self, partition: int | None, partitions: int) -> pa.Table:
        """The keys of one partition; None: of all."""
        import pyarrow as pa

        columns = [values.load() for values in self.domains]
        inner = [math.prod(len(column) for column in columns[i + 1 :]) for i in range(len(columns))]
        at_once = max(1, _KEYS_AT_ONCE // max(1, inner[0]))
        tables = [self.schema.empty_table()]
        for start in range(0, len(columns[0]), at_once):
            part = [columns[0].slice(start, at_once), *columns[1:]]
            row = np.arange(len(part[0]) * inner[0])
            arrays = [c.take(int_column(row // below % max(1, len(c)))) for c, below in zip(part, inner, strict=True)]
            table = pa.table(arrays, schema=self.schema)
            if partition is not None:
                table = table.filter(pa.array(partitions_of(table, self.schema.names, partitions) == partition))
            tables.append(table)
        return pa.concat_tables(tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """How released rows come to be and where they go; travels with tasks (`Carried`).

    Attributes:
        noising: noise and selection.
        public: the public keys, or None.
        sums: names and types of `__k0 ..`, `__m0 ..`.
        made: names and types of released columns before the steps.
        partitions: that exact sums lie in.
        steps: post-processing.
        folder: of the files, which all workers share.
        files: how many there are.
    """

    noising: Noising
    public: PublicKeys | None
    sums: pa.Schema
    made: pa.Schema
    partitions: int
    steps: tuple[Step, ...]
    folder: str
    files: int

    @classmethod
    def of(
        cls,
        plan: SignalPlan,
        inputs: SignalInputs,
        sums: ExactSums,
        noising: Noising,
        steps: tuple[Step, ...],
        folder: Path,
        files: int,
    ) -> Writing:
        """For a release."""
        import pyarrow as pa

        labels = tuple(f"__k{i}" for i in range(len(plan.signal.entity.keys)))
        keys = key_schema(inputs, labels)
        measures = sum_fields(mechanism.measure for mechanism in plan.calibration.summed)
        return cls(
            noising=noising,
            public=PublicKeys.of(sums.plan.domains, keys),
            sums=pa.schema([*keys, *measures]),
            made=released_schema(plan, inputs, ()),
            partitions=sums.partitions,
            steps=steps,
            folder=str(folder),
            files=files,
        )

    def write(self, exact: ExactSums, rows: int) -> tuple[Path, ...]:
        """Writes the files on Spark.

        Args:
            exact: the sums.
            rows: how many sums and public keys there are, to choose the number of tasks.

        Returns:
            The files that have rows, in order.
        """
        Path(self.folder).mkdir(parents=True)
        width = sum(noise.measure.summed_width for noise in self.noising.noises)
        kept = exact.spark.broadcast(replace(self, noising=replace(self.noising, source=_Withheld())))
        carried = Carried(source=self.noising.source, rest=kept)
        try:
            if rows * width <= _SUMS_IN_ONE_TASK:
                names = exact.spark.runJob(exact.items.coalesce(1), carried.at_once)
            else:
                names = self._in_stages(exact, carried)
        finally:
            kept.destroy()
        return tuple(Path(self.folder, name) for name in sorted(names))

    def at_once(self, items: Iterable[Item]) -> Iterator[str]:
        """Everything in one task."""
        released = self._processed(self.noisy(items, None), self.steps)
        for file, part in split(released, self.noising.keys, self.files):
            yield _written(part, self.folder, file)

    def _in_stages(self, exact: ExactSums, carried: Carried) -> list[str]:
        def noise(partition: int, items: Iterable[Item]) -> Iterator[Item]:
            writing = carried.writing()
            if partition < writing.partitions:
                yield from writing.sent(writing.noisy(items, partition), 0)

        ways = [partitions for _, _, partitions in self._stages()]
        items = exchanged(exact.items.mapPartitionsWithIndex(noise), ways[0])
        for stage, partitions in enumerate(ways[1:], start=1):

            def process(items: Iterable[Item], stage: int = stage) -> Iterator[Item]:
                writing = carried.writing()
                yield from writing.sent(writing.gathered(items), stage)

            items = exchanged(items.mapPartitions(process), partitions)

        def write(file: int, items: Iterable[Item]) -> Iterator[str]:
            writing = carried.writing()
            table = writing.gathered(items)
            if table.num_rows:
                yield _written(table, writing.folder, file)

        try:
            return exact.spark.runJob(items.mapPartitionsWithIndex(write), list)
        finally:
            forget(items)

    def _stages(self) -> list[tuple[list[Step], tuple[str, ...], int]]:
        """Steps that are taken in one place; by which columns rows leave it, and to how many partitions."""
        groups: list[list[Step]] = [[]]
        for step in self.steps:
            if step.keys:
                groups.append([])
            groups[-1].append(step)
        ways = [(group[0].keys, self.partitions) for group in groups[1:]] + [(self.noising.keys, self.files)]
        return [(group, *way) for group, way in zip(groups, ways, strict=True)]

    def noisy(self, items: Iterable[Item], partition: int | None) -> pa.Table:
        """Released rows in the keys' order, before any step, from a partition's exact sums; None: from all."""
        import pyarrow as pa

        tables = [self.sums.empty_table()]
        exact = unpacked([data for _, data in items if not isinstance(data, Told)])
        if exact is not None:
            tables.append(exact)
        if self.public is not None:
            tables.append(self.public.table(partition, self.partitions))
        exact = pa.concat_tables(tables, promote_options="default")
        if not exact.num_rows:
            return self.made.empty_table()
        released = self.noising.table(exact).select(self.made.names).cast(self.made)
        return self._in_order(released)

    def _in_order(self, table: pa.Table) -> pa.Table:
        return table.sort_by([(key, "ascending") for key in self.noising.keys]).combine_chunks()

    def gathered(self, items: Iterable[Item]) -> pa.Table:
        """What a partition was sent, in the keys' order."""
        table = unpacked([data for _, data in items])
        return self.made.empty_table() if table is None else self._in_order(table)

    def sent(self, table: pa.Table, stage: int) -> Iterator[Item]:
        """A partition's rows after a stage's steps, with the place where each is wanted next."""
        steps, by, partitions = self._stages()[stage]
        for place, part in split(self._processed(table, steps), by, partitions):
            yield place, packed(part)

    def _processed(self, table: pa.Table, steps: Iterable[Step]) -> pa.Table:
        if table.num_rows:
            for step in steps:
                table = step.table(table)
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A writing on its way to tasks: the key of the noise goes with each of them, and all else beside it.

    Spark writes the code of a large task to disk. So a task holds its key and nothing that grows with a definition:
    public keys, candidates, columns, steps.

    Attributes:
        source: of the noise.
        rest: a writing without one.
    """

    source: NoiseSource
    rest: Broadcast[Writing]

    def writing(self) -> Writing:
        """The writing, in a task."""
        rest = self.rest.value
        return replace(rest, noising=replace(rest.noising, source=self.source))

    def at_once(self, items: Iterable[Item]) -> Iterator[str]:
        """Everything in one task."""
        return self.writing().at_once(items)


@dataclass(frozen=True, slots=True)
class _Withheld:
    """Stands for a source of noise that is not here."""

    label: str = "withheld"

    def noise(self, measurement: str, distribution: Distribution, blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        """None."""
        del distribution, blocks
        raise EngineError(f"{measurement}: no noise without its source")


def write_found(exact: ExactSums, stage: FirstRound, folder: Path, schema: pa.Schema) -> None:
    """Writes the keys that a first round of selection finds.

    Args:
        exact: the units' weights.
        stage: noise and selection.
        folder: for the files, which all workers share.
        schema: names and types of the keys.
    """
    folder.mkdir(parents=True)
    where = str(folder)
    # There is always one, which names the columns.
    _written(schema.empty_table(), where, exact.partitions)

    def find(partition: int, items: Iterable[Item]) -> Iterator[str]:
        weights = unpacked([data for _, data in items if not isinstance(data, Told)])
        if weights is not None:
            yield _written(stage.table(weights), where, partition)

    found = exact.items.mapPartitionsWithIndex(find)
    exact.spark.runJob(found, list, list(range(exact.partitions)))


def _written(table: pa.Table, folder: str, file: int) -> str:
    """Writes a file, and gives its name. Its bytes are a function of the table."""
    import pyarrow.parquet as pq

    name = f"part-{file:05d}.parquet"
    # A task may run twice at a time: each writes its own file, and the same bytes get the name.
    own = Path(folder, f".{name}.{uuid4().hex}")
    pq.write_table(table, own, compression="zstd", row_group_size=_ROWS_IN_A_GROUP)
    own.replace(Path(folder, name))
    return name
