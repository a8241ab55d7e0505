"""Keys that each selection scheme finds at the same epsilon and delta, on long-tailed key sets.

    python -m benchmarks.selection [--users N] [--data FOLDER] [--json]

Generated: zipf keys, and keys a user from a heavy tail (a Pareto distribution, half of the users have three or fewer).
With `--data` also real interactions: users and products of `uci-online-retail`, users and films of `ml-latest-small`,
where those folders are there. Plain thresholding is `UnitCount` under `KeepRandom(L0, 1)`; its L0 is swept, and the
ratio is against its best, which nobody could know beforehand. Each scheme runs through the engine's own kernel, noise
and selection, without Spark. What is compared is selection alone: the count that a signal must release beside weighs
next to nothing, so a scheme with a measurement of its own has the whole budget, as plain thresholding has.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.release import PRIVATE
from pipelines import AdaptiveWeights, ApproxDP, CountDistinct, KeepRandom, PrivateSelection, UnitCount, WeightedUnits
from pipelines.calibration import calibrate
from pipelines.definitions import SelectionScheme
from pipelines.engine.bounding import bounds_of
from pipelines.engine.first_round import FirstRound, Found
from pipelines.engine.kernel import Salts, bounded_sums
from pipelines.engine.noisy import Noising
from pipelines.noise import KeyedNoise, ReleaseKey
from pipelines.recipes import recipe_of

EPSILON, DELTA, SELECTION = 1.0, 1e-6, 5e-7
SWEPT = (1, 2, 3, 5, 8, 12, 20, 50, 100)
MAX_KEYS = 100


def generate(users: int, seed: int = 20251103) -> pa.Table:
    """Edges of a heavy-tailed bipartite graph: `__u0`, `__k0`."""
    random = np.random.default_rng(seed)
    keys = 10 * users
    degrees = np.minimum((random.pareto(1.1, users) * 3 + 1).astype(np.int64), 2000)
    weights = np.cumsum(1 / np.arange(1, keys + 1))
    chosen = np.searchsorted(weights / weights[-1], random.random(int(degrees.sum())))
    return pa.table({"__u0": np.repeat(np.arange(users), degrees), "__k0": chosen.astype(np.int64)})


def real(folder: Path) -> dict[str, pa.Table]:
    """Edges of real interactions, where their folders are there."""
    found = {}
    for name in ("uci-online-retail", "ml-latest-small"):
        path = folder / name / "interactions.parquet"
        if path.is_file():
            table = pq.read_table(path, columns=["user_id", "item_id"])
            found[name] = pa.table({"__u0": table["user_id"], "__k0": table["item_id"].cast(pa.string())}).drop_null()
    return found


def keys_found(edges: pa.Table, l0: int, scheme: SelectionScheme, repeats: int) -> float:
    """Keys released, on average over runs with fresh salts and noise."""
    signal = replace(
        PRIVATE,
        aggregates={"users": CountDistinct()},
        weights={"users": 1e-8},
        bounds=KeepRandom(max_partitions=l0, max_rows_per_partition=1),
        partitions=PrivateSelection(delta=SELECTION, by=scheme),
        budget_per_release=ApproxDP(epsilon=EPSILON, delta=DELTA),
    )
    recipe = recipe_of(signal)
    calibration = calibrate(signal, recipe, DELTA)
    counts = []
    for _ in range(repeats):
        key = ReleaseKey.fresh()
        salts, source = Salts(rows=key.salt("rows"), partitions=key.salt("partitions")), KeyedNoise(key)
        with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder:
            found = None
            selecting = calibration.selecting
            if recipe.first is not None and selecting is not None and selecting.first_threshold is not None:
                bounds = bounds_of(signal, recipe, calibration, salts, first=True)
                stage = FirstRound(
                    source=source,
                    measurement=recipe.first,
                    sigma=calibration.mechanism(recipe.first).distribution.scale,
                    threshold=selecting.first_threshold,
                    keys=1,
                )
                early = stage.table(pa.Table.from_batches(list(bounded_sums(edges, bounds))))
                pq.write_table(early, Path(folder) / "part-0.parquet")
                found = Found(folder)
            bounds = bounds_of(signal, recipe, calibration, salts, found=found)
            sums = pa.Table.from_batches(list(bounded_sums(edges, bounds)))
            counts.append(Noising.of(signal, recipe, calibration, source).table(sums).num_rows)
    return mean(counts)


def compared(edges: pa.Table, repeats: int) -> dict[str, Any]:
    """Every scheme on one key set."""
    plain = {l0: keys_found(edges, l0, UnitCount(), repeats) for l0 in SWEPT}
    best_l0 = max(plain, key=lambda l0: plain[l0])
    weighted = keys_found(edges, best_l0, WeightedUnits(max_keys=MAX_KEYS), repeats)
    adaptive = keys_found(edges, best_l0, AdaptiveWeights(max_keys=MAX_KEYS), repeats)
    best = max(weighted, adaptive)
    return {
        "edges": edges.num_rows,
        "true_keys": len(edges["__k0"].unique()),
        "unit_count_by_l0": plain,
        "unit_count_best": plain[best_l0],
        "weighted_units": weighted,
        "adaptive_weights": adaptive,
        "ratio": round(best / max(plain[best_l0], 1), 2),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=30_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sets = {"long tail": generate(arguments.users), **real(arguments.data)}
    document = {
        "benchmark": "selection",
        "epsilon": EPSILON,
        "delta": DELTA,
        "sets": {name: compared(edges, arguments.repeats) for name, edges in sets.items()},
    }
    print(json.dumps(document) if arguments.json else json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
