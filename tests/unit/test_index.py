"""A vector space on disk: exact search, conditions, ids of both types, and refusal of what is not as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from governance.errors import NotPublished, PublicationCorrupt
from serving.index import METRICS, IndexKind, VectorSpace, write_space

ROWS, DIMENSION = 500, 12


def make_space(directory: Path, **changes: Any) -> VectorSpace:
    rng = np.random.default_rng(7)
    rows = changes.pop("rows", ROWS)
    arguments: dict[str, Any] = {
        "name": "items",
        "release_id": "items/v1/abc",
        "key": "item_id",
        "ids": rng.permutation(rows * 3)[:rows].astype(np.int64) - 50,
        "vectors": rng.normal(size=(rows, DIMENSION)).astype(np.float32),
        "tags": [["even" if row % 2 == 0 else "odd", *(["rare"] if row % 100 == 0 else [])] for row in range(rows)],
        "metric": "cosine",
    }
    directory.mkdir()
    write_space(directory, **{**arguments, **changes})
    return VectorSpace(directory)


def exact_scores(space: VectorSpace, queries: np.ndarray) -> np.ndarray:
    """Scores of all rows by plain numpy in double precision, `(q, n)`."""
    vectors, queries = space.vectors(np.arange(space.meta.rows)).astype(float), queries.astype(float)
    if space.meta.metric == "l2":
        return -((queries[:, None, :] - vectors[None]) ** 2).sum(axis=2)
    if space.meta.metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return queries @ vectors.T


@pytest.mark.parametrize("metric", METRICS)
def test_flat_search_is_the_exact_one(tmp_path: Path, metric: str) -> None:
    space = make_space(tmp_path / "s", metric=metric)
    queries = np.random.default_rng(1).normal(size=(20, DIMENSION)).astype(np.float32)

    hits = space.search(queries, 10)

    truth = exact_scores(space, queries)
    expected = np.argsort(-truth, axis=1)[:, :10]
    assert space.meta.index == "flat"
    assert hits.counts.tolist() == [10] * 20
    assert np.array_equal(hits.rows.reshape(20, 10), expected)
    assert np.allclose(hits.scores.reshape(20, 10), np.take_along_axis(truth, expected, axis=1), atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_large_space_is_walked_and_finds_nearly_all(tmp_path: Path, metric: str) -> None:
    space = make_space(tmp_path / "s", metric=metric, rows=4000, kind=IndexKind.HNSW_SQ8)
    queries = np.random.default_rng(1).normal(size=(50, DIMENSION)).astype(np.float32)

    rows = space.search(queries, 10).rows.reshape(50, 10)

    expected = np.argsort(-exact_scores(space, queries), axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), expected.tolist(), strict=True)])
    assert space.meta.index is IndexKind.HNSW_SQ8
    assert recall >= 0.95


@pytest.mark.parametrize("kind", IndexKind)
def test_excluding_the_nearest_three_hundred_still_fills_k(tmp_path: Path, kind: IndexKind) -> None:
    space = make_space(tmp_path / "s", kind=kind)
    query = np.random.default_rng(2).normal(size=(1, DIMENSION)).astype(np.float32)
    order = np.argsort(-exact_scores(space, query)[0])

    hits = space.search(query, 20, exclude=order[:300])

    assert hits.rows.tolist() == order[300:320].tolist()


def test_more_neighbors_than_rows_gives_all_rows(tmp_path: Path) -> None:
    space = make_space(tmp_path / "s", rows=7)
    hits = space.search(np.ones((2, DIMENSION), np.float32), 100, exclude=np.array([0, 0, 6]))
    assert hits.counts.tolist() == [5, 5]
    assert set(hits.rows.tolist()) == {1, 2, 3, 4, 5}


def test_unknown_tags_match_nothing(tmp_path: Path) -> None:
    space = make_space(tmp_path / "s")
    hits = space.search(np.ones((3, DIMENSION), np.float32), 5, tags=["no such tag"])
    assert hits.counts.tolist() == [0, 0, 0]
    assert len(hits.rows) == len(hits.scores) == 0
    assert space.tags == ("even", "odd", "rare")


def test_int64_ids_are_found_in_any_order(tmp_path: Path) -> None:
    ids = np.array([9, -(2**63), 2**63 - 1, 0, 4], dtype=np.int64)
    vectors = np.arange(5 * DIMENSION, dtype=np.float32).reshape(5, DIMENSION)
    space = make_space(tmp_path / "s", ids=ids, vectors=vectors, tags=[[]] * 5)

    rows, found = space.find(np.array([0, 5, 2**63 - 1, 9, -(2**63), 0], dtype=np.int64))

    assert found.tolist() == [True, False, True, True, True, True]
    assert space.ids(rows[found]).tolist() == [0, 2**63 - 1, 9, -(2**63), 0]
    assert np.array_equal(space.vectors(rows[found]), vectors[[3, 2, 0, 1, 3]])
    assert space.find(np.empty(0, dtype=np.int64))[0].shape == (0,)


def test_text_ids_are_found_in_any_order(tmp_path: Path) -> None:
    names = ["żółw", "a", "Z", "a ", "日本"]
    vectors = np.arange(5 * DIMENSION, dtype=np.float32).reshape(5, DIMENSION)
    space = make_space(tmp_path / "s", ids=names, vectors=vectors, tags=[["x"], [], [], [], ["x"]])

    rows, found = space.find(["日本", "b", "a", ""])

    assert found.tolist() == [True, False, True, False]
    assert space.ids(rows[found]).tolist() == ["日本", "a"]
    assert np.array_equal(space.vectors(rows[found]), vectors[[4, 1]])
    assert set(space.ids(space.search(vectors[:1], 5, tags=["x"]).rows)) == {"żółw", "日本"}


def test_a_zero_vector_is_near_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    vectors = np.eye(4, DIMENSION, dtype=np.float32)
    vectors[2] = 0
    space = make_space(tmp_path / "s", ids=np.arange(4), vectors=vectors, tags=[[]] * 4)
    hits = space.search(np.zeros((1, DIMENSION), np.float32), 4)
    assert hits.scores.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "hamming"}, "allowed: cosine, dot, l2"),
        ({"vectors": np.zeros((ROWS, 0), np.float32)}, "at least one"),
        ({"vectors": np.zeros((ROWS - 1, 3), np.float32)}, "as many"),
        ({"vectors": np.full((ROWS, 3), np.nan, np.float32)}, "NaN or infinite"),
        ({"ids": np.zeros(ROWS, np.int64)}, "more than once"),
        ({"ids": ["x"] * ROWS}, "more than once"),
    ],
)
def test_what_cannot_be_a_space_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_space(tmp_path / "s", **changes)


@pytest.mark.parametrize(
    "name", ["index.faiss", "vectors.f32", "ids.i64", "tags.json", "tags.rows.i64", "tags.ends.i64", "meta.json"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, name: str, damage: str) -> None:
    make_space(tmp_path / "s")
    path = tmp_path / "s" / name
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0x80
    elif damage == "truncate":
        del data[-1]
    path.write_bytes(data)
    if damage == "remove":
        path.unlink()
    expected = NotPublished if (name, damage) == ("meta.json", "remove") else PublicationCorrupt
    with pytest.raises(expected, match="hedgerow publish"):
        VectorSpace(tmp_path / "s")


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 10**30},
        {"rows": "500"},
        {"rows": 0},
        {"rows": ROWS - 1},
        {"dimension": DIMENSION + 1},
        {"dimension": True},
        {"metric": "hamming"},
        {"key_type": "string"},
        {"index": "forest"},
        {"index": "ivf_sq8"},
        {"schema": "hedgerow.space/1"},
        {"files": []},
        {"files": {}},
        {"tuning": {}},
        {"tuning": {"target": 0.95, "probes": 10**12}},
        {"tuning": {"target": 0.95, "probes": None}},
        {"tuning": {"target": 0.95, "recall_10": 2}},
        {"tuning": {"target": 0.95, "effort_10": -5}},
        {"tuning": {"target": 0.95, "effort": 5}},
    ],
    ids=str,
)
def test_a_record_that_does_not_fit_its_files_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    make_space(tmp_path / "s")
    path = tmp_path / "s" / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))
    with pytest.raises(PublicationCorrupt, match="hedgerow publish"):
        VectorSpace(tmp_path / "s")


def test_a_record_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    make_space(tmp_path / "s")
    path = tmp_path / "s" / "meta.json"
    meta = json.loads(path.read_bytes())
    (tmp_path / "outside").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_text(json.dumps({**meta, "files": {**meta["files"], "../outside": [0, empty]}}))
    with pytest.raises(PublicationCorrupt, match="outside"):
        VectorSpace(tmp_path / "s")
