"""An audit of the whole engine from the outside: what its outputs prove about epsilon, against what it claims.

python -m benchmarks.audit [--runs N] [--fault-runs N] [--json]

For each aggregate, bounding, selection, unit and mechanism the engine runs many times on two tables that differ by one
unit, chosen to be the worst, without Spark (benchmarks._audited). Clopper and Pearson's bounds then give an epsilon
that the engine has at least, all of them right at once with the confidence printed (benchmarks._evidence). It must lie
below the claim, and it cannot reach it: `ratio` says how close it comes, at the delta where it comes closest.

Of a profile the table with one row a unit is made anew from the events of each run, by what tasks call; the number of
late units is told as a manifest tells it, in each run with noise of its own.

The same audit looks for planted faults, each of which must show as an epsilon, or an exposure, above the claim.

The lower bound falls short of the claim where an output hides part of the noisy sums (a ranking of candidates, a
quantile read off a tree), and by the width of the confidence interval elsewhere.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks._audited import CASES, FAULTS, SOUND, Case, Fault, Laboratory
from benchmarks._evidence import lower_bound, lower_rate

__all__ = ["audit"]

DELTAS = (1e-6, 0.01, 0.05, 0.1)
ALPHA = 1e-6
RUNS, FAULT_RUNS = 60_000, 20_000


def audit(case: Case, runs: int, fault: Fault = SOUND, seed: int | None = None) -> dict[str, Any]:
    """Audits one case, sound or with a fault.

    Args:
        case: what to audit.
        runs: of the engine, on each of the two tables.
        fault: what is broken.
        seed: for repeatable runs; None: fresh noise.

    Returns:
        Claims and lower bounds of epsilon at several delta, the closest one, exposure of a unit's own keys, and whether
        anything is above its claim.
    """
    laboratory = Laboratory(case, fault, seed)
    without, with_unit = (laboratory.outputs(runs, with_unit=there) for there in (False, True))
    bounds = []
    for delta in DELTAS:
        claim = laboratory.claim(delta)
        if math.isinf(claim):  # delta is below what selection takes: nothing is promised
            continue
        found = lower_bound(without, with_unit, delta, ALPHA)
        bounds.append(
            {
                "delta": delta,
                "claimed_epsilon": claim,
                "epsilon_lower_bound": found.epsilon,
                "ratio": found.epsilon / claim if claim > 0 else math.inf if found.epsilon > 0 else 0.0,
                "attack": found.attack,
                "hits": found.hits,
                "false_hits": found.false_hits,
                "samples": found.samples,
            }
        )
    closest = max(bounds, key=lambda bound: float(bound["ratio"]))
    result: dict[str, Any] = {
        "case": case.name,
        **{name: closest[name] for name in ("delta", "claimed_epsilon", "epsilon_lower_bound", "ratio")},
    }
    above = float(closest["ratio"]) > 1
    if laboratory.exposure_claim:
        never = (without == without[0]).all(axis=0)
        shown = int((with_unit[:, never] != without[0, never]).any(axis=1).sum())
        lowest = float(lower_rate(np.array([shown]), runs, ALPHA)[0])
        result |= {
            "claimed_exposure": laboratory.exposure_claim,
            "exposure_lower_bound": lowest,
            "exposure_ratio": lowest / laboratory.exposure_claim,
        }
        above |= lowest > laboratory.exposure_claim
    return result | {"above_claim": above, "bounds": bounds}


def _statements(results: int) -> int:
    """How many probabilities are bounded in all."""
    return results * (2 * len(DELTAS) + 1)


def _told(value: Any) -> Any:
    """Figures as they are printed."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _told(one) for name, one in value.items()}
    return [_told(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--fault-runs", type=int, default=FAULT_RUNS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    start = time.perf_counter()
    tell = (lambda _: None) if arguments.json else print
    sound, faulty = [], []
    for case in CASES:
        sound.append(audit(case, arguments.runs))
        tell(_line(sound[-1]))
    cases = {case.name: case for case in CASES}
    for fault in FAULTS:
        found = audit(cases[fault.case], arguments.fault_runs, fault)
        faulty.append({"fault": fault.name, "caught": found["above_claim"]} | found)
        tell(_line(faulty[-1]))
    document = {
        "benchmark": "audit",
        "runs": arguments.runs,
        "fault_runs": arguments.fault_runs,
        "confidence": 1 - ALPHA * _statements(len(sound) + len(faulty)),
        "below_every_claim": not any(one["above_claim"] for one in sound),
        "every_fault_caught": all(one["caught"] for one in faulty),
        "audited": sound,
        "faults": faulty,
        "seconds": time.perf_counter() - start,
    }
    if arguments.json:
        print(json.dumps(_told(document)))
    else:
        print(f"{document['seconds']:.0f} s, confidence {document['confidence']:.5f}")


def _line(one: Mapping[str, Any]) -> str:
    """A result for people."""
    line = f"{one.get('fault', one['case']):32} epsilon >= {one['epsilon_lower_bound']:.3f}"
    line += f"   claimed {one['claimed_epsilon']:.3f} at delta {one['delta']:g}"
    if "claimed_exposure" in one:
        line += f"   own keys shown >= {one['exposure_lower_bound']:.2g}, claimed {one['claimed_exposure']:.2g}"
    if "fault" in one:
        return line + ("   caught" if one["caught"] else "   NOT CAUGHT")
    return line + f"   ratio {one['ratio']:.2f}"


if __name__ == "__main__":
    main()
