"""Which contribution bounds are expected to err less: bias of what they cut against the noise that they need.

For a group of N unit contributions (one row each) in a signal whose units have d partitions with probability p(d):

    KeepRandom(L0)   loses 1 - sum p(d) min(d, L0) / sum p(d) d of them; noise stddev grows with sqrt(L0)
    ClipNorm(l2)     loses 1 - sum p(d) d min(1, l2 / sqrt(d)) / sum p(d) d; noise stddev grows with l2

and the expected error is `sqrt(bias^2 + noise^2)`, relative to N. It reads the definition and its public
`ContributionProfile`, never data (Amin et al. 2019 on this trade; ClipNorm as in DP-SGD, Abadi et al. 2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.curves import TYPICAL_GROUP
from pipelines.definitions import ClipNorm, ContributionProfile, KeepRandom
from pipelines.measurements import MeasureKind
from pipelines.plan import SignalPlan

__all__ = ["BoundingError", "compare_bounds"]

_TRIED = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 125, 200, 500, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundingError:
    """What one choice of bounds is expected to do to a count in a group of `TYPICAL_GROUP` units.

    Attributes:
        bounds: the choice.
        bias: share of contributions that are lost.
        noise: standard deviation of the noise over the group's size.
        given: whether it is the signal's own choice.
    """

    bounds: KeepRandom | ClipNorm
    bias: float
    noise: float
    given: bool

    @property
    def error(self) -> float:
        """Root mean squared error over the group's size."""
        return math.hypot(self.bias, self.noise)


def compare_bounds(plan: SignalPlan, profile: ContributionProfile) -> tuple[BoundingError, ...]:
    """The signal's own bounds, the best `KeepRandom` and the best `ClipNorm` that were tried; the best comes first."""
    given = plan.signal.bounds
    rows = given.max_rows_per_partition if isinstance(given, KeepRandom) else 1
    # Noise of a count at norm 1 follows from the plan's: both kinds of bounds scale it by the norm.
    norm = given.l2 if isinstance(given, ClipNorm) else math.sqrt(given.max_partitions)
    per_norm = max(
        (
            mechanism.noise_stddev
            for mechanism in plan.calibration.summed
            if mechanism.measure.kind in (MeasureKind.UNITS, MeasureKind.ROWS)
        ),
        default=plan.calibration.summed[0].noise_stddev,
    ) / (norm * rows)

    def judged(bounds: KeepRandom | ClipNorm, *, own: bool = False) -> BoundingError:
        of_norm = bounds.l2 if isinstance(bounds, ClipNorm) else math.sqrt(bounds.max_partitions)
        noise = per_norm * of_norm / TYPICAL_GROUP
        return BoundingError(bounds=bounds, bias=_bias(bounds, profile), noise=noise, given=own)

    kept = [judged(KeepRandom(max_partitions=n, max_rows_per_partition=rows)) for n in _TRIED]
    clipped = [judged(ClipNorm(l2=round(math.sqrt(n), 3))) for n in _TRIED]
    choices = [judged(given, own=True), *(min(kind, key=lambda c: c.error) for kind in (kept, clipped))]
    return tuple(sorted(choices, key=lambda choice: choice.error))


def _bias(bounds: KeepRandom | ClipNorm, profile: ContributionProfile) -> float:
    total = sum(share * count for count, share in profile.partitions)
    if isinstance(bounds, KeepRandom):
        kept = sum(share * min(count, bounds.max_partitions) for count, share in profile.partitions)
    else:
        kept = sum(share * count * min(1.0, bounds.l2 / math.sqrt(count)) for count, share in profile.partitions)
    return 1 - kept / total
