"""Private selection: the threshold keeps its delta and is the smallest to do so; keys show as often as theory says."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from pipelines.calibration import selection_threshold
from pipelines.noise import discrete_gaussian
from tests.statistical.exact import FALSE_ALARM, draw, gaussian_tail

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
