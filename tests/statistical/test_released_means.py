"""Released values scatter around the bounded truth, by as much as the manifest says.

The truth comes from plain arithmetic over the definition's words. 10,000 keyed runs a case (without Spark); each mean
is within 5.5 standard errors of it (two-sided, a false-alarm rate of 4e-8 a column), each variance within 5.5 of its
own standard errors; and means off by a tenth of the noise, or noise a tenth larger, are rejected.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks._audited import CASES, GRID, KEPT_ROWS, Laboratory

RUNS = 10_000
LIMIT = 5.5
# Two users with values 0, 2, 5 in each of four items, and one whose six rows of 5 are bounded to three of them.
CROWD_VALUES = [0.0, 2.0, 5.0] * 2
UNIT_VALUES = [5.0] * KEPT_ROWS
CLIP = (4.0, 4.0, 4.0)


def clipped(vector: tuple[float, ...], l2: float) -> NDArray[np.float64]:
    return np.array(vector) * min(1.0, l2 / math.hypot(*vector))


TRUTHS: dict[str, Callable[[list[float]], list[float]]] = {
    "count": lambda values: [len(values)],
    "count_of_empty_groups": lambda values: [len(values) - len(CROWD_VALUES)],
    "sum": lambda values: [sum(min(max(value, GRID.lower), GRID.upper) for value in values)],
    "histogram": lambda values: [
        sum(value < 1 for value in values),
        sum(1 <= value < 3 for value in values),
        sum(value >= 3 for value in values),
    ],
    # All events are a second before the window's end, which is far from a half-life.
    "decayed_count": lambda values: [len(values)],
    "decayed_sum": lambda values: [sum(values)],
}
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("with_unit", [False, True])
@pytest.mark.parametrize("name", TRUTHS)
def test_released_values_scatter_around_the_bounded_truth(name: str, with_unit: bool) -> None:
    laboratory = Laboratory(BY_NAME[name], seed=11)
    items = len(laboratory.case.items)
    columns = laboratory.outputs(RUNS, with_unit=with_unit)[:, items:]  # the first ones say whether a key is released
    values = CROWD_VALUES + (UNIT_VALUES if with_unit else [])
    truth = np.repeat(TRUTHS[name](values), items)
    stddevs = np.repeat([laboratory.calibration.stddev(output) for output in laboratory.recipe.outputs], items)
    assert columns.shape == (RUNS, len(truth))
    assert np.abs(z_of_means(columns, truth, stddevs)).max() < LIMIT
    assert np.abs(z_of_variances(columns, stddevs)).max() < LIMIT
    assert np.abs(z_of_means(columns, truth + stddevs / 10, stddevs)).min() > LIMIT, "a bias must show"
    assert np.abs(z_of_variances(columns, stddevs * 1.1)).min() > LIMIT, "a wrong scale must show"


def z_of_means(
    columns: NDArray[np.float64], truth: NDArray[np.float64], stddevs: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray((columns.mean(axis=0) - truth) / (stddevs / math.sqrt(len(columns))))


def z_of_variances(columns: NDArray[np.float64], stddevs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sample variance of n normal values has the standard error `variance sqrt(2 / (n - 1))`."""
    return np.asarray((columns.var(axis=0, ddof=1) / stddevs**2 - 1) / math.sqrt(2 / (len(columns) - 1)))


def test_vectors_scatter_around_the_clipped_sum() -> None:
    laboratory = Laboratory(BY_NAME["vector_sum"], seed=12)
    columns = laboratory.outputs(RUNS, with_unit=True)[:, len(laboratory.case.items) :].reshape(RUNS, 3, -1)
    truth = 2 * KEPT_ROWS * clipped((0.1, -0.2, 0.3), 1.0) + KEPT_ROWS * clipped(CLIP, 1.0)
    stddev = laboratory.calibration.stddev(laboratory.recipe.outputs[0])
    step = laboratory.recipe.measures[0].grid_step
    # Vectors are rounded towards zero to the grid, which shortens each coordinate of each row by a step at most.
    slack = 9 * step + LIMIT * stddev / math.sqrt(RUNS)
    assert np.abs(columns.mean(axis=0) - truth[:, None]).max() < slack
    flat = columns.reshape(RUNS, -1)
    assert np.abs(z_of_variances(flat, np.full(flat.shape[1], stddev))).max() < LIMIT
    assert np.abs(z_of_variances(flat, np.full(flat.shape[1], 1.1 * stddev))).min() > LIMIT
