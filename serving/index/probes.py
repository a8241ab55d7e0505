"""Recall of an index, measured: on held-out queries while it is tuned, and on its own last rows once it is whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from serving.index.engine import Matrix, Rows, nearest, scan
from serving.index.kinds import IndexKind
from serving.index.tuning import least_effort, recalls

__all__ = ["least_held_out", "measured", "true_scores"]


def least_held_out(
    index: Any,
    kind: IndexKind,
    matrix: Matrix,
    queries: Matrix,
    k: int,
    target: float,
    steps: tuple[int, ...],
    *,
    l2: bool,
) -> int | None:
    """The least effort that reaches the target at k neighbors of queries that are not in the index."""
    k = min(k, len(matrix))
    truth = _exact(queries, matrix, k, l2=l2)[0]
    return least_effort(
        lambda effort: recalls(nearest(index, kind, matrix, queries, k, effort, l2=l2)[0], truth), steps, target
    )


def true_scores(matrix: Matrix, probes: int, k: int, *, l2: bool) -> Matrix:
    """Scores of the k nearest rows to each of the last rows, which leave themselves out: `(p, k)`."""
    own = np.arange(len(matrix) - probes, len(matrix))
    scores, rows = _exact(matrix[-probes:], matrix, k + 1, l2=l2)
    return _without_own(scores, rows, own)


def measured(index: Any, kind: IndexKind, matrix: Matrix, truth: Matrix, effort: int, *, l2: bool) -> float:
    """Mean recall of the probes, the last rows of `matrix`, each left out of its own neighbors."""
    probes, k = truth.shape
    own = np.arange(len(matrix) - probes, len(matrix))
    scores, rows = nearest(index, kind, matrix, matrix[-probes:], k + 1, effort, l2=l2)
    scores = np.where(rows >= 0, scores, -np.inf).astype(np.float32)
    return float(recalls(_without_own(scores, rows, own), truth).mean())


def _exact(queries: Matrix, matrix: Matrix, k: int, *, l2: bool) -> tuple[Matrix, Rows]:
    scores, rows = scan(queries, matrix, k, l2=l2)
    return (-scores if l2 else scores), rows


def _without_own(scores: Matrix, rows: Rows, own: Rows) -> Matrix:
    """Drops each query's own row, or the last where it is not among them: `(q, k + 1)` → `(q, k)`."""
    keep = rows != own[:, None]
    keep[keep.all(axis=1), -1] = False
    kept: Matrix = scores[keep].reshape(len(rows), -1)
    return kept
