"""The publication record: what is in force in the feature store and at the server, as one frozen value.

`hedgerow publish` writes views, embedding spaces and the device catalogue, and this record last, in one atomic write.
So the record is the switch: whatever happened before it was written, the old publication stays in force whole. Serving
reads it and nothing else to know what exists.

The record holds names, types and hashes only: no keys and no values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from featurestore.column_types import FEATURE_TYPES, KEY_TYPES, is_feature_type
from governance.canonical import canonical_bytes
from governance.errors import NotPublished, PublicationCorrupt
from governance.files import write_atomic
from governance.settings import Settings

__all__ = [
    "FeatureField",
    "KeyField",
    "Publication",
    "PublishedCatalogue",
    "PublishedRelease",
    "PublishedService",
    "PublishedSnapshot",
    "PublishedSpace",
    "PublishedView",
    "inside_serving_dir",
    "load_publication",
    "write_publication",
]

PUBLICATION_FILE = "publication.json"
SCHEMA = "hedgerow.publication/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyField:
    """One key column of a view or space.

    Attributes:
        name: the column's name, also Feast's join key.
        type: one of `column_types.KEY_TYPES`.
    """

    name: str
    type: str

    def __post_init__(self) -> None:
        if self.type not in KEY_TYPES:
            raise ValueError(f"key {self.name!r} has type {self.type!r}; allowed: {', '.join(KEY_TYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureField:
    """One feature of a view.

    Attributes:
        name: the column's name.
        type: one of `column_types.FEATURE_TYPES`.
        description: what it means, with its unit.
        noise_stddev: standard deviation of its noise in its own units; None where it has none or it depends on the row.
    """

    name: str
    type: str
    description: str
    noise_stddev: float | None

    def __post_init__(self) -> None:
        if not is_feature_type(self.type):
            raise ValueError(f"column {self.name!r} has type {self.type!r}; allowed: {', '.join(FEATURE_TYPES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRelease:
    """One release behind a view.

    Attributes:
        release_id: `<signal>/v<version>/<window>`.
        event_time: the end of its window, ISO 8601 UTC: the event time of every row it wrote.
        sha256: of its manifest.
    """

    release_id: str
    event_time: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSnapshot:
    """A view's newest release as a mapped file, see `featurestore.snapshots`.

    Attributes:
        file: path relative to `Settings.serving_dir`.
        bytes: its size.
        sha256: the digest that the file ends with.
        rows: how many it has.
    """

    file: str
    bytes: int
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedView:
    """One version of one signal in the feature store: a Feast feature view.

    Attributes:
        name: `<signal>_v<version>`.
        signal: the signal's name.
        version: its version.
        entity: what the rows describe, e.g. `"item"`.
        keys: the key columns, in the release's order.
        features: the feature columns.
        ttl_seconds: a row older than this, counted from its event time, is not found; 0: never too old.
        purpose: what it may be used for.
        releases: oldest first; the newest, last, is the one that was materialised.
        snapshot: the newest release, which serving answers from.
        takes_pushes: serving reads it from the online store instead, where rows are pushed beside those of releases.
            Of the newest release it then needs the snapshot only while the next one is being written to the store.
    """

    name: str
    signal: str
    version: int
    entity: str
    keys: tuple[KeyField, ...]
    features: tuple[FeatureField, ...]
    ttl_seconds: int
    purpose: str
    releases: tuple[PublishedRelease, ...]
    snapshot: PublishedSnapshot | None = None
    takes_pushes: bool = False

    def reference(self, feature: str) -> str:
        """How a feature of this view is named in requests: `view:feature`."""
        return f"{self.name}:{feature}"

    def feature(self, name: str) -> FeatureField | None:
        """The feature of that name, or None."""
        return next((field for field in self.features if field.name == name), None)

    def release_at(self, event_time: datetime) -> str | None:
        """The release whose rows carry this event time, or None. A naive time is taken as UTC."""
        instant = _utc(event_time)
        return next(
            (r.release_id for r in self.releases if _utc(datetime.fromisoformat(r.event_time)) == instant), None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedService:
    """A named set of features for one purpose and entity: a Feast feature service.

    Attributes:
        name: `<purpose>_<entity>`.
        features: references `view:feature`, from the newest version of each signal.
    """

    name: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSpace:
    """An embedding space and its index.

    Attributes:
        name: the signal's name.
        release_id: the vector release behind it.
        key: what a vector is looked up by.
        dimension: d.
        metric: `"cosine"`, `"dot"` or `"l2"`.
        directory: where its files lie, relative to `Settings.serving_dir`.
    """

    name: str
    release_id: str
    key: KeyField
    dimension: int
    metric: str
    directory: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCatalogue:
    """The device catalogue in force.

    Attributes:
        sequence: grows with every new content; a device never goes back.
        file: path relative to `Settings.serving_dir`.
        bytes: its size.
        sha256: of the file.
        signature: Ed25519, hex; see `featurestore.catalogue.verify`.
        releases: ids of the releases in it.
    """

    sequence: int
    file: str
    bytes: int
    sha256: str
    signature: str
    releases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Everything one `hedgerow publish` put in force.

    Attributes:
        sequence: 1, 2, 3, ...
        created_at: ISO 8601 UTC.
        project: the project's name.
        catalogue: None where no item vectors are released.
    """

    sequence: int
    created_at: str
    project: str
    views: tuple[PublishedView, ...]
    services: tuple[PublishedService, ...]
    spaces: tuple[PublishedSpace, ...]
    catalogue: PublishedCatalogue | None

    def view(self, name: str) -> PublishedView | None:
        """The view of that name, or None."""
        return next((view for view in self.views if view.name == name), None)


def load_publication(settings: Settings) -> Publication:
    """Reads the record of what is in force.

    Raises:
        NotPublished: nothing was published yet.
        PublicationCorrupt: the record cannot be read or parsed.
    """
    path = _path(settings)
    try:
        value = json.loads(path.read_bytes())
        if not isinstance(value, dict) or value.pop("schema", None) != SCHEMA:
            raise ValueError("schema")
        return _from_json(Publication, value)
    except FileNotFoundError:
        raise NotPublished(f"{settings.name}: nothing is published yet; run 'hedgerow publish'") from None
    except (ValueError, TypeError, RecursionError, OSError) as error:
        reason = str(error) if type(error) is TypeError else type(error).__name__
        raise PublicationCorrupt(
            f"{path}: not a {SCHEMA} record ({reason}); run 'hedgerow publish' to write it anew"
        ) from None


def write_publication(settings: Settings, publication: Publication) -> None:
    """Puts a publication in force, in one atomic and durable write. Call it last."""
    write_atomic(_path(settings), canonical_bytes({"schema": SCHEMA, **asdict(publication)}))


def _path(settings: Settings) -> Path:
    return settings.serving_dir / PUBLICATION_FILE


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


_Record = TypeVar("_Record")


def _from_json(record: type[_Record], value: object) -> _Record:
    """A frozen dataclass from its `asdict` JSON; every name and type is checked against the class.

    A field that has a default may be missing: records written before it was thought of stay readable.

    Raises:
        TypeError: a missing or unknown field, or a value of another type.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{record.__name__} must be an object")
    hints = get_type_hints(record)
    needed = {field.name for field in fields(record) if field.default is MISSING}  # type: ignore[arg-type]
    if not needed <= set(value) <= set(hints):
        raise TypeError(f"{record.__name__} has other fields than expected")
    return record(
        **{name: _value(hints[name], value[name], f"{record.__name__}.{name}") for name in hints if name in value}
    )


def _value(kind: Any, value: object, where: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return _from_json(kind, value)
    arguments = get_args(kind)
    if NoneType in arguments:
        return None if value is None else _value(arguments[0], value, where)
    if arguments:  # tuple[X, ...]
        if not isinstance(value, list):
            raise TypeError(f"{where} must be a list")
        return tuple(_value(arguments[0], item, where) for item in value)
    if kind is float and type(value) in (int, float):
        return float(value)  # type: ignore[arg-type]
    if type(value) is not kind:
        raise TypeError(f"{where} must be {kind.__name__}")
    return value


def inside_serving_dir(settings: Settings, relative: str) -> Path:
    """A path that a publication names, which must lie below the serving directory.

    Raises:
        PublicationCorrupt: it does not.
    """
    root = settings.serving_dir.resolve()
    path = (root / relative).resolve()
    if root not in path.parents:
        raise PublicationCorrupt(
            f"{settings.serving_dir}: the publication names a path outside; run 'hedgerow publish' to write it anew"
        )
    return path
