"""What a server does when things go wrong: overload, new publications, SIGTERM, and a Redis that is killed, all under
load.

    python -m benchmarks.resilience [--json] [--seconds S] [--weeks W]

Everything runs on loopback, `hedgerow serve` and Redis in processes of their own; the callers are threads of this one,
kept off the server's core during the overload where there are two or more.

    overload  ten times as many searches as were answered before, for 20 s: how many are answered still, how late, how
              the others are told, and what memory it takes
    swap      publications change while callers read: calls, failures, answers of two releases at once
    sigterm   a new server on the same port, then SIGTERM for the old one: calls, failures
    redis     killed for two seconds: what callers are told meanwhile, wrong answers, and how long after Redis answers
              again the first right answer comes
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.support.resilience import DEADLINE_SECONDS, changed, other_cores, overloaded, redis_restarted
from tests.support.serving import published_items

MIB: Final = 1 << 20
AWAY_SECONDS: Final = 2.0
_STATUS: Final = re.compile(r"\b[A-Z]+(?:_[A-Z]+)*\b")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--seconds", type=float, default=20.0, help="of the overload")
    parser.add_argument("--weeks", type=int, default=8, help="publications while callers read")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder:
        found = run(Path(folder), options.seconds, options.weeks)
    if not options.json:
        for name, row in found["targets"].items():
            bound = f">= {row['at_least']}" if "at_least" in row else f"<= {row['at_most']}"
            print(f"  {name:60} {row['found']:>10}  {bound:>10}  {'met' if row['met'] else 'NOT met'}")
    print(json.dumps(found, indent=None if options.json else 2))


def run(folder: Path, seconds: float, weeks: int) -> dict[str, Any]:
    """Everything, as one JSON value."""
    parts = {name: folder / name for name in ("overload", "changes", "redis")}
    for part in parts.values():
        part.mkdir()
    measured = {
        "overload": overload(parts["overload"], seconds),
        **changes(parts["changes"], weeks),
        "redis": redis(parts["redis"]),
    }
    return {"benchmark": "resilience", "cores": os.cpu_count(), **measured, "targets": targets(measured)}


def overload(folder: Path, seconds: float) -> dict[str, Any]:
    """Ten times the capacity."""
    project = published_items(folder / "project", rows=20_000, dimension=64)
    with other_cores():
        found = overloaded(project, folder, seconds)
    return {
        "seconds": seconds,
        "peak_per_second": round(found.peak_per_second, 1),
        "offered_per_second": round(found.offered_per_second, 1),
        "goodput_per_second": round(found.goodput_per_second, 1),
        "server_cores_at_peak": round(found.peak_cpu_share, 2),
        "server_cores_overloaded": round(found.overload_cpu_share, 2),
        "p99_ms": round(1000 * found.p99_seconds, 1),
        "deadline_ms": round(1000 * DEADLINE_SECONDS),
        "memory_growth_mib": round(found.grown_bytes / MIB, 1),
        "statuses": dict(found.seen),
        "refused": found.refused,
        "refused_with_retry_hint": found.hinted,
    }


def changes(folder: Path, weeks: int) -> dict[str, Any]:
    """New publications, then a new process."""
    found = changed(folder, weeks)
    return {
        "swap": {"publications": weeks, **_outcome(found.swaps)},
        "sigterm": {"servers": 2, **_outcome(found.restart)},
    }


def redis(folder: Path) -> dict[str, Any]:
    """A Redis that is away for a while."""
    found = redis_restarted(folder, AWAY_SECONDS)
    return {
        "away_seconds": AWAY_SECONDS,
        "calls_before": found.before.total(),
        "failed_before": found.before.total() - found.before["OK"],
        "statuses": _statuses(found.seen),
        "wrong_answers": found.seen["a wrong answer"] + found.before["a wrong answer"],
        "recovery_seconds": None if found.recovery_seconds is None else round(found.recovery_seconds, 3),
    }


def _outcome(seen: Counter[str]) -> dict[str, Any]:
    mixed = sum(count for told, count in seen.items() if told.startswith("a mix"))
    return {"calls": seen.total(), "failed": seen.total() - seen["OK"] - mixed, "mixed": mixed}


def _statuses(seen: Counter[str]) -> dict[str, int]:
    """Counts by status, which the client's errors name first in capitals."""
    found: Counter[str] = Counter()
    for told, count in seen.items():
        name = _STATUS.search(told) if told not in ("OK", "a wrong answer") else None
        found[name.group() if name else told] += count
    return dict(found)


def targets(measured: dict[str, Any]) -> dict[str, Any]:
    """What this benchmark is judged by, each with what it should be."""
    found: dict[str, Any] = {}

    def least(name: str, value: float, bound: float) -> None:
        found[name] = {"found": round(value, 3), "at_least": bound, "met": value >= bound}

    def most(name: str, value: float | None, bound: float) -> None:
        found[name] = {"found": value, "at_most": bound, "met": value is not None and value <= bound}

    overload, away = measured["overload"], measured["redis"]
    least("overload: calls offered, of the peak", overload["offered_per_second"] / overload["peak_per_second"], 10)
    least("overload: goodput, of the peak", overload["goodput_per_second"] / overload["peak_per_second"], 0.8)
    most("overload: p99 of answered calls, ms (the deadline)", overload["p99_ms"], overload["deadline_ms"])
    most("overload: memory growth, MiB", overload["memory_growth_mib"], 64)
    others = sum(overload["statuses"].values()) - sum(
        overload["statuses"].get(name, 0) for name in ("OK", "RESOURCE_EXHAUSTED")
    )
    most("overload: calls neither answered nor refused", others, 0)
    least("overload: refused calls with a hint", overload["refused_with_retry_hint"] / max(1, overload["refused"]), 1)
    for name in ("swap", "sigterm"):
        most(f"{name}: failed calls", measured[name]["failed"], 0)
        most(f"{name}: answers of two releases", measured[name]["mixed"], 0)
    told = {name: count for name, count in away["statuses"].items() if name not in ("OK", "UNAVAILABLE")}
    most("redis: calls told anything but UNAVAILABLE, or wrong", sum(told.values()), 0)
    least("redis: calls told UNAVAILABLE", away["statuses"].get("UNAVAILABLE", 0), 1)
    most("redis: wrong answers", away["wrong_answers"], 0)
    most("redis: seconds to the first right answer", away["recovery_seconds"], 2.0)
    return found


if __name__ == "__main__":
    main()
