"""Post-processing steps: what they compute, that they help, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.errors import DefinitionError
from pipelines import ConsistentWith, Count, Interval, Mean, NonNegative, ShrinkTo, Sum
from pipelines.engine.post_processing import Step
from pipelines.recipes import UNCERTAIN, not_negative, recipe_of
from tests.support.projects import a_signal

PARENT_NOISE, CHILD_NOISE = 2.0, 5.0


def step(declared: NonNegative | ConsistentWith | ShrinkTo, parents: pa.Table | None, folder: Path) -> Step:
    files: tuple[str, ...] = ()
    if parents is not None:
        path = folder / "parents.parquet"
        pq.write_table(parents, path)
        files = (str(path),)
    return Step(
        step=declared,
        columns=declared.columns,
        keys=("genre",) if files else (),
        files=files,
        stddevs={"n": CHILD_NOISE},
        parent_stddevs={"n": PARENT_NOISE},
    )


def test_negative_values_are_raised_to_zero_and_nothing_else_changes(tmp_path: Path) -> None:
    table = pa.table({"item": [1, 2, 3], "n": [-4, 0, 7], "m": [-1.5, 2.0, -3.0]})
    assert step(NonNegative(columns=("n",)), None, tmp_path).table(table).to_pydict() == {
        "item": [1, 2, 3],
        "n": [0, 0, 7],
        "m": [-1.5, 2.0, -3.0],
    }


def test_without_columns_counts_and_sums_of_what_is_never_negative_are_meant() -> None:
    aggregates = {
        "n": Count(),
        "up": Sum("value", Interval(0, 5)),
        "both": Sum("value", Interval(-1, 5)),
        "mean": Mean("value", Interval(0, 5)),
    }
    assert not_negative(recipe_of(a_signal(aggregates=aggregates))) == ("n", "up")


def children(random: np.random.Generator, groups: int, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = random.integers(0, 200, (groups, each)).astype(float)
    noisy = truth + random.normal(0, CHILD_NOISE, truth.shape)
    parents = truth.sum(axis=1) + random.normal(0, PARENT_NOISE, groups)
    return truth, noisy, parents


@pytest.mark.parametrize("each", [1, 2, 7])
def test_consistency_is_the_weighted_least_squares_estimate(tmp_path: Path, each: int) -> None:
    random = np.random.default_rng(3)
    _, noisy, parents = children(random, 20, each)
    genres = [f"g{i}" for i in range(20)]
    table = pa.table({"genre": np.repeat(genres, each), "item": np.tile(np.arange(each), 20), "n": noisy.ravel()})
    declared = ConsistentWith(signal="genres", version=1, columns=("n",))
    got = step(declared, pa.table({"genre": genres, "n": parents}), tmp_path).table(table)
    # Each child's observation and their parent's, divided by their noise, in one least-squares problem.
    design = np.vstack([np.eye(each) / CHILD_NOISE, np.ones((1, each)) / PARENT_NOISE])
    for group in range(20):
        observed = np.append(noisy[group] / CHILD_NOISE, parents[group] / PARENT_NOISE)
        expected = np.linalg.lstsq(design, observed, rcond=None)[0]
        assert np.allclose(got["n"].to_numpy()[group * each : (group + 1) * each], expected)


def test_consistency_lowers_the_error_and_exactly_adds_up(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    truth, noisy, parents = children(random, 2000, 2)
    ids = np.arange(2000)
    table = pa.table({"genre": np.repeat(ids, 2), "item": np.tile([0, 1], 2000), "n": noisy.ravel()})
    above = pa.table({"genre": ids, "n": parents})
    declared = ConsistentWith(signal="genres", version=1, columns=("n",))
    better = step(declared, above, tmp_path).table(table)["n"].to_numpy()
    before, after = np.mean((noisy.ravel() - truth.ravel()) ** 2), np.mean((better - truth.ravel()) ** 2)
    # By theory v - v^2 / (V + 2 v): 25 before, 13.4 after; the means of 4000 squares vary by some 3 %.
    assert 0.9 * 25 < before < 1.1 * 25
    assert 0.9 * 13.4 < after < 1.1 * 13.4
    exact = ConsistentWith(signal="genres", version=1, columns=("n",), exactly=True)
    added = step(exact, above, tmp_path).table(table)["n"].to_numpy().reshape(-1, 2).sum(axis=1)
    assert np.allclose(added, parents)


def test_children_of_a_parent_that_was_not_released_stay(tmp_path: Path) -> None:
    table = pa.table({"genre": ["a", "b"], "n": [3.0, 4.0]})
    declared = ConsistentWith(signal="genres", version=1, columns=("n",), exactly=True)
    got = step(declared, pa.table({"genre": ["a"], "n": [10.0]}), tmp_path).table(table)
    assert got["n"].to_pylist() == [10.0, 4.0]


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
def test_shrinkage_never_loses_much_and_gains_where_children_are_alike(tmp_path: Path, spread: float) -> None:
    random = np.random.default_rng(5)
    groups, each, noise = 300, 20, 1.0
    parents = random.normal(3, 1, groups)
    truth = parents[:, None] + random.normal(0, spread, (groups, each))
    noisy = truth + random.normal(0, noise, truth.shape)
    ids = np.arange(groups)
    half = np.full(groups * each, 1.959963984540054 * noise)
    table = pa.table({"genre": np.repeat(ids, each), "m": noisy.ravel(), "m" + UNCERTAIN: half})
    above = pa.table({"genre": ids, "m": parents, "m" + UNCERTAIN: np.full(groups, 0.02)})
    got = step(ShrinkTo(signal="genres", version=1, columns=("m",)), above, tmp_path).table(table)
    error = np.mean((got["m"].to_numpy() - truth.ravel()) ** 2)
    ideal = spread**2 / (spread**2 + noise**2)
    # The weight is estimated from twenty children, which costs some of the ideal gain.
    assert error < ideal + 0.15
    told = np.square(got["m" + UNCERTAIN].to_numpy() / 1.959963984540054).mean()
    assert abs(told - error) < 0.2


def test_steps_for_columns_of_another_kind_are_refused() -> None:
    with pytest.raises(DefinitionError, match="ShrinkTo: found 'users', allowed: no column of this signal"):
        a_signal(post_processing=(ShrinkTo(signal="genres", version=1, columns=("users",)),))
    with pytest.raises(DefinitionError, match="NonNegative: found 'm', allowed: n"):
        a_signal(aggregates={"n": Count(), "m": Mean("v", Interval(0, 1))}, post_processing=(NonNegative(columns="m"),))  # type: ignore[arg-type]
