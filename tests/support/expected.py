"""What a unit's bounded contributions are on average: every sample that the bounds allow is counted, in plain Python.

Independent of the engine and of `tests.support.bounded`: no hashes, no codes, no grids, no vectors. A definition's
words say which rows belong to one unit and one key, that each choice of partitions is as likely as any other, and so is
each choice of rows; so a released sum has an exact mean and an exact variance of its own, before any noise. Values lie
on the definition's grid, so that rounding has no part in it.

Under `ClipNorm` a unit's vector is scaled, and its norm depends on how the budget is split between measurements: those
scales are the plan's, and `tests.support.bounded` does the scaling, in plain Python too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import combinations, product
from typing import Any

from pipelines.calibration import Calibration
from pipelines.definitions import (
    Aggregate,
    ClipNorm,
    Count,
    CountDistinct,
    Histogram,
    KeepRandom,
    Mean,
    Signal,
    Sum,
    Variance,
    VectorSum,
)
from pipelines.recipes import OutputKind, Recipe
from pipelines.windows import Span
from tests.support.bounded import bounded_sums

__all__ = ["Moments", "expected_columns", "plain_quantile"]

Row = Mapping[str, Any]
Key = tuple[Any, ...]
Kept = Mapping[Key, Sequence[Row]]
Cells = dict[tuple[Key, str], float]


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of a released number over all samples, before noise; the variance is 0 where all agree."""

    mean: float
    variance: float


def expected_columns(
    rows: Sequence[Row], signal: Signal, span: Span, recipe: Recipe, calibration: Calibration
) -> dict[tuple[Key, str], Moments]:
    """The bounded truth: (key, column) → moments, of every column that is a plain sum over what is kept.

    A mean and a variance stand for the sums they are made of: `m.centred` of a mean `m`, that is the sum of kept values
    less the middle of the interval, and `v.squares` of a variance `v`, that is the sum of those differences squared.

    Args:
        rows: of one window, keys outside a public domain left out.
        signal: the definition.
        span: the window.
        recipe: for `ClipNorm`: what is in a unit's vector.
        calibration: for `ClipNorm`: its scales.
    """
    total: dict[tuple[Key, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for unit in _units(rows, signal).values():
        outcomes = [_columns(kept, signal, span, recipe, calibration) for kept in _samples(unit, signal.bounds)]
        for cell in {cell for outcome in outcomes for cell in outcome}:
            values = [outcome.get(cell, 0.0) for outcome in outcomes]
            mean = math.fsum(values) / len(values)
            total[cell][0] += mean
            total[cell][1] += math.fsum((value - mean) ** 2 for value in values) / len(values)
    return {cell: Moments(mean, variance) for cell, (mean, variance) in total.items()}


def _units(rows: Sequence[Row], signal: Signal) -> dict[Key, dict[Key, list[Row]]]:
    """Unit → key → its rows."""
    units: dict[Key, dict[Key, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        unit = tuple(row[column] for column in signal.privacy_unit.columns)
        if signal.privacy_unit.per is not None:
            unit = (*unit, row[signal.source.timestamp] // int(signal.privacy_unit.per.total_seconds()))
        units[unit][tuple(row[column] for column in signal.entity.keys)].append(row)
    return units


def _samples(unit: Mapping[Key, Sequence[Row]], bounds: KeepRandom | ClipNorm) -> Iterator[Kept]:
    """Everything that may be kept of a unit, each as likely as any other."""
    most = len(unit) if bounds.max_partitions is None else min(len(unit), bounds.max_partitions)
    for keys in combinations(sorted(unit), most):
        if isinstance(bounds, ClipNorm):
            yield {key: unit[key] for key in keys}
            continue
        choices = [combinations(unit[key], min(len(unit[key]), bounds.max_rows_per_partition)) for key in keys]
        for chosen in product(*choices):
            yield dict(zip(keys, chosen, strict=True))


def _columns(kept: Kept, signal: Signal, span: Span, recipe: Recipe, calibration: Calibration) -> Cells:
    """What one unit adds, if this is kept of it."""
    if isinstance(signal.bounds, ClipNorm):
        return _scaled(kept, signal, span, recipe, calibration)
    return {(key, name): f(rows) for key, rows in kept.items() for name, f in _functions(signal, span).items()}


# --- by the definition's words ----------------------------------------------------------------------------------------


def _functions(signal: Signal, span: Span) -> dict[str, Callable[[Sequence[Row]], float]]:
    """Column → what a unit's kept rows add to it; nothing for what is no sum: quantiles and rankings."""
    functions: dict[str, Callable[[Sequence[Row]], float]] = {}
    for name, aggregate in signal.aggregates.items():
        if isinstance(aggregate, CountDistinct):
            functions[name] = lambda _: 1.0
        for column, of_row in _of_row(name, aggregate, signal, span).items():
            functions[column] = lambda rows, of_row=of_row: math.fsum(map(of_row, rows))  # type: ignore[misc]
    return functions


def _of_row(name: str, aggregate: Aggregate, signal: Signal, span: Span) -> dict[str, Callable[[Row], float]]:
    """Column → what a row adds to it."""

    def weight(row: Row, half_life: timedelta | None) -> float:
        age = span.end.timestamp() - float(row[signal.source.timestamp])
        return 1.0 if half_life is None else 2.0 ** (-age / half_life.total_seconds())

    match aggregate:
        case Count(half_life=life):
            return {name: lambda row: weight(row, life)}
        case Sum(column, interval, half_life=life):
            return {name: lambda row: clamped(row[column], interval) * weight(row, life)}
        case Mean(column, interval):
            return {f"{name}.centred": lambda row: clamped(row[column], interval) - middle(interval)}
        case Variance(column, interval):
            return {f"{name}.squares": lambda row: (clamped(row[column], interval) - middle(interval)) ** 2}
        case Histogram(column, edges):
            bins = range(len(edges) - 1)
            return {f"{name}_{i}": lambda row, i=i: float(bin_of(row[column], edges) == i) for i in bins}  # type: ignore[misc]
        case VectorSum(column, dimension, l2):
            return {f"{name}[{i}]": lambda row, i=i: clipped(row[column], l2)[i] for i in range(dimension)}  # type: ignore[misc]
    return {}


def clamped(value: float, interval: Any) -> float:
    """A value within its interval."""
    return min(max(value, interval.lower), interval.upper)


def middle(interval: Any) -> float:
    """Half-way between the bounds."""
    return float((interval.lower + interval.upper) / 2)


def bin_of(value: float, edges: Sequence[float]) -> int:
    """The bin between two edges; those at the ends take what lies beyond."""
    return sum(value >= edge for edge in edges[1:-1])


def clipped(vector: Sequence[float], l2: float) -> list[float]:
    """A vector no longer than `l2`."""
    norm = math.hypot(*vector)
    return [number * min(1.0, l2 / norm) if norm else 0.0 for number in vector]


def plain_quantile(values: Sequence[float], probability: float, lower: float, upper: float, bins: int) -> float:
    """Where the sorted values' counts reach the probability: linear within each of the bins."""
    width = (upper - lower) / bins
    counts = [0] * bins
    for value in values:
        counts[min(max(math.floor((value - lower) / width), 0), bins - 1)] += 1
    below, target = 0.0, probability * len(values)
    for i, count in enumerate(counts):
        if below + count >= target and count:
            return lower + (i + (target - below) / count) * width
        below += count
    raise ValueError("no values")


# --- ClipNorm ---------------------------------------------------------------------------------------------------------


def _scaled(kept: Kept, signal: Signal, span: Span, recipe: Recipe, calibration: Calibration) -> Cells:
    rows = [row for of_key in kept.values() for row in of_key]
    assert isinstance(signal.bounds, ClipNorm)
    loose = replace(signal, bounds=ClipNorm(l2=signal.bounds.l2))
    measures = [mechanism.measure for mechanism in calibration.summed]
    cells: Cells = {}
    for key, sums in bounded_sums(rows, loose, span, 0, 0, measures=measures).items():
        for output in recipe.outputs:
            value = sums[output.measure]
            step = recipe.measure(output.measure).grid_step
            match output.kind:
                case OutputKind.INTEGER | OutputKind.SCALED:
                    cells[key, output.name] = math.fsum(term.coefficient * sums[term.measure] for term in output.terms)
                case OutputKind.BIN:
                    cells[key, output.name] = value[output.index] * step
                case OutputKind.VECTOR:
                    cells |= {(key, f"{output.name}[{j}]"): number * step for j, number in enumerate(value)}
                case OutputKind.MEAN:
                    cells[key, f"{output.name}.centred"] = value * step
                case OutputKind.VARIANCE:
                    offset = recipe.measure(output.measure).centre * step
                    count = sums[str(output.count)] * recipe.measure(str(output.count)).grid_step
                    cells[key, f"{output.name}.squares"] = value * step + offset * count
    return cells
