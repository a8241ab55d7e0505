"""Builds training sets: as many rows out as in, in the same order, each with what was known at its time.

    <state>/datasets/<name>/<first 16 digits of the version>/
        data.parquet      the label table and, for each view, its features (`<view>__<feature>`) and the release that
                          they come from (`<view>__release`)
        manifest.json     see `manifest`

A training set is written whole or not at all, and never changes: the same labels and releases give the same version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from featurestore.committed import check_publishable, committed_releases
from featurestore.datasets.join import newest_rows
from featurestore.datasets.labels import label_keys, label_times, one_array, read_labels, times_of
from featurestore.datasets.manifest import (
    DATA_FILE,
    MANIFEST_FILE,
    label_source_json,
    manifest_bytes,
    read_manifest,
    version_of,
)
from featurestore.datasets.spec import CountsFrom, DatasetSpec
from featurestore.freshness import microseconds
from featurestore.publication import PublishedView
from featurestore.released import release_table
from featurestore.views import ViewPlan, plan_views
from governance.canonical import sha256_file
from governance.errors import DatasetError
from governance.files import publish_directory, remove_tree
from governance.ledger import Ledger
from governance.release import Manifest
from governance.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BuiltDataset", "build_dataset", "verify_dataset"]

_RELEASE: Final = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltDataset:
    """A training set on disk.

    Attributes:
        name: its name.
        version: SHA-256 of what it is made of, 64 hex digits.
        directory: where it lies.
        rows: as many as the label table has.
        releases: ids of the releases that answered.
        is_new: False where the same was there already.
    """

    name: str
    version: str
    directory: Path
    rows: int
    releases: tuple[str, ...]
    is_new: bool


def build_dataset(
    settings: Settings, ledger: Ledger, spec: DatasetSpec, progress: Callable[[str], None] = lambda _: None
) -> BuiltDataset:
    """Builds a training set from committed releases.

    Args:
        settings: the project.
        ledger: says which releases are committed.
        spec: what to build.
        progress: is told, in a few words, what is being done.

    Raises:
        DatasetError: a view or feature that there is none of, or a column name that is taken.
        InputError: the label table is not there, or lacks a column, or has one of a type that cannot be used, or has
            rows without a time.
        ReleaseCorrupt: a release that does not match its manifest or the ledger.
        PublicationError: a release that must not be published.
    """
    plans = _plans(settings, ledger, spec, progress)
    labels = read_labels(spec.labels)
    times = label_times(spec.labels, labels)
    columns, views = [], []
    for plan, features in plans:
        progress(f"{plan.view.name}: joining {len(features)} features")
        joined, about = _joined(settings, spec, labels, times, plan, features)
        columns += joined
        views.append(about)
    for name, column in columns:
        if name in labels.column_names:
            raise DatasetError(f"{spec.labels.path}: has a column {name!r} already, which is a feature's; rename it")
        labels = labels.append_column(name, column)
    assert len(labels) == len(times), "as many rows out as in"
    return _written(settings, spec, labels, views)


def verify_dataset(directory: Path) -> dict[str, Any]:
    """Checks a training set: nothing was changed, and no row has a value of a release that was not known at its time.

    Returns:
        Its manifest.

    Raises:
        DatasetError: what is wrong.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = read_manifest(directory)
    try:
        timestamp = manifest["labels"]["timestamp"]
        wanted = [timestamp, *(_column_name(view["name"], _RELEASE) for view in manifest["views"])]
        table: Any = pq.read_table(directory / DATA_FILE, columns=wanted)
        times = times_of(table[timestamp], str(directory), timestamp)
        if len(table) != manifest["rows"] or manifest["rows"] != manifest["labels"]["rows"]:
            raise DatasetError(f"{directory}: does not have as many rows as its labels; build it anew")
        for view in manifest["views"]:
            known = {release["release_id"]: release["known_from"] for release in view["releases"]}
            used = table[_column_name(view["name"], _RELEASE)].cast(pa.string()).to_pylist()
            late = [
                release
                for release, time in zip(used, times.tolist(), strict=True)
                if release is not None
                and (release not in known or microseconds(datetime.fromisoformat(known[release])) > time)
            ]
            if late:
                raise DatasetError(
                    f"{directory}: {view['name']} has values of releases that were not known at the time of their row; "
                    "do not train on it; build it anew"
                )
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException, OSError) as error:
        raise DatasetError(f"{directory}: cannot be checked ({type(error).__name__}); build it anew") from None
    return manifest


# --- releases --------------------------------------------------------------------------------------------------


def _plans(
    settings: Settings, ledger: Ledger, spec: DatasetSpec, progress: Callable[[str], None]
) -> list[tuple[ViewPlan, list[str]]]:
    """The views that are asked for, with the names of the features wanted of each, in the order they were named."""
    plans = {plan.view.name: plan for plan in plan_views(committed_releases(settings, ledger, progress))}
    wanted: dict[str, list[str]] = {}
    for reference in spec.features:
        name, _, feature = reference.partition(":")
        plan = plans.get(name)
        if plan is None:
            raise DatasetError(f"{spec.name}: no view {name!r}; released: {', '.join(sorted(plans)) or 'none'}")
        if plan.view.feature(feature) is None:
            known = ", ".join(field.name for field in plan.view.features)
            raise DatasetError(f"{spec.name}: view {name} has no feature {feature!r}; it has: {known}")
        wanted.setdefault(name, []).append(feature)
    return [(plans[name], features) for name, features in wanted.items()]


def _known_from(spec: DatasetSpec, manifest: Manifest) -> datetime:
    """From when the values of a release count."""
    end = manifest.window_end
    assert end is not None, "a view has windows only"
    if spec.counts_from is CountsFrom.WINDOW_END:
        return end
    return max(end, datetime.fromisoformat(manifest.created_at))


def _joined(
    settings: Settings,
    spec: DatasetSpec,
    labels: pa.Table,
    times: NDArray[np.int64],
    plan: ViewPlan,
    features: Sequence[str],
) -> tuple[list[tuple[str, Any]], dict[str, Any]]:
    """One view's columns for the label rows, and what the manifest tells of the view."""
    import pyarrow as pa

    view = plan.view
    latest = int(times.max(initial=-(1 << 62)))
    known = [(manifest, microseconds(_known_from(spec, manifest))) for manifest in plan.manifests]
    usable = [(manifest, since) for manifest, since in known if since <= latest]
    for manifest, _ in usable:
        check_publishable(settings, manifest)
    tables = [release_table(settings, view, manifest) for manifest, _ in usable]
    sizes = [len(table) for table in tables]
    ends = np.array([_end(manifest) for manifest, _ in usable], np.int64)
    since = np.array([since for _, since in usable], np.int64)
    release_of = np.repeat(np.arange(len(usable)), sizes)
    asked = label_keys(spec.labels, labels, view)
    rows = np.full(len(times), -1, np.int64)
    columns: list[tuple[str, Any]] = []
    if tables:
        table: Any = pa.concat_tables(tables).combine_chunks()
        rows = newest_rows(
            asked,
            times,
            [one_array(table[key.name]) for key in view.keys],
            ends[release_of],
            since[release_of],
            ttl=view.ttl_seconds * 1_000_000 if view.ttl_seconds else None,
        )
        if spec.in_force:
            rows = np.where(release_of[rows] == _in_force(times, ends, since), rows, -1)
        taken = table.select(list(features)).take(pa.array(rows, mask=rows < 0))
        columns += [(_column_name(view.name, feature), taken[feature]) for feature in features]
    else:
        columns += [(_column_name(view.name, name), _nulls(view, name, len(times))) for name in features]
    answered = np.where(rows >= 0, release_of[rows] if len(release_of) else 0, 0)
    ids = pa.array([manifest.release_id for manifest, _ in usable], pa.string())
    indices: Any = pa.array(answered.astype(np.int32), mask=rows < 0)
    columns.append((_column_name(view.name, _RELEASE), pa.DictionaryArray.from_arrays(indices, ids)))
    counts = np.bincount(answered[rows >= 0], minlength=len(usable)).tolist()
    about = {
        "name": view.name,
        "keys": [key.name for key in view.keys],
        "ttl_seconds": view.ttl_seconds,
        "releases": [
            {
                "release_id": manifest.release_id,
                "sha256": manifest.sha256,
                "window_end": manifest.window.end,
                "known_from": _known_from(spec, manifest).isoformat(),
                "rows": rows_answered,
            }
            for (manifest, _), rows_answered in zip(usable, counts, strict=True)
        ],
    }
    return columns, about


def _in_force(times: NDArray[np.int64], ends: NDArray[np.int64], since: NDArray[np.int64]) -> NDArray[np.int64]:
    """The release with the latest window among those known at each time, `(n,)`; -1 where there is none."""
    order = np.lexsort((ends, since))
    newest = np.array([order[: i + 1][np.argmax(ends[order[: i + 1]])] for i in range(len(order))], np.int64)
    at = np.searchsorted(since[order], times, side="right") - 1
    return np.where(at >= 0, newest[np.maximum(at, 0)], -1)


def _end(manifest: Manifest) -> int:
    assert manifest.window_end is not None, "a view has windows only"
    return microseconds(manifest.window_end)


def _nulls(view: PublishedView, name: str, count: int) -> Any:
    import pyarrow as pa

    from featurestore.column_types import arrow_type

    field = view.feature(name)
    assert field is not None, "checked"
    kind: Any = arrow_type(field.type)
    return pa.nulls(count, kind)


# --- writing ---------------------------------------------------------------------------------------------------


def _column_name(view: str, feature: str) -> str:
    return f"{view}__{feature}"


def _written(settings: Settings, spec: DatasetSpec, table: pa.Table, views: list[dict[str, Any]]) -> BuiltDataset:
    """Writes data and manifest, unless the same is there already."""
    import pyarrow.parquet as pq

    root = settings.state_dir / "datasets"
    staged = root / ".staging" / uuid4().hex
    staged.mkdir(parents=True)
    try:
        data = staged / DATA_FILE
        pq.write_table(table, data)
        content = _content(spec, table, views, data)
        (staged / MANIFEST_FILE).write_bytes(manifest_bytes(content))
        version = version_of(content)
        target = root / spec.name / version[:16]
        try:
            publish_directory(staged, target)
            is_new = True
        except FileExistsError:
            read_manifest(target)
            is_new = False
    finally:
        remove_tree(staged)
    used = [release["release_id"] for view in views for release in view["releases"] if release["rows"]]
    return BuiltDataset(
        name=spec.name, version=version, directory=target, rows=len(table), releases=tuple(used), is_new=is_new
    )


def _content(spec: DatasetSpec, table: pa.Table, views: list[dict[str, Any]], data: Path) -> dict[str, Any]:
    features = {_column_name(*reference.split(":")) for reference in spec.features}
    releases = {_column_name(view["name"], _RELEASE) for view in views}
    keys = {key for view in views for key in view["keys"]}

    def role(name: str) -> str:
        roles = ((features, "feature"), (releases, "release"), (set(spec.labels.labels), "label"), (keys, "key"))
        found = next((role for names, role in roles if name in names), "other")
        return "time" if name == spec.labels.timestamp else found

    return {
        "name": spec.name,
        "rows": len(table),
        "labels": {
            "file": spec.labels.path.name,
            "sha256": sha256_file(spec.labels.path),
            "rows": len(table),
            "timestamp": spec.labels.timestamp,
            "columns": list(spec.labels.labels),
            "source": label_source_json(spec.labels.source),
        },
        "features": list(spec.features),
        "counts_from": str(spec.counts_from),
        "in_force": spec.in_force,
        "views": views,
        "columns": [{"name": field.name, "type": str(field.type), "role": role(field.name)} for field in table.schema],
        "files": [{"name": DATA_FILE, "bytes": data.stat().st_size, "sha256": sha256_file(data)}],
    }
