"""From a signal's aggregates to the noisy integer sums behind them, and back.

A **measurement** is one integer sum over bounded contributions; noise is added to measurements only. An **output** is a
released column computed from measurements: post-processing. Measurements are shared: a mean uses the row count that a
`Count` releases anyway, and selection uses the unit count where one is released (no second spend).

Sensitivity (add/remove one unit, `KeepRandom(L0, m)`). A unit touches at most L0 partitions; in each it keeps at most m
rows, each an integer of absolute value at most b on the measurement's grid (b = 1 for counts). So one unit changes a
measurement's vector over partitions by a vector of at most L0 non-zero coordinates, each at most `Linf = m b`, hence
`L1 <= L0 Linf` and `L2 <= sqrt(L0) Linf`. A unit count has m = 1. Sums are of integers, so no rounding enters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from pipelines.definitions import Count, CountDistinct, Interval, KeepRandom, Mean, PrivateSelection, Signal, Sum

__all__ = ["Measure", "MeasureKind", "Output", "OutputKind", "Recipe", "recipe_of"]


class MeasureKind(StrEnum):
    """What is summed over a unit's kept rows in a partition."""

    UNITS = "units"
    ROWS = "rows"
    SUM = "sum"
    CENTRED_SUM = "centred_sum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One integer sum.

    Attributes:
        name: unique in its signal; names the noise stream.
        kind: what is summed.
        column: the value column; None for counts.
        interval: the clamp; None for counts.
        grid_step: value of one step, in the column's units; 1 for counts.
        centre: whole steps subtracted from each value (centred sums), else 0.
        bounds: the signal's contribution bounds.
    """

    name: str
    kind: MeasureKind
    column: str | None
    interval: Interval | None
    grid_step: float
    centre: int
    bounds: KeepRandom

    @property
    def l0(self) -> int:
        """Most partitions that one unit changes."""
        return self.bounds.max_partitions

    @property
    def linf(self) -> int:
        """Most by which one unit changes one partition, in grid steps."""
        if self.kind is MeasureKind.UNITS:
            return 1
        rows = self.bounds.max_rows_per_partition
        if self.interval is None:
            return rows
        lowest, highest = self.interval.grid
        return rows * max(abs(lowest - self.centre), abs(highest - self.centre), 1)

    @property
    def l1(self) -> int:
        """Sensitivity in the sum of absolute changes, in grid steps."""
        return self.l0 * self.linf

    @property
    def l2(self) -> float:
        """Euclidean sensitivity, in grid steps."""
        return math.sqrt(self.l0) * self.linf


class OutputKind(StrEnum):
    """How a released column follows from measurements."""

    INTEGER = "integer"
    SCALED = "scaled"
    MEAN = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One released column.

    Attributes:
        name: the column.
        kind: `INTEGER` (the noisy count), `SCALED` (times the grid step) or `MEAN`.
        measure: the measurement it shows; for a mean, the centred sum.
        count: the row count under a mean; None otherwise.
        description: its meaning, with units.
    """

    name: str
    kind: OutputKind
    measure: str
    count: str | None
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything noisy in a signal and what is released of it.

    Attributes:
        measures: in a fixed order.
        outputs: in the order of the definition.
        units: the measurement that counts units, by which private selection decides; None for public partitions.
    """

    measures: tuple[Measure, ...]
    outputs: tuple[Output, ...]
    units: str | None

    def measure(self, name: str) -> Measure:
        """A measurement by name."""
        return next(measure for measure in self.measures if measure.name == name)


def recipe_of(signal: Signal) -> Recipe:
    """The measurements that a signal needs, each once, and its outputs."""
    builder = _Builder(signal.bounds)
    # A row count and a unit count are the same integer where each unit keeps at most one row in a partition.
    one_row = signal.bounds.max_rows_per_partition == 1
    row_kind = MeasureKind.UNITS if one_row else MeasureKind.ROWS
    units_text = f"Number of distinct {signal.privacy_unit.label}s, noisy"
    outputs: dict[str, Output] = {}
    # Means come last: they use the counts that are released anyway.
    for name, aggregate in sorted(signal.aggregates.items(), key=lambda item: isinstance(item[1], Mean)):
        count, kind = None, OutputKind.INTEGER
        match aggregate:
            case Count():
                measure = builder.add(name, row_kind)
                text = units_text if one_row else "Number of rows, noisy"
            case CountDistinct():
                measure, text = builder.add(name, MeasureKind.UNITS), units_text
            case Sum(column, interval):
                measure, kind = builder.add(name, MeasureKind.SUM, column, interval), OutputKind.SCALED
                text = f"Sum of {column} clamped to {_span(interval)}, noisy"
            case Mean(column, interval):
                measure = builder.add(f"{name}.centred_sum", MeasureKind.CENTRED_SUM, column, interval)
                count, kind = builder.add(f"{name}.rows", row_kind), OutputKind.MEAN
                text = f"Mean of {column} clamped to {_span(interval)}, from a noisy sum and a noisy count"
        outputs[name] = Output(name=name, kind=kind, measure=measure, count=count, description=text)
    units = None
    if isinstance(signal.partitions, PrivateSelection):
        units = builder.add("selection.units", MeasureKind.UNITS)
    return Recipe(
        measures=tuple(builder.measures.values()),
        outputs=tuple(outputs[name] for name in signal.aggregates),
        units=units,
    )


class _Builder:
    """Collects measurements, each once."""

    def __init__(self, bounds: KeepRandom) -> None:
        self.bounds = bounds
        self.measures: dict[tuple[MeasureKind, str | None, Interval | None], Measure] = {}

    def add(self, name: str, kind: MeasureKind, column: str | None = None, interval: Interval | None = None) -> str:
        """The name of the measurement of this kind, which is new or was there under another name."""
        step, centre = 1.0, 0
        if interval is not None:
            step = interval.grid_step
            centre = sum(interval.grid) // 2 if kind is MeasureKind.CENTRED_SUM else 0
        measure = Measure(
            name=name,
            kind=kind,
            column=column,
            interval=interval,
            grid_step=step,
            centre=centre,
            bounds=self.bounds,
        )
        return self.measures.setdefault((kind, column, interval), measure).name


def _span(interval: Interval) -> str:
    return f"[{interval.lower:g}, {interval.upper:g}]"
