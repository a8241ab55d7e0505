"""The generated Feast repository: `feature_store.yaml`, `definitions.py`, and the same definitions as Feast objects.

    <state>/feature_repo/
        feature_store.yaml     how Feast finds registry, online and offline store
        definitions.py         plain Feast code, for people and for the `feast` command
        registry.db            Feast's registry
        online.db              the online store (SQLite)
        offline/<view>/<window>.parquet

Everything is made from manifests alone. `import feast` takes seconds, so it happens inside the functions that need it.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from featurestore.column_types import feast_type
from featurestore.publication import PublishedService, PublishedView
from featurestore.views import EVENT_TIME_COLUMN, ViewPlan
from governance.settings import OnlineStoreType, Settings

__all__ = [
    "GENERATED_TAG",
    "ONLINE_FILE",
    "REGISTRY_FILE",
    "definitions_text",
    "feast_objects",
    "feature_store_yaml",
    "feature_view",
    "online_store_options",
    "quiet_feast",
    "repo_config",
]

GENERATED_TAG: Final = "hedgerow"
ONLINE_FILE: Final = "online.db"
REGISTRY_FILE: Final = "registry.db"
_PACKED_SQLITE: Final = "featurestore.online.packed_sqlite.PackedSqliteOnlineStore"
_PACKED_REDIS: Final = "featurestore.online.packed_redis.PackedRedisOnlineStore"
_PACKED_ENGINE: Final = "featurestore.online.feast_engine.PackedComputeEngine"
_WRITE_BATCH: Final = 10_000
_ENTITY_TYPES: Final = {"int64": "INT64"}
_SERVICE_TAGS: Final = {GENERATED_TAG: "release"}


@contextmanager
def quiet_feast() -> Iterator[None]:
    """Keeps Feast's deprecation notes and warning filters to itself. Import Feast and call it inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# --- configuration ---------------------------------------------------------------------------------------------


def online_store_options(settings: Settings) -> dict[str, Any]:
    """Feast's `online_store` section."""
    store = settings.online_store
    if store.type is OnlineStoreType.SQLITE:
        return {"type": _PACKED_SQLITE, "path": ONLINE_FILE}
    return {
        "type": _PACKED_REDIS,
        "connection_string": store.connection_string,
        "topology": str(store.topology),
        "sentinel_master": store.sentinel_master,
    }


def feature_store_yaml(settings: Settings) -> str:
    """`feature_store.yaml`. It may hold the Redis password: write it for the owner only."""
    lines = [
        "# Made by 'hedgerow publish'; changes are overwritten.",
        *(f"{name}: {json.dumps(value)}" for name, value in _options(settings, REGISTRY_FILE).items()),
    ]
    return "\n".join(lines) + "\n"


def repo_config(
    settings: Settings, *, registry_file: str = REGISTRY_FILE, online_store: Mapping[str, Any] | None = None
) -> Any:
    """The same as a `feast.repo_config.RepoConfig`, with another registry file or more `online_store` options."""
    with quiet_feast():
        from feast.repo_config import RepoConfig

        options = _options(settings, registry_file)
        options["online_store"] = {**options["online_store"], **(online_store or {})}
        return RepoConfig(**options, repo_path=settings.feature_repo_dir)


def _options(settings: Settings, registry_file: str) -> dict[str, Any]:
    return {
        "project": settings.name,
        "provider": "local",
        "registry": {"registry_type": "file", "path": registry_file},
        "online_store": online_store_options(settings),
        "offline_store": {"type": "file"},
        "batch_engine": {"type": _PACKED_ENGINE},
        "materialization": {"online_write_batch_size": _WRITE_BATCH},
        "entity_key_serialization_version": 3,
    }


# --- definitions -----------------------------------------------------------------------------------------------


def feast_objects(plans: Sequence[ViewPlan], services: Sequence[PublishedService]) -> list[Any]:
    """Entities, feature views and feature services, as Feast objects."""
    with quiet_feast():
        from feast import FeatureService

        views = {
            plan.view.name: feature_view(plan.view, plan.newest.signal.owner, pushed=plan.view.takes_pushes)
            for plan in plans
        }
        for plan in plans:
            views[plan.view.name].description = plan.newest.signal.description
        return [
            *_entities([plan.view for plan in plans]).values(),
            *views.values(),
            *(
                FeatureService(
                    name=service.name,
                    features=[views[name] for name in _views_of(service)],
                    tags=_SERVICE_TAGS,
                )
                for service in services
            ),
        ]


def feature_view(view: PublishedView, owner: str = "", *, pushed: bool = False) -> Any:
    """One view as a `feast.FeatureView`; with a push source, `<view>_push`, if it takes pushes."""
    with quiet_feast():
        import feast.types
        from feast import FeatureView, Field, FileSource, PushSource

        entities = _entities([view])
        source = FileSource(
            name=f"{view.name}_releases", path=f"offline/{view.name}", timestamp_field=EVENT_TIME_COLUMN
        )
        return FeatureView(
            name=view.name,
            entities=[entities[field.name] for field in view.keys],
            schema=[
                *(Field(name=key.name, dtype=getattr(feast.types, _key_type(key.type))) for key in view.keys),
                *(
                    Field(
                        name=feature.name,
                        dtype=_feast_dtype(feature.type),
                        description=feature.description,
                    )
                    for feature in view.features
                ),
            ],
            source=PushSource(name=f"{view.name}_push", batch_source=source) if pushed else source,
            ttl=timedelta(seconds=view.ttl_seconds),
            tags=_tags(view),
            owner=owner,
        )


def definitions_text(plans: Sequence[ViewPlan], services: Sequence[PublishedService]) -> str:
    """`definitions.py`: the same objects as code. Every value is written as a Python literal."""
    keys = {key.name: key for plan in plans for key in plan.view.keys}
    entities = _variables("entity", sorted(keys))
    views = _variables("view", [plan.view.name for plan in plans])
    types = sorted(
        {_key_type(key.type) for key in keys.values()}
        | {name for plan in plans for feature in plan.view.features for name in feast_type(feature.type)}
    )
    imports = ["Entity", "FeatureService", "FeatureView", "Field", "FileSource"]
    imports += ["PushSource", "ValueType"] if any(plan.view.takes_pushes for plan in plans) else ["ValueType"]
    lines = [
        '"""Feast definitions of the published releases. Made by \'hedgerow publish\'; changes are overwritten."""',
        "",
        "from datetime import timedelta",
        "",
        f"from feast import {', '.join(imports)}",
        *([f"from feast.types import {', '.join(types)}"] if types else []),
        "",
        *(
            f"{variable} = Entity(name={name!r}, join_keys=[{name!r}], "
            f"value_type=ValueType.{_entity_type(keys[name].type)})"
            for name, variable in entities.items()
        ),
    ]
    for plan in plans:
        lines += ["", *_view_lines(plan, views[plan.view.name], [entities[key.name] for key in plan.view.keys])]
    for name, variable in _variables("service", [service.name for service in services]).items():
        service = next(service for service in services if service.name == name)
        lines += [
            "",
            f"{variable} = FeatureService(",
            f"    name={name!r},",
            f"    features=[{', '.join(views[view] for view in _views_of(service))}],",
            f"    tags={_SERVICE_TAGS!r},",
            ")",
        ]
    return "\n".join(lines) + "\n"


def _view_lines(plan: ViewPlan, variable: str, entities: Sequence[str]) -> list[str]:
    view, signal = plan.view, plan.newest.signal
    return [
        f"{variable} = FeatureView(",
        f"    name={view.name!r},",
        f"    description={signal.description!r},",
        f"    owner={signal.owner!r},",
        f"    tags={_tags(view)!r},",
        f"    entities=[{', '.join(entities)}],",
        "    schema=[",
        *(f"        Field(name={key.name!r}, dtype={_key_type(key.type)})," for key in view.keys),
        *(
            f"        Field(name={feature.name!r}, dtype={_dtype_text(feature.type)}, "
            f"description={feature.description!r}),"
            for feature in view.features
        ),
        "    ],",
        *_source_lines(view, pushed=plan.view.takes_pushes),
        f"    ttl=timedelta(seconds={view.ttl_seconds}),",
        ")",
    ]


def _source_lines(view: PublishedView, *, pushed: bool) -> list[str]:
    source = [
        "FileSource(",
        f"    name={view.name + '_releases'!r},",
        f"    path={'offline/' + view.name!r},",
        f"    timestamp_field={EVENT_TIME_COLUMN!r},",
        "),",
    ]
    if pushed:
        inner = [f"batch_source={source[0]}", *source[1:]]
        source = ["PushSource(", f"    name={view.name + '_push'!r},", *(f"    {line}" for line in inner), "),"]
    first, *others = source
    return [f"    source={first}", *(f"    {line}" for line in others)]


def _variables(kind: str, names: Sequence[str]) -> dict[str, str]:
    """A distinct Python variable for each name."""
    variables: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"\W", "_", f"{name}_{kind}", flags=re.ASCII)
        plain = plain if plain.isidentifier() else f"_{plain}"
        while plain in variables.values():
            plain += "_"
        variables[name] = plain
    return variables


def _entities(views: Sequence[PublishedView]) -> dict[str, Any]:
    from feast import Entity, ValueType

    keys = {key.name: key for view in views for key in view.keys}
    return {
        name: Entity(name=name, join_keys=[name], value_type=ValueType[_entity_type(key.type)])
        for name, key in sorted(keys.items())
    }


def _tags(view: PublishedView) -> dict[str, str]:
    return {
        GENERATED_TAG: "release",
        "signal": view.signal,
        "version": str(view.version),
        "entity": view.entity,
        "purpose": view.purpose,
    }


def _views_of(service: PublishedService) -> list[str]:
    """Names of the views that a service takes whole, in its order."""
    return list(dict.fromkeys(reference.partition(":")[0] for reference in service.features))


def _feast_dtype(kind: str) -> Any:
    import feast.types

    *outer, inner = feast_type(kind)
    dtype = getattr(feast.types, inner)
    return getattr(feast.types, outer[0])(dtype) if outer else dtype


def _dtype_text(kind: str) -> str:
    *outer, inner = feast_type(kind)
    return f"{outer[0]}({inner})" if outer else inner


def _entity_type(kind: str) -> str:
    return _ENTITY_TYPES.get(kind, "STRING")


def _key_type(kind: str) -> str:
    return "Int64" if kind == "int64" else "String"
