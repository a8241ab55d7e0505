"""The label table: its times and keys as the feature store has them. Every row is kept, also those without features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.datasets.spec import ConfidenceColumn, InferredLabels, LabelTable
from featurestore.online.keys import stored_text
from featurestore.publication import PublishedView
from governance.canonical import canonical_bytes, sha256_hex
from governance.errors import ColumnMissing, ColumnTypeError, DatasetError, InputMissing, NullValue

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LabelFiles", "label_keys", "label_times", "one_array", "open_labels", "times_of"]

_ROWS_IN_A_CHUNK: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFiles:
    """The label table as files, cut into chunks that are read one at a time.

    Attributes:
        labels: what it is of.
        files: in the order of the rows.
        chunks: file and row groups of each chunk, of up to a million rows where row groups allow it; no row groups: all
            of the file.
        rows: how many each chunk has.
        schema: of every file.
    """

    labels: LabelTable
    files: tuple[Path, ...]
    chunks: tuple[tuple[Path, tuple[int, ...]], ...]
    rows: tuple[int, ...]
    schema: pa.Schema

    def read(self, chunk: int, columns: Sequence[str] | None = None) -> pa.Table:
        """A chunk's rows.

        Raises:
            InputMissing: it cannot be read any more.
        """
        path, groups = self.chunks[chunk]
        return _read(path, groups, columns)

    def digest(self, digests: Sequence[str]) -> str:
        """What names the content of the table, from the SHA-256 of each file: that of the only one, or of all."""
        if self.files == (self.labels.path,):
            return digests[0]
        names = [file.relative_to(self.labels.path).as_posix() for file in self.files]
        return sha256_hex(canonical_bytes(list(map(list, zip(names, digests, strict=True)))))


def open_labels(labels: LabelTable) -> LabelFiles:
    """Finds the label table's files and checks its columns; of parquet, only footers are read.

    Raises:
        InputMissing: it is not there, or neither parquet nor CSV.
        ColumnMissing: it lacks the time, a label or the confidence.
        DatasetError: its files differ in their columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = labels.path
    if path.suffix.lower() == ".csv":
        table = _read(path, (), None)
        found = LabelFiles(labels=labels, files=(path,), chunks=((path, ()),), rows=(len(table),), schema=table.schema)
    else:
        files = tuple(sorted(path.rglob("*.parquet"))) if path.is_dir() else (path,)
        chunks: list[tuple[Path, tuple[int, ...]]] = []
        rows: list[int] = []
        schema: pa.Schema | None = None
        try:
            for file in files:
                with pq.ParquetFile(file) as opened:
                    own = opened.schema_arrow.remove_metadata()
                    sizes = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
                if schema is not None and own != schema:
                    raise DatasetError(f"{file}: has other columns or types than {files[0]}; write all alike")
                schema = own
                for groups in _grouped(sizes):
                    chunks.append((file, groups))
                    rows.append(sum(sizes[group] for group in groups))
        except (OSError, pa.ArrowException) as error:
            raise _missing(path, error) from None
        if schema is None:
            raise InputMissing(f"{path}: a folder without parquet files; name a file of labels, or a folder of them")
        found = LabelFiles(labels=labels, files=files, chunks=tuple(chunks), rows=tuple(rows), schema=schema)
    source = labels.source
    needed = [labels.timestamp, *labels.labels]
    if isinstance(source, InferredLabels) and isinstance(source.confidence, ConfidenceColumn):
        needed.append(source.confidence.name)
    for name in needed:
        _check_column(labels, found.schema.names, name)
    return found


def _grouped(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """A file's row groups, as many together as make a chunk; one chunk at least."""
    groups: list[int] = []
    for group, size in enumerate(sizes):
        if groups and sum(sizes[i] for i in groups) + size > _ROWS_IN_A_CHUNK:
            yield tuple(groups)
            groups = []
        groups.append(group)
    yield tuple(groups)


def _read(path: Path, groups: Sequence[int], columns: Sequence[str] | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".csv":
            table = pa.csv.read_csv(path)
            return table if columns is None else table.select(list(columns))
        with pq.ParquetFile(path) as opened:
            names = None if columns is None else list(columns)
            return opened.read_row_groups(list(groups), columns=names).replace_schema_metadata(None)
    except (OSError, pa.ArrowException) as error:
        raise _missing(path, error) from None


def _missing(path: Path, error: Exception) -> InputMissing:
    return InputMissing(
        f"{path}: not there, or neither parquet nor CSV ({type(error).__name__}); name a file of labels"
    )


def _check_column(labels: LabelTable, names: Sequence[str], name: str) -> None:
    if name not in names:
        raise ColumnMissing(str(labels.path), name, tuple(names))


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
        _check_column(labels, table.column_names, key.name)
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
