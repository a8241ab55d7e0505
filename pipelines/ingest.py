"""`hedgerow ingest`: lays events out by person, so that releases of them need no exchange of rows.

    discover   the source files; those that were ingested before, by the hash of their content, are passed over
    split      worker processes deal rows to buckets, into a staging folder beside the table
    lay        worker processes sort each bucket and write its files
    publish    files move to their places, then `_layout.json` is replaced in one rename: then the batch is there

A batch is appended: the same salt sends later events of a person to the same bucket. Whatever stops an ingest before
the rename leaves the table as it was, and the next one clears up; two at a time are refused. Memory stays bounded by a
few million rows for each worker, however many events there are.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from governance.canonical import sha256_file
from governance.errors import (
    ColumnMissing,
    ColumnTypeError,
    ConfigError,
    EngineError,
    HedgerowError,
    InputError,
    InputMissing,
    NullValue,
)
from governance.files import exclusive_lock, remove_tree, sync_directory, write_atomic
from pipelines.engine.laying import Batch, Laid, Piece, Run, Told, lay, live_with_the_parent, split
from pipelines.engine.layout import LAYOUT_NAME, Layout
from pipelines.engine.tables import Table, open_table

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Ingested", "Progress", "ingest"]

_ROWS_PER_BUCKET = 1_000_000
_ROWS_PER_TASK = 4_000_000
_FEWEST_BUCKETS, _MOST_BUCKETS = 16, 4096
_ROWS_PER_SPAN = 50_000
_SPANS = (86_400, 7 * 86_400)
_STAGING, _LOCK = "_ingesting", ".ingest.lock"

Progress = Callable[[str, float], None]
"""Told what is being done and which part of it, from 0 to 1."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What an ingest did.

    Attributes:
        table: the folder.
        batch: the id of the batch, from its files' contents; None: there was nothing new.
        new: names of the files that were laid out.
        known: names of the files that had been laid out before.
        buckets: of the table.
    """

    table: Path
    batch: str | None
    new: tuple[str, ...]
    known: tuple[str, ...]
    buckets: int


class _Workers(Protocol):
    def submit(self, function: Callable[..., _T], /, *arguments: Any) -> Any: ...


def ingest(
    sources: tuple[Path, ...],
    into: Path,
    *,
    person: str,
    time: str,
    buckets: int | None = None,
    workers: int | None = None,
    progress: Progress = lambda _what, _part: None,
) -> Ingested:
    """Appends the files of `sources` that are new to a table laid out by person.

    Args:
        sources: parquet files, or folders of them.
        into: the table's folder; made on first use.
        person: the column that identifies the person.
        time: the column with the event time.
        buckets: how many, for a new table; None: one for each million rows, at least 16.
        workers: processes; None: one for each core.
        progress: told how far it is.

    Returns:
        What was done; nothing, if every file was known.

    Raises:
        InputError: something cannot be read, has nulls in `person` or `time`, other columns than the table, or twice
            the same content. The table is as it was.
        ConfigError: the table is laid out by another person column or in another number of buckets, or is no such
            table.
        RunInProgress: another ingest into it is at work.
        EngineError: a worker was killed.
    """
    into = into.resolve()
    tables = tuple(_source(source, into, person, time) for source in sources)
    if not tables:
        raise InputMissing(f"{into}: no source; name the files or folders to ingest")
    _check_target(into)
    if buckets is not None and not 1 <= buckets <= _MOST_BUCKETS:
        raise ConfigError(f"buckets: found {buckets}, allowed: 1 to {_MOST_BUCKETS}")
    with exclusive_lock(into / _LOCK, f"{into}"):
        layout = _layout(into, person, buckets, sum(table.rows for table in tables))
        _check_columns(into, layout, tables)
        try:
            with _pool(workers) as pool:
                return _Ingest(into=into, layout=layout, tables=tables, time=time, pool=pool, progress=progress).run()
        finally:
            remove_tree(into / _STAGING)


def _source(source: Path, into: Path, person: str, time: str) -> Table:
    table = open_table(Path.cwd(), str(source))
    if table.path == into or table.path in into.parents or into in table.path.parents:
        raise InputError(f"{source}: lies in the table {into}, or around it; ingest from somewhere else")
    table.require(person, "unit")
    table.require(time, "time")
    for column, role in ((person, "privacy unit"), (time, "event time")):
        if column in table.with_nulls:
            raise NullValue(table.name, column, role)
    return table


def _check_target(into: Path) -> None:
    if into.exists() and not into.is_dir():
        raise ConfigError(f"{into}: is a file; name a folder for the table")
    if into.is_dir() and not (into / LAYOUT_NAME).is_file() and any(into.rglob("*.parquet")):
        raise ConfigError(f"{into}: holds parquet files that were not ingested; name an empty or a new folder")


def _layout(into: Path, person: str, buckets: int | None, rows: int) -> Layout:
    """The table's layout; a new one is written empty first, so that half a batch is never taken for a table."""
    if (into / LAYOUT_NAME).is_file():
        layout = Layout.read(into)
        if layout.person != person:
            raise ConfigError(f"{into}: is laid out by {layout.person!r}, found person {person!r}; use one of the two")
        if layout.files and buckets not in (None, layout.buckets):
            raise ConfigError(
                f"{into}: has {layout.buckets} buckets, found {buckets}; leave --buckets out or ingest into a new table"
            )
        if layout.files:
            return layout
    count = buckets or min(_MOST_BUCKETS, max(_FEWEST_BUCKETS, -(-rows // _ROWS_PER_BUCKET)))
    layout = Layout(person=person, buckets=count, salt=secrets.randbits(63))
    write_atomic(into / LAYOUT_NAME, layout.to_bytes())
    return layout


def _check_columns(into: Path, layout: Layout, tables: tuple[Table, ...]) -> None:
    """Checks that all sources have the table's columns, no more, in the same types."""
    import pyarrow.parquet as pq

    there = layout.files_in(into)
    schema: pa.Schema = pq.read_schema(there[0]) if there else _plain_types(tables[0].schema)
    name = str(into) if there else tables[0].name
    for table in tables:
        found = _plain_types(table.schema)
        for column in schema.names:
            if column not in found.names:
                raise ColumnMissing(table.name, column, tuple(found.names))
            one, two = schema.field(column).type, found.field(column).type
            if one != two:
                raise ColumnTypeError(table.name, column, str(two), f"{one}, as in {name}")
        for column in found.names:
            if column not in schema.names:
                raise ColumnMissing(name, column, tuple(schema.names))


def _plain_types(schema: pa.Schema) -> pa.Schema:
    """Dictionaries are an encoding: they are laid out as the values they stand for."""
    import pyarrow as pa

    return pa.schema([(f.name, f.type.value_type if pa.types.is_dictionary(f.type) else f.type) for f in schema])


@contextmanager
def _pool(workers: int | None) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, started afresh: a fork of a process with threads can lock up.

    Raises:
        EngineError: one of them was killed.
    """
    count = workers or cpu_count() or 1
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=live_with_the_parent)
    try:
        yield pool
    except BrokenProcessPool:
        raise EngineError(
            "ingest: a worker process was killed, perhaps for lack of memory; run it again, with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ingest:
    """One batch."""

    into: Path
    layout: Layout
    tables: tuple[Table, ...]
    time: str
    pool: _Workers
    progress: Progress

    def run(self) -> Ingested:
        hashes = self._hashes()
        new = {file: digest for file, digest in hashes.items() if digest not in set(self.layout.inputs)}
        known = tuple(str(file) for file in hashes if file not in new)
        if not new:
            return Ingested(table=self.into, batch=None, new=(), known=known, buckets=self.layout.buckets)
        pieces, rows = _pieces(new)
        if not rows:
            return Ingested(table=self.into, batch=None, new=(), known=known, buckets=self.layout.buckets)
        batch = self._batch(new)
        self._clean()
        Path(batch.staging).mkdir()
        laid = self._lay(self._split(pieces, batch), batch)
        self._publish(laid, replace(
            self.layout,
            batches=(*self.layout.batches, batch.name),
            inputs=(*self.layout.inputs, *sorted(new.values())),
            files=(*self.layout.files, *sorted((one.file for one in laid), key=lambda file: file.path)),
        ))  # fmt: skip
        names = tuple(str(file) for file in new)
        return Ingested(table=self.into, batch=batch.name, new=names, known=known, buckets=self.layout.buckets)

    def _hashes(self) -> dict[Path, str]:
        """SHA-256 of every source file."""
        files = sorted({file for table in self.tables for file in table.files})
        hashes = dict(zip(files, self._all("reading", sha256_file, [(file,) for file in files]), strict=True))
        first: dict[str, Path] = {}
        for file, digest in hashes.items():
            if digest in first:
                raise InputError(f"{file}: has the same content as {first[digest]}; remove one, or events count twice")
            first[digest] = file
        return hashes

    def _batch(self, new: dict[Path, str]) -> Batch:
        digest = hashlib.sha256("\n".join(sorted(new.values())).encode()).hexdigest()
        return Batch(
            name=digest[:32],
            layout=self.layout,
            time=self.time,
            columns=tuple(self.tables[0].schema.names),
            span=_span(new, self.time, self.layout.buckets),
            staging=str(self.into / _STAGING),
        )

    def _clean(self) -> None:
        """Removes what an ingest that was stopped has left."""
        remove_tree(self.into / _STAGING)
        mine = {self.into / file.path for file in self.layout.files}
        for file in self.into.glob("bucket=*/*.parquet"):
            if file not in mine:
                file.unlink()

    def _split(self, pieces: list[tuple[Piece, ...]], batch: Batch) -> dict[int, list[Run]]:
        buckets: dict[int, list[Run]] = {}
        tasks = [(index, task, batch) for index, task in enumerate(pieces)]
        for runs in self._all("dealing events to buckets", split, tasks):
            if isinstance(runs, Told):
                raise self._refusal(runs)
            for run in runs:
                buckets.setdefault(run.bucket, []).append(run)
        return buckets

    def _lay(self, buckets: dict[int, list[Run]], batch: Batch) -> list[Laid]:
        tasks = [(bucket, tuple(runs), batch) for bucket, runs in sorted(buckets.items())]
        return [one for files in self._all("writing buckets", lay, tasks) for one in files]

    def _all(self, what: str, function: Callable[..., _T], tasks: list[tuple[Any, ...]]) -> list[_T]:
        """Runs every task in the workers; results in the order of the tasks."""
        self.progress(what, 0.0)
        futures = [self.pool.submit(function, *task) for task in tasks]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            self.progress(what, done / len(futures))
        return [future.result() for future in futures]

    def _refusal(self, told: Told) -> HedgerowError:
        if told.what == "null":
            return NullValue(told.file, told.column, "event time" if told.column == self.time else "privacy unit")
        return InputMissing(f"{told.file}: cannot be read as parquet; write it again")

    def _publish(self, laid: list[Laid], layout: Layout) -> None:
        for folder in {(self.into / one.file.path).parent for one in laid}:
            folder.mkdir(exist_ok=True)
        for one in laid:
            Path(one.staged).replace(self.into / one.file.path)
        for folder in {(self.into / one.file.path).parent for one in laid}:
            sync_directory(folder)
        sync_directory(self.into)
        write_atomic(self.into / LAYOUT_NAME, layout.to_bytes())


def _pieces(files: dict[Path, str]) -> tuple[list[tuple[Piece, ...]], int]:
    """The row groups, in tasks of a few million rows, and how many rows there are."""
    import pyarrow.parquet as pq

    tasks: list[tuple[Piece, ...]] = []
    held: list[Piece] = []
    total = rows = 0
    for file in files:
        footer = pq.read_metadata(file)
        for group in range(footer.num_row_groups):
            held.append(Piece(str(file), group, footer.row_group(group).num_rows))
            rows += held[-1].rows
            if rows >= _ROWS_PER_TASK:
                tasks.append(tuple(held))
                total, held, rows = total + rows, [], 0
    return [*tasks, tuple(held)] if held else tasks, total + rows


def _span(files: dict[Path, str], time: str, buckets: int) -> int:
    """Seconds of the spans that row groups keep to: the shortest that leaves them a good size; 0: none does."""
    import pyarrow.parquet as pq

    from pipelines.engine.scan import time_range

    lows, highs, rows = [], [], 0
    for file in files:
        footer = pq.read_metadata(file)
        rows += footer.num_rows
        found = time_range(footer, time)
        if found is None:
            return 0
        lows.append(found[0])
        highs.append(found[1])
    length = max(highs) - min(lows) + 1
    return next((span for span in _SPANS if rows / buckets / max(1, length / span) >= _ROWS_PER_SPAN), 0)
