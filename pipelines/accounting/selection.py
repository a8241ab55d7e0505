"""Private selection beside Gaussian noise: why delta need not be split between them.

A key shows if its noisy unit count reaches a threshold. Let D' be D plus one unit, which touches t keys, of which j
exist in D' only; each of these shows with probability at most p_t. Let E be the event that none does:
`P[E] >= (1 - p_t)^j`. E depends on the noise of those j keys alone, so given E the release on D' is post-processing
of the noisy sums over the keys of D, as it is on D, and these differ in the other `t - j` keys only. Let `delta_j` be
the delta of the Gaussian noise with the unit in `t - j` keys. Taking on D an independent event of the same
probability (Bun and Steinke 2016, Definition 8.1), both ways round

    delta(epsilon) <= max over t and j <= t of  1 - (1 - p_t)^j (1 - delta_j(epsilon)).

The usual accounting adds both worst cases, though no unit can cause both: a key counts either as its own or as shared.

**Theorem (no split).** Let a unit shift the sums by mu standard deviations of their noise at most, and by a squared
distance of `mu^2 (t - j) / t` at most in the keys that it shares, where j of its t keys are its own. Let delta_j be
the continuous Gaussian's (or the lattice bound of module `lattice`, at its mu and epsilon), and let
`(epsilon/mu)^2 - mu^2/4 >= 1`. If `delta_0 <= delta` and `1 - (1 - p_t)^t <= delta` for every t, then the release is
(epsilon, delta)-DP: the noise and the threshold each take all of delta.

The premise says that each key adds at most the t-th part of the whole squared distance. So it is under `KeepRandom`,
where each of `t <= L0` keys adds at most `Linf^2` and `mu^2` allows for L0 of them, and for weights `1 / sqrt(t)` (Gopi
et al. 2020). It is not so under `ClipNorm`, nor where a unit is replaced by another.

*Proof.* Write `d(x)` for delta_G at `mu^2 x`. With `a = epsilon/mu - mu/2`, `b = epsilon/mu + mu/2` and the normal
density phi, `d delta_G / d mu = phi(a)`, so the derivative by `mu^2` is `phi(a) / (2 mu)`, and that grows with mu
where `a b >= 1`, which is the condition; it holds for all smaller mu too. So d is convex on [0, 1] with `d(0) = 0`,
hence `d(x) <= x d(1) <= x delta`. And `(1 - p_t)^j >= (1 - delta)^(j/t)`. With `x = 1 - j/t` it is enough that
`(1 - delta)^(1-x) (1 - x delta) >= 1 - delta`, that is `1 - x delta >= (1 - delta)^x`: Bernoulli's inequality. QED

Where its condition fails (epsilon below about mu: delta above some hundredths), and for bounds and relations that are
not those of the theorem, `delta_selection + (1 - delta_selection) delta_0` holds always.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from governance.privacy import epsilon_of_rho
from pipelines.accounting.events import GaussianEvent
from pipelines.accounting.gaussian import check_delta, hockey_stick, least
from pipelines.accounting.lattice import continuous_bounds, events_delta, events_epsilon

__all__ = ["combined_epsilon", "key_delta", "released_delta", "released_epsilon"]


def key_delta(l0: int, delta: float) -> float:
    """p with `1 - (1 - p)^l0 = delta`: how often one key of a single unit may show, if it has up to `l0` of them.

    Raises:
        ValueError: parameters out of range.
    """
    check_delta(delta)
    if l0 < 1:
        raise ValueError(f"l0 must be at least 1; found {l0}")
    return -math.expm1(math.log1p(-delta) / l0) * (1 - 2.0**-50)


def released_delta(
    events: Sequence[GaussianEvent], epsilon: float, delta_selection: float, *, equal_keys: bool
) -> float:
    """Smallest delta that is proved at `epsilon` for noisy sums whose keys a noisy threshold selected.

    Args:
        events: the noise of all sums, that of the deciding count included.
        epsilon: at least 0.
        delta_selection: bound on the probability that any key which a unit alone has shows: the largest
            `1 - (1 - p_t)^t` over `t <= L0` keys, each showing with the same probability; 0 for public keys.
        equal_keys: whether the theorem's premise holds: add/remove of one unit, and each of its t keys adds at most the
            t-th part of every event's squared sensitivity.

    Raises:
        ValueError: parameters out of range.
    """
    if not 0 <= delta_selection < 1:
        raise ValueError(f"delta_selection must lie in [0, 1); found {delta_selection}")
    noise = events_delta(events, epsilon)
    both = min(1.0, delta_selection + noise)
    if not equal_keys or delta_selection == 0:
        return both
    for mu, eta in continuous_bounds(events):
        left = epsilon - 2 * eta
        if left > 0 and (left / mu) ** 2 - mu * mu / 4 >= 1 + 1e-9:
            both = min(both, max(delta_selection, hockey_stick(mu, left) * math.exp(eta)))
    return both


def released_epsilon(
    events: Sequence[GaussianEvent], delta: float, delta_selection: float = 0.0, *, equal_keys: bool = False
) -> float:
    """Smallest epsilon that is proved at `delta`: the inverse of `released_delta`; infinite if selection uses up delta.

    Raises:
        ValueError: parameters out of range.
    """
    check_delta(delta)
    if delta_selection > delta or (delta_selection == delta and not equal_keys):
        return math.inf
    if delta_selection == 0:
        return events_epsilon(events, delta)
    if delta_selection < delta:
        high = events_epsilon(events, delta - delta_selection)
    else:
        high = 1.0
        while released_delta(events, high, delta_selection, equal_keys=True) > delta:
            high *= 2
            if high > 1e6:
                return math.inf
    if not equal_keys:
        return high
    return least(lambda epsilon: released_delta(events, epsilon, delta_selection, equal_keys=True) <= delta, high)


def combined_epsilon(rho: float, delta_selection: float, delta: float) -> float:
    """Smallest epsilon known at `delta` for `delta_selection`-approximate `rho`-zCDP; infinite if delta is used up.

    What is left for the conversion is `(delta - delta_selection) / (1 - delta_selection)` (Bun and Steinke 2016, Lemma
    8.8); then Canonne, Kamath, Steinke 2020, Corollary 13. This holds for accounts filled adaptively.

    Raises:
        ValueError: parameters out of range.
    """
    check_delta(delta)
    if not 0 <= delta_selection < 1:
        raise ValueError(f"delta_selection must lie in [0, 1); found {delta_selection}")
    left = (delta - delta_selection) / (1 - delta_selection) * (1 - 2.0**-50)
    if left <= 0:
        return math.inf
    return epsilon_of_rho(rho, left)
