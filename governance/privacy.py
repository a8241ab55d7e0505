"""The currency: zero-concentrated differential privacy, and what it means in epsilon.

A release costs `(rho, delta)`: it satisfies delta-approximate rho-zCDP (Bun and Steinke 2016, Definition 8.1). Both
numbers add up over releases, also when later ones are chosen after seeing earlier ones (Whitehouse, Ramdas, Rogers, Wu
2023, Theorem 1 applied to zCDP filters), so an account is two caps. People read epsilon: it is derived by the tightest
conversion known for a rho alone (Canonne, Kamath, Steinke 2020, Proposition 7 and Corollary 13), never by the closed
form `rho + 2 sqrt(rho log(1/delta))`, which overstates it by about a fifth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Clamped, Context, Decimal, Inexact, InvalidOperation, Overflow, Subnormal

from governance.canonical import decimal_text

__all__ = ["PrivacyLoss", "delta_of_rho", "epsilon_of_rho", "rho_of_epsilon"]

_BISECTIONS = 200

# Python's default context rounds to 28 digits, and 1e-6 + 1e-40 would be 1e-6: a spend forgotten. Here sums are exact,
# or an error; the digits suffice for any two numbers between the smallest and the largest float.
_EXACT = Context(prec=1000, traps=[Inexact, InvalidOperation, Overflow, Subnormal, Clamped])


def _log_delta(rho: float, epsilon: float, alpha: float) -> float:
    """log of `exp((a-1)(a rho - epsilon)) / (a-1) * (1 - 1/a)^a`, the bound at Rényi order `alpha`."""
    return (alpha - 1) * (alpha * rho - epsilon) - math.log(alpha - 1) + alpha * math.log1p(-1 / alpha)


def delta_of_rho(rho: float, epsilon: float) -> float:
    """Smallest delta for which this conversion shows (epsilon, delta)-DP from rho-zCDP.

    Formula: `min over a > 1 of exp((a-1)(a rho - epsilon)) / (a-1) * (1 - 1/a)^a`
    (Canonne, Kamath, Steinke 2020, Corollary 13). The minimum over any finite set of orders is valid too, so
    numerical search errs only on the safe side.

    Raises:
        ValueError: a negative rho or epsilon.
    """
    if not (rho >= 0 and epsilon >= 0):
        raise ValueError(f"rho and epsilon must not be negative; found rho={rho}, epsilon={epsilon}")
    if rho == 0:
        return 0.0
    low, high = 1 + 1e-12, max(2.0, (epsilon + 1) / (2 * rho) + 2)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        slope = (2 * middle - 1) * rho - epsilon + math.log1p(-1 / middle)
        if slope < 0:
            low = middle
        else:
            high = middle
    return math.exp(min(0.0, _log_delta(rho, epsilon, low), _log_delta(rho, epsilon, high)))


def epsilon_of_rho(rho: float, delta: float) -> float:
    """Smallest epsilon (within 1e-9, rounded up) for which rho-zCDP gives (epsilon, delta)-DP.

    Args:
        rho: zCDP parameter, at least 0.
        delta: in (0, 1).

    Raises:
        ValueError: parameters out of range.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1); found {delta}")
    if not rho >= 0:
        raise ValueError(f"rho must not be negative; found {rho}")
    if rho == 0:
        return 0.0
    low, high = 0.0, rho + 2 * math.sqrt(rho * math.log(1 / delta))
    while high - low > 1e-10 * max(1.0, high):
        middle = (low + high) / 2
        if delta_of_rho(rho, middle) <= delta:
            high = middle
        else:
            low = middle
    return high


def rho_of_epsilon(epsilon: float, delta: float) -> float:
    """Largest rho (rounded down) whose conversion stays within (epsilon, delta)-DP; the inverse of `epsilon_of_rho`.

    Raises:
        ValueError: parameters out of range.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be positive; found {epsilon}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1); found {delta}")
    low, high = 0.0, epsilon + 1
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if delta_of_rho(middle, epsilon) <= delta:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True, slots=True)
class PrivacyLoss:
    """What something costs: delta-approximate rho-zCDP, in exact arithmetic.

    Attributes:
        rho: zCDP parameter.
        delta: probability mass outside the zCDP guarantee (partition selection, sampler distance).
    """

    rho: Decimal
    delta: Decimal

    def __add__(self, other: PrivacyLoss) -> PrivacyLoss:
        return PrivacyLoss(_EXACT.add(self.rho, other.rho), _EXACT.add(self.delta, other.delta))

    def __sub__(self, other: PrivacyLoss) -> PrivacyLoss:
        return PrivacyLoss(_EXACT.subtract(self.rho, other.rho), _EXACT.subtract(self.delta, other.delta))

    @classmethod
    def of(cls, rho: float | str | Decimal, delta: float | str | Decimal) -> PrivacyLoss:
        """From numbers as written: a float counts as its shortest decimal text, so 0.1 is one tenth."""
        return cls(Decimal(str(rho)), Decimal(str(delta)))

    @classmethod
    def zero(cls) -> PrivacyLoss:
        """Costs nothing."""
        return cls(Decimal(0), Decimal(0))

    def epsilon(self, delta: float) -> float:
        """Epsilon at a total `delta`, part of which this loss's own delta has used up; infinite if all of it."""
        left = delta - float(self.delta)
        if left <= 0:
            return 0.0 if self.rho == 0 and self.delta == 0 else math.inf
        return epsilon_of_rho(float(self.rho), left)

    def to_json(self) -> dict[str, str]:
        """`{"rho": text, "delta": text}` with exact decimals."""
        return {"rho": decimal_text(self.rho), "delta": decimal_text(self.delta)}

    @classmethod
    def from_json(cls, value: dict[str, str]) -> PrivacyLoss:
        """The inverse of `to_json`."""
        return cls(Decimal(value["rho"]), Decimal(value["delta"]))
