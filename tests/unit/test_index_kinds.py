"""Which index is chosen, how effort is tuned, and what an opened space refuses although every byte is as written."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from governance.canonical import sha256_file
from governance.errors import PublicationCorrupt
from serving.index import FLAT_ROWS, METRICS, IndexKind, Tuning, VectorSpace, candidates, resident_bytes, write_space
from serving.index.engine import faiss, threads
from serving.index.kinds import lists, subquantizers
from serving.index.tuning import RecallUnreached, efforts, least_effort, recalls, surely

ROWS, DIMENSION = 3_000, 16
FLAT, HNSW, HNSW_SQ8, IVF_SQ8, IVF_PQ = IndexKind


def correlated(rows: int, seed: int = 0) -> np.ndarray:
    """Vectors whose k-th value has variance 1/k: no clusters, and not without structure."""
    scales = 1 / np.sqrt(np.arange(1, DIMENSION + 1))
    return (np.random.default_rng(seed).normal(size=(rows, DIMENSION)) * scales).astype(np.float32)


def written(directory: Path, vectors: np.ndarray, **changes: object) -> VectorSpace:
    directory.mkdir()
    rows = len(vectors)
    arguments = {"name": "s", "release_id": "s/v1/x", "key": "id", "metric": "cosine", "tags": [[]] * rows, **changes}
    write_space(directory, ids=np.arange(rows), vectors=vectors, **arguments)  # type: ignore[arg-type]
    return VectorSpace(directory)


def recall_at_ten(space: VectorSpace, queries: np.ndarray) -> float:
    """Against numpy in double precision."""
    vectors = space.vectors(np.arange(space.meta.rows)).astype(float)
    asked = queries.astype(float)
    if space.meta.metric == "l2":
        truth = -((asked[:, None] - vectors[None]) ** 2).sum(axis=2)
    else:
        if space.meta.metric == "cosine":
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        truth = asked @ vectors.T
    expected = np.argsort(-truth, axis=1)[:, :10]
    found = space.search(queries, 10).rows.reshape(-1, 10)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), expected.tolist(), strict=True)]))


# --- the choice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "dimension", "recall", "memory", "expected"),
    [
        (FLAT_ROWS, 64, 0.9, None, (FLAT,)),
        (FLAT_ROWS + 1, 64, 0.95, None, (HNSW_SQ8, HNSW, FLAT)),
        (FLAT_ROWS + 1, 16, 0.95, None, (HNSW, FLAT)),
        (10_000_000, 64, 1.0, None, (FLAT,)),
        (10_000_000, 64, 0.95, None, (IVF_SQ8, HNSW_SQ8, FLAT)),
        (100_000_000, 64, 0.95, None, (IVF_PQ, IVF_SQ8, HNSW_SQ8, FLAT)),
        (1_000_000, 64, 0.95, 2**30, (HNSW_SQ8, HNSW, FLAT, IVF_SQ8, IVF_PQ)),
        (1_000_000, 64, 0.95, 260_000_000, (FLAT, IVF_SQ8, IVF_PQ)),
        (1_000_000, 64, 0.95, 80 * 2**20, (IVF_SQ8, IVF_PQ)),
        (1_000_000, 64, 0.95, 50 * 2**20, (IVF_PQ,)),
        (1_000_000, 64, 0.95, 2**20, ()),
        (1_000_000, 64, 1.0, 80 * 2**20, ()),
    ],
)
def test_kinds_by_size_recall_and_memory(
    rows: int, dimension: int, recall: float, memory: int | None, expected: tuple[IndexKind, ...]
) -> None:
    found = candidates(rows, dimension, recall=recall, memory_bytes=memory)
    assert found == expected
    if memory is not None:
        assert all(resident_bytes(kind, rows, dimension) <= memory for kind in found)


@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 48, 64, 97])
def test_product_quantisers_divide_the_dimension(dimension: int) -> None:
    assert dimension % subquantizers(dimension) == 0
    assert subquantizers(dimension) >= dimension // 2 or dimension in {3, 7, 97}


@pytest.mark.parametrize("rows", [1, 38, 39, 500, 10**6, 10**9])
def test_every_list_has_rows_to_learn_from(rows: int) -> None:
    assert 1 <= lists(rows) <= max(1, rows // 39)


@pytest.mark.parametrize("kind", IndexKind)
def test_the_memory_an_index_takes_is_foreseen(tmp_path: Path, kind: IndexKind) -> None:
    space = written(tmp_path / "s", correlated(ROWS), kind=kind, recall=0.5)
    size, _ = space.meta.files["index.faiss"]
    fixed = 256 * DIMENSION * 4 if kind is IVF_PQ else 0  # the quantiser's own table
    assert size - fixed == pytest.approx(resident_bytes(kind, ROWS, DIMENSION), rel=0.1)


# --- effort ----------------------------------------------------------------------------------------------------


def test_least_effort_is_the_first_that_surely_reaches_the_target() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 500)
    asked: list[int] = []

    def measure(effort: int) -> np.ndarray:
        asked.append(effort)
        return np.asarray(1 - 1 / effort + noise - noise.mean())

    steps = efforts(4096)
    found = least_effort(measure, steps, 0.95)

    assert found is not None
    assert surely(measure(found)) >= 0.95
    assert surely(measure(steps[steps.index(found) - 1])) < 0.95
    assert len(asked) < len(steps)
    assert least_effort(lambda _: np.full(9, 0.9), steps, 0.95) is None
    assert least_effort(lambda _: np.ones(9), steps, 1.0) == steps[0]


def test_a_lower_end_lies_below_the_mean_as_often_as_it_says() -> None:
    """200 samples of 500: the 95 % lower end is above the true mean in 10 of them on average, in 24 once in 10,000."""
    rng = np.random.default_rng(1)
    wrong = sum(surely((rng.random((500, 10)) < 0.9).mean(axis=1)) > 0.9 for _ in range(200))
    assert wrong < 24
    assert sum((rng.random((500, 10)) < 0.9).mean() > 0.9 for _ in range(200)) >= 24  # the mean itself would not do


@pytest.mark.parametrize("most", [1, 2, 9, 10, 11, 500, 4096, 10**6])
def test_efforts_ascend_to_the_most(most: int) -> None:
    steps = efforts(most)
    assert list(steps) == sorted(set(steps))
    assert steps[-1] == min(most, 4096)


def test_effort_grows_with_the_number_of_neighbors() -> None:
    tuning = Tuning(target=0.95, effort_10=20, effort_100=180, probes=500)
    found = [tuning.effort(k) for k in (1, 10, 11, 32, 99, 100, 101, 1000)]
    assert found == sorted(found)
    assert (found[0], found[1], found[5], found[7]) == (20, 20, 180, 1800)
    assert Tuning(target=1.0).effort(1000) == 0


def test_equal_vectors_do_not_count_as_errors() -> None:
    truth = np.array([[0.9, 0.5, 0.5]], np.float32)
    assert recalls(np.array([[0.9, 0.5, 0.5]], np.float32), truth).tolist() == [1]
    assert recalls(np.array([[0.9, 0.5, 0.4]], np.float32), truth) == pytest.approx([2 / 3])
    assert recalls(np.array([[0.9, -np.inf, -np.inf]], np.float32), truth) == pytest.approx([1 / 3])


@pytest.mark.parametrize(
    ("kind", "metric"), [(IVF_PQ, "l2"), *((kind, metric) for kind in (HNSW, HNSW_SQ8, IVF_SQ8) for metric in METRICS)]
)
def test_the_declared_recall_holds_for_queries_that_nobody_has_seen(
    tmp_path: Path, kind: IndexKind, metric: str
) -> None:
    space = written(tmp_path / "s", correlated(ROWS), kind=kind, metric=metric, recall=0.9)
    tuning = space.meta.tuning
    assert space.meta.index is kind
    assert (tuning.target, tuning.probes) == (0.9, 300)
    assert tuning.recall_10 >= 0.89
    assert 0 < tuning.effort_10 <= tuning.effort_100
    assert recall_at_ten(space, correlated(300, seed=1)) >= 0.87  # standard error 0.008


def test_more_recall_costs_more_effort(tmp_path: Path) -> None:
    vectors = correlated(ROWS)
    some, more = (written(tmp_path / str(r), vectors, kind=IVF_SQ8, recall=r).meta.tuning for r in (0.8, 0.98))
    assert some.effort_10 < more.effort_10
    assert some.recall_10 < more.recall_10


def test_a_recall_that_a_kind_cannot_reach_is_refused(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(ROWS, 97)).astype(np.float32)  # a prime: one byte for all values
    with pytest.raises(RecallUnreached, match=r"s: recall@10 of 0.9999 is not reached: tried ivf_pq; raise") as caught:
        written(tmp_path / "s", vectors, kind=IVF_PQ, recall=0.9999)
    assert (caught.value.target, caught.value.tried) == (0.9999, (IVF_PQ,))


def test_the_next_kind_is_taken_where_the_first_does_not_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(ROWS, 97)).astype(np.float32)  # a prime: one byte for all values
    monkeypatch.setattr("serving.index.write.candidates", lambda *_, **__: (IVF_PQ, FLAT))
    assert written(tmp_path / "s", vectors, recall=0.9999).meta.index is FLAT


def test_equal_vectors_are_indexed_too(tmp_path: Path) -> None:
    vectors = np.repeat(correlated(60), 50, axis=0)
    space = written(tmp_path / "s", vectors, kind=HNSW_SQ8, metric="l2", recall=0.9)
    hits = space.search(vectors[::50], 5)
    assert (hits.scores > -1e-4).mean() >= 0.85


@pytest.mark.parametrize("recall", [0.0, -1.0, 1.5, float("nan")])
def test_a_recall_that_means_nothing_is_refused(tmp_path: Path, recall: float) -> None:
    with pytest.raises(ValueError, match="allowed: more than 0, at most 1"):
        written(tmp_path / "s", correlated(10), recall=recall)


# --- what is opened --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FLAT, HNSW_SQ8])
def test_an_index_of_other_vectors_is_refused_by_its_recall(tmp_path: Path, kind: IndexKind) -> None:
    """Every hash is right, but the index answers for vectors that are not the space's."""
    written(tmp_path / "s", correlated(1000), kind=kind)
    written(tmp_path / "other", correlated(1000, seed=9), kind=kind)
    target, meta = tmp_path / "s" / "index.faiss", tmp_path / "s" / "meta.json"
    target.write_bytes((tmp_path / "other" / "index.faiss").read_bytes())
    value = json.loads(meta.read_bytes())
    value["files"]["index.faiss"] = [target.stat().st_size, sha256_file(target)]
    meta.write_text(json.dumps(value))

    with pytest.raises(PublicationCorrupt, match=r"recall 0\.\d+, measured .* at publish"):
        VectorSpace(tmp_path / "s")


def test_a_space_without_ids_shares_its_pages_and_leaves_the_first_one_whole(tmp_path: Path) -> None:
    vectors = correlated(1000)
    space = written(tmp_path / "s", vectors, kind=HNSW)
    less = space.without([3, 4, 999_999]).without([5])
    assert (space.removed, less.removed) == (0, 3)
    assert less.find([3, 4, 5, 6])[1].tolist() == [False, False, False, True]
    assert space.find([3, 4, 5, 6])[1].all()
    assert np.shares_memory(less._vectors, space._vectors)
    for tags in ((), ("unknown",)):
        assert not {3, 4, 5} & set(less.ids(less.search(vectors[3:6], 1000, tags=tags).rows).tolist())
    assert {3, 4, 5} <= set(space.ids(space.search(vectors[3:6], 3).rows).tolist())


@pytest.mark.parametrize("kind", IndexKind)
def test_allow_lists_of_any_size_are_searched_exactly_enough(tmp_path: Path, kind: IndexKind) -> None:
    vectors, queries = correlated(ROWS), correlated(40, seed=1)
    space = written(tmp_path / "s", vectors, kind=kind, recall=0.95)
    scores = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    for share in (0.002, 0.01, 0.1, 0.5, 1.0):
        ids = np.random.default_rng(2).choice(ROWS, int(share * ROWS), replace=False)
        hits = space.search(queries, 5, allow=space.find(ids)[0], exclude=space.find(ids[:1])[0])
        allowed = np.isin(np.arange(ROWS), ids[1:])
        found = space.ids(hits.rows).reshape(40, 5)
        truth = np.argsort(-np.where(allowed, scores, -np.inf), axis=1)[:, :5]
        recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
        assert allowed[found].all()
        assert recall >= 0.9


def test_searches_run_outside_pythons_lock(tmp_path: Path) -> None:
    space = written(tmp_path / "s", correlated(ROWS), kind=FLAT)
    queries = np.repeat(correlated(500), 10, axis=0)

    def steps_meanwhile() -> int:
        begun, ended, steps = threading.Event(), threading.Event(), 0

        def search() -> None:
            with threads(1):
                begun.set()
                space.search(queries, 100)
                ended.set()

        worker = threading.Thread(target=search)
        worker.start()
        begun.wait()
        while not ended.is_set():
            steps += 1
        worker.join()
        return steps

    # A machine may stand still for as long as a search takes, but not in each of ten.
    assert any(steps_meanwhile() > 10_000 for _ in range(10))


# --- on a GPU --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(faiss.get_num_gpus() > 0, reason="there is one: the next test runs on it")
def test_without_a_gpu_the_processor_searches(tmp_path: Path) -> None:
    assert written(tmp_path / "s", correlated(100))._gpu is None


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [FLAT, HNSW_SQ8, IVF_SQ8])
def test_a_gpu_answers_like_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: IndexKind, metric: str
) -> None:
    """Where there is no GPU, a copy in memory stands for the one on it."""
    plain = written(tmp_path / "s", correlated(1000), kind=kind, metric=metric, recall=0.99)
    if not faiss.get_num_gpus():
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
        monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
        monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *given: faiss.clone_index(given[2]), raising=False)
    fast = VectorSpace(tmp_path / "s")
    assert fast._gpu is not None
    queries = correlated(50, seed=1)
    for conditions in ({}, {"exclude": np.arange(40)}, {"allow": np.arange(500)}, {"minimum_score": 0.1}):
        a, b = (space.search(queries, 10, **conditions) for space in (plain, fast))  # type: ignore[arg-type]
        same = len(
            set(zip(np.repeat(np.arange(50), a.counts), a.rows, strict=True))
            & set(zip(np.repeat(np.arange(50), b.counts), b.rows, strict=True))
        )
        assert same >= 0.95 * len(a.rows)
    assert recall_at_ten(fast, queries) >= 0.97


def test_a_gpu_that_cannot_hold_an_index_is_told_and_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("out of memory")

    space = written(tmp_path / "s", correlated(100))
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", full, raising=False)
    with caplog.at_level(logging.WARNING):
        opened = VectorSpace(tmp_path / "s")
    assert "searching on the processor" in caplog.text
    assert np.array_equal(opened.search(correlated(3), 5).rows, space.search(correlated(3), 5).rows)
