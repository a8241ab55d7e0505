"""Distributions computed independently of `pipelines.noise`, and the one test that compares samples with them.

False alarms: a true sampler is rejected with probability `FALSE_ALARM` for a random key. Keys are fixed, so a pass is a
pass for ever; samples of other libraries are fresh each time, and fail that rarely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mpmath
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipelines.noise import Distribution, KeyedNoise, ReleaseKey

FALSE_ALARM = 1e-6
SAMPLES = 200_000
KEY = ReleaseKey(bytes(range(32)))

Weight = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def gaussian_weight(sigma: float) -> Weight:
    """`exp(-x^2 / (2 sigma^2))`: the discrete Gaussian up to its constant."""
    return lambda x: np.exp(-np.square(x / sigma) / 2)


def laplace_weight(scale: float) -> Weight:
    """`exp(-|x| / scale)`: the discrete Laplace up to its constant."""
    return lambda x: np.exp(-np.abs(x) / scale)


def gaussian_tail(sigma: float, least: int) -> mpmath.mpf:
    """`P[X >= least]` of the discrete Gaussian, summed term by term with 60 digits."""
    with mpmath.workdps(60):
        reach = int(20 * sigma) + abs(least) + 2
        variance = 2 * mpmath.mpf(sigma) ** 2
        weights = {x: mpmath.exp(-(mpmath.mpf(x) ** 2) / variance) for x in range(-reach, reach + 1)}
        return mpmath.fsum(w for x, w in weights.items() if x >= least) / mpmath.fsum(weights.values())


def counter_blocks(n: int, first: int = 0) -> NDArray[np.uint8]:
    """Distinct partition digests, shape `(n, 16)`: counters, the least random ones there are."""
    words = np.zeros((n, 2), dtype=">u8")
    words[:, 1] = np.arange(first, first + n)
    return words.view(np.uint8).reshape(n, 16)


def draw(distribution: Distribution, n: int = SAMPLES, key: ReleaseKey = KEY, name: str = "users") -> NDArray[np.int64]:
    """Keyed noise for n partitions."""
    return KeyedNoise(key).noise(name, distribution, counter_blocks(n))


def expected_cells(weight: Weight, edges: Sequence[int], reach: int) -> NDArray[np.float64]:
    """Probabilities of `(-inf, e[0]), [e[0], e[1]), ..., [e[-1], inf)`, by summing over `|x| <= reach`."""
    x = np.arange(-reach, reach + 1)
    weights = weight(x)
    cell = np.searchsorted(np.asarray(edges), x, side="right")
    return np.bincount(cell, weights, minlength=len(edges) + 1) / weights.sum()


def observed_cells(values: NDArray[np.int64], edges: Sequence[int]) -> NDArray[np.int64]:
    """How many values fall into each of those cells."""
    return np.bincount(np.searchsorted(np.asarray(edges), values, side="right"), minlength=len(edges) + 1)


def edges_of(stddev: float) -> list[int]:
    """About 40 cells that hold at least some ten of `SAMPLES` values each."""
    return sorted({round(stddev * z) for z in np.linspace(-3.5, 3.5, 41)})


def fits(observed: NDArray[np.int64], probabilities: NDArray[np.float64]) -> bool:
    """Pearson's chi-square test at `FALSE_ALARM`; cells that expect less than 10 are joined with the next one."""
    total, joined = observed.sum(), [[0.0, 0.0]]
    for count, probability in zip(observed, probabilities, strict=True):
        joined[-1][0] += count
        joined[-1][1] += probability * total
        if joined[-1][1] >= 10:
            joined.append([0.0, 0.0])
    last = joined.pop()
    joined[-1][0] += last[0]
    joined[-1][1] += last[1]
    counts, expected = np.array(joined).T
    statistic = float(np.sum(np.square(counts - expected) / expected))
    return statistic <= float(stats.chi2.isf(FALSE_ALARM, len(counts) - 1))


def same_distribution(first: NDArray[np.int64], second: NDArray[np.int64], edges: Sequence[int]) -> bool:
    """Two-sample chi-square test at `FALSE_ALARM`; cells that hold fewer than 20 values in all are left out."""
    table = np.array([observed_cells(first, edges), observed_cells(second, edges)])
    table = table[:, table.sum(axis=0) >= 20]
    return float(stats.chi2_contingency(table).pvalue) >= FALSE_ALARM


def uncorrelated(first: NDArray[np.int64], second: NDArray[np.int64]) -> bool:
    """Pearson correlation of n pairs, which is normal with variance 1/n if there is none, at `FALSE_ALARM`."""
    z = np.corrcoef(first, second)[0, 1] * np.sqrt(len(first))
    return bool(abs(z) <= stats.norm.isf(FALSE_ALARM / 2))


def power(truth: NDArray[np.float64], claim: NDArray[np.float64], samples: int = SAMPLES) -> float:
    """Probability that `fits` rejects `claim` when values follow `truth`, by the noncentral chi-square approximation.

    Both are cell probabilities; cells that expect less than 10 of the claim's values are left out, which lowers it.
    """
    kept = claim * samples >= 10
    noncentrality = samples * float(np.sum(np.square(truth - claim)[kept] / claim[kept]))
    degrees = int(kept.sum())
    return float(stats.ncx2.sf(stats.chi2.isf(FALSE_ALARM, degrees), degrees, noncentrality))
