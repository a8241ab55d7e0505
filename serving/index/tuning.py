"""How much effort reaches the declared recall, measured on vectors that the index has not seen.

Probes are rows of the space, drawn with a fixed seed and held out: the index is built without them, effort is tuned on
them, and only then are they added. What was reached is measured once more on the whole index, each probe leaving itself
out, and recorded; whoever opens the space repeats that measurement before it serves.

Recall counts by score: a neighbor counts if it is as near as the k-th nearest one, so equal vectors are no errors.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from governance.errors import PublicationError
from serving.index.kinds import IndexKind

__all__ = ["DEPTHS", "PROBES", "RecallUnreached", "Tuning", "efforts", "least_effort", "recalls", "surely"]

PROBES: Final = 500
"""Probes of a space, or a tenth of its rows where these are fewer."""

DEPTHS: Final = (10, 100)
"""Numbers of neighbors that effort is tuned for."""

_SURE: Final = 1.645  # one-sided 95 %
_STEP: Final = 1.2
_TOLERANCE: Final = 1e-5
_LEAST, _MOST = 10, 4096


class RecallUnreached(PublicationError):
    """No index that was allowed reaches the declared recall.

    Attributes:
        target: the declared recall@10.
        tried: the kinds that were built and measured; empty where none fits into the memory.
    """

    def __init__(self, name: str, target: float, tried: tuple[IndexKind, ...]) -> None:
        self.target = target
        self.tried = tried
        found = f"tried {', '.join(tried)}" if tried else "no index fits into memory_mib"
        super().__init__(
            f"{name}: recall@10 of {target} is not reached: {found}; raise memory_mib, or ask for less recall"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What was asked for, and what was measured on the space as it is.

    Attributes:
        target: the declared recall@10.
        recall_10: measured recall@10, leaving each probe out of its own neighbors.
        recall_100: the same at 100 neighbors (or all but one, where there are fewer).
        effort_10: what a search for up to 10 neighbors spends: breadth of a walk, or lists looked into; 0 if exact.
        effort_100: the same for up to 100.
        probes: how many were measured; 0 if exact.
    """

    target: float
    recall_10: float = 1.0
    recall_100: float = 1.0
    effort_10: int = 0
    effort_100: int = 0
    probes: int = 0

    def effort(self, k: int) -> int:
        """What a search for k neighbors spends: between 10 and 100 on a geometric scale; beyond, in proportion."""
        few, many = DEPTHS
        if k <= few or not self.effort_10:
            return self.effort_10
        if k >= many:
            return -(-self.effort_100 * k // many)
        growth: float = (self.effort_100 / self.effort_10) ** log(k / few, many / few)
        return ceil(self.effort_10 * growth)


def recalls(scores: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Recall of each query.

    Args:
        scores: `(q, k)`, what was found, larger is nearer; -inf where nothing was.
        truth: `(q, k)`, of the nearest, nearest first.

    Returns:
        `(q,)`, in [0, 1].
    """
    last = truth[:, -1:]
    near = scores >= last - _TOLERANCE * np.maximum(1, np.abs(last))
    return np.asarray(near.mean(axis=1))


def surely(values: NDArray[np.float64]) -> float:
    """Lower end of a one-sided 95 % interval for the mean of `(q,)` values, by the normal approximation."""
    spread = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean()) - _SURE * spread


def efforts(most: int) -> tuple[int, ...]:
    """The efforts that are tried: a fifth more each time, at most `most`."""
    steps, value = [], float(min(_LEAST, most))
    while value < min(most, _MOST):
        steps.append(round(value))
        value = max(value * _STEP, value + 1)
    return (*steps, min(most, _MOST))


def least_effort(measure: Callable[[int], NDArray[np.float64]], steps: tuple[int, ...], target: float) -> int | None:
    """The least of `steps` whose recall is at least `target`, with 95 % confidence; None if none is.

    Args:
        measure: effort → recall of each probe; recall grows with effort.
        steps: ascending.
    """
    found = bisect_left(steps, x=True, key=lambda effort: surely(measure(effort)) >= target)
    return steps[found] if found < len(steps) else None
