"""A release's columns → a snapshot file, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.rows import Column, KeyColumn, RowSchema, Texts, pack, release_code
from featurestore.snapshots.format import Header, assemble
from featurestore.snapshots.index import TableIndex, build_index
from governance.errors import PublicationError
from governance.files import write_atomic

__all__ = ["snapshot_bytes", "write_snapshot"]


def snapshot_bytes(
    view: str,
    schema: RowSchema,
    keys: Mapping[str, KeyColumn],
    columns: Mapping[str, Column],
    *,
    release_id: str,
    event_time: int,
) -> bytes:
    """The bytes of a snapshot: the same input always gives the same bytes.

    Args:
        view: the view's name.
        schema: of the rows.
        keys: join key → n values, in the view's order.
        columns: one of n values for every field of the schema.
        release_id: the release that they come from.
        event_time: of all rows, microseconds since 1970 UTC.

    Raises:
        PublicationError: a key occurs twice, or there are too many rows.
    """
    try:
        index, order = build_index(list(keys.values()))
    except ValueError as error:
        raise PublicationError(
            f"{release_id}: {error}; a release has one row for each key: restore it from a backup or run the window "
            "anew; nothing was published"
        ) from None
    count = len(order)
    rows = pack(
        schema,
        {name: _ordered(column, order) for name, column in columns.items()},
        event_times=np.full(count, event_time, np.int64),
        releases=release_code(release_id),
    )
    sections: dict[str, NDArray[Any]] = {}
    if isinstance(index, TableIndex):
        sections["places"] = index.table.places
    else:
        sections["hashes"], sections["starts"] = index.hashes, index.starts
    sections["row"] = np.concatenate([rows.head, schema.empty_row[None, :]])
    if rows.tails is not None:
        sections["tail.starts"] = np.append(rows.tails.offsets, rows.tails.offsets[-1])
        sections["tail"] = rows.tails.data
    for i, column in enumerate(index.keys):
        if isinstance(column, Texts):
            sections[f"key.{i}.offsets"], sections[f"key.{i}"] = column.offsets, column.data
        else:
            sections[f"key.{i}"] = column.astype("<i8")
    header = Header(
        view=view,
        keys=tuple((name, "string" if isinstance(column, Texts) else "int64") for name, column in keys.items()),
        schema=schema,
        rows=count,
        releases=(release_id,),
    )
    return assemble(header, sections)


def write_snapshot(path: Path, data: bytes) -> None:
    """Writes a snapshot's bytes in one atomic and durable step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def _ordered(column: Column, order: NDArray[np.int64]) -> Column:
    values = column.values
    return Column(
        values=values.take(order) if isinstance(values, Texts) else values.take(order, axis=0),
        nulls=column.nulls[order],
    )
