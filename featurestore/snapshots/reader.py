"""A snapshot file → columns. Mapped, verified when it is opened, and never changed."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featurestore.rows import (
    FeatureColumns,
    KeyColumn,
    PlaceTable,
    Rows,
    RowSchema,
    RunReader,
    Runs,
    Texts,
    release_code,
)
from featurestore.rows.answers import release_indexes
from featurestore.snapshots.format import DIGEST_BYTES, Header, parse, typed
from featurestore.snapshots.index import HashIndex, KeyIndex, TableIndex
from governance.errors import NotPublished, PublicationCorrupt

__all__ = ["Snapshot", "open_snapshot"]

_MAX_READERS: Final = 1024


class Snapshot:
    """One view's newest release, mapped. Safe to use from many threads; costs no memory of its own but the pages read.

    Made by `open_snapshot`. It stays readable when its file is removed; the mapping goes with the last reference.
    """

    def __init__(self, header: Header, index: KeyIndex, rows: Rows, digest: str) -> None:
        self._header = header
        self._index = index
        self._rows = rows
        self._codes = tuple(release_code(release) for release in header.releases)
        self._uniform = _Uniform.of(rows, header, self._codes)
        self._readers: dict[tuple[str, ...], _Reader | None] = {}
        self.digest = digest

    @property
    def view(self) -> str:
        """The view's name."""
        return self._header.view

    @property
    def keys(self) -> Mapping[str, str]:
        """Join key → stored type, `"int64"` or `"string"`, in the view's order."""
        return dict(self._header.keys)

    @property
    def schema(self) -> RowSchema:
        """The fields that it holds."""
        return self._header.schema

    @property
    def releases(self) -> tuple[str, ...]:
        """The releases whose rows it holds."""
        return self._header.releases

    def __len__(self) -> int:
        """Rows."""
        return self._header.rows

    @property
    def key_columns(self) -> tuple[KeyColumn, ...]:
        """All keys, in the order of the rows."""
        return self._index.keys

    def find(self, keys: Mapping[str, KeyColumn]) -> NDArray[np.int64]:
        """The rows of n keys, `(n,)`; `len(self)` where there is none. See `get`."""
        return self._index.find([keys[name] for name, _ in self._header.keys])

    def packed(self, keys: Mapping[str, KeyColumn]) -> list[bytes | None]:
        """The packed rows of n keys, as an online store would give them; None where there is none. See `get`."""
        at = self.find(keys)
        rows = self._rows.take(at).packed().tolist()
        return [row if place < len(self) else None for row, place in zip(rows, at.tolist(), strict=True)]

    def get(self, keys: Mapping[str, KeyColumn], columns: Sequence[str]) -> FeatureColumns:
        """Looks n keys up.

        Nothing visits single rows or values except texts that two keys of one hash share.

        Args:
            keys: join key → int64 `(n,)`, or `Texts` (`rows.text_keys` makes them of strings), as `self.keys` says.
                Dates, booleans and floats are texts, see `featurestore.online.keys.key_columns`.
            columns: names of fields of the schema.

        Returns:
            n rows, in the order of the keys. The view's ttl is the caller's: `FeatureColumns.since`.

        Raises:
            KeyError: a key column is missing, or there is no such field.
        """
        names = tuple(columns)
        self._check_fields(names)
        return self._columns(self.find(keys), names)

    def look_up(
        self, keys: Mapping[str, KeyColumn], columns: tuple[str, ...], *, earliest: int | None = None
    ) -> Runs | FeatureColumns:
        """Looks n keys up: as runs where all features are of fixed width, else as `get` does.

        For `Runs` without gaps about ten numpy calls, however many keys and columns of a type there are.

        Args:
            keys, columns: as in `get`.
            earliest: rows of an earlier event time, in microseconds, are not found.

        Raises:
            KeyError: a key column is missing, or there is no such field.
        """
        at = self.find(keys)
        reader = self._reader(columns)
        uniform = self._uniform
        if reader is None or not len(at) or (earliest is not None and uniform.oldest < earliest):
            answer = self._columns(at, columns)
            return answer if earliest is None else answer.since(earliest)
        head, release = self._rows.head.take(at, axis=0), uniform.release
        found = None if at[at.argmax()] < uniform.rows else at < uniform.rows
        nullable = reader.nullable and reader.runs.any_null(head)
        if found is None and not nullable:
            return reader.runs.read(release, head)
        if found is not None and not found.any():
            release = None
        return reader.runs.read(release, head, reader.runs.gaps(head, found, nullable=nullable))

    def _reader(self, names: tuple[str, ...]) -> _Reader | None:
        """What reads these fields as runs; None where that cannot be."""
        try:
            return self._readers[names]
        except KeyError:
            self._check_fields(names)
        runs = RunReader.of(self.schema, [self.schema.by_name[name] for name in names])
        reader = None
        if runs is not None and self._uniform.release is not None:
            reader = _Reader(runs=runs, nullable=bool(self._uniform.nullable[runs.bits].any()))
        if len(self._readers) < _MAX_READERS:
            self._readers[names] = reader
        return reader

    def _check_fields(self, names: tuple[str, ...]) -> None:
        if self.schema.plan(names).unknown:
            unknown = [name for name in names if name not in self.schema.by_name]
            raise KeyError(f"{self.view}: no field {', '.join(unknown)}")

    def _columns(self, at: NDArray[np.int64], names: tuple[str, ...]) -> FeatureColumns:
        rows = self._rows.take(at)
        return FeatureColumns(
            names=names,
            values=rows.values(names),
            nulls=rows.nulls(names),
            found=at < len(self),
            event_times=rows.event_times,
            releases=self.releases,
            release_indexes=release_indexes(rows.releases, self._codes),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Reader:
    """Reads some fields as runs, and whether any row has a null in one of them."""

    runs: RunReader
    nullable: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Uniform:
    """What is known of all rows, so that no answer needs to ask.

    Attributes:
        rows: N.
        release: the one that wrote all of them; None where that is not so.
        oldest: the least event time, microseconds since 1970 UTC; 0 of no rows.
        nullable: which fields are null in some row, bool `(fields,)`.
    """

    rows: int
    release: str | None
    oldest: int
    nullable: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Rows, header: Header, codes: Sequence[int]) -> _Uniform:
        count, schema = header.rows, header.schema
        one = len(codes) == 1 and bool((rows.releases[:count] == np.uint64(codes[0])).all())
        nulls = np.bitwise_or.reduce(rows.head[:count, schema.nulls_at : schema.width], axis=0)
        return cls(
            rows=count,
            release=header.releases[0] if one else None,
            oldest=int(rows.event_times[:count].min()) if count else 0,
            nullable=np.unpackbits(nulls, bitorder="little")[: len(schema.fields)].astype(bool),
        )


def open_snapshot(path: Path, *, sha256: str | None = None) -> Snapshot:
    """Maps a snapshot and verifies all of it, which also brings its pages into memory before the first request.

    Args:
        path: the file.
        sha256: the digest that the publication names, 64 hex digits; None: the file's own word is taken.

    Raises:
        NotPublished: there is no such file.
        PublicationCorrupt: it is not whole, not a snapshot, or not the one that was published.
    """
    try:
        with path.open("rb") as stream:
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        digest = bytes(data[-DIGEST_BYTES:]).hex()
        if sha256 is not None and digest != sha256:
            raise ValueError("it is not the one that was published, or cut short")
        header, sections = parse(data)
        index, rows = _index(header, sections), _rows(header, sections)
    except FileNotFoundError:
        raise NotPublished(f"{path}: not there; run 'hedgerow publish' to write it anew") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PublicationCorrupt(
            f"{path}: the snapshot is refused: {reason}; run 'hedgerow publish' to write it anew"
        ) from None
    return Snapshot(header, index, rows, digest)


def _index(header: Header, sections: Mapping[str, NDArray[np.uint8]]) -> KeyIndex:
    count = header.rows
    if "places" in sections:
        return _table_index(header, sections)
    padding = len(sections.get("hashes", b"")) // 8 - count
    buckets = len(sections.get("starts", b"")) // 4 - 1
    if padding < 1 or buckets < 1 or buckets & (buckets - 1):
        raise ValueError("its index has another size")
    starts = typed(sections, "starts", "<u4", (buckets + 1,))
    widths = np.diff(starts.astype(np.int64))
    if starts[0] != 0 or starts[-1] != count or (widths < 0).any() or widths.max() > padding:
        raise ValueError("its index contradicts itself")
    return HashIndex(
        keys=tuple(_key_column(sections, i, kind, count) for i, (_, kind) in enumerate(header.keys)),
        hashes=typed(sections, "hashes", "<u8", (count + padding,)),
        starts=starts,
        window=padding,
    )


def _table_index(header: Header, sections: Mapping[str, NDArray[np.uint8]]) -> TableIndex:
    if [kind for _, kind in header.keys] != ["int64"]:
        raise ValueError("its index is of other keys")
    keys = typed(sections, "key.0", "<i8", (header.rows,))
    places = typed(sections, "places", "<i8", (len(sections["places"]) // 8,))
    return TableIndex(keys=(keys,), table=PlaceTable.checked(keys, places))


def _key_column(sections: Mapping[str, NDArray[np.uint8]], i: int, kind: str, count: int) -> KeyColumn:
    if kind == "int64":
        return typed(sections, f"key.{i}", "<i8", (count,))
    data = sections.get(f"key.{i}")
    offsets = typed(sections, f"key.{i}.offsets", "<i8", (count + 1,))
    if data is None or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
        raise ValueError("its keys contradict themselves")
    return Texts(data=data, offsets=offsets)


def _rows(header: Header, sections: Mapping[str, NDArray[np.uint8]]) -> Rows:
    schema, count = header.schema, header.rows
    head = typed(sections, "row", "<u1", (count + 1, schema.width))
    if not schema.texts:
        none: NDArray[np.int64] = np.zeros(0, np.int64)
        return Rows(schema=schema, head=head, tail=np.zeros(0, np.uint8), tail_starts=none)
    tail = sections.get("tail")
    offsets = typed(sections, "tail.starts", "<i8", (count + 2,))
    if tail is None or offsets[0] != 0 or offsets[-1] != len(tail) or (np.diff(offsets) < 0).any():
        raise ValueError("its texts contradict themselves")
    rows = Rows(schema=schema, head=head, tail=tail, tail_starts=offsets[:-1])
    rows.check_tails(np.diff(offsets))
    return rows
