"""Columns → rows → columns. `schema` draws the layout; nothing here visits single values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.rows.schema import HEADER, ROW_VERSION, RowField, RowSchema
from featurestore.rows.texts import Texts
from governance.errors import PublicationCorrupt

__all__ = ["Column", "PackedRows", "Rows", "pack", "row_tags", "unpack"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Column:
    """One field's values in n rows.

    Attributes:
        values: numbers `(n,)`, vectors `(n, d)`, or `Texts` of n strings; anything where null.
        nulls: bool `(n,)`.
    """

    values: NDArray[Any] | Texts
    nulls: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedRows:
    """n packed rows.

    Attributes:
        head: uint8 `(n, schema.width)`, everything before the tails.
        tails: n tails; None where the schema has no text fields.
    """

    head: NDArray[np.uint8]
    tails: Texts | None

    def __len__(self) -> int:
        """n."""
        return len(self.head)

    @property
    def event_times(self) -> NDArray[np.int64]:
        """Microseconds since 1970 UTC, `(n,)`."""
        return self.head[:, 8:16].view("<i8")[:, 0]

    def joined(self) -> Texts:
        """The rows as byte strings in one buffer."""
        heads = Texts.fixed(self.head)
        return heads if self.tails is None else Texts.joined([heads, self.tails])

    def tolist(self) -> list[bytes]:
        """The rows as n Python byte strings."""
        return self.joined().tolist()


def pack(
    schema: RowSchema,
    columns: Mapping[str, Column],
    *,
    event_times: NDArray[np.int64],
    releases: NDArray[np.uint64] | int = 0,
) -> PackedRows:
    """Packs n rows.

    Args:
        schema: which fields, in which order.
        columns: one for every field of the schema.
        event_times: microseconds since 1970 UTC, `(n,)`.
        releases: `release_code` of each row's release, or the one of all; 0: none.
    """
    count = len(event_times)
    head = np.zeros((count, schema.width), np.uint8)
    header = head[:, : HEADER.itemsize].view(HEADER)[:, 0]
    header["tag"], header["version"] = schema.tag, ROW_VERSION
    header["event_time"], header["release"] = event_times, releases
    bits = np.zeros((count, len(schema.fields)), bool)
    ends = np.zeros(count, np.int64)
    texts: list[Texts] = []
    for bit, field in enumerate(schema.fields):
        column = columns[field.name]
        bits[:, bit] = column.nulls
        target = _values_of(head, schema, field)
        if isinstance(column.values, Texts):
            own = _without_nulls(column.values, column.nulls)
            texts.append(own)
            ends = ends + own.lengths
            target[:, 0] = ends
        else:
            values = column.values if column.values.ndim == 2 else column.values[:, None]
            target[:] = values
            if column.nulls.any():
                target[column.nulls] = np.nan if target.dtype.kind == "f" else 0
    head[:, schema.nulls_at :] = np.packbits(bits, axis=1, bitorder="little")
    return PackedRows(head=head, tails=Texts.joined(texts) if texts else None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """n packed rows of one schema, read by column.

    Attributes:
        schema: what wrote them.
        head: uint8 `(n, schema.width)`.
        tail: the buffer in which the tails lie; empty where the schema has no text fields.
        tail_starts: where each row's tail begins, `(n,)`.
    """

    schema: RowSchema
    head: NDArray[np.uint8]
    tail: NDArray[np.uint8]
    tail_starts: NDArray[np.int64]

    def __len__(self) -> int:
        """n."""
        return len(self.head)

    def take(self, indexes: NDArray[np.integer[Any]]) -> Rows:
        """The rows at these positions, `(m,)`."""
        starts = self.tail_starts.take(indexes) if self.schema.texts else self.tail_starts
        return Rows(schema=self.schema, head=self.head.take(indexes, axis=0), tail=self.tail, tail_starts=starts)

    def padded(self) -> Rows:
        """The same rows and, last, the one that stands for those that are not there."""
        return Rows(
            schema=self.schema,
            head=np.concatenate([self.head, self.schema.empty_row[None, :]]),
            tail=self.tail,
            tail_starts=np.append(self.tail_starts, 0) if self.schema.texts else self.tail_starts,
        )

    def packed(self) -> PackedRows:
        """The rows as stores hold them, copied."""
        if not self.schema.texts:
            return PackedRows(head=self.head, tails=None)
        tails = Texts.gather(self.tail, self.tail_starts, self._ends(self.schema.texts[-1]))
        return PackedRows(head=self.head, tails=tails)

    @property
    def event_times(self) -> NDArray[np.int64]:
        """Microseconds since 1970 UTC, `(n,)`."""
        return self.head[:, 8:16].view("<i8")[:, 0]

    @property
    def releases(self) -> NDArray[np.uint64]:
        """`release_code` of the release that wrote each row, `(n,)`; 0: none."""
        return self.head[:, 16:24].view("<u8")[:, 0]

    def nulls(self, names: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which values are null, bool `(k, n)`; True for names that the schema does not have."""
        plan = self.schema.plan(names)
        flags = np.unpackbits(self.head[:, self.schema.nulls_at :], axis=1, bitorder="little").view(np.bool_).T
        if plan.unknown:
            flags = np.concatenate([flags[: len(self.schema.fields)], np.ones((1, len(self)), np.bool_)])
        return flags.take(plan.bits, axis=0)

    def values(self, names: tuple[str, ...]) -> dict[str, NDArray[Any] | Texts]:
        """Columns by name: numbers `(n,)`, vectors `(n, d)` or texts; names that the schema does not have are absent.

        Numbers of one type are copied together: ten columns of floats cost as many numpy calls as one.
        """
        plan = self.schema.plan(names)
        found: dict[str, NDArray[Any] | Texts] = {}
        for place, dtype, positions, group in plan.blocks:
            found.update(zip(group, self.head[:, place].view(dtype).T[positions], strict=True))
        for place, name in plan.vectors:
            found[name] = np.ascontiguousarray(self.head[:, place].view(np.dtype("<f4")))
        for field, before in plan.texts:
            ends = self._ends(field)
            starts = np.zeros(len(self), np.int64) if before is None else self._ends(before)
            found[field.name] = Texts.gather(self.tail, self.tail_starts + starts, ends - starts)
        return found

    def _ends(self, field: RowField) -> NDArray[np.int64]:
        return _values_of(self.head, self.schema, field)[:, 0].astype(np.int64)

    def check_tails(self, lengths: NDArray[np.int64]) -> None:
        """Returns if every row's texts fill its tail of that length exactly.

        Raises:
            PublicationCorrupt: they do not.
        """
        before: NDArray[np.int64] = np.zeros(len(self), np.int64)
        for field in self.schema.texts:
            ends = self._ends(field)
            if (ends < before).any():
                raise _corrupt()
            before = ends
        if (before != lengths).any():
            raise _corrupt()


def row_tags(rows: Texts) -> NDArray[np.uint32]:
    """The schema tags of n packed rows, `(n,)`.

    Raises:
        PublicationCorrupt: a row is too short to have a header, or of another version.
    """
    if (rows.lengths < HEADER.itemsize).any():
        raise _corrupt()
    heads = rows.data[rows.offsets[:-1, None] + np.arange(_TAGGED.itemsize)].view(_TAGGED)[:, 0]
    if (heads["version"] != ROW_VERSION).any():
        raise _corrupt()
    tags: NDArray[np.uint32] = heads["tag"]
    return tags


def unpack(schema: RowSchema, rows: Texts) -> Rows:
    """n rows of this schema, checked against it.

    Raises:
        PublicationCorrupt: a row's size does not fit the schema.
    """
    width = schema.width
    if not schema.texts:
        if len(rows.data) != width * len(rows) or (rows.lengths != width).any():
            raise _corrupt()
        return Rows(schema=schema, head=rows.data.reshape(len(rows), width), tail=rows.data, tail_starts=_NOWHERE)
    if (rows.lengths < width).any():
        raise _corrupt()
    starts = rows.offsets[:-1]
    unpacked = Rows(
        schema=schema, head=rows.data[starts[:, None] + np.arange(width)], tail=rows.data, tail_starts=starts + width
    )
    unpacked.check_tails(rows.lengths - width)
    return unpacked


_TAGGED: Final = np.dtype([("tag", "<u4"), ("version", "<u4")])
_NOWHERE: Final[NDArray[np.int64]] = np.zeros(0, np.int64)


def _values_of(head: NDArray[np.uint8], schema: RowSchema, field: RowField) -> NDArray[Any]:
    """A field's values in n rows, in place: `(n, 1)`, or `(n, d)` for vectors. For texts: their ends."""
    dtype = np.dtype(field.kind.dtype or "<u4")
    place = schema.places[field.name]
    start = place.block + place.first * dtype.itemsize
    return head[:, start : start + dtype.itemsize * (field.dimension or 1)].view(dtype)


def _without_nulls(texts: Texts, nulls: NDArray[np.bool_]) -> Texts:
    lengths = texts.lengths
    if not (lengths[nulls] > 0).any():
        return texts
    return Texts.gather(texts.data, texts.offsets[:-1], np.where(nulls, 0, lengths))


def _corrupt() -> PublicationCorrupt:
    return PublicationCorrupt(
        "online store: a packed row does not fit its schema; remove the store and run 'hedgerow publish' again"
    )
