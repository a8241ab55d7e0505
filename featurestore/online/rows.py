"""Packed rows: one byte string per (view, entity), read back into columns without touching single values.

    tag          u32          which `RowSchema` wrote it (first 4 bytes of the SHA-256 of its fields)
    event time   i64          microseconds since 1970, UTC
    nulls        u8[...]      one bit per field, little-endian bit order; 1: null
    fixed        packed       values of the fixed-width fields, in the schema's order
    ends         u32[...]     for each text field, where it ends in the tail
    tail                      the text fields, one after another

Numbers are little-endian. A view that gains a field gets a new tag; rows written before keep theirs, and the new field
is null in them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from governance.canonical import canonical_bytes
from governance.errors import PublicationCorrupt

__all__ = ["COLUMN_KINDS", "Column", "Kind", "RowField", "RowSchema", "pack", "tags", "unpack"]


class Kind(StrEnum):
    """How a field is kept. `VALUE` is a serialised `feast.types.Value`, for types that have no kind of their own."""

    INT64 = "int64"
    INT32 = "int32"
    FLOAT64 = "float64"
    FLOAT32 = "float32"
    BOOL = "bool"
    TIMESTAMP = "timestamp"
    STRING = "string"
    BYTES = "bytes"
    VALUE = "value"


_FIXED: Final = {
    Kind.INT64: "<i8",
    Kind.INT32: "<i4",
    Kind.FLOAT64: "<f8",
    Kind.FLOAT32: "<f4",
    Kind.BOOL: "?",
    Kind.TIMESTAMP: "<i8",
}


COLUMN_KINDS: Final[Mapping[str, Kind]] = {
    "int64": Kind.INT64,
    "float64": Kind.FLOAT64,
    "string": Kind.STRING,
    "date": Kind.STRING,
    "bool": Kind.BOOL,
}
"""Type of a released feature → the kind that it is kept as; dates are ISO 8601 text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowField:
    """One field of a packed row."""

    name: str
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class RowSchema:
    """The fields of a view's rows, in the view's order."""

    fields: tuple[RowField, ...]

    @classmethod
    def from_json(cls, fields: Sequence[Sequence[str]]) -> RowSchema:
        """The inverse of `to_json`.

        Raises:
            ValueError: an unknown kind.
        """
        return cls(fields=tuple(RowField(name=name, kind=Kind(kind)) for name, kind in fields))

    def to_json(self) -> list[list[str]]:
        """`[[name, kind], ...]`."""
        return [[field.name, str(field.kind)] for field in self.fields]

    @cached_property
    def tag(self) -> int:
        """What its rows begin with."""
        return int.from_bytes(hashlib.sha256(canonical_bytes(self.to_json())).digest()[:4], "little")

    @cached_property
    def texts(self) -> tuple[RowField, ...]:
        """The fields whose values lie in the tail."""
        return tuple(field for field in self.fields if field.kind not in _FIXED)

    @cached_property
    def head(self) -> np.dtype[Any]:
        """Everything before the tail, as one packed numpy record. Field i of the schema is `f<i>`, its end `e<i>`."""
        numbered = list(enumerate(self.fields))
        return np.dtype(
            [
                ("tag", "<u4"),
                ("event_time", "<i8"),
                ("nulls", "u1", ((len(numbered) + 7) // 8,)),
                *((f"f{i}", _FIXED[field.kind]) for i, field in numbered if field.kind in _FIXED),
                *((f"e{i}", "<u4") for i, field in numbered if field.kind not in _FIXED),
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One field's values in n rows.

    Attributes:
        values: numbers `(n,)`, or an object array of bytes `(n,)` for text kinds; anything (zero, `b""`) where null.
        nulls: bool `(n,)`.
    """

    values: NDArray[Any]
    nulls: NDArray[np.bool_]


def pack(schema: RowSchema, event_times: NDArray[np.int64], columns: Mapping[str, Column]) -> list[bytes]:
    """Packs n rows.

    Args:
        schema: which fields, in which order.
        event_times: microseconds `(n,)`.
        columns: one for every field of the schema.

    Returns:
        n byte strings.
    """
    count = len(event_times)
    head = np.zeros(count, schema.head)
    head["tag"] = schema.tag
    head["event_time"] = event_times
    bits = np.zeros((count, len(schema.fields)), bool)
    ends = np.zeros(count, np.int64)
    tails: list[list[bytes]] = []
    for i, field in enumerate(schema.fields):
        column = columns[field.name]
        bits[:, i] = column.nulls
        if field.kind in _FIXED:
            head[f"f{i}"] = np.where(column.nulls, np.zeros(1, head.dtype[f"f{i}"]), column.values)
        else:
            texts = [b"" if null else text for text, null in zip(column.values, column.nulls, strict=True)]
            tails.append(texts)
            ends += np.fromiter(map(len, texts), np.int64, count)
            head[f"e{i}"] = ends
    head["nulls"] = np.packbits(bits, axis=1, bitorder="little")
    data, size = head.tobytes(), schema.head.itemsize
    heads = [data[at : at + size] for at in range(0, count * size, size)]
    return list(map(b"".join, zip(heads, *tails, strict=True))) if tails else heads


def tags(rows: Sequence[bytes]) -> NDArray[np.uint32]:
    """The tags of n rows, `(n,)`.

    Raises:
        PublicationCorrupt: a row is too short to have one.
    """
    try:
        return np.fromiter((_TAG.unpack_from(row)[0] for row in rows), np.uint32, len(rows))
    except struct.error:
        raise _corrupt() from None


def unpack(
    schema: RowSchema, rows: Sequence[bytes], names: Sequence[str]
) -> tuple[NDArray[np.int64], dict[str, Column]]:
    """Event times in microseconds `(n,)` and the wanted columns of n rows of this schema.

    Names that the schema does not have are not in the answer.

    Raises:
        PublicationCorrupt: a row's size does not fit the schema.
    """
    size = schema.head.itemsize
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    if schema.texts:
        if (lengths < size).any():
            raise _corrupt()
        data = b"".join([row[:size] for row in rows])
    else:
        data = b"".join(rows)
    if len(data) != size * len(rows):
        raise _corrupt()
    head = np.frombuffer(data, schema.head)
    bits = np.unpackbits(head["nulls"], axis=1, bitorder="little").astype(bool)
    starts: NDArray[np.int64] = np.full(len(rows), size, np.int64)
    wanted = set(names)
    columns: dict[str, Column] = {}
    for i, field in enumerate(schema.fields):
        if field.kind in _FIXED:
            if field.name in wanted:
                columns[field.name] = Column(values=head[f"f{i}"], nulls=bits[:, i])
            continue
        ends = head[f"e{i}"].astype(np.int64) + size
        if (ends < starts).any() or (ends > lengths).any():
            raise _corrupt()
        if field.name in wanted:
            texts = np.empty(len(rows), object)
            texts[:] = [row[a:b] for row, a, b in zip(rows, starts.tolist(), ends.tolist(), strict=True)]
            columns[field.name] = Column(values=texts, nulls=bits[:, i])
        starts = ends
    if (starts != lengths).any():
        raise _corrupt()
    return head["event_time"].astype(np.int64), columns


_TAG = struct.Struct("<I")


def _corrupt() -> PublicationCorrupt:
    return PublicationCorrupt(
        "online store: a packed row does not fit its schema; remove the store and run 'hedgerow publish' again"
    )
