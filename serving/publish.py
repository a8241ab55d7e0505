"""One publication: feature views, vector spaces and the device catalogue, put in force by one last write."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from featurestore.catalogue import build_catalogue, public_key_bytes, remove_unused_catalogues, signing_key
from featurestore.publication import Publication, PublishedSpace, load_publication, write_publication
from featurestore.publish import publish_views
from featurestore.snapshots.published import remove_unused_snapshots
from governance.errors import NotPublished, PublicationCorrupt
from governance.files import exclusive_lock, write_atomic
from governance.ledger import Ledger
from governance.settings import Settings
from serving.spaces import build_spaces, remove_unused_spaces, removed_ids

__all__ = ["publish"]

_COUNTER: Final = "publication.sequence"


def _utc_now() -> datetime:
    return datetime.now(UTC)


def publish(
    settings: Settings,
    ledger: Ledger,
    progress: Callable[[str], None] = lambda _: None,
    *,
    clock: Callable[[], datetime] = _utc_now,
) -> Publication:
    """Publishes the newest committed releases of every signal.

    Whatever fails on the way, the publication in force stays in force: the record is written last, in one atomic write.

    Args:
        settings: the project.
        ledger: says which releases are committed.
        progress: is told, in a few words, what is being done.
        clock: gives the current aware UTC time.

    Raises:
        RunInProgress: another process publishes now.
        PublicationError: a release that must not be published, or the online store does not take it.
        ReleaseCorrupt: a release that does not match its manifest.
    """
    with exclusive_lock(settings.locks_dir / "publish.lock", "publish"):
        previous = _in_force(settings)
        spaces = build_spaces(settings, ledger, progress)
        views, services = publish_views(settings, ledger, progress)
        catalogue = None
        if spaces:
            progress("device catalogue: building and signing")
            space = _catalogue_space(spaces)
            removed = removed_ids(settings, space.name.partition("/")[0])
            catalogue = build_catalogue(settings, ledger, views, space.release_id, removed=removed)
            write_atomic(settings.catalogue_public_key_path, public_key_bytes(signing_key(settings)))
        publication = Publication(
            sequence=max(_counted(settings), previous.sequence if previous else 0) + 1,
            created_at=clock().isoformat(timespec="milliseconds"),
            project=settings.name,
            views=views,
            services=services,
            spaces=spaces,
            catalogue=catalogue,
        )
        write_publication(settings, publication)
        write_atomic(settings.serving_dir / _COUNTER, str(publication.sequence).encode())
        kept = (*spaces, *(previous.spaces if previous else ()))
        remove_unused_snapshots(settings, (publication, previous))
        remove_unused_catalogues(settings, (publication, previous))
        remove_unused_spaces(settings, frozenset(space.directory for space in kept))
        return publication


def _in_force(settings: Settings) -> Publication | None:
    try:
        return load_publication(settings)
    except (NotPublished, PublicationCorrupt):
        return None


def _counted(settings: Settings) -> int:
    """The last publication's number, kept beside its record: where that is damaged, no number is given twice."""
    try:
        return int((settings.serving_dir / _COUNTER).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return 0


def _catalogue_space(spaces: tuple[PublishedSpace, ...]) -> PublishedSpace:
    """The space whose items devices rank: the first by name."""
    return min(spaces, key=lambda space: space.name)
