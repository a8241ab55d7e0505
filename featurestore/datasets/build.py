"""Builds training sets: as many rows out as in, in the same order, each with what was known at its time.

    <state>/datasets/<name>/<first 16 digits of the version>/
        data.parquet      the label table and, for each view, its features (`<view>__<feature>`) and the release that
                          they come from (`<view>__release`); a file, or a folder of them
        manifest.json     see `manifest`

A training set is written whole or not at all, and never changes: the same labels and releases, joined by the same
engine, give the same version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from featurestore.committed import check_publishable, committed_releases
from featurestore.datasets.engine import DATA_FILE, DatasetEngine, InMemory, Joined
from featurestore.datasets.labels import LabelFiles, label_keys, label_times, open_labels, times_of
from featurestore.datasets.manifest import MANIFEST_FILE, label_source_json, manifest_bytes, read_manifest, version_of
from featurestore.datasets.spec import CountsFrom, DatasetSpec
from featurestore.datasets.views import RELEASE, UsableRelease, ViewJoin, column_name
from featurestore.freshness import microseconds
from featurestore.views import ViewPlan, plan_views
from governance.errors import DatasetError
from governance.files import publish_directory, remove_tree
from governance.ledger import Ledger
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings

__all__ = ["BuiltDataset", "build_dataset", "verify_dataset"]


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
    settings: Settings,
    ledger: Ledger,
    spec: DatasetSpec,
    progress: Callable[[str], None] = lambda _: None,
    *,
    engine: DatasetEngine | None = None,
) -> BuiltDataset:
    """Builds a training set from committed releases.

    Args:
        settings: the project.
        ledger: says which releases are committed.
        spec: what to build.
        progress: is told, in a few words, what is being done.
        engine: reads, joins and writes; None: `InMemory`.

    Raises:
        DatasetError: a view or feature that there is none of, or a column name that is taken.
        InputError: the label table is not there, or lacks a column, or has one of a type that cannot be used, or has
            rows without a time.
        ReleaseCorrupt: a release that does not match its manifest or the ledger.
        PublicationError: a release that must not be published.
    """
    engine = engine or InMemory()
    plans = _plans(settings, ledger, spec, progress)
    table = open_labels(spec.labels)
    # What columns there are, and of which types, is told before any of them is read.
    nothing = table.schema.empty_table()
    label_times(spec.labels, nothing)
    for plan, _ in plans:
        label_keys(spec.labels, nothing, plan.view)
    for name in (column_name(plan.view.name, feature) for plan, features in plans for feature in (*features, RELEASE)):
        if name in table.schema.names:
            raise DatasetError(f"{spec.labels.path}: has a column {name!r} already, which is a feature's; rename it")
    progress(f"reading {sum(table.rows):,} labels")
    survey = engine.survey(table, [plan.view for plan, _ in plans])
    joins = [_join(settings, spec, plan, features, survey.latest) for plan, features in plans]
    return _written(settings, spec, table, table.digest(survey.digests), joins, engine, progress)


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
        wanted = [timestamp, *(column_name(view["name"], RELEASE) for view in manifest["views"])]
        table: Any = pq.read_table(directory / DATA_FILE, columns=wanted)
        times = times_of(table[timestamp], str(directory), timestamp)
        if len(table) != manifest["rows"] or manifest["rows"] != manifest["labels"]["rows"]:
            raise DatasetError(f"{directory}: does not have as many rows as its labels; build it anew")
        for view in manifest["views"]:
            known = {release["release_id"]: release["known_from"] for release in view["releases"]}
            used = table[column_name(view["name"], RELEASE)].cast(pa.string()).to_pylist()
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


def _join(
    settings: Settings, spec: DatasetSpec, plan: ViewPlan, features: Sequence[str], latest: int | None
) -> ViewJoin:
    """How a view is joined, with the releases that are known at the time of the latest label."""
    usable = []
    for manifest in plan.manifests:
        known_from, end = _known_from(spec, manifest), manifest.window_end
        assert end is not None, "a view has windows only"
        if latest is None or microseconds(known_from) > latest:
            continue
        check_publishable(settings, manifest)
        usable.append(
            UsableRelease(
                release_id=manifest.release_id,
                sha256=manifest.sha256,
                window_end=manifest.window.end,
                known_from=known_from.isoformat(),
                end=microseconds(end),
                since=microseconds(known_from),
                files=tuple(ReleaseStore(settings.releases_dir).data_files(manifest)),
            )
        )
    fields = {field.name: field for field in plan.view.features}
    return ViewJoin(
        view=plan.view,
        features=tuple(fields[name] for name in features),
        in_force=spec.in_force,
        releases=tuple(usable),
    )


# --- writing ---------------------------------------------------------------------------------------------------


def _written(
    settings: Settings,
    spec: DatasetSpec,
    table: LabelFiles,
    digest: str,
    joins: Sequence[ViewJoin],
    engine: DatasetEngine,
    progress: Callable[[str], None],
) -> BuiltDataset:
    """Writes data and manifest, unless the same is there already."""
    root = settings.state_dir / "datasets"
    staged = root / ".staging" / uuid4().hex
    staged.mkdir(parents=True)
    try:
        joined = engine.write(table, joins, staged, progress)
        rows = sum(file.rows for file in joined.files)
        if rows != sum(table.rows):
            raise DatasetError(f"{spec.labels.path}: was changed while it was read; build again")
        content = _content(spec, digest, joins, joined)
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
    used = [release["release_id"] for view in content["views"] for release in view["releases"] if release["rows"]]
    return BuiltDataset(
        name=spec.name, version=version, directory=target, rows=rows, releases=tuple(used), is_new=is_new
    )


def _content(spec: DatasetSpec, digest: str, joins: Sequence[ViewJoin], joined: Joined) -> dict[str, Any]:
    features = {column_name(*reference.split(":")) for reference in spec.features}
    releases = {column_name(join.view.name, RELEASE) for join in joins}
    keys = {key for join in joins for key in join.keys}
    rows = sum(file.rows for file in joined.files)

    def role(name: str) -> str:
        roles = ((features, "feature"), (releases, "release"), (set(spec.labels.labels), "label"), (keys, "key"))
        found = next((role for names, role in roles if name in names), "other")
        return "time" if name == spec.labels.timestamp else found

    return {
        "name": spec.name,
        "rows": rows,
        "labels": {
            "file": spec.labels.path.name,
            "sha256": digest,
            "rows": rows,
            "timestamp": spec.labels.timestamp,
            "columns": list(spec.labels.labels),
            "source": label_source_json(spec.labels.source),
        },
        "features": list(spec.features),
        "counts_from": str(spec.counts_from),
        "in_force": spec.in_force,
        "views": [_about(join, counts) for join, counts in zip(joins, joined.counts, strict=True)],
        "columns": [{"name": field.name, "type": str(field.type), "role": role(field.name)} for field in joined.schema],
        "files": [{"name": file.name, "bytes": file.bytes, "sha256": file.sha256} for file in joined.files],
    }


def _about(join: ViewJoin, counts: Sequence[int]) -> dict[str, Any]:
    """What the manifest tells of a view."""
    return {
        "name": join.view.name,
        "keys": list(join.keys),
        "ttl_seconds": join.view.ttl_seconds,
        "releases": [
            {
                "release_id": release.release_id,
                "sha256": release.sha256,
                "window_end": release.window_end,
                "known_from": release.known_from,
                "rows": rows,
            }
            for release, rows in zip(join.releases, counts, strict=True)
        ],
    }
