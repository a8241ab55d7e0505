"""Search under any conditions equals a plain loop over all rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.index import METRICS, VectorSpace, write_space

TAGS = ("a", "b", "c")


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "hnsw"])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 60),
    dimension=st.integers(1, 9),
    metric=st.sampled_from(METRICS),
    k=st.integers(1, 70),
    minimum=st.none() | st.floats(-3, 3, width=32),
    tags=st.lists(st.sampled_from((*TAGS, "unknown")), max_size=2),
    own=st.booleans(),
    excluded=st.lists(st.integers(0, 59), max_size=60),
)
def test_search_equals_a_plain_loop(
    flat: bool,
    seed: int,
    rows: int,
    dimension: int,
    metric: str,
    k: int,
    minimum: float | None,
    tags: list[str],
    own: bool,
    excluded: list[int],
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, dimension)).astype(np.float32)
    item_tags = [[tag for tag in TAGS if rng.random() < 0.4] for _ in range(rows)]
    query_rows = rng.integers(0, rows, size=3)
    exclude = np.array([row for row in excluded if row < rows], dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:
        write_space(
            Path(folder),
            name="s",
            release_id="s/v1/w",
            key="id",
            ids=np.arange(rows),
            vectors=vectors,
            tags=item_tags,
            metric=metric,
            flat_rows=rows if flat else 0,
        )
        space = VectorSpace(Path(folder))
        hits = space.search(
            vectors[query_rows],
            k,
            own_rows=query_rows if own else None,
            minimum_score=minimum,
            exclude=exclude,
            tags=tags,
        )
    ends = np.cumsum(hits.counts)
    for query, start, end in zip(query_rows, ends - hits.counts, ends, strict=True):
        allowed = [
            row
            for row in range(rows)
            if row not in exclude and (not own or row != query) and (not tags or set(tags) & set(item_tags[row]))
        ]
        truth = {row: score(metric, vectors[query], vectors[row]) for row in allowed}
        found, scores = hits.rows[start:end].tolist(), hits.scores[start:end]
        assert len(set(found)) == len(found)
        assert set(found) <= set(allowed)
        assert np.all(np.diff(scores) <= 0)
        assert np.allclose(scores, [truth[row] for row in found], atol=1e-4, rtol=1e-4)
        best = sorted(truth.values(), reverse=True)[:k]
        if minimum is not None:
            assert np.all(scores >= np.float32(minimum))
            close = sum(abs(value - minimum) <= 1e-3 for value in best)
            assert abs(len(found) - sum(value >= minimum for value in best)) <= close
        else:
            assert np.allclose(scores, best, atol=1e-4, rtol=1e-4)


def score(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(float), b.astype(float)
    if metric == "l2":
        return -float(((x - y) ** 2).sum())
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y) if metric == "cosine" else 1))
