"""Numpy arrays in and out of messages, by copying memory.

Packed, fixed-width repeated fields are little-endian runs on the wire, so a run is written by merging its wire form and
read back as one array; nothing visits single values but texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.v1 import features_pb2, values_pb2

__all__ = [
    "KINDS",
    "bitmap",
    "get_column",
    "get_ids",
    "packed",
    "set_column",
    "set_ids",
    "text_array",
    "unbitmap",
]

Column = features_pb2.KeyColumn | features_pb2.FeatureColumn

KINDS: Final = {
    "int64s": "int64",
    "strings": "string",
    "doubles": "float64",
    "bools": "bool",
    "dates": "date",
    "floats": "float32",
    "timestamps": "timestamp",
    "binaries": "bytes",
    "vectors": "vector",
}
"""Field of the `values` oneof → the type's name in publications and messages."""

_FIELDS: Final = {kind: field for field, kind in KINDS.items()}
_PACKED: Final = {"int64s": "<i8", "doubles": "<f8", "bools": "?", "floats": "<f4"}


def packed(number: int, array: NDArray[Any]) -> bytes:
    """The wire form of a packed repeated field; merging it into a message sets the field.

    Args:
        number: the field's number, at most 15.
        array: `(n,)`, of the field's own width and little-endian.
    """
    raw = array.tobytes()
    if not raw:
        return b""
    length, size = bytearray(), len(raw)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((number << 3 | 2,)) + bytes(length) + raw


def bitmap(mask: NDArray[np.bool_]) -> bytes:
    """A mask as bits, least significant first; empty where every bit would be 1."""
    return b"" if mask.all() else np.packbits(mask, bitorder="little").tobytes()


def unbitmap(bits: bytes, rows: int) -> NDArray[np.bool_]:
    """The inverse of `bitmap`.

    Raises:
        ValueError: too few bits or too many.
    """
    if not bits:
        return np.ones(rows, dtype=bool)
    if len(bits) != (rows + 7) // 8:
        raise ValueError(f"a bitmap of {len(bits)} bytes for {rows} rows")
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=rows, bitorder="little").astype(bool)


def text_array(values: Sequence[Any]) -> NDArray[Any]:
    """Texts or byte strings as an object array `(n,)`."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def set_column(column: Column, kind: str, array: NDArray[Any]) -> None:
    """Fills a column's values.

    Args:
        column: its `values` are not set yet.
        kind: one of `KINDS`'s values, `"vector"` aside.
        array: `(n,)`; NaT counts as day or instant 0.
    """
    field = _FIELDS[kind]
    values = getattr(column, field)
    values.SetInParent()
    if field in _PACKED:
        values.MergeFromString(packed(1, np.ascontiguousarray(array, dtype=_PACKED[field])))
    elif field == "dates":
        days = np.where(np.isnat(array), np.datetime64(0, "D"), array).astype("M8[D]")
        values.MergeFromString(packed(1, days.astype(np.int64).astype("<i4")))
    elif field == "timestamps":
        instants = np.where(np.isnat(array), np.datetime64(0, "us"), array).astype("M8[us]")
        values.MergeFromString(packed(1, instants.astype("<i8")))
    else:
        values.values.extend(array.tolist())


def get_column(column: Column) -> tuple[str, NDArray[Any]]:
    """A column's type name and its values `(n,)`, or `(n, d)` for vectors; texts come as an object array.

    Raises:
        ValueError: no values are set, or a run of vectors that is not whole.
    """
    field = column.WhichOneof("values")
    if field is None:
        raise ValueError("no values")
    values = getattr(column, field)
    if field in _PACKED:
        return KINDS[field], np.asarray(values.values, dtype=_PACKED[field])
    if field == "dates":
        return "date", np.asarray(values.days, dtype=np.int64).astype("M8[D]")
    if field == "timestamps":
        return "timestamp", np.asarray(values.microseconds, dtype=np.int64).astype("M8[us]")
    if field == "vectors":
        flat = np.asarray(values.values, dtype=np.float32)
        if not values.dimension or flat.size % values.dimension:
            raise ValueError("vectors that are not whole")
        return "vector", flat.reshape(-1, values.dimension)
    return KINDS[field], text_array(values.values)


def set_ids(message: values_pb2.Ids, ids: NDArray[Any]) -> None:
    """Fills ids: an int64 array, or an object array of texts."""
    if ids.dtype == object:
        message.strings.values.extend(ids.tolist())
        message.strings.SetInParent()
    else:
        message.int64s.SetInParent()
        message.int64s.MergeFromString(packed(1, np.ascontiguousarray(ids, dtype="<i8")))


def get_ids(message: values_pb2.Ids) -> tuple[str, NDArray[Any]]:
    """The ids' type name (`"int64"` or `"string"`) and the ids `(n,)`.

    Raises:
        ValueError: no ids are set.
    """
    field = message.WhichOneof("values")
    if field is None:
        raise ValueError("no ids")
    if field == "int64s":
        return "int64", np.asarray(message.int64s.values, dtype=np.int64)
    return "string", text_array(message.strings.values)
