"""Inversion tables: discrete distributions as 128-bit cumulative thresholds.

A table draws `x` with probability `(t[i] - t[i-1]) / 2^128` from one uniform 128-bit word. The thresholds are the exact
cumulative probabilities (computed in 320-bit fixed point) rounded down to a multiple of 2^-128.

Distance to the ideal. With N cells each cell's probability is off by less than 2^-128 (rounding) plus N 2^-300 (fixed
point), and the tails left out weigh less than 2^-130, so the total variation distance is below
`N 2^-129 + 2^-129`: `Table.distance` (rounded up). For N = 10^5 that is 2^-112, small enough that folding it into delta
changes no digit that anybody reads, yet it is folded (`plan.sampler_delta`).

Source: inversion is Devroye 1986, section III.2; the discrete Gaussian is that of Canonne, Kamath, Steinke 2020
(Definition 1), the discrete Laplace that of Ghosh, Roughgarden, Sundararajan 2012.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

__all__ = ["Table", "gaussian_table", "geometric_table", "laplace_table", "tail_at_least"]

_FIXED_BITS = 320
_WORD_BITS = 128
_TAIL_BITS = 131
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A distribution on `first, first + 1, ...`, ready to be drawn from.

    Attributes:
        first: smallest value.
        high: shape `(cells - 1,)` uint64, upper halves of the thresholds, ascending.
        low: shape `(cells - 1,)` uint64, lower halves.
        distance: total variation distance to the ideal distribution, at most.
    """

    first: int
    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    distance: float

    def draw(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Values for uniform words.

        Args:
            words: shape `(n, 2)` uint64, upper and lower halves of uniform 128-bit numbers.

        Returns:
            Shape `(n,)` int64.
        """
        upper = np.ascontiguousarray(words[:, 0])
        index = np.searchsorted(self.high, upper, side="right")
        # Where a threshold shares the word's upper half (probability N 2^-64), the lower halves decide.
        first = np.searchsorted(self.high, upper, side="left")
        for row in np.flatnonzero(first != index):
            start, stop = int(first[row]), int(index[row])
            index[row] = start + int(np.searchsorted(self.low[start:stop], words[row, 1], side="right"))
        return index.astype(np.int64) + self.first


def _from_weights(cells: list[int], first: int) -> Table:
    """A table from fixed-point weights of first, first + 1, ... (not normalised)."""
    while cells[-1] == 0:  # a scale so small that the last weights vanish, even in 320 bits
        cells = cells[:-1]
    total = sum(cells)
    # The last cumulative value is 1 and needs no threshold: the last cell takes what is left.
    thresholds = [(running << _WORD_BITS) // total for running in accumulate(cells[:-1])]
    high = np.array([value >> 64 for value in thresholds], dtype=np.uint64)
    low = np.array([value & _MASK for value in thresholds], dtype=np.uint64)
    return Table(first=first, high=high, low=low, distance=math.ldexp(len(cells) + 2, -129))


def _mirrored(half: list[int]) -> Table:
    """A symmetric table from the weights of 0, 1, ..., reach."""
    while half[-1] == 0:
        half = half[:-1]
    return _from_weights([*reversed(half[1:]), *half], 1 - len(half))


def _fixed_exponential(exponent: Fraction) -> int:
    """`exp(-exponent)` in fixed point, to within a few units of the last place."""
    with localcontext() as context:
        context.prec = 120
        value = (Decimal(-exponent.numerator) / Decimal(exponent.denominator)).exp()
        return int((value * (1 << _FIXED_BITS)).to_integral_value())


@lru_cache(maxsize=64)
def gaussian_table(sigma: float) -> Table:
    """The discrete Gaussian `P[x] ~ exp(-x^2 / (2 sigma^2))` on the integers; costs `27 sigma` cells of 16 bytes.

    Raises:
        ValueError: sigma not in (0, 20000].
    """
    if not 0 < sigma <= 20_000:
        raise ValueError(f"sigma: found {sigma}, allowed: in (0, 20000]; larger ones are composed (sampler.py)")
    variance = Fraction(sigma) ** 2
    # P[|x| > r] <= 2 exp(-r^2 / (2 sigma^2)) (Canonne, Kamath, Steinke 2020, Proposition 25).
    reach = max(1, math.ceil(sigma * math.sqrt(2 * math.log(2) * (_TAIL_BITS + 1))))
    ratio = _fixed_exponential(1 / (2 * variance))
    square = _fixed_exponential(1 / variance)
    weight, half = 1 << _FIXED_BITS, [1 << _FIXED_BITS]
    for _ in range(reach):
        weight = (weight * ratio) >> _FIXED_BITS
        ratio = (ratio * square) >> _FIXED_BITS
        half.append(weight)
    return _mirrored(half)


@lru_cache(maxsize=64)
def laplace_table(scale: float) -> Table:
    """The discrete Laplace `P[x] ~ exp(-|x| / scale)` on the integers; costs `182 scale` cells of 16 bytes.

    Raises:
        ValueError: scale not in (0, 4096]; larger ones are composed (sampler.py).
    """
    return _mirrored(_geometric_weights(scale, None))


@lru_cache(maxsize=64)
def geometric_table(scale: float, cells: int | None = None) -> Table:
    """The geometric distribution `P[x] ~ exp(-x / scale)` on 0, 1, 2, ..., or on `0..cells - 1` where `cells` is given.

    Raises:
        ValueError: scale not in (0, 4096] and no `cells`, or more than 2^16 cells.
    """
    return _from_weights(_geometric_weights(scale, cells), 0)


def _geometric_weights(scale: float, cells: int | None) -> list[int]:
    if scale <= 0 or (cells is None and scale > 4096) or (cells or 1) > 1 << 16:
        raise ValueError(f"scale: found {scale}, cells {cells}, allowed: scale in (0, 4096], or at most 65,536 cells")
    if cells is None:
        cells = max(1, math.ceil(scale * math.log(2) * _TAIL_BITS)) + 1
    ratio = _fixed_exponential(1 / Fraction(scale))
    weight, weights = 1 << _FIXED_BITS, [1 << _FIXED_BITS]
    for _ in range(cells - 1):
        weight = (weight * ratio) >> _FIXED_BITS
        weights.append(weight)
    return weights


def tail_at_least(table: Table, least: int) -> Fraction:
    """Exact `P[X >= least]` under the table's own distribution."""
    index = least - table.first
    if index <= 0:
        return Fraction(1)
    if index > len(table.high):
        return Fraction(0)
    below = (int(table.high[index - 1]) << 64) | int(table.low[index - 1])
    return 1 - Fraction(below, 1 << _WORD_BITS)
