"""What a client gets: frozen values of numpy columns, read from messages by copying memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from governance.errors import ServingError
from serving.columns import get_column, get_ids, unbitmap
from serving.v1 import embeddings_pb2, features_pb2, recommendation_pb2, snapshots_pb2
from serving.wire import delimited, header, run

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "CatalogueDownload",
    "CatalogueInfo",
    "CatalogueParts",
    "Embeddings",
    "FeatureTable",
    "Neighbors",
    "RecommendationContext",
    "read_catalogue_info",
    "read_context",
    "read_embeddings",
    "read_feature_table",
    "read_neighbors",
]

_MAX_CATALOGUE_BYTES: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureTable:
    """Features of n entities, in the order they were asked for.

    Attributes:
        rows: n.
        values: `view:feature` → array `(n,)`. Where null or not found: NaN, NaT, 0, False or the empty text.
        nulls: `view:feature` → bool `(n,)`, True where there is no value.
        found: view → bool `(n,)`, False where the entity was not released, or longer ago than the view's ttl.
        event_times: view → datetime64[us] in UTC `(n,)`, NaT where not found.
        release_indexes: view → `(n,)`, positions in `releases`; -1 where not found, and for rows that no release wrote.
        releases: ids of all releases behind the answer.
        noise_stddev: `view:feature` → standard deviation of its noise, where it is the same in every row.
        publication: sequence number of the publication that answered.
    """

    rows: int
    values: Mapping[str, NDArray[Any]]
    nulls: Mapping[str, NDArray[np.bool_]]
    found: Mapping[str, NDArray[np.bool_]]
    event_times: Mapping[str, NDArray[np.datetime64]]
    release_indexes: Mapping[str, NDArray[np.int32]]
    releases: tuple[str, ...]
    noise_stddev: Mapping[str, float]
    publication: int

    def __getitem__(self, reference: str) -> NDArray[Any]:
        """One feature's values, by `view:feature`."""
        return self.values[reference]

    def to_arrow(self) -> pa.Table:
        """The values as an Arrow table, nulls as nulls. Needs pyarrow."""
        import pyarrow as pa

        return pa.table(
            {
                name: pa.array(list(values) if values.ndim == 2 else values, mask=self.nulls[name])
                for name, values in self.values.items()
            }
        )

    def to_pandas(self) -> pd.DataFrame:
        """The values as a data frame, one row an entity; nulls as pandas writes them. Needs pandas and pyarrow."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embeddings:
    """Vectors by id.

    Attributes:
        vectors: float32 `(n, d)`; zeros where not found.
        found: bool `(n,)`.
        release: the release they come from.
        publication: sequence number of the publication that answered.
    """

    vectors: NDArray[np.float32]
    found: NDArray[np.bool_]
    release: str
    publication: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Neighbors:
    """The nearest items to q queries, nearest first.

    Attributes:
        ids: `(q, k)`, int64 or texts; 0 or the empty text beyond `counts`.
        scores: float32 `(q, k)`, larger is nearer; NaN beyond `counts`.
        counts: `(q,)`, how many neighbors each query has.
        found: bool `(q,)`; False where a query's id has no vector.
        release: the release of the vectors.
        publication: sequence number of the publication that answered.
    """

    ids: NDArray[Any]
    scores: NDArray[np.float32]
    counts: NDArray[np.int64]
    found: NDArray[np.bool_]
    release: str
    publication: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecommendationContext:
    """What a ranking model needs for one request, all from one publication.

    Attributes:
        user: the user's features; None where none were asked for.
        candidates: what the search found.
        items: one row for each candidate that was found, the first query's first; None where none were asked for.
    """

    user: FeatureTable | None
    candidates: Neighbors
    items: FeatureTable | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueInfo:
    """What the server says about its catalogue.

    Attributes:
        sequence: grows with every new content.
        size_bytes: its size.
        sha256: 64 hex digits.
        signature: Ed25519, 64 bytes; check it with `featurestore.catalogue.verify` and a public key you know.
        public_key: the installation's, 32 bytes; trust it only if you pinned it before.
        releases: ids of the releases in it.
    """

    sequence: int
    size_bytes: int
    sha256: str
    signature: bytes
    public_key: bytes
    releases: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueDownload:
    """A downloaded catalogue, whole and as its hash says; the signature is not checked yet."""

    info: CatalogueInfo
    data: bytes


def read_feature_table(response: features_pb2.GetFeaturesResponse) -> FeatureTable:
    """A GetFeatures answer as columns.

    Raises:
        ValueError: columns, masks and rows do not agree.
    """
    rows = response.rows
    values, nulls, noise = {}, {}, {}
    for column in response.columns:
        kind, array = get_column(column)
        if len(array) != rows:
            raise ValueError("a column of another length")
        null = ~unbitmap(column.validity, rows)
        if kind in ("float64", "float32", "date", "timestamp") and null.any():
            array = array.copy()
            array[null] = np.nan if array.dtype.kind == "f" else np.datetime64("NaT")
        values[column.reference], nulls[column.reference] = array, null
        if column.HasField("noise_stddev"):
            noise[column.reference] = column.noise_stddev
    found, event_times, release_indexes = {}, {}, {}
    for view in response.views:
        found[view.view] = unbitmap(view.found, rows)
        instants, indexes = _runs(view)
        if len(instants) != rows or len(indexes) != rows or (rows and indexes.max() >= len(response.releases)):
            raise ValueError("rows of another length")
        event_times[view.view] = np.where(found[view.view], instants, np.datetime64("NaT"))
        release_indexes[view.view] = indexes
    return FeatureTable(
        rows=rows,
        values=values,
        nulls=nulls,
        found=found,
        event_times=event_times,
        release_indexes=release_indexes,
        releases=tuple(response.releases),
        noise_stddev=noise,
        publication=response.publication,
    )


def _runs(view: features_pb2.ViewRows) -> tuple[NDArray[np.datetime64], NDArray[np.int32]]:
    """A view's event times and release indexes, out of the message's wire form."""
    raw = view.SerializeToString()
    times = delimited(1, view.view.encode()) + (delimited(2, view.found) if view.found else b"")
    times += header(3, 8 * len(view.event_times))
    indexes = header(4, 4 * len(view.release_indexes))
    after = len(indexes) + 4 * len(view.release_indexes)
    instants = run(raw, times, view.event_times, "<i8", after)
    positions = run(raw[len(raw) - after :], indexes, view.release_indexes, "<i4")
    return instants.astype("M8[us]"), positions


def read_embeddings(response: embeddings_pb2.GetEmbeddingsResponse) -> Embeddings:
    """A GetEmbeddings answer as a matrix.

    Raises:
        ValueError: bytes and mask do not agree.
    """
    vectors = np.frombuffer(response.vectors, "<f4").reshape(-1, response.dimension)
    return Embeddings(
        vectors=vectors,
        found=unbitmap(response.found, len(vectors)),
        release=response.release,
        publication=response.publication,
    )


def read_neighbors(response: embeddings_pb2.SearchResponse, k: int) -> Neighbors:
    """A Search answer as `(q, k)` arrays.

    Raises:
        ValueError: counts, ids and scores do not agree.
    """
    counts = np.asarray(response.counts, dtype=np.int64)
    flat_ids = get_ids(response.ids)[1]
    scores = np.full((len(counts), k), np.nan, dtype=np.float32)
    ids = np.full(scores.shape, "" if flat_ids.dtype == object else 0, dtype=flat_ids.dtype)
    here = np.arange(k) < counts[:, None]
    ids[here] = flat_ids
    scores[here] = np.asarray(response.scores, dtype=np.float32)
    return Neighbors(
        ids=ids,
        scores=scores,
        counts=counts,
        found=unbitmap(response.found, len(counts)),
        release=response.release,
        publication=response.publication,
    )


def read_context(response: recommendation_pb2.GetRecommendationContextResponse, k: int) -> RecommendationContext:
    """A GetRecommendationContext answer.

    Raises:
        ValueError: a part that does not agree with itself.
    """
    return RecommendationContext(
        user=read_feature_table(response.user) if response.HasField("user") else None,
        candidates=read_neighbors(response.candidates, k),
        items=read_feature_table(response.items) if response.HasField("items") else None,
    )


class CatalogueParts:
    """A catalogue's parts as they come: its description, then its bytes in order.

    Args:
        target: the server, for messages.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._info: CatalogueInfo | None = None
        self._data = bytearray()

    def take(self, part: snapshots_pb2.GetCatalogueResponse) -> None:
        """Takes the next part.

        Raises:
            ServingError: the catalogue is larger than this client takes, or than was announced.
        """
        if self._info is None:
            self._info = read_catalogue_info(part.info)
            if self._info.size_bytes > _MAX_CATALOGUE_BYTES:
                found, most = self._info.size_bytes, _MAX_CATALOGUE_BYTES
                raise ServingError(f"{self._target}: the catalogue has {found:,} bytes, allowed: {most:,}")
            return
        self._data += part.data
        if len(self._data) > self._info.size_bytes:
            raise self._another()

    def whole(self) -> CatalogueDownload:
        """The catalogue, with the size and hash that were announced.

        Raises:
            ServingError: it is another one.
        """
        info, data = self._info, bytes(self._data)
        if info is None or len(data) != info.size_bytes or hashlib.sha256(data).hexdigest() != info.sha256:
            raise self._another()
        return CatalogueDownload(info=info, data=data)

    def _another(self) -> ServingError:
        return ServingError(f"{self._target}: the catalogue is not what the server announced; download it again")


def read_catalogue_info(info: snapshots_pb2.CatalogueInfo) -> CatalogueInfo:
    """A catalogue's description."""
    return CatalogueInfo(
        sequence=info.sequence,
        size_bytes=info.bytes,
        sha256=info.sha256.hex(),
        signature=info.signature,
        public_key=info.public_key,
        releases=tuple(info.releases),
    )
