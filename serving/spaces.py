"""Embedding spaces from vector releases: read at publish, written as directories that the server maps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from featurestore.committed import check_publishable, committed_releases
from featurestore.publication import KeyField, PublishedSpace
from governance.canonical import sha256_hex
from governance.errors import NotPublished, PublicationCorrupt, ReleaseCorrupt
from governance.files import publish_directory, remove_tree
from governance.ledger import Ledger
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from serving.index import SpaceMeta

__all__ = ["SPACE_KINDS", "build_spaces", "remove_unused_spaces", "vector_releases"]

SPACE_KINDS: Final = ("content_embedding",)
"""Kinds of signals whose releases are item vectors."""

_SPACES = "spaces"
_UNFINISHED = ".space-"


def vector_releases(settings: Settings, ledger: Ledger) -> tuple[Manifest, ...]:
    """The newest committed vector release of each signal, by signal name.

    Newest is the highest version, and of that the one whose run the ledger knows last: vector releases have no window.

    Raises:
        ReleaseCorrupt: a manifest that is not the one that the ledger committed to.
    """
    begun = {run.run_id: position for position, run in enumerate(ledger.runs())}
    vectors = [release for release in committed_releases(settings, ledger) if release.signal.kind in SPACE_KINDS]
    vectors.sort(key=lambda release: (release.signal.version, begun[release.ledger.run_id]))
    newest = {release.signal.name: release for release in vectors}
    return tuple(newest[name] for name in sorted(newest))


def build_spaces(settings: Settings, ledger: Ledger, progress: Callable[[str], None]) -> tuple[PublishedSpace, ...]:
    """Builds a space from the newest vector release of each signal. One that is built already is verified and kept.

    Args:
        progress: is told, in a few words, what is being done.

    Raises:
        PublicationError: a release that must not be published.
        ReleaseCorrupt: a release that does not match its manifest or cannot be a space.
    """
    return tuple(_build(settings, manifest, progress) for manifest in vector_releases(settings, ledger))


def remove_unused_spaces(settings: Settings, used: frozenset[str]) -> None:
    """Removes the directories of spaces that are not in `used` (`PublishedSpace.directory`), and unfinished ones.

    A server that still maps one keeps its pages until it lets go.
    """
    root = settings.serving_dir
    for directory in (*(root / _SPACES).glob("*/*"), *root.glob(f"{_UNFINISHED}*")):
        if directory.relative_to(root).as_posix() not in used:
            remove_tree(directory)


def _build(settings: Settings, manifest: Manifest, progress: Callable[[str], None]) -> PublishedSpace:
    from serving.index import SCHEMA, VectorSpace

    check_publishable(settings, manifest)
    name = manifest.signal.name
    relative = Path(_SPACES, name, sha256_hex(f"{SCHEMA}\n{manifest.sha256}".encode())[:16])
    target = settings.serving_dir / relative
    try:
        meta = VectorSpace(target).meta
        progress(f"{name}: index is up to date")
    except (NotPublished, PublicationCorrupt):
        progress(f"{name}: indexing {manifest.rows:,} vectors")
        meta = _write(settings, manifest, target)
    return PublishedSpace(
        name=name,
        release_id=meta.release_id,
        key=KeyField(name=meta.key, type=meta.key_type),
        dimension=meta.dimension,
        metric=meta.metric,
        directory=relative.as_posix(),
    )


def _write(settings: Settings, manifest: Manifest, target: Path) -> SpaceMeta:
    """Builds a space beside its place and moves it there in one rename; a damaged one makes way."""
    from serving.index import write_space

    key, ids, vectors, tags = _read(settings, manifest)
    staged = settings.serving_dir / f"{_UNFINISHED}{uuid4().hex}"
    staged.mkdir(parents=True)
    try:
        meta = write_space(
            staged,
            name=manifest.signal.name,
            release_id=manifest.release_id,
            key=key,
            ids=ids,
            vectors=vectors,
            tags=tags,
            metric=str(manifest.signal.definition.get("metric", "cosine")),
        )
        remove_tree(target)
        publish_directory(staged, target)
    except ValueError as error:
        raise ReleaseCorrupt(f"{manifest.release_id}: cannot be a vector space: {error}; run it again") from None
    finally:
        remove_tree(staged)
    return meta


def _read(
    settings: Settings, manifest: Manifest
) -> tuple[str, NDArray[np.int64] | list[str], NDArray[np.float32], list[list[str]]]:
    """The release's id column's name, ids, vectors `(n, d)` and tags."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    def bad(reason: str) -> ReleaseCorrupt:
        return ReleaseCorrupt(f"{manifest.release_id}: cannot be a vector space: {reason}; run it again")

    if len(manifest.keys) != 1:
        raise bad(f"it has {len(manifest.keys)} key columns, allowed: one")
    key = manifest.keys[0]
    files = ReleaseStore(settings.releases_dir).data_files(manifest)
    table = pa.concat_tables([pq.read_table(path) for path in files]).combine_chunks()
    if missing := [name for name in (key, "vector", "tags") if name not in table.column_names]:
        raise bad(f"columns are missing: {', '.join(missing)}")
    if not table.num_rows:
        raise bad("it has no rows")
    column: Any = table.column("vector").combine_chunks()
    flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else None
    if flat is None or not pa.types.is_float32(flat.type):
        raise bad(f"vectors have type {column.type}, allowed: fixed_size_list<float>[d]")
    if table.column(key).null_count or column.null_count or flat.null_count:
        raise bad("an id or a vector is null")
    vectors = flat.to_numpy().reshape(table.num_rows, column.type.list_size)
    kind = table.schema.field(key).type
    ids: Any
    if pa.types.is_integer(kind):
        ids = np.asarray(table.column(key).to_numpy(), dtype=np.int64)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        ids = table.column(key).to_pylist()
    else:
        raise bad(f"ids have type {kind}, allowed: integers or strings")
    tags = [[tag for tag in own or () if tag is not None] for own in table.column("tags").to_pylist()]
    return key, ids, vectors, tags
