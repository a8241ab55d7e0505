"""From budgets to noise: what is promised is what the noise gives, by independent formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from dp_accounting import DpEvent, GaussianDpEvent, LaplaceDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from governance.errors import DefinitionError
from governance.privacy import delta_of_rho
from pipelines import (
    ZCDP,
    ApproxDP,
    ClipNorm,
    Count,
    CountDistinct,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    PrivateSelection,
    PublicPartitions,
    PureDP,
    Signal,
    Sum,
)
from pipelines import calibration as calibration_module
from pipelines.calibration import Calibration, calibrate
from pipelines.recipes import recipe_of
from tests.support.projects import a_signal
from tests.support.strategies import aggregates, bounds, examples

PUBLIC = PublicPartitions({"item_id": (1, 2)})
SEVERAL = {"n": Count(), "u": CountDistinct(), "s": Sum("v", Interval(-5, 100)), "m": Mean("v", Interval(1, 5))}
MANY = KeepRandom(max_partitions=7, max_rows_per_partition=3)
DELTA = 1e-6


def calibrated(signal: Signal, reporting_delta: float = DELTA) -> Calibration:
    return calibrate(signal, recipe_of(signal), reporting_delta)


def events(calibration: Calibration) -> list[DpEvent]:
    """What dp_accounting knows the mechanisms as: noise over sensitivity."""
    return [
        GaussianDpEvent(m.distribution.scale / m.measure.l2)
        if m.name == "discrete Gaussian"
        else LaplaceDpEvent(m.distribution.scale / m.measure.l1)
        for m in calibration.mechanisms
    ]


@pytest.mark.parametrize("rho", [1e-4, 0.005, 0.1, 3.0])
def test_zcdp_is_spent_exactly(rho: float) -> None:
    calibration = calibrated(a_signal(aggregates=SEVERAL, bounds=MANY, budget_per_release=ZCDP(rho)))
    spent = sum((m.measure.l2 / m.distribution.scale) ** 2 / 2 for m in calibration.mechanisms)
    assert rho * (1 - 1e-9) < spent < rho, "all of it, and never more"
    assert calibration.loss.rho == Decimal(str(rho))
    assert sum(m.rho for m in calibration.mechanisms) == pytest.approx(rho, rel=1e-12)
    for m in calibration.mechanisms:
        assert (m.measure.l2 / m.distribution.scale) ** 2 / 2 == pytest.approx(m.rho, rel=1e-9), (
            "its share, and no less"
        )
    assert {m.name for m in calibration.mechanisms} == {"discrete Gaussian"}


@pytest.mark.parametrize("rho", [0.005, 0.1, 1.0])
def test_the_epsilon_told_is_what_the_accountants_allow(rho: float) -> None:
    signal = a_signal(aggregates=SEVERAL, bounds=MANY, budget_per_release=ZCDP(rho), partitions=PUBLIC)
    calibration = calibrated(signal)
    rdp, pld = RdpAccountant(), PLDAccountant(value_discretization_interval=1e-3)
    for event in events(calibration):
        rdp.compose(event)
        pld.compose(event)
    assert pld.get_epsilon(DELTA) <= calibration.epsilon <= rdp.get_epsilon(DELTA) * 1.01


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Balle and Wang 2018, Theorem 8, for all sums as one Gaussian of unit noise and shift mu."""
    below, above = (stats.norm.logcdf(sign * mu / 2 - epsilon / mu) for sign in (1, -1))
    return float(np.exp(below) - np.exp(epsilon + above))


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-7), (1.0, 1e-6), (8.0, 1e-5)])
@pytest.mark.parametrize("private", [False, True])
def test_approx_dp_is_kept_and_used(epsilon: float, delta: float, private: bool) -> None:
    """All noise together is a Gaussian of shift mu. Within the sampler's thousandth of delta it is the most that
    delta allows; with private keys it is at least what a split of delta between noise and selection would allow."""
    partitions = PrivateSelection(delta=delta / 10) if private else PUBLIC
    signal = a_signal(
        aggregates=SEVERAL, bounds=MANY, budget_per_release=ApproxDP(epsilon, delta), partitions=partitions
    )
    calibration = calibrated(signal, reporting_delta=1e-3)
    assert calibration.epsilon_delta == delta, "the budget's own delta, whatever the project reports at"
    assert epsilon * 0.99 < calibration.epsilon <= epsilon
    mu = math.sqrt(sum((m.measure.l2 / m.distribution.scale) ** 2 for m in calibration.mechanisms))
    assert mu == pytest.approx(math.sqrt(2 * float(calibration.loss.rho)), rel=1e-9), "what the ledger is charged"
    assert gaussian_delta(mu, epsilon) <= delta
    # At a large epsilon some sums have noise of a step or two, where the lattice's bound is not so tight.
    assert gaussian_delta(mu * 1.04, epsilon) > delta * (0.9 if private else 1), "4 % less noise is too little"
    assert delta_of_rho(mu**2 / 2, epsilon) > delta * 0.9, "and less noise than by way of zCDP"


@pytest.mark.parametrize("epsilon", [0.1, 1, 3.0, 0.7])
def test_pure_dp(epsilon: float) -> None:
    signal = a_signal(
        aggregates={"n": Count(), "s": Sum("v", Interval(0, 10, step=1)), "u": CountDistinct()},
        bounds=MANY,
        budget_per_release=PureDP(epsilon),
        partitions=PUBLIC,
    )
    calibration = calibrated(signal)
    assert {m.name for m in calibration.mechanisms} == {"discrete Laplace"}
    spent = sum(m.measure.l1 / m.distribution.scale for m in calibration.mechanisms)
    assert epsilon * (1 - 1e-9) < spent < epsilon
    assert calibration.epsilon == epsilon
    charged = Fraction(calibration.loss.rho)
    exact = sum(Fraction(m.measure.l1 / m.distribution.scale) ** 2 for m in calibration.mechanisms) / 2
    assert exact <= charged < exact * (1 + Fraction(1, 10**9)), "each is (its epsilon)^2 / 2; rounded up"
    assert charged < Fraction(epsilon) ** 2 / 2, "less than what one mechanism of the whole epsilon costs"
    assert sum(m.rho for m in calibration.mechanisms) == pytest.approx(float(charged))
    assert calibration.threshold is None
    assert calibration.selection_delta == 0


def test_selection_is_charged_once_and_needs_a_count_of_units() -> None:
    with_count = calibrated(a_signal(aggregates={"u": CountDistinct()}, bounds=MANY))
    without = calibrated(a_signal(aggregates={"n": Count()}, bounds=MANY))
    assert [m.measure.name for m in with_count.mechanisms] == ["u"]
    assert [m.measure.name for m in without.mechanisms] == ["n", "selection.units"]
    for calibration in (with_count, without):
        assert calibration.selection_delta == Decimal("1e-9")
        assert Decimal("1e-9") < calibration.loss.delta < Decimal("1.000000001e-9")
        assert calibration.threshold is not None
        assert calibration.threshold > 1
    public = calibrated(a_signal(aggregates={"u": CountDistinct()}, partitions=PUBLIC))
    assert public.threshold is None
    assert 0 < public.loss.delta < Decimal("1e-20"), "the sampler's distance alone"


@examples(60)
@given(st.dictionaries(st.sampled_from("abcd"), aggregates, min_size=1), bounds, st.floats(1e-3, 10))
def test_the_sampler_is_paid_for(given_aggregates: dict[str, Any], limits: KeepRandom, rho: float) -> None:
    """`sampler_delta >= (1 + e^epsilon) sum of K distance` for K draws that neighbors do not share, and it shows in
    delta."""
    signal = a_signal(aggregates=given_aggregates, bounds=limits, budget_per_release=ZCDP(rho))
    calibration = calibrated(signal)
    distance = sum(Fraction(m.measure.changed) * Fraction(m.distribution.distance) for m in calibration.mechanisms)
    assert all(m.measure.changed >= m.measure.l0 for m in calibration.mechanisms)
    assert Fraction(calibration.sampler_delta) >= Fraction(1 + math.exp(calibration.epsilon)) * distance
    assert Fraction(calibration.loss.delta) == Fraction(calibration.selection_delta) + Fraction(
        calibration.sampler_delta
    )
    assert calibration.epsilon <= calibration.loss.epsilon(DELTA) * 1.001, "a thousandth of delta is the sampler's"
    assert calibration.sampler_delta < Decimal("1e-9")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"partitions": PrivateSelection(delta=1e-6)},
            "item_weekly v1: partitions: delta 1e-06 is not below the reporting delta 1e-06, of which a thousandth is "
            "kept for the sampler; make it smaller",
        ),
        (
            {"aggregates": {"s": Sum("v", Interval(0, 1))}, "budget_per_release": ZCDP(1e-18)},
            "grid steps is too large; raise budget_per_release or lower the bounds",
        ),
        (
            {
                "aggregates": {"s": Sum("v", Interval(0, 1))},
                "budget_per_release": PureDP(1e-5),
                "partitions": PUBLIC,
            },
            "lower the bounds or give the interval a coarser step",
        ),
        (
            {"partitions": PrivateSelection(delta=1e-38)},
            "partitions: delta 1e-38 is below what the sampler resolves",
        ),
        (
            {
                "aggregates": {"s": Sum("v", Interval(0, 2**20, step=0.001))},
                "bounds": KeepRandom(max_partitions=1, max_rows_per_partition=1000),
            },
            "s: one unit could add 1,048,576,000,000 grid steps to a partition, allowed: at most 2^31",
        ),
        ({"budget_per_release": ZCDP(100)}, "the sampler's distance from the ideal noise would weigh"),
        ({"budget_per_release": PureDP(100), "partitions": PUBLIC}, "budget_per_release: at epsilon 100"),
        (
            {"budget_per_release": ApproxDP(99, 1e-6), "partitions": PUBLIC},
            "budget_per_release: at epsilon 99",
        ),
    ],
)
def test_budgets_that_cannot_be_kept(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        calibrated(a_signal(**changes))
    assert message in str(caught.value)
    assert caught.value.subject == "item_weekly v1"


WEIGHED = {"n": Count(), "s": Sum("v", Interval(-5, 100)), "h": Histogram("v", (0, 1, 2))}


def total_error(signal: Signal, calibration: Calibration, weights: Mapping[str, float]) -> float:
    """Sum over aggregates of weight times mean squared error, each in what one row can add."""
    recipe = recipe_of(signal)
    errors = []
    for name, weight in weights.items():
        own = [output for output in recipe.outputs if output.aggregate == name]
        errors.append(weight * sum((calibration.stddev(o) / o.scale) ** 2 for o in own) / len(own))
    return sum(errors)


@pytest.mark.parametrize("weights", [{"n": 1.0, "s": 1.0, "h": 1.0}, {"n": 9.0, "s": 1.0, "h": 1.0}])
@pytest.mark.parametrize("limits", [MANY, ClipNorm(l2=3.0, max_partitions=7)])
@pytest.mark.parametrize("budget", [ZCDP(0.1), PureDP(1.0)])
def test_the_budget_is_split_so_that_the_weighted_error_is_least(
    weights: Mapping[str, float], limits: Any, budget: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shift of a twentieth of one measurement's share to another's lowers the total; an even split is worse."""
    if isinstance(budget, PureDP) and isinstance(limits, ClipNorm):
        pytest.skip("not lawful together")
    signal = a_signal(aggregates=WEIGHED, bounds=limits, budget_per_release=budget, partitions=PUBLIC, weights=weights)
    recipe = recipe_of(signal)
    best = calibration_module.shares_of(signal, recipe)
    assert sum(best.values()) == pytest.approx(1)
    least = total_error(signal, calibrated(signal), weights)

    def error_with(shares: Mapping[str, float]) -> float:
        monkeypatch.setattr(calibration_module, "shares_of", lambda *_: shares)
        return total_error(signal, calibrated(signal), weights)

    for one in best:
        for two in best:
            if one != two:
                moved = best[one] * 0.05
                assert error_with({**best, one: best[one] - moved, two: best[two] + moved}) > least * (1 - 1e-6)
    assert error_with(dict.fromkeys(best, 1 / len(best))) > least * 1.001


def test_half_widths_hold_the_value_in_95_of_100_releases() -> None:
    """By the exact distributions of the noise: for one measurement, and for a sum of two."""
    for budget in (ZCDP(0.01), PureDP(0.5)):
        signal = a_signal(
            aggregates={"n": Count(), "s": Sum("v", Interval(0, 5))},
            bounds=MANY,
            partitions=PUBLIC,
            budget_per_release=budget,
        )
        calibration, recipe = calibrated(signal), recipe_of(signal)
        rng = np.random.default_rng(8)
        for output in recipe.outputs:
            error = np.zeros(400_000)
            for term in output.terms:
                mechanism = calibration.mechanism(term.measure)
                scale = mechanism.distribution.scale
                draws = rng.normal(0, scale, 400_000) if isinstance(budget, ZCDP) else rng.laplace(0, scale, 400_000)
                error += term.coefficient * draws
            covered = float((np.abs(error) <= calibration.half_width(output)).mean())
            # A sum of two Laplace draws is taken for a normal one, which costs a hundredth.
            assert covered == pytest.approx(0.95, abs=0.002 if len(output.terms) == 1 else 0.012)
            assert np.std(error) == pytest.approx(calibration.stddev(output), rel=0.01)


@pytest.mark.parametrize("budget", [ZCDP(0.3), ZCDP(3.0), ZCDP(8.0), PureDP(2.0), PureDP(3.0), PureDP(5.0)])
def test_half_widths_of_narrow_noise_are_the_fewest_steps_that_hold_95_of_100(budget: Any) -> None:
    signal = a_signal(aggregates={"n": Count()}, bounds=MANY, partitions=PUBLIC, budget_per_release=budget)
    calibration, [output] = calibrated(signal), recipe_of(signal).outputs
    scale = calibration.mechanisms[0].distribution.scale
    x = np.arange(-2000, 2001)
    weights = np.exp(-np.square(x / scale) / 2 if isinstance(budget, ZCDP) else -np.abs(x) / scale)
    half = calibration.half_width(output)
    assert calibration.stddev(output) < 20
    assert half == round(half)
    assert weights[np.abs(x) <= half].sum() >= 0.95 * weights.sum()
    assert weights[np.abs(x) <= half - 1].sum() < 0.95 * weights.sum()


def test_clipped_measurements_are_one_vector() -> None:
    """Under `ClipNorm` the shares set the scales: a row of full size has norm 1, and all noise together spends rho."""
    signal = a_signal(aggregates=WEIGHED, bounds=ClipNorm(l2=3.0), partitions=PUBLIC, budget_per_release=ZCDP(0.1))
    calibration = calibrated(signal)
    row = sum((m.measure.row_l2 / m.measure.clip_scale) ** 2 for m in calibration.mechanisms)
    assert row == pytest.approx(1)
    for m in calibration.mechanisms:
        assert m.distribution.scale == pytest.approx(m.measure.clip_scale * 3.0 / math.sqrt(2 * 0.1), rel=1e-9)


def test_more_budget_means_less_noise() -> None:
    stddevs = [
        calibrated(a_signal(budget_per_release=ZCDP(rho))).mechanisms[0].noise_stddev for rho in (0.01, 0.1, 1.0, 10.0)
    ]
    assert stddevs == sorted(stddevs, reverse=True)
    fine = a_signal(aggregates={"s": Sum("v", Interval(0, 600))}, partitions=PUBLIC)
    coarse = a_signal(aggregates={"s": Sum("v", Interval(0, 600, step=100))}, partitions=PUBLIC)
    assert calibrated(fine).mechanisms[0].noise_stddev == pytest.approx(calibrated(coarse).mechanisms[0].noise_stddev)
