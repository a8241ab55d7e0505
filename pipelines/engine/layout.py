"""Events laid out by person: every person's rows lie in one bucket, so that bounding needs no exchange.

    <table>/
        _layout.json                      what is written below, hidden from readers of parquet folders
        bucket=0000/<batch>-0.parquet ... sorted by person

The bucket of a person is a salted hash of their id. `hedgerow ingest` writes it (pipelines/ingest.py). Only the files
that `_layout.json` names belong to the table: it is replaced in one rename, so a batch is there whole or not at all. A
run trusts it only as far as it has checked: files must have the sizes that were written, and every person that is read
from a bucket must belong to it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from governance.canonical import canonical_bytes
from governance.errors import LayoutCorrupt
from pipelines.engine.hashing import content_hashes, dense_codes

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LAYOUT_NAME", "Layout", "LayoutFile", "wrong_bucket"]

LAYOUT_NAME = "_layout.json"
SCHEMA = "hedgerow.layout/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutFile:
    """One file: its path below the table's folder, its bucket, and its size in bytes."""

    path: str
    bucket: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a table is laid out.

    Attributes:
        person: the column that buckets go by.
        buckets: how many there are.
        salt: of the hash.
        batches: ids of the batches that were laid out, in order.
        inputs: SHA-256 of every file that was ever laid out, so that none counts twice.
        files: every file.
    """

    person: str
    buckets: int
    salt: int
    batches: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    files: tuple[LayoutFile, ...] = ()

    def to_bytes(self) -> bytes:
        """Canonical JSON. The salt is a text: it has more bits than a JSON number keeps."""
        return canonical_bytes({"schema": SCHEMA, **asdict(self), "salt": str(self.salt)})

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """Reads the layout of a table's folder.

        Raises:
            LayoutCorrupt: it does not parse.
        """
        path = folder / LAYOUT_NAME
        try:
            value = json.loads(path.read_bytes())
            if value.pop("schema") != SCHEMA:
                raise ValueError("another schema")
            layout = cls(
                person=str(value.pop("person")),
                buckets=int(value.pop("buckets")),
                salt=int(value.pop("salt")),
                batches=tuple(value.pop("batches")),
                inputs=tuple(value.pop("inputs")),
                files=tuple(LayoutFile(**file) for file in value.pop("files")),
            )
            if value or layout.buckets < 1 or any(not 0 <= file.bucket < layout.buckets for file in layout.files):
                raise ValueError("fields or buckets that it cannot have")
            return layout
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = type(error).__name__
            raise LayoutCorrupt(f"{path}: not a {SCHEMA} layout ({reason}); ingest the events again") from None

    def files_in(self, folder: Path) -> tuple[Path, ...]:
        """The table's files, sorted; what else lies in the folder is of a batch that was never finished.

        Raises:
            LayoutCorrupt: some are missing or were changed.
        """
        wrong = 0
        for file in self.files:
            path = folder / file.path
            wrong += not path.is_file() or path.stat().st_size != file.bytes
        if wrong:
            raise LayoutCorrupt(f"{folder}: {wrong} files of its layout are missing or changed; ingest anew")
        return tuple(sorted(folder / file.path for file in self.files))

    def bucket_of(self, folder: Path) -> dict[str, int]:
        """Each file's bucket, by its whole path."""
        return {str(folder / file.path): file.bucket for file in self.files}

    def buckets_for(self, column: pa.Array[Any] | pa.ChunkedArray[Any]) -> NDArray[np.int64]:
        """The bucket of each row's person, shape `(n,)`."""
        codes, distinct = dense_codes(column)
        return self._buckets(distinct)[codes]

    def check_bucket(self, column: pa.Array[Any] | pa.ChunkedArray[Any], bucket: int) -> None:
        """Checks that all persons belong to a bucket: otherwise one may lie in two, and the bounds would fail.

        Raises:
            LayoutCorrupt: somebody does not.
        """
        _, distinct = dense_codes(column)
        if np.any(self._buckets(distinct) != bucket):
            raise wrong_bucket(bucket)

    def _buckets(self, distinct: pa.Array[Any]) -> NDArray[np.int64]:
        hashes = content_hashes(distinct, self.salt)
        return ((hashes >> np.uint64(32)) % np.uint64(self.buckets)).astype(np.int64)


def wrong_bucket(bucket: int) -> LayoutCorrupt:
    """The refusal to bound a bucket in which somebody does not belong."""
    return LayoutCorrupt(f"bucket {bucket} holds persons of other buckets; ingest the events again")
