"""The continuous Gaussian mechanism, exactly.

Let `mu` be the Euclidean distance by which neighbors differ, in standard deviations. Then the smallest delta is

    delta(mu, epsilon) = Phi(mu/2 - epsilon/mu) - e^epsilon Phi(-mu/2 - epsilon/mu)

(Balle and Wang 2018, Theorem 8), for any number of coordinates, because only the length of the shift counts. It grows
with mu and falls with epsilon. With `a = epsilon/mu - mu/2` and `b = a + mu` it is
`e^(-a^2/2) (erfcx(a/sqrt 2) - erfcx(b/sqrt 2)) / 2`, which does not cancel in the tail as the textbook form does.
What floating point can be off by is added, so every result errs on the safe side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

__all__ = ["gaussian_delta", "gaussian_epsilon", "gaussian_mu"]

_UNIT = 2.0**-52
_BISECTIONS = 200


def check_delta(delta: float) -> None:
    """Raises ValueError unless delta lies in (0, 1)."""
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1); found {delta}")


def hockey_stick(mu: float, epsilon: float) -> float:
    """`delta(mu, epsilon)` for any real epsilon, rounded up; see the module."""
    from scipy.special import erfcx

    if mu == 0:
        return max(0.0, -math.expm1(epsilon))
    if math.isinf(mu):
        return 1.0
    a, b = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    scale = math.exp(-a * a / 2)
    first = math.erfc(a / math.sqrt(2)) / 2 if a <= 0 else scale * float(erfcx(a / math.sqrt(2))) / 2
    second = scale * float(erfcx(b / math.sqrt(2))) / 2 if scale > 0 else 0.0
    # `a` and `b` are off by a few units in the last place of |b|, hence both terms by a common factor of 1 + O(b^2 u),
    # and each by a few units of its own.
    value = (first - second) * (1 + 8 * _UNIT * (1 + b * b)) + 16 * _UNIT * first
    return min(1.0, max(value, math.ulp(0.0)))


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Smallest delta at which the continuous Gaussian mechanism is (epsilon, delta)-DP.

    Args:
        mu: L2 sensitivity over sigma, at least 0.
        epsilon: at least 0.

    Raises:
        ValueError: parameters out of range.
    """
    if not (mu >= 0 and epsilon >= 0):
        raise ValueError(f"mu and epsilon must not be negative; found mu={mu}, epsilon={epsilon}")
    return hockey_stick(mu, epsilon)


@lru_cache(maxsize=4096)
def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon (within 1e-12 of it, rounded up) at which it is (epsilon, delta)-DP.

    Args:
        mu: L2 sensitivity over sigma, at least 0.
        delta: in (0, 1).

    Raises:
        ValueError: parameters out of range.
    """
    check_delta(delta)
    if not (mu >= 0 and math.isfinite(mu)):
        raise ValueError(f"mu must be a number and not negative; found {mu}")
    # Beyond this end, P[loss > epsilon] <= delta (Gaussian tail) and so is the hockey-stick divergence.
    return least(lambda epsilon: hockey_stick(mu, epsilon) <= delta, mu * mu / 2 + mu * _tail(delta))


@lru_cache(maxsize=4096)
def gaussian_mu(epsilon: float, delta: float) -> float:
    """Largest mu (rounded down) at which the continuous Gaussian mechanism is (epsilon, delta)-DP.

    Args:
        epsilon: at least 0.
        delta: in (0, 1).

    Raises:
        ValueError: parameters out of range.
    """
    check_delta(delta)
    if not (epsilon >= 0 and math.isfinite(epsilon)):
        raise ValueError(f"epsilon must be a number and not negative; found {epsilon}")
    low, high = 0.0, 1.0
    while hockey_stick(high, epsilon) <= delta:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if hockey_stick(middle, epsilon) <= delta:
            low = middle
        else:
            high = middle
    return low


def _tail(delta: float) -> float:
    """z with `P[N(0, 1) >= z] <= delta` (Chernoff)."""
    return math.sqrt(2 * math.log(1 / delta))


def least(enough: Callable[[float], bool], high: float) -> float:
    """Smallest number in [0, high] that is enough, to within 1e-12 of it, rounded up; `high` is known to be."""
    if enough(0.0):
        return 0.0
    low = 0.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if enough(middle):
            high = middle
        else:
            low = middle
    return high
