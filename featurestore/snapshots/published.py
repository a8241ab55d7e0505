"""Snapshots below a project's serving directory: written when releases are published, opened when they are served.

    <serving>/snapshots/<view>/<first 16 digits of the digest>.snapshot

Files are named by their content and never change, so a publication and the one before it lie side by side, and one that
did not change is not written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from featurestore.publication import Publication, PublishedSnapshot, PublishedView, inside_serving_dir
from featurestore.released import ReleasedRows, view_schema
from featurestore.snapshots.format import DIGEST_BYTES
from featurestore.snapshots.reader import Snapshot, open_snapshot
from featurestore.snapshots.writer import snapshot_bytes, write_snapshot
from governance.errors import PublicationCorrupt, PublicationError
from governance.settings import Settings

__all__ = ["open_snapshots", "publish_snapshot", "remove_unused_snapshots"]

_FOLDER: Final = "snapshots"


def publish_snapshot(settings: Settings, view: PublishedView, rows: ReleasedRows) -> PublishedSnapshot:
    """Writes a view's snapshot, unless it is there already, whole.

    Raises:
        PublicationError: a key occurs twice in the release.
    """
    data = snapshot_bytes(
        view.name, rows.schema, rows.keys, rows.columns, release_id=rows.release_id, event_time=rows.event_time
    )
    digest = data[-DIGEST_BYTES:].hex()
    file = f"{_FOLDER}/{view.name}/{digest[:16]}.snapshot"
    path = settings.serving_dir / file
    try:
        open_snapshot(path, sha256=digest)
    except PublicationError:
        write_snapshot(path, data)
    return PublishedSnapshot(file=file, bytes=len(data), sha256=digest, rows=len(rows))


def open_snapshots(
    settings: Settings, publication: Publication, previous: Mapping[str, Snapshot] | None = None
) -> dict[str, Snapshot]:
    """Opens and verifies the snapshot of every view that has one: view → snapshot.

    Args:
        settings: the project.
        publication: names them.
        previous: of the publication before; those that did not change are taken over.

    Raises:
        NotPublished: a file is not there.
        PublicationCorrupt: one is not whole, or not what the publication names. What was open stays open.
    """
    opened: dict[str, Snapshot] = {}
    for view in publication.views:
        about = view.snapshot
        if about is None:
            continue
        known = (previous or {}).get(view.name)
        snapshot = known
        if known is None or known.digest != about.sha256:
            snapshot = open_snapshot(inside_serving_dir(settings, about.file), sha256=about.sha256)
        assert snapshot is not None
        keys = {key.name: "int64" if key.type == "int64" else "string" for key in view.keys}
        found = (snapshot.view, dict(snapshot.keys), snapshot.schema, len(snapshot), snapshot.releases)
        if found != (view.name, keys, view_schema(view), about.rows, (view.releases[-1].release_id,)):
            raise PublicationCorrupt(
                f"{about.file}: holds another view or release than the publication names; run 'hedgerow publish'"
            )
        opened[view.name] = snapshot
    return opened


def remove_unused_snapshots(settings: Settings, publications: Iterable[Publication | None]) -> None:
    """Removes the files that none of these publications names. Who has one open keeps it."""
    kept = {
        settings.serving_dir / view.snapshot.file
        for publication in publications
        if publication is not None
        for view in publication.views
        if view.snapshot is not None
    }
    root = settings.serving_dir / _FOLDER
    for path in root.glob("*/*"):
        if path not in kept:
            path.unlink(missing_ok=True)
    for folder in root.glob("*"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
