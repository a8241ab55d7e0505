from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.errors import (
    ColumnMissing,
    ColumnTypeError,
    EmptyInput,
    InputError,
    InputMissing,
    NonFiniteValue,
    NullValue,
)
from pipelines import ContentEmbedding, PublicTable, Purpose
from pipelines.content import ContentVectors, build_vectors

GENRES = ("Action", "Comedy", "Drama", "Horror", "Western")


def embedding(**changes: Any) -> ContentEmbedding:
    fields: dict[str, Any] = {
        "name": "item_content",
        "version": 1,
        "owner": "tests",
        "purpose": Purpose.RETRIEVAL,
        "description": "Content of an item",
        "source": PublicTable(name="items", table="items.parquet"),
        "key": "item_id",
        "title": "title",
        "categories": ("genres",),
        "numeric": ("year",),
        "dimensions": 16,
    }
    return ContentEmbedding(**{**fields, **changes})


def catalogue(count: int) -> dict[str, Any]:
    """Items with one or two genres, two words of a vocabulary of forty, and a year."""
    stream = np.random.default_rng(3)
    genres = [list(stream.choice(GENRES, size=stream.integers(1, 3), replace=False)) for _ in range(count)]
    words = [f"w{a:02d}alpha w{b:02d}beta".translate(LETTERS) for a, b in stream.integers(20, size=(count, 2))]
    years = stream.integers(1950, 2025, size=count).tolist()
    return {"item_id": list(range(1, count + 1)), "title": words, "genres": genres, "year": years}


LETTERS = str.maketrans("0123456789", "abcdefghij")


def write(folder: Path, columns: Mapping[str, Any], types: Mapping[str, pa.DataType] | None = None) -> Path:
    kinds = {"genres": pa.list_(pa.string()), "title": pa.string(), "year": pa.int32(), **(types or {})}
    arrays = {name: pa.array(values, kinds.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), folder / "items.parquet")
    return folder


def neighbors_sharing_a_genre(vectors: ContentVectors, k: int) -> float:
    """Share of each item's k nearest items that have a genre in common with it."""
    scores = vectors.vectors @ vectors.vectors.T
    np.fill_diagonal(scores, -np.inf)
    near = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(
        np.mean([bool(set(vectors.tags[i]) & set(vectors.tags[j])) for i in range(len(near)) for j in near[i]])
    )


def test_vectors_are_unit_rows_ordered_by_id(tmp_path: Path) -> None:
    columns = catalogue(300)
    order = np.random.default_rng(0).permutation(300)
    shuffled = {name: [values[i] for i in order] for name, values in columns.items()}
    found = build_vectors(embedding(), write(tmp_path, shuffled))
    assert found.ids.tolist() == columns["item_id"]
    assert found.ids.dtype == np.int64
    assert found.vectors.shape == (300, 16)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert found.titles == tuple(columns["title"])
    assert found.tags == tuple(tuple(genres) for genres in columns["genres"])


@pytest.mark.parametrize("count", [300, 1500], ids=["dense", "iterative"])
def test_same_catalogue_same_bytes_whatever_its_order_and_files(tmp_path: Path, count: int) -> None:
    columns = catalogue(count)
    first = build_vectors(embedding(), write(tmp_path, columns))
    order = np.random.default_rng(1).permutation(count)
    shuffled = {name: [values[i] for i in order] for name, values in columns.items()}
    again = build_vectors(embedding(), write(tmp_path, shuffled))
    np.testing.assert_array_equal(first.vectors, again.vectors)

    folder = tmp_path / "parts"
    folder.mkdir()
    whole = pq.read_table(tmp_path / "items.parquet")
    pq.write_table(whole.slice(0, 100), folder / "b.parquet")
    pq.write_table(whole.slice(100), folder / "a.parquet", row_group_size=17)
    parts = build_vectors(embedding(source=PublicTable(name="items", table="parts")), tmp_path)
    np.testing.assert_array_equal(first.vectors, parts.vectors)


def test_genres_dominate_then_words_then_years(tmp_path: Path) -> None:
    columns = {
        "item_id": [1, 2, 3, 4, 5, 6],
        "title": ["red lantern", "blue harbour", "red lantern", "blue harbour", "green meadow", "green meadow"],
        "genres": [["Horror"], ["Horror"], ["Comedy"], ["Comedy"], ["Horror"], ["Comedy"]],
        "year": [1980, 1980, 1980, 2020, 2020, 2020],
    }
    found = build_vectors(embedding(), write(tmp_path, columns))
    scores = found.vectors @ found.vectors.T
    assert scores[0, 1] > scores[0, 2]  # the same genre, against the same words
    assert scores[2, 0] > scores[2, 1]  # the same words, against the same year


def test_neighbors_share_genres_far_more_often_than_chance(tmp_path: Path) -> None:
    found = build_vectors(embedding(), write(tmp_path, catalogue(1200)))
    tags = [set(several) for several in found.tags]
    pairs = np.random.default_rng(5).integers(len(tags), size=(4000, 2))
    chance = np.mean([bool(tags[a] & tags[b]) for a, b in pairs])
    assert chance < 0.6
    assert neighbors_sharing_a_genre(found, 10) > 0.95


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fewer_items_than_dimensions_are_padded_with_zeros(tmp_path: Path, count: int) -> None:
    found = build_vectors(embedding(dimensions=64), write(tmp_path, catalogue(count)))
    assert found.vectors.shape == (count, 64)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert not found.vectors[:, count:].any()


def test_missing_facts_leave_the_rest_and_nothing_known_is_zero(tmp_path: Path) -> None:
    columns = {
        "item_id": [1, 2, 3, 4],
        "title": ["night train", None, "night", None],
        "genres": [["Drama"], ["Drama"], None, []],
        "year": [None, 2001, None, None],
    }
    found = build_vectors(embedding(), write(tmp_path, columns))
    assert found.titles == ("night train", "", "night", "")
    assert found.tags == (("Drama",), ("Drama",), (), ())
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), [1, 1, 1, 0], atol=1e-5)
    assert found.vectors[0] @ found.vectors[1] > 0
    assert found.vectors[0] @ found.vectors[2] > 0


def test_no_categories_and_no_numbers_leave_words(tmp_path: Path) -> None:
    root = write(tmp_path, {"item_id": ["a", "b", "c"], "title": ["red kite", "RED Kite!", "slow boat"]})
    found = build_vectors(embedding(categories=(), numeric=()), root)
    assert found.ids.tolist() == ["a", "b", "c"]
    assert found.tags == ((), (), ())
    assert found.vectors[0] @ found.vectors[1] == pytest.approx(1, abs=1e-5)
    assert not found.vectors[2].any()  # its words are its own, so they tie it to nothing


def test_single_and_several_category_columns_become_tags_once_each(tmp_path: Path) -> None:
    columns = {
        "item_id": [1, 2],
        "title": ["one", "two"],
        "genres": [["Drama", "War"], ["War"]],
        "band": ["cheap", None],
        "mood": pa.array(["Drama", "calm"]).dictionary_encode(),
    }
    root = write(tmp_path, columns, {"band": pa.string()})
    found = build_vectors(embedding(categories=("genres", "band", "mood"), numeric=()), root)
    assert found.tags == (("Drama", "War", "cheap"), ("War", "calm"))


def test_release_file_holds_what_was_built(tmp_path: Path) -> None:
    found = build_vectors(embedding(), write(tmp_path, catalogue(20)))
    table = pq.read_table(found.write(tmp_path / "release" / "part-00000.parquet", "item_id"))
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 16)
    assert table.column_names == ["item_id", "vector", "title", "tags"]
    stored = table.column("vector").combine_chunks().flatten().to_numpy().reshape(-1, 16)
    np.testing.assert_array_equal(stored, found.vectors)
    assert table.column("tags").to_pylist() == [list(tags) for tags in found.tags]
    assert table.column("item_id").to_pylist() == found.ids.tolist()


BAD: Sequence[tuple[str, dict[str, Any], dict[str, pa.DataType], type[InputError], str]] = [
    ("id null", {"item_id": [1, None]}, {}, NullValue, "item_id"),
    ("id twice", {"item_id": [1, 1]}, {}, InputError, "more than once"),
    ("id float", {"item_id": [1.0, 2.0]}, {}, ColumnTypeError, "whole number"),
    ("id beyond 2^63", {"item_id": [1, 2**63]}, {"item_id": pa.uint64()}, ColumnTypeError, "2^63"),
    ("title number", {"title": [1, 2]}, {"title": pa.int64()}, ColumnTypeError, "string"),
    ("genres numbers", {"genres": [[1], [2]]}, {"genres": pa.list_(pa.int64())}, ColumnTypeError, "list of strings"),
    ("year text", {"year": ["x", "y"]}, {"year": pa.string()}, ColumnTypeError, "a number"),
    ("year infinite", {"year": [1.0, float("inf")]}, {"year": pa.float64()}, NonFiniteValue, "infinite"),
]


@pytest.mark.parametrize(
    ("change", "types", "error", "told"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_bad_catalogues_are_typed_errors(
    tmp_path: Path, change: dict[str, Any], types: dict[str, pa.DataType], error: type[InputError], told: str
) -> None:
    root = write(tmp_path, {**catalogue(2), **change}, types)
    with pytest.raises(InputError) as caught:
        build_vectors(embedding(), root)
    assert type(caught.value) is error
    assert told in str(caught.value)


def test_missing_file_column_rows_and_damage_are_typed_errors(tmp_path: Path) -> None:
    with pytest.raises(InputMissing):
        build_vectors(embedding(), tmp_path)
    write(tmp_path, {name: values for name, values in catalogue(2).items() if name != "genres"})
    with pytest.raises(ColumnMissing) as caught:
        build_vectors(embedding(), tmp_path)
    assert caught.value.column == "genres"
    with pytest.raises(EmptyInput):
        build_vectors(embedding(), write(tmp_path, catalogue(0), {"item_id": pa.int64()}))
    (tmp_path / "items.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputMissing):
        build_vectors(embedding(), tmp_path)


def test_no_number_is_a_missing_number(tmp_path: Path) -> None:
    columns = {**catalogue(3), "year": [float("nan"), 2000.0, None]}
    found = build_vectors(embedding(), write(tmp_path, columns, {"year": pa.float64()}))
    assert np.isfinite(found.vectors).all()
