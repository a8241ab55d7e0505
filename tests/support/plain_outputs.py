"""Released columns from a partition's sums, one number at a time in plain Python, by the definition's words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.calibration import Calibration
from pipelines.recipes import Output, OutputKind, Recipe

__all__ = ["released_row"]

_Z = 1.959963984540054


def released_row(
    sums: Mapping[str, Any],
    recipe: Recipe,
    calibration: Calibration,
    leaves: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """The columns of one row, half-widths too.

    Args:
        sums: measurement → integer, or a sequence of them; of a tree, its leaves.
        recipe: the signal's outputs.
        calibration: their noise, for half-widths.
        leaves: measurement → consistent leaves of a tree; None: the leaves in `sums` are consistent.
    """
    row: dict[str, Any] = {}
    for output in recipe.outputs:
        value = sums[output.measure]
        measure = calibration.mechanism(output.measure).measure
        match output.kind:
            case OutputKind.INTEGER:
                row[output.name] = value
            case OutputKind.SCALED:
                row[output.name] = sum(term.coefficient * sums[term.measure] for term in output.terms)
            case OutputKind.BIN:
                row[output.name] = value[output.index] * measure.grid_step
            case OutputKind.TOP:
                assert measure.code is not None
                ranked = sorted(range(len(value)), key=lambda i: (-value[i], i))
                row[output.name] = measure.code.candidates[ranked[output.index]]
            case OutputKind.VECTOR:
                row[output.name] = [number * measure.grid_step for number in value]
            case OutputKind.QUANTILE:
                tree = leaves[output.measure] if leaves else [leaf * measure.grid_step for leaf in value]
                row[output.name], row[f"{output.name}_half_width"] = _quantile(output, calibration, tree)
            case OutputKind.MEAN | OutputKind.VARIANCE:
                row[output.name], row[f"{output.name}_half_width"] = _moment(output, sums, calibration)
    return row


def _moment(output: Output, sums: Mapping[str, Any], calibration: Calibration) -> tuple[float, float]:
    """Noise of a numerator and of a count under a ratio, by the first derivatives."""
    assert output.count is not None
    counting = calibration.mechanism(output.count)
    summing = calibration.mechanism(output.first or output.measure)
    interval, step = summing.measure.interval, summing.measure.grid_step
    assert interval is not None
    count = max(sums[output.count] * counting.measure.grid_step, 1.0)
    centre = summing.measure.centre * step
    mean = min(max(sums[summing.measure.name] * step / count + centre, interval.lower), interval.upper)
    mean_stddev = math.hypot(summing.noise_stddev / count, (mean - centre) / count * counting.noise_stddev)
    width = interval.upper - interval.lower
    if output.kind is OutputKind.MEAN:
        return mean, min(_Z * mean_stddev, width)
    squaring = calibration.mechanism(output.measure)
    about_offset = sums[output.measure] * squaring.measure.grid_step / count
    square = about_offset + squaring.measure.centre * squaring.measure.grid_step
    away = mean - squaring.measure.square_centre * step
    variance = min(max(square - away**2, 0.0), width**2 / 4)
    square_stddev = math.hypot(squaring.noise_stddev / count, about_offset / count * counting.noise_stddev)
    return variance, min(_Z * math.hypot(square_stddev, 2 * away * mean_stddev), width**2 / 4)


def _quantile(output: Output, calibration: Calibration, leaves: Sequence[float]) -> tuple[float, float]:
    mechanism = calibration.mechanism(output.measure)
    interval = mechanism.measure.interval
    assert interval is not None
    ranks = [math.fsum(leaves[: i + 1]) for i in range(len(leaves))]
    total = max(ranks[-1], 0.0)
    # No rank may fall: half-way between the largest so far and the smallest to come, between nobody and everybody.
    rising = [min(max((max(ranks[: i + 1]) + min(ranks[i:])) / 2, 0.0), total) for i in range(len(ranks))]
    rising[-1] = total
    p = output.probability
    value = _where(rising, p * total, interval.lower, interval.upper)
    # A sixteenth of the range weighs 1 - p before the quantile and -p beyond it; and 7.5 nodes of each lower level.
    before = 16 * (value - interval.lower) / (interval.upper - interval.lower)
    drawn = (1 - p) ** 2 * before + p**2 * (16 - before) + 7.5 * (len(mechanism.measure.levels) - 1)
    slack = _Z * mechanism.noise_stddev * math.sqrt(drawn) / max(total, 1.0)
    low = _where(rising, (p - slack) * total, interval.lower, interval.upper) if p > slack else interval.lower
    high = _where(rising, (p + slack) * total, interval.lower, interval.upper) if p + slack < 1 else interval.upper
    return value, max(value - low, high - value)


def _where(ranks: Sequence[float], target: float, lower: float, upper: float) -> float:
    """Where ranks reach the target: linear within a bin, the middle if nobody is there."""
    if not ranks[-1]:
        return (lower + upper) / 2
    width, below = (upper - lower) / len(ranks), 0.0
    for i, rank in enumerate(ranks):
        if rank >= target:
            part = min(max((target - below) / (rank - below), 0.0), 1.0) if rank > below else 0.5
            return lower + (i + part) * width
        below = rank
    raise AssertionError("unreachable")
