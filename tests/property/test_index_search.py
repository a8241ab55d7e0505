"""Search under any conditions equals a plain loop over all rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.index import METRICS, IndexKind, VectorSpace, write_space

TAGS = ("a", "b", "c")


@pytest.mark.parametrize("kind", [kind for kind in IndexKind if kind is not IndexKind.IVF_PQ])
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
    listed=st.none() | st.lists(st.integers(0, 59), max_size=60),
    gone=st.lists(st.integers(0, 59), max_size=10),
)
def test_search_equals_a_plain_loop(
    kind: IndexKind,
    seed: int,
    rows: int,
    dimension: int,
    metric: str,
    k: int,
    minimum: float | None,
    tags: list[str],
    own: bool,
    excluded: list[int],
    listed: list[int] | None,
    gone: list[int],
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, dimension)).astype(np.float32)
    item_tags = [[tag for tag in TAGS if rng.random() < 0.4] for _ in range(rows)]
    queries = rng.integers(0, rows, size=3)  # ids, as are all rows in this test
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
            kind=kind,
        )
        whole = VectorSpace(Path(folder))
    space = whole.without(gone)
    hits = space.search(
        vectors[queries],
        k,
        own_rows=whole.find(queries)[0] if own else None,
        minimum_score=minimum,
        exclude=known(space, excluded),
        tags=tags,
        allow=None if listed is None else known(space, listed),
    )
    ids = space.ids(hits.rows)
    ends = np.cumsum(hits.counts)
    for query, start, end in zip(queries, ends - hits.counts, ends, strict=True):
        allowed = [
            row
            for row in range(rows)
            if row not in {*excluded, *gone}
            and (not own or row != query)
            and (not tags or set(tags) & set(item_tags[row]))
            and (listed is None or row in listed)
        ]
        truth = {row: score(metric, vectors[query], vectors[row]) for row in allowed}
        found, scores = ids[start:end].tolist(), hits.scores[start:end]
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


def known(space: VectorSpace, ids: list[int]) -> np.ndarray:
    """The rows of those ids that exist."""
    rows, found = space.find(np.array(ids, np.int64))
    return rows[found]


def score(metric: str, a: np.ndarray, b: np.ndarray) -> float:
    x, y = a.astype(float), b.astype(float)
    if metric == "l2":
        return -float(((x - y) ** 2).sum())
    return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y) if metric == "cosine" else 1))
