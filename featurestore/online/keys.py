"""Entity keys: the values that Feast holds for them, and checking those of a request.

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
from featurestore.rows import KeyColumn, Texts, text_keys
from governance.errors import RequestInvalid

__all__ = ["encode_value", "key_columns", "stored_text"]


def encode_value(value: int | str | bytes) -> bytes:
    """One key value with its kind byte, as `featurestore.rows.key_bytes` has it.

    Raises:
        OverflowError: an integer outside 64 bits.
    """
    if isinstance(value, int):
        return b"i" + value.to_bytes(8, "big", signed=True)
    data = value.encode() if isinstance(value, str) else value
    return (b"s" if isinstance(value, str) else b"b") + len(data).to_bytes(4, "big") + data


def key_columns(view: PublishedView, keys: Mapping[str, Sequence[Any]]) -> dict[str, KeyColumn]:
    """Checks a request's key columns and turns them into the values that Feast holds.

    Integers as int64 arrays and texts as `Texts` are taken as they are; both are the fast way.

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


def _stored_column(view: PublishedView, field: KeyField, column: Any) -> KeyColumn:
    try:
        if field.type == "int64":
            return _integers(column)
        if field.type == "string":
            return column if isinstance(column, Texts) else text_keys(_plain(column))
        convert = _TEXT[field.type]
        return text_keys([convert(value) for value in _plain(column)])
    except (TypeError, ValueError, OverflowError):
        raise RequestInvalid(
            f"{view.name}: key column {field.name!r} has values that are not {field.type}; send {field.type} values"
        ) from None


def _integers(column: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    if isinstance(column, np.ndarray) and column.dtype.kind in "iu" and column.dtype != np.uint64:
        return column.astype(np.int64, copy=False)
    values = _plain(column)
    if any(isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) for value in values):
        raise TypeError
    return np.array([int(value) for value in values], np.int64)


def _plain(column: Any) -> Sequence[Any]:
    """A column's values as Python objects, where numpy has such objects for them."""
    if isinstance(column, Texts):
        raise TypeError
    plain = isinstance(column, np.ndarray) and column.dtype.kind in "iufbUO"
    values: Sequence[Any] = column.tolist() if plain else column
    return values


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


_TEXT: Mapping[str, Callable[[Any], str]] = {"date": _date, "float64": _float, "bool": _bool}
