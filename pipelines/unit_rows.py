"""Units by how many keys they have: from events to a table with one row for each unit, as tasks make it.

    read     events to pairs of a unit and a key that it has
    count    all pairs of some units to a row for each of them

A row is a function of its unit's own events and of public facts; the table is what a profile is released of
(pipelines.profile).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.definitions import Signal
from pipelines.engine.rows import RowPlan, rows_of
from pipelines.engine.scan import Part, read_parts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["STEP", "STEPS", "TIME", "UnitRows"]

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Numbers of partitions at which a new step begins; the last one has no end."""

STEP, TIME = "partitions", "seen_at"
"""Columns of the table beside the unit's: its step, and a time in the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRows:
    """What tasks do: from events to pairs of a unit and a key it has, and from all pairs of some units to their rows.

    Attributes:
        plan: how rows are made of events.
        named: the signal's unit columns, and the person's where these do not name it, each with its `__u0 ..`, or None.
        kinds: Spark's types of `__u0 .. __k0 ..`.
        tasks: row groups that each task reads.
    """

    plan: RowPlan
    named: Mapping[str, str | None]
    kinds: Mapping[str, str]
    tasks: tuple[tuple[Part, ...], ...] = ()

    @classmethod
    def of(cls, signal: Signal, plan: RowPlan, unit_kinds: tuple[str, ...], key_kinds: tuple[str, ...]) -> UnitRows:
        """For a signal.

        Args:
            signal: whose units.
            plan: how its rows are made.
            unit_kinds: `integer` or `text`, of each unit column.
            key_kinds: `integer`, `text` or `date`, of each key.
        """
        sparks = {"integer": "bigint", "text": "string", "date": "date"}
        kinds = {f"__u{i}": sparks[kind] for i, kind in enumerate(unit_kinds)}
        named: dict[str, str | None] = dict(zip(signal.privacy_unit.columns, kinds, strict=True))
        named.setdefault(signal.source.person, None)
        if plan.per is not None:
            kinds[f"__u{len(kinds)}"] = "bigint"
        kinds |= {f"__k{i}": sparks[kind] for i, kind in enumerate(key_kinds)}
        return cls(plan=plan, named=named, kinds=kinds)

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the unit columns, `__u0 ..`."""
        return tuple(name for name in self.kinds if name.startswith("__u"))

    @property
    def columns(self) -> dict[str, str]:
        """Spark's types of the table with one row a unit."""
        own = {name: "bigint" if unit is None else self.kinds[unit] for name, unit in self.named.items()}
        return own | {TIME: "bigint", STEP: "bigint"}

    def read(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The pairs of the tasks that are numbered here."""
        for batch in batches:
            for task in batch.column(0).to_numpy().tolist():
                yield from self.pairs(read_parts(self.tasks[task], self.plan))

    def pairs(self, chunks: Iterator[tuple[pa.Table, bool]]) -> Iterator[pa.RecordBatch]:
        """Which unit has which key, each once for each chunk of events; a `problem` is the last."""
        import pyarrow as pa

        names = list(self.kinds)
        for made in rows_of(chunks, self.plan):
            if made.problem >= 0:
                empty: list[Any] = [pa.array([None], _arrow(kind)) for kind in self.kinds.values()]
                problem = pa.array([made.problem], pa.int32())
                yield pa.RecordBatch.from_arrays([*empty, problem], names=[*names, "problem"])
                return
            distinct = made.rows.select(names).group_by(names, use_threads=False).aggregate([])
            distinct = distinct.append_column("problem", pa.nulls(distinct.num_rows, pa.int32()))
            yield from distinct.combine_chunks().to_batches()

    def count(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """A row for each unit, all of whose pairs are here."""
        import pyarrow as pa

        found = list(batches)
        if found:
            yield from self.rows(pa.Table.from_batches(found)).combine_chunks().to_batches()

    def rows(self, pairs: pa.Table) -> pa.Table:
        """A row for each unit: its columns, a time in the window, and the step that its number of keys is in.

        Args:
            pairs: `__u0 .. __k0 ..`, doubles allowed.
        """
        import pyarrow as pa

        distinct = pairs.select(list(self.kinds)).group_by(list(self.kinds), use_threads=False).aggregate([])
        counted = distinct.group_by(list(self.units), use_threads=False).aggregate([([], "count_all")])
        counts = counted.column("count_all").to_numpy()
        steps = np.array(STEPS)[np.searchsorted(STEPS, counts, side="right") - 1]
        moments = np.full(len(counts), self.plan.start)
        if self.plan.per is not None:
            moments = np.maximum(moments, counted.column(self.units[-1]).to_numpy() * self.plan.per)
        nobody = pa.array(np.zeros(len(counts), dtype=np.int64))  # of a unit that names no person
        columns: dict[str, Any] = {TIME: pa.array(moments), STEP: pa.array(steps)}
        own = {name: nobody if unit is None else counted.column(unit) for name, unit in self.named.items()}
        return pa.table(own | columns)

    def before(self) -> pa.Table:
        """One row before the window, so that the table of a window without units has its columns and types too."""
        import pyarrow as pa

        row = {name: pa.array(["" if kind == "string" else 0], _arrow(kind)) for name, kind in self.columns.items()}
        return pa.table(row | {TIME: pa.array([self.plan.start - 1]), STEP: pa.array([STEPS[0]])})


def _arrow(kind: str) -> pa.DataType:
    """Arrow's type for one of Spark's."""
    import pyarrow as pa

    types: dict[str, pa.DataType] = {"bigint": pa.int64(), "string": pa.string(), "date": pa.date32()}
    return types[kind]
