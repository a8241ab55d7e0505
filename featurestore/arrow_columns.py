"""Arrow columns as packed columns: buffers change hands, values are not visited."""

from __future__ import annotations

from typing import Any

import numpy as np

from featurestore.rows import Column, KeyColumn, Texts

__all__ = ["key_column", "packed_column", "single_array", "texts_of"]


def key_column(column: Any) -> KeyColumn:
    """A join key's values: int64 or text, without nulls."""
    import pyarrow as pa

    keys: KeyColumn = column.to_numpy() if column.type == pa.int64() else texts_of(column)
    return keys


def packed_column(column: Any) -> Column:
    """A column of any type of `featurestore.column_types`, or of one that is packed as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = np.asarray(column.is_null().to_numpy(), bool)
    kind = column.type
    values: Any
    if pa.types.is_fixed_size_list(kind):
        array = single_array(column)
        width = kind.list_size
        values = array.values.slice(array.offset * width, len(array) * width).to_numpy(zero_copy_only=False)
        values = values.reshape(len(array), width)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        values = texts_of(column)
    else:
        if pa.types.is_date32(kind):
            column = column.cast(pa.int32())
        elif pa.types.is_timestamp(kind):
            column = column.cast(pa.int64())
        values = pc.fill_null(column, pa.scalar(0).cast(column.type)).to_numpy()
    return Column(values=values, nulls=nulls)


def texts_of(column: Any) -> Texts:
    """A column of texts or bytes; what is null is empty."""
    import pyarrow as pa

    array = single_array(column.cast(pa.large_binary()))
    _, offset_buffer, data_buffer = array.buffers()
    if not len(array):
        return Texts.empty(0)
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    return Texts(data=data[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])


def single_array(column: Any) -> Any:
    """A column's values as one array."""
    import pyarrow as pa

    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
