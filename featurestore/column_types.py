"""The types of released columns, and what each is in a packed row, in Arrow and in Feast.

| type                 | packed row       | Arrow              | Feast            |
|----------------------|------------------|--------------------|------------------|
| `int64`              | int64            | int64              | Int64            |
| `float64`, `float32` | the same         | double, float      | Float64, Float32 |
| `bool`               | bool             | bool               | Bool             |
| `string`, `bytes`    | text             | string, binary     | String, Bytes    |
| `date`               | days since 1970  | date32             | String, ISO 8601 |
| `timestamp`          | microseconds     | timestamp[us, UTC] | UnixTimestamp    |
| `vector<float32>[d]` | d × float32      | list of float      | Array(Float32)   |

Keys are `int64`, `string`, `date`, `float64` or `bool`; Feast has no join keys of the last three, so they are text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from featurestore.rows import Kind, RowField

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FEATURE_TYPES", "KEY_TYPES", "arrow_type", "feast_type", "is_feature_type", "row_field"]

KEY_TYPES: Final = ("int64", "string", "float64", "date", "bool")
FEATURE_TYPES: Final = (*KEY_TYPES, "float32", "timestamp", "bytes", "vector<float32>[d]")

_VECTOR: Final = re.compile(r"vector<float32>\[([1-9]\d{0,4})\]")
_FEAST: Final = {
    "int64": "Int64",
    "float64": "Float64",
    "float32": "Float32",
    "string": "String",
    "date": "String",
    "bool": "Bool",
    "timestamp": "UnixTimestamp",
    "bytes": "Bytes",
}


def is_feature_type(kind: str) -> bool:
    """Whether a feature may have this type."""
    return kind in _FEAST or _VECTOR.fullmatch(kind) is not None


@lru_cache(maxsize=4096)
def row_field(name: str, kind: str) -> RowField:
    """The field of a packed row for a feature of this type."""
    vector = _VECTOR.fullmatch(kind)
    if vector:
        return RowField(name=name, kind=Kind.FLOAT32, dimension=int(vector[1]))
    return RowField(name=name, kind=Kind(kind))


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type of a released column."""
    import pyarrow as pa

    vector = _VECTOR.fullmatch(kind)
    if vector:
        return pa.list_(pa.float32(), int(vector[1]))
    types: dict[str, pa.DataType] = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "float32": pa.float32(),
        "string": pa.string(),
        "date": pa.date32(),
        "bool": pa.bool_(),
        "timestamp": pa.timestamp("us", "UTC"),
        "bytes": pa.binary(),
    }
    return types[kind]


def feast_type(kind: str) -> tuple[str, ...]:
    """Names in `feast.types`, outermost first: `("Array", "Float32")` is `Array(Float32)`."""
    return ("Array", "Float32") if _VECTOR.fullmatch(kind) else (_FEAST[kind],)
