"""Measurements: the noisy integer sums behind a signal, and how far one privacy unit can move them.

A **measurement** is an integer sum, or a vector of them, over bounded contributions; noise is added to measurements
only (pipelines.recipes says which ones a signal needs and what is released of them).

Sensitivity under `KeepRandom(L0, m)`, add/remove one unit. A unit touches at most L0 partitions; in each it keeps at
most m rows, and a row adds a vector of Euclidean norm at most `row_l2` to the partition's coordinates (`row_linf` to
any one of them). So it changes a measurement by at most `Linf = m row_linf` in a coordinate and
`L2 = sqrt(L0) m row_l2` in all. A unit count has m = 1. Replace one unit: what it had is taken away and what it has now
is added. In a partition that it touches before and after, the change is at most `spread`, the largest distance of two
lawful contributions; in one that it touches only before or only after it is at most `m row_l2`. With j partitions of
the first kind the squared change is at most `j spread^2 + 2 (L0 - j) (m row_l2)^2`, which is largest at an end:
`L0 max(spread^2, 2 (m row_l2)^2)`.

Sensitivity under `ClipNorm(l2)`. With `s` the scale of each measurement (`clip_scale`), the unit's whole vector x over
partitions and measurements satisfies `sum (x / s)^2 <= l2^2` after scaling: so a measurement alone changes by at most
`s l2`, and Gaussian noise of `sigma = s l2 / sqrt(2 rho)` on every measurement makes all of them together rho-zCDP, for
`sum x^2 / (2 sigma^2) = rho / l2^2 sum (x / s)^2 <= rho`. Replacing a unit moves a vector of norm l2 to another one:
by `sqrt(2) l2` at most if no coordinate is negative, else by `2 l2`.

Sums are of integers, so no rounding enters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cached_property

from pipelines.definitions import Bounding, ClipNorm, Interval, Relation

__all__ = [
    "COUNT_STEP",
    "TREE_FANOUT",
    "WEIGHTS",
    "Code",
    "CodeKind",
    "Measure",
    "MeasureKind",
    "vector_step",
]

COUNT_STEP = 2.0**-12
"""Step of what is a fraction of a row: decayed weights, counts under `ClipNorm`, selection weights."""

TREE_FANOUT = 16
"""Children of a node of a quantile tree."""

_MOST_COORDINATES = 2**40


class CodeKind(StrEnum):
    """How a row's value becomes integers."""

    GRID = "grid"
    AGE = "age"
    BIN = "bin"
    CANDIDATE = "candidate"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What is read of a row for one or more measurements: an integer from 0 to `highest`, or a vector of them.

    Attributes:
        kind: `GRID`: steps above the interval's lowest; `AGE`: the row's decayed weight; `BIN`: index of the bin, by
            `edges`; `CANDIDATE`: index of the candidate, `len(candidates)` for any other value; `VECTOR`: the vector in
            steps, clipped.
        column: read from; None for `AGE`.
        interval: the clamp of `GRID`.
        half_life: decay of `GRID` and `AGE`; None: none.
        edges: inner edges of `BIN`: bin i starts at `edges[i - 1]`.
        candidates: of `CANDIDATE`.
        dimension: of `VECTOR`.
        l2: clip of `VECTOR`.
    """

    kind: CodeKind
    column: str | None = None
    interval: Interval | None = None
    half_life: timedelta | None = None
    edges: tuple[float, ...] = ()
    candidates: tuple[str | int, ...] = ()
    dimension: int = 0
    l2: float = 0.0

    @property
    def lowest(self) -> int:
        """What code 0 stands for, in grid steps."""
        if self.kind is not CodeKind.GRID or self.interval is None:
            return 0
        lowest = self.interval.grid[0]
        return min(lowest, 0) if self.half_life is not None else lowest

    @property
    def highest(self) -> int:
        """The largest code."""
        if self.kind is CodeKind.GRID and self.interval is not None:
            highest = self.interval.grid[1]
            return (max(highest, 0) if self.half_life is not None else highest) - self.lowest
        if self.kind is CodeKind.AGE:
            return round(1 / COUNT_STEP)
        if self.kind is CodeKind.CANDIDATE:
            return len(self.candidates)
        return len(self.edges)

    @property
    def bits(self) -> int:
        """Bits of a code; 0 for vectors, which are not packed."""
        return 0 if self.kind is CodeKind.VECTOR else max(1, self.highest.bit_length())


class MeasureKind(StrEnum):
    """What is summed over a unit's kept rows in a partition."""

    UNITS = "units"
    ROWS = "rows"
    SUM = "sum"
    CENTRED_SUM = "centred_sum"
    CENTRED_SQUARES = "centred_squares"
    BINS = "bins"
    TREE = "tree"
    VECTOR = "vector"
    WEIGHT = "selection_weight"
    FIRST_WEIGHT = "selection_first_weight"
    LATE = "late_units"


WEIGHTS = (MeasureKind.WEIGHT, MeasureKind.FIRST_WEIGHT)
"""Selection weights of the only or second round, and of the first."""

_UNIT_COUNTS = (MeasureKind.UNITS, *WEIGHTS, MeasureKind.LATE)
_NOT_NEGATIVE = (*_UNIT_COUNTS, MeasureKind.ROWS, MeasureKind.BINS, MeasureKind.TREE)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One noisy sum for each partition, or `width` of them.

    Attributes:
        name: unique in its signal; names the noise stream.
        kind: what is summed.
        code: the rows' values; None for counts.
        grid_step: value of one step, in the column's units; 1 for counts of whole rows.
        centre: whole steps subtracted from each value (centred sums) or square, else 0.
        bounds: the signal's contribution bounds.
        relation: the signal's neighboring relation.
        clip_scale: s under `ClipNorm`, in grid steps; 0 otherwise.
        square_centre: whole steps subtracted from each value before it is squared.
    """

    name: str
    kind: MeasureKind
    code: Code | None
    grid_step: float
    centre: int
    bounds: Bounding
    relation: Relation
    clip_scale: float = 0.0
    square_centre: int = 0

    @property
    def column(self) -> str | None:
        """The value column; None for counts."""
        return None if self.code is None else self.code.column

    @property
    def interval(self) -> Interval | None:
        """The clamp; None where there is none."""
        return None if self.code is None else self.code.interval

    @property
    def clipped(self) -> bool:
        """Whether a unit's contributions are scaled as one vector."""
        return self.clip_scale > 0

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Nodes in each level of a tree below its root, from the widest: empty for anything else."""
        if self.kind is not MeasureKind.TREE or self.code is None:
            return ()
        widths, width = [], self.code.highest + 1
        while width > 1:
            widths.append(width)
            width //= TREE_FANOUT
        return tuple(widths)

    @property
    def width(self) -> int:
        """Coordinates for each partition."""
        if self.code is None:
            return 1
        if self.kind is MeasureKind.BINS:
            # The last index of a list of candidates stands for every other value, and is not counted.
            return len(self.code.candidates) or self.code.highest + 1
        if self.kind is MeasureKind.TREE:
            return sum(self.levels)
        return self.code.dimension if self.kind is MeasureKind.VECTOR else 1

    @property
    def summed_width(self) -> int:
        """Coordinates of the exact sum, of which a tree's upper levels follow."""
        return self.levels[0] if self.kind is MeasureKind.TREE else self.width

    @cached_property
    def _range(self) -> tuple[int, int]:
        """Smallest and largest that one row adds to a coordinate, in grid steps."""
        if self.code is None or self.kind in _NOT_NEGATIVE:
            return 0, round(1 / self.grid_step)
        if self.kind is MeasureKind.VECTOR:
            steps = math.ceil(self.code.l2 / self.grid_step)
            return -steps, steps
        lowest, highest = self.code.lowest, self.code.lowest + self.code.highest
        if self.kind is MeasureKind.CENTRED_SQUARES:
            farthest = max(abs(lowest - self.square_centre), abs(highest - self.square_centre))
            return -self.centre, farthest**2 - self.centre
        return lowest - self.centre, highest - self.centre

    @property
    def row_linf(self) -> int:
        """Most that one row adds to a coordinate, in grid steps."""
        return max(1, *(abs(bound) for bound in self._range))

    @property
    def row_l2(self) -> float:
        """Largest Euclidean norm of what one row adds to a partition, in grid steps."""
        return self.row_linf * math.sqrt(len(self.levels) or 1)

    @property
    def _rows(self) -> int:
        """Rows of a unit that count in a partition."""
        if self.kind in _UNIT_COUNTS or isinstance(self.bounds, ClipNorm):
            return 1
        return self.bounds.max_rows_per_partition

    @property
    def _spread(self) -> float:
        """Largest distance of two contributions to one partition, in grid steps."""
        lowest, highest = self._range
        if self.kind is MeasureKind.VECTOR:
            return 2.0 * self._rows * self.row_linf
        if self.kind in (MeasureKind.BINS, MeasureKind.TREE):
            return math.sqrt(2) * self._rows * self.row_l2
        return float(self._rows * (max(highest, 0) - min(lowest, 0)))

    @property
    def l0(self) -> int:
        """Most partitions that one unit changes."""
        kept = self.bounds.max_partitions
        if kept is None:
            return _MOST_COORDINATES
        return kept * (2 if self.relation is Relation.REPLACE_ONE else 1)

    @property
    def changed(self) -> int:
        """Most coordinates, over all partitions, that one unit changes."""
        if self.kind is MeasureKind.VECTOR:
            each = self.width
        else:
            each = min(self.width, (self._rows if not self.clipped else self.width) * (len(self.levels) or 1))
        # What is clipped is whole steps, so each coordinate that changes takes 1 of the squared norm at least.
        most = math.ceil(self.l2**2) if self.clipped else _MOST_COORDINATES
        return min(most, _MOST_COORDINATES, self.l0 * each)

    @property
    def linf(self) -> int:
        """Most by which one unit changes a coordinate, in grid steps."""
        if isinstance(self.bounds, ClipNorm) and self.clipped:
            return math.ceil(self.l2)
        if self.relation is Relation.REPLACE_ONE and self.kind not in (MeasureKind.BINS, MeasureKind.TREE):
            return max(math.ceil(self._spread), self._rows * self.row_linf)
        return self._rows * self.row_linf

    @property
    def l1(self) -> int:
        """Sensitivity in the sum of absolute changes, in grid steps."""
        if self.kind is MeasureKind.VECTOR:
            return self.l0 * math.ceil(self._rows * self.row_linf * math.sqrt(self.width))
        replaced_in_place = self.l0 // 2 * self.linf if self.relation is Relation.REPLACE_ONE else 0
        return max(self.l0 * self._rows * self.row_linf * (len(self.levels) or 1), replaced_in_place)

    @property
    def l2(self) -> float:
        """Euclidean sensitivity, in grid steps."""
        replaced = self.relation is Relation.REPLACE_ONE
        if isinstance(self.bounds, ClipNorm) and self.clipped:
            factor = (math.sqrt(2) if self._range[0] >= 0 else 2.0) if replaced else 1.0
            return factor * self.clip_scale * self.bounds.l2
        if self.kind in WEIGHTS:
            # Weights have norm 1 whatever the number of keys, and none is negative.
            return (math.sqrt(2) if replaced else 1.0) / self.grid_step
        alone = self._rows * self.row_l2
        if not replaced:
            return math.sqrt(self.l0) * alone
        if self.kind is MeasureKind.LATE:
            return alone
        return math.sqrt(self.l0 // 2) * max(math.sqrt(2) * alone, self._spread)


def vector_step(l2: float) -> float:
    """Grid step of vectors clipped to `l2`: the largest power of two below `l2 / 2^15`."""
    return math.ldexp(1.0, math.frexp(l2)[1] - 1 - 15)
