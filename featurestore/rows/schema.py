"""The fields of a view's rows, and where each lies in a row.

    tag          u32          which `RowSchema` wrote it (first 4 bytes of the SHA-256 of its fields)
    version      u32          of this layout
    event time   i64          microseconds since 1970, UTC
    release      u64          which release wrote it (`release_code`); 0: none, the row was pushed
    fixed        packed       fixed-width fields, those of one type side by side
    ends         u32[...]     for each text field, where it ends in the tail
    flags        u8[...]      booleans
    nulls        u8[...]      one bit per field, in the schema's order, least significant first; 1: null
    tail                      the text fields, one after another

Numbers are little-endian; nothing is padded. A null holds the empty value of its kind: NaN, 0 or no bytes. A view that
gains a field gets a new tag; rows written before keep theirs, and the new field is null in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from governance.canonical import canonical_bytes

__all__ = ["HEADER", "ROW_VERSION", "Kind", "Place", "ReadPlan", "RowField", "RowSchema"]

ROW_VERSION: Final = 1
HEADER: Final = np.dtype([("tag", "<u4"), ("version", "<u4"), ("event_time", "<i8"), ("release", "<u8")])
"""What every row begins with, whatever its schema."""


class Kind(StrEnum):
    """How a field is kept.

    `DATE` is days since 1970, `TIMESTAMP` microseconds, `SECONDS` Feast's timestamps. `FLOAT32S` is a float32 list of
    any length. `VALUE` is a serialised `feast.types.Value`, for types that have no kind of their own.
    """

    INT64 = "int64"
    INT32 = "int32"
    FLOAT64 = "float64"
    FLOAT32 = "float32"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    SECONDS = "seconds"
    DATE = "date"
    STRING = "string"
    BYTES = "bytes"
    FLOAT32S = "float32s"
    VALUE = "value"

    @property
    def dtype(self) -> str | None:
        """The numpy type of one value; None for texts."""
        return _DTYPES.get(self)


# In the order in which their fields lie in a row: wide ones first, so that all stay as aligned as the row is.
_DTYPES: Final[Mapping[Kind, str]] = {
    Kind.FLOAT64: "<f8",
    Kind.INT64: "<i8",
    Kind.TIMESTAMP: "<i8",
    Kind.SECONDS: "<i8",
    Kind.FLOAT32: "<f4",
    Kind.INT32: "<i4",
    Kind.DATE: "<i4",
    Kind.BOOL: "?",
}
_MAX_DIMENSION: Final = 1 << 16
_MAX_PLANS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RowField:
    """One field of a packed row.

    Attributes:
        name: the feature's.
        kind: of a value.
        dimension: d for a vector of d float32; None for single values.

    Raises:
        ValueError: a vector of another kind than float32, or with no sensible dimension.
    """

    name: str
    kind: Kind
    dimension: int | None = None

    def __post_init__(self) -> None:
        if self.dimension is not None and (self.kind is not Kind.FLOAT32 or not 0 < self.dimension <= _MAX_DIMENSION):
            raise ValueError(f"{self.name}: vectors are float32 of 1 to {_MAX_DIMENSION} dimensions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a field lies in a row.

    Attributes:
        block: first byte of the fields of its type, which lie side by side.
        width: bytes of that block.
        first: its own position in the block, counted in values.
        bit: its position among the null bits.
    """

    block: int
    width: int
    first: int
    bit: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadPlan:
    """How to read some fields of many rows in few steps; made once for each list of names, see `RowSchema.plan`.

    Attributes:
        bits: the fields' positions among the null bits, `(k,)`; one past the last for names that there are none of.
        unknown: whether there are such names.
        blocks: fields of one type, read together: slice of the row, numpy type, positions in the block, names.
        vectors: slice of the row and name of each vector.
        texts: each text field, and the one before it in the tail.
    """

    bits: NDArray[np.intp]
    unknown: bool
    blocks: tuple[tuple[slice, np.dtype[Any], NDArray[np.intp], tuple[str, ...]], ...]
    vectors: tuple[tuple[slice, str], ...]
    texts: tuple[tuple[RowField, RowField | None], ...]


@dataclass(frozen=True, kw_only=True)
class RowSchema:
    """The fields of a view's rows, in the view's order."""

    fields: tuple[RowField, ...]

    @classmethod
    def from_json(cls, fields: Sequence[Sequence[Any]]) -> RowSchema:
        """The inverse of `to_json`.

        Raises:
            ValueError: an unknown kind, or another shape.
            TypeError: another shape.
        """
        return cls(
            fields=tuple(
                RowField(name=name, kind=Kind(kind), dimension=rest[0] if rest else None)
                for name, kind, *rest in fields
            )
        )

    def to_json(self) -> list[list[Any]]:
        """`[[name, kind], [name, kind, dimension], ...]`."""
        return [
            [field.name, str(field.kind), *([] if field.dimension is None else [field.dimension])]
            for field in self.fields
        ]

    @cached_property
    def tag(self) -> int:
        """What its rows begin with."""
        return int.from_bytes(hashlib.sha256(canonical_bytes(self.to_json())).digest()[:4], "little")

    @cached_property
    def by_name(self) -> Mapping[str, RowField]:
        """Its fields by name."""
        return {field.name: field for field in self.fields}

    @cached_property
    def texts(self) -> tuple[RowField, ...]:
        """The fields whose values lie in the tail, in the tail's order."""
        return tuple(field for field in self.fields if field.kind.dtype is None)

    @cached_property
    def places(self) -> Mapping[str, Place]:
        """Where each field lies. A text field's place is that of its end in the tail."""
        return self._layout[0]

    @cached_property
    def nulls_at(self) -> int:
        """The first byte of the null bits."""
        return self._layout[1]

    @cached_property
    def width(self) -> int:
        """Bytes before the tail."""
        return self.nulls_at + (len(self.fields) + 7) // 8

    @cached_property
    def empty_row(self) -> NDArray[np.uint8]:
        """What stands for a row that is not there, `(width,)`: every field null and empty, no time, no release."""
        row = np.zeros(self.width, np.uint8)
        row[: HEADER.itemsize].view(HEADER)[0] = (self.tag, ROW_VERSION, 0, 0)
        for field in self.fields:
            dtype = np.dtype(field.kind.dtype or "<u4")
            place = self.places[field.name]
            if dtype.kind == "f":
                start = place.block + place.first * dtype.itemsize
                row[start : start + dtype.itemsize * (field.dimension or 1)].view(dtype)[:] = np.nan
        row[self.nulls_at :] = np.packbits(np.ones(len(self.fields), bool), bitorder="little")
        return row

    def plan(self, names: tuple[str, ...]) -> ReadPlan:
        """How to read these fields; names that the schema does not have are passed over."""
        plan = self._plans.get(names)
        if plan is None:
            plan = self._plan(names)
            if len(self._plans) < _MAX_PLANS:
                self._plans[names] = plan
        return plan

    @cached_property
    def _plans(self) -> dict[tuple[str, ...], ReadPlan]:
        return {}

    def _plan(self, names: tuple[str, ...]) -> ReadPlan:
        fields = [self.by_name[name] for name in dict.fromkeys(names) if name in self.by_name]
        singles: dict[Kind, list[str]] = {}
        for field in fields:
            if field.kind.dtype is not None and field.dimension is None:
                singles.setdefault(field.kind, []).append(field.name)
        blocks = []
        for kind, group in singles.items():
            place = self.places[group[0]]
            positions = np.array([self.places[name].first for name in group])
            blocks.append(
                (slice(place.block, place.block + place.width), np.dtype(kind.dtype), positions, tuple(group))
            )
        vectors = []
        for field in fields:
            if field.dimension is not None:
                start = self.places[field.name].block + 4 * self.places[field.name].first
                vectors.append((slice(start, start + 4 * field.dimension), field.name))
        before = dict(zip(self.texts, (None, *self.texts), strict=False))
        unknown = len(self.fields)
        return ReadPlan(
            bits=np.array([self.places[name].bit if name in self.places else unknown for name in names], np.intp),
            unknown=any(name not in self.places for name in names),
            blocks=tuple(blocks),
            vectors=tuple(vectors),
            texts=tuple((field, before[field]) for field in fields if field.kind.dtype is None),
        )

    @cached_property
    def _layout(self) -> tuple[Mapping[str, Place], int]:
        bits = {field.name: bit for bit, field in enumerate(self.fields)}
        blocks: list[tuple[int, list[RowField]]] = [
            (np.dtype(dtype).itemsize, [field for field in self.fields if field.kind is kind])
            for kind, dtype in _DTYPES.items()
        ]
        blocks.insert(-1, (4, list(self.texts)))  # ends, before the booleans
        places: dict[str, Place] = {}
        at = HEADER.itemsize
        for size, fields in blocks:
            counts = [field.dimension or 1 for field in fields]
            width = size * sum(counts)
            first = 0
            for field, count in zip(fields, counts, strict=True):
                places[field.name] = Place(block=at, width=width, first=first, bit=bits[field.name])
                first += count
            at += width
        return places, at
