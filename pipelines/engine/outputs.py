"""Released columns from noisy integers: post-processing, row by row in NumPy, no Spark.

Nothing here sees an exact sum. Half-widths are of intervals that hold the value that noise was added to with
probability about 95 %, by the normal approximation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.calibration import TWO_SIDED_95, Calibration
from pipelines.engine.sums import int_column
from pipelines.measurements import TREE_FANOUT, Measure
from pipelines.recipes import UNCERTAIN, Output, OutputKind, Recipe

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Released", "consistent_leaves", "tree_levels"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """How a release's columns are computed. Travels with the task; holds public things only.

    Attributes:
        outputs: the columns, in order.
        measures: by name.
        stddevs: of each measurement's noise, in grid steps.
    """

    outputs: tuple[Output, ...]
    measures: Mapping[str, Measure]
    stddevs: Mapping[str, float]

    @classmethod
    def of(cls, recipe: Recipe, calibration: Calibration) -> Released:
        """For a signal."""
        return cls(
            outputs=recipe.outputs,
            measures={m.measure.name: m.measure for m in calibration.summed},
            stddevs={m.measure.name: m.distribution.stddev for m in calibration.summed},
        )

    def columns(self, noisy: Mapping[str, NDArray[np.int64]]) -> dict[str, pa.Array[Any]]:
        """The released columns.

        Args:
            noisy: measurement → noisy integers, shape `(n,)`, or `(n, width)` of a wide one.
        """
        import pyarrow as pa

        columns: dict[str, pa.Array[Any]] = {}
        trees: dict[str, Floats] = {}
        for output in self.outputs:
            measure = self.measures[output.measure]
            values = noisy[output.measure]
            if output.kind is OutputKind.INTEGER:
                columns[output.name] = pa.array(values, pa.int64())
            elif output.kind is OutputKind.SCALED:
                columns[output.name] = pa.array(
                    np.sum([term.coefficient * noisy[term.measure] for term in output.terms], axis=0)
                )
            elif output.kind is OutputKind.BIN:
                counts = values[:, output.index]
                columns[output.name] = pa.array(counts if measure.grid_step == 1 else counts * measure.grid_step)
            elif output.kind is OutputKind.TOP:
                columns[output.name] = _ranked(values, measure, output.index)
            elif output.kind is OutputKind.VECTOR:
                columns[output.name] = _vectors(values, measure)
            else:
                if output.kind is OutputKind.QUANTILE:
                    if output.measure not in trees:
                        trees[output.measure] = consistent_leaves(
                            values.astype(np.float64) * measure.grid_step, measure.levels
                        )
                    value, half = self._quantile(output, measure, trees[output.measure])
                else:
                    value, half = self._moment(output, noisy)
                columns[output.name] = pa.array(value)
                columns[output.name + UNCERTAIN] = pa.array(half)
        return columns

    def _moment(self, output: Output, noisy: Mapping[str, NDArray[np.int64]]) -> tuple[Floats, Floats]:
        """A mean or a variance, and its half-width."""
        assert output.count is not None
        count_step = self.measures[output.count].grid_step
        count = np.maximum(noisy[output.count] * count_step, 1.0)
        count_stddev = self.stddevs[output.count] * count_step
        first = self.measures[output.first or output.measure]
        step = first.grid_step
        assert first.interval is not None
        low, high = first.interval.lower, first.interval.upper
        centred = noisy[first.name] * step / count
        mean = np.clip(centred + first.centre * step, low, high)
        mean_stddev = np.hypot(self.stddevs[first.name] * step, (mean - first.centre * step) * count_stddev) / count
        if output.kind is OutputKind.MEAN:
            return mean, np.minimum(TWO_SIDED_95 * mean_stddev, high - low)
        squares = self.measures[output.measure]
        widest = (high - low) ** 2 / 4
        offset = squares.centre * squares.grid_step
        square = noisy[squares.name] * squares.grid_step / count + offset
        middle = squares.square_centre * step
        variance = np.clip(square - np.square(mean - middle), 0.0, widest)
        spread = np.hypot(self.stddevs[squares.name] * squares.grid_step, (square - offset) * count_stddev) / count
        spread = np.hypot(spread, 2 * (mean - middle) * mean_stddev)
        return variance, np.minimum(TWO_SIDED_95 * spread, widest)

    def _quantile(self, output: Output, measure: Measure, leaves: Floats) -> tuple[Floats, Floats]:
        interval = measure.interval
        assert interval is not None
        cumulative, p = _monotone(np.cumsum(leaves, axis=1)), output.probability
        total = cumulative[:, -1]

        def at(probability: float | Floats) -> Floats:
            targets = np.clip(probability, 0.0, 1.0) * total
            return _read_off(cumulative, targets, interval.lower, interval.upper)

        value = at(p)
        # Of the sixteen widest nodes, those before the quantile count 1 - p in its rank and the others -p; of each
        # lower level at most 15 nodes are added, half of them on average.
        before = (value - interval.lower) / (interval.upper - interval.lower) * TREE_FANOUT
        drawn = before * (1 - p) ** 2 + (TREE_FANOUT - before) * p**2
        drawn += (len(measure.levels) - 1) * (TREE_FANOUT - 1) / 2
        slack = TWO_SIDED_95 * self.stddevs[measure.name] * measure.grid_step * np.sqrt(drawn) / np.maximum(total, 1.0)
        # Where noise may outweigh all rows on one side, the quantile may lie anywhere there.
        low = np.where(p > slack, at(p - slack), interval.lower)
        high = np.where(p + slack < 1, at(p + slack), interval.upper)
        return value, np.maximum(value - low, high - value)


def _monotone(ranks: Floats) -> Floats:
    """Noisy cumulative counts as ones that never fall, from 0 to the total, shape `(n, bins)`.

    Each is half-way between the largest before it and the smallest after it, which moves a rank up no more than down.
    To raise negative leaves to zero instead would count noise as rows wherever nobody is: where much of a range is
    empty, nearly all the mass would be there.
    """
    total = np.maximum(ranks[:, -1:], 0.0)
    rising = np.maximum.accumulate(ranks, axis=1)
    falling = np.minimum.accumulate(ranks[:, ::-1], axis=1)[:, ::-1]
    monotone = np.clip((rising + falling) / 2, 0.0, total)
    monotone[:, -1:] = total
    return np.asarray(monotone, dtype=np.float64)


def _read_off(cumulative: Floats, targets: Floats, lower: float, upper: float) -> Floats:
    """Where cumulative counts reach the targets, shape `(n,)`, linear within a bin; the middle if nobody is there."""
    n, width = cumulative.shape
    bins = np.minimum((cumulative < targets[:, None]).sum(axis=1), width - 1)
    rows = np.arange(n)
    before = np.where(bins > 0, cumulative[rows, np.maximum(bins - 1, 0)], 0.0)
    inside = cumulative[rows, bins] - before
    part = np.clip(np.where(inside > 0, (targets - before) / np.where(inside > 0, inside, 1.0), 0.5), 0.0, 1.0)
    values = lower + (bins + part) * (upper - lower) / width
    return np.where(cumulative[:, -1] > 0, values, (lower + upper) / 2)


def tree_levels(leaves: NDArray[np.int64], levels: tuple[int, ...]) -> NDArray[np.int64]:
    """All nodes of trees from their leaves, level after level from the widest: shape `(n, sum(levels))`."""
    parts = [leaves]
    for width in levels[1:]:
        parts.append(parts[-1].reshape(len(leaves), width, TREE_FANOUT).sum(axis=2))
    return np.concatenate(parts, axis=1)


def consistent_leaves(noisy: NDArray[Any], levels: tuple[int, ...]) -> Floats:
    """The leaves that fit all noisy nodes of a tree best, by least squares (Hay et al. 2010, Theorem 3).

    Args:
        noisy: every node below the root, all with the same noise, shape `(n, sum(levels))`.
        levels: nodes in each level, from the widest.

    Returns:
        Shape `(n, levels[0])`. Children add up to their parents.
    """
    edges = np.cumsum([0, *levels])
    nodes = [noisy[:, a:b] for a, b in pairwise(edges)]
    fanout = TREE_FANOUT
    # Upwards: each node's best estimate from its subtree, weighting its own value against its children's sum.
    estimates = [nodes[0]]
    for height, own in enumerate(nodes[1:], start=2):
        children = estimates[-1].reshape(len(noisy), own.shape[1], fanout).sum(axis=2)
        weight = (fanout**height - fanout ** (height - 1)) / (fanout**height - 1)
        estimates.append(weight * own + (1 - weight) * children)
    # Downwards: what a parent has more than its children is shared out among them evenly.
    final = estimates[-1]
    for lower in reversed(estimates[:-1]):
        children = lower.reshape(len(noisy), final.shape[1], fanout)
        final = (children + ((final - children.sum(axis=2)) / fanout)[:, :, None]).reshape(len(noisy), -1)
    return np.asarray(final, dtype=np.float64)


def _ranked(values: NDArray[np.int64], measure: Measure, rank: int) -> pa.Array[Any]:
    """The candidate with the `rank`-th largest noisy count; ties go to the one named first."""
    import pyarrow as pa

    assert measure.code is not None
    best = np.argsort(-values, axis=1, kind="stable")[:, rank]
    candidates: Any = list(measure.code.candidates)
    named: pa.Array[Any] = pa.array(candidates).take(int_column(best))
    return named


def _vectors(values: NDArray[np.int64], measure: Measure) -> pa.Array[Any]:
    import pyarrow as pa

    flat: Any = pa.array((values * measure.grid_step).astype(np.float32).reshape(-1))
    offsets: Any = pa.array(np.arange(len(values) + 1, dtype=np.int32) * measure.width)
    lists: pa.Array[Any] = pa.ListArray.from_arrays(offsets, flat)
    return lists
