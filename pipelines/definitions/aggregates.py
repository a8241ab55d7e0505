"""Aggregates, and the public ranges their values are clamped to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import timedelta

from governance.errors import DefinitionError
from pipelines.definitions.checks import check_column, check_kind, check_number, check_span, check_whole

UNCERTAIN = "_half_width"
"""Ending of the column that tells how uncertain another one is, where that depends on the row."""


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
    """Number of rows in a partition, at most `max_rows_per_partition` of each privacy unit.

    Attributes:
        half_life: None, or the age at which a row counts half: a row `t` before the window's end weighs
            `2^(-t / half_life)`, rounded to steps of 2^-12.
    """

    half_life: timedelta | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_half_life("Count", self.half_life)


@dataclass(frozen=True, slots=True)
class CountDistinct:
    """Number of distinct privacy units in a partition."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Sum of a column's values, each clamped to `interval` and rounded to its grid.

    Attributes:
        column: the values.
        interval: the clamp.
        half_life: as in `Count`; the clamped value is weighted.
    """

    column: str
    interval: Interval
    half_life: timedelta | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_aggregate("Sum", self.column, self.interval)
        _check_half_life("Sum", self.half_life)


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean of a column's clamped values: a noisy centred sum over a noisy row count, clamped back to `interval`."""

    column: str
    interval: Interval

    def __post_init__(self) -> None:
        _check_aggregate("Mean", self.column, self.interval)


@dataclass(frozen=True, slots=True)
class Variance:
    """Population variance of a column's clamped values, from a noisy count, centred sum and centred sum of squares.

    The result lies between 0 and a quarter of the interval's squared width.
    """

    column: str
    interval: Interval

    def __post_init__(self) -> None:
        _check_aggregate("Variance", self.column, self.interval)
        lowest, highest = self.interval.grid
        if highest - lowest > 2**15:
            raise DefinitionError(
                "Variance",
                f"interval: found {highest - lowest:,} steps, allowed: at most 32,768; give it a larger step",
            )


@dataclass(frozen=True, slots=True)
class Histogram:
    """Number of rows in each bin of public edges, one column a bin: `<name>_0`, `<name>_1`, ...

    Bin i holds `edges[i] <= value < edges[i + 1]`. Values below the first edge count in the first bin, values at or
    above the last edge in the last one.
    """

    column: str
    edges: tuple[float, ...]

    def __post_init__(self) -> None:
        check_column("Histogram", "column", self.column)
        object.__setattr__(self, "edges", _numbers("Histogram", "edges", self.edges, least=2, most=257))
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise DefinitionError("Histogram", "edges: allowed: each larger than the one before")


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of a column over a public range, one column each: `<name>_p50`, `<name>_p99_9`, ...

    From a noisy tree of counts over `bins` equal bins of `interval`, 16 children to a node, made consistent (Hay et al.
    2010), read off with linear interpolation within a bin.
    """

    column: str
    interval: Interval
    probabilities: tuple[float, ...] = (0.5,)
    bins: int = field(default=256, kw_only=True)

    def __post_init__(self) -> None:
        _check_aggregate("Quantiles", self.column, self.interval)
        wanted = _numbers("Quantiles", "probabilities", self.probabilities, least=1, most=99)
        object.__setattr__(self, "probabilities", wanted)
        if len(set(map(_percent, wanted))) != len(wanted) or not all(0 < p < 1 for p in wanted):
            raise DefinitionError("Quantiles", "probabilities: allowed: different numbers between 0 and 1")
        check_whole("Quantiles", "bins", self.bins, least=16, most=4096)
        if self.bins not in (16, 256, 4096):
            raise DefinitionError(
                "Quantiles", f"bins: found {self.bins}, allowed: 16, 256 or 4096 (16 children a node)"
            )


@dataclass(frozen=True, slots=True)
class TopK:
    """The `k` most frequent of a column's public candidates, best first: `<name>_1` ... `<name>_k`.

    Read off a noisy histogram over the candidates, so the ranking itself costs nothing more. Other values do not count.
    """

    column: str
    candidates: tuple[str | int, ...]
    k: int

    def __post_init__(self) -> None:
        check_column("TopK", "column", self.column)
        check_kind("TopK", "candidates", self.candidates, tuple, list)
        object.__setattr__(self, "candidates", tuple(self.candidates))
        kinds = {type(value) for value in self.candidates}
        if len(set(self.candidates)) != len(self.candidates) or len(kinds) != 1 or not kinds <= {str, int}:
            raise DefinitionError(
                "TopK", "candidates: allowed: different values, all str or all int, from public facts"
            )
        for value in self.candidates:
            if isinstance(value, int):
                check_whole("TopK", "candidates", value, least=-(2**63), most=2**63 - 1)
        if len(self.candidates) > 4096:
            raise DefinitionError("TopK", f"candidates: found {len(self.candidates):,}, allowed: at most 4,096")
        check_whole("TopK", "k", self.k, least=1, most=min(64, len(self.candidates)))


@dataclass(frozen=True, slots=True)
class VectorSum:
    """Sum of a list column's vectors, each scaled down to Euclidean norm `l2` where it is longer.

    Attributes:
        column: lists of `dimension` numbers.
        dimension: d.
        l2: the clip.
    """

    column: str
    dimension: int
    l2: float

    def __post_init__(self) -> None:
        check_column("VectorSum", "column", self.column)
        check_whole("VectorSum", "dimension", self.dimension, least=1, most=4096)
        check_number("VectorSum", "l2", self.l2, above=0, most=1e15)
        object.__setattr__(self, "l2", float(self.l2))


def _check_aggregate(subject: str, column: object, interval: object) -> None:
    check_column(subject, "column", column)
    if not isinstance(interval, Interval):
        raise DefinitionError(subject, f"interval: found {type(interval).__name__}, allowed: Interval(lower, upper)")


def _check_half_life(subject: str, half_life: object) -> None:
    if half_life is not None:
        check_span(subject, "half_life", half_life, least=timedelta(minutes=1))


def _numbers(subject: str, what: str, values: object, *, least: int, most: int) -> tuple[float, ...]:
    """A tuple of `least` to `most` finite numbers."""
    check_kind(subject, what, values, tuple, list)
    numbers = tuple(values) if isinstance(values, tuple | list) else ()
    if not least <= len(numbers) <= most:
        raise DefinitionError(subject, f"{what}: found {len(numbers)}, allowed: {least} to {most} numbers")
    for number in numbers:
        check_number(subject, what, number, above=-1e300, most=1e300)
    return tuple(float(number) for number in numbers)


Aggregate = Count | CountDistinct | Sum | Mean | Variance | Histogram | Quantiles | TopK | VectorSum


def column_names(name: str, aggregate: Aggregate) -> tuple[str, ...]:
    """The released columns of an aggregate, but for those that tell how uncertain these are."""
    match aggregate:
        case Histogram(_, edges):
            return tuple(f"{name}_{i}" for i in range(len(edges) - 1))
        case Quantiles(_, _, probabilities):
            return tuple(f"{name}_p{_percent(p)}" for p in probabilities)
        case TopK(_, _, k):
            return tuple(f"{name}_{i + 1}" for i in range(k))
    return (name,)


def released_names(name: str, aggregate: Aggregate) -> tuple[str, ...]:
    """All released columns of an aggregate: where uncertainty depends on the row, each with its half-width."""
    columns = column_names(name, aggregate)
    if not isinstance(aggregate, Mean | Variance | Quantiles):
        return columns
    return tuple(each for column in columns for each in (column, column + UNCERTAIN))


def _percent(probability: float) -> str:
    """A probability as part of a column's name: `50`, `99_9`. Two that are nearly equal share one."""
    return f"{100 * probability:.10g}".replace(".", "_")
