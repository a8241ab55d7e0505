"""Private selection: the threshold keeps its delta and is the smallest to do so; keys show as often as theory says.

The last part runs the whole engine (without Spark) on keys of 1 to 50 units. Its test has a false-alarm rate of 1e-6,
and its power, computed, is above 0.99 for a scale that is a tenth off and for a threshold that is off by one unit.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import mpmath
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import stats

from benchmarks._sparkless import Sparkless
from pipelines import ZCDP, CountDistinct, KeepRandom, PrivateSelection, Signal
from pipelines.calibration import calibrate
from pipelines.definitions import AdaptiveWeights, WeightedUnits
from pipelines.noise import discrete_gaussian
from pipelines.recipes import recipe_of
from pipelines.thresholds import selection_threshold
from tests.statistical.exact import FALSE_ALARM, KEY, draw, gaussian_tail
from tests.support.projects import SPAN, a_signal

L0S = (1, 3, 8, 100)
DELTAS = (1e-3, 1e-6, 1e-9, 1e-12)


def exposure(sigma: float, threshold: int, l0: int) -> mpmath.mpf:
    """Probability that any of `l0` keys with one unit each shows: `1 - (1 - P[1 + X >= threshold])^l0`."""
    with mpmath.workdps(60):
        return 1 - (1 - gaussian_tail(sigma, threshold - 1)) ** l0


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.7, 28.0])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("l0", L0S)
def test_the_threshold_is_the_smallest_that_keeps_its_delta(sigma: float, l0: int, delta: float) -> None:
    threshold = selection_threshold(discrete_gaussian(sigma), l0, delta)
    assert threshold >= 2, "a key of one unit without noise must not show"
    assert exposure(sigma, threshold, l0) <= mpmath.mpf(delta)
    assert threshold == 2 or exposure(sigma, threshold - 1, l0) > mpmath.mpf(delta)


@pytest.mark.parametrize("l0", [1, 100])
def test_a_composed_threshold_is_at_most_one_too_large(l0: int) -> None:
    sigma, delta = 5000.0, 1e-9
    threshold = selection_threshold(discrete_gaussian(sigma), l0, delta)
    x = np.arange(-100_000, 100_001)
    weights = np.exp(-np.square(x / sigma) / 2)
    tails = weights[::-1].cumsum()[::-1] / weights.sum()

    def shown(least: int) -> float:
        return -math.expm1(l0 * math.log1p(-float(tails[least - 1 + 100_000])))

    assert shown(threshold) <= delta < shown(threshold - 2)


def test_more_keys_and_less_delta_raise_the_threshold() -> None:
    noise = discrete_gaussian(7.0)
    by_l0 = [selection_threshold(noise, l0, 1e-9) for l0 in (1, 2, 8, 64, 1_000_000)]
    by_delta = [selection_threshold(noise, 8, delta) for delta in (1e-2, 1e-6, 1e-9, 1e-15)]
    assert by_l0 == sorted(by_l0)
    assert by_delta == sorted(by_delta)
    assert by_l0[0] < by_l0[-1]
    assert by_delta[0] < by_delta[-1]


@pytest.mark.parametrize(("sigma", "threshold"), [(3.0, 20), (10.0, 30)])
def test_keys_show_as_often_as_theory_says(sigma: float, threshold: int) -> None:
    """20,000 keys of each size from 1 to 50 units; in each a normal bound at 1e-6, 50 tests in all; and power."""
    n, bound = 20_000, 5.6  # two-sided 1e-6 over 50 tests

    def deviations(believed: float) -> list[float]:
        result = []
        for units in range(1, 51):
            shown = int((units + draw(discrete_gaussian(sigma), n, name=f"size {units}") >= threshold).sum())
            p = float(gaussian_tail(believed, threshold - units))
            spread = math.sqrt(n * p * (1 - p))
            if spread > 3:
                result.append(abs(shown - n * p) / spread)
            else:  # too rare for a normal bound: at most so many of them, by Markov's exponential bound
                rare = min(shown, n - shown)
                assert math.exp(rare - n * min(p, 1 - p) * (math.e - 1)) <= 1 / FALSE_ALARM
        return result

    exact = deviations(sigma)
    assert len(exact) > 10
    assert max(exact) <= bound
    assert max(deviations(sigma * 1.1)) > bound, "a wrong scale must be rejected"


def test_one_unit_shows_no_more_often_than_delta() -> None:
    """With a delta large enough to see: 400,000 keys of one unit, L0 = 1, a one-sided bound at 1e-6."""
    delta, n, sigma = 1e-3, 400_000, 2.0
    threshold = selection_threshold(discrete_gaussian(sigma), 1, delta)
    values = 1 + draw(discrete_gaussian(sigma), n)
    allowed = n * delta + 4.76 * math.sqrt(n * delta)
    assert (values >= threshold).sum() <= allowed
    assert (values >= threshold - 1).sum() > allowed, "a threshold one lower must be rejected"


# --- the whole engine -------------------------------------------------------------------------------------------------

SIZES = np.arange(1, 51)
KEYS_OF_A_SIZE = 1500


def run_engine(signal: Signal, keys_of_a_unit: int) -> tuple[Sparkless, NDArray[np.int64]]:
    """How many keys of each size show. A key of size s has s units, and each unit has so many keys of that size."""
    groups = np.repeat(SIZES, KEYS_OF_A_SIZE)
    first = np.concatenate([[0], np.cumsum(groups)[:-1]])
    unit = np.arange(groups.sum())
    group = np.repeat(np.arange(len(groups)), groups)
    assert (unit >= first[group]).all()
    rows = len(unit) * keys_of_a_unit
    events = pa.table(
        {
            "user_id": pa.array(np.repeat(unit, keys_of_a_unit)),
            "item_id": pa.array(
                np.repeat(group, keys_of_a_unit) * keys_of_a_unit + np.tile(np.arange(keys_of_a_unit), len(unit))
            ),
            "ts": pa.array(np.full(rows, int(SPAN.start.timestamp()))),
        }
    )
    recipe = recipe_of(signal)
    engine = Sparkless(signal=signal, recipe=recipe, calibration=calibrate(signal, recipe, 0.1), key=KEY)
    end = int(SPAN.end.timestamp())
    with TemporaryDirectory(prefix="hedgerow-test-") as folder:
        found = None
        if recipe.first is not None:
            found = engine.first_round(engine.sums(events, end=end, first=True), Path(folder))
        released = engine.released(engine.sums(events, end=end, found=found))
    shown = released.column("item_id").to_numpy()
    # One key of each group: keys of one group share their units, and are not independent under sampling.
    shown = shown[shown % keys_of_a_unit == 0] // keys_of_a_unit
    return engine, np.bincount(groups[shown], minlength=51)[1:]


def shown_chances(
    engine: Sparkless, sampled: float, step: int, scale: float = 1.0, later: int = 0
) -> NDArray[np.float64]:
    """In theory: the kept units are binomial, each weighs `step`, and the noise is the discrete Gaussian.

    Of two rounds either the first or the mean of both shows a key; units with one key give it the same weight in both.
    """
    calibration, recipe = engine.calibration, engine.recipe
    selecting = calibration.selecting
    assert selecting is not None
    last = calibration.mechanism(str(recipe.units)).distribution.scale * scale
    if recipe.first is None or selecting.first_threshold is None:
        return round_chances(last, selecting.threshold + later, sampled, step)
    sigma = calibration.mechanism(recipe.first).distribution.scale * scale
    part, other = (one / sum(selecting.parts) for one in selecting.parts)
    chances = []
    for weight in SIZES * step:
        noise = np.linspace(-12, min(12.0, (selecting.first_threshold + later - weight) / sigma), 20_001)
        needed = (selecting.threshold + later - weight - part * sigma * noise) / other
        missed_first = np.trapezoid(stats.norm.pdf(noise) * stats.norm.sf(needed / last), noise)
        chances.append(missed_first + stats.norm.sf(noise[-1]))
    return np.array(chances)


def round_chances(sigma: float, threshold: int, sampled: float, step: int) -> NDArray[np.float64]:
    """How often keys of 1 to 50 units reach a threshold."""
    least = threshold - np.arange(51) * step
    tails = (
        stats.norm.sf((least - 0.5) / sigma) if sigma > 500 else [float(gaussian_tail(sigma, int(x))) for x in least]
    )
    kept = stats.binom.pmf(np.arange(51)[:, None], SIZES[None, :], sampled)
    return np.asarray(tails) @ kept


def chi_square(shown: NDArray[np.int64], chances: NDArray[np.float64]) -> bool:
    """Whether the counts fit, over the sizes where a normal bound applies."""
    variance = KEYS_OF_A_SIZE * chances * (1 - chances)
    usual = variance > 8
    statistic = float(np.sum(np.square(shown - KEYS_OF_A_SIZE * chances)[usual] / variance[usual]))
    assert usual.sum() > 8
    return statistic <= float(stats.chi2.isf(FALSE_ALARM, usual.sum()))


def power_against(wrong: NDArray[np.float64], chances: NDArray[np.float64]) -> float:
    """Probability that `chi_square` rejects `wrong` when keys show with `chances`."""
    variance = KEYS_OF_A_SIZE * wrong * (1 - wrong)
    usual = variance > 8
    noncentrality = float(np.sum(np.square(KEYS_OF_A_SIZE * (chances - wrong))[usual] / variance[usual]))
    return float(stats.ncx2.sf(stats.chi2.isf(FALSE_ALARM, usual.sum()), usual.sum(), noncentrality))


ONE_ROW = {count: KeepRandom(max_partitions=count, max_rows_per_partition=1) for count in (1, 3)}
SCHEMES = {
    "a unit has one key": (ONE_ROW[1], 1, PrivateSelection(delta=1e-3), 0.02),
    "1 of a unit's 2 keys is kept": (ONE_ROW[1], 2, PrivateSelection(delta=1e-3), 0.02),
    "by weight, 2 keys of a unit": (ONE_ROW[3], 2, PrivateSelection(delta=1e-3, by=WeightedUnits(max_keys=9)), 0.06),
    "in two rounds": (ONE_ROW[1], 1, PrivateSelection(delta=1e-3, by=AdaptiveWeights(max_keys=1, first=0.4)), 0.06),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_engine_releases_keys_of_1_to_50_units_as_often_as_theory_says(scheme: str) -> None:
    bounds, keys_of_a_unit, partitions, rho = SCHEMES[scheme]
    signal = a_signal(
        aggregates={"users": CountDistinct()}, bounds=bounds, partitions=partitions, budget_per_release=ZCDP(rho)
    )
    engine, shown = run_engine(signal, keys_of_a_unit)
    weighted = isinstance(partitions.by, WeightedUnits | AdaptiveWeights)
    measure = engine.recipe.measure(str(engine.recipe.units))
    step = int(1 / measure.grid_step / math.sqrt(keys_of_a_unit)) if weighted else 1
    sampled = 1.0 if weighted else bounds.max_partitions / keys_of_a_unit
    chances = shown_chances(engine, sampled, step)
    assert chi_square(shown, chances)
    one_unit = max(1, step)
    for wrong in (
        shown_chances(engine, sampled, step, scale=1.1),
        shown_chances(engine, sampled, step, scale=1 / 1.1),
        shown_chances(engine, sampled, step, later=one_unit),
        shown_chances(engine, sampled, step, later=-one_unit),
    ):
        assert power_against(wrong, chances) > 0.99
        assert not chi_square(shown, wrong), "a wrong scale and a wrong threshold must be rejected"
