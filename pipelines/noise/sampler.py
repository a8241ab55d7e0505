"""Noise distributions with integer values, drawn from keyed uniform words.

Small scales are one inversion table. Large ones are composed of small ones:

*Discrete Gaussian*, `sigma > 4096`. Draw `X1 ~ N_Z(s1)`, `X2 ~ N_Z(s2)` and return `a X1 + X2`, where `a` is a power of
two, `s2 = 2.5 a` and `a^2 s1^2 + s2^2 = sigma^2`. Then
`P[z] ~ sum over x of g_s1(x) g_s2(z - a x) = g_sigma(z) * sum over x of g_w(x - c)` with `w = s1 s2 / sigma` and a
shift c that depends on z. For `w >= eta / sqrt(2 pi)`, `eta = sqrt(log(2 + 2/e) / pi)` (the smoothing parameter of
Z), the last sum is within `1 +- e` of one constant for every c (Micciancio and Regev 2007, Lemmas 3.3 and 4.4), so
the distribution is within total variation distance `2 e / (1 - e)` of `N_Z(sigma)`. Here `w >= 2.15`, which gives `e
<= 2^-128`.

*Discrete Laplace*, `scale > 512`. It is the difference of two independent geometric variables `G`; and
`G = a Q + R` with independent `Q ~ Geometric(scale / a)` and `R ~ Geometric(scale)` restricted to `0..a-1`, exactly,
because `exp(-(a q + r) / scale)` factors. (Its tails are long: one table at scale 4096 would have 745,000 cells and
take 0.7 s to build in each worker process, where the composed one takes 0.05 s.)

Every distance adds up in `distance`. It is the distance to the ideal at the scale in force, which differs from the one
asked for by the rounding of floats (s1 is a float): some 1e-16 of it, for which calibration keeps a margin of 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.noise.tables import Table, gaussian_table, geometric_table, laplace_table, tail_at_least

__all__ = ["Distribution", "Words", "discrete_gaussian", "discrete_laplace", "gaussian_tail_probability"]

_LARGEST_TABLE = 4096
_LARGEST_LAPLACE_TABLE = 512
_MOST_FINE_CELLS = 1 << 16
_SMOOTHING = 2.5
_SMOOTHING_DISTANCE = math.ldexp(1, -126)

Words = Callable[[int], NDArray[np.uint64]]
"""Stream number → uniform words, shape `(n, 2)` uint64: independent streams, the same words when asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """An integer noise distribution as a weighted sum of independent table draws.

    Attributes:
        components: `(multiplier, table)` pairs; each uses one stream of words.
        scale: sigma of the Gaussian, scale of the Laplace: what it was made from.
        stddev: standard deviation (for the discrete Gaussian, sigma, an upper bound).
        distance: total variation distance to the ideal, at most.
    """

    components: tuple[tuple[int, Table], ...]
    scale: float
    stddev: float
    distance: float

    def draw(self, words: Words) -> NDArray[np.int64]:
        """One value for each row of words; shape `(n,)` int64."""
        total: NDArray[np.int64] | None = None
        for stream, (multiplier, table) in enumerate(self.components):
            values = multiplier * table.draw(words(stream))
            total = values if total is None else total + values
        if total is None:
            raise ValueError("a distribution needs a component")
        return total


def discrete_gaussian(sigma: float) -> Distribution:
    """The discrete Gaussian `N_Z(0, sigma^2)`.

    Raises:
        ValueError: sigma not positive, or above 2^40.
    """
    if not 0 < sigma <= 2**40:
        raise ValueError(f"sigma: found {sigma}, allowed: in (0, 2^40]")
    components: list[tuple[int, Table]] = []
    distance, left, weight = 0.0, sigma, 1
    while left > _LARGEST_TABLE:
        # Split the fine part off: left^2 = a^2 s1^2 + s2^2, then go on with X1, which is smaller by the factor a.
        scale = min(_LARGEST_TABLE // 4, 1 << math.ceil(math.log2(left / (_LARGEST_TABLE / 2))))
        fine = _SMOOTHING * scale
        components.append((weight, gaussian_table(fine)))
        distance += components[-1][1].distance + _SMOOTHING_DISTANCE
        left = math.sqrt(left * left - fine * fine) / scale
        weight *= scale
    components.append((weight, gaussian_table(left)))
    distance += components[-1][1].distance
    return Distribution(components=tuple(components), scale=sigma, stddev=sigma, distance=distance)


def discrete_laplace(scale: float) -> Distribution:
    """The discrete Laplace on the integers, `P[x] ~ exp(-|x| / scale)`.

    Raises:
        ValueError: scale not positive, or above 2^26.
    """
    if not 0 < scale <= 2**26:
        raise ValueError(f"scale: found {scale}, allowed: in (0, 2^26]")
    decay = math.exp(-1 / scale)
    stddev = math.sqrt(2 * decay) / -math.expm1(-1 / scale)
    if scale <= _LARGEST_LAPLACE_TABLE:
        table = laplace_table(scale)
        return Distribution(components=((1, table),), scale=scale, stddev=stddev, distance=table.distance)
    factor = min(_MOST_FINE_CELLS, 1 << math.ceil(math.log2(scale / (_LARGEST_LAPLACE_TABLE / 2))))
    coarse, fine = geometric_table(scale / factor), geometric_table(scale, factor)
    return Distribution(
        components=((factor, coarse), (1, fine), (-factor, coarse), (-1, fine)),
        scale=scale,
        stddev=stddev,
        distance=2 * (coarse.distance + fine.distance),
    )


def gaussian_tail_probability(distribution: Distribution, least: int) -> float:
    """`P[X >= least]` of a discrete Gaussian, rounded up.

    Exact from the table where there is one; for a composed distribution the continuous tail at `least - 1`, which is
    never smaller (Canonne, Kamath, Steinke 2020, Proposition 25).
    """
    if len(distribution.components) == 1:
        return math.nextafter(float(tail_at_least(distribution.components[0][1], least)), 2.0) + distribution.distance
    return 0.5 * math.erfc((least - 1) / (distribution.stddev * math.sqrt(2))) * (1 + 1e-9) + distribution.distance
