"""Losses and conversions at their edges."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest

from governance.privacy import PrivacyLoss, delta_of_rho, epsilon_of_rho, rho_of_epsilon


def test_a_tenth_ten_times_is_one() -> None:
    total = PrivacyLoss.zero()
    for _ in range(10):
        total = total + PrivacyLoss.of(0.1, 1e-7)
    assert total == PrivacyLoss(Decimal(1), Decimal("1e-6"))


@pytest.mark.parametrize(("large", "small"), [("1e-6", "1e-40"), ("1", "1e-300"), ("1e15", "5e-324")])
def test_a_small_spend_beside_a_large_one_is_not_rounded_away(large: str, small: str) -> None:
    """The default context of 28 digits would forget it, without end."""
    total = PrivacyLoss.of(0, large) + PrivacyLoss.of(0, small)
    assert total.delta > Decimal(large)
    assert (PrivacyLoss.of(0, large) - PrivacyLoss.of(0, small)).delta < Decimal(large)
    assert PrivacyLoss.from_json(total.to_json()) == total


def test_a_float_counts_as_written() -> None:
    assert PrivacyLoss.of(0.1, 1e-9).to_json() == {"rho": "0.1", "delta": "0.000000001"}
    assert PrivacyLoss.of("0.10", "-0").to_json() == {"rho": "0.1", "delta": "0"}


def test_known_values() -> None:
    """rho = 0.1 at delta = 1e-6 is 2.14 by Corollary 13, minimised over a grid of orders; the closed form says 2.45."""

    def at_order(alpha: float) -> float:
        return 0.1 * alpha + (math.log(1e6) - math.log(alpha - 1) + alpha * math.log1p(-1 / alpha)) / (alpha - 1)

    best = min(at_order(1 + k / 1000) for k in range(1, 100_000))
    assert best == pytest.approx(2.14194, abs=1e-5)
    assert epsilon_of_rho(0.1, 1e-6) == pytest.approx(best, abs=1e-6)
    assert rho_of_epsilon(best, 1e-6) == pytest.approx(0.1, abs=1e-6)


def test_no_loss_no_epsilon() -> None:
    assert epsilon_of_rho(0, 1e-6) == 0.0
    assert delta_of_rho(0, 0) == 0.0
    assert PrivacyLoss.zero().epsilon(1e-6) == 0.0
    assert PrivacyLoss.of(0, "1e-6").epsilon(1e-6) == math.inf
    assert PrivacyLoss.of(0, "1e-7").epsilon(1e-6) == 0.0


@pytest.mark.parametrize("rho", [5e-324, 1e-300, 1e-30, 1e3, 1e9, 1e15])
def test_extreme_losses_have_an_epsilon(rho: float) -> None:
    epsilon = epsilon_of_rho(rho, 1e-6)
    assert math.isfinite(epsilon)
    assert 0 <= epsilon <= rho + 2 * math.sqrt(rho * math.log(1e6))
    assert 0 <= delta_of_rho(rho, 0.0) <= 1


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-9, 2.0, math.nan])
def test_delta_out_of_range(delta: float) -> None:
    with pytest.raises(ValueError, match=r"delta must lie in \(0, 1\)"):
        epsilon_of_rho(0.1, delta)
    with pytest.raises(ValueError, match=r"delta must lie in \(0, 1\)"):
        rho_of_epsilon(1.0, delta)


def test_negative_parameters() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        delta_of_rho(-0.1, 1.0)
    with pytest.raises(ValueError, match="must not be negative"):
        delta_of_rho(0.1, -1.0)
    with pytest.raises(ValueError, match="must not be negative"):
        epsilon_of_rho(-0.1, 1e-6)
    with pytest.raises(ValueError, match="must not be negative"):
        epsilon_of_rho(math.nan, 1e-6)
    for epsilon in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="epsilon must be positive"):
            rho_of_epsilon(epsilon, 1e-6)
