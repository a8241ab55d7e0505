"""Reads packed SQLite rows straight into columns; Feast takes no part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.online.answers import Answer, wanted_fields
from featurestore.online.database import PackedDatabase
from featurestore.online.keys import encode_columns, feast_keys
from featurestore.online.reader import OnlineColumns
from featurestore.online.rows import COLUMN_KINDS, Column, tags, unpack
from featurestore.publication import FeatureField, PublishedView
from governance.errors import PublicationCorrupt

__all__ = ["PackedReader"]


class PackedReader:
    """An `OnlineReader` over a `PackedDatabase`.

    Args:
        path: the database file.
        project: the project's name, part of every table's name.
        clock: gives the current aware UTC time, for ttl.
    """

    def __init__(self, path: Path, project: str, clock: Callable[[], datetime]) -> None:
        self._database = PackedDatabase(path, read_only=True)
        self._project = project
        self._clock = clock

    def read(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Sequence[Any]]) -> OnlineColumns:
        """See `OnlineReader.read`."""
        fields = wanted_fields(view, features)
        encoded = encode_columns(feast_keys(view, keys))
        rows = self._database.read(f"{self._project}_{view.name}", encoded)

        answer = Answer(fields, len(rows))
        there = np.flatnonzero(np.fromiter((row is not None for row in rows), bool, len(rows)))
        packed = [row for row in rows if row is not None]
        tag_of = tags(packed)
        for tag in np.unique(tag_of).tolist():
            mine = np.flatnonzero(tag_of == tag)
            schema = self._database.schema(tag)
            part_times, columns = unpack(schema, [packed[i] for i in mine.tolist()], features)
            at = there[mine]
            answer.found[at] = True
            answer.times[at] = part_times
            kinds = {field.name: field.kind for field in schema.fields}
            for field in fields:
                if field.name in columns:
                    if kinds[field.name] is not COLUMN_KINDS[field.type]:
                        raise PublicationCorrupt(
                            f"{view.reference(field.name)}: the online store holds {kinds[field.name]} where "
                            f"{field.type} was published; run 'hedgerow publish'"
                        )
                    column = columns[field.name]
                    answer.values[field.name][at] = _typed(field, column)
                    answer.nulls[field.name][at] = column.nulls
        return answer.finish(view.ttl_seconds, self._clock())

    def close(self) -> None:
        """Closes the connections of all threads."""
        self._database.close()


def _typed(field: FeatureField, column: Column) -> NDArray[Any]:
    """The column in the numpy type of `OnlineColumns`, with the empty value where null."""
    if field.type == "string":
        return np.array([str(text, "utf-8") for text in column.values], object)
    if field.type == "date":
        texts = ["NaT" if null else str(text, "utf-8") for text, null in zip(column.values, column.nulls, strict=True)]
        return np.array(texts, "M8[D]")
    if field.type == "float64":
        return np.where(column.nulls, np.nan, column.values)
    return column.values
