"""An Arrow table of a Feast view as packed rows, where Arrow holds the values as they are packed.

What comes out is what Feast's way (a protobuf for every value) gives: NaN is null, times without a zone are UTC. Where
that cannot be had without looking at single values, nothing comes out and Feast's way is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from feast.feature_view import FeatureView

from featurestore.arrow_columns import key_column, packed_column, single_array
from featurestore.online.feast_values import KINDS
from featurestore.rows import Column, Kind, PackedRows, RowField, RowSchema, Texts, key_bytes, pack

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["packed_table"]

_UNITS: Final = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
"""Unit of Arrow's timestamps → microseconds in it, as a fraction."""


def packed_table(view: FeatureView, table: pa.Table) -> tuple[RowSchema, Texts, PackedRows] | None:
    """The schema, keys and packed rows of a table; None where it takes more than moving columns."""
    import pyarrow as pa

    keys = {}
    for entity in view.entity_columns:
        column = _column(table, entity.name)
        if column is None or column.null_count or column.type not in (pa.int64(), pa.int32(), pa.string()):
            return None
        keys[entity.name] = key_column(column.cast(pa.int64()) if column.type == pa.int32() else column)
    fields, columns = [], {}
    for feature in view.features:
        kind = KINDS.get(feature.dtype.to_value_type())
        column = _column(table, feature.name)
        packed = None if kind is None or column is None else _packed(kind, column)
        if packed is None or kind is None:
            return None
        fields.append(RowField(name=feature.name, kind=kind))
        columns[feature.name] = packed
    source = view.batch_source
    times = None if source is None else _column(table, source.timestamp_field)
    if not keys or times is None or times.null_count or not pa.types.is_timestamp(times.type):
        return None
    whole, parts = _UNITS[times.type.unit]
    microseconds = times.cast(pa.int64()).to_numpy() * whole // parts
    schema = RowSchema(fields=tuple(fields))
    return schema, key_bytes(keys), pack(schema, columns, event_times=microseconds)


def _column(table: pa.Table, name: str) -> Any:
    return table[name] if name in table.column_names else None


def _packed(kind: Kind, column: Any) -> Column | None:
    """A column, if its Arrow type is that kind's own, or floats of double width, which Feast rounds too."""
    import pyarrow as pa

    own = {
        Kind.INT64: pa.int64(),
        Kind.INT32: pa.int32(),
        Kind.FLOAT64: pa.float64(),
        Kind.FLOAT32: pa.float32(),
        Kind.BOOL: pa.bool_(),
        Kind.STRING: pa.string(),
        Kind.BYTES: pa.binary(),
    }
    if kind is Kind.FLOAT32S:
        return _lists(column)
    if kind is Kind.FLOAT32 and column.type == pa.float64():
        column = column.cast(pa.float32())
    if column.type != own.get(kind):
        return None
    packed = packed_column(column)
    if kind is Kind.BYTES and isinstance(packed.values, Texts) and (packed.values.lengths[~packed.nulls] == 0).any():
        return None  # Feast takes no bytes for null
    if kind in (Kind.FLOAT64, Kind.FLOAT32):
        assert not isinstance(packed.values, Texts), "numbers"
        return Column(values=packed.values, nulls=packed.nulls | np.isnan(packed.values))
    return packed


def _lists(column: Any) -> Column | None:
    """Lists of float32 as their bytes."""
    import pyarrow as pa

    if column.type == pa.list_(pa.float64()):
        column = column.cast(pa.list_(pa.float32()))
    if column.type != pa.list_(pa.float32()):
        return None
    array = single_array(column)
    values = array.values
    if values.null_count:
        return None
    nulls = np.asarray(array.is_null().to_numpy(zero_copy_only=False), bool)
    offsets = array.offsets.to_numpy().astype(np.int64)
    data = values.to_numpy().astype("<f4", copy=False)[offsets[0] : offsets[-1]]
    texts = Texts(data=np.ascontiguousarray(data).view(np.uint8), offsets=(offsets - offsets[0]) * 4)
    return Column(values=texts, nulls=nulls)
