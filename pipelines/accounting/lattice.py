"""The discrete Gaussian over many integer sums: an (epsilon, delta) that is a theorem, and within a fraction of a per
cent of the continuous one.

The discrete mechanism is *not* the continuous one with the same sigma: its privacy loss jumps from integer to
integer, and at some epsilon its delta is larger. What follows bounds it by a continuous one with slightly less
noise.

**Theorem.** Let neighbors differ by an integer vector v, `v_i` in sum i, whose noise is `N_Z(0, sigma_i^2)`, all
independent. Let K be the number of non-zero `v_i`, let `s` be any number below all their `sigma_i`, and

    q = exp(-2 pi^2 s^2),  e = 2 q / (1 - q^3),  eta = K log((1 + e) / (1 - e)),  mu^2 = sum v_i^2 / (sigma_i^2 - s^2).

Then for every epsilon the mechanism is (epsilon, delta)-DP on this pair with
`delta = e^eta delta_G(mu, epsilon - 2 eta)`, where `delta_G` is the continuous Gaussian's (module `gaussian`).

*Proof.* Sums that do not differ have noise that is independent of the data and of the rest: they change nothing. Take
one that does, and `sigma^2 = t^2 + s^2`. Draw `x ~ N(v, t^2)` on the reals, and then the integer y with probability
`g_s(y - x) / S(x)`, where g is the normal density and `S(x) = sum over integers z of g_s(z - x)`. By Poisson
summation `S(x) = 1 + 2 sum over k >= 1 of exp(-2 pi^2 s^2 k^2) cos(2 pi k x)`, so
`|S(x) - 1| <= 2 (q + q^4 + q^9 + ...) <= e`. Hence y has probability `integral of g_t(x - v) g_s(y - x) / S(x) dx`,
which lies within `1/(1 + e)` and `1/(1 - e)` times `g_sigma(y - v)`. The mechanism's own probability is
`g_sigma(y - v) / S_sigma` with `1 <= S_sigma <= 1 + e`, the same constant for every v because v is an integer. So the
two differ by a factor within `e^(+-eta/K)`, and over K sums by `e^(+-eta)`, on both neighbors. The second mechanism
is post-processing of continuous Gaussians at distance mu from each other; for an event E then
`P_v[E] <= e^eta P~_v[E] <= e^eta (e^(epsilon - 2 eta) P~_0[E] + delta_G) <= e^epsilon P_0[E] + e^eta delta_G`. QED

(The rounding is Peikert 2010, Theorem 3.1; the sum over the lattice is Micciancio and Regev 2007, Lemma 4.4.)

`delta_G` grows with mu, so over all v of Euclidean sensitivity `l2` it is largest at `l2`. The smaller s, the nearer
mu is to the plain `l2 / sigma`; at s = 1.2 and K = 1000, eta is below 1e-9. Each s gives a valid bound and the
smallest of several is taken, among them the bound that Rényi divergence gives (Canonne, Kamath, Steinke 2020,
Theorem 14 and Corollary 13), which is the better one where sigma is below about 2.5.

Several events of one plan form one longer vector: the theorem covers their composition, parameters fixed in advance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from governance.privacy import delta_of_rho, epsilon_of_rho, rho_of_epsilon
from pipelines.accounting.events import GaussianEvent
from pipelines.accounting.gaussian import check_delta, gaussian_epsilon, hockey_stick, least

__all__ = ["events_delta", "events_epsilon", "least_noise_factor", "total_rho"]

_WIDTHS = (0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.1, 2.5, 3.0)
_ROUNDING = 1 + 2.0**-48

Bound = tuple[float, float]
"""`(mu, eta)`: the mechanism's delta at epsilon is at most `e^eta delta_G(mu, epsilon - 2 eta)`."""


def total_rho(events: Sequence[GaussianEvent]) -> float:
    """zCDP of the composition: `sum l2^2 / (2 sigma^2)`, rounded up."""
    return sum(event.count * (event.l2 / event.sigma) ** 2 / 2 for event in events) * _ROUNDING


def continuous_bounds(events: Sequence[GaussianEvent]) -> tuple[Bound, ...]:
    """The theorem's `(mu, eta)` for several widths s; empty if every sigma is too small for any of them."""
    coordinates = sum(event.count * event.coordinates for event in events)
    smallest = min((event.sigma for event in events), default=math.inf)
    bounds = []
    for width in _WIDTHS:
        if width >= smallest:
            break
        q = math.exp(-2 * (math.pi * width) ** 2)
        e = 2 * q / (1 - q**3)
        eta = coordinates * (math.log1p(e) - math.log1p(-e)) * _ROUNDING
        square = sum(event.count * event.l2**2 / (event.sigma**2 - width**2) for event in events)
        bounds.append((math.sqrt(square) * _ROUNDING, eta))
    return tuple(bounds)


def _delta(bounds: Sequence[Bound], rho: float, epsilon: float) -> float:
    lattice = (hockey_stick(mu, epsilon - 2 * eta) * math.exp(min(eta, 700.0)) for mu, eta in bounds)
    return min(1.0, delta_of_rho(rho, epsilon), *lattice)


def events_delta(events: Sequence[GaussianEvent], epsilon: float) -> float:
    """Smallest delta that is proved for the composition of these events at `epsilon`.

    Args:
        events: discrete Gaussian noise, parameters fixed in advance.
        epsilon: at least 0.

    Raises:
        ValueError: a negative epsilon.
    """
    return _delta(continuous_bounds(events), total_rho(events), epsilon)


def events_epsilon(events: Sequence[GaussianEvent], delta: float) -> float:
    """Smallest epsilon that is proved for the composition of these events at `delta`.

    Args:
        events: discrete Gaussian noise, parameters fixed in advance.
        delta: in (0, 1).

    Raises:
        ValueError: delta out of range.
    """
    return _events_epsilon(tuple(events), delta)


@lru_cache(maxsize=1024)
def _events_epsilon(events: tuple[GaussianEvent, ...], delta: float) -> float:
    check_delta(delta)
    lattice = (
        gaussian_epsilon(mu, delta * math.exp(-eta)) + 2 * eta
        for mu, eta in continuous_bounds(events)
        if delta * math.exp(-eta) > 0
    )
    return min((epsilon_of_rho(total_rho(events), delta), *lattice)) * _ROUNDING


def least_noise_factor(events: Sequence[GaussianEvent], epsilon: float, delta: float) -> float:
    """Smallest factor (within 1e-12 of it, rounded up) such that all sigmas times it are (epsilon, delta)-DP together.

    The sigmas given say only how the budget is split: only their ratios matter.

    Args:
        events: discrete Gaussian noise; at least one of them with a positive sensitivity.
        epsilon: positive.
        delta: in (0, 1).

    Raises:
        ValueError: parameters out of range, or nothing that needs noise.
    """
    return _least_noise_factor(tuple(events), epsilon, delta)


@lru_cache(maxsize=1024)
def _least_noise_factor(events: tuple[GaussianEvent, ...], epsilon: float, delta: float) -> float:
    rho = total_rho(events)
    if rho == 0:
        raise ValueError("no event has a positive sensitivity, so none needs noise")
    # By Rényi divergence alone this much is enough; the lattice can only do with less.
    high = math.sqrt(rho / rho_of_epsilon(epsilon, delta)) * (1 + 1e-9)

    def enough(factor: float) -> bool:
        if factor == 0:
            return False
        scaled = [
            GaussianEvent(l2=event.l2, sigma=event.sigma * factor, coordinates=event.coordinates, count=event.count)
            for event in events
        ]
        return events_delta(scaled, epsilon) <= delta

    return least(enough, high)
