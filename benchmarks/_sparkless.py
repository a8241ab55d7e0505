"""The engine in one process, without Spark: by the very functions that Spark's workers call, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.calibration import Calibration
from pipelines.definitions import Signal
from pipelines.engine.bounding import bounds_of
from pipelines.engine.bounds import sum_fields
from pipelines.engine.first_round import FirstRound, Found
from pipelines.engine.kernel import Bounds, Salts, bounded_sums
from pipelines.engine.noisy import Noising
from pipelines.engine.rows import RowPlan, Values, rows_of
from pipelines.noise import KeyedNoise, ReleaseKey
from pipelines.recipes import Recipe

__all__ = ["Sparkless"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparkless:
    """One release of a signal.

    Attributes:
        signal: the definition, without joins.
        recipe: its measurements.
        calibration: its noise.
        key: of the release: salts and noise follow from it.
    """

    signal: Signal
    recipe: Recipe
    calibration: Calibration
    key: ReleaseKey

    def sums(
        self,
        events: pa.Table,
        *,
        end: int,
        domains: Sequence[tuple[Any, ...] | None] = (),
        change: Callable[[Bounds], Bounds] = lambda bounds: bounds,
        first: bool = False,
        found: Found | None = None,
    ) -> list[pa.Table]:
        """Exact sums over bounded contributions; they may be in several tables.

        Args:
            events: whole seconds in the source's time column, no nulls, all of one window.
            end: of the window, Unix time.
            domains: public values of each key, or None.
            change: for planted faults.
            first: whether these are the weights of the first of two rounds of selection.
            found: what `first_round` gave, in the second.
        """
        salts = Salts(rows=self.key.salt("rows"), partitions=self.key.salt("partitions"))
        bounds = change(bounds_of(self.signal, self.recipe, self.calibration, salts, first=first, found=found))
        made = rows_of(iter([(events, True)]), self.row_plan(events, end, domains))
        return [pa.Table.from_batches([sums]) for one in made for sums in bounded_sums(one.rows, bounds)]

    def late(self, events: pa.Table, *, end: int) -> pa.Table:
        """Unit columns of the rows that came too late, as tasks count them."""
        [made] = rows_of(iter([(events, True)]), self.row_plan(events, end))
        return made.rows.select([]) if made.late is None else made.late

    def row_plan(self, events: pa.Table, end: int, domains: Sequence[tuple[Any, ...] | None] = ()) -> RowPlan:
        """How rows are made of events; arguments as of `sums`."""
        signal, length = self.signal, int(self.signal.window.length.total_seconds())
        per, lateness = signal.privacy_unit.per, int(self.signal.window.allowed_lateness.total_seconds())
        return RowPlan(
            columns=tuple(events.column_names),
            time=signal.source.timestamp,
            start=end - length,
            end=end,
            time_needed=True,
            arrival=signal.source.arrival,
            deadline=end + lateness,
            units=signal.privacy_unit.columns,
            per=None if per is None else int(per.total_seconds()),
            keys=signal.entity.keys,
            codes=self.recipe.codes,
            facts=(),
            domains=tuple(None if values is None else Values(given=values) for values in domains)
            or (None,) * len(signal.entity.keys),
            problems=(),
        )

    def first_round(self, weights: Sequence[pa.Table], folder: Path) -> Found | None:
        """The keys that the first of two rounds finds, written to a folder; None where there is one round.

        Args:
            weights: of `sums(..., first=True)`.
            folder: empty.
        """
        selecting = self.calibration.selecting
        if self.recipe.first is None or selecting is None or selecting.first_threshold is None:
            return None
        stage = FirstRound(
            source=KeyedNoise(self.key),
            measurement=self.recipe.first,
            sigma=self.calibration.mechanism(self.recipe.first).distribution.scale,
            threshold=selecting.first_threshold,
            keys=len(self.signal.entity.keys),
        )
        pq.write_table(stage.table(pa.concat_tables(weights)), folder / "part-0.parquet")
        return Found(str(folder))

    def without_sums(self, keys: Sequence[NDArray[Any]]) -> pa.Table:
        """Public keys with nobody in them."""
        columns: dict[str, Any] = {f"__k{i}": pa.array(values) for i, values in enumerate(keys)}
        for field in sum_fields(mechanism.measure for mechanism in self.calibration.summed):
            columns[field.name] = pa.nulls(len(keys[0]), field.type)
        return pa.table(columns)

    def released(
        self,
        sums: Sequence[pa.Table],
        *,
        change: Callable[[Noising], Noising] = lambda noising: noising,
    ) -> pa.Table:
        """The released rows."""
        noising = change(Noising.of(self.signal, self.recipe, self.calibration, KeyedNoise(self.key)))
        return noising.table(pa.concat_tables(sums, promote_options="default"))
