"""Entity keys as bytes: short, unambiguous, and the same whether a key comes as columns or from Feast.

A key is its values in the order of the join keys' names, each a kind byte and the value: `i` and 8 bytes (big-endian)
for integers, `s` or `b`, a u32 length (big-endian) and the content for text and bytes. Join key names are not repeated
in every row: they belong to the view, and each view has a table of its own.

Feast has no dates, booleans or floats as join keys, so these are text there and here: ISO 8601, `true`/`false`, and
Python's shortest notation that reads back to the same float.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np

from featurestore.publication import KeyField, PublishedView
from governance.errors import RequestInvalid

__all__ = ["encode_columns", "encode_value", "feast_keys"]

Stored = int | str
"""What Feast holds for one key value."""


def encode_value(value: int | str | bytes) -> bytes:
    """One value with its kind byte.

    Raises:
        OverflowError: an integer outside 64 bits.
    """
    if isinstance(value, int):
        return b"i" + value.to_bytes(8, "big", signed=True)
    data = value.encode() if isinstance(value, str) else value
    return (b"s" if isinstance(value, str) else b"b") + len(data).to_bytes(4, "big") + data


def encode_columns(columns: Mapping[str, Sequence[Stored]]) -> list[bytes]:
    """Keys of n rows, from one column per join key with the values that Feast would hold."""
    encoded = [_encode_column(columns[name]) for name in sorted(columns)]
    return encoded[0] if len(encoded) == 1 else list(map(b"".join, zip(*encoded, strict=True)))


def feast_keys(view: PublishedView, keys: Mapping[str, Sequence[Any]]) -> dict[str, list[Stored]]:
    """Checks a request's key columns and turns them into the values that Feast holds.

    Raises:
        RequestInvalid: a column is missing, unknown, of another length, or has a value of another type.
    """
    expected = [field.name for field in view.keys]
    if set(keys) != set(expected):
        raise RequestInvalid(
            f"{view.name}: found key columns {', '.join(sorted(keys)) or 'none'}; needed: {', '.join(expected)}"
        )
    if len({len(column) for column in keys.values()}) > 1:
        raise RequestInvalid(f"{view.name}: key columns differ in length; give one value per row in each")
    return {field.name: _stored_column(view, field, keys[field.name]) for field in view.keys}


def stored_text(value: object) -> str:
    """A date, boolean or float as the text that stands for it in a key.

    Raises:
        ValueError: NaN or infinite.
        TypeError: another type.
    """
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, datetime):
        raise TypeError("a time is not a date")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float | np.integer | np.floating):
        number = float(value) + 0.0  # -0.0 is 0.0
        if not math.isfinite(number):
            raise ValueError("not finite")
        return repr(number)
    raise TypeError(type(value).__name__)


def _encode_column(values: Sequence[Stored]) -> list[bytes]:
    if values and isinstance(values[0], int):
        packed = np.zeros(len(values), [("kind", "S1"), ("value", ">i8")])
        packed["kind"] = b"i"
        packed["value"] = values
        data = packed.tobytes()
        return [data[at : at + 9] for at in range(0, len(data), 9)]
    return [encode_value(value) for value in values]


def _stored_column(view: PublishedView, field: KeyField, column: Any) -> list[Stored]:
    plain = isinstance(column, np.ndarray) and column.dtype.kind in "iufbUO"
    convert = _STORED[field.type]
    try:
        return [convert(value) for value in (column.tolist() if plain else column)]
    except (TypeError, ValueError, OverflowError):
        raise RequestInvalid(
            f"{view.name}: key column {field.name!r} has values that are not {field.type}; send {field.type} values"
        ) from None


def _int(value: Any) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError
    if not -(1 << 63) <= value < 1 << 63:
        raise OverflowError
    return int(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # lone surrogates are not text
    return str(value)


def _date(value: Any) -> str:
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            raise ValueError
        value = value.astype("M8[D]").item()
    return date.fromisoformat(value).isoformat() if isinstance(value, str) else _of(date, value)


def _float(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        raise TypeError
    return _of((int, float, np.integer, np.floating), value)


def _bool(value: Any) -> str:
    return _of((bool, np.bool_), value)


def _of(kinds: type | tuple[type, ...], value: Any) -> str:
    if not isinstance(value, kinds):
        raise TypeError
    return stored_text(value)


_STORED: Mapping[str, Callable[[Any], Stored]] = {
    "int64": _int,
    "string": _str,
    "date": _date,
    "float64": _float,
    "bool": _bool,
}
