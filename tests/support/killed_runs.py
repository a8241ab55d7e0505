"""Runs that are killed at any step, without Spark: python -m tests.support.killed_runs ROOT KILLS SEED [URL].

Every run is a forked process that goes the way of a real one (recover, lock, settle, reserve, draw, write, publish,
commit) and dies by SIGKILL: half of them before or after one of its calls into the system or the database, the others
at a random time, so that they also die inside a transaction or a write. After each kill the state is checked as it
lies; then the run is made again and must find or make the release.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from governance.errors import RunInProgress
from governance.files import exclusive_lock
from governance.ledger import EntryKind, Ledger, open_ledger
from governance.privacy import PrivacyLoss
from governance.recovery import check_known, recover, release_lock_path, settle
from governance.release import ReleaseStore
from governance.settings import Settings, load_settings
from governance.verify.verification import verify
from tests.support.releases import make_release

START = datetime(2020, 1, 6, tzinfo=UTC)
WEEK = timedelta(days=7)
LOSS = PrivacyLoss.of("0.001", "1e-12")
CALLS = frozenset(
    {"execute", "flock", "fsync", "link", "mkdir", "rename", "replace", "rmdir", "truncate", "unlink", "write"}
)  # not those that read: their number grows with the releases that are there


def run(settings: Settings, week: int) -> None:
    """One release, as `pipelines.run` makes it."""
    start = START + week * WEEK
    release_id = f"weekly/v1/{start:%Y-%m-%d}"
    with open_ledger(settings) as ledger:
        recover(settings, ledger)
        check_known(settings, ledger)
        with exclusive_lock(release_lock_path(settings, release_id), release_id):
            settle(settings, ledger, release_id)
            if not ReleaseStore(settings.releases_dir).exists(release_id):
                make_release(
                    settings,
                    ledger,
                    signal="weekly",
                    keys={"item": "int64"},
                    features={"users": "int64"},
                    rows={"item": [1, 2, 3], "users": [30, 40, 50]},
                    window_start=start,
                    rho=str(LOSS.rho),
                    delta="1e-12",
                )


def forked(work: Callable[[], None]) -> int:
    """Runs in a child; returns its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def counting(work: Callable[[], None], fatal: int | None) -> int:
    """Counts entries to and returns from the calls that matter; dies at number `fatal`."""
    seen = 0

    def hook(_: FrameType, event: str, function: Any) -> None:
        nonlocal seen
        if event in ("c_call", "c_return") and getattr(function, "__name__", "") in CALLS:
            seen += 1
            if seen == fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(hook)
    try:
        work()
    finally:
        sys.setprofile(None)
    return seen


def measured(settings: Settings) -> tuple[int, float]:
    """How many such calls a whole run makes, and how long it takes, in a child; makes two releases."""
    readable, writable = os.pipe()

    def work() -> None:
        os.write(writable, str(counting(lambda: run(settings, 1), None)).encode())

    run(settings, 0)  # imports and opens what is opened once
    began = time.monotonic()
    child = forked(work)
    assert os.waitpid(child, 0)[1] == 0
    return int(os.read(readable, 20)), time.monotonic() - began


def check(settings: Settings, ledger: Ledger) -> None:
    """What must hold whenever the process died: no noise without its spend, nothing published by halves."""
    store = ReleaseStore(settings.releases_dir)
    for release_id in store.ids():
        manifest = store.load(release_id)
        store.verify_files(manifest)
        drawn = ledger.run(manifest.ledger.run_id)
        assert drawn is not None
        assert drawn.state in (EntryKind.DRAW, EntryKind.COMMIT), "a release that costs nothing"
    for noisy in settings.staging_dir.glob("*/*.parquet"):
        drawn = ledger.run(noisy.parent.name)
        assert drawn is not None
        assert drawn.state in (EntryKind.DRAW, EntryKind.COMMIT), "noise that costs nothing"


def check_settled(settings: Settings, ledger: Ledger) -> int:
    """What must hold after a rerun; returns how many runs drew noise."""
    runs = ledger.runs()
    [balance] = ledger.balances()
    drawn = [known for known in runs if known.state in (EntryKind.DRAW, EntryKind.COMMIT)]
    assert balance.held == PrivacyLoss.zero()
    assert balance.spent == sum((known.loss for known in drawn), PrivacyLoss.zero())
    assert list(settings.staging_dir.iterdir()) == []
    return len(drawn)


def main() -> None:
    """Kills, checks, runs again; prints what happened."""
    settings = load_settings(Path(sys.argv[1]))
    kills, generator = int(sys.argv[2]), np.random.default_rng(int(sys.argv[3]))
    calls, seconds = measured(settings)
    killed = finished = 0
    for number in range(kills):
        week = number + 2
        if number % 2:
            fatal = 1 + (number * calls) // kills
            child = forked(lambda week=week, fatal=fatal: counting(lambda: run(settings, week), fatal) and None)  # type: ignore[misc]
        else:
            child = forked(lambda week=week: run(settings, week))  # type: ignore[misc]
            time.sleep(float(generator.uniform(0, seconds)))
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        finished += not os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        with open_ledger(settings) as ledger:
            check(settings, ledger)
        with suppress(RunInProgress):
            run(settings, week)
        with open_ledger(settings) as ledger:
            drawn = check_settled(settings, ledger)
            assert len(ReleaseStore(settings.releases_dir).ids()) == week + 1, "the rerun has its release"
    with open_ledger(settings) as ledger:
        source, key, heads = ledger.source(), ledger.public_key(), ledger.head_files
    result = verify(source, key=key, head_files=heads, releases=settings.releases_dir)
    print(
        json.dumps(
            {
                "calls": calls,
                "killed": killed,
                "finished_before": finished,
                "drawn": drawn,
                "releases": result.releases,
                "entries": result.entries,
                "findings": [finding.to_json() for finding in result.findings],
            }
        )
    )


if __name__ == "__main__":
    main()
