"""The audit's lower bounds: never above the truth, close to it, and their confidence is what they say.

Each bound here uses `alpha = 1e-6`, so each test is a false alarm with probability 2e-6 at most; seeds are fixed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks._evidence import lower_bound, lower_rate, upper_rate
from pipelines.accounting import gaussian_epsilon

ALPHA = 1e-6
RUNS = 100_000


@pytest.mark.parametrize("rate", [1e-3, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("alpha", [0.2, 0.01])
def test_clopper_pearson_covers_as_often_as_it_says(rate: float, alpha: float) -> None:
    """Summed exactly over all counts: the bound misses with probability at most alpha, and not far below."""
    n = 500
    counts = np.arange(n + 1)
    chance = stats.binom.pmf(counts, n, rate)
    too_high = float(chance[lower_rate(counts, n, alpha) > rate].sum())
    too_low = float(chance[upper_rate(counts, n, alpha) < rate].sum())
    assert too_high <= alpha
    assert too_low <= alpha
    assert max(too_high, too_low) > alpha / 8


def test_counts_at_the_ends() -> None:
    assert lower_rate(np.array([0]), 10, 0.1)[0] == 0
    assert upper_rate(np.array([10]), 10, 0.1)[0] == 1
    assert upper_rate(np.array([0]), 10, 0.1)[0] == pytest.approx(1 - 0.1 ** (1 / 10))
    assert lower_rate(np.array([10]), 10, 0.1)[0] == pytest.approx(0.1 ** (1 / 10))


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_randomized_response_is_found_out_and_no_more(epsilon: float) -> None:
    rng = np.random.default_rng(7)
    lie = 1 / (1 + math.exp(epsilon))
    zero = (rng.random((RUNS, 1)) < lie).astype(np.float64)
    one = (rng.random((RUNS, 1)) >= lie).astype(np.float64)
    found = lower_bound(zero, one, 0.0, ALPHA)
    assert 0 < found.epsilon <= epsilon
    assert found.epsilon > 0.85 * epsilon - 0.05
    assert found.hits > found.false_hits


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("removed", [False, True])
def test_gaussian_noise_is_found_out_and_no_more(mu: float, removed: bool) -> None:
    """Three correlated columns, of which the difference of two tells most; half the noise is rejected."""
    rng = np.random.default_rng(8)
    common = rng.normal(size=(2, RUNS, 1)) * 20
    noise = rng.normal(size=(2, RUNS, 2))
    zero, one = (np.concatenate([c + n, 5 * c], axis=1) for c, n in zip(common, noise, strict=True))
    one[:, :2] += mu / math.sqrt(2)
    if removed:
        zero, one = one, zero
    for delta in (0.01, 0.05):
        claim = gaussian_epsilon(mu, delta)
        found = lower_bound(zero, one, delta, ALPHA)
        assert 0.55 * claim < found.epsilon <= claim
        assert found.epsilon > gaussian_epsilon(mu / 2, delta), "noise at half scale must show"


def test_equal_outputs_prove_nothing() -> None:
    rng = np.random.default_rng(9)
    outputs = rng.normal(size=(2, RUNS, 4))
    assert lower_bound(outputs[0], outputs[1], 0.0, ALPHA).epsilon < 0.05
    constant = np.ones((1000, 2))
    assert lower_bound(constant, constant, 0.0, ALPHA).epsilon == 0


def test_what_never_happens_without_the_unit_gives_it_away() -> None:
    """A key that shows in 1 of 100 runs: seen as such at delta 1e-6, and lawful at delta 0.02."""
    rng = np.random.default_rng(10)
    zero = np.concatenate([rng.normal(size=(RUNS, 1)), np.zeros((RUNS, 1))], axis=1)
    one = np.concatenate([rng.normal(size=(RUNS, 1)), rng.random((RUNS, 1)) < 0.01], axis=1)
    found = lower_bound(zero, one, 1e-6, ALPHA)
    assert found.attack == "never seen without"
    assert found.epsilon > 2.5
    assert lower_bound(zero, one, 0.02, ALPHA).epsilon < 0.05
