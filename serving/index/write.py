"""From vectors to a space's directory: the kind is chosen, the index built, tuned on held-out probes, and measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.rows import PlaceTable
from governance.canonical import canonical_bytes, sha256_file
from serving.index.engine import Matrix, Rows, faiss, normalise, threads, trained
from serving.index.kinds import METRICS, IndexKind, candidates, lists
from serving.index.layout import (
    IDS,
    INDEX,
    NAMES,
    ORDER,
    PLACES,
    PROBES,
    UNIT,
    VECTORS,
    SpaceMeta,
    write_meta,
    write_tags,
)
from serving.index.probes import least_held_out, measured, true_scores
from serving.index.tuning import DEPTHS, RecallUnreached, Tuning, efforts
from serving.index.tuning import PROBES as MOST_PROBES

__all__ = ["write_space"]

Ids = NDArray[np.int64] | Sequence[str]

_RECALL: Final = 0.95
_FEWEST_PROBES: Final = 20
_FLAT_PROBES: Final = 32
_UNIT_TOLERANCE: Final = 1e-6
_SEED: Final = 20251104


def write_space(
    directory: Path,
    *,
    name: str,
    release_id: str,
    key: str,
    ids: Ids,
    vectors: Matrix,
    tags: Sequence[Sequence[str]],
    metric: str,
    recall: float = _RECALL,
    memory_bytes: int | None = None,
    kind: IndexKind | None = None,
) -> SpaceMeta:
    """Writes a space into an empty directory. The caller publishes the directory by renaming it.

    Args:
        directory: exists and is empty.
        ids: n distinct ids.
        vectors: `(n, d)`, finite.
        tags: n lists of tags.
        metric: one of `METRICS`.
        recall: the recall@10 to reach, in (0, 1]; effort is tuned until held-out rows show it with 95 % confidence.
        memory_bytes: what the index may keep in memory; None: no limit.
        kind: this kind of index and no other; None: chosen by size, recall and memory.

    Raises:
        ValueError: shapes that differ, no rows, doubled ids, values that are not finite, an unknown metric, a recall
            outside (0, 1].
        RecallUnreached: no index that fits into the memory reaches the recall.
    """
    _check(ids, vectors, tags, metric, recall)
    kinds = (kind,) if kind else candidates(len(vectors), vectors.shape[1], recall=recall, memory_bytes=memory_bytes)
    order, held_out = _order(ids, probes=_probes(len(vectors), flat=kinds[:1] == (IndexKind.FLAT,)))
    matrix = np.ascontiguousarray(vectors[order], dtype="<f4")
    matrix.tofile(directory / VECTORS)
    compared = matrix
    if metric == "cosine" and np.abs(np.linalg.norm(matrix, axis=1) - 1).max() > _UNIT_TOLERANCE:
        compared = normalise(matrix)
        compared.tofile(directory / UNIT)
    _write_ids(directory, ids, order)
    write_tags(directory, [tags[row] for row in order])
    with threads(os.cpu_count() or 1):
        index, chosen, tuning, truth = _reaching(name, kinds, compared, held_out, recall, l2=metric == "l2")
    truth.astype("<f4").tofile(directory / PROBES)
    faiss.write_index(index, str(directory / INDEX))
    files = {path.name: (path.stat().st_size, sha256_file(path)) for path in sorted(directory.iterdir())}
    meta = SpaceMeta(
        name=name,
        release_id=release_id,
        key=key,
        key_type="int64" if isinstance(ids, np.ndarray) else "string",
        rows=len(matrix),
        dimension=matrix.shape[1],
        metric=metric,
        index=chosen,
        tuning=tuning,
        files=files,
    )
    write_meta(directory, meta)
    return meta


def _check(ids: Ids, vectors: Matrix, tags: Sequence[Sequence[str]], metric: str, recall: float) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}; allowed: {', '.join(METRICS)}")
    if not 0 < recall <= 1:
        raise ValueError(f"recall {recall}; allowed: more than 0, at most 1")
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"vectors have shape {vectors.shape}; allowed: (n, d) with at least one of each")
    if not len(ids) == len(vectors) == len(tags):
        raise ValueError(f"{len(ids)} ids, {len(vectors)} vectors and {len(tags)} tag lists; they must be as many")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors with NaN or infinite values")
    if len(np.unique(ids) if isinstance(ids, np.ndarray) else set(ids)) != len(ids):
        raise ValueError("ids that occur more than once")


# --- rows ------------------------------------------------------------------------------------------------------


def _probes(rows: int, *, flat: bool) -> int:
    """How many rows are held out; none where they would be too few to tell anything."""
    if flat:
        return min(_FLAT_PROBES, rows // 2)
    probes = min(MOST_PROBES, rows // 10)
    return probes if probes >= _FEWEST_PROBES else 0


def _order(ids: Ids, probes: int) -> tuple[Rows, int]:
    """The rows in the order they are kept: by id, but the probes last; and how many probes there are."""
    numeric = isinstance(ids, np.ndarray)
    order = np.asarray(
        np.argsort(ids, kind="stable") if numeric else sorted(range(len(ids)), key=ids.__getitem__), np.int64
    )
    if not probes:
        return order, 0
    held = np.zeros(len(order), bool)
    held[np.random.default_rng(_SEED).choice(len(order), probes, replace=False)] = True
    return np.concatenate([order[~held], order[held]]), probes


def _write_ids(directory: Path, ids: Ids, order: Rows) -> None:
    if isinstance(ids, np.ndarray):
        kept = ids[order].astype("<i8")
        kept.tofile(directory / IDS)
        table = PlaceTable.of(kept)
        if table is not None:
            table.places.tofile(directory / PLACES)
        else:
            np.argsort(kept, kind="stable").astype("<i8").tofile(directory / ORDER)
    else:
        (directory / NAMES).write_bytes(canonical_bytes([ids[row] for row in order]))


# --- index -----------------------------------------------------------------------------------------------------


def _reaching(
    name: str, kinds: tuple[IndexKind, ...], matrix: Matrix, probes: int, recall: float, *, l2: bool
) -> tuple[Any, IndexKind, Tuning, Matrix]:
    """The first kind's index that reaches the recall: index, kind, tuning, and the probes' true scores `(p, k)`."""
    split = len(matrix) - probes
    queries = matrix[split:]
    depths = [min(depth, len(matrix) - 1) for depth in DEPTHS] if probes else []
    for kind in kinds:
        index = trained(kind, matrix[:split], l2=l2, rows=len(matrix))
        index.add(matrix[:split])
        most = len(matrix) if kind.graph else lists(len(matrix))
        found: list[int | None] = [0, 0] if kind is IndexKind.FLAT else [most, most]
        if probes and kind is not IndexKind.FLAT:
            found = [
                least_held_out(index, kind, matrix[:split], queries, k, recall, efforts(most), l2=l2) for k in depths
            ]
        few, many = found
        if few is None:
            continue
        index.add(queries)
        tuning = Tuning(target=recall, effort_10=few, effort_100=max(few, many or most), probes=probes)
        if not probes:
            return index, kind, tuning, np.empty((0, 0), np.float32)
        truth = true_scores(matrix, probes, depths[1], l2=l2)
        at = [measured(index, kind, matrix, truth[:, :k], tuning.effort(k), l2=l2) for k in depths]
        tuning = Tuning(
            target=recall,
            recall_10=round(at[0], 4),
            recall_100=round(at[1], 4),
            effort_10=few,
            effort_100=tuning.effort_100,
            probes=probes,
        )
        return index, kind, tuning, truth
    raise RecallUnreached(name, recall, tuple(kinds))
