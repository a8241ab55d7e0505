"""Embedding spaces from vector releases: read at publish, written as directories that the server maps.

A signal's newest release is served under the signal's name, and each of its two newest versions under `<signal>/v<n>`,
so that models trained on one version's vectors keep them while others move on.

Vectors can be taken out: `remove_vectors` notes their ids, and from the next publication on they are in no space, index
or file of it. The release itself, which is immutable, is not touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from featurestore.committed import check_publishable, committed_releases
from featurestore.publication import KeyField, PublishedSpace, load_publication
from governance.canonical import canonical_bytes, sha256_hex
from governance.errors import NotPublished, PublicationCorrupt, PublicationError, ReleaseCorrupt
from governance.files import exclusive_lock, publish_directory, remove_tree, write_atomic
from governance.ledger import Ledger
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from serving.index import SpaceMeta

__all__ = [
    "SPACE_KINDS",
    "VERSIONS",
    "build_spaces",
    "remove_unused_spaces",
    "remove_vectors",
    "removed_ids",
    "vector_releases",
]

SPACE_KINDS: Final = ("content_embedding",)
"""Kinds of signals whose releases are item vectors."""

VERSIONS: Final = 2
"""So many versions of a signal have a space, the newest ones."""

_SPACES = "spaces"
_REMOVED = "removed"
_REMOVED_SCHEMA: Final = "hedgerow.removed/1"
_UNFINISHED = ".space-"


def vector_releases(settings: Settings, ledger: Ledger) -> tuple[Manifest, ...]:
    """The newest committed vector release of each signal's newest versions, by signal name, newest version first.

    Newest of a version is the one whose run the ledger knows last: vector releases have no window.

    Raises:
        ReleaseCorrupt: a manifest that is not the one that the ledger committed to.
    """
    begun = {run.run_id: position for position, run in enumerate(ledger.runs())}
    vectors = [release for release in committed_releases(settings, ledger) if release.signal.kind in SPACE_KINDS]
    vectors.sort(key=lambda release: begun[release.ledger.run_id])
    newest = {(release.signal.name, release.signal.version): release for release in vectors}
    versions: dict[str, list[int]] = {}
    for name, version in sorted(newest, reverse=True):
        versions.setdefault(name, []).append(version)
    return tuple(newest[name, version] for name in sorted(versions) for version in versions[name][:VERSIONS])


def build_spaces(settings: Settings, ledger: Ledger, progress: Callable[[str], None]) -> tuple[PublishedSpace, ...]:
    """Builds the spaces, sorted by name. A directory that is built already is verified and kept.

    Args:
        progress: is told, in a few words, what is being done.

    Raises:
        PublicationError: a release that must not be published, one whose vectors are all removed, or a recall that
            cannot be reached (`RecallUnreached`).
        PublicationCorrupt: the record of removed vectors cannot be read.
        ReleaseCorrupt: a release that does not match its manifest or cannot be a space.
    """
    spaces: dict[str, PublishedSpace] = {}
    for manifest in vector_releases(settings, ledger):
        signal = manifest.signal
        space = _build(settings, manifest, progress)
        spaces.setdefault(signal.name, space)
        name = f"{signal.name}/v{signal.version}"
        spaces[name] = replace(space, name=name)
    return tuple(spaces[name] for name in sorted(spaces))


def remove_vectors(settings: Settings, name: str, ids: Sequence[int] | Sequence[str]) -> int:
    """Takes vectors out of a signal's spaces, all versions, from the next `publish` on.

    Args:
        name: of a published space.
        ids: what to remove, of the space's key type; ids without a vector are fine.

    Returns:
        How many ids are removed from this signal in all.

    Raises:
        NotPublished: no such space.
        PublicationError: ids of another type.
        PublicationCorrupt: the record of removed vectors cannot be read.
        RunInProgress: another process publishes now.
    """
    space = next((space for space in load_publication(settings).spaces if space.name == name), None)
    if space is None:
        raise NotPublished(f"no embedding space of that name in {settings.name}; run 'hedgerow publish'")
    kind: type = int if space.key.type == "int64" else str
    if not all(type(item) is kind for item in ids):
        raise PublicationError(f"{name}: removed ids must be {space.key.type}, found others; nothing was removed")
    with exclusive_lock(settings.locks_dir / "publish.lock", "publish"):
        signal = name.partition("/")[0]
        removed = sorted({*removed_ids(settings, signal), *ids})
        path = _removed_path(settings, signal)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, canonical_bytes({"schema": _REMOVED_SCHEMA, "ids": removed}))
    return len(removed)


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
    signal = manifest.signal
    removed = removed_ids(settings, signal.name)
    search = settings.search
    made_of = {"schema": SCHEMA, "release": manifest.sha256, "removed": removed}
    asked = {"recall": str(search.recall), "memory_mib": search.memory_mib}
    relative = Path(_SPACES, signal.name, sha256_hex(canonical_bytes({**made_of, **asked}))[:16])
    target = settings.serving_dir / relative
    try:
        meta = VectorSpace(target).meta
        progress(f"{signal.name}: index is up to date")
    except (NotPublished, PublicationCorrupt):
        progress(f"{signal.name}: indexing {manifest.rows:,} vectors")
        meta = _write(settings, manifest, target, frozenset(removed))
        reached = meta.tuning
        progress(f"{signal.name}: {meta.index} index, recall {reached.recall_10:.3f}, declared {reached.target}")
    return PublishedSpace(
        name=signal.name,
        release_id=meta.release_id,
        key=KeyField(name=meta.key, type=meta.key_type),
        dimension=meta.dimension,
        metric=meta.metric,
        directory=relative.as_posix(),
    )


def _write(settings: Settings, manifest: Manifest, target: Path, removed: frozenset[int | str]) -> SpaceMeta:
    """Builds a space beside its place and moves it there in one rename; a damaged one makes way."""
    from serving.index import VectorSpace, write_space

    key, ids, vectors, tags = _read(settings, manifest)
    if removed:
        kept = [row for row, item in enumerate(ids.tolist() if hasattr(ids, "tolist") else ids) if item not in removed]
        if not kept:
            raise PublicationError(f"{manifest.release_id}: all its vectors are removed; release others, then publish")
        ids = [ids[row] for row in kept] if isinstance(ids, list) else ids[kept]
        vectors, tags = vectors[kept], [tags[row] for row in kept]
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
            recall=settings.search.recall,
            memory_bytes=None if settings.search.memory_mib is None else settings.search.memory_mib * 2**20,
        )
        VectorSpace(staged)  # what a server would refuse is never published
        remove_tree(target)
        publish_directory(staged, target)
    except ValueError as error:
        raise ReleaseCorrupt(f"{manifest.release_id}: cannot be a vector space: {error}; run it again") from None
    finally:
        remove_tree(staged)
    return meta


def _removed_path(settings: Settings, signal: str) -> Path:
    return settings.serving_dir / _REMOVED / f"{signal}.json"


def removed_ids(settings: Settings, signal: str) -> list[int | str]:
    """The ids that were taken out of a signal's spaces, sorted."""
    path = _removed_path(settings, signal)
    try:
        value = json.loads(path.read_bytes())
        if value["schema"] != _REMOVED_SCHEMA:
            raise ValueError("schema")
        ids: list[int | str] = value["ids"]
        if not all(type(item) in {int, str} for item in ids):
            raise TypeError("ids")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PublicationCorrupt(
            f"{path}: the record of removed vectors cannot be read ({type(error).__name__}); restore it from a backup, "
            "or remove it and remove the vectors again"
        ) from None
    return ids


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
