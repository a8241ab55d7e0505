"""Epsilon of an account's releases as a plan fixed in advance, by privacy loss distributions.

Tighter than the ledger's filter, and another claim: it holds only if nothing about any release (which one, its bounds,
its noise) was chosen after seeing an earlier one. Identical releases are grouped, so their number costs no time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from governance.release import Manifest
from pipelines.accounting import ApproximateEvent, GaussianEvent, LaplaceEvent, PrivacyEvent, plan_epsilon

__all__ = ["PLAN_CLAIM", "FixedPlan", "fixed_plan", "release_events"]

PLAN_CLAIM = "PLD of a plan fixed in advance: holds only if no release was chosen after seeing an earlier one"


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPlan:
    """What committed releases lose together, as a fixed plan.

    Attributes:
        releases: how many.
        kinds: how many different ones among them.
        epsilon: at `epsilon_delta`, rounded up to six decimals; None where it is infinite, or a release has a mechanism
            that this accounting does not know.
        epsilon_delta: the reporting delta.
    """

    releases: int
    kinds: int
    epsilon: float | None
    epsilon_delta: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the claim."""
        return {
            "claim": PLAN_CLAIM,
            "releases": self.releases,
            "kinds": self.kinds,
            "epsilon": self.epsilon,
            "epsilon_delta": self.epsilon_delta,
        }


def release_events(manifest: Manifest) -> tuple[PrivacyEvent, ...] | None:
    """One release's mechanisms: its noisy sums, and what private selection and the sampler may add to delta.

    None where a mechanism is not one of those that `pipelines.accounting` composes.
    """
    guarantee = manifest.guarantee
    events: list[PrivacyEvent] = []
    measurements = guarantee.measurements
    if guarantee.bounds.get("kind") == "clip_norm":
        # Bounded as one vector: what a unit shifts them by, in their noise, is at most the root of 2 rho together.
        smallest = min(measure.noise_stddev / measure.grid_step for measure in measurements)
        numbers = min(2**40, sum(measure.coordinates for measure in measurements))
        rho = float(guarantee.rho)
        events.append(GaussianEvent.jointly(rho=rho, smallest_sigma=smallest, coordinates=numbers))
        measurements = ()
    for measure in measurements:
        sigma = measure.noise_stddev / measure.grid_step
        if measure.mechanism == "discrete Gaussian":
            events.append(GaussianEvent(l2=measure.l2, sigma=sigma, coordinates=measure.coordinates))
        elif measure.mechanism == "discrete Laplace":
            scale = _laplace_scale(sigma)
            events.append(LaplaceEvent(linf=measure.linf, scale=scale, coordinates=measure.coordinates))
        elif measure.mechanism != "none":
            return None
    delta = float(guarantee.delta)
    if delta > 0:
        events.append(ApproximateEvent(epsilon=0.0, delta=delta))
    return tuple(events)


def fixed_plan(manifests: Iterable[Manifest], delta: float) -> FixedPlan:
    """The composition of releases, identical ones grouped.

    Args:
        manifests: committed releases of one account.
        delta: the reporting delta.
    """
    releases = Counter(release_events(manifest) for manifest in manifests)
    known = {kind: times for kind, times in releases.items() if kind is not None}
    events = [replace(event, count=times) for kind, times in known.items() for event in kind]
    epsilon = math.inf if len(known) < len(releases) else plan_epsilon(events, delta) if events else 0.0
    return FixedPlan(
        releases=releases.total(),
        kinds=len(releases),
        epsilon=None if math.isinf(epsilon) else math.ceil(epsilon * 1e6) / 1e6,
        epsilon_delta=delta,
    )


def _laplace_scale(stddev: float) -> float:
    """Scale t of discrete Laplace noise with this standard deviation.

    With a = exp(-1/t) the variance is 2a/(1-a)^2 (Inusah and Kozubowski 2006), so sqrt(a)/(1-a) = s with s =
    stddev/sqrt(2), and sqrt(a) is the root of x^2 s + x - s = 0.
    """
    s = stddev / math.sqrt(2)
    root = 2 * s / (1 + math.sqrt(1 + 4 * s * s))
    return -1 / (2 * math.log(root))
