"""What deploys the server says what the server understands; the interface keeps its shape."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serving.config import load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BUF = Path(sys.executable).parent / "buf"


def buf(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/tmp"),
        "BUF_CACHE_DIR": "/tmp/buf-cache",
    }
    return subprocess.run([BUF, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, env=environment)


def test_the_interface_passes_buf_lint() -> None:
    done = buf("lint", "proto")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_interface_breaks_no_caller_of_the_baseline() -> None:
    done = buf("breaking", "proto", "--against", "proto/baseline.binpb")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_breaking_change_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    changed = tmp_path / "proto/serving/v1/features.proto"
    changed.write_text(changed.read_text().replace("uint32 rows = 1;", "uint64 rows = 1;"))
    done = buf("breaking", str(tmp_path / "proto"), "--against", "proto/baseline.binpb")
    assert done.returncode != 0
    assert "rows" in done.stdout


def test_the_sample_configuration_is_one_that_the_server_takes() -> None:
    config = load_config(DEPLOY / "serve.toml")
    assert config.mode == "production"
    assert config.tls is not None
    assert config.tls.client_ca == DEPLOY / "tls/clients.pem"


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = (DEPLOY / "hedgerow-serve.service").read_text()
    command = re.search(r"^ExecStart=(\S+) serve --project \S+ --config \S+$", text, re.MULTILINE)
    assert command
    keys = [line.partition("=")[0] for line in text.splitlines() if re.match(r"[A-Z]\w*=", line)]
    assert len(keys) == len(set(keys)), "a key is given twice"
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "hedgerow-serve.service"
        unit.write_text(text.replace(command[1], "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_compose_file_names_what_is_there() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    serve, redis = compose["services"]["serve"], compose["services"]["redis"]
    assert (DEPLOY / serve["build"]["context"] / serve["build"]["dockerfile"]).is_file()
    named = {entry.partition(":")[0] for entry in (*serve["volumes"], *redis["volumes"])}
    assert {name for name in named if re.fullmatch(r"\w+", name)} == set(compose["volumes"])
    assert set(serve["networks"]) | set(redis["networks"]) == set(compose["networks"])
    assert serve["depends_on"]["redis"]["condition"] == "service_healthy"


def test_the_image_is_built_from_what_is_there() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "VOLUME", "STOPSIGNAL", "ENTRYPOINT"}
    assert {step[0] for step in steps} <= known
    assert ["USER", "10001"] in steps
    extras = re.search(r'"\.\[([a-z,]+)\]"', "\n".join(lines))
    assert extras
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras[1].split(","))
    assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize("word", ["hedgerow-purpose", "grpc-status-details-bin"])
def test_names_on_the_wire_are_documented(word: str) -> None:
    pages = (ROOT / "docs/serving.md").read_text() + (ROOT / "proto/serving/v1/errors.proto").read_text()
    assert word in pages
