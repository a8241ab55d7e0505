"""Feast's own published online-store tests pass on the packed stores."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.feast_published import run

SOURCE = "https://github.com/feast-dev/feast"
GIVEN = "HEDGEROW_FEAST_CHECKOUT"
"""Names a checkout of Feast, for machines that reach no other."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Feast's source, of the version that is installed."""
    if GIVEN in os.environ:
        return Path(os.environ[GIVEN])
    folder = tmp_path / "feast"
    command = ["git", "clone", "-q", "--depth", "1", "--branch", f"v{metadata.version('feast')}", SOURCE, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{SOURCE} does not answer; {GIVEN} names a checkout")
    if done.returncode:
        pytest.skip(f"{SOURCE} cannot be cloned here; {GIVEN} names a checkout")
    return folder


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_feasts_own_tests_pass_on_both_stores(checkout: Path) -> None:
    assert run(str(checkout / "sdk" / "python")) == {"sqlite": 0, "redis": 0}
