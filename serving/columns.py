"""Numpy arrays in and out of messages, by copying memory.

Packed, fixed-width repeated fields are little-endian runs on the wire (see `serving.wire`), so a run is written by
merging its wire form and read back as one array; nothing in Python visits single values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.v1 import features_pb2, values_pb2
from serving.wire import delimited, header, packed, run, uint

__all__ = [
    "FIELDS",
    "KINDS",
    "WIDTHS",
    "bitmap",
    "column_length",
    "encode_ids",
    "get_column",
    "get_ids",
    "run_array",
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

FIELDS: Final = {kind: field for field, kind in KINDS.items()}
"""The inverse of `KINDS`."""

WIDTHS: Final = {
    "int64": "<i8",
    "float64": "<f8",
    "float32": "<f4",
    "bool": "?",
    "date": "<i4",
    "timestamp": "<i8",
    "vector": "<f4",
}
"""Type's name → numpy dtype of its run on the wire; texts and byte strings have none."""


_DTYPES: Final = {kind: np.dtype(name) for kind, name in WIDTHS.items()}


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


def run_array(kind: str, array: NDArray[Any]) -> NDArray[Any]:
    """An array as its run on the wire: contiguous, little-endian, of the type's width; NaT counts as day or instant 0.

    Args:
        kind: a key of `WIDTHS`.
        array: `(n,)`, or `(n, d)` for vectors.
    """
    dtype = _DTYPES[kind]
    if array.dtype is dtype and array.flags.c_contiguous:
        return array
    if array.dtype.kind == "M":
        instants = array.astype("M8[D]" if kind == "date" else "M8[us]")
        array = np.where(np.isnat(instants), 0, instants.view(np.int64))
    return np.ascontiguousarray(array, dtype=dtype)


def set_column(column: Column, kind: str, array: NDArray[Any]) -> None:
    """Fills a column's values.

    Args:
        column: its `values` are not set yet.
        kind: one of `KINDS`'s values.
        array: `(n,)`, or `(n, d)` for vectors; NaT counts as day or instant 0.
    """
    values = getattr(column, FIELDS[kind])
    values.SetInParent()
    if kind == "vector":
        values.dimension = array.shape[1]
        values.MergeFromString(packed(2, run_array(kind, array)))
    elif kind in WIDTHS:
        values.MergeFromString(packed(1, run_array(kind, array)))
    else:
        values.values.extend(array.tolist())


def column_length(column: features_pb2.KeyColumn) -> int:
    """How many values a key column has; 0 where none are set."""
    field = column.WhichOneof("values")
    return len(getattr(getattr(column, field), _RUNS.get(field, "values"))) if field is not None else 0


def get_column(column: Column) -> tuple[str, NDArray[Any]]:
    """A column's type name and its values `(n,)`, or `(n, d)` for vectors; texts come as an object array.

    Numbers may come as a read-only view.

    Raises:
        ValueError: no values are set, or a run of vectors that is not whole.
    """
    field = column.WhichOneof("values")
    if field is None:
        raise ValueError("no values")
    values, kind = getattr(column, field), KINDS[field]
    if kind not in WIDTHS:
        return kind, text_array(values.values)
    if kind == "vector":
        flat = run(
            values.SerializeToString(),
            uint(1, values.dimension) + header(2, 4 * len(values.values)),
            values.values,
            WIDTHS[kind],
        )
        if not values.dimension or flat.size % values.dimension:
            raise ValueError("vectors that are not whole")
        return kind, flat.reshape(-1, values.dimension)
    repeated = getattr(values, _RUNS.get(field, "values"))
    numbers = _only_run(values, repeated, WIDTHS[kind])
    if kind == "date":
        return kind, numbers.astype(np.int64).astype("M8[D]")
    return kind, numbers.astype("M8[us]") if kind == "timestamp" else numbers


def set_ids(message: values_pb2.Ids, ids: NDArray[Any]) -> None:
    """Fills ids: an int64 array, or an object array of texts."""
    message.MergeFromString(encode_ids(ids))


def encode_ids(ids: NDArray[Any]) -> bytes:
    """The wire form of `Ids`: of an int64 array, or of an object array of texts."""
    if ids.dtype == object:
        return delimited(2, values_pb2.StringValues(values=ids.tolist()).SerializeToString())
    return delimited(1, packed(1, np.ascontiguousarray(ids, dtype="<i8")))


def get_ids(message: values_pb2.Ids) -> tuple[str, NDArray[Any]]:
    """The ids' type name (`"int64"` or `"string"`) and the ids `(n,)`, which may be a read-only view.

    Raises:
        ValueError: no ids are set.
    """
    field = message.WhichOneof("values")
    if field is None:
        raise ValueError("no ids")
    if field == "int64s":
        return "int64", _only_run(message.int64s, message.int64s.values, "<i8")
    return "string", text_array(message.strings.values)


_RUNS: Final = {"dates": "days", "timestamps": "microseconds"}
"""Where a run is not called `values`."""


def _only_run(message: Any, values: Sequence[Any], dtype: str) -> NDArray[Any]:
    """The run of a message that has no other field."""
    return run(message.SerializeToString(), header(1, len(values) * np.dtype(dtype).itemsize), values, dtype)
