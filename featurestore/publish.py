"""Publishes feature views: committed releases → Feast definitions, offline rows, online rows.

In this order, so that a crash anywhere leaves what was in force in force, and running again completes it:

    1. check every release against ledger and manifest       nothing is written
    2. reach the online store                                 nothing is written
    3. offline rows, a file per release                       each whole or absent
    4. Feast's registry, prepared in a copy                   not in force yet
    5. online rows of the newest releases                     each row carries its release
       and their snapshots                                    not in force yet: see `online.packed_reader`
    6. registry, feature_store.yaml, definitions.py           each replaced atomically

`serving.publish` then writes the publication record, which puts it all in force for the server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from featurestore.committed import check_publishable, committed_releases
from featurestore.feast_repository import (
    GENERATED_TAG,
    REGISTRY_FILE,
    definitions_text,
    feast_objects,
    feature_store_yaml,
    quiet_feast,
    repo_config,
)
from featurestore.freshness import earliest, microseconds, project_clock
from featurestore.online.writer import open_writer
from featurestore.publication import PublishedService, PublishedView
from featurestore.released import (
    feast_table,
    is_written,
    offline_path,
    release_table,
    released_rows,
    write_offline,
)
from featurestore.snapshots.published import publish_snapshot
from featurestore.views import ViewPlan, plan_services, plan_views
from governance.errors import PublicationError
from governance.files import sync_directory, write_atomic
from governance.ledger import Ledger
from governance.settings import Settings

__all__ = ["publish_views"]

_NEXT_REGISTRY: Final = "registry.next.db"


def publish_views(
    settings: Settings,
    ledger: Ledger,
    progress: Callable[[str], None],
    *,
    clock: Callable[[], datetime] | None = None,
) -> tuple[tuple[PublishedView, ...], tuple[PublishedService, ...]]:
    """Publishes every committed release with features. One process at a time: the caller holds the publish lock.

    Args:
        settings: the project.
        ledger: says which releases are committed.
        progress: is told, in a few words, what is being done.
        clock: gives the current aware UTC time, by which rows grow too old; None: `project_clock`.

    Returns:
        Views and services, for the publication record.

    Raises:
        PublicationError: a release that must not be published, or definitions that contradict each other.
        ReleaseCorrupt: a release that does not match its manifest or the ledger.
        StoreUnreachable: the online store does not answer.
    """
    plans = plan_views(committed_releases(settings, ledger, progress), settings.online_store.pushed)
    services = plan_services([plan.view for plan in plans])
    for plan in plans:
        for manifest in plan.manifests:
            check_publishable(settings, manifest)
    now = clock or project_clock(settings)
    views: list[PublishedView] = []
    writer = open_writer(settings, now)
    try:
        for plan in plans:
            _write_offline(settings, plan)
        progress(f"feast: applying {len(plans)} feature views, {len(services)} feature services")
        store = _apply(settings, plans, services)
        # What is in force stays whole, but of a view that takes pushes it falls back on the snapshot: those come last.
        for plan in sorted(plans, key=lambda plan: plan.view.takes_pushes):
            newest = plan.newest
            progress(f"{plan.view.name}: materialising {newest.rows} rows of {newest.release_id}")
            assert newest.window_end is not None, "a view has windows only"
            ttl = plan.view.ttl_seconds
            if ttl and microseconds(newest.window_end) < earliest(ttl, now()):
                progress(
                    f"{plan.view.name}: the newest release is older than its ttl ({timedelta(seconds=ttl)}), so no row "
                    "of it will be found; run a newer window, or state the data's last day in [calendar]"
                )
            table = release_table(settings, plan.view, newest)
            event_time = microseconds(newest.window_end)
            rows = released_rows(table, plan.view, release_id=newest.release_id, event_time=event_time)
            views.append(replace(plan.view, snapshot=publish_snapshot(settings, plan.view, rows)))
            writer.write(plan.view, rows)
        _finish(settings, store, plans, services)
    finally:
        writer.close()
    return tuple(sorted(views, key=lambda view: view.name)), services


def _write_offline(settings: Settings, plan: ViewPlan) -> None:
    """Writes the releases that the offline store lacks and removes files that no release stands behind."""
    paths = [offline_path(settings, plan.view, manifest) for manifest in plan.manifests]
    for path, manifest in zip(paths, plan.manifests, strict=True):
        if not is_written(path, manifest):
            write_offline(path, feast_table(release_table(settings, plan.view, manifest), plan.view, manifest))
    for found in paths[0].parent.iterdir():
        if found not in paths:
            found.unlink()


def _apply(settings: Settings, plans: Sequence[ViewPlan], services: Sequence[PublishedService]) -> Any:
    """Applies the definitions to a copy of the registry; views and services of ours that are no more are deleted.

    Objects that people registered themselves stay.
    """
    with quiet_feast():
        from feast import FeatureStore
        from feast.errors import FeastError

        _copy_registry(settings)
        try:
            objects = feast_objects(plans, services)
            config = repo_config(settings, registry_file=_NEXT_REGISTRY)
            store = FeatureStore(repo_path=str(settings.feature_repo_dir), config=config)
            kept = {item.name for item in objects}
            registered: list[Any] = [*store.list_feature_views(), *store.list_feature_services()]
            ours = [item for item in registered if GENERATED_TAG in item.tags and item.name not in kept]
            store.apply(objects, objects_to_delete=ours, partial=False)
        except (FeastError, ValueError, TypeError) as error:
            raise PublicationError(
                f"Feast refuses the definitions ({type(error).__name__}: {error}); correct the signals' names and types"
            ) from None
        return store


def _copy_registry(settings: Settings) -> None:
    """Prepares the next registry: a copy of the one in force, or nothing where that cannot be read.

    The registry holds nothing of ours that the releases do not, so a broken one is made anew.
    """
    from feast.protos.feast.core.Registry_pb2 import Registry
    from google.protobuf.message import DecodeError

    settings.feature_repo_dir.mkdir(parents=True, exist_ok=True)
    for left in settings.feature_repo_dir.glob(".*.tmp"):  # of a killed run
        left.unlink()
    following = settings.feature_repo_dir / _NEXT_REGISTRY
    following.unlink(missing_ok=True)
    try:
        data = (settings.feature_repo_dir / REGISTRY_FILE).read_bytes()
        Registry.FromString(data)
    except (FileNotFoundError, DecodeError):
        return
    following.write_bytes(data)


def _finish(settings: Settings, store: Any, plans: Sequence[ViewPlan], services: Sequence[PublishedService]) -> None:
    """Records what was materialised and replaces registry, configuration and definitions."""
    with quiet_feast():
        for plan in plans:
            end = plan.newest.window_end
            interval = (datetime.fromisoformat(plan.newest.window.start), end)
            view = store.get_feature_view(plan.view.name)
            if interval not in view.materialization_intervals:
                store.registry.apply_materialization(view, settings.name, *interval, commit=False)
        store.registry.commit()
    directory = settings.feature_repo_dir
    (directory / _NEXT_REGISTRY).replace(directory / REGISTRY_FILE)
    sync_directory(directory)
    write_atomic(directory / "feature_store.yaml", feature_store_yaml(settings).encode(), mode=0o600)
    write_atomic(directory / "definitions.py", definitions_text(plans, services).encode())
