"""From a budget to noise: the scales, the selection threshold and the loss that the ledger is charged.

Noise. A measurement with Euclidean sensitivity `L2` and discrete Gaussian noise of `sigma` on every partition is
`L2^2 / (2 sigma^2)`-zCDP (Canonne, Kamath, Steinke 2020, Theorem 4 for one integer, and composition over coordinates
because it holds for every integer shift). The budget is split evenly over a signal's measurements, so `sigma = L2 /
sqrt(2 rho_i)`. With discrete Laplace noise of scale `L1 / epsilon_i` it is epsilon_i-DP, hence `epsilon_i^2 / 2`-zCDP
(Bun and Steinke 2016, Proposition 3.3).

Selection. A key is released if its noisy unit count reaches `threshold`. Let D' be D plus one unit. Keys that only D'
has are at most L0, and each has exactly one unit. With `p = P[1 + noise >= threshold]`, all of them stay hidden with
probability `(1 - p)^L0 >= 1 - delta`; given that, the release on D' is post-processing of the same noisy sums over
the keys of D, as it is on D. So the release is delta-approximate rho-zCDP (Wilson et al. 2020, section 4; the
argument holds for every noise).

Sampler. If every draw is within total variation distance t of the ideal, the release is within `K t` of the ideal one
on D and on D', where K counts the draws that D and D' do not share: at most L0 for each measurement. Over all releases
of an account these distances add up (hybrid argument), so an (epsilon, delta) guarantee of the account becomes
`(epsilon, delta + (1 + e^epsilon) sum of K t)`. `sampler_delta` is a release's part of that last term, at the larger of
its own epsilon and the epsilon of its account's cap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal, localcontext

from governance.errors import DefinitionError
from governance.privacy import PrivacyLoss, epsilon_of_rho, rho_of_epsilon
from pipelines.definitions import ApproxDP, PrivateSelection, PureDP, Signal
from pipelines.measurements import Measure, Recipe
from pipelines.noise import Distribution, discrete_gaussian, discrete_laplace, gaussian_tail_probability

__all__ = ["Calibration", "Mechanism", "calibrate", "selection_threshold"]

_SAMPLER_SHARE = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """The noise of one measurement.

    Attributes:
        measure: what it protects.
        name: `"discrete Gaussian"` or `"discrete Laplace"`.
        distribution: in grid steps.
        rho: its share of the loss.
    """

    measure: Measure
    name: str
    distribution: Distribution
    rho: float

    @property
    def noise_stddev(self) -> float:
        """Standard deviation of the noise, in the column's units."""
        return self.distribution.stddev * self.measure.grid_step


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Everything that follows from a signal's budget.

    Attributes:
        mechanisms: one for each measurement, in the recipe's order.
        threshold: smallest noisy unit count that is released; None for public partitions.
        selection_delta: delta of the selection.
        sampler_delta: delta of the sampler's distance.
        loss: what the ledger is charged.
        epsilon: at `epsilon_delta`.
        epsilon_delta: the reporting delta, or the budget's own.
    """

    mechanisms: tuple[Mechanism, ...]
    threshold: int | None
    selection_delta: Decimal
    sampler_delta: Decimal
    loss: PrivacyLoss
    epsilon: float
    epsilon_delta: float

    @property
    def pure(self) -> bool:
        """Whether all noise is discrete Laplace: pure differential privacy, the sampler's distance aside."""
        return all(mechanism.name == "discrete Laplace" for mechanism in self.mechanisms)

    def mechanism(self, measurement: str) -> Mechanism:
        """The mechanism of a measurement."""
        return next(mechanism for mechanism in self.mechanisms if mechanism.measure.name == measurement)


def calibrate(signal: Signal, recipe: Recipe, reporting_delta: float, composed_epsilon: float = 0.0) -> Calibration:
    """Scales, threshold and loss for one release of a signal.

    Args:
        signal: the definition.
        recipe: its measurements.
        reporting_delta: the delta at which epsilon is told, unless the budget names its own.
        composed_epsilon: epsilon of everything that this release may be composed with (its account's cap).

    Raises:
        DefinitionError: the noise would be too large for exact 64-bit sums, or delta is used up.
    """
    _check_no_overflow(signal, recipe)
    budget, shares = signal.budget_per_release, len(recipe.measures)
    selection = signal.partitions.delta if isinstance(signal.partitions, PrivateSelection) else 0.0
    epsilon_delta = budget.delta if isinstance(budget, ApproxDP) else reporting_delta
    left = epsilon_delta - selection
    if left <= 0:
        raise DefinitionError(
            signal.identity,
            f"partitions: delta {selection:g} is not below the reporting delta {epsilon_delta:g}; make it smaller",
        )
    # One part in a thousand of delta is kept for the sampler, which needs far less.
    left *= 1 - _SAMPLER_SHARE
    if isinstance(budget, PureDP):
        mechanisms = tuple(_laplace(signal, measure, budget.epsilon / shares) for measure in recipe.measures)
        with localcontext(rounding=ROUND_CEILING):
            rho = Decimal(str(budget.epsilon)) ** 2 / (2 * shares)
    else:
        rho = Decimal(repr(rho_of_epsilon(budget.epsilon, left) if isinstance(budget, ApproxDP) else budget.rho))
        mechanisms = tuple(_gaussian(signal, measure, float(rho) / shares) for measure in recipe.measures)

    epsilon = budget.epsilon if isinstance(budget, PureDP) else epsilon_of_rho(float(rho), left)
    distance = sum(mechanism.measure.l0 * mechanism.distribution.distance for mechanism in mechanisms)
    sampler_delta = _power_of_ten_above((1 + math.exp(min(max(epsilon, composed_epsilon), 300))) * distance)
    if sampler_delta > _SAMPLER_SHARE * left:
        raise DefinitionError(
            signal.identity,
            f"budget_per_release: at epsilon {epsilon:.3g} the sampler's distance from the ideal noise would weigh "
            f"{sampler_delta:.0e} in delta, allowed: {_SAMPLER_SHARE * left:.0e}; lower the budget",
        )
    selection_delta = Decimal(str(selection))
    loss = PrivacyLoss(rho, selection_delta) + PrivacyLoss(Decimal(0), sampler_delta)
    threshold = None
    if recipe.units is not None:
        units = next(mechanism for mechanism in mechanisms if mechanism.measure.name == recipe.units)
        try:
            threshold = selection_threshold(units.distribution, units.measure.l0, selection)
        except ValueError as error:
            raise DefinitionError(signal.identity, f"partitions: {error}; make it larger") from None
    return Calibration(
        mechanisms=mechanisms,
        threshold=threshold,
        selection_delta=selection_delta,
        sampler_delta=sampler_delta,
        loss=loss,
        epsilon=epsilon if isinstance(budget, PureDP) else loss.epsilon(epsilon_delta),
        epsilon_delta=epsilon_delta,
    )


def selection_threshold(noise: Distribution, l0: int, delta: float) -> int:
    """Smallest integer t with `1 - (1 - P[1 + noise >= t])^l0 <= delta`.

    Args:
        noise: of the unit count, whose sensitivity per partition is 1.
        l0: most keys that one unit can add.
        delta: allowed probability that any of them shows.

    Raises:
        ValueError: the sampler's distance from the ideal alone could use up delta.
    """
    allowed = -math.expm1(math.log1p(-delta) / l0)
    if allowed < 4 * noise.distance:
        raise ValueError(f"delta {delta:g} is below what the sampler resolves ({4 * l0 * noise.distance:.0e})")
    low, high = 1, 2
    while gaussian_tail_probability(noise, high - 1) > allowed:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if gaussian_tail_probability(noise, middle - 1) > allowed:
            low = middle
        else:
            high = middle
    return high


def _gaussian(signal: Signal, measure: Measure, rho: float) -> Mechanism:
    sigma = measure.l2 / math.sqrt(2 * rho) * (1 + 1e-12)
    if sigma > 2**40:
        raise DefinitionError(
            signal.identity,
            f"{measure.name}: noise of {sigma:.3g} grid steps is too large; raise budget_per_release or lower the "
            "bounds",
        )
    return Mechanism(measure=measure, name="discrete Gaussian", distribution=discrete_gaussian(sigma), rho=rho)


def _laplace(signal: Signal, measure: Measure, epsilon: float) -> Mechanism:
    scale = measure.l1 / epsilon * (1 + 1e-12)
    if scale > 2**26:
        raise DefinitionError(
            signal.identity,
            f"{measure.name}: noise of {scale:.3g} grid steps is too large; raise budget_per_release, lower the "
            "bounds or give the interval a coarser step",
        )
    return Mechanism(measure=measure, name="discrete Laplace", distribution=discrete_laplace(scale), rho=epsilon**2 / 2)


def _power_of_ten_above(value: float) -> Decimal:
    """The value rounded up to one digit, so that reports can show it."""
    exact = Decimal(value)
    return exact.quantize(Decimal(1).scaleb(exact.adjusted()), rounding=ROUND_CEILING)


def _check_no_overflow(signal: Signal, recipe: Recipe) -> None:
    """Refuses bounds under which a 64-bit sum over 2^32 units could overflow.

    Raises:
        DefinitionError: the interval has too many steps for so many rows.
    """
    for measure in recipe.measures:
        if measure.linf > 2**31:
            raise DefinitionError(
                signal.identity,
                f"{measure.name}: one unit could add {measure.linf:,} grid steps to a partition, allowed: at most "
                "2^31; "
                "lower max_rows_per_partition or give the interval a coarser step",
            )
