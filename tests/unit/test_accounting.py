"""Accounting against exact arithmetic (mpmath, enumeration) and against dp_accounting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

import mpmath
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import DiscreteLaplaceDpEvent
from dp_accounting.pld import PLDAccountant, privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant

from governance.privacy import PrivacyLoss, epsilon_of_rho, rho_of_epsilon
from pipelines.accounting import (
    ApproximateEvent,
    GaussianEvent,
    LaplaceEvent,
    combined_epsilon,
    events_delta,
    events_epsilon,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    key_delta,
    laplace_epsilon,
    least_noise_factor,
    plan_epsilon,
    released_delta,
    released_epsilon,
    total_rho,
)

EPSILONS = (0.0, 0.01, 0.1, 0.5, 1.0, 3.0, 8.0)


def exact_gaussian_delta(mu: float, epsilon: float) -> mpmath.mpf:
    """Balle and Wang 2018, Theorem 8, with 60 digits."""
    with mpmath.workdps(60):
        m, e = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(m / 2 - e / m) - mpmath.exp(e) * mpmath.ncdf(-m / 2 - e / m)


def exact_discrete_delta(shift: Sequence[int], sigmas: Sequence[float], epsilon: float) -> float:
    """Hockey-stick divergence of discrete Gaussians from shifted ones, summed over the integer grid."""
    losses, weights = np.zeros(1), np.ones(1)
    for v, sigma in zip(shift, sigmas, strict=True):
        y = np.arange(-math.ceil(13 * sigma) - abs(v), math.ceil(13 * sigma) + abs(v) + 1)
        weight = np.exp(-np.square(y / sigma) / 2)
        loss = (v * v - 2 * v * y) / (2 * sigma**2)
        losses = np.add.outer(losses, loss).ravel()
        weights = np.multiply.outer(weights, weight / weight.sum()).ravel()
    return float(np.sum(weights * -np.expm1(np.minimum(0.0, epsilon - losses))))


# --- the continuous Gaussian ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [1e-4, 0.01, 0.2, 1.0, 4.0, 30.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 0.1, 1.0, 5.0, 40.0, 700.0])
def test_the_gaussian_delta_is_exact_and_never_too_small(mu: float, epsilon: float) -> None:
    exact = exact_gaussian_delta(mu, epsilon)
    found = gaussian_delta(mu, epsilon)
    assert found >= exact
    if exact > 1e-250:
        assert found <= exact * (1 + 1e-8), "and hardly larger"


@pytest.mark.parametrize("mu", [0.01, 0.2, 1.0, 4.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-6, 1e-2])
def test_gaussian_epsilon_and_mu_invert_delta(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    assert exact_gaussian_delta(mu, epsilon) <= delta
    assert epsilon == 0 or exact_gaussian_delta(mu, epsilon * (1 - 1e-6)) > delta
    if epsilon > 0:
        assert gaussian_mu(epsilon, delta) == pytest.approx(mu, rel=1e-6)
        assert exact_gaussian_delta(gaussian_mu(epsilon, delta), epsilon) <= delta


def test_the_gaussian_epsilon_is_what_dp_accounting_says() -> None:
    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(5.0))
    assert gaussian_epsilon(0.2, 1e-6) <= accountant.get_epsilon(1e-6) <= gaussian_epsilon(0.2, 1e-6) * 1.001


def test_no_difference_costs_nothing() -> None:
    assert gaussian_delta(0.0, 0.0) == 0
    assert gaussian_epsilon(0.0, 1e-9) == 0
    assert events_epsilon([], 1e-9) == 0
    assert events_delta([GaussianEvent(l2=0.0, sigma=3.0, coordinates=0)], 0.0) == 0
    assert plan_epsilon([], 1e-9) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: gaussian_delta(-1, 1),
        lambda: gaussian_delta(1, -1),
        lambda: gaussian_delta(math.nan, 1),
        lambda: gaussian_epsilon(1, 0),
        lambda: gaussian_epsilon(math.inf, 0.1),
        lambda: gaussian_mu(1, 1),
        lambda: gaussian_mu(math.nan, 0.1),
        lambda: events_epsilon([], 0),
        lambda: events_delta([], -1),
        lambda: least_noise_factor([GaussianEvent(l2=0, sigma=1, coordinates=1)], 1, 1e-6),
        lambda: least_noise_factor([GaussianEvent(l2=1, sigma=1, coordinates=1)], 0, 1e-6),
        lambda: GaussianEvent(l2=1, sigma=0, coordinates=1),
        lambda: GaussianEvent(l2=math.nan, sigma=1, coordinates=1),
        lambda: LaplaceEvent(linf=-1, scale=1, coordinates=1),
        lambda: LaplaceEvent(linf=1, scale=math.inf, coordinates=1),
        lambda: ApproximateEvent(epsilon=1, delta=1),
        lambda: key_delta(0, 0.1),
        lambda: released_delta([], 1, 1.0, equal_keys=True),
        lambda: released_epsilon([], 0.0),
        lambda: combined_epsilon(1, -0.1, 0.1),
        lambda: combined_epsilon(-1, 0, 0.1),
        lambda: plan_epsilon([], 2),
    ],
)
def test_parameters_out_of_range_are_refused(call: object) -> None:
    with pytest.raises(ValueError, match=r"found|needs"):
        call()


# --- the discrete Gaussian --------------------------------------------------------------------------------------------

PAIRS = [
    ((1,), (1.0,)),
    ((1,), (4.0,)),
    ((3,), (5.0,)),
    ((1,), (28.0,)),
    ((7,), (28.0,)),
    ((1, 1), (4.0, 4.0)),
    ((1, 5), (4.0, 11.0)),
    ((1, 1, 1), (3.0, 3.0, 3.0)),
    ((1, 2, -3), (3.0, 4.1, 5.3)),
]


@pytest.mark.parametrize(("shift", "sigmas"), PAIRS)
def test_the_lattice_bound_holds_for_exact_divergences(shift: tuple[int, ...], sigmas: tuple[float, ...]) -> None:
    events = [GaussianEvent(l2=abs(v), sigma=s, coordinates=1) for v, s in zip(shift, sigmas, strict=True)]
    mu = math.sqrt(2 * total_rho(events))
    for epsilon in np.concatenate([np.linspace(0, 6 * mu, 61), EPSILONS]):
        exact = exact_discrete_delta(shift, sigmas, float(epsilon))
        assert exact * (1 - 1e-9) - 1e-18 <= events_delta(events, float(epsilon))


def test_the_continuous_formula_alone_would_be_wrong() -> None:
    """What the theorem is for: with the same sigma the discrete Gaussian's delta is larger at some epsilon."""
    ratios = [
        exact_discrete_delta((1,), (4.0,), float(epsilon)) / gaussian_delta(0.25, float(epsilon))
        for epsilon in np.linspace(0.5, 1.5, 200)
    ]
    assert max(ratios) > 1.05


@pytest.mark.parametrize(("sigma", "l0", "slack"), [(10.0, 5, 0.02), (28.0, 20, 0.002), (200.0, 1, 1e-4)])
def test_the_lattice_bound_is_tight(sigma: float, l0: int, slack: float) -> None:
    """Within a fraction of a per cent of the continuous Gaussian, where Rényi divergence is 7 % or more above."""
    event = GaussianEvent(l2=math.sqrt(l0), sigma=sigma, coordinates=l0)
    continuous = gaussian_epsilon(math.sqrt(l0) / sigma, 1e-6)
    assert continuous <= events_epsilon([event], 1e-6) <= continuous * (1 + slack)
    assert epsilon_of_rho(total_rho([event]), 1e-6) > continuous * 1.07


@pytest.mark.parametrize(("sigma", "l0"), [(10.0, 5), (28.0, 20)])
def test_the_lattice_bound_agrees_with_the_discrete_pld(sigma: float, l0: int) -> None:
    """dp_accounting's own discrete Gaussian, every one of l0 sums shifted by one; it rounds losses up to 1e-4."""
    pld = privacy_loss_distribution.from_discrete_gaussian_mechanism(sigma, use_connect_dots=True)
    theirs = pld.self_compose(l0).get_epsilon_for_delta(1e-6)
    ours = events_epsilon([GaussianEvent(l2=math.sqrt(l0), sigma=sigma, coordinates=l0)], 1e-6)
    assert theirs * 0.999 <= ours <= theirs * 1.02


def test_small_scales_fall_back_to_renyi() -> None:
    event = GaussianEvent(l2=1.0, sigma=0.5, coordinates=1)
    assert events_epsilon([event], 1e-6) == pytest.approx(epsilon_of_rho(2.0, 1e-6))
    assert exact_discrete_delta((1,), (0.5,), events_epsilon([event], 1e-6)) <= 1e-6


@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-9), (1.0, 1e-6), (5.0, 1e-5), (30.0, 1e-6)])
def test_the_least_noise_keeps_the_promise_and_uses_it(epsilon: float, delta: float) -> None:
    split = [
        GaussianEvent(l2=math.sqrt(20), sigma=1.0, coordinates=20),
        GaussianEvent(l2=5 * math.sqrt(20), sigma=3.0, coordinates=20),
    ]

    def scaled(factor: float) -> list[GaussianEvent]:
        return [GaussianEvent(l2=e.l2, sigma=factor * e.sigma, coordinates=e.coordinates) for e in split]

    factor = least_noise_factor(split, epsilon, delta)
    assert events_delta(scaled(factor), epsilon) <= delta
    assert events_delta(scaled(factor * (1 - 1e-9)), epsilon) > delta
    assert events_epsilon(scaled(factor), delta) == pytest.approx(epsilon, rel=1e-9)
    renyi = math.sqrt(total_rho(split) / rho_of_epsilon(epsilon, delta))
    assert factor <= renyi * (1 + 1e-9)
    if epsilon <= 5:
        assert factor < 0.96 * renyi, "tight accounting must save noise"


@pytest.mark.parametrize("shift", [(4, 0), (0, 9), (2, 7), (1, -8)])
def test_a_joint_bound_covers_every_way_to_spend_it(shift: tuple[int, int]) -> None:
    """Measurements clipped as one vector: the whole shift in the one with the least noise is the worst case."""
    sigmas = (4.0, 9.0)
    joint = GaussianEvent.jointly(rho=0.5, smallest_sigma=4.0, coordinates=2)
    assert sum((v / s) ** 2 for v, s in zip(shift, sigmas, strict=True)) <= 2 * 0.5
    for epsilon in np.linspace(0, 5, 41):
        exact = exact_discrete_delta(shift, sigmas, float(epsilon))
        assert exact * (1 - 1e-9) - 1e-18 <= events_delta([joint], float(epsilon))


def test_grouped_events_count_as_often_as_they_occur() -> None:
    one = GaussianEvent(l2=2.0, sigma=40.0, coordinates=4)
    many = GaussianEvent(l2=2.0, sigma=40.0, coordinates=4, count=30)
    assert events_epsilon([many], 1e-6) == pytest.approx(events_epsilon([one] * 30, 1e-6), rel=1e-9)


# --- private selection ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l0", [1, 2, 5, 20, 300])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.1, 1e-9), (1.0, 1e-6), (4.0, 1e-3), (0.5, 0.02)])
def test_no_split_of_delta_is_needed(l0: int, epsilon: float, delta: float) -> None:
    """The theorem, against the maximum over the number of keys that are the unit's own, with 60 digits."""
    mu = gaussian_mu(epsilon, delta)
    assert (epsilon / mu) ** 2 - mu * mu / 4 >= 1
    p = key_delta(l0, delta)
    with mpmath.workdps(60):
        worst = max(
            1 - (1 - mpmath.mpf(p)) ** j * (1 - exact_gaussian_delta(mu * math.sqrt((l0 - j) / l0), epsilon))
            if j < l0
            else 1 - (1 - mpmath.mpf(p)) ** l0
            for j in range(l0 + 1)
        )
    assert worst <= delta


def test_the_release_takes_the_larger_delta_not_the_sum() -> None:
    events = [GaussianEvent(l2=math.sqrt(20), sigma=28.0, coordinates=20)]
    epsilon = events_epsilon(events, 1e-6)
    assert released_epsilon(events, 1e-6, 1e-6, equal_keys=True) == pytest.approx(epsilon, rel=1e-9)
    assert released_epsilon(events, 1e-6, 1e-9, equal_keys=True) == pytest.approx(epsilon, rel=1e-9)
    assert released_epsilon(events, 1e-6, 0.5e-6) == pytest.approx(events_epsilon(events, 0.5e-6), rel=1e-9)
    assert released_epsilon(events, 1e-6, 1e-6) == math.inf, "elsewhere the two add up"
    assert released_epsilon(events, 1e-6, 2e-6, equal_keys=True) == math.inf
    assert (
        released_delta(events, epsilon, 1e-7, equal_keys=True)
        <= 1e-6
        < released_delta(events, epsilon, 1e-7, equal_keys=False)
    )


def test_where_the_theorem_does_not_apply_deltas_add_up() -> None:
    """Epsilon below mu: the convexity that it needs is not there."""
    events = [GaussianEvent(l2=5.0, sigma=5.0, coordinates=25)]
    noise = events_delta(events, 0.3)
    assert released_delta(events, 0.3, 0.01, equal_keys=True) == pytest.approx(noise + 0.01)


@pytest.mark.parametrize("own", [0, 1, 2])
def test_an_exact_release_with_selection_keeps_its_delta(own: int) -> None:
    """Two keys of one unit, `own` of them its alone; the others have 30 more units. Summed over all outputs."""
    sigma, epsilon, delta = 12.0, 0.5, 1e-3
    noise = np.arange(-200, 201)
    weight = np.exp(-np.square(noise / sigma) / 2)
    weight /= weight.sum()
    threshold = next(t for t in range(1, 200) if 1 - (1 - weight[noise >= t - 1].sum()) ** 2 <= delta)
    p = float(weight[noise >= threshold - 1].sum())

    def outputs(count: int) -> dict[int | None, float]:
        shown = {int(x) + count: float(w) for x, w in zip(noise, weight, strict=True) if x + count >= threshold}
        return {None: 1 - sum(shown.values()), **shown}

    without, with_unit = outputs(30), outputs(31)
    both = set(without) | set(with_unit)
    delta_out = delta_in = 0.0
    for cells in product(both, repeat=2 - own):
        hidden = (1 - p) ** own
        p0 = math.prod(without.get(c, 0.0) for c in cells)
        p1 = math.prod(with_unit.get(c, 0.0) for c in cells)
        delta_in += max(0.0, hidden * p1 - math.exp(epsilon) * p0)
        delta_out += max(0.0, p0 - math.exp(epsilon) * hidden * p1)
    delta_in += 1 - (1 - p) ** own  # outputs that show a key of its own never happen without the unit
    events = [GaussianEvent(l2=math.sqrt(2), sigma=sigma, coordinates=2)]
    claimed = released_delta(events, epsilon, 1 - (1 - p) ** 2, equal_keys=True)
    assert max(delta_in, delta_out) <= claimed <= 1e-3
    if own == 2:
        assert delta_in == pytest.approx(claimed), "the bound is attained"


def test_combined_epsilon_is_the_account_s_conversion() -> None:
    loss = PrivacyLoss.of(0.1, "1e-7")
    assert combined_epsilon(0.1, 1e-7, 1e-6) == pytest.approx(loss.epsilon(1e-6), rel=1e-6)
    assert combined_epsilon(0.1, 0.0, 1e-6) == pytest.approx(epsilon_of_rho(0.1, 1e-6))
    assert combined_epsilon(0.1, 1e-6, 1e-6) == math.inf


# --- plans ------------------------------------------------------------------------------------------------------------


def test_the_measured_example_of_thirty_releases() -> None:
    """sigma 28, 30 releases, delta 1e-8: PLD 0.998, RDP 1.057."""
    events = [GaussianEvent(l2=1.0, sigma=28.0, coordinates=1, count=30)]
    rdp = RdpAccountant([1 + x / 10 for x in range(1, 2000)])
    rdp.compose(SelfComposedDpEvent(GaussianDpEvent(28.0), 30))
    assert plan_epsilon(events, 1e-8) == pytest.approx(0.998, abs=1e-3)
    assert rdp.get_epsilon(1e-8) == pytest.approx(1.057, abs=1e-2)


@pytest.mark.parametrize("coordinates", [1, 8, 40])
@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-3])
def test_composed_laplace_noise_against_exact_binomials(coordinates: int, delta: float) -> None:
    """A count under discrete Laplace noise loses `+1/scale` with probability 1/(1 + q), else at least `-1/scale`."""
    scale = 10.0
    found = laplace_epsilon([LaplaceEvent(linf=1, scale=scale, coordinates=coordinates)], delta)
    with mpmath.workdps(40):
        q = mpmath.exp(-1 / mpmath.mpf(scale))
        cells = [
            (mpmath.binomial(coordinates, k) * q**k / (1 + q) ** coordinates, (coordinates - 2 * k) / mpmath.mpf(scale))
            for k in range(coordinates + 1)
        ]

        def exact(epsilon: float) -> mpmath.mpf:
            return sum(p * (1 - mpmath.exp(epsilon - loss)) for p, loss in cells if loss > epsilon)

        assert exact(found * (1 + 1e-9)) <= delta * (1 + 1e-6)
        assert exact(found * 0.99) > delta, "within a hundredth of the exact value"
    assert found <= coordinates / scale * (1 + 1e-12), "never above the pure epsilon"


@pytest.mark.parametrize("scale", [1.5, 6.0])
def test_the_full_shift_is_the_worst(scale: float) -> None:
    """Monotone likelihood ratios: divergences of discrete Laplace and Gaussian noise grow with the shift."""
    y = np.arange(-400, 401)
    for weight in (np.exp(-np.abs(y) / scale), np.exp(-np.square(y / scale) / 2)):
        pmf = weight / weight.sum()
        for epsilon in EPSILONS[:-1]:
            deltas = [
                float(np.maximum(pmf - math.exp(epsilon) * np.roll(pmf, shift), 0).sum()) for shift in range(1, 9)
            ]
            assert all(later >= earlier - 1e-15 for earlier, later in pairwise(deltas))


def test_a_mixed_plan_against_dp_accounting() -> None:
    accountant = PLDAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(30.0), 20))
    accountant.compose(SelfComposedDpEvent(DiscreteLaplaceDpEvent(1 / 50, 1), 10))
    theirs = accountant.get_epsilon(1e-6)
    plan = [
        GaussianEvent(l2=1.0, sigma=30.0, coordinates=1, count=20),
        LaplaceEvent(linf=1, scale=50.0, coordinates=10),
    ]
    assert plan_epsilon(plan, 1e-6) == pytest.approx(theirs, rel=0.01)
    assert plan_epsilon(plan, 1e-6) < combined_epsilon(total_rho([plan[0]]) + 10 / 50**2 / 2, 0, 1e-6)


def test_approximations_use_delta_up() -> None:
    noise = GaussianEvent(l2=1.0, sigma=20.0, coordinates=1)
    selection = ApproximateEvent(epsilon=0.0, delta=1e-7, count=5)
    assert plan_epsilon([noise, selection], 1e-6) == pytest.approx(events_epsilon([noise], 5e-7), rel=1e-5)
    assert plan_epsilon([noise, ApproximateEvent(epsilon=0.0, delta=1e-6)], 1e-6) == math.inf
    known = [ApproximateEvent(epsilon=0.1, delta=0.0, count=40)]
    assert 0.1 * math.sqrt(40) < plan_epsilon(known, 1e-6) < 4.0 * 0.9
    assert plan_epsilon([ApproximateEvent(epsilon=0.1, delta=0.0)], 1e-6) <= 0.1


def test_a_plan_never_costs_more_than_the_account_says() -> None:
    tiny = [GaussianEvent(l2=1.0, sigma=0.4, coordinates=1), LaplaceEvent(linf=1, scale=2.0, coordinates=2)]
    assert plan_epsilon(tiny, 1e-6) <= combined_epsilon(total_rho([tiny[0]]) + 2 * 0.5**2 / 2, 0, 1e-6) * (1 + 1e-9)
