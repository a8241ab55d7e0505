"""The label table: its times and keys as the feature store has them. Every row is kept, also those without features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurestore.datasets.spec import ConfidenceColumn, InferredLabels, LabelTable
from featurestore.online.keys import stored_text
from featurestore.publication import PublishedView
from governance.errors import ColumnMissing, ColumnTypeError, InputMissing, NullValue

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["label_keys", "label_times", "one_array", "read_labels", "times_of"]


def read_labels(labels: LabelTable) -> pa.Table:
    """Reads the label table.

    Raises:
        InputMissing: it is not there, or neither parquet nor CSV.
        ColumnMissing: it lacks the time, a label or the confidence.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    path = labels.path
    try:
        table = pa.csv.read_csv(path) if path.suffix.lower() == ".csv" else pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputMissing(
            f"{path}: not there, or neither parquet nor CSV ({type(error).__name__}); name a file of labels"
        ) from None
    source = labels.source
    needed = [labels.timestamp, *labels.labels]
    if isinstance(source, InferredLabels) and isinstance(source.confidence, ConfidenceColumn):
        needed.append(source.confidence.name)
    for name in needed:
        _check_column(labels, table, name)
    return table


def _check_column(labels: LabelTable, table: pa.Table, name: str) -> None:
    if name not in table.column_names:
        raise ColumnMissing(str(labels.path), name, tuple(table.column_names))


def label_times(labels: LabelTable, table: pa.Table) -> NDArray[np.int64]:
    """The times of the label rows in microseconds since 1970 UTC, `(n,)`; see `times_of`."""
    return times_of(table[labels.timestamp], str(labels.path), labels.timestamp)


def times_of(column: Any, table: str, name: str) -> NDArray[np.int64]:
    """A column of times in microseconds since 1970 UTC.

    Raises:
        ColumnTypeError: it has no times.
        NullValue: there are nulls among them.
    """
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise ColumnTypeError(table, name, str(kind), "timestamp, date")
    if column.null_count:
        raise NullValue(table, name, "time")
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    # Nanoseconds are cut: a value known within the same microsecond counts as known.
    instants = column.cast(pa.timestamp("us", zone), safe=False)
    times: NDArray[np.int64] = instants.cast(pa.int64()).to_numpy().astype(np.int64)
    return times


def label_keys(labels: LabelTable, table: pa.Table, view: PublishedView) -> list[Any]:
    """The label table's keys as the feature store holds them: one Arrow array for each of the view's.

    Raises:
        ColumnMissing: a key is not there.
        ColumnTypeError: one is of another type.
    """
    import pyarrow as pa

    keys = []
    for key in view.keys:
        _check_column(labels, table, key.name)
        column = one_array(table[key.name])
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        try:
            if key.type == "int64":
                column = _whole(column)
            elif key.type in ("string", "date"):
                column = _text(column, dates=key.type == "date")
            else:
                column = pa.array([None if v is None else stored_text(v) for v in column.to_pylist()], pa.string())
        except (pa.ArrowException, TypeError, ValueError):
            raise ColumnTypeError(
                str(labels.path),
                key.name,
                str(table[key.name].type),
                f"{key.type}, as in {view.name}",
            ) from None
        keys.append(column)
    return keys


def _whole(column: Any) -> Any:
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        raise TypeError
    return column.cast(pa.int64())


def _text(column: Any, *, dates: bool) -> Any:
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) and not (
        dates and pa.types.is_date32(column.type)
    ):
        raise TypeError
    return column.cast(pa.string())


def one_array(column: Any) -> Any:
    """A column as one array."""
    import pyarrow as pa

    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
