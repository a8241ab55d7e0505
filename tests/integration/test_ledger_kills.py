"""SIGKILL at every step of a run, in a loop: never under-counted, never half-published, a clean rerun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.support.postgres import fresh_schema, postgres_server
from tests.support.releases import make_project

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that can be had: a killed process loses nothing that it wrote, and waits for no disk."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with TemporaryDirectory(dir="/dev/shm", prefix="hedgerow-kills-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


def killed(root: Path, kills: int, seed: int, extra: str = "") -> dict[str, Any]:
    make_project(root, extra=extra)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_runs", str(root), str(kills), str(seed)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["findings"] == []
    assert report["killed"] + report["finished_before"] == kills
    assert report["releases"] == kills + 2
    assert report["drawn"] >= report["releases"], "what was drawn stays spent"
    return report


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_killed_at_many_steps(folder: Path, database: str, server: str) -> None:
    extra = f'\n[ledger]\nurl = "{fresh_schema(server)}"\n' if database == "postgres" else ""
    kills = 10 if database == "postgres" else 24
    assert killed(folder, kills, seed=1, extra=extra)["killed"] >= kills // 2


@pytest.mark.long
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_killed_two_hundred_times(folder: Path, database: str, server: str) -> None:
    extra = f'\n[ledger]\nurl = "{fresh_schema(server)}"\n' if database == "postgres" else ""
    report = killed(folder, 200, seed=2, extra=extra)
    assert report["killed"] >= 150
    assert report["drawn"] > report["releases"], "some died between draw and publication"
