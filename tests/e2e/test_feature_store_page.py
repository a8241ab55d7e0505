"""docs/feature-store.md does what it says: its commands, one after the other, as somebody who reads nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from governance.settings import OnlineStoreType, load_settings
from tests.support.releases import make_project

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/feature-store.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_command_works_and_says_what_the_page_shows(tmp_path: Path) -> None:
    blocks = BLOCK.findall(PAGE)
    script = "\n".join(["set -e", *(text for kind, text in blocks if kind == "sh")])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [line for kind, text in blocks if kind == "text" for line in text.splitlines()]
    assert len(shown) == 6
    told = re.sub(r"[0-9a-f]{16}", "VERSION", done.stdout).replace(f"{tmp_path}/shop/", "")
    for line in shown:
        assert re.sub(r"[0-9a-f]{16}", "VERSION", line) in told.splitlines()
    assert told.count("3 rows, whole, no leakage") == 2


def test_every_setting_is_one_that_is_read(tmp_path: Path) -> None:
    settings = [text for kind, text in BLOCK.findall(PAGE) if kind == "toml"]
    assert len(settings) == 4
    for number, text in enumerate(settings):
        read = load_settings(make_project(tmp_path / str(number), extra=f"\n{text}").root)
        if "redis" in text:
            assert read.online_store.type is OnlineStoreType.REDIS
            assert str(read.online_store.topology) in (*re.findall(r'topology = "(\w+)"', text), "single")
        else:
            assert (read.search.recall, read.search.memory_mib) == (0.95, 4096)
