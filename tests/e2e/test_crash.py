"""SIGKILL between any two stages of a run: nothing half-published, no spend forgotten, a rerun completes the work."""

from __future__ import annotations

import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from governance.ledger import EntryKind, Ledger
from governance.recovery import recover
from governance.release import ReleaseStore
from governance.settings import Settings, load_settings
from pipelines.results import Outcome, Stage
from pipelines.run import run
from tests.support.projects import make_events, write_definition, write_tables

PROJECT = """
[project]
name = "crash"

[calendar]
first_day = 2025-11-03
last_day = 2025-11-23

[[accounts]]
dataset = "events"
unit = "user_id"
rho = "1.0"
delta = "1e-6"

[spark]
master = "local[2]"
shuffle_partitions = 2
"""

SIGNAL = """
from datetime import timedelta

from pipelines import *

WEEKLY = Signal(
    name="weekly",
    version=1,
    owner="tests",
    purpose=Purpose.TRENDS,
    description="Users of each item.",
    source=EventSource(name="events", table="data/events.parquet", timestamp="ts", person="user_id"),
    privacy_unit=PrivacyUnit("user_id"),
    entity=Entity("item", ("item_id",)),
    aggregates={"users": Count()},
    window=Window(timedelta(days=7)),
    bounds=KeepRandom(max_partitions=3, max_rows_per_partition=1),
    partitions=PublicPartitions({"item_id": tuple(range(12))}),
    budget_per_release=ZCDP(0.25),
    ttl=timedelta(days=14),
)
"""

# Kills itself at a stage: at its start, or (for `write`) while Spark is writing.
KILLED = """
import os, signal, sys, threading
from pathlib import Path
from governance.settings import load_settings
from pipelines.run import run

class Killer:
    def stage(self, subject, stage):
        if str(stage) == sys.argv[2]:
            delay = float(sys.argv[3])
            if delay == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

run(load_settings(Path(sys.argv[1])), progress=Killer())
"""


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    (tmp_path / "hedgerow.toml").write_text(PROJECT, encoding="utf-8")
    write_definition(tmp_path, SIGNAL)
    write_tables(tmp_path, make_events())
    return load_settings(tmp_path)


def kill_at(project: Settings, stage: Stage, delay: float = 0) -> None:
    command = [sys.executable, "-c", KILLED, str(project.root), str(stage), str(delay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=Path.cwd())
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


# stage, seconds after its start, what is spent when the dust has settled, whether the rerun finds the release there
CASES = [
    (Stage.RESERVE, 0, "0", False),
    (Stage.CHECK, 0, "0", False),
    (Stage.DRAW, 0, "0", False),
    pytest.param(Stage.WRITE, 0, "0.25", False, marks=pytest.mark.long),
    pytest.param(Stage.WRITE, 0.3, "0.25", False, marks=pytest.mark.long),
    pytest.param(Stage.PUBLISH, 0, "0.25", False, marks=pytest.mark.long),
    (Stage.COMMIT, 0, "0.25", True),
    pytest.param(Stage.DONE, 0, "0.25", True, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("stage", "delay", "spent", "present"), CASES)
def test_killed_at(project: Settings, stage: Stage, delay: float, spent: str, present: bool) -> None:
    kill_at(project, stage, delay)
    store = ReleaseStore(project.releases_dir)
    for release_id in store.ids():
        store.verify_files(store.load(release_id))  # whole, or not there
    assert bool(store.ids()) is present

    with Ledger(project.ledger_path) as ledger:
        drawn = {known.run_id for known in ledger.runs() if known.state in (EntryKind.DRAW, EntryKind.COMMIT)}
        recover(project, ledger)
        account = project.accounts[0]
        assert ledger.balance(account).spent.rho == Decimal(spent)
        assert ledger.balance(account).held.rho == 0
        still = {known.run_id for known in ledger.runs() if known.state in (EntryKind.DRAW, EntryKind.COMMIT)}
        assert drawn <= still, "what was drawn stays spent"

    [result] = run(project)
    assert result.outcome is (Outcome.PRESENT if present else Outcome.RELEASED)
    store.verify_files(store.load(result.release_id))
    with Ledger(project.ledger_path) as ledger:
        assert ledger.balance(project.accounts[0]).spent.rho == Decimal(spent) + (0 if present else Decimal("0.25"))
        assert ledger.balance(project.accounts[0]).held.rho == 0
    assert not any(project.staging_dir.iterdir())


def test_a_run_in_progress_is_left_alone(project: Settings) -> None:
    """Recovery by another process must not give back what a living one has reserved."""
    script = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print('here', flush=True) or sys.stdin.read()")
    command = [sys.executable, "-c", script, str(project.root), "check", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as living:
        assert living.stdout is not None
        assert living.stdout.readline() == "here\n"
        with Ledger(project.ledger_path) as ledger:
            recover(project, ledger)
            assert ledger.balance(project.accounts[0]).held.rho == Decimal("0.25")
            living.kill()
            living.wait()
            recover(project, ledger)
            assert ledger.balance(project.accounts[0]).held.rho == 0
