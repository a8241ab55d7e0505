"""Two rounds of selection: what the first finds, and where the second puts a unit's weight."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from pipelines import AdaptiveWeights, KeepRandom, PrivateSelection, WeightedUnits
from pipelines.calibration import calibrate
from pipelines.engine.bounding import bounds_of
from pipelines.engine.first_round import FirstRound, Found
from pipelines.engine.kernel import Bounds, Salts, bounded_sums
from pipelines.noise import ZeroNoise, discrete_gaussian, gaussian_tail_probability
from pipelines.recipes import recipe_of
from pipelines.thresholds import Selecting
from tests.support.projects import a_signal

SIGNAL = a_signal(
    bounds=KeepRandom(max_partitions=2, max_rows_per_partition=1),
    partitions=PrivateSelection(delta=1e-7, by=AdaptiveWeights(max_keys=5)),
)
RECIPE = recipe_of(SIGNAL)
CALIBRATION = calibrate(SIGNAL, RECIPE, 1e-6)
SALTS = Salts(rows=1, partitions=2)


def rows(edges: list[tuple[int, str]]) -> pa.Table:
    return pa.table({"__u0": [user for user, _ in edges], "__k0": [key for _, key in edges]})


def found_in(folder: Path, keys: list[str]) -> Found:
    pq.write_table(pa.table({"__k0": pa.array(keys, pa.string())}), folder / "part-00000.parquet")
    return Found(str(folder))


def weights(table: pa.Table, found: Found | None) -> dict[str, float]:
    bounds = bounds_of(SIGNAL, RECIPE, CALIBRATION, SALTS, found=found)
    names = [mechanism.measure.name for mechanism in CALIBRATION.summed]
    place = names.index("selection.weight")
    sums = pa.Table.from_batches(list(bounded_sums(table, bounds)))
    return dict(zip(sums["__k0"].to_pylist(), (sums[f"__m{place}"].to_numpy() / 2**20).tolist(), strict=True))


def test_the_second_round_spreads_a_units_whole_weight_over_what_was_not_found(tmp_path: Path) -> None:
    table = rows([(1, "a"), (1, "b"), (1, "c"), (2, "a")])
    assert weights(table, None) == pytest.approx({"a": 3**-0.5 + 1, "b": 3**-0.5, "c": 3**-0.5}, abs=1e-5)
    assert weights(table, found_in(tmp_path, ["a"])) == pytest.approx({"a": 0, "b": 2**-0.5, "c": 2**-0.5}, abs=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_a_unit_moves_weights_by_norm_one_at_most_whatever_was_found(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    edges = {(int(u), f"k{k}") for u, k in zip(random.integers(0, 12, 90), random.integers(0, 15, 90), strict=True)}
    found = found_in(tmp_path, [f"k{k}" for k in random.permutation(15)[:5]])
    for scheme in (None, found):
        everybody = weights(rows(sorted(edges)), scheme)
        for unit in range(12):
            rest = weights(rows(sorted(edge for edge in edges if edge[0] != unit)), scheme)
            change = [everybody[key] - rest.get(key, 0.0) for key in everybody]
            assert sum(value**2 for value in change) <= 1
            assert max(change) <= 1
            assert min(change) >= 0


def test_the_first_round_finds_what_reaches_its_threshold() -> None:
    sums = pa.table({"__k0": ["a", "b", "a", "c"], "__m0": [5, 9, 5, 10]})
    stage = FirstRound(source=ZeroNoise(), measurement="w", sigma=3.0, threshold=10, keys=1)
    assert sorted(stage.table(sums)["__k0"].to_pylist()) == ["a", "c"]


def test_keys_are_found_by_all_their_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"__k0": ["a", "b"], "__k1": [1, 2]}), tmp_path / "part-0.parquet")
    asked = {"__k0": pa.array(["a", "a", "b", "c"]), "__k1": pa.array([1, 2, 2, 1])}
    assert Found(str(tmp_path)).among(asked).tolist() == [True, False, True, False]


def test_nothing_found_is_nothing(tmp_path: Path) -> None:
    assert not found_in(tmp_path, []).among({"__k0": pa.array(["a"])}).any()


def test_a_first_rounds_weights_are_spread_over_all_keys_whatever_was_found(tmp_path: Path) -> None:
    """They meet the noise that found keys, so they must be the same sums to the last bit."""
    table = rows([(1, "a"), (1, "b"), (1, "c"), (2, "a"), (3, "d"), *((4, f"k{i}") for i in range(9))])
    early = bounds_of(SIGNAL, RECIPE, CALIBRATION, SALTS, first=True)
    found = bounds_of(SIGNAL, RECIPE, CALIBRATION, SALTS, found=found_in(tmp_path, ["a", "k3"]))
    place = [mechanism.measure.name for mechanism in CALIBRATION.summed].index("selection.first_weight")

    def sums(bounds: Bounds, column: str) -> dict[str, int]:
        batch = pa.Table.from_batches(list(bounded_sums(table, bounds)))
        return dict(zip(batch["__k0"].to_pylist(), batch[column].to_pylist(), strict=True))

    assert sums(early, "__m0") == sums(found, f"__m{place}")


SELECTING = CALIBRATION.selecting
assert SELECTING is not None
MEAN_SIGMA = math.hypot(
    *(
        part / sum(SELECTING.parts) * CALIBRATION.mechanism(f"selection.{name}").distribution.scale
        for part, name in zip(SELECTING.parts, ("first_weight", "weight"), strict=True)
    )
)


@pytest.mark.parametrize(
    ("threshold", "sigma", "share"),
    [
        (SELECTING.first_threshold, CALIBRATION.mechanism("selection.first_weight").distribution.scale, 0.1),
        (SELECTING.threshold, MEAN_SIGMA, 0.9),
    ],
)
def test_a_units_own_keys_show_by_its_weights_over_them(threshold: int, sigma: float, share: float) -> None:
    """Either threshold is the smallest that hides t keys of weight `1 / sqrt(t)` each but for its part of delta."""

    def shown(least: int) -> float:
        chances = [stats.norm.sf((least - 2**20 / math.sqrt(t)) / sigma) for t in range(1, 6)]
        return float(max(-np.expm1(t * np.log1p(-p)) for t, p in enumerate(chances, start=1)))

    assert shown(threshold) <= share * 1e-7 < shown(threshold - 20), "up to a few steps of 2^-20 for rounding"


def test_the_mean_of_both_rounds_is_no_noisier_than_one_round() -> None:
    spent = sum(CALIBRATION.mechanism(f"selection.{name}").rho for name in ("first_weight", "weight"))
    assert pytest.approx(2**20 / math.sqrt(2 * spent), rel=1e-6) == MEAN_SIGMA
    assert SELECTING.noise.scale == pytest.approx(MEAN_SIGMA, rel=1e-9)


def test_a_mean_that_reaches_its_threshold_or_a_first_round_that_does() -> None:
    """Weighed as 1 to 3: the integers decide, not a quotient."""
    rule = Selecting(threshold=10, noise=SELECTING.noise, first_threshold=30, parts=(1, 3))
    first, last = np.array([30, 29, 10, 9, 40, -20]), np.array([-99, 3, 10, 10, 10, 20])
    assert rule.selects(last, first).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize("sigmas", [(8.0, 8.0), (9.5, 31.0), (60.0, 20.0)])
@pytest.mark.parametrize("parts", [(1, 1), (1, 3), (9, 11)])
def test_the_tail_of_a_mean_of_two_draws_is_below_what_its_threshold_is_set_by(
    sigmas: tuple[float, float], parts: tuple[int, int]
) -> None:
    """Exactly convolved: `P[(a1 n1 + a2 n2) / (a1 + a2) >= k] <= P[n >= k - 1]` at the mean's sigma."""
    reach = 15 * int(max(sigmas))
    at = np.arange(-reach, reach + 1)
    laws = []
    for sigma in sigmas:
        law = np.exp(-np.square(at / sigma) / 2)
        laws.append(law / law.sum())
    sigma = math.hypot(*(part / sum(parts) * one for part, one in zip(parts, sigmas, strict=True)))
    noise = discrete_gaussian(sigma)
    tail_of_last = np.append(laws[1][::-1].cumsum()[::-1], 0.0)
    for k in range(1, int(7 * sigma)):
        least = np.ceil((sum(parts) * k - parts[0] * at) / parts[1])
        exact = float(laws[0] @ tail_of_last[np.clip(least + reach, 0, len(at)).astype(int)])
        assert exact <= gaussian_tail_probability(noise, k - 1) * (1 + 1e-9)


def test_both_rounds_are_paid_for() -> None:
    one = calibrate(replace(SIGNAL, partitions=PrivateSelection(delta=1e-7, by=WeightedUnits(max_keys=5))),
                    recipe_of(replace(SIGNAL, partitions=PrivateSelection(delta=1e-7, by=WeightedUnits(max_keys=5)))),
                    1e-6)  # fmt: skip
    assert one.selecting is not None
    assert one.selecting.first_threshold is None
    assert sum(mechanism.rho for mechanism in CALIBRATION.mechanisms) == pytest.approx(10.0)
    first, second = (CALIBRATION.mechanism(f"selection.{name}") for name in ("first_weight", "weight"))
    assert first.rho / (first.rho + second.rho) == pytest.approx(0.25)
    assert float(CALIBRATION.selection_delta) == 1e-7
