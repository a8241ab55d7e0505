"""Training sets on Spark: for label tables, and releases, that fit no single machine.

    labels, a chunk a task ──▶ keys and times ──┐                                    ┌──▶ the chunk's rows and what
                                                ├─ exchange by key ─▶ join ─ exchange ┤    answers them ──▶ a file
    releases, a file a task ─▶ keys, features ──┘                            by chunk └──▶ ...

Only keys, times and what is joined pass through exchanges; a chunk's own columns go from file to file in the task that
writes it. What joins is `featurestore.datasets.views.ViewJoin`, the same code as in memory. Label rows of one key must
fit one task. Files are read and written by path: on a cluster they must lie on storage that all of its machines share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from featurestore.datasets.engine import (
    DATA_FILE,
    Joined,
    Survey,
    WrittenFile,
    latest_time,
    needed_columns,
    written_file,
)
from featurestore.datasets.labels import LabelFiles, label_keys, label_times, one_array
from featurestore.datasets.views import ViewJoin
from featurestore.publication import PublishedView
from governance.canonical import sha256_file
from governance.errors import HedgerowError
from governance.settings import Spark
from pipelines.engine.exchange import Item, exchanged, forget, numbered, packed, split, unpacked
from pipelines.engine.failures import no_data_in_errors
from pipelines.engine.sums import int_column

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["OnSpark"]

_SUBJECT: Final = "dataset"
_ROWS_IN_A_PARTITION: Final = 2_000_000
_SECONDS_BETWEEN_LOOKS: Final = 0.5

_Done = tuple[int, WrittenFile, list[list[int]]]
"""A chunk's number, its file, and for each view the label rows that each release answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnSpark:
    """A `DatasetEngine` on Spark; the training set is a folder of files, one for each chunk of labels.

    Attributes:
        spark: where it runs.
    """

    spark: Spark

    def survey(self, table: LabelFiles, views: Sequence[PublishedView]) -> Survey:
        """See `DatasetEngine.survey`."""
        from pipelines.engine.session import spark_context

        chunks = [chunk for chunk, rows in enumerate(table.rows) if rows]
        looked = _Look(table=table, views=tuple(views), chunks=tuple(chunks))
        with no_data_in_errors(_SUBJECT):
            context = spark_context(self.spark)
            seen = dict(numbered(context, len(chunks), looked).collect())
            digests = dict(numbered(context, len(table.files), _Digest(files=table.files)).collect())
        for chunk in (chunk for chunk, latest in seen.items() if latest is None):
            latest_time(table, chunk, views)  # raises what the task met: exceptions reach the driver without their type
        return Survey(latest=max(seen.values(), default=None), digests=tuple(v for _, v in sorted(digests.items())))

    def write(
        self, table: LabelFiles, views: Sequence[ViewJoin], folder: Path, progress: Callable[[str], None]
    ) -> Joined:
        """See `DatasetEngine.write`."""
        from pipelines.engine.session import spark_context

        (folder / DATA_FILE).mkdir()
        joins = tuple(views)
        sources = tuple(
            (place, release, file)
            for place, join in enumerate(joins)
            for release, about in enumerate(join.releases)
            for file in about.files
        )
        chunks = len(table.chunks)
        partitions = max(self.spark.shuffle_partitions, sum(table.rows) // _ROWS_IN_A_PARTITION)
        writing = _Write(table=table, joins=joins, folder=folder)
        with no_data_in_errors(_SUBJECT):
            context = spark_context(self.spark)
            asked = numbered(context, chunks, _Asked(table=table, joins=joins, partitions=partitions))
            released = numbered(context, len(sources), _Released(sources=sources, joins=joins, partitions=partitions))
            joined = exchanged(asked.union(released), partitions).mapPartitions(_Join(joins=joins))
            answers: Any = exchanged(joined, chunks).mapPartitionsWithIndex(writing)
            with _told(folder / DATA_FILE, chunks, progress):
                done: list[_Done] = sorted(answers.collect(), key=itemgetter(0))
            forget(answers)
        for path in set((folder / DATA_FILE).iterdir()) - {folder / file.name for _, file, _ in done}:
            path.unlink()  # of a task that was run again
        counts = [np.zeros(len(join.releases), np.int64) for join in joins]
        for _, _, own in done:
            counts = [total + np.array(more, np.int64) for total, more in zip(counts, own, strict=True)]
        return Joined(
            schema=writing.schema(),
            files=tuple(file for _, file, _ in done),
            counts=tuple(tuple(count.tolist()) for count in counts),
        )


@contextmanager
def _told(folder: Path, chunks: int, progress: Callable[[str], None]) -> Iterator[None]:
    """Tells, while it lasts, how many files are written."""
    ended = Event()

    def look() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            written = len(list(folder.glob("part-*.parquet")))
            progress(f"writing: {written} of {chunks} files" if written else "joining on Spark")

    progress("joining on Spark")
    looking = Thread(target=look, daemon=True)
    looking.start()
    try:
        yield
    finally:
        ended.set()
        looking.join()


# --- tasks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """The latest time of each chunk; None where a key or time cannot be used."""

    table: LabelFiles
    views: tuple[PublishedView, ...]
    chunks: tuple[int, ...]

    def __call__(self, tasks: Iterable[int]) -> Iterator[Item]:
        for task in tasks:
            chunk = self.chunks[task]
            try:
                latest: int | None = latest_time(self.table, chunk, self.views)
            except HedgerowError:
                latest = None
            yield chunk, latest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Digest:
    """The SHA-256 of each file."""

    files: tuple[Path, ...]

    def __call__(self, tasks: Iterable[int]) -> Iterator[Item]:
        for task in tasks:
            yield task, sha256_file(self.files[task])


@dataclass(frozen=True, slots=True)
class _Labels:
    """Keys (`k0`, ...), times and positions of label rows of one chunk, for one view."""

    view: int
    chunk: int
    rows: bytes


@dataclass(frozen=True, slots=True)
class _Rows:
    """Keys and features of rows of one release."""

    view: int
    release: int
    rows: bytes


@dataclass(frozen=True, slots=True)
class _Answers:
    """What answers label rows of one chunk, from one view: positions, features, releases; and releases' counts."""

    view: int
    rows: bytes
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Sends keys and times of a chunk to where their keys are joined. A row without a key is not sent: none answers."""

    table: LabelFiles
    joins: tuple[ViewJoin, ...]
    partitions: int

    def __call__(self, chunks: Iterable[int]) -> Iterator[Item]:
        import pyarrow as pa

        for chunk in chunks:
            rows = self.table.read(chunk, needed_columns(self.table, [join.view for join in self.joins]))
            times = pa.array(label_times(self.table.labels, rows))
            places = pa.array(np.arange(len(rows)))
            for view, join in enumerate(self.joins):
                names = _key_names(join)
                keys = label_keys(self.table.labels, rows, join.view)
                asked: pa.Table = pa.table([*keys, times, places], names=[*names, "time", "row"])
                for place, part in split(asked.drop_null(), names, self.partitions):
                    yield place, _Labels(view, chunk, packed(part))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Released:
    """Sends rows of a release's file to where their keys are joined."""

    sources: tuple[tuple[int, int, Path], ...]
    joins: tuple[ViewJoin, ...]
    partitions: int

    def __call__(self, tasks: Iterable[int]) -> Iterator[Item]:
        for task in tasks:
            view, release, file = self.sources[task]
            join = self.joins[view]
            for place, part in split(join.read([file], release), join.keys, self.partitions):
                yield place, _Rows(view, release, packed(part))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Join:
    """Joins what came to a partition, one view after the other, and sends answers to the chunks of their labels."""

    joins: tuple[ViewJoin, ...]

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        labels: dict[int, list[_Labels]] = {}
        rows: dict[int, list[_Rows]] = {}
        for _, item in items:
            if isinstance(item, _Labels):
                labels.setdefault(item.view, []).append(item)
            else:
                rows.setdefault(item.view, []).append(item)
        for view in sorted(labels.keys() & rows.keys()):
            yield from self._joined(view, labels.pop(view), rows.pop(view))

    def _joined(self, view: int, labels: list[_Labels], rows: list[_Rows]) -> Iterator[Item]:
        import pyarrow as pa

        join = self.joins[view]
        released, release_of = _together([part.rows for part in rows], [part.release for part in rows])
        asked, chunk_of = _together([part.rows for part in labels], [part.chunk for part in labels])
        keys = [one_array(asked[name]) for name in _key_names(join)]
        found = join.newest(keys, asked["time"].to_numpy(), released, release_of)
        for chunk in np.unique(chunk_of[found >= 0]).tolist():
            mine = np.flatnonzero((chunk_of == chunk) & (found >= 0))
            answers = join.answers(released, release_of, found[mine])
            positions = asked["row"].take(int_column(mine))
            table = pa.table([positions, *answers], names=["row", *join.columns])
            yield chunk, _Answers(view, packed(table), tuple(join.counts(release_of, found[mine]).tolist()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Write:
    """Writes a chunk's rows, in order, with what answers them. A file gets its name when it is whole."""

    table: LabelFiles
    joins: tuple[ViewJoin, ...]
    folder: Path

    def __call__(self, chunk: int, items: Iterable[Item]) -> Iterator[_Done]:
        import pyarrow.parquet as pq

        own = self.table.read(chunk)
        answers: list[list[_Answers]] = [[] for _ in self.joins]
        for _, item in items:
            answers[item.view].append(item)
        counts = []
        for join, parts in zip(self.joins, answers, strict=True):
            for name, column in zip(join.columns, _columns(join, parts, len(own)), strict=True):
                own = own.append_column(name, column)
            total = np.zeros(len(join.releases), np.int64)
            for part in parts:
                total += np.array(part.counts, np.int64)
            counts.append(total.tolist())
        name = f"{DATA_FILE}/part-{chunk:05}.parquet"
        unfinished = self.folder / DATA_FILE / f".{chunk}.{uuid4().hex}"
        pq.write_table(own, unfinished)
        unfinished.replace(self.folder / name)
        yield chunk, written_file(self.folder, name, len(own)), counts

    def schema(self) -> pa.Schema:
        """Of every file."""
        schema = self.table.schema
        for join in self.joins:
            for name, column in zip(join.columns, _columns(join, [], 0), strict=True):
                schema = schema.append(_field(name, column))
        return schema


def _together(streams: list[bytes], of: list[int]) -> tuple[pa.Table, NDArray[np.int64]]:
    """Tables of one schema as one, and for each row what it is of."""
    import pyarrow as pa

    tables = [table for table in (unpacked([data]) for data in streams) if table is not None]
    return pa.concat_tables(tables).combine_chunks(), np.repeat(np.array(of, np.int64), [len(one) for one in tables])


def _field(name: str, column: Any) -> pa.Field[Any]:
    import pyarrow as pa

    return pa.field(name, column.type)


def _key_names(join: ViewJoin) -> list[str]:
    """What a view's keys are called among the columns of `_Labels`, whose other names they must not meet."""
    return [f"k{place}" for place in range(len(join.keys))]


def _columns(join: ViewJoin, parts: Sequence[_Answers], count: int) -> list[Any]:
    """The columns that a chunk of some label rows gains: null where nothing was sent."""
    import pyarrow as pa

    # Of no rows, `answers` gives columns of the right types.
    nothing: pa.Table = pa.table({})
    empty = join.answers(nothing, np.zeros(0, np.int64), np.zeros(0, np.int64))
    tables = [table for table in (unpacked([part.rows]) for part in parts) if table is not None]
    if not tables:
        return [pa.nulls(count, column.type) for column in empty]
    table = pa.concat_tables(tables)
    at = np.full(count, -1, np.int64)
    at[table["row"].to_numpy()] = np.arange(len(table))
    places: Any = pa.array(at, mask=at < 0)
    return [table[name].combine_chunks().take(places) for name in join.columns]
