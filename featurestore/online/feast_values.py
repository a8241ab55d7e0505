"""Packed columns from and to Feast's protobuf values: the one place where Feast makes Python visit single values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import FloatList, Value
from feast.value_type import ValueType
from numpy.typing import NDArray

from featurestore.online.keys import encode_value
from featurestore.rows import Column, Kind, RowField, Rows, Texts

__all__ = ["KINDS", "column_of", "entity_key_bytes", "microseconds_of", "value_columns"]

KINDS: Final = {
    ValueType.INT64: Kind.INT64,
    ValueType.INT32: Kind.INT32,
    ValueType.DOUBLE: Kind.FLOAT64,
    ValueType.FLOAT: Kind.FLOAT32,
    ValueType.BOOL: Kind.BOOL,
    ValueType.UNIX_TIMESTAMP: Kind.SECONDS,
    ValueType.STRING: Kind.STRING,
    ValueType.BYTES: Kind.BYTES,
    ValueType.FLOAT_LIST: Kind.FLOAT32S,
}
"""Feast's type → how it is packed; every other type is kept as a serialised `Value`."""

_MEMBERS: Final = {
    Kind.INT64: "int64_val",
    Kind.INT32: "int32_val",
    Kind.FLOAT64: "double_val",
    Kind.FLOAT32: "float_val",
    Kind.BOOL: "bool_val",
    Kind.SECONDS: "unix_timestamp_val",
    Kind.STRING: "string_val",
    Kind.BYTES: "bytes_val",
    Kind.FLOAT32S: "float_list_val",
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def entity_key_bytes(entity_keys: Sequence[EntityKey]) -> Texts:
    """The keys as `featurestore.rows.key_bytes` has them."""
    return Texts.of([_key_bytes(key) for key in entity_keys])


def microseconds_of(timestamp: datetime) -> int:
    """Since 1970 UTC; a naive time is UTC."""
    aware = timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp
    return (aware - _EPOCH) // timedelta(microseconds=1)


def column_of(values: Sequence[Value | None], kind: Kind | None) -> tuple[Kind, Column]:
    """A packed column, and its kind: `VALUE` where a value is not of the declared kind, or the type has none."""
    members = [None if value is None else value.WhichOneof("val") for value in values]
    nulls = np.array([member in (None, "null_val") for member in members], bool)
    if kind is None or not {*members} <= {None, "null_val", _MEMBERS[kind]}:
        return Kind.VALUE, Column(
            values=Texts.of([b"" if value is None else value.SerializeToString() for value in values]), nulls=nulls
        )
    member = _MEMBERS[kind]
    empty = Value()
    plain = [getattr(empty if value is None else value, member) for value in values]
    if kind is Kind.STRING:
        return kind, Column(values=Texts.encoded(plain), nulls=nulls)
    if kind is Kind.BYTES:
        return kind, Column(values=Texts.of(plain), nulls=nulls)
    if kind is Kind.FLOAT32S:
        return kind, Column(values=Texts.of([np.array(value.val, "<f4").tobytes() for value in plain]), nulls=nulls)
    return kind, Column(values=np.array(plain, kind.dtype), nulls=nulls)


def value_columns(rows: Rows, names: tuple[str, ...]) -> list[list[Value]]:
    """Columns of packed rows as Feast's values; what is null, or unknown to the rows' schema, is an empty one."""
    columns, nulls = rows.values(names), rows.nulls(names)
    answer = []
    for name, null in zip(names, nulls.tolist(), strict=True):
        if name in columns:
            values = _values(rows.schema.by_name[name], columns[name])
            answer.append([Value() if gone else value for value, gone in zip(values, null, strict=True)])
        else:
            answer.append([Value()] * len(rows))
    return answer


def _key_bytes(key: EntityKey) -> bytes:
    pairs = sorted(zip(key.join_keys, key.entity_values, strict=True), key=lambda pair: pair[0])
    return b"".join(encode_value(getattr(value, value.WhichOneof("val"))) for _, value in pairs)


def _values(field: RowField, column: NDArray[Any] | Texts) -> Iterator[Value]:
    kind = field.kind
    if isinstance(column, Texts):
        if kind is Kind.VALUE:
            return map(Value.FromString, column.tolist())
        if kind is Kind.FLOAT32S:
            lists = (np.frombuffer(value, "<f4").tolist() for value in column.tolist())
            return (Value(float_list_val=FloatList(val=value)) for value in lists)
        if kind is Kind.STRING:
            return (Value(string_val=value) for value in column.strings())
        return (Value(bytes_val=value) for value in column.tolist())
    if field.dimension is not None:
        return (Value(float_list_val=FloatList(val=vector)) for vector in column.tolist())
    if kind is Kind.DATE:
        return (Value(string_val=str(day)) for day in column.astype("M8[D]"))
    if kind is Kind.TIMESTAMP:
        return (Value(unix_timestamp_val=instant // 1_000_000) for instant in column.tolist())
    member = _MEMBERS[kind]
    return (Value(**{member: value}) for value in column.tolist())
