"""Packed rows out of a store → an answer by the types that are published, whatever schemas wrote the rows.

A view's rows may come from several writers: releases, an earlier version of the view, or Feast's own materialize and
push. All are read here; what Feast writes differently (dates as text, lists of any length, whole seconds) is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.column_types import row_field
from featurestore.freshness import microseconds
from featurestore.publication import PublishedView
from featurestore.rows import (
    FeatureColumns,
    Kind,
    RowField,
    Rows,
    RowSchema,
    RunReader,
    Runs,
    Texts,
    release_code,
    unpack,
)
from featurestore.rows.answers import release_indexes
from featurestore.rows.codec import row_tags
from featurestore.rows.schema import ROW_VERSION
from governance.errors import PublicationCorrupt, RequestInvalid

_VERSION: Final = ROW_VERSION.to_bytes(4, "little")
_RELEASE: Final = slice(16, 24)
_PUSHED: Final = bytes(8)
"""What stands in a row's header for its release where none wrote it."""

Values = dict[str, NDArray[Any] | Texts]

__all__ = ["RowRuns", "by_schema", "feature_columns", "of_other_releases", "wanted_fields"]


def wanted_fields(view: PublishedView, features: Sequence[str]) -> tuple[RowField, ...]:
    """The view's fields for these names, each once.

    Raises:
        RequestInvalid: the view has no such feature.
    """
    fields = {field.name: field for field in view.features}
    if unknown := [name for name in features if name not in fields]:
        raise RequestInvalid(f"{view.name}: no feature {', '.join(unknown)}; it has: {', '.join(fields)}")
    return tuple(row_field(name, fields[name].type) for name in dict.fromkeys(features))


def of_other_releases(view: PublishedView, rows: Sequence[bytes | None]) -> NDArray[np.int64]:
    """Where among n packed rows those of releases stand that the view does not name, `(m,)`.

    They are of a release whose publication is not in force yet, or of one that was withdrawn.
    """
    named = {release_code(release.release_id).to_bytes(8, "little") for release in view.releases} | {_PUSHED}
    if named.issuperset(row[_RELEASE] for row in rows if row is not None):
        return np.zeros(0, np.int64)
    return np.array([at for at, row in enumerate(rows) if row is not None and row[_RELEASE] not in named], np.int64)


class RowRuns:
    """Reads packed rows of one view as runs, where they are as they mostly are: of one schema and one release.

    Safe to use from many threads.

    Args:
        view: the view, of one publication.
        features: names of its features.

    Raises:
        RequestInvalid: the view has no such feature.
    """

    __slots__ = ("_fields", "_none", "_readers", "_releases", "view")

    def __init__(self, view: PublishedView, features: Sequence[str]) -> None:
        self.view = view
        self._fields = wanted_fields(view, features)
        ids = [release.release_id for release in view.releases]
        self._releases = {release_code(release).to_bytes(8, "little"): release for release in ids}
        self._readers: dict[int, tuple[RowSchema, RunReader] | None] = {}
        self._none = self._reader(RowSchema(fields=self._fields))

    def read(
        self, rows: Sequence[bytes | None], schema_of: Callable[[int], RowSchema], earliest: int | None
    ) -> Runs | None:
        """The answer that n packed rows give; None where `feature_columns` must find it.

        Args:
            rows: n packed rows, None where there is none.
            schema_of: gives the schema of a tag.
            earliest: rows of an earlier event time, in microseconds, are too old.
        """
        first = next(filter(None, rows), None)
        if first is None:
            return self._nothing(len(rows))
        known = self._known(int.from_bytes(first[:4], "little"), schema_of)
        release = self._releases.get(first[_RELEASE])
        if known is None or release is None or first[4:8] != _VERSION:
            return None
        schema, reader = known
        found: NDArray[np.bool_] | None = None
        there: Sequence[bytes] = rows  # type: ignore[assignment]  # unless one is None, which is asked next
        if None in rows:
            found = np.array([row is not None for row in rows])
            empty = schema.empty_row.tobytes()
            there = [empty if row is None else row for row in rows]
        if set(map(len, there)) != {schema.width}:
            return None
        head = np.frombuffer(b"".join(there), np.uint8).reshape(len(rows), schema.width)
        own = head if found is None else head[found]
        same, one = first[:8] * len(own), first[_RELEASE] * len(own)
        alike = own[:, :8].tobytes() == same and own[:, _RELEASE].tobytes() == one
        if not alike or (earliest is not None and own[:, 8:16].view("<i8").min() < earliest):
            return None
        nullable = reader.any_null(own)
        gaps = None if found is None and not nullable else reader.gaps(head, found, nullable=nullable)
        return reader.read(release, head, gaps)

    def _nothing(self, count: int) -> Runs | None:
        """The answer where no row is there."""
        if self._none is None or not count:
            return None
        schema, reader = self._none
        head = np.broadcast_to(schema.empty_row, (count, schema.width))
        return reader.read(None, head, reader.gaps(head, np.zeros(count, bool), nullable=False))

    def _known(self, tag: int, schema_of: Callable[[int], RowSchema]) -> tuple[RowSchema, RunReader] | None:
        if tag not in self._readers:
            self._readers[tag] = self._reader(schema_of(tag))
        return self._readers[tag]

    def _reader(self, schema: RowSchema) -> tuple[RowSchema, RunReader] | None:
        """What reads rows of this schema; None where that cannot be."""
        reader = None if schema.texts else RunReader.of(schema, self._fields)
        return None if reader is None else (schema, reader)


def by_schema(
    rows: Sequence[bytes | None], schema_of: Callable[[int], RowSchema]
) -> list[tuple[NDArray[np.int64], Rows]]:
    """Groups n packed rows by what wrote them: where each group's rows stand, and the rows.

    Args:
        rows: None where there is none.
        schema_of: gives the schema of a tag.

    Raises:
        PublicationCorrupt: a row does not fit its schema.
    """
    there = np.flatnonzero(np.fromiter(map(bool, rows), bool, len(rows)))
    if not len(there):
        return []
    texts = Texts.of(list(filter(None, rows)))
    tags = row_tags(texts)
    if (tags == tags[0]).all():
        return [(there, unpack(schema_of(int(tags[0])), texts))]
    groups = []
    for tag in np.unique(tags).tolist():
        mine = np.flatnonzero(tags == tag)
        groups.append((there[mine], unpack(schema_of(tag), texts.take(mine))))
    return groups


def feature_columns(
    view: PublishedView,
    features: Sequence[str],
    rows: Sequence[bytes | None],
    schema_of: Callable[[int], RowSchema],
) -> FeatureColumns:
    """The answer that n packed rows give.

    Args:
        view: the view that they are of.
        features: names of its features.
        rows: n packed rows, None where there is none.
        schema_of: gives the schema of a tag.

    Raises:
        RequestInvalid: the view has no such feature.
        PublicationCorrupt: a row does not fit its schema, or holds what was never published.
    """
    fields = wanted_fields(view, features)
    groups = by_schema(rows, schema_of)
    # Every row that is not there takes the one row of nothing, which comes last.
    sizes = [len(part) for _, part in groups]
    at = np.full(len(rows), sum(sizes), np.int64)
    for (places, part), start in zip(groups, np.cumsum([0, *sizes]).tolist(), strict=False):
        at[places] = np.arange(start, start + len(part))
    found = at < sum(sizes)
    if len(groups) == 1:
        part = groups[0][1] if found.all() else groups[0][1].padded().take(at)
        values, nulls = _published(view, fields, part)
        times, codes = part.event_times, part.releases
    else:
        answers = [_published(view, fields, part) for _, part in groups]
        answers.append(_nothing(fields, 1))
        values = {field.name: _joined([own[field.name] for own, _ in answers], at) for field in fields}
        nulls = np.concatenate([own for _, own in answers], axis=1)[:, at]
        times = np.concatenate([*(part.event_times for _, part in groups), np.zeros(1, np.int64)])[at]
        codes = np.concatenate([*(part.releases for _, part in groups), np.zeros(1, np.uint64)])[at]
    return FeatureColumns(
        names=tuple(field.name for field in fields),
        values=values,
        nulls=nulls,
        found=found,
        event_times=times,
        releases=tuple(release.release_id for release in view.releases),
        release_indexes=_releases(view, codes, times, found),
    )


def _releases(
    view: PublishedView, codes: NDArray[np.uint64], times: NDArray[np.int64], found: NDArray[np.bool_]
) -> NDArray[np.int32]:
    """Positions of the rows' releases; rows that Feast materialised say which by their event time only."""
    indexes = release_indexes(codes, [release_code(release.release_id) for release in view.releases])
    unnamed = found & (codes == 0)
    if unnamed.any():
        ends = [microseconds(datetime.fromisoformat(release.event_time)) for release in view.releases]
        by_time = {end: position for position, end in enumerate(ends)}
        indexes[unnamed] = [by_time.get(time, -1) for time in times[unnamed].tolist()]
    return indexes


def _published(view: PublishedView, fields: Sequence[RowField], rows: Rows) -> tuple[Values, NDArray[np.bool_]]:
    """Columns of rows of one schema as the types that are published, and their nulls `(k, n)`.

    Raises:
        PublicationCorrupt: the rows hold something else.
    """
    names = tuple(field.name for field in fields)
    values, nulls = rows.values(names), rows.nulls(names)
    for field, null in zip(fields, nulls, strict=True):
        stored = rows.schema.by_name.get(field.name)
        if stored == field:
            continue
        if stored is None or null.all():
            values[field.name] = _nothing([field], len(rows))[0][field.name]
            continue
        converted = _converted(stored, field, values[field.name], null)
        if converted is None:
            raise PublicationCorrupt(
                f"{view.reference(field.name)}: the online store holds {stored.kind} where {field.kind} was published; "
                "run 'hedgerow publish'"
            )
        values[field.name] = converted
    return values, nulls


def _converted(
    stored: RowField, wanted: RowField, values: NDArray[Any] | Texts, nulls: NDArray[np.bool_]
) -> NDArray[Any] | None:
    """What Feast writes in another way than releases do; None if it is something else altogether."""
    if isinstance(values, Texts):
        if stored.kind is Kind.STRING and wanted.kind is Kind.DATE:
            texts = ["1970-01-01" if null else text for text, null in zip(values.strings(), nulls, strict=True)]
            return np.array(texts, "M8[D]").astype(np.int64).astype("<i4")
        there = ~nulls
        if stored.kind is Kind.FLOAT32S and wanted.dimension and (values.lengths[there] == 4 * wanted.dimension).all():
            vectors = np.full((len(values), wanted.dimension), np.nan, "<f4")
            vectors[there] = np.frombuffer(values.data.tobytes(), "<f4").reshape(-1, wanted.dimension)
            return vectors
    elif stored.kind is Kind.SECONDS and wanted.kind is Kind.TIMESTAMP:
        return values * 1_000_000
    return None


def _nothing(fields: Sequence[RowField], count: int) -> tuple[Values, NDArray[np.bool_]]:
    values: Values = {}
    for field in fields:
        dtype = field.kind.dtype
        shape = (count,) if field.dimension is None else (count, field.dimension)
        values[field.name] = (
            Texts.empty(count) if dtype is None else np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 0, dtype)
        )
    return values, np.ones((len(fields), count), bool)


def _joined(columns: Sequence[NDArray[Any] | Texts], at: NDArray[np.int64]) -> NDArray[Any] | Texts:
    """The columns one after another, and of these the rows at some positions."""
    texts = [column for column in columns if isinstance(column, Texts)]
    if texts:
        return Texts.concatenate(texts).take(at)
    return np.concatenate([column for column in columns if not isinstance(column, Texts)])[at]
