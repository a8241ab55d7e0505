"""Views and services out of manifests: which releases form a feature view, and what it is called.

    release  genre_affinity/v2/2025-11-03   ─┐
    release  genre_affinity/v2/2025-11-10   ─┴▶  view genre_affinity_v2   ─▶  service ranking_user_genre

Pure: nothing here reads a file or knows Feast.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from featurestore.column_types import FEATURE_TYPES, KEY_TYPES, is_feature_type
from featurestore.publication import (
    FeatureField,
    KeyField,
    PublishedRelease,
    PublishedService,
    PublishedView,
)
from governance.errors import PublicationError
from governance.release import Column, Manifest

__all__ = ["EVENT_TIME_COLUMN", "RELEASE_COLUMN", "ViewPlan", "plan_services", "plan_views"]

EVENT_TIME_COLUMN = "event_timestamp"
RELEASE_COLUMN = "release_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPlan:
    """A view and the manifests behind it.

    Attributes:
        view: what will be published.
        manifests: one for each of `view.releases`, in the same order: oldest first.
    """

    view: PublishedView
    manifests: tuple[Manifest, ...]

    @property
    def newest(self) -> Manifest:
        """The release that is materialised."""
        return self.manifests[-1]


def plan_views(manifests: Iterable[Manifest], pushed: Collection[str] = ()) -> tuple[ViewPlan, ...]:
    """Groups committed releases by signal and version; releases of vectors, or without a window, form no view.

    Args:
        manifests: of the releases.
        pushed: signals whose views take pushes besides releases.

    Returns:
        Sorted by view name.

    Raises:
        PublicationError: releases of one version disagree about columns, a key has two types, or a name is taken.
    """
    groups: dict[tuple[str, int], list[Manifest]] = {}
    for manifest in manifests:
        if manifest.window_end is not None and manifest.features:
            groups.setdefault((manifest.signal.name, manifest.signal.version), []).append(manifest)
    plans = tuple(
        sorted(
            (_plan(sorted(group, key=lambda m: (m.window_end, m.release_id)), pushed) for group in groups.values()),
            key=lambda plan: plan.view.name,
        )
    )
    _check_keys(plans)
    return plans


def plan_services(views: Iterable[PublishedView]) -> tuple[PublishedService, ...]:
    """One service for each purpose and entity: every feature of the newest version of each signal; sorted by name."""
    newest = {view.signal: view for view in sorted(views, key=lambda view: view.version)}
    features: dict[str, list[str]] = {}
    for view in sorted(newest.values(), key=lambda view: view.name):
        references = features.setdefault(f"{view.purpose}_{view.entity}", [])
        references.extend(view.reference(feature.name) for feature in view.features)
    return tuple(PublishedService(name=name, features=tuple(features[name])) for name in sorted(features))


def _plan(manifests: list[Manifest], pushed: Collection[str]) -> ViewPlan:
    newest = manifests[-1]
    signal = newest.signal
    name = f"{signal.name}_v{signal.version}"
    columns = _columns(newest)
    for manifest in manifests:
        if _columns(manifest) != columns:
            raise PublicationError(
                f"{manifest.release_id}: other columns than {newest.release_id}, though both are version "
                f"{signal.version}; give the changed signal a new version"
            )
    ends = [manifest.window.end for manifest in manifests]
    if len({manifest.window_end for manifest in manifests}) != len(ends):
        raise PublicationError(
            f"{name}: two releases whose windows end at the same time; rows would not tell which they come from; "
            "give one a new version"
        )
    view = PublishedView(
        name=name,
        signal=signal.name,
        version=signal.version,
        entity=signal.entity,
        keys=tuple(KeyField(name=column.name, type=column.type) for column in _of_role(newest, "key")),
        features=tuple(
            FeatureField(
                name=column.name,
                type=column.type,
                description=column.description,
                noise_stddev=column.noise_stddev,
            )
            for column in newest.features
        ),
        ttl_seconds=signal.ttl_seconds,
        purpose=signal.purpose,
        releases=tuple(
            PublishedRelease(release_id=manifest.release_id, event_time=end, sha256=manifest.sha256)
            for manifest, end in zip(manifests, ends, strict=True)
        ),
        takes_pushes=signal.name in pushed,
    )
    return ViewPlan(view=view, manifests=tuple(manifests))


def _columns(manifest: Manifest) -> tuple[tuple[str, str, str], ...]:
    """(name, type, role) of keys and features, checked.

    Raises:
        PublicationError: a type that a feature view cannot hold, or a name that the feature store uses itself.
    """
    columns = (*_of_role(manifest, "key"), *manifest.features)
    for column in columns:
        if not (column.type in KEY_TYPES if column.role == "key" else is_feature_type(column.type)):
            allowed = KEY_TYPES if column.role == "key" else FEATURE_TYPES
            raise PublicationError(
                f"{manifest.release_id}: column {column.name!r} has type {column.type}; "
                f"a {column.role} of a feature view is one of: {', '.join(allowed)}"
            )
        if column.name in (EVENT_TIME_COLUMN, RELEASE_COLUMN):
            raise PublicationError(
                f"{manifest.release_id}: the feature store uses the name {column.name!r} itself; rename the column"
            )
    return tuple((column.name, column.type, column.role) for column in columns)


def _of_role(manifest: Manifest, role: str) -> tuple[Column, ...]:
    return tuple(column for column in manifest.columns if column.role == role)


def _check_keys(plans: tuple[ViewPlan, ...]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for plan in plans:
        for key in plan.view.keys:
            other, kind = seen.setdefault(key.name, (plan.view.name, key.type))
            if kind != key.type:
                raise PublicationError(
                    f"key {key.name!r} is {kind} in {other} and {key.type} in {plan.view.name}; "
                    "one key has one type in a project; rename one of them"
                )
