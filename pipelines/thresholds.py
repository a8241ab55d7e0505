"""Which keys a private selection releases: thresholds that hide the keys that one unit alone has.

Guarantee. A key is released if its noisy unit count (or weight) reaches `threshold`. Let D' be D plus one unit (or with
one unit's rows replaced). Keys that only D' has are at most L0, and each has exactly one unit. If there are t of them,
each has at most `w_t`: 1 for a count, `1 / sqrt(t)` for a weight, `min(1, s l2 / sqrt(t))` for a count under ClipNorm.
With `p_t = P[w_t + noise >= threshold]`, all of them stay hidden with probability `(1 - p_t)^t >= 1 - delta`; given
that, the release on D' is post-processing of the same noisy sums over the keys of D, as it is on D. So the release is
delta-approximate rho-zCDP (Wilson et al. 2020, section 4; Gopi et al. 2020 for weights; the argument holds for every
noise).

Two rounds. The first draws `x1`, noisy weights of all keys, and finds the keys S1 whose weight reaches its threshold.
The second draws `x2`, noisy weights that units spread anew over the keys outside S1. Released are S1 and the keys whose
mean `(a1 x1 + a2 x2) / (a1 + a2)` reaches the threshold.

    sums      `x1` has sensitivity 1. Whatever it is, and so S1, a unit with j keys outside S1 gives each
              `1 / sqrt(j)`, so `x2` has sensitivity 1 too: both are (rho_1 + rho_2)-zCDP together (adaptive
              composition, Bun and Steinke 2016, Lemma 8.3). The mean is post-processing: it costs nothing that the
              first draw is looked at again. With `a1 : a2` as `rho_1 : rho_2` its noise has the variance of one draw at
              `rho_1 + rho_2`, so two rounds are no noisier than one, and the second has the weights that keys in S1
              no longer need.
    new keys  Let t keys be D''s alone. None is in S1 but with probability delta_1, by the first threshold. Given the
              noise of all other keys, which settles the rest of S1, and that none is in S1, all t are among the j open
              keys of the unit: they have at most `1 / sqrt(t)` in either round, so in the mean. Their noise, in both
              rounds, is independent of everything that this is conditioned on but "not in S1", and
              P[none in S1, some mean reaches T] <= P[some mean of such weights reaches T] <= delta_2.
              All stay hidden with probability 1 - delta_1 - delta_2, and given that, the release is a function of `x1`
              and `x2` on the keys of D.
    tail      Discrete Gaussians: `P[n >= k] <= P[N(0, sigma^2) >= k - 1]` (Canonne, Kamath, Steinke 2020, Proposition
              25). Below 0 the same holds because a discrete Gaussian's mass at k >= 0 is at least the normal law's on
              [k, k + 1], but for a factor of `1 + 3 exp(-2 pi^2 sigma^2)`, which is 1 in any precision for
              `sigma >= 8`. So `n <= N + 1` in stochastic order, the mean is below a normal variable of
              `sigma^2 = (a1^2 sigma_1^2 + a2^2 sigma_2^2) / (a1 + a2)^2`, plus 1; and that one's tail at k is below a
              discrete Gaussian's. The threshold is one round's at that sigma, for weights that are one step larger.

The idea of a second round is of Swanberg et al. 2023 (DP-SIPS), weights that move from keys that have enough to those
that lack some of Chen et al. 2025 (there also within a round); the mean of the rounds is ours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.definitions import ClipNorm
from pipelines.measurements import WEIGHTS, Measure
from pipelines.noise import Distribution, discrete_gaussian, gaussian_tail_probability

__all__ = ["Selecting", "one_round", "selection_threshold", "two_rounds"]

_FIRST_DELTA: Final = 0.1  # the first round's part of the selection's delta
_MOST_PARTS: Final = 100
_LEAST_SIGMA: Final = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selecting:
    """What decides which keys are released.

    Attributes:
        threshold: smallest noisy unit count, or weight in its grid steps, that is released.
        noise: of what is compared with it.
        first_threshold: the same for the first of two rounds; None: there is one round.
        parts: of the first and of the last round's noisy weight in the mean that is compared; (0, 1) for one round.
    """

    threshold: int
    noise: Distribution
    first_threshold: int | None = None
    parts: tuple[int, int] = (0, 1)

    def selects(self, noisy: NDArray[np.int64], first: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Which of n keys are released.

        Args:
            noisy: unit counts, or weights of the last round, in grid steps, `(n,)`.
            first: weights of the first of two rounds.
        """
        if first is None or self.first_threshold is None:
            return noisy >= self.threshold
        a1, a2 = self.parts
        return (first >= self.first_threshold) | (a1 * first + a2 * noisy >= (a1 + a2) * self.threshold)


def one_round(measure: Measure, noise: Distribution, delta: float) -> Selecting:
    """Selection by one measurement.

    Args:
        measure: the unit count or weight.
        noise: of it, in grid steps.
        delta: allowed probability that a key which one unit alone has is released.

    Raises:
        ValueError: the sampler's distance from the ideal alone could use up delta.
    """
    most = measure.bounds.max_partitions or 1
    return Selecting(threshold=selection_threshold(noise, most, delta, _weights(measure)), noise=noise)


def two_rounds(measure: Measure, first: Distribution, last: Distribution, delta: float) -> Selecting:
    """Selection by the weights of two rounds.

    Args:
        measure: the weight, the same in both.
        first: the first round's noise, in grid steps: discrete Gaussian.
        last: the second round's.
        delta: of both together.

    Raises:
        ValueError: the sampler's distance from the ideal alone could use up delta.
    """
    assert min(first.scale, last.scale) >= _LEAST_SIGMA, "weights have so small a step that no budget comes near"
    early, most = delta * _FIRST_DELTA, measure.bounds.max_partitions or 1
    share = last.scale**2 / (first.scale**2 + last.scale**2)  # of the least variance of a mean
    own = round(share * _MOST_PARTS)
    common = math.gcd(own, _MOST_PARTS - own)
    a1, a2 = own // common, (_MOST_PARTS - own) // common
    sigma = math.hypot(a1 * first.scale, a2 * last.scale) / (a1 + a2) * (1 + 1e-12)
    mean = discrete_gaussian(sigma)
    weights = _weights(measure)
    return Selecting(
        threshold=selection_threshold(mean, most, delta - early, lambda keys: weights(keys) + 1),
        noise=mean,
        first_threshold=selection_threshold(first, most, early, weights),
        parts=(a1, a2),
    )


def selection_threshold(
    noise: Distribution, most: int, delta: float, weight: Callable[[int], int] = lambda _: 1
) -> int:
    """Smallest integer T, up to a grid of t, with `1 - (1 - P[weight(t) + noise >= T])^t <= delta` for t up to `most`.

    Args:
        noise: of the unit count or weight.
        most: most keys that one unit can add.
        delta: allowed probability that any of them shows.
        weight: most that a unit adds to each key, if it adds t; not increasing in t.

    Raises:
        ValueError: the sampler's distance from the ideal alone could use up delta.
    """
    # Between two points of the grid the weight is at most that of the lower one and the keys at most the upper one.
    edges = [1]
    while edges[-1] < most:
        edges.append(min(most, max(edges[-1] + 1, int(edges[-1] * 1.02))))
    # A constant weight is worst for the most keys.
    cells = [(weight(1), most)]
    if weight(1) != weight(most):
        cells = [(weight(1), 1), *((weight(a + 1), b) for a, b in itertools.pairwise(edges))]
    allowed = [-math.expm1(math.log1p(-delta) / keys) for _, keys in cells]
    if min(allowed) < 4 * noise.distance:
        raise ValueError(f"delta {delta:g} is below what the sampler resolves ({4 * most * noise.distance:.0e})")

    def hidden(threshold: int) -> bool:
        return all(
            gaussian_tail_probability(noise, threshold - each) <= limit
            for (each, _), limit in zip(cells, allowed, strict=True)
        )

    low, high = 1, 2
    while not hidden(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if hidden(middle) else (middle, high)
    return high


def _weights(measure: Measure) -> Callable[[int], int]:
    """Most that a unit adds to each of t keys, in grid steps, as the threshold needs it."""
    one = round(1 / measure.grid_step)
    if measure.kind in WEIGHTS:
        return lambda keys: int(one / math.sqrt(keys)) + 1
    if measure.clipped and isinstance(measure.bounds, ClipNorm):
        norm = measure.clip_scale * measure.bounds.l2
        return lambda keys: min(one, int(norm / math.sqrt(keys)) + 1)
    return lambda _: one
