"""A release's rows as the feature store holds them: in Feast's types, with their event time and release.

Feast has no date, boolean or float join keys and no dates as features, so keys of these types and all dates are text
(see `featurestore.online.keys`); everything else keeps its type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from featurestore.online.keys import stored_text
from featurestore.online.rows import COLUMN_KINDS, Column, Kind
from featurestore.publication import PublishedView
from featurestore.views import EVENT_TIME_COLUMN, RELEASE_COLUMN
from governance.errors import ReleaseCorrupt
from governance.files import write_atomic
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ReleasedRows", "feast_table", "is_written", "offline_path", "released_rows", "write_offline"]

_SOURCE: Final = b"hedgerow.manifest_sha256"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedRows:
    """n rows of one release, ready to be written online.

    Attributes:
        keys: join key → n values as Feast holds them.
        features: feature → values and nulls `(n,)`; text as UTF-8 bytes.
        event_time: of all rows, aware UTC.
    """

    keys: Mapping[str, Sequence[Any]]
    features: Mapping[str, Column]
    event_time: datetime

    def __len__(self) -> int:
        """n."""
        return len(next(iter(self.keys.values())))


def feast_table(settings: Settings, view: PublishedView, manifest: Manifest) -> pa.Table:
    """Reads a release's rows and turns them into Feast's types, with `event_timestamp` and `release_id`.

    Raises:
        ReleaseCorrupt: the files cannot be read as the manifest says, or a key is null.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "date": pa.date32(),
        "bool": pa.bool_(),
    }
    keys = [(field.name, field.type) for field in view.keys]
    features = [(field.name, field.type) for field in view.features]
    names = [name for name, _ in (*keys, *features)]
    try:
        files = ReleaseStore(settings.releases_dir).data_files(manifest)
        table = pa.concat_tables([pq.read_table(path, columns=names) for path in files]).combine_chunks()
        columns = {name: table[name].cast(arrow[kind]) for name, kind in (*keys, *features)}
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ReleaseCorrupt(
            f"{manifest.release_id}: its files cannot be read as the manifest says ({type(error).__name__}); "
            "restore the release from a backup"
        ) from None
    for name, kind in keys:
        if columns[name].null_count:
            raise ReleaseCorrupt(f"{manifest.release_id}: key {name!r} has nulls; restore the release from a backup")
        if kind not in ("int64", "string"):
            columns[name] = pa.array([stored_text(value) for value in columns[name].to_pylist()], pa.string())
    for name, kind in features:
        if kind == "date":
            columns[name] = columns[name].cast(pa.string())
    end = manifest.window_end
    assert end is not None, "a view has windows only"
    columns[EVENT_TIME_COLUMN] = pa.repeat(pa.scalar(end, pa.timestamp("us", "UTC")), table.num_rows)
    columns[RELEASE_COLUMN] = pa.repeat(pa.scalar(manifest.release_id, pa.string()), table.num_rows)
    return pa.table(columns).replace_schema_metadata({_SOURCE: manifest.sha256})


def released_rows(view: PublishedView, table: pa.Table, event_time: datetime) -> ReleasedRows:
    """The rows of a `feast_table` for the online store."""
    return ReleasedRows(
        keys={field.name: table[field.name].to_pylist() for field in view.keys},
        features={field.name: _column(table[field.name], COLUMN_KINDS[field.type]) for field in view.features},
        event_time=event_time,
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


def _column(column: Any, kind: Kind) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    nulls = column.is_null().to_numpy()
    if kind is Kind.STRING:
        values = column.cast(pa.binary()).to_numpy(zero_copy_only=False)
    else:
        values = pc.fill_null(column, False if kind is Kind.BOOL else 0).to_numpy()
    return Column(values=values, nulls=np.asarray(nulls, bool))
