"""From a budget to noise: the scales, the selection threshold and the loss that the ledger is charged.

Noise. A measurement with Euclidean sensitivity `L2` and discrete Gaussian noise of `sigma` on every coordinate is
`L2^2 / (2 sigma^2)`-zCDP (Canonne, Kamath, Steinke 2020, Theorem 4 for one integer, and composition over coordinates
because it holds for every integer shift). With discrete Laplace noise of scale `L1 / epsilon_i` it is epsilon_i-DP,
hence `epsilon_i^2 / 2`-zCDP (Bun and Steinke 2016, Proposition 3.3).

Split. Measurement i gets the share `rho_i` of rho. An output's error is judged by its variance over the square of what
one unit can add to it in a partition, times its weight; summed over outputs that is `sum_i a_i sigma_i^2`, which is
`sum_i a_i L2_i^2 / (2 rho_i)`, least for `rho_i` proportional to `sqrt(a_i) L2_i` (Cauchy and Schwarz). For Laplace
noise the sum is `sum_i a_i 2 (L1_i / epsilon_i)^2`, least for `epsilon_i` proportional to `(a_i L1_i^2)^(1/3)`. Under
`ClipNorm` the shares set each measurement's scale in the norm: `s_i = row_l2_i / sqrt(share_i)`, so that a row of full
size has norm 1, and `sigma_i = s_i l2 / sqrt(2 rho)` (pipelines.measurements).

Tight accounting. A budget in (epsilon, delta) is met by the discrete Gaussian's own bound, not by way of zCDP: the
noise is the least for which `released_delta` (pipelines.accounting: lattice theorem, and no split of delta between
noise and selection where its theorem holds) stays below delta. The ledger is charged the rho of that noise.

Sampler. If every draw is within total variation distance t of the ideal, the release is within `K t` of the ideal one
on D and on D', where K counts the draws that D and D' do not share (`Measure.changed`). Over all releases of an account
these distances add up (hybrid argument), so an (epsilon, delta) guarantee of the account becomes
`(epsilon, delta + (1 + e^epsilon) sum of K t)`. `sampler_delta` is a release's part of that last term, at the larger of
its own epsilon and the epsilon of its account's cap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal, localcontext

from governance.errors import DefinitionError
from governance.privacy import PrivacyLoss, epsilon_of_rho, rho_of_epsilon
from pipelines.accounting import GaussianEvent, least_noise_factor, released_delta, released_epsilon
from pipelines.definitions import (
    ZCDP,
    AdaptiveWeights,
    ApproxDP,
    ClipNorm,
    KeepRandom,
    PrivateSelection,
    PureDP,
    Relation,
    Signal,
    UnitCount,
)
from pipelines.measurements import WEIGHTS, Measure, MeasureKind
from pipelines.noise import Distribution, discrete_gaussian, discrete_laplace, gaussian_tail_probability
from pipelines.recipes import Output, Recipe
from pipelines.thresholds import Selecting, one_round, two_rounds

__all__ = ["TWO_SIDED_95", "Calibration", "Mechanism", "calibrate", "is_clipped", "shares_of"]

_SAMPLER_SHARE = 0.001
_LATE_WEIGHT = 0.01  # a number for operators, which may be rough
_FEW_STEPS = 20  # noise of a smaller standard deviation is told in whole steps
TWO_SIDED_95 = 1.959963984540054
"""Standard deviations on each side of a normal mean that hold 95 %."""


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
        selecting: what decides which keys are released; None for public partitions.
        selection_delta: delta of the selection.
        sampler_delta: delta of the sampler's distance.
        loss: what the ledger is charged.
        epsilon: at `epsilon_delta`.
        epsilon_delta: the reporting delta, or the budget's own.
    """

    mechanisms: tuple[Mechanism, ...]
    selecting: Selecting | None
    selection_delta: Decimal
    sampler_delta: Decimal
    loss: PrivacyLoss
    epsilon: float
    epsilon_delta: float

    @property
    def threshold(self) -> int | None:
        """Smallest noisy unit count, or weight in its grid steps, that is released; None for public partitions."""
        return None if self.selecting is None else self.selecting.threshold

    @property
    def pure(self) -> bool:
        """Whether all noise is discrete Laplace: pure differential privacy, the sampler's distance aside."""
        return all(mechanism.name == "discrete Laplace" for mechanism in self.mechanisms)

    def stddev(self, output: Output) -> float:
        """Standard deviation of a linear output's noise; for the others, of the linear part that judges them."""
        parts = (t.coefficient * self.mechanism(t.measure).distribution.stddev for t in output.terms)
        return math.hypot(*parts)

    def half_width(self, output: Output) -> float:
        """Half-width of the interval around a linear output that holds the value without noise in 95 % of releases.

        Of noise that is a few steps wide it is a whole number of steps, and then it holds in 95 % of releases or more.
        """
        names = {term.measure for term in output.terms}
        mechanism = self.mechanism(output.measure)
        if len(names) == 1 and mechanism.distribution.stddev < _FEW_STEPS:
            return _steps_of_95(mechanism) * sum(abs(term.coefficient) for term in output.terms)
        if len(names) == 1 and mechanism.name == "discrete Laplace":
            return self.stddev(output) / math.sqrt(2) * -math.log(0.05)
        return TWO_SIDED_95 * self.stddev(output)

    @property
    def summed(self) -> tuple[Mechanism, ...]:
        """The mechanisms of what is summed for each partition, in order; not late units."""
        return tuple(m for m in self.mechanisms if m.measure.kind is not MeasureKind.LATE)

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
    budget = signal.budget_per_release
    selection = signal.partitions.delta if isinstance(signal.partitions, PrivateSelection) else 0.0
    epsilon_delta = budget.delta if isinstance(budget, ApproxDP) else reporting_delta
    # One part in a thousand of delta is kept for the sampler, which needs far less.
    left = epsilon_delta * (1 - _SAMPLER_SHARE)
    if selection >= left:
        raise DefinitionError(
            signal.identity,
            f"partitions: delta {selection:g} is not below the reporting delta {epsilon_delta:g}, of which a "
            "thousandth is kept for the sampler; make it smaller",
        )
    shares = shares_of(signal, recipe)
    epsilon: float
    if isinstance(budget, PureDP):
        mechanisms = tuple(_laplace(signal, m, budget.epsilon * shares[m.name]) for m in recipe.measures)
        with localcontext(rounding=ROUND_CEILING):
            parts = (Decimal(repr(mechanism.rho)) for mechanism in mechanisms)
            rho = min(sum(parts, Decimal(0)) * (1 + Decimal("1e-12")), Decimal(str(budget.epsilon)) ** 2 / 2)
        epsilon = budget.epsilon
    else:
        exact = budget.rho if isinstance(budget, ZCDP) else _rho_of(signal, recipe, shares, budget.epsilon, left)
        rho = Decimal(repr(exact))
        mechanisms = _gaussians(signal, recipe, exact, shares)
        epsilon = _released_epsilon(signal, recipe, mechanisms, left)

    distance = sum(mechanism.measure.changed * mechanism.distribution.distance for mechanism in mechanisms)
    # An account's own conversion is looser than a single release's, so both count here.
    widest = max(epsilon, composed_epsilon, epsilon_of_rho(float(rho), left - selection))
    sampler_delta = _power_of_ten_above((1 + math.exp(min(widest, 300))) * distance)
    if sampler_delta > _SAMPLER_SHARE * epsilon_delta:
        raise DefinitionError(
            signal.identity,
            f"budget_per_release: at epsilon {epsilon:.3g} the sampler's distance from the ideal noise would weigh "
            f"{sampler_delta:.0e} in delta, allowed: {_SAMPLER_SHARE * epsilon_delta:.0e}; lower the budget",
        )
    selection_delta = Decimal(str(selection))
    loss = PrivacyLoss(rho, selection_delta) + PrivacyLoss(Decimal(0), sampler_delta)
    deciding = None
    if recipe.units is not None:
        deciding = _selecting(signal, recipe, {m.measure.name: m for m in mechanisms}, selection)
    return Calibration(
        mechanisms=mechanisms,
        selecting=deciding,
        selection_delta=selection_delta,
        sampler_delta=sampler_delta,
        loss=loss,
        epsilon=epsilon,
        epsilon_delta=epsilon_delta,
    )


def _gaussians(signal: Signal, recipe: Recipe, rho: float, shares: Mapping[str, float]) -> tuple[Mechanism, ...]:
    joint = sum(shares[m.name] for m in recipe.measures if is_clipped(m, signal))
    return tuple(
        _gaussian(signal, m, rho, shares[m.name], joint if is_clipped(m, signal) else 0.0) for m in recipe.measures
    )


def _events(signal: Signal, mechanisms: tuple[Mechanism, ...]) -> tuple[GaussianEvent, ...]:
    """The mechanisms as accountants know them; those clipped together are one."""
    clipped = [m for m in mechanisms if is_clipped(m.measure, signal)]
    events = [
        GaussianEvent(l2=m.measure.l2, sigma=m.distribution.scale, coordinates=m.measure.changed)
        for m in mechanisms
        if m not in clipped
    ]
    if clipped:
        rho = max((m.measure.l2 / m.distribution.scale) ** 2 / 2 for m in clipped)
        smallest = min(m.distribution.scale for m in clipped)
        coordinates = min(2**40, sum(m.measure.changed for m in clipped))
        events.append(GaussianEvent.jointly(rho=rho, smallest_sigma=smallest, coordinates=coordinates))
    return tuple(events)


def _equal_keys(signal: Signal, recipe: Recipe) -> bool:
    """Whether each of a unit's t keys adds at most the t-th part of its whole squared shift (accounting.selection)."""
    by = signal.partitions.by if isinstance(signal.partitions, PrivateSelection) else None
    one_more = signal.privacy_unit.relation is Relation.ADD_REMOVE_ONE
    return one_more and isinstance(signal.bounds, KeepRandom) and isinstance(by, UnitCount) and recipe.late is None


def _released_epsilon(signal: Signal, recipe: Recipe, mechanisms: tuple[Mechanism, ...], delta: float) -> float:
    """The smallest epsilon that is proved for one release at `delta`, selection included."""
    selection = signal.partitions.delta if isinstance(signal.partitions, PrivateSelection) else 0.0
    events = _events(signal, mechanisms)
    return released_epsilon(events, delta, selection, equal_keys=_equal_keys(signal, recipe))


def _rho_of(signal: Signal, recipe: Recipe, shares: Mapping[str, float], epsilon: float, delta: float) -> float:
    """The most rho whose release is (epsilon, delta)-DP, selection included, by the tight bound."""
    selection = signal.partitions.delta if isinstance(signal.partitions, PrivateSelection) else 0.0
    start = rho_of_epsilon(epsilon, delta - selection)
    events = _events(signal, _gaussians(signal, recipe, start, shares))

    def with_all_of(noise_delta: float) -> float:
        return start / least_noise_factor(events, epsilon, noise_delta) ** 2 * (1 - 1e-9)

    if selection and _equal_keys(signal, recipe):
        # Noise and threshold may each take the whole delta, if the theorem's condition holds: which is looked for.
        rho = with_all_of(delta)
        scaled = _events(signal, _gaussians(signal, recipe, rho, shares))
        if released_delta(scaled, epsilon, selection, equal_keys=True) <= delta:
            return rho
    return with_all_of(delta - selection)


def shares_of(signal: Signal, recipe: Recipe) -> Mapping[str, float]:
    """Each measurement's share of the budget, by the least weighted error of the outputs; the shares add up to 1.

    The budget is rho, or epsilon for pure DP.
    """
    influence = dict.fromkeys((measure.name for measure in recipe.measures), 0.0)
    columns = [output.aggregate for output in recipe.outputs]
    for output in recipe.outputs:
        weight = signal.weights.get(output.aggregate, 1.0) / columns.count(output.aggregate)
        for term in output.terms:
            influence[term.measure] += (
                weight * (term.coefficient / (output.scale * _rows_of(signal, recipe, output))) ** 2
            )
    if recipe.units is not None:
        deciding = recipe.measure(recipe.units)
        # A unit that fills its bounds adds 1 to a count, but only the root of its share to a weight.
        fewest = 1 if deciding.kind not in WEIGHTS else signal.bounds.max_partitions or 1
        influence[recipe.units] += deciding.grid_step**2 * fewest
    if recipe.first is not None and recipe.units is not None and isinstance(signal.partitions, PrivateSelection):
        by = signal.partitions.by
        part = by.first if isinstance(by, AdaptiveWeights) else 0.0
        # Both rounds together take what one would: noise of the mean that decides is as if there were one.
        influence[recipe.first] += influence[recipe.units] * part**2
        influence[recipe.units] *= (1 - part) ** 2
    if recipe.late is not None:
        influence[recipe.late] += _LATE_WEIGHT
    pure = isinstance(signal.budget_per_release, PureDP)
    parts = {}
    for measure in recipe.measures:
        if pure:
            parts[measure.name] = (influence[measure.name] * float(measure.l1) ** 2) ** (1 / 3)
        else:
            moved = measure.row_l2 if is_clipped(measure, signal) else measure.l2
            parts[measure.name] = math.sqrt(influence[measure.name]) * moved
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()}


def _rows_of(signal: Signal, recipe: Recipe, output: Output) -> int:
    """Rows of full size that a unit adds to a partition at most, of those that this output counts."""
    if isinstance(signal.bounds, ClipNorm) or recipe.measure(output.measure).kind is MeasureKind.UNITS:
        return 1
    return signal.bounds.max_rows_per_partition


def _selecting(signal: Signal, recipe: Recipe, mechanisms: Mapping[str, Mechanism], delta: float) -> Selecting:
    """What decides which keys are released.

    Raises:
        DefinitionError: delta is below what the sampler resolves.
    """
    assert recipe.units is not None
    last = mechanisms[recipe.units]
    try:
        if recipe.first is None:
            return one_round(last.measure, last.distribution, delta)
        first = mechanisms[recipe.first]
        return two_rounds(last.measure, first.distribution, last.distribution, delta)
    except ValueError as error:
        raise DefinitionError(signal.identity, f"partitions: {error}; make it larger") from None


def is_clipped(measure: Measure, signal: Signal) -> bool:
    """Whether `ClipNorm` bounds this measurement together with others."""
    beside = (*WEIGHTS, MeasureKind.LATE)
    return isinstance(signal.bounds, ClipNorm) and measure.kind not in beside


def _gaussian(signal: Signal, measure: Measure, rho: float, share: float, clipped: float) -> Mechanism:
    """Discrete Gaussian noise; `clipped` is the share of everything clipped together with this one, or 0."""
    if clipped:
        # One vector of all clipped measurements, whose norm is bounded jointly: they share one part of rho.
        measure = replace(measure, clip_scale=measure.row_l2 * math.sqrt(clipped / share))
        sigma = measure.l2 / math.sqrt(2 * rho * clipped)
    else:
        sigma = measure.l2 / math.sqrt(2 * rho * share)
    sigma *= 1 + 1e-12
    if sigma > 2**40:
        raise DefinitionError(
            signal.identity,
            f"{measure.name}: noise of {sigma:.3g} grid steps is too large; raise budget_per_release or lower the "
            "bounds",
        )
    distribution = discrete_gaussian(sigma)
    return Mechanism(measure=measure, name="discrete Gaussian", distribution=distribution, rho=rho * share)


def _laplace(signal: Signal, measure: Measure, epsilon: float) -> Mechanism:
    scale = measure.l1 / epsilon * (1 + 1e-12)
    if scale > 2**26:
        raise DefinitionError(
            signal.identity,
            f"{measure.name}: noise of {scale:.3g} grid steps is too large; raise budget_per_release, lower the "
            "bounds or give the interval a coarser step",
        )
    return Mechanism(measure=measure, name="discrete Laplace", distribution=discrete_laplace(scale), rho=epsilon**2 / 2)


def _steps_of_95(mechanism: Mechanism) -> int:
    """Smallest h with `P[|noise| <= h] >= 0.95`, in grid steps."""

    def beyond(steps: int) -> float:
        if mechanism.name == "discrete Gaussian":
            return 2 * gaussian_tail_probability(mechanism.distribution, steps + 1)
        ratio = math.exp(-1 / mechanism.distribution.scale)
        return 2 * ratio ** (steps + 1) / (1 + ratio)

    return next(steps for steps in itertools.count() if beyond(steps) <= 0.05)


def _power_of_ten_above(value: float) -> Decimal:
    """The value rounded up to one digit, so that reports can show it."""
    exact = Decimal(value)
    return exact.quantize(Decimal(1).scaleb(exact.adjusted()), rounding=ROUND_CEILING)


def _check_no_overflow(signal: Signal, recipe: Recipe) -> None:
    """Refuses bounds under which a 64-bit sum over 2^32 units could overflow.

    Under `ClipNorm` a unit's part is bounded by the clip, which the noise limit keeps far below.

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
