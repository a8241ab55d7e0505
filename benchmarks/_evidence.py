"""What samples of a mechanism's output prove about its epsilon: lower bounds that hold with stated confidence.

An attack is a set S of outputs. If a mechanism is (epsilon, delta)-DP, then `P1[S] <= e^epsilon P0[S] + delta` on
neighbors 0 and 1, so `epsilon >= log((P1[S] - delta) / P0[S])`. With Clopper and Pearson's exact bounds on both
probabilities, each at confidence `1 - alpha`, the bound holds with confidence `1 - 2 alpha` for any S fixed
beforehand. S is chosen on a quarter of the samples and counted on the others, so nothing need be assumed about
the mechanism or the attack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["Evidence", "lower_bound", "lower_rate", "upper_rate"]

_THRESHOLDS = 2000

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Attack = Callable[[Floats], Floats]
"""Outputs, shape `(n, d)` → scores, shape `(n,)`; large where the unit seems to be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A lower bound on epsilon, and the counts that it follows from.

    Attributes:
        epsilon: the bound; 0 if the samples prove nothing.
        delta: at which it holds.
        attack: which statistic was chosen.
        added: whether S is likelier with the unit; else it is likelier without.
        hits: held-out samples in S of the neighbor where it is likelier.
        false_hits: held-out samples in S of the other one.
        samples: held-out samples of each.
    """

    epsilon: float
    delta: float
    attack: str
    added: bool
    hits: int
    false_hits: int
    samples: int


def lower_rate(counts: Counts, n: int, alpha: float) -> Floats:
    """Clopper and Pearson: below the true probability with confidence `1 - alpha`."""
    some = np.maximum(counts, 1)
    return np.where(counts > 0, stats.beta.ppf(alpha, some, n - some + 1), 0.0)


def upper_rate(counts: Counts, n: int, alpha: float) -> Floats:
    """Clopper and Pearson: above the true probability with confidence `1 - alpha`."""
    some = np.minimum(counts, n - 1)
    return np.where(counts < n, stats.beta.isf(alpha, some + 1, n - some), 1.0)


def lower_bound(without: Floats, with_unit: Floats, delta: float, alpha: float) -> Evidence:
    """The best lower bound on epsilon that these outputs give.

    Args:
        without: outputs without the unit, shape `(n, d)`, one row for each independent run.
        with_unit: the same with it.
        delta: at which epsilon is bounded.
        alpha: how often each of the two probabilities may lie beyond its bound.
    """
    n = len(without) // 4
    held_out = len(without) - n
    choices = []
    for name, attack in _attacks(without[:n], with_unit[:n]).items():
        zero, one = attack(without[:n]), attack(with_unit[:n])
        cuts = np.unique(np.quantile(np.concatenate([zero, one]), np.linspace(0, 1, _THRESHOLDS)))
        above = [n - np.searchsorted(np.sort(scores), cuts, side="right") for scores in (zero, one)]
        for added, hits, false_hits in ((True, above[1], above[0]), (False, n - above[0], n - above[1])):
            found = _epsilons(hits, false_hits, n, delta, alpha)
            best = int(np.argmax(found))
            choices.append((float(found[best]), name, attack, added, cuts[best]))
    _, name, attack, added, cut = max(choices, key=lambda choice: choice[0])
    above_cut = [int((attack(outputs[n:]) > cut).sum()) for outputs in (without, with_unit)]
    hits, false_hits = (above_cut[1], above_cut[0]) if added else (held_out - above_cut[0], held_out - above_cut[1])
    return Evidence(
        epsilon=float(_epsilons(np.array([hits]), np.array([false_hits]), held_out, delta, alpha)[0]),
        delta=delta,
        attack=name,
        added=added,
        hits=hits,
        false_hits=false_hits,
        samples=held_out,
    )


def _epsilons(hits: Counts, false_hits: Counts, n: int, delta: float, alpha: float) -> Floats:
    excess = lower_rate(hits, n, alpha) - delta
    return np.log(np.maximum(excess / upper_rate(false_hits, n, alpha), 1.0))


def _attacks(zero: Floats, one: Floats) -> dict[str, Attack]:
    """Statistics made from the training part."""
    attacks = {"linear discriminant": _discriminant(zero, one)}
    constant = np.flatnonzero((zero == zero[0]).all(axis=0) & (one != zero[0]).any(axis=0))
    if len(constant):
        usual = zero[0, constant]
        # What never happens without the unit gives it away, however rare it is.
        attacks["never seen without"] = lambda outputs: (outputs[:, constant] != usual).any(axis=1).astype(np.float64)
    return attacks


def _discriminant(zero: Floats, one: Floats) -> Attack:
    """Fisher's: the most powerful statistic for Gaussian outputs that differ by a shift."""
    spread = (np.cov(zero, rowvar=False) + np.cov(one, rowvar=False)).reshape(zero.shape[1], -1) / 2
    scale = np.sqrt(np.diag(spread))
    scale[scale == 0] = 1.0
    shift = (one.mean(axis=0) - zero.mean(axis=0)) / scale
    weights = np.linalg.solve(spread / np.outer(scale, scale) + 1e-9 * np.eye(len(scale)), shift) / scale
    return lambda outputs: outputs @ weights
