"""Makes the device catalogue from releases alone: item vectors, titles and tags, and released item features."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.catalogue.format import Catalogue, encode
from featurestore.catalogue.signing import sign, signing_key
from featurestore.committed import check_publishable, committed_releases
from featurestore.publication import Publication, PublishedCatalogue, PublishedView, load_publication
from governance.canonical import sha256_hex
from governance.errors import NotPublished, PublicationCorrupt, ReleaseCorrupt
from governance.files import write_atomic
from governance.ledger import Ledger
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["build_catalogue", "quantize", "remove_unused_catalogues"]

DIRECTORY: Final = "catalogues"
_NUMERIC: Final = ("int64", "float64", "bool")


def build_catalogue(
    settings: Settings,
    ledger: Ledger,
    views: Sequence[PublishedView],
    vector_release: str,
    *,
    removed: Collection[int | str] = (),
) -> PublishedCatalogue:
    """Writes `serving_dir/catalogues/<sequence>-<sha12>.bin` and signs it. It is in force once a publication names it.

    The bytes depend on the releases and what is removed only, so building again gives the same file and sequence; a
    sequence number is never used for two contents.

    Args:
        settings: the project.
        ledger: says which releases are committed.
        views: the published views; numeric features of those keyed by the item alone are included, from their newest
            release, of the newest version of each signal.
        vector_release: id of the vector release.
        removed: ids that the catalogue leaves out; those that it does not have are fine.

    Raises:
        NotPublished: a release named here is not committed.
        ReleaseCorrupt: a release's files differ from its manifest.
        PublicationError: a release was made with a test sampler.
    """
    manifests = {manifest.release_id: manifest for manifest in committed_releases(settings, ledger)}
    used = [_committed(manifests, vector_release)]
    (key,) = used[0].keys
    item_views = [view for view in _newest_versions(views) if [field.name for field in view.keys] == [key]]
    used += [_committed(manifests, view.releases[-1].release_id) for view in item_views]
    for manifest in used:
        check_publishable(settings, manifest)

    items = _without(_read(settings, used[0]), key, removed).sort_by(key)
    ids = _ids(items[key])
    metric = str(used[0].signal.definition.get("metric", "cosine"))
    vectors, scales = quantize(_matrix(items["vector"], len(ids)), normalize=metric == "cosine")
    features: dict[str, NDArray[np.float32]] = {}
    for view, manifest in zip(item_views, used[1:], strict=True):
        features.update(_features(view, _read(settings, manifest), key, ids))

    def at(sequence: int) -> bytes:
        return encode(
            Catalogue(
                sequence=sequence,
                created_at=max(manifest.created_at for manifest in used),
                key=key,
                ids=ids,
                vectors=vectors,
                scales=scales,
                titles=tuple(title or "" for title in items["title"].to_pylist()),
                tags=tuple(tuple(tag for tag in tags or () if tag) for tags in items["tags"].to_pylist()),
                features=features,
                releases=tuple(manifest.release_id for manifest in used),
                metric=metric,
            )
        )

    return _write(settings, at, tuple(manifest.release_id for manifest in used))


def remove_unused_catalogues(settings: Settings, publications: Iterable[Publication | None]) -> None:
    """Removes the files that none of these publications names, but the last: its number must not be given again.

    Who has one open keeps it.
    """
    kept = {
        settings.serving_dir / publication.catalogue.file
        for publication in publications
        if publication is not None and publication.catalogue is not None
    }
    for path in sorted((settings.serving_dir / DIRECTORY).glob("*-*.bin"), key=_sequence)[:-1]:
        if path not in kept:
            path.unlink()


def quantize(matrix: NDArray[np.float32], *, normalize: bool) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Rounds each row to 8 bits: `matrix[i]` is approximately `vectors[i] * scales[i]`.

    Args:
        matrix: float32 `(n, d)`, finite.
        normalize: scale rows to norm 1 first (cosine). A zero row stays zero.

    Returns:
        int8 `(n, d)` in [-127, 127] and float32 `(n,)`; each entry is off by at most `scales[i] / 2`.
    """
    if normalize:
        norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        matrix = np.divide(matrix, norms, out=np.zeros_like(matrix), where=norms > 0)
    scales = (np.abs(matrix).max(axis=1, initial=0.0) / 127).astype(np.float32)
    steps = np.divide(matrix, scales[:, None], out=np.zeros_like(matrix), where=scales[:, None] > 0)
    return np.clip(np.rint(steps), -127, 127).astype(np.int8), scales


def _committed(manifests: dict[str, Manifest], release_id: str) -> Manifest:
    if release_id not in manifests:
        raise NotPublished(f"{release_id}: no committed release of that id; run it, then 'hedgerow publish'")
    return manifests[release_id]


def _newest_versions(views: Sequence[PublishedView]) -> Iterator[PublishedView]:
    newest = {view.signal: view for view in sorted(views, key=lambda view: view.version)}
    return (newest[signal] for signal in sorted(newest) if newest[signal].releases)


def _without(items: pa.Table, key: str, removed: Collection[int | str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not removed:
        return items
    gone: Any = pa.array(list(removed), items[key].type)
    return items.filter(pc.invert(pc.is_in(items[key], value_set=gone)))


def _read(settings: Settings, manifest: Manifest) -> pa.Table:
    """The release's rows.

    Raises:
        ReleaseCorrupt: a file is not parquet, or lacks a column that the manifest names.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [column.name for column in manifest.columns]
    try:
        files = ReleaseStore(settings.releases_dir).data_files(manifest)
        return pa.concat_tables([pq.read_table(path, columns=names) for path in files])
    except (pa.ArrowException, OSError) as error:
        raise ReleaseCorrupt(
            f"{manifest.release_id}: its files cannot be read as the manifest says ({type(error).__name__}); "
            "restore the release from a backup"
        ) from None


def _ids(column: Any) -> NDArray[Any]:
    values = column.to_pylist()
    return np.array(values, np.int64 if all(type(value) is int for value in values) else object)


def _matrix(column: Any, rows: int) -> NDArray[np.float32]:
    dimension = column.type.list_size
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat, np.float32).reshape(rows, dimension)


def _features(
    view: PublishedView, table: pa.Table, key: str, ids: NDArray[Any]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """One float32 column `(n,)` per numeric feature, aligned with `ids`; NaN where the item was not released."""
    row_of = {item: row for row, item in enumerate(table[key].to_pylist())}
    rows = np.array([row_of.get(item, -1) for item in ids.tolist()], np.int64)
    for feature in view.features:
        if feature.type in _NUMERIC:
            released = np.array([np.nan if v is None else v for v in table[feature.name].to_pylist()], np.float32)
            padded = np.append(released, np.float32(np.nan))
            yield view.reference(feature.name), padded[rows]


def _write(settings: Settings, at: Any, releases: tuple[str, ...]) -> PublishedCatalogue:
    """Finds the sequence number and writes the file unless it is there already."""
    directory = settings.serving_dir / DIRECTORY
    sequence = max([0, _published_sequence(settings), *map(_sequence, directory.glob("*-*.bin"))])
    data = at(sequence) if sequence else b""
    if not sequence or not (path := _path(directory, sequence, data)).is_file() or path.read_bytes() != data:
        sequence += 1
        data = at(sequence)
        path = _path(directory, sequence, data)
        write_atomic(path, data)
    return PublishedCatalogue(
        sequence=sequence,
        file=path.relative_to(settings.serving_dir).as_posix(),
        bytes=len(data),
        sha256=sha256_hex(data),
        signature=sign(data, signing_key(settings)).hex(),
        releases=releases,
    )


def _path(directory: Path, sequence: int, data: bytes) -> Path:
    return directory / f"{sequence}-{sha256_hex(data)[:12]}.bin"


def _sequence(path: Path) -> int:
    number = path.name.split("-")[0]
    return int(number) if number.isdecimal() else 0


def _published_sequence(settings: Settings) -> int:
    try:
        catalogue = load_publication(settings).catalogue
    except (NotPublished, PublicationCorrupt):
        return 0
    return catalogue.sequence if catalogue else 0
