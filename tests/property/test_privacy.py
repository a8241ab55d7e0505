"""Losses add exactly; conversions are sound, tight, monotone and inverse to each other."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from itertools import permutations

import mpmath
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant
from hypothesis import given

from governance.privacy import PrivacyLoss, delta_of_rho, epsilon_of_rho, rho_of_epsilon
from tests.support.strategies import deltas, examples, losses, rhos


def gaussian_delta(sigma: float, epsilon: float) -> mpmath.mpf:
    """Exact delta of the Gaussian mechanism of sensitivity 1 (Balle and Wang 2018, Theorem 8), with 50 digits."""
    with mpmath.workdps(50):
        s, e = mpmath.mpf(sigma), mpmath.mpf(epsilon)
        return mpmath.ncdf(1 / (2 * s) - e * s) - mpmath.exp(e) * mpmath.ncdf(-1 / (2 * s) - e * s)


@examples(150)
@given(rhos, deltas)
def test_epsilon_is_never_below_the_exact_gaussian(rho: float, delta: float) -> None:
    """A Gaussian mechanism is rho-zCDP and no better: a sound conversion cannot promise less than its exact epsilon."""
    assert gaussian_delta(1 / math.sqrt(2 * rho), epsilon_of_rho(rho, delta)) <= delta


@pytest.mark.parametrize("rho", [0.001, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-6])
def test_epsilon_is_never_below_the_privacy_loss_distribution(rho: float, delta: float) -> None:
    sigma = 1 / math.sqrt(2 * rho)
    pld = privacy_loss_distribution.from_gaussian_mechanism(sigma, value_discretization_interval=1e-3)
    exact, ours = pld.get_epsilon_for_delta(delta), epsilon_of_rho(rho, delta)
    assert exact <= ours <= exact * 1.25 + 0.01, "sound, and not needlessly loose"


@pytest.mark.parametrize("rho", [0.0005, 0.02, 0.3, 4.0, 20.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-6, 1e-3])
def test_epsilon_is_the_best_of_the_renyi_accountant(rho: float, delta: float) -> None:
    """dp_accounting uses the same conversion at finitely many orders: ours is at or a hair below it."""
    best = 1 + math.sqrt(math.log(1 / delta) / rho)
    orders = [1 + (best - 1) * factor / 200 for factor in range(20, 401)]
    accountant = RdpAccountant(orders).compose(GaussianDpEvent(1 / math.sqrt(2 * rho)))
    theirs, ours = accountant.get_epsilon(delta), epsilon_of_rho(rho, delta)
    assert theirs * (1 - 1e-3) - 1e-9 <= ours <= theirs + 1e-9
    assert ours < rho + 2 * math.sqrt(rho * math.log(1 / delta)), "tighter than the closed form"


@examples(200)
@given(rhos, deltas)
def test_delta_and_epsilon_are_inverse(rho: float, delta: float) -> None:
    epsilon = epsilon_of_rho(rho, delta)
    assert delta_of_rho(rho, epsilon) <= delta * (1 + 1e-12)
    if epsilon > 1e-6:
        assert delta_of_rho(rho, epsilon * (1 - 1e-6)) > delta, "epsilon is the smallest"


@examples(200)
@given(rhos, deltas)
def test_rho_and_epsilon_are_inverse(rho: float, delta: float) -> None:
    epsilon = epsilon_of_rho(rho, delta)
    if epsilon > 1e-6:
        back = rho_of_epsilon(epsilon, delta)
        assert back == pytest.approx(rho, rel=1e-5)
        assert epsilon_of_rho(back, delta) <= epsilon * (1 + 1e-9) + 1e-9, "rounded down: the promise is kept"


@examples(200)
@given(rhos, rhos, deltas, deltas)
def test_conversion_is_monotone(rho: float, other: float, delta: float, smaller: float) -> None:
    rho, other = sorted((rho, other))
    smaller, delta = sorted((delta, smaller))
    slack = 1e-9
    assert epsilon_of_rho(rho, delta) <= epsilon_of_rho(other, delta) * (1 + slack) + slack
    assert epsilon_of_rho(rho, delta) <= epsilon_of_rho(rho, smaller) * (1 + slack) + slack
    assert delta_of_rho(rho, 1.0) <= delta_of_rho(other, 1.0) * (1 + slack)


@examples(200)
@given(losses, losses, losses)
def test_losses_add_exactly(a: PrivacyLoss, b: PrivacyLoss, c: PrivacyLoss) -> None:
    total = a + b + c
    assert Fraction(total.rho) == Fraction(a.rho) + Fraction(b.rho) + Fraction(c.rho)
    assert Fraction(total.delta) == Fraction(a.delta) + Fraction(b.delta) + Fraction(c.delta)
    assert {x + y + z for x, y, z in permutations((a, b, c))} == {total}
    assert total - c - b == a
    assert a + PrivacyLoss.zero() == a


@examples(100)
@given(losses)
def test_losses_round_trip(loss: PrivacyLoss) -> None:
    back = PrivacyLoss.from_json(loss.to_json())
    assert back == loss
    assert back.to_json() == loss.to_json()
    assert all(set(text) <= set("0123456789.") for text in loss.to_json().values())


@examples(100)
@given(rhos, deltas, deltas)
def test_a_loss_own_delta_comes_off_first(rho: float, own: float, delta: float) -> None:
    loss = PrivacyLoss.of(rho, own)
    if own >= delta:
        assert loss.epsilon(delta) == math.inf
    else:
        assert loss.epsilon(delta) == epsilon_of_rho(rho, delta - float(Decimal(str(own))))
        assert loss.epsilon(delta) >= epsilon_of_rho(rho, delta)
