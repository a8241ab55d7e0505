"""A vector space on disk and its search: FAISS lives here and nowhere else.

A space is one immutable directory, made at publish from one vector release and mapped by the server:

    index.faiss     the FAISS index; row i is vector i, normalised for cosine
    vectors.f32     the vectors as released: n * d little-endian float32, row after row
    ids.i64         n sorted int64 ids, or
    ids.json        n sorted string ids
    tags.json       the tags, sorted
    tags.rows.i64   for each tag in turn, the rows that carry it
    tags.ends.i64   for each tag, where its run in tags.rows.i64 ends
    meta.json       `SpaceMeta` as canonical JSON, with the size and SHA-256 of every file above

Up to `FLAT_ROWS` vectors the index is flat, so the search is exact; beyond, it is HNSW. A condition that leaves few
rows, or a walk that finds fewer neighbors than there are, is answered exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from governance.canonical import canonical_bytes, sha256_file
from governance.errors import NotPublished, PublicationCorrupt

__all__ = ["FLAT_ROWS", "METRICS", "SCHEMA", "Hits", "SpaceMeta", "VectorSpace", "single_threaded", "write_space"]

faiss: Any = _faiss  # its type stubs describe the C++ functions, not the Python ones

SCHEMA: Final = "hedgerow.space/1"
METRICS: Final = ("cosine", "dot", "l2")
FLAT_ROWS: Final = 50_000
"""Up to so many rows a scan of all is fast enough, and exact."""

_LINKS = 32
_BUILD_BREADTH = 128
_SEARCH_BREADTH = 64
_META = "meta.json"
_FILES = ("index.faiss", "tags.ends.i64", "tags.json", "tags.rows.i64", "vectors.f32")

Ids = NDArray[np.int64] | Sequence[str]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceMeta:
    """What a space's directory says about itself.

    Attributes:
        name: the space's name.
        release_id: the release the vectors come from.
        key: the id column's name.
        key_type: `"int64"` or `"string"`.
        rows: n.
        dimension: d.
        metric: one of `METRICS`.
        index: `"flat"` or `"hnsw"`.
        files: file name → `[bytes, sha256]`.
    """

    name: str
    release_id: str
    key: str
    key_type: str
    rows: int
    dimension: int
    metric: str
    index: str
    files: Mapping[str, tuple[int, str]]
    schema: str = SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """Neighbors of q queries, nearest first, one query after another.

    Attributes:
        counts: `(q,)`, how many each query has.
        rows: `(sum(counts),)`, positions in the space.
        scores: `(sum(counts),)`, larger is nearer.
    """

    counts: NDArray[np.int64]
    rows: Rows
    scores: NDArray[np.float32]


def single_threaded() -> None:
    """Makes FAISS use only the calling thread in calls from it; a server's parallelism is its requests."""
    faiss.omp_set_num_threads(1)


# --- building --------------------------------------------------------------------------------------------------


def write_space(
    directory: Path,
    *,
    name: str,
    release_id: str,
    key: str,
    ids: Ids,
    vectors: NDArray[np.float32],
    tags: Sequence[Sequence[str]],
    metric: str,
    flat_rows: int = FLAT_ROWS,
) -> SpaceMeta:
    """Writes a space into an empty directory. The caller publishes the directory by renaming it.

    Args:
        directory: exists and is empty.
        ids: n distinct ids.
        vectors: `(n, d)`, finite.
        tags: n lists of tags.
        metric: one of `METRICS`.
        flat_rows: up to so many rows the index is flat.

    Raises:
        ValueError: shapes that differ, no rows, doubled ids, values that are not finite, an unknown metric.
    """
    _check(ids, vectors, tags, metric)
    numeric = isinstance(ids, np.ndarray)
    order = np.argsort(ids, kind="stable") if numeric else sorted(range(len(ids)), key=ids.__getitem__)
    matrix = np.ascontiguousarray(vectors[order], dtype="<f4")
    matrix.tofile(directory / "vectors.f32")
    if isinstance(ids, np.ndarray):
        ids[order].astype("<i8").tofile(directory / "ids.i64")
    else:
        (directory / "ids.json").write_bytes(canonical_bytes([ids[i] for i in order]))
    _write_tags(directory, [tags[i] for i in order])
    index = _build(matrix, metric, flat=len(matrix) <= flat_rows)
    faiss.write_index(index, str(directory / "index.faiss"))
    files = {path.name: (path.stat().st_size, sha256_file(path)) for path in sorted(directory.iterdir())}
    meta = SpaceMeta(
        name=name,
        release_id=release_id,
        key=key,
        key_type="int64" if numeric else "string",
        rows=len(matrix),
        dimension=matrix.shape[1],
        metric=metric,
        index="flat" if len(matrix) <= flat_rows else "hnsw",
        files=files,
    )
    (directory / _META).write_bytes(canonical_bytes(asdict(meta)))
    return meta


def _check(ids: Ids, vectors: NDArray[np.float32], tags: Sequence[Sequence[str]], metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}; allowed: {', '.join(METRICS)}")
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"vectors have shape {vectors.shape}; allowed: (n, d) with at least one of each")
    if not len(ids) == len(vectors) == len(tags):
        raise ValueError(f"{len(ids)} ids, {len(vectors)} vectors and {len(tags)} tag lists; they must be as many")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors with NaN or infinite values")
    if len(np.unique(ids) if isinstance(ids, np.ndarray) else set(ids)) != len(ids):
        raise ValueError("ids that occur more than once")


def _build(matrix: NDArray[np.float32], metric: str, *, flat: bool) -> Any:
    measure = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    if metric == "cosine":
        matrix = matrix.copy()
        faiss.normalize_L2(matrix)
    if flat:
        index = faiss.IndexFlat(matrix.shape[1], measure)
    else:
        index = faiss.IndexHNSWFlat(matrix.shape[1], _LINKS, measure)
        index.hnsw.efConstruction = _BUILD_BREADTH
    index.add(matrix)
    return index


def _write_tags(directory: Path, tags: Sequence[Sequence[str]]) -> None:
    by_tag: dict[str, list[int]] = {}
    for row, own in enumerate(tags):
        for tag in dict.fromkeys(own):
            by_tag.setdefault(tag, []).append(row)
    names = sorted(by_tag)
    (directory / "tags.json").write_bytes(canonical_bytes(names))
    np.array([row for tag in names for row in by_tag[tag]], "<i8").tofile(directory / "tags.rows.i64")
    np.cumsum([len(by_tag[tag]) for tag in names], dtype="<i8").tofile(directory / "tags.ends.i64")


# --- reading ---------------------------------------------------------------------------------------------------


class VectorSpace:
    """An opened space: immutable, mapped, safe to use from many threads at once.

    Attributes:
        meta: what the directory says about itself.
    """

    __slots__ = ("_ids", "_index", "_positions", "_tags", "_vectors", "meta")

    def __init__(self, directory: Path) -> None:
        """Opens and verifies a space; reading every file for its hash also brings its pages into memory.

        Raises:
            NotPublished: no such directory.
            PublicationCorrupt: a file is missing or differs from what `meta.json` says.
        """
        self.meta = _verified(directory)
        rows, dimension = self.meta.rows, self.meta.dimension
        try:
            self._vectors = np.memmap(directory / "vectors.f32", "<f4", "r", shape=(rows, dimension))
            self._ids: Any
            self._positions: dict[str, int] = {}
            if self.meta.key_type == "int64":
                self._ids = np.memmap(directory / "ids.i64", "<i8", "r", shape=(rows,))
            else:
                names = json.loads((directory / "ids.json").read_bytes())
                self._ids = np.array(names, dtype=object)
                self._positions = {name: row for row, name in enumerate(names)}
            self._tags = _read_tags(directory)
            self._index = faiss.read_index(str(directory / "index.faiss"), faiss.IO_FLAG_MMAP_IFC)
            sizes = (len(self._ids), self._index.ntotal, self._index.d)
            if sizes != (rows, rows, dimension):
                raise ValueError("sizes that differ from meta.json")
        except (OSError, ValueError, RuntimeError) as error:
            raise _corrupt(directory, type(error).__name__) from None

    @property
    def tags(self) -> tuple[str, ...]:
        """All tags of the space, sorted."""
        return tuple(self._tags)

    def find(self, ids: Ids) -> tuple[Rows, NDArray[np.bool_]]:
        """Looks ids up.

        Args:
            ids: `(n,)`, int64 or texts as `meta.key_type` says.

        Returns:
            Rows `(n,)`, 0 where not found, and whether each was found, `(n,)`.
        """
        if self.meta.key_type == "int64":
            wanted = np.asarray(ids, dtype=np.int64)
            rows = np.minimum(np.searchsorted(self._ids, wanted), self.meta.rows - 1)
            found = self._ids[rows] == wanted
            return np.where(found, rows, 0), np.asarray(found)
        rows = np.fromiter((self._positions.get(name, -1) for name in ids), np.int64, len(ids))
        found = rows >= 0
        return np.where(found, rows, 0), found

    def ids(self, rows: Rows) -> NDArray[Any]:
        """The ids of rows: `(n,)` int64, or texts in an object array."""
        return np.asarray(self._ids[rows])

    def vectors(self, rows: Rows) -> NDArray[np.float32]:
        """The released vectors of rows, `(n, d)`, a copy."""
        return np.asarray(self._vectors[rows])

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        own_rows: Rows | None = None,
        minimum_score: float | None = None,
        exclude: Rows | None = None,
        tags: Sequence[str] = (),
    ) -> Hits:
        """Finds the nearest rows to each query.

        Args:
            queries: `(q, d)`, finite.
            k: at least 1.
            own_rows: `(q,)`; the row that a query must not return, usually itself.
            minimum_score: only neighbors with at least this score.
            exclude: rows never returned.
            tags: only rows with one of these tags; empty: no condition.

        Returns:
            At most k neighbors a query. Scores are cosine, dot product, or minus the squared Euclidean distance.
        """
        queries = np.array(queries, dtype=np.float32, order="C")
        if self.meta.metric == "cosine":
            faiss.normalize_L2(queries)
        exclude = np.unique(exclude) if exclude is not None else np.empty(0, np.int64)
        allowed = self._allowed(exclude, tags) if tags else None
        available = self.meta.rows - len(exclude) if allowed is None else int(allowed.sum())
        wanted = min(k + (own_rows is not None), available)
        if not wanted or not len(queries):
            return _no_hits(len(queries))
        if self.meta.index == "flat":
            scores, rows = self._scan(queries, wanted, allowed, exclude)
        elif allowed is not None and available <= FLAT_ROWS:
            scores, rows = self._exact(queries, wanted, np.flatnonzero(allowed))
        else:
            scores, rows = self._walk(queries, wanted, allowed, exclude)
        keep = rows >= 0
        if own_rows is not None:
            keep &= rows != own_rows[:, None]
            keep &= np.cumsum(keep, axis=1) <= k
        if minimum_score is not None:
            keep &= scores >= np.float32(minimum_score)
        return Hits(counts=keep.sum(axis=1), rows=rows[keep], scores=scores[keep])

    def _allowed(self, exclude: Rows, tags: Sequence[str]) -> NDArray[np.bool_]:
        mask = np.zeros(self.meta.rows, dtype=bool)
        for tag in tags:
            if (rows := self._tags.get(tag)) is not None:
                mask[rows] = True
        mask[exclude] = False
        return mask

    def _scan(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None, exclude: Rows
    ) -> tuple[NDArray[np.float32], Rows]:
        """All rows, through a flat index."""
        return self._faiss(queries, k, faiss.SearchParameters, allowed, exclude)

    def _walk(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None, exclude: Rows
    ) -> tuple[NDArray[np.float32], Rows]:
        """The graph of an HNSW index; queries that come back with too few rows are answered exactly."""
        breadth = max(_SEARCH_BREADTH, 2 * k, k + len(exclude))
        scores, rows = self._faiss(
            queries, k, lambda **selector: faiss.SearchParametersHNSW(efSearch=breadth, **selector), allowed, exclude
        )
        if (short := np.flatnonzero(rows[:, -1] < 0)).size:
            mask = np.ones(self.meta.rows, dtype=bool) if allowed is None else allowed
            mask[exclude] = False
            scores[short], rows[short] = self._exact(queries[short], k, np.flatnonzero(mask))
        return scores, rows

    def _faiss(
        self,
        queries: NDArray[np.float32],
        k: int,
        parameters: Callable[..., Any],
        allowed: NDArray[np.bool_] | None,
        exclude: Rows,
    ) -> tuple[NDArray[np.float32], Rows]:
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            scores, rows = self._index.search(queries, k, params=parameters(sel=selector))
        elif len(exclude):
            selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(exclude))
            scores, rows = self._index.search(queries, k, params=parameters(sel=selector))
        else:
            scores, rows = self._index.search(queries, k, params=parameters())
        return (-scores if self.meta.metric == "l2" else scores), rows

    def _exact(self, queries: NDArray[np.float32], k: int, among: Rows) -> tuple[NDArray[np.float32], Rows]:
        """The rows `among`, all compared."""
        matrix = self.vectors(among)
        if self.meta.metric == "cosine":
            faiss.normalize_L2(matrix)
        l2 = self.meta.metric == "l2"
        scores, found = faiss.knn(queries, matrix, k, faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT)
        return (-scores if l2 else scores), among[found]


def _no_hits(queries: int) -> Hits:
    return Hits(counts=np.zeros(queries, np.int64), rows=np.empty(0, np.int64), scores=np.empty(0, np.float32))


def _read_tags(directory: Path) -> dict[str, Rows]:
    names = json.loads((directory / "tags.json").read_bytes())
    rows = np.fromfile(directory / "tags.rows.i64", "<i8")
    ends = np.fromfile(directory / "tags.ends.i64", "<i8")
    if len(names) != len(ends) or (len(ends) and int(ends[-1]) != len(rows)):
        raise ValueError("tags")
    return dict(zip(names, np.split(rows, ends[:-1]), strict=True)) if names else {}


def _verified(directory: Path) -> SpaceMeta:
    try:
        value = json.loads((directory / _META).read_bytes())
        meta = SpaceMeta(**{**value, "files": {name: tuple(entry) for name, entry in value["files"].items()}})
        if meta.schema != SCHEMA or meta.metric not in METRICS or meta.key_type not in ("int64", "string"):
            raise ValueError(meta.schema)
    except FileNotFoundError:
        raise NotPublished(f"{directory}: no vector space here; run 'hedgerow publish'") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise _corrupt(directory, _META) from None
    ids = "ids.i64" if meta.key_type == "int64" else "ids.json"
    if lacking := sorted({ids, *_FILES} - set(meta.files)):
        raise _corrupt(directory, lacking[0])
    for name, (size, digest) in meta.files.items():
        path = directory / name
        if path.parent != directory or not path.is_file() or path.stat().st_size != size or sha256_file(path) != digest:
            raise _corrupt(directory, name)
    return meta


def _corrupt(directory: Path, what: str) -> PublicationCorrupt:
    return PublicationCorrupt(
        f"{directory}: {what} is not as published; remove the directory and run 'hedgerow publish' to build it anew"
    )
