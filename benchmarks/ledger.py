"""The ledger: latency of its operations, how verification grows, and PLD with identical events grouped.

python -m benchmarks.ledger [--entries 1000,10000,100000] [--operations N] [--json]

Latency is measured on a disk (fsync included), in a ledger that already has entries. The ledgers that are verified are
made in memory where that can be had.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from governance.heads import HEADS_FILE, PUBLIC_KEY_FILE
from governance.ledger import Ledger, Request
from governance.privacy import PrivacyLoss
from governance.settings import Account
from governance.verify.entries import read_sqlite
from governance.verify.heads import read_public_key
from governance.verify.verification import verify

ACCOUNT = Account(dataset="events", unit="user_id", cap=PrivacyLoss.of("1000", "1e-3"))
LOSS = PrivacyLoss.of("0.0005", "1e-12")


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds."""
    p50, p99 = np.percentile(np.array(seconds) * 1000, [50, 99])
    return {"p50_ms": round(float(p50), 3), "p99_ms": round(float(p99), 3)}


def latencies(folder: Path, before: int, operations: int) -> dict[str, Any]:
    """Reserve, draw and commit in a ledger that holds `before` entries."""
    with Ledger(folder / "ledger.db") as ledger:
        if before:
            ledger.reserve_all([request(f"old-{k}") for k in range(before)])
        reserve, draw, commit = [], [], []
        for k in range(operations):
            run_id = f"run-{k}"
            reserve.append(timed(lambda run_id=run_id: ledger.reserve(run_id, ACCOUNT, f"s/v1/{run_id}", LOSS)))  # type: ignore[misc]
            draw.append(timed(lambda run_id=run_id: ledger.draw(run_id)))  # type: ignore[misc]
            commit.append(timed(lambda run_id=run_id: ledger.commit(run_id, "ab" * 32)))  # type: ignore[misc]
    return {
        "entries_before": before,
        "operations": operations,
        "reserve": percentiles(reserve),
        "draw": percentiles(draw),
        "commit": percentiles(commit),
    }


def request(run_id: str) -> Request:
    """One reservation."""
    return Request(run_id=run_id, account=ACCOUNT, subject=f"s/v1/{run_id}", loss=LOSS)


def fill(ledger: Ledger, entries: int) -> None:
    """Runs until there are so many entries: 100 windows reserved at once, 15 of them drawn and committed singly."""
    head = ledger.head()
    size = head.size if head else 0
    while size < entries:
        requests = [request(f"run-{size}-{k}") for k in range(min(100, entries - size - (0 if size else 1)))]
        size = ledger.reserve_all(requests)[-1]
        for asked in requests[: (entries - size) // 2][:15]:
            ledger.draw(asked.run_id)
            size = ledger.commit(asked.run_id, "ab" * 32)


def verification(folder: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Seconds to verify ledgers of several sizes: one ledger that grows."""
    results = []
    for size in sizes:
        with Ledger(folder / "ledger.db") as ledger:
            making = timed(lambda ledger=ledger, size=size: fill(ledger, size))  # type: ignore[misc]
        key, heads = read_public_key(folder / PUBLIC_KEY_FILE), folder / HEADS_FILE
        start, start_cpu = time.perf_counter(), time.process_time()
        result = verify(read_sqlite(folder / "ledger.db"), key=key, head_files=[heads])
        seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
        if not result.holds:
            raise RuntimeError(f"the ledger made here does not hold: {result.findings[:3]}")
        results.append(
            {
                "entries": result.entries,
                "signed_heads": len(heads.read_bytes().splitlines()),
                "verify_seconds": round(seconds, 3),
                "verify_cpu_seconds": round(cpu, 3),
                "microseconds_per_entry": round(seconds / result.entries * 1e6, 1),
                "database_bytes": (folder / "ledger.db").stat().st_size,
                "making_seconds": round(making, 1),
            }
        )
    return results


def grouping() -> dict[str, Any]:
    """Epsilon of a fixed plan with identical events: one by one, grouped in dp_accounting, and as hedgerow does."""
    from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
    from dp_accounting.pld import PLDAccountant

    from pipelines.accounting import GaussianEvent, plan_epsilon

    count, sigma, delta = 200, 60.0, 1e-6

    def singly() -> float:
        accountant = PLDAccountant()
        for _ in range(count):
            accountant.compose(GaussianDpEvent(sigma))
        return float(accountant.get_epsilon(delta))

    def grouped() -> float:
        event = SelfComposedDpEvent(GaussianDpEvent(sigma), count)
        return float(PLDAccountant().compose(event).get_epsilon(delta))

    def ours() -> float:
        return plan_epsilon([GaussianEvent(l2=1.0, sigma=sigma, coordinates=1, count=count)], delta)

    ours()  # its imports
    found: dict[str, Any] = {"events": count, "sigma": sigma, "delta": delta}
    for name, compute in (("dp_accounting_singly", singly), ("dp_accounting_grouped", grouped), ("hedgerow", ours)):
        start = time.perf_counter()
        epsilon = compute()
        found[name] = {"epsilon": round(epsilon, 6), "seconds": round(time.perf_counter() - start, 4)}
    rho = PrivacyLoss.of(count / (2 * sigma**2), 0)
    found["zcdp_filter"] = {"epsilon": round(rho.epsilon(delta), 6)}
    return found


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory where that can be had."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(prefix="hedgerow-ledger-", dir=place) as folder:
        yield Path(folder)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", default="1000,10000,100000", help="sizes to verify, ascending")
    parser.add_argument("--operations", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = [int(size) for size in arguments.entries.split(",")]
    operations = []
    for before in (0, 10_000):
        with TemporaryDirectory(prefix="hedgerow-ledger-", dir=".") as folder:
            operations.append(latencies(Path(folder), before, arguments.operations))
    with memory_folder() as folder:
        verified = verification(folder, sizes)
    smallest, largest = verified[0], verified[-1]
    document = {
        "benchmark": "ledger",
        "operations": operations,
        "verification": verified,
        "growth": {
            name: round(largest[name] / smallest[name], 2)
            for name in ("entries", "verify_seconds", "verify_cpu_seconds")
        },
        "fixed_plan": grouping(),
    }
    print(json.dumps(document) if arguments.json else json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
