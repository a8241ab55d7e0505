"""What one publication serves: opened, verified and immutable. A server swaps one whole value for the next."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from featurestore.catalogue import verify
from featurestore.freshness import project_clock
from featurestore.online import OnlineReader
from featurestore.publication import (
    Publication,
    PublishedCatalogue,
    PublishedService,
    PublishedView,
    inside_serving_dir,
)
from featurestore.reading import PublishedReader
from featurestore.snapshots import Snapshot
from governance.canonical import sha256_hex
from governance.errors import NotPublished, PublicationCorrupt
from governance.settings import Settings
from serving.index import VectorSpace
from serving.plans import FeaturePlan
from serving.space_plans import SpacePlan

__all__ = ["CatalogueFile", "Published", "open_published"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueFile:
    """The device catalogue, mapped.

    Attributes:
        about: what the publication says of it.
        public_key: 32 bytes; the signature was verified under it.
        data: the file's bytes.
    """

    about: PublishedCatalogue
    public_key: bytes
    data: mmap.mmap


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Everything one answer may come from. A call takes one and uses no other.

    Attributes:
        sequence: the publication's.
        views: by name.
        services: by name.
        spaces: by name, opened.
        catalogue: None where there is none.
        reader: reads the views' rows; None where there are no views.
        snapshots: view → its release snapshot, for the views that are answered from one.
        clock: gives the time by which rows grow too old.
        space_plans: wire form of a space's name → what its answers have in common; see `serving.space_plans`.
        plans: selection's wire form → what it means here and the cached bytes of its answers; see `serving.plans`.
    """

    sequence: int
    views: Mapping[str, PublishedView]
    services: Mapping[str, PublishedService]
    spaces: Mapping[str, VectorSpace]
    catalogue: CatalogueFile | None
    reader: OnlineReader | None
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    plans: dict[bytes, FeaturePlan] = field(default_factory=dict)
    space_plans: dict[bytes, SpacePlan] = field(default_factory=dict)


def open_published(
    settings: Settings, publication: Publication, reader: PublishedReader | None, previous: Published | None = None
) -> Published:
    """Opens and verifies everything a publication names.

    Args:
        previous: its spaces and catalogue are taken over where they did not change.

    Raises:
        NotPublished: a file or directory is not there.
        PublicationCorrupt: one differs from what was published.
    """
    known = {space.directory: space for space in previous.spaces.values()} if previous else {}
    spaces: dict[str, VectorSpace] = {}
    for about in publication.spaces:
        directory = inside_serving_dir(settings, about.directory)
        space = known[directory] = known.get(directory) or VectorSpace(directory)
        if (space.meta.release_id, space.meta.dimension, space.meta.metric) != (
            about.release_id,
            about.dimension,
            about.metric,
        ):
            raise PublicationCorrupt(
                f"{about.directory}: holds another space than the publication names; run 'hedgerow publish'"
            )
        spaces[about.name] = space
    return Published(
        sequence=publication.sequence,
        views=MappingProxyType({view.name: view for view in publication.views}),
        services=MappingProxyType({service.name: service for service in publication.services}),
        spaces=MappingProxyType(spaces),
        catalogue=_catalogue(settings, publication.catalogue, previous),
        reader=reader,
        snapshots=MappingProxyType(dict(reader.snapshots)) if reader else MappingProxyType({}),
        clock=project_clock(settings),
    )


def _catalogue(
    settings: Settings, about: PublishedCatalogue | None, previous: Published | None
) -> CatalogueFile | None:
    if about is None:
        return None
    if previous and previous.catalogue and previous.catalogue.about == about:
        return previous.catalogue
    path = inside_serving_dir(settings, about.file)
    try:
        with path.open("rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        public_key = settings.catalogue_public_key_path.read_bytes()
        signature = bytes.fromhex(about.signature)
    except FileNotFoundError as error:
        raise NotPublished(f"{error.filename}: not there; run 'hedgerow publish' to write it anew") from None
    except (OSError, ValueError) as error:
        raise PublicationCorrupt(f"{path}: cannot be read ({type(error).__name__}); run 'hedgerow publish'") from None
    whole = data[:]
    if len(whole) != about.bytes or sha256_hex(whole) != about.sha256:
        raise PublicationCorrupt(f"{path}: differs from what was published; run 'hedgerow publish' to write it anew")
    verify(whole, signature, public_key)
    return CatalogueFile(about=about, public_key=public_key, data=data)
