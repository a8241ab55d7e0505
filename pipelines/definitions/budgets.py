"""Privacy budgets: what one release may cost."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.definitions.checks import check_number


@dataclass(frozen=True, slots=True)
class ZCDP:
    """rho-zero-concentrated DP (Bun and Steinke 2016): for all orders a > 1, `D_a(M(x) || M(x')) <= rho a`."""

    rho: float

    def __post_init__(self) -> None:
        check_number("ZCDP", "rho", self.rho, above=0, most=100)
        object.__setattr__(self, "rho", float(self.rho))


@dataclass(frozen=True, slots=True)
class ApproxDP:
    """(epsilon, delta)-DP of the release as a whole, partition selection included.

    Calibrated to the least noise whose own proof gives it (pipelines.accounting, ADR-0012), not through rho; the
    account is charged the rho of that noise.
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        check_number("ApproxDP", "epsilon", self.epsilon, above=0, most=100)
        check_number("ApproxDP", "delta", self.delta, above=0, most=0.1)
        object.__setattr__(self, "epsilon", float(self.epsilon))


@dataclass(frozen=True, slots=True)
class PureDP:
    """epsilon-DP with discrete Laplace noise; needs public partitions.

    An account is charged at most `epsilon^2 / 2` in rho.
    """

    epsilon: float

    def __post_init__(self) -> None:
        check_number("PureDP", "epsilon", self.epsilon, above=0, most=100)
        object.__setattr__(self, "epsilon", float(self.epsilon))


Budget = ZCDP | ApproxDP | PureDP
