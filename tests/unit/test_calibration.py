"""From budgets to noise: what is promised is what the noise gives, by independent formulas."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from dp_accounting import DpEvent, GaussianDpEvent, LaplaceDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from governance.errors import DefinitionError
from governance.privacy import delta_of_rho
from pipelines import (
    ZCDP,
    ApproxDP,
    Count,
    CountDistinct,
    Interval,
    KeepRandom,
    Mean,
    PrivateSelection,
    PublicPartitions,
    PureDP,
    Signal,
    Sum,
)
from pipelines.calibration import Calibration, calibrate
from pipelines.measurements import recipe_of
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
    assert {m.rho for m in calibration.mechanisms} == {rho / 4}
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


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-7), (1.0, 1e-6), (8.0, 1e-5)])
@pytest.mark.parametrize("private", [False, True])
def test_approx_dp_is_kept_and_used(epsilon: float, delta: float, private: bool) -> None:
    partitions = PrivateSelection(delta=delta / 10) if private else PUBLIC
    signal = a_signal(
        aggregates=SEVERAL, bounds=MANY, budget_per_release=ApproxDP(epsilon, delta), partitions=partitions
    )
    calibration = calibrated(signal, reporting_delta=1e-3)
    assert calibration.epsilon_delta == delta, "the budget's own delta, whatever the project reports at"
    assert epsilon * 0.99 < calibration.epsilon <= epsilon
    own = float(calibration.loss.delta)
    assert delta_of_rho(float(calibration.loss.rho), epsilon) + own <= delta
    accountant = RdpAccountant([1 + 2 ** (k / 40) for k in range(-120, 600)])
    for event in events(calibration):
        accountant.compose(event)
    assert accountant.get_delta(epsilon) <= delta - own


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
    charged, exact = Fraction(calibration.loss.rho), Fraction(str(epsilon)) ** 2 / 6
    assert exact <= charged < exact * (1 + Fraction(1, 10**20)), "a third has no end: it is rounded up"
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
    """`sampler_delta >= (1 + e^epsilon) sum of L0 distance`, exactly, and it shows in delta and epsilon."""
    signal = a_signal(aggregates=given_aggregates, bounds=limits, budget_per_release=ZCDP(rho))
    calibration = calibrated(signal)
    distance = sum(Fraction(m.measure.l0) * Fraction(m.distribution.distance) for m in calibration.mechanisms)
    assert Fraction(calibration.sampler_delta) >= Fraction(1 + math.exp(calibration.epsilon)) * distance
    assert Fraction(calibration.loss.delta) == Fraction(calibration.selection_delta) + Fraction(
        calibration.sampler_delta
    )
    assert calibration.epsilon == calibration.loss.epsilon(DELTA)
    assert calibration.sampler_delta < Decimal("1e-9")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"partitions": PrivateSelection(delta=1e-6)},
            "item_weekly v1: partitions: delta 1e-06 is not below the reporting delta 1e-06; make it smaller",
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


def test_more_budget_means_less_noise() -> None:
    stddevs = [
        calibrated(a_signal(budget_per_release=ZCDP(rho))).mechanisms[0].noise_stddev for rho in (0.01, 0.1, 1.0, 10.0)
    ]
    assert stddevs == sorted(stddevs, reverse=True)
    fine = a_signal(aggregates={"s": Sum("v", Interval(0, 600))}, partitions=PUBLIC)
    coarse = a_signal(aggregates={"s": Sum("v", Interval(0, 600, step=100))}, partitions=PUBLIC)
    assert calibrated(fine).mechanisms[0].noise_stddev == pytest.approx(calibrated(coarse).mechanisms[0].noise_stddev)
