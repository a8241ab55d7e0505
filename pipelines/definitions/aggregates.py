"""Aggregates, and the public ranges their values are clamped to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from governance.errors import DefinitionError
from pipelines.definitions.checks import check_column, check_number


@dataclass(frozen=True, slots=True)
class Interval:
    """A public range `[lower, upper]` that values are clamped to, and the public grid they are rounded to.

    Attributes:
        lower: smallest value, in the column's units.
        upper: largest value.
        step: the grid's step; None: the largest power of two that divides the larger bound into at least 4096 steps
            and the interval into at least 256, so that sums are exact integers and rounding is far below the noise.
    """

    lower: float
    upper: float
    step: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_number("Interval", "lower", self.lower, above=-1e15, most=1e15)
        check_number("Interval", "upper", self.upper, above=-1e15, most=1e15)
        object.__setattr__(self, "lower", float(self.lower))
        object.__setattr__(self, "upper", float(self.upper))
        if self.lower >= self.upper:
            raise DefinitionError("Interval", f"found [{self.lower}, {self.upper}], allowed: lower below upper")
        largest = max(abs(self.lower), abs(self.upper))
        if largest < 1e-15:
            raise DefinitionError(
                "Interval",
                f"found [{self.lower}, {self.upper}], allowed: a bound of at least 1e-15; use a smaller unit",
            )
        if self.step is not None:
            check_number("Interval", "step", self.step, above=0, most=self.upper - self.lower)
            object.__setattr__(self, "step", float(self.step))
            if largest / self.step > 2**30:
                raise DefinitionError("Interval", f"step: found {self.step}, allowed: at most 2^30 steps to a bound")
        elif (self.upper - self.lower) / largest < 2**-20:
            raise DefinitionError(
                "Interval",
                f"found [{self.lower}, {self.upper}], allowed: a width of at least 2^-20 of the larger bound; "
                "subtract a public constant upstream",
            )

    @property
    def grid_step(self) -> float:
        """The step in force."""
        if self.step is not None:
            return self.step
        largest = min(max(abs(self.lower), abs(self.upper)) / 4096, (self.upper - self.lower) / 256)
        return math.ldexp(1.0, math.frexp(largest)[1] - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """`(lowest, highest)` in whole steps: the bounds rounded inwards; within 1e-9 of a step, it is that step."""
        step = self.grid_step
        lowest, highest = math.ceil(self.lower / step - 1e-9), math.floor(self.upper / step + 1e-9)
        return lowest, max(lowest, highest)


@dataclass(frozen=True, slots=True)
class Count:
    """Number of rows in a partition, at most `max_rows_per_partition` of each privacy unit."""


@dataclass(frozen=True, slots=True)
class CountDistinct:
    """Number of distinct privacy units in a partition."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Sum of a column's values, each clamped to `interval` and rounded to its grid."""

    column: str
    interval: Interval

    def __post_init__(self) -> None:
        _check_aggregate("Sum", self.column, self.interval)


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean of a column's clamped values: a noisy centred sum over a noisy row count, clamped back to `interval`."""

    column: str
    interval: Interval

    def __post_init__(self) -> None:
        _check_aggregate("Mean", self.column, self.interval)


def _check_aggregate(subject: str, column: object, interval: object) -> None:
    check_column(subject, "column", column)
    if not isinstance(interval, Interval):
        raise DefinitionError(subject, f"interval: found {type(interval).__name__}, allowed: Interval(lower, upper)")


Aggregate = Count | CountDistinct | Sum | Mean
