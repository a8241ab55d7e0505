"""Mechanisms as data: what accountants need to know of them, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ApproximateEvent", "GaussianEvent", "LaplaceEvent", "PrivacyEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianEvent:
    """Independent discrete Gaussian noise on integer sums, one sum for each partition.

    Attributes:
        l2: Euclidean distance by which the sums of neighbors differ, at most, in grid steps.
        sigma: of the noise, in grid steps.
        coordinates: sums that differ between neighbors, at most (L0).
        count: how many such events there are.
    """

    l2: float
    sigma: float
    coordinates: int
    count: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.l2 < math.inf and 0 < self.sigma < math.inf and self.coordinates >= 0 and self.count >= 1):
            raise ValueError(f"l2 >= 0, sigma > 0, coordinates >= 0 and count >= 1 are allowed; found {self}")

    @classmethod
    def jointly(cls, *, rho: float, smallest_sigma: float, coordinates: int) -> GaussianEvent:
        """Several measurements whose shift is bounded as one vector (`ClipNorm`): `sum (v / sigma)^2 <= 2 rho`.

        A unit may put all of it where sigma is smallest, so that is the sigma that counts.

        Args:
            rho: of all of them together.
            smallest_sigma: of any of them, in grid steps.
            coordinates: sums that differ, at most, over all of them.
        """
        return cls(l2=smallest_sigma * math.sqrt(2 * rho), sigma=smallest_sigma, coordinates=coordinates)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaplaceEvent:
    """Independent discrete Laplace noise on integer sums, one sum for each partition.

    Attributes:
        linf: most by which one sum of neighbors differs, in grid steps.
        scale: of the noise, in grid steps; one sum costs `linf / scale` of epsilon.
        coordinates: sums that differ between neighbors, at most (L0).
        count: how many such events there are.
    """

    linf: int
    scale: float
    coordinates: int
    count: int = 1

    def __post_init__(self) -> None:
        if not (self.linf >= 0 and 0 < self.scale < math.inf and self.coordinates >= 0 and self.count >= 1):
            raise ValueError(f"linf >= 0, scale > 0, coordinates >= 0 and count >= 1 are allowed; found {self}")

    @property
    def epsilon(self) -> float:
        """Pure epsilon of all of them: differential privacy without any delta."""
        return self.count * self.coordinates * self.linf / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproximateEvent:
    """Something of which only (epsilon, delta)-DP is known: private selection is one with epsilon 0.

    Attributes:
        epsilon: at least 0.
        delta: in [0, 1).
        count: how many such events there are.
    """

    epsilon: float
    delta: float
    count: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.epsilon < math.inf and 0 <= self.delta < 1 and self.count >= 1):
            raise ValueError(f"epsilon >= 0, delta in [0, 1) and count >= 1 are allowed; found {self}")


PrivacyEvent = GaussianEvent | LaplaceEvent | ApproximateEvent
