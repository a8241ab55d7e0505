"""The two halves of `hedgerow ingest` that touch rows: functions that a worker process runs, one task at a time.

    split   reads some row groups and writes their rows, bucket by bucket, to runs in the staging folder
    lay     reads one bucket's runs, sorts them and writes the bucket's parquet files of this batch

Neither ever holds more than a few million rows. Rows go from file to file; what comes back to the process that called
tells where they lie.

Within a file rows are sorted by (span of time, person, time), and a row group never crosses a span: its statistics
then let a run over a short window pass over row groups of other spans. lz4, because it is read in every run: a million
rows of (person, item, value) come in 17 ms against 33 ms of zstd, which is a fifth smaller (docs/adr/0013).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.hashing import dense_codes
from pipelines.engine.layout import Layout, LayoutFile
from pipelines.engine.rows import plain, ticks_of
from pipelines.engine.sums import int_column

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    import pyarrow as pa

__all__ = ["Batch", "Laid", "Piece", "Run", "Told", "lay", "live_with_the_parent", "split"]

_CHUNK = 500_000
_ROWS_BEFORE_FLUSH = 2_000_000
_BYTES_BEFORE_FLUSH = 256 * 2**20
_ROWS_PER_FILE = 4_000_000
_ROW_GROUP = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is laid out, and how. Travels to the workers.

    Attributes:
        name: the batch's id.
        layout: the table's.
        time: the column with the event time.
        columns: the table's columns, in order.
        span: seconds of the spans that row groups keep to; 0: one span for everything.
        staging: a folder for runs and unpublished files.
    """

    name: str
    layout: Layout
    time: str
    columns: tuple[str, ...]
    span: int
    staging: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A row group of a source file."""

    file: str
    group: int
    rows: int


@dataclass(frozen=True, slots=True)
class Run:
    """Rows of one bucket: a record batch in a file of the staging folder."""

    bucket: int
    file: str
    index: int
    rows: int


@dataclass(frozen=True, slots=True)
class Told:
    """What is wrong with a source file; no row or count goes with it."""

    file: str
    what: str
    column: str = ""


@dataclass(frozen=True, slots=True)
class Laid:
    """One finished file, still in the staging folder."""

    staged: str
    file: LayoutFile


def live_with_the_parent() -> None:
    """For workers: Ctrl-C reaches every process of a terminal, but the parent alone decides what it means.

    A parent that is killed takes its workers with it: they would wait for work for ever, or write on where the next
    run begins.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def split(task: int, pieces: tuple[Piece, ...], batch: Batch) -> list[Run] | Told:
    """Reads row groups and writes their rows to runs.

    Returns:
        The runs; or what is wrong: `null` in the person or time column, or `unreadable`.
    """
    import pyarrow as pa

    runs: list[Run] = []
    pending: dict[int, list[pa.Table]] = {}
    rows = size = 0
    for piece in pieces:
        try:
            for table in _chunks(piece, batch):
                for column in (batch.layout.person, batch.time):
                    if table.column(column).null_count:
                        return Told(piece.file, "null", column)
                _deal(table, batch, pending)
                rows, size = rows + table.num_rows, size + table.nbytes
                if rows >= _ROWS_BEFORE_FLUSH or size >= _BYTES_BEFORE_FLUSH:
                    runs += _written(pending, f"{batch.staging}/runs-{task}-{len(runs)}")
                    rows = size = 0
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return Told(piece.file, "unreadable")
        except OSError as error:
            if error.errno:  # the disk's; Arrow raises the same, without a number, for pages that do not parse
                raise
            return Told(piece.file, "unreadable")
    return runs + _written(pending, f"{batch.staging}/runs-{task}-{len(runs)}")


def _chunks(piece: Piece, batch: Batch) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(piece.file, memory_map=True) as file:
        columns = list(batch.columns)
        for rows in file.iter_batches(_CHUNK, row_groups=[piece.group], columns=columns, use_threads=False):
            table = pa.Table.from_batches([rows]).select(columns)
            for index, field in enumerate(table.schema):
                if pa.types.is_dictionary(field.type):  # an Arrow file holds one dictionary for all of its batches
                    decoded: Any = table.column(index).cast(field.type.value_type)
                    table = table.set_column(index, field.name, decoded)
            yield table.replace_schema_metadata(None)


def _deal(table: pa.Table, batch: Batch, pending: dict[int, list[pa.Table]]) -> None:
    """Splits rows by the bucket of their person."""
    if not table.num_rows:
        return
    buckets = batch.layout.buckets_for(plain(table.column(batch.layout.person)))
    codes = buckets.astype(np.uint16) if batch.layout.buckets < 2**16 else buckets
    order = np.argsort(codes, kind="stable")
    edges = np.searchsorted(codes[order], np.arange(batch.layout.buckets + 1))
    ordered = table.take(int_column(order))
    for bucket in np.flatnonzero(np.diff(edges)).tolist():
        start, stop = int(edges[bucket]), int(edges[bucket + 1])
        pending.setdefault(bucket, []).append(ordered.slice(start, stop - start))


def _written(pending: dict[int, list[pa.Table]], path: str) -> list[Run]:
    """Writes what is pending to one file, a record batch for each bucket, and forgets it."""
    import pyarrow as pa

    runs: list[Run] = []
    if not pending:
        return runs
    schema = next(iter(pending.values()))[0].schema
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        for bucket, tables in sorted(pending.items()):
            for part in pa.concat_tables(tables).combine_chunks().to_batches():
                file.write_batch(part)
                runs.append(Run(bucket, path, len(runs), part.num_rows))
    pending.clear()
    return runs


def lay(bucket: int, runs: tuple[Run, ...], batch: Batch) -> list[Laid]:
    """Sorts a bucket's rows and writes them, durably, to parquet files in the staging folder."""
    laid: list[Laid] = []
    held: list[pa.Table] = []
    rows = 0
    for run in runs:
        held.append(_read(run))
        rows += run.rows
        if rows >= _ROWS_PER_FILE:
            laid.append(_file(held, bucket, len(laid), batch))
            held, rows = [], 0
    if held:
        laid.append(_file(held, bucket, len(laid), batch))
    return laid


def _read(run: Run) -> pa.Table:
    import pyarrow as pa

    with pa.memory_map(run.file) as source, pa.ipc.open_file(source) as file:
        return pa.Table.from_batches([file.get_batch(run.index)])


def _file(tables: list[pa.Table], bucket: int, number: int, batch: Batch) -> Laid:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables(tables).combine_chunks()
    order, edges = _order(table, batch)
    table = table.take(int_column(order))
    path = f"bucket={bucket:04d}/{batch.name}-{number}.parquet"
    staged = f"{batch.staging}/{bucket:04d}-{number}.parquet"
    with pa.OSFile(staged, "wb") as sink, pq.ParquetWriter(sink, table.schema, compression="lz4") as writer:
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            writer.write_table(table.slice(start, stop - start), row_group_size=_ROW_GROUP)
    descriptor = os.open(staged, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    return Laid(staged, LayoutFile(path=path, bucket=bucket, bytes=size))


def _order(table: pa.Table, batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each row goes, by (span, person, time), and where spans start; the last one is the end."""
    import pyarrow.compute as pc

    codes, distinct = dense_codes(plain(table.column(batch.layout.person)))
    by_value = pc.sort_indices(distinct).to_numpy()
    ranks = np.empty(len(by_value), dtype=np.int64)
    ranks[by_value] = np.arange(len(by_value))
    persons = ranks[codes]
    moments, per_second = ticks_of(table.column(batch.time))
    spans = moments // (per_second * batch.span) if batch.span else np.zeros(len(moments), dtype=np.int64)
    order = np.lexsort((moments, persons, spans))
    sorted_spans = spans[order]
    starts = np.flatnonzero(sorted_spans[1:] != sorted_spans[:-1]) + 1
    return order, np.concatenate([[0], starts, [len(order)]]).astype(np.int64)
