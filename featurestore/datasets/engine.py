"""What reads labels, joins and writes: here in memory; `pipelines.datasets` does the same on Spark.

Engines differ in what fits them and in how many files they write, never in the rows: one conformance suite holds them
to a plain loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from featurestore.datasets.labels import LabelFiles, label_keys, label_times
from featurestore.datasets.views import ViewJoin
from featurestore.publication import PublishedView
from governance.canonical import sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "DATA_FILE",
    "DatasetEngine",
    "InMemory",
    "Joined",
    "Survey",
    "WrittenFile",
    "latest_time",
    "needed_columns",
    "written_file",
]

DATA_FILE: Final = "data.parquet"
"""What a training set's data is called: a parquet file, or a folder of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is known of the label table before it is joined.

    Attributes:
        latest: the latest time, microseconds since 1970 UTC; None of no rows.
        digests: SHA-256 of each file.
    """

    latest: int | None
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A file of the training set.

    Attributes:
        name: its path below the training set's folder.
        bytes, sha256: of its content.
        rows: that it has.
    """

    name: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """What was written.

    Attributes:
        schema: of all files.
        files: in the order of the rows.
        counts: for each view, how many label rows each of its releases answered.
    """

    schema: pa.Schema
    files: tuple[WrittenFile, ...]
    counts: tuple[tuple[int, ...], ...]


class DatasetEngine(Protocol):
    """Reads labels, joins and writes."""

    def survey(self, table: LabelFiles, views: Sequence[PublishedView]) -> Survey:
        """Reads times and keys of all labels.

        Raises:
            InputError: a key or time is missing, of a type that cannot be used, or a label has no time.
        """
        ...

    def write(
        self, table: LabelFiles, views: Sequence[ViewJoin], folder: Path, progress: Callable[[str], None]
    ) -> Joined:
        """Writes every label row, in order, with what each view answers, as `DATA_FILE` below a folder.

        Raises:
            ReleaseCorrupt: a release's files cannot be read as its manifest says.
        """
        ...


class InMemory:
    """Labels and one view's releases at a time in memory; one file."""

    def survey(self, table: LabelFiles, views: Sequence[PublishedView]) -> Survey:
        """See `DatasetEngine.survey`."""
        latest = [latest_time(table, chunk, views) for chunk, rows in enumerate(table.rows) if rows]
        return Survey(latest=max(latest, default=None), digests=tuple(map(sha256_file, table.files)))

    def write(
        self, table: LabelFiles, views: Sequence[ViewJoin], folder: Path, progress: Callable[[str], None]
    ) -> Joined:
        """See `DatasetEngine.write`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        out = pa.concat_tables([table.read(chunk) for chunk in range(len(table.chunks))])
        labels, times = out, label_times(table.labels, out)
        counts = []
        for join in views:
            progress(f"{join.view.name}: joining {len(join.features)} features")
            tables = [join.read(release.files, place) for place, release in enumerate(join.releases)]
            rows = pa.concat_tables(tables).combine_chunks() if tables else pa.table({})
            release_of = np.repeat(np.arange(len(tables)), [len(one) for one in tables])
            found = join.newest(label_keys(table.labels, labels, join.view), times, rows, release_of)
            for name, column in zip(join.columns, join.answers(rows, release_of, found), strict=True):
                out = out.append_column(name, column)
            counts.append(tuple(join.counts(release_of, found).tolist()))
        progress(f"writing {len(out):,} rows")
        pq.write_table(out, folder / DATA_FILE)
        written = written_file(folder, DATA_FILE, len(out))
        return Joined(schema=out.schema, files=(written,), counts=tuple(counts))


def latest_time(table: LabelFiles, chunk: int, views: Sequence[PublishedView]) -> int:
    """The latest time in a chunk that has rows, in microseconds since 1970 UTC; its keys can be read.

    Raises:
        InputError: a key or time is of a value that cannot be used.
    """
    rows = table.read(chunk, needed_columns(table, views))
    for view in views:
        label_keys(table.labels, rows, view)
    return int(label_times(table.labels, rows).max())


def needed_columns(table: LabelFiles, views: Sequence[PublishedView]) -> list[str]:
    """The time and the keys of all views."""
    return list(dict.fromkeys([table.labels.timestamp, *(key.name for view in views for key in view.keys)]))


def written_file(folder: Path, name: str, rows: int) -> WrittenFile:
    """A file that was written."""
    path = folder / name
    return WrittenFile(name=name, bytes=path.stat().st_size, sha256=sha256_file(path), rows=rows)
