"""Noise samples a second of one core, against OpenDP's samplers in the same run.

The process is tied to one core, and its processor time is what counts: other load on the machine does not.
`table_seconds` is what a worker process spends once to build the distribution's tables.

python -m benchmarks.noise [--samples N] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np

from pipelines.noise import Distribution, KeyedNoise, ReleaseKey, discrete_gaussian, discrete_laplace

REPEATS = 3


def rate(draw: Callable[[], object], samples: int) -> float:
    """Best of a few repeats, in samples a second of processor time."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        draw()
        best = min(best, time.process_time() - start)
    return samples / best


def ours(distribution: Distribution, samples: int) -> float:
    """Keyed draws, the derivation of their words included."""
    blocks = np.frombuffer(os.urandom(16 * samples), dtype=np.uint8).reshape(-1, 16)
    source = KeyedNoise(ReleaseKey.fresh())
    return rate(lambda: source.noise("measurement", distribution, blocks), samples)


def opendp_rate(laplace: bool, scale: float, samples: int) -> float:
    """OpenDP's vector samplers, on a vector of integer zeros."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    metric = dp.l1_distance(T="i64") if laplace else dp.l2_distance(T="f64")
    make = dp.m.make_laplace if laplace else dp.m.make_gaussian
    mechanism = make(domain, metric, scale=scale)
    zeros = [0] * samples
    return rate(lambda: mechanism(zeros), samples)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    few = max(1, arguments.samples // 20)
    results = []
    for name, laplace, scale in (
        ("discrete Gaussian", False, 28.0),
        ("discrete Gaussian", False, 100_000.0),
        ("discrete Gaussian", False, 3e9),
        ("discrete Laplace", True, 30.0),
        ("discrete Laplace", True, 100_000.0),
    ):
        start = time.process_time()
        distribution = discrete_laplace(scale) if laplace else discrete_gaussian(scale)
        table_seconds = time.process_time() - start
        mine, theirs = ours(distribution, arguments.samples), opendp_rate(laplace, scale, few)
        results.append(
            {
                "distribution": name,
                "scale": scale,
                "samples_per_second": round(mine),
                "opendp_samples_per_second": round(theirs),
                "ratio": round(mine / theirs, 1),
                "total_variation_distance": distribution.distance,
                "table_seconds": round(table_seconds, 4),
            }
        )
    document = {"benchmark": "noise", "samples": arguments.samples, "results": results}
    print(json.dumps(document) if arguments.json else json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
