"""What the kernel needs to know of a signal: bounds, salts, and what to sum. Frozen values that travel with a task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.engine.first_round import Found
from pipelines.measurements import Measure, MeasureKind

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Bounds", "Salts", "Sum", "sum_fields"]

_WIDE = (MeasureKind.BINS, MeasureKind.TREE, MeasureKind.VECTOR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Salts:
    """Random 64-bit numbers of one run; public once used."""

    rows: int
    partitions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """What to sum for one measurement.

    Attributes:
        kind: what is summed.
        code: position of its code; -1: none.
        offset: added to each code, to count from the measurement's centre.
        centre: subtracted from each square.
        width: coordinates; 1 for a plain number.
        clip_scale: s under `ClipNorm`, in grid steps; 0: not clipped.
        steps: grid steps that one unit, row or bin count is.
    """

    kind: MeasureKind
    code: int
    offset: int
    centre: int
    width: int
    clip_scale: float
    steps: int

    @classmethod
    def of(cls, measure: Measure, position: int) -> Sum:
        """For a measurement whose code is the `position`-th."""
        lowest = 0 if measure.code is None else measure.code.lowest
        squares = measure.kind is MeasureKind.CENTRED_SQUARES
        return cls(
            kind=measure.kind,
            code=position,
            offset=lowest - (measure.square_centre if squares else measure.centre),
            centre=measure.centre if squares else 0,
            width=measure.summed_width,
            clip_scale=measure.clip_scale,
            steps=round(1 / measure.grid_step) if measure.grid_step <= 1 else 1,
        )

    @property
    def wide(self) -> bool:
        """Whether its sums are lists of coordinates, even if of a single one."""
        return self.kind in _WIDE


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the kernel needs to know of a signal.

    Attributes:
        units: number of unit columns.
        keys: number of key columns.
        bits: bits of each code; 0 for a vector.
        sums: the measurements.
        max_partitions: L0; None: all.
        max_rows: rows of a unit kept in a partition; None: all.
        max_weighted: partitions of a unit that selection weights go to; 0: no weights.
        norm: l2 of `ClipNorm`; 0: none.
        salts: of the run.
        found: keys that a first round of selection found: they get no weight. None: no such round.
    """

    units: int
    keys: int
    bits: tuple[int, ...]
    sums: tuple[Sum, ...]
    max_partitions: int | None
    max_rows: int | None
    max_weighted: int
    norm: float
    salts: Salts
    found: Found | None = None

    @property
    def key_names(self) -> tuple[str, ...]:
        """Names of the key columns."""
        return tuple(f"__k{i}" for i in range(self.keys))


def sum_fields(measures: Iterable[Measure]) -> list[pa.Field[Any]]:
    """Names and types of exact sums, as the kernel gives them: `__m0 ..`, int64 or lists of int64."""
    import pyarrow as pa

    lists = pa.list_(pa.int64())
    return [pa.field(f"__m{i}", lists if measure.kind in _WIDE else pa.int64()) for i, measure in enumerate(measures)]
