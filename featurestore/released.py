"""A release's rows: as columns for the packed stores and snapshots, and as Feast's offline store holds them.

Feast has no date, boolean or float join keys and no dates as features, so keys of these types are text everywhere, and
dates are text in the offline store (see `featurestore.column_types`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.arrow_columns import key_column, packed_column
from featurestore.column_types import arrow_type, row_field
from featurestore.online.keys import stored_text
from featurestore.publication import FeatureField, PublishedView
from featurestore.rows import Column, KeyColumn, PackedRows, RowSchema, pack, release_code
from featurestore.views import EVENT_TIME_COLUMN, RELEASE_COLUMN
from governance.errors import ReleaseCorrupt
from governance.files import write_atomic
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ReleasedRows",
    "feast_table",
    "is_written",
    "offline_path",
    "read_release",
    "release_table",
    "released_rows",
    "view_schema",
    "write_offline",
]

_SOURCE: Final = b"hedgerow.manifest_sha256"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReleasedRows:
    """n rows of one release, ready to be packed.

    Attributes:
        keys: join key → n values as Feast holds them, in the view's order.
        columns: feature → values and nulls.
        schema: the view's.
        event_time: of all rows, microseconds since 1970 UTC.
        release_id: of all rows.
    """

    keys: Mapping[str, KeyColumn]
    columns: Mapping[str, Column]
    schema: RowSchema
    event_time: int
    release_id: str

    def __len__(self) -> int:
        """n."""
        return len(next(iter(self.keys.values())))

    def event_times(self) -> NDArray[np.int64]:
        """The event time of each row, `(n,)`."""
        return np.full(len(self), self.event_time, np.int64)

    def packed(self) -> PackedRows:
        """The rows as the online stores hold them."""
        return pack(self.schema, self.columns, event_times=self.event_times(), releases=release_code(self.release_id))


def view_schema(view: PublishedView) -> RowSchema:
    """The packed rows of a view."""
    return RowSchema(fields=tuple(row_field(field.name, field.type) for field in view.features))


def release_table(settings: Settings, view: PublishedView, manifest: Manifest) -> pa.Table:
    """Reads a release's keys and features, in the types that the manifest says; keys as Feast holds them.

    Raises:
        ReleaseCorrupt: the files cannot be read as the manifest says, or a key is null.
    """
    return read_release(
        ReleaseStore(settings.releases_dir).data_files(manifest), view, view.features, manifest.release_id
    )


def read_release(
    files: Sequence[Path], view: PublishedView, features: Sequence[FeatureField], release_id: str
) -> pa.Table:
    """The same from some of its files, with the view's keys and some of its features.

    Raises:
        ReleaseCorrupt: see `release_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [(key.name, key.type) for key in view.keys] + [(field.name, field.type) for field in features]
    try:
        names = [name for name, _ in fields]
        table = pa.concat_tables([pq.read_table(path, columns=names) for path in files]).combine_chunks()
        columns: dict[str, Any] = {name: table[name].cast(arrow_type(kind)) for name, kind in fields}
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ReleaseCorrupt(
            f"{release_id}: its files cannot be read as the manifest says ({type(error).__name__}); "
            "restore the release from a backup"
        ) from None
    for key in view.keys:
        column = columns[key.name]
        if column.null_count:
            raise ReleaseCorrupt(f"{release_id}: key {key.name!r} has nulls; restore the release from a backup")
        if key.type == "date":
            columns[key.name] = column.cast(pa.string())
        elif key.type not in ("int64", "string"):
            columns[key.name] = pa.chunked_array([[stored_text(value) for value in column.to_pylist()]], pa.string())
    return pa.table(columns)


def feast_table(table: pa.Table, view: PublishedView, manifest: Manifest) -> pa.Table:
    """A `release_table` in Feast's types, with `event_timestamp` and `release_id`."""
    import pyarrow as pa

    end = manifest.window_end
    assert end is not None, "a view has windows only"
    for field in view.features:
        if field.type == "date":
            at = table.schema.get_field_index(field.name)
            table = table.set_column(at, field.name, table[field.name].cast(pa.string()))
    table = table.append_column(EVENT_TIME_COLUMN, pa.repeat(pa.scalar(end, pa.timestamp("us", "UTC")), len(table)))
    table = table.append_column(RELEASE_COLUMN, pa.repeat(pa.scalar(manifest.release_id, pa.string()), len(table)))
    return table.replace_schema_metadata({_SOURCE: manifest.sha256})


def released_rows(table: pa.Table, view: PublishedView, *, release_id: str, event_time: int) -> ReleasedRows:
    """The rows of a `release_table` for online stores and snapshots.

    Args:
        table: n rows.
        view: its view.
        release_id: the release they come from.
        event_time: microseconds since 1970 UTC.
    """
    schema = view_schema(view)
    return ReleasedRows(
        keys={field.name: key_column(table[field.name]) for field in view.keys},
        columns={field.name: packed_column(table[field.name]) for field in schema.fields},
        schema=schema,
        event_time=event_time,
        release_id=release_id,
    )


def offline_path(settings: Settings, view: PublishedView, manifest: Manifest) -> Path:
    """Where the offline store keeps a release's rows."""
    return settings.feature_repo_dir / "offline" / view.name / f"{Path(manifest.release_id).name}.parquet"


def write_offline(path: Path, table: pa.Table) -> None:
    """Writes a `feast_table` where the offline store finds it, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, sink.getvalue().to_pybytes())


def is_written(path: Path, manifest: Manifest) -> bool:
    """Whether the offline store has exactly this release there already."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return False
    return (schema.metadata or {}).get(_SOURCE) == manifest.sha256.encode()
