"""The engine's rows and kernel on tables in memory, without Spark: what a bucket goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.calibration import Calibration, calibrate
from pipelines.definitions import Signal
from pipelines.engine.bounding import bounds_of
from pipelines.engine.hashing import row_hashes
from pipelines.engine.kernel import Bounds, Salts, bounded_sums
from pipelines.engine.rows import Facts, Made, Problem, RowPlan, Values, rows_of
from pipelines.engine.sums import merged_sums
from pipelines.measurements import CodeKind, Measure
from pipelines.recipes import Recipe, recipe_of
from pipelines.windows import Span
from tests.support.projects import SPAN

__all__ = ["SALTS", "Kernel", "Sums", "in_python", "plan_of"]

SALTS = Salts(rows=11, partitions=-7)
Sums = dict[tuple[Any, ...], dict[str, Any]]


def plan_of(
    signal: Signal,
    columns: Iterable[str],
    *,
    span: Span = SPAN,
    domains: Sequence[Values | None] | None = None,
    facts: tuple[Facts, ...] = (),
) -> RowPlan:
    """How rows are made of the events of a table with these columns; every column may have problems."""
    columns = tuple(columns)
    codes = recipe_of(signal).codes
    unit = signal.privacy_unit
    problems = [Problem("null", "events", column, "value") for column in columns]
    for code in codes:
        if code.column is not None and code.kind is not CodeKind.CANDIDATE:
            problems.append(Problem("finite", "events", code.column, "value"))
        if code.column is not None and code.kind is CodeKind.VECTOR:
            problems.append(Problem("length", "events", code.column, "value"))
    return RowPlan(
        columns=columns,
        time=signal.source.timestamp,
        start=int(span.start.timestamp()),
        end=int(span.end.timestamp()),
        time_needed=True,
        arrival=signal.source.arrival,
        deadline=int((span.end + signal.window.allowed_lateness).timestamp()),
        units=unit.columns,
        per=None if unit.per is None else int(unit.per.total_seconds()),
        keys=signal.entity.keys,
        codes=codes,
        facts=facts,
        domains=tuple(domains) if domains is not None else (None,) * len(signal.entity.keys),
        problems=tuple(problems),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A signal's rows and bounded sums.

    Attributes:
        signal: the definition.
        recipe: its measurements.
        calibration: their noise.
        salts: of the run.
    """

    signal: Signal
    recipe: Recipe
    calibration: Calibration
    salts: Salts = SALTS

    @classmethod
    def of(cls, signal: Signal, salts: Salts = SALTS) -> Kernel:
        """For a signal."""
        recipe = recipe_of(signal)
        return cls(signal=signal, recipe=recipe, calibration=calibrate(signal, recipe, 1e-6), salts=salts)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What is summed, as calibrated."""
        return tuple(mechanism.measure for mechanism in self.calibration.summed)

    @property
    def bounds(self) -> Bounds:
        """As the kernel is told them."""
        return bounds_of(self.signal, self.recipe, self.calibration, self.salts)

    def made(self, *chunks: pa.Table, cut: bool = True, **of_plan: Any) -> list[Made]:
        """Rows for the kernel, of chunks of raw events."""
        return list(
            rows_of(((chunk, cut) for chunk in chunks), plan_of(self.signal, chunks[0].column_names, **of_plan))
        )

    def sums(
        self,
        *chunks: pa.Table,
        buckets: int = 1,
        change: Callable[[Bounds], Bounds] = lambda bounds: bounds,
        **of_plan: Any,
    ) -> Sums:
        """Exact sums over bounded contributions, by key and measurement."""
        made = self.made(*chunks, **of_plan)
        assert all(one.problem < 0 for one in made)
        return self.summed(pa.concat_tables([one.rows for one in made]), buckets=buckets, change=change)

    def summed(
        self, rows: pa.Table, *, buckets: int = 1, change: Callable[[Bounds], Bounds] = lambda bounds: bounds
    ) -> Sums:
        """The same from made rows, split by unit into buckets."""
        bounds = change(self.bounds)
        units = [name for name in rows.column_names if name.startswith("__u")]
        bucket = (row_hashes(rows, units, 5) % np.uint64(buckets)).astype(np.int64) if rows.num_rows else np.zeros(0)
        parts = [rows.filter(pa.array(bucket == index)) for index in range(buckets)] if rows.num_rows else []
        batches = [batch for part in parts for batch in bounded_sums(part, bounds)]
        if not batches:
            return {}
        return in_python(merged_sums(pa.Table.from_batches(batches), bounds.key_names), [m.name for m in self.measures])


def in_python(sums: pa.Table, names: Sequence[str]) -> Sums:
    """A table of sums as dictionaries; texts that are no UTF-8 as bytes."""
    columns: Mapping[str, list[Any]] = {
        name: [_text(value) for value in sums.column(name).cast(pa.binary()).to_pylist()]
        if pa.types.is_string(sums.column(name).type)
        else sums.column(name).to_pylist()
        for name in sums.column_names
    }
    keys = [name for name in sums.column_names if name.startswith("__k")]
    return {
        tuple(columns[key][i] for key in keys): {name: _frozen(columns[f"__m{at}"][i]) for at, name in enumerate(names)}
        for i in range(sums.num_rows)
    }


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
