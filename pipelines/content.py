"""Item vectors from public catalogue facts: categories, words of the title, numbers such as the year.

Each item becomes three blocks of features, and each block is scaled to a fixed length, its weight:

    categories   1.0   one feature a category, rare ones counting more (inverse document frequency)
    words        0.6   TF-IDF of the title's words; a word that only one title has ties nothing together and is left out
    numbers      0.35  position between the column's quantiles, so that near years are near

So two items compare by their genres first, then by their words, then by their year. The matrix is reduced to the
asked number of dimensions by a truncated singular value decomposition, and each row scaled to unit length: `x . y` is
the cosine.

No personal data is read, so a vector costs no privacy. The same catalogue and definition give the same vectors,
whatever the order of its rows or the layout of its files.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from governance.errors import (
    ColumnMissing,
    ColumnTypeError,
    EmptyInput,
    InputError,
    InputMissing,
    NonFiniteValue,
    NullValue,
)
from pipelines.definitions import ContentEmbedding

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_matrix

__all__ = ["ContentVectors", "build_vectors"]

CATEGORY_WEIGHT, WORD_WEIGHT, NUMBER_WEIGHT = 1.0, 0.6, 0.35
MOST_WORDS = 20_000
NUMBER_BINS = 10
_WORD = re.compile(r"[^\W\d_]{2,}")
_DENSE_SIDE = 512
_RESOLUTION = 2.0**-20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ContentVectors:
    """The vectors of a catalogue, ordered by id.

    Attributes:
        ids: shape (n,), int64 or str.
        vectors: shape (n, d), float32, rows of unit length; a row of zeros where nothing is known about an item.
        titles: n titles, empty where there is none.
        tags: n tuples of categories, in the catalogue's order, each once.
    """

    ids: NDArray[Any]
    vectors: NDArray[np.float32]
    titles: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]

    def write(self, path: Path, key: str) -> Path:
        """Writes one parquet file with the columns `key`, `vector` (fixed-size list of d float32), `title` and `tags`.

        Returns:
            The path.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        cells = pa.array(np.ascontiguousarray(self.vectors).ravel(), pa.float32())
        table = pa.table(
            {
                key: pa.array(self.ids.tolist(), pa.int64() if self.ids.dtype.kind == "i" else pa.string()),
                "vector": pa.FixedSizeListArray.from_arrays(cells, self.vectors.shape[1]),
                "title": pa.array(self.titles, pa.string()),
                "tags": pa.array([list(tags) for tags in self.tags], pa.list_(pa.string())),
            }
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")
        return path


def build_vectors(embedding: ContentEmbedding, root: Path) -> ContentVectors:
    """Reads a public catalogue and computes its items' vectors.

    Args:
        embedding: the definition.
        root: the project's folder; `embedding.source.table` is relative to it.

    Raises:
        InputMissing: no such file or folder, or not parquet.
        ColumnMissing: a column that the definition names is absent.
        ColumnTypeError: a column of a type that cannot be used.
        NullValue: an item without an id.
        NonFiniteValue: an infinite number.
        EmptyInput: no items.
        InputError: two items of one id.
    """
    catalogue = _read(embedding, root)
    blocks = [
        (CATEGORY_WEIGHT, _weighted_terms(catalogue.tags, least=1)),
        (WORD_WEIGHT, _weighted_terms([_words(title) for title in catalogue.titles], least=2)),
        *((NUMBER_WEIGHT, _binned(column)) for column in catalogue.numbers),
    ]
    return ContentVectors(
        ids=catalogue.ids,
        vectors=_reduced(_stacked(blocks), embedding.dimensions),
        titles=catalogue.titles,
        tags=catalogue.tags,
    )


# --- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Catalogue:
    ids: NDArray[Any]
    titles: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    numbers: tuple[NDArray[np.float64], ...]


def _read(embedding: ContentEmbedding, root: Path) -> _Catalogue:
    import pyarrow as pa
    import pyarrow.dataset as ds

    shown = embedding.source.table
    columns = list(dict.fromkeys((embedding.key, embedding.title, *embedding.categories, *embedding.numeric)))
    try:
        dataset = ds.dataset(root / shown, format="parquet")
        found = tuple(dataset.schema.names)
        for column in columns:
            if column not in found:
                raise ColumnMissing(shown, column, found)
        table = dataset.to_table(columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputMissing(
            f"{shown}: cannot be read as parquet ({type(error).__name__}); give the catalogue's file or folder"
        ) from None
    if table.num_rows == 0:
        raise EmptyInput(shown)

    ids = _ids(table.column(embedding.key), shown, embedding.key)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if len(ids) > 1 and bool((ids[1:] == ids[:-1]).any()):
        raise InputError(f"{shown}: column {embedding.key!r} has the same id more than once; keep one row an item")
    table = table.take(order)

    titles = _texts(table.column(embedding.title), shown, embedding.title)
    categories = [_categories(table.column(name), shown, name) for name in embedding.categories]
    tags = tuple(tuple(dict.fromkeys(tag for tags in row for tag in tags)) for row in zip(*categories, strict=True))
    numbers = tuple(_numbers(table.column(name), shown, name) for name in embedding.numeric)
    return _Catalogue(
        ids=ids,
        titles=titles,
        tags=tags or ((),) * len(ids),
        numbers=numbers,
    )


def _typed(column: pa.ChunkedArray[Any], check: Callable[[Any], bool], shown: str, name: str, allowed: str) -> Any:
    """The column as one array, not dictionary encoded, of a type that `check` accepts; nulls alone always pass."""
    import pyarrow as pa

    array: Any = pa.concat_arrays(column.chunks)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not pa.types.is_null(array.type) and not check(array.type):
        raise ColumnTypeError(shown, name, str(array.type), allowed)
    return array


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _ids(column: pa.ChunkedArray[Any], shown: str, name: str) -> NDArray[Any]:
    import pyarrow as pa

    allowed = "a whole number or a string"
    array = _typed(column, lambda kind: pa.types.is_integer(kind) or _is_text(kind), shown, name, allowed)
    if array.null_count:
        raise NullValue(shown, name, "item id")
    if _is_text(array.type):
        return np.array(array.to_pylist(), dtype=np.str_)
    try:
        return np.asarray(array.cast(pa.int64()).to_numpy())
    except pa.ArrowInvalid:
        raise ColumnTypeError(shown, name, str(array.type), "a whole number below 2^63, or a string") from None


def _texts(column: pa.ChunkedArray[Any], shown: str, name: str) -> tuple[str, ...]:
    return tuple(text or "" for text in _typed(column, _is_text, shown, name, "string").to_pylist())


def _categories(column: pa.ChunkedArray[Any], shown: str, name: str) -> list[tuple[str, ...]]:
    """Each item's categories; a single one, or a list."""
    import pyarrow as pa

    def allowed(kind: Any) -> bool:
        return _is_text(kind) or (_is_list(kind) and (_is_text(kind.value_type) or pa.types.is_null(kind.value_type)))

    values = _typed(column, allowed, shown, name, "string or list of strings").to_pylist()
    return [() if not v else (v,) if isinstance(v, str) else tuple(tag for tag in v if tag) for v in values]


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _numbers(column: pa.ChunkedArray[Any], shown: str, name: str) -> NDArray[np.float64]:
    """A column's numbers, NaN where there is none."""
    import pyarrow as pa

    def allowed(kind: Any) -> bool:
        return pa.types.is_integer(kind) or pa.types.is_floating(kind)

    array = _typed(column, allowed, shown, name, "a number")
    numbers = np.array([math.nan if v is None else v for v in array.to_pylist()], dtype=np.float64)
    if np.isinf(numbers).any():
        raise NonFiniteValue(shown, name)
    return numbers


# --- features --------------------------------------------------------------------------------------------------------


def _words(title: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", title).casefold()))


def _weighted_terms(rows: Sequence[Sequence[str]], *, least: int) -> csr_matrix:
    """TF-IDF, shape (n, terms), terms in alphabetical order.

    Formula: `tf * (1 + log((1 + n) / (1 + df)))`, of the `MOST_WORDS` most frequent terms with df of at least `least`.
    """
    from scipy.sparse import csr_matrix

    frequency = Counter(term for row in rows for term in set(row))
    frequent = sorted((-df, term) for term, df in frequency.items() if df >= least)[:MOST_WORDS]
    terms = sorted(term for _, term in frequent)
    position = {term: index for index, term in enumerate(terms)}
    inverse = [1 + math.log((1 + len(rows)) / (1 + frequency[term])) for term in terms]
    values, indices, ends = [], [], [0]
    for row in rows:
        for term, times in sorted(Counter(term for term in row if term in position).items()):
            values.append(times * inverse[position[term]])
            indices.append(position[term])
        ends.append(len(indices))
    return csr_matrix((values, indices, ends), shape=(len(rows), len(terms)), dtype=np.float64)


def _binned(numbers: NDArray[np.float64]) -> csr_matrix:
    """Numbers as weights on the two nearest of `NUMBER_BINS` quantiles, shape (n, bins); zeros where missing."""
    from scipy.sparse import csr_matrix

    known = np.flatnonzero(~np.isnan(numbers))
    if not len(known):
        return csr_matrix((len(numbers), 0))
    knots = np.unique(np.quantile(numbers[known], np.linspace(0, 1, NUMBER_BINS)))
    position = np.interp(numbers[known], knots, np.arange(len(knots)))
    low = np.minimum(position.astype(np.int64), max(len(knots) - 2, 0))
    share = position - low
    rows = np.concatenate([known, known])
    columns = np.concatenate([low, np.minimum(low + 1, len(knots) - 1)])
    weights = np.concatenate([1 - share, share])
    return csr_matrix((weights, (rows, columns)), shape=(len(numbers), len(knots)))


def _stacked(blocks: Sequence[tuple[float, csr_matrix]]) -> csr_matrix:
    """All blocks side by side, each row of each block scaled to the block's weight."""
    from scipy.sparse import csr_matrix, diags, hstack

    scaled = []
    for weight, block in blocks:
        length = np.sqrt(np.asarray(block.multiply(block).sum(axis=1)).ravel())
        factor = np.divide(weight, length, out=np.zeros_like(length), where=length > 0)
        scaled.append(diags(factor) @ block)
    return csr_matrix(hstack(scaled))


# --- reduction -------------------------------------------------------------------------------------------------------


def _reduced(matrix: csr_matrix, dimensions: int) -> NDArray[np.float32]:
    """Rows projected on the leading right singular vectors, padded with zeros to `dimensions`, scaled to unit length.

    Signs are fixed (the largest entry of each singular vector is positive) and the iteration starts from a fixed
    vector, so that equal input gives equal output; results are rounded to 2^-20, far below what a comparison can feel.
    """
    rank = min(dimensions, *matrix.shape)
    vectors = np.zeros((matrix.shape[0], dimensions), dtype=np.float64)
    if rank and matrix.nnz:
        directions = _right_singular_vectors(matrix, rank)
        peaks = directions[np.abs(directions).argmax(axis=0), np.arange(rank)]
        vectors[:, :rank] = matrix @ (directions * np.where(peaks < 0, -1.0, 1.0))
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-9)
    return np.asarray(np.round(unit / _RESOLUTION) * _RESOLUTION + 0.0, dtype=np.float32)


def _right_singular_vectors(matrix: csr_matrix, rank: int) -> NDArray[np.float64]:
    """The leading `rank` right singular vectors, shape (features, rank), largest singular value first."""
    if min(matrix.shape) <= _DENSE_SIDE:
        # The small side's Gram matrix is cheap and exact; iteration needs rank well below both sides.
        wide = matrix.shape[0] < matrix.shape[1]
        gram = (matrix @ matrix.T if wide else matrix.T @ matrix).toarray()
        values, side = np.linalg.eigh(gram)
        values, side = values[::-1][:rank], side[:, ::-1][:, :rank]
        if not wide:
            return side
        scale = np.sqrt(np.maximum(values, 0))
        safe = np.where(scale > 1e-6, scale, np.inf)
        return np.asarray(matrix.T @ side) / safe
    from scipy.sparse.linalg import svds

    start = np.random.default_rng(0).standard_normal(min(matrix.shape))
    _, values, directions = svds(matrix, k=min(rank, min(matrix.shape) - 1), v0=start, return_singular_vectors="vh")
    found = np.zeros((matrix.shape[1], rank))
    found[:, : len(values)] = directions[np.argsort(-values, kind="stable")].T
    return found
