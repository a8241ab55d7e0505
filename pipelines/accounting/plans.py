"""Plans fixed in advance: what several releases lose together, by privacy loss distributions (PLD).

All that is Gaussian is first joined into one continuous Gaussian by module `lattice`'s theorem: its mu are exact
under composition, so a thousand releases cost as much time as one. Discrete Laplace noise and (epsilon, delta)
guarantees are composed with it numerically, by dp_accounting's pessimistic PLDs (Koskela, Jälkö, Honkela 2020;
Doroshenko, Ghazi, Kamath, Kumar, Manurangsi 2022), each kind once with its number of occurrences.

Discrete Laplace noise loses most, at every (epsilon, delta), where each sum differs by its full `linf`: shifted
discrete Laplace laws have monotone likelihood ratios, so the best test is a threshold, and its power grows with the
shift. Dominating pairs compose (Zhu, Dong, Wang 2022, Theorem 10), so over all sums the full shifts are the worst.

These numbers are for reports. They hold only if no parameter was chosen after seeing an earlier release; what the
ledger charges (`combined_epsilon`) holds always.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from governance.privacy import epsilon_of_rho
from pipelines.accounting.events import ApproximateEvent, GaussianEvent, LaplaceEvent, PrivacyEvent
from pipelines.accounting.gaussian import check_delta
from pipelines.accounting.lattice import continuous_bounds, events_epsilon, total_rho

__all__ = ["laplace_epsilon", "plan_epsilon"]

_CELLS = 20_000
_NEGLIGIBLE = 1e-9
_ROUNDING = 1 + 2.0**-40


def laplace_epsilon(events: Sequence[LaplaceEvent], delta: float) -> float:
    """Epsilon of discrete Laplace noise at a positive `delta`: below the pure epsilon, which holds at delta 0.

    Args:
        events: discrete Laplace noise, parameters fixed in advance.
        delta: in (0, 1).

    Raises:
        ValueError: delta out of range.
    """
    return plan_epsilon(events, delta)


def plan_epsilon(events: Sequence[PrivacyEvent], delta: float) -> float:
    """Epsilon of the composition of a plan's events at `delta`; infinite if their own deltas use it up.

    Args:
        events: everything the plan releases, parameters fixed in advance.
        delta: in (0, 1).

    Raises:
        ValueError: delta out of range.
    """
    check_delta(delta)
    return _plan_epsilon(tuple(events), delta)


@lru_cache(maxsize=256)
def _plan_epsilon(events: tuple[PrivacyEvent, ...], delta: float) -> float:
    gaussians = [event for event in events if isinstance(event, GaussianEvent)]
    others: Counter[LaplaceEvent | ApproximateEvent] = Counter()
    lost = 0.0
    for event in events:
        if isinstance(event, LaplaceEvent):
            single = LaplaceEvent(linf=event.linf, scale=event.scale, coordinates=1)
            others[single] += event.count * event.coordinates
        elif isinstance(event, ApproximateEvent):
            lost = 1 - (1 - lost) * (1 - event.delta) ** event.count
            others[ApproximateEvent(epsilon=event.epsilon, delta=0.0)] += event.count
    others = +Counter({event: times for event, times in others.items() if event.epsilon > 0})
    # An (epsilon, delta) guarantee is a pure one with probability 1 - delta; all of them hold but for `lost`.
    left = (delta - lost) / (1 - lost)
    if left <= 0:
        return math.inf
    if not others:
        return events_epsilon(gaussians, left)
    pure = sum(times * event.epsilon for event, times in others.items())
    rho = total_rho(gaussians) + sum(times * event.epsilon**2 / 2 for event, times in others.items())
    simple = min(pure + (events_epsilon(gaussians, left) if gaussians else 0.0), epsilon_of_rho(rho * _ROUNDING, left))
    return min(simple, _composed(gaussians, others, left, step=simple / _CELLS))


def _composed(
    gaussians: Sequence[GaussianEvent],
    others: Mapping[LaplaceEvent | ApproximateEvent, int],
    delta: float,
    *,
    step: float,
) -> float:
    """By PLD with losses in multiples of `step`, rounded so that epsilon errs upwards; infinite if it cannot tell."""
    from dp_accounting.pld import common
    from dp_accounting.pld import privacy_loss_distribution as pld

    mu, eta = 0.0, 0.0
    if gaussians:
        bounds = continuous_bounds(gaussians)
        if not bounds:
            return math.inf
        mu, eta = next((bound for bound in bounds if bound[1] <= _NEGLIGIBLE), bounds[-1])
    parts: list[Any] = []
    if mu > 0:
        parts.append(pld.from_gaussian_mechanism(1 / mu, value_discretization_interval=step, use_connect_dots=True))
    for event, times in others.items():
        if isinstance(event, LaplaceEvent):
            part: Any = pld.from_discrete_laplace_mechanism(
                1 / event.scale, event.linf, value_discretization_interval=step, use_connect_dots=True
            )
        else:
            part = pld.from_privacy_parameters(common.DifferentialPrivacyParameters(event.epsilon, 0.0), step)
        parts.append(part.self_compose(times) if times > 1 else part)
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.compose(part)
    return float(whole.get_epsilon_for_delta(delta * math.exp(-eta))) + 2 * eta
