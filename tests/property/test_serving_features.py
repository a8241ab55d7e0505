"""GetFeatures from snapshots: as runs, with gaps or without, the bytes are what the same rows give as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.column_types import row_field
from featurestore.publication import FeatureField, KeyField, PublishedRelease, PublishedView
from featurestore.rows import Column, FeatureColumns, RowSchema, Texts
from featurestore.snapshots import Snapshot, open_snapshot, snapshot_bytes
from serving.features import get_features
from serving.state import Published
from serving.v1 import features_pb2

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
INT32 = st.integers(-(1 << 31), (1 << 31) - 1)
FLOAT32 = st.floats(width=32)
TYPES: dict[str, st.SearchStrategy[Any]] = {
    "int64": INT64,
    "float64": st.floats(),
    "float32": FLOAT32,
    "bool": st.booleans(),
    "date": INT32,
    "timestamp": INT64,
    "string": st.text("aż", max_size=3),
    "vector<float32>[3]": st.tuples(FLOAT32, FLOAT32, FLOAT32),
}
EVENT_TIME = 1_763_337_600_000_000


class Arrays:
    """Reads the same snapshots, and gives arrays always."""

    def __init__(self, snapshots: Mapping[str, Snapshot]) -> None:
        self.snapshots = snapshots

    def look_up(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Any]) -> FeatureColumns:
        return self.snapshots[view.name].get(keys, features)

    get = look_up


@st.composite
def tables(draw: st.DrawFn, name: str) -> tuple[PublishedView, Snapshot]:
    kinds = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=5))
    texts = draw(st.booleans())
    types = {f"f{i}": kind for i, kind in enumerate(kinds) if texts or kind != "string"} or {"f0": "int64"}
    keys = draw(st.lists(st.integers(-3, 6) | INT64, unique=True, max_size=8))
    present = draw(st.sampled_from([st.none(), st.nothing()]))  # with nulls, or without any
    columns = {
        feature: draw(st.lists(present | TYPES[kind], min_size=len(keys), max_size=len(keys)))
        for feature, kind in types.items()
    }
    view = PublishedView(
        name=name,
        signal=name,
        version=1,
        entity="id",
        keys=(KeyField(name="id", type="int64"),),
        features=tuple(
            FeatureField(name=feature, type=kind, description="", noise_stddev=draw(st.sampled_from([None, 2.5])))
            for feature, kind in types.items()
        ),
        ttl_seconds=0,
        purpose="ranking",
        releases=(PublishedRelease(release_id=f"{name}/a", event_time="2025-11-17T00:00:00+00:00", sha256="0" * 64),),
    )
    return view, snapshot(view, keys, columns)


def snapshot(view: PublishedView, keys: list[int], columns: Mapping[str, list[Any]]) -> Snapshot:
    schema = RowSchema(fields=tuple(row_field(field.name, field.type) for field in view.features))
    packed = {}
    for field in schema.fields:
        cells = columns[field.name]
        nulls = np.array([cell is None for cell in cells], bool)
        values: Any
        if field.kind.dtype is None:
            values = Texts.encoded([cell or "" for cell in cells])
        else:
            empty: Any = (0.0,) * field.dimension if field.dimension else 0
            values = np.array([empty if cell is None else cell for cell in cells], field.kind.dtype)
            values = values.reshape(len(cells), field.dimension) if field.dimension else values
        packed[field.name] = Column(values=values, nulls=nulls)
    data = snapshot_bytes(
        view.name, schema, {"id": np.array(keys, np.int64)}, packed, release_id=f"{view.name}/a", event_time=EVENT_TIME
    )
    with TemporaryDirectory() as folder:
        path = Path(folder, "v.snapshot")
        path.write_bytes(data)
        return open_snapshot(path)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.tuples(tables("a"), tables("b")))
def test_runs_are_written_as_arrays_are(data: st.DataObject, views: tuple[tuple[PublishedView, Snapshot], ...]) -> None:
    snapshots = {view.name: own for view, own in views}
    state: dict[str, Any] = {
        "sequence": 4,
        "views": {view.name: view for view, _ in views},
        "services": {},
        "spaces": {},
        "catalogue": None,
    }
    reader: Any = Arrays(snapshots)
    from_runs = Published(reader=None, snapshots=snapshots, **state)
    from_arrays = Published(reader=reader, **state)
    references = [view.reference(field.name) for view, _ in views for field in view.features]
    some = data.draw(st.lists(st.sampled_from(references), unique=True, min_size=1))
    known = sorted({key for own in snapshots.values() for key in own.key_columns[0].tolist()})  # type: ignore[union-attr]
    entity = st.sampled_from(known) | st.integers(-4, 8) if known else INT64
    for _ in range(3):
        ids = data.draw(st.lists(entity, max_size=18))
        request = features_pb2.GetFeaturesRequest()
        request.features.references.extend(some)
        request.keys.add(name="id").int64s.SetInParent()
        request.keys[0].int64s.values.extend(ids)
        wanted = get_features(from_arrays, request, lambda *_: None)
        assert features_pb2.GetFeaturesResponse.FromString(wanted).SerializeToString() == wanted
        for asked in (request, request.SerializeToString(), request):
            assert get_features(from_runs, asked, lambda *_: None) == wanted
