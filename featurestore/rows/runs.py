"""What most answers are: columns of fixed width whose rows are of one release. Then a column is a run of bytes.

Reading n rows so takes a handful of numpy calls for all columns of a type, and where nothing is missing none for masks:
`RunReader` is made once for a list of fields and copies each block of them, turned by a quarter, out of the rows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurestore.rows.answers import FeatureColumns
from featurestore.rows.schema import HEADER, RowField, RowSchema
from featurestore.rows.texts import Texts

__all__ = ["Gaps", "RunReader", "Runs"]

_EVENT_TIME: Final = slice(HEADER.fields["event_time"][1], HEADER.fields["event_time"][1] + 8)  # type: ignore[index]


class Gaps(NamedTuple):
    """What is missing. Bits are of rows, least significant first.

    Attributes:
        found: a bit for each row that is there; empty: all are.
        values: for each of the k features, a bit for each row that has a value; empty: all have.
    """

    found: bytes
    values: list[bytes]


class Runs(NamedTuple):
    """k features of n rows, all of one release.

    Attributes:
        release: the release's id; None where no row was found.
        columns: each feature's n values, little-endian and of its type's width, one after another; vectors row by row.
            NaN or 0 where there is none.
        event_times: n times 8 bytes, microseconds since 1970 UTC; 0 where not found.
        gaps: what is missing; None: nothing is.
    """

    release: str | None
    columns: list[bytes]
    event_times: bytes
    gaps: Gaps | None = None

    def as_columns(self, fields: Sequence[RowField]) -> FeatureColumns:
        """The same answer as arrays, which are views of the runs.

        Args:
            fields: the k features.
        """
        count = len(self.event_times) // 8
        gaps = self.gaps or Gaps(b"", [b""] * len(fields))
        found = _mask(gaps.found, count)
        nulls = np.zeros((len(fields), count), bool)
        values: dict[str, NDArray[Any] | Texts] = {}
        for position, (field, run) in enumerate(zip(fields, self.columns, strict=True)):
            nulls[position] = ~_mask(gaps.values[position], count)
            array = np.frombuffer(run, np.dtype(field.kind.dtype))
            values[field.name] = array if field.dimension is None else array.reshape(count, field.dimension)
        return FeatureColumns(
            names=tuple(field.name for field in fields),
            values=values,
            nulls=nulls,
            found=found,
            event_times=np.frombuffer(self.event_times, "<i8"),
            releases=() if self.release is None else (self.release,),
            release_indexes=found.astype(np.int32) - 1,
        )


class RunReader:
    """Reads fields of fixed width as runs. Immutable; made by `of`.

    Attributes:
        bits: positions of the fields' null bits, `(k,)`.
    """

    __slots__ = ("_blocks", "_mask", "_nulls", "bits")

    def __init__(self, schema: RowSchema, fields: Sequence[RowField]) -> None:
        self.bits: NDArray[np.intp] = np.array([schema.places[field.name].bit for field in fields], np.intp)
        flags = np.zeros(8 * (schema.width - schema.nulls_at), bool)
        flags[self.bits] = True
        self._mask = np.packbits(flags, bitorder="little")
        self._nulls = slice(schema.nulls_at, schema.width)
        groups: list[list[RowField]] = []
        for field in fields:
            if (
                groups
                and field.dimension is None
                and groups[-1][0].dimension is None
                and groups[-1][0].kind == field.kind
            ):
                groups[-1].append(field)
            else:
                groups.append([field])
        self._blocks = tuple(_block(schema, group) for group in groups)

    @classmethod
    def of(cls, schema: RowSchema, fields: Sequence[RowField]) -> RunReader | None:
        """For these fields, in this order; None where one is a text, or none of the schema's."""
        if all(field.kind.dtype is not None and schema.by_name.get(field.name) == field for field in fields):
            return cls(schema, fields)
        return None

    def any_null(self, head: NDArray[np.uint8]) -> bool:
        """Whether a value of the fields is null in n rows, uint8 `(n, width)`."""
        nulls = head[:, self._nulls]
        if (raw := nulls.tobytes()) == bytes(len(raw)):  # no null at all: as bytes, far quicker to ask
            return False
        return bool((nulls & self._mask).any())

    def columns(self, head: NDArray[np.uint8]) -> list[bytes]:
        """Each field's run."""
        runs: list[bytes] = []
        count = len(head)
        for place, dtype, within, split, size in self._blocks:
            if within is None:
                runs.append(head[:, place].tobytes())
            else:
                runs += split(size * count)(head[:, place].view(dtype).T[within].tobytes())
        return runs

    def read(self, release: str | None, head: NDArray[np.uint8], gaps: Gaps | None = None) -> Runs:
        """n rows of a release as runs, uint8 `(n, width)`."""
        return Runs(release, self.columns(head), head[:, _EVENT_TIME].tobytes(), gaps)

    def gaps(self, head: NDArray[np.uint8], found: NDArray[np.bool_] | None, *, nullable: bool = True) -> Gaps:
        """What is missing in n rows.

        Args:
            head: uint8 `(n, width)`; rows that are not there have every null bit set.
            found: bool `(n,)`; None: all.
            nullable: whether a value of the fields may be null in a row that is there.
        """
        bits = b"" if found is None else np.packbits(found, bitorder="little").tobytes()
        if not nullable:
            return Gaps(bits, [bits] * len(self.bits))
        flags = np.unpackbits(head[:, self._nulls], axis=1, bitorder="little").take(self.bits, axis=1)
        masks = np.packbits(flags ^ 1, axis=0, bitorder="little").T
        return Gaps(bits, [mask.tobytes() if flag.any() else b"" for mask, flag in zip(masks, flags.T, strict=True)])


def _mask(bits: bytes, count: int) -> NDArray[np.bool_]:
    """A bitmap as booleans, `(count,)`; an empty one is all true."""
    if not bits:
        return np.ones(count, bool)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count, bitorder="little").astype(bool)


_Block = tuple[slice, np.dtype[Any], slice | NDArray[np.intp] | None, Callable[[int], Callable[[bytes], Any]], int]
"""Slice of the row, type, which values of the slice (None: all, row by row), how a run is cut, bytes of a value."""


def _block(schema: RowSchema, fields: Sequence[RowField]) -> _Block:
    dtype = np.dtype(fields[0].kind.dtype)
    size = dtype.itemsize
    place = schema.places[fields[0].name]
    if fields[0].dimension is not None:
        start = place.block + place.first * size
        return slice(start, start + fields[0].dimension * size), dtype, None, _cutter(1), size
    firsts = [schema.places[field.name].first for field in fields]
    if firsts == list(range(firsts[0], firsts[0] + len(firsts))):
        start = place.block + firsts[0] * size
        return slice(start, start + len(firsts) * size), dtype, slice(None), _cutter(len(firsts)), size
    return slice(place.block, place.block + place.width), dtype, np.array(firsts, np.intp), _cutter(len(firsts)), size


def _cutter(parts: int) -> Callable[[int], Callable[[bytes], Any]]:
    """Of the size of a part: what cuts so many parts of it apart."""

    @lru_cache(maxsize=256)
    def of(size: int) -> Callable[[bytes], Any]:
        return struct.Struct(f"{size}s" * parts).unpack

    return of
