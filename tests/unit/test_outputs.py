"""Released columns from noisy integers, against plain Python and against least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines import (
    ZCDP,
    ClipNorm,
    Count,
    CountDistinct,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    PublicPartitions,
    Quantiles,
    Sum,
    TopK,
    Variance,
    VectorSum,
)
from pipelines.calibration import Calibration, calibrate
from pipelines.engine.outputs import Released, consistent_leaves, tree_levels
from pipelines.recipes import Recipe, recipe_of
from tests.support.plain_outputs import released_row
from tests.support.projects import a_signal

VALUE = Interval(-1, 5)
EVERY: dict[str, Any] = {
    "n": Count(),
    "u": CountDistinct(),
    "s": Sum("value", VALUE),
    "m": Mean("value", VALUE),
    "v": Variance("value", Interval(-1, 5, step=0.01)),
    "h": Histogram("value", (-1, 0, 2, 5)),
    "q": Quantiles("value", VALUE, (0.01, 0.5, 0.999)),
    "t": TopK("tag", ("a", "b", "é"), 3),
    "x": VectorSum("vector", 3, 1.5),
}
BOUNDS = [KeepRandom(max_partitions=2, max_rows_per_partition=3), ClipNorm(l2=2.0, max_partitions=3)]


def planned(bounds: Any) -> tuple[Recipe, Calibration]:
    signal = a_signal(
        aggregates=EVERY, bounds=bounds, partitions=PublicPartitions({"item_id": (1,)}), budget_per_release=ZCDP(0.5)
    )
    recipe = recipe_of(signal)
    return recipe, calibrate(signal, recipe, 1e-6)


def least_squares(noisy: np.ndarray[Any, Any], levels: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """The leaves that fit all nodes best, by NumPy's solver."""
    leaves = np.eye(levels[0], dtype=np.int64)
    design = tree_levels(leaves, levels).T
    return np.linalg.lstsq(design, noisy, rcond=None)[0]


@pytest.mark.parametrize("bounds", BOUNDS, ids=["kept", "clipped"])
def test_columns_equal_the_plain_computation(bounds: Any) -> None:
    """Rows of every size: negative counts, nothing, a few units, many; values far outside of what is possible too."""
    recipe, calibration = planned(bounds)
    rng = np.random.default_rng(2)
    sizes = np.array([-100, 0, 1, 5, 300, 10_000, 10**6])
    noisy = {}
    for mechanism in calibration.summed:
        measure = mechanism.measure
        one = round(1 / measure.grid_step) if measure.code is None else measure.row_linf
        shape = len(sizes) if measure.width == 1 else (len(sizes), measure.width)
        scale = (sizes * one if measure.width == 1 else sizes[:, None] * one).astype(np.float64)
        noisy[measure.name] = (scale * rng.uniform(-0.2, 1, shape) + rng.normal(0, 50 * one, shape)).astype(np.int64)
    columns = Released.of(recipe, calibration).columns(noisy)
    assert list(columns) == [column.name for column in recipe.columns]
    for row in range(len(sizes)):
        plain = {name: values[row] if values.ndim == 1 else values[row].tolist() for name, values in noisy.items()}
        leaves = {
            m.measure.name: least_squares(
                np.array(plain[m.measure.name]) * m.measure.grid_step, m.measure.levels
            ).tolist()
            for m in calibration.summed
            if m.measure.levels
        }
        for name, value in released_row(plain, recipe, calibration, leaves).items():
            found = columns[name][row].as_py()
            tolerance = 1e-6 if isinstance(value, list) else 1e-7
            exact = isinstance(value, str | int)
            assert found == (value if exact else pytest.approx(value, rel=tolerance, abs=tolerance)), (name, sizes[row])


@pytest.mark.parametrize("levels", [(16,), (256, 16), (4096, 256, 16)])
def test_trees_are_made_consistent_by_least_squares(levels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    exact = rng.integers(0, 40, (3, levels[0]))
    nodes = tree_levels(exact, levels)
    assert nodes.shape == (3, sum(levels))
    assert consistent_leaves(nodes.astype(float), levels) == pytest.approx(exact), "what is consistent stays"
    if levels[0] <= 256:
        noisy = nodes + rng.normal(0, 9, nodes.shape)
        found = consistent_leaves(noisy, levels)
        for row in range(3):
            assert found[row] == pytest.approx(least_squares(noisy[row], levels), abs=1e-8)


def test_means_and_quantiles_of_nobody_are_within_their_interval() -> None:
    recipe, calibration = planned(BOUNDS[0])
    nothing = {
        m.measure.name: np.zeros(1 if m.measure.width == 1 else (1, m.measure.width), dtype=np.int64)
        for m in calibration.summed
    }
    columns = {name: column[0].as_py() for name, column in Released.of(recipe, calibration).columns(nothing).items()}
    assert columns["m"] == pytest.approx(2.0, abs=0.01), "the middle"
    assert columns["m_half_width"] == 6.0, "anything in the interval"
    assert columns["q_p50"] == 2.0
    assert columns["q_p50_half_width"] == 3.0, "anything in the interval"
    assert columns["t_1"] == "a", "ties go to the one named first"
    assert 0 <= columns["v"] <= 9
    assert columns["v_half_width"] == 9.0


def test_ratios_are_held_by_their_half_widths() -> None:
    """30,000 releases of a group of 3,000 rows: the mean and the variance lie within their half-widths in 95 of 100
    (four standard errors are half a percent), and within 0.8 of them clearly less often."""
    recipe, calibration = planned(BOUNDS[0])
    rng = np.random.default_rng(4)
    rows, runs = 3000, 30_000
    values = rng.beta(2, 5, rows) * 6 - 1
    names = ("n", "m.centred_sum", "v.centred_sum", "v.centred_squares")
    measures = {m.measure.name: m for m in calibration.summed}
    outputs = {output.name: output for output in recipe.outputs}
    used = {name: outputs[name] for name in ("m", "v")}
    exact: dict[str, float] = {}
    for output in used.values():
        summing = measures[output.first or output.measure].measure
        steps = np.floor(values / summing.grid_step + 0.5)
        exact[summing.name] = float((steps - summing.centre).sum())
        if output.first:
            squares = measures[output.measure].measure
            exact[squares.name] = float(((steps - squares.square_centre) ** 2 - squares.centre).sum())
        assert output.count is not None
        exact[output.count] = rows / measures[output.count].measure.grid_step
    assert set(exact) >= set(names[:1])
    noisy = {
        name: np.round(value + rng.normal(0, measures[name].distribution.stddev, runs)).astype(np.int64)
        for name, value in exact.items()
    }
    released = Released(
        outputs=tuple(used.values()),
        measures={name: m.measure for name, m in measures.items()},
        stddevs={name: m.distribution.stddev for name, m in measures.items()},
    ).columns(noisy)
    for name, truth in (("m", values.mean()), ("v", values.var())):
        error = np.abs(released[name].to_numpy() - truth)
        half = released[f"{name}_half_width"].to_numpy()
        assert float((error <= half).mean()) == pytest.approx(0.95, abs=0.01)
        assert float((error <= 0.8 * half).mean()) < 0.92
