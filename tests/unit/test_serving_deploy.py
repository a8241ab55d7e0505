"""What deploys the server says what the server understands; the interface keeps its shape."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from governance.ledger import Ledger
from serving.config import load_config
from tests.support.releases import make_project, make_release

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


@pytest.mark.parametrize("name", ["serve.toml", "serve.container.toml"])
def test_the_sample_configurations_are_ones_that_the_server_takes(name: str) -> None:
    config = load_config(DEPLOY / name)
    assert config.mode == "production"
    assert config.tls is not None
    assert config.tls.client_ca == DEPLOY / "tls/clients.pem"


def test_metrics_are_for_the_machine_only() -> None:
    """They are not protected: loopback on a host; in a container its own network, published on the host's loopback."""
    host, container = (tomllib.loads((DEPLOY / name).read_text()) for name in ("serve.toml", "serve.container.toml"))
    assert host["metrics"]["host"] == "127.0.0.1"
    assert container["metrics"].pop("host") == "0.0.0.0"
    del host["metrics"]["host"]
    assert host == container, "they differ in nothing else"
    serve = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serve"]
    port = container["metrics"]["port"]
    assert [entry for entry in serve["ports"] if str(port) in entry] == [f"127.0.0.1:{port}:{port}"]
    assert "./serve.container.toml:/etc/hedgerow/serve.toml:ro" in serve["volumes"]


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


def in_build_context(path: str) -> bool:
    """Whether .dockerignore lets a file in, as Docker reads it: the last pattern that meets it or a parent counts."""
    ignored = False
    parents = [path, *map(str, Path(path).parents)][:-1]
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        expression = re.escape(line.lstrip("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        expression = re.sub(r"\\\[(\w+)\\\]", r"[\1]", expression)
        if any(re.fullmatch(expression, parent) for parent in parents):
            ignored = not line.startswith("!")
    return not ignored


def test_the_image_is_built_from_code_alone() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = build["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    tracked = subprocess.run(
        ["git", "ls-files", *wheel, "pyproject.toml", "README.md", "LICENSE", "constraints.txt"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(tracked) > 200
    assert [path for path in tracked if not in_build_context(path)] == []
    secret = ("deploy/tls/server.key", "serving/tls/ca.pem", ".git/config", ".venv/bin/python", "project/var/keys/k")
    others = (
        "examples/demo/var/ledger.db",
        "tests/conftest.py",
        "docs/serving.md",
        "serving/__pycache__/cli.pyc",
        ".env",
    )
    assert [path for path in (*secret, *others) if in_build_context(path)] == []


READ_ONLY = """
set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
"$2" -c "$3" "$1" whole
mount --bind "$1/var/feature_repo" "$1/var/feature_repo"
mount -o remount,bind,rw "$1/var/feature_repo"
"$2" -c "$3" "$1" unit
"""
READ = """
import sys
from pathlib import Path
from governance.errors import StoreUnreachable
from governance.settings import load_settings
from featurestore.publication import load_publication
from featurestore.reading import open_published_reader
settings = load_settings(Path(sys.argv[1]))
publication = load_publication(settings)
reader = open_published_reader(settings, publication)
for view in publication.views:
    try:
        found = reader.get(view, ["users"], {"item_id": [1]}).values["users"].tolist()
    except StoreUnreachable as error:
        found = str(error).rpartition("; ")[2]
    print(sys.argv[2], view.name, found)
"""


def test_on_a_read_only_mount(tmp_path: Path) -> None:
    """The unit's mounts: views that only releases write need no more, others the one folder that the unit opens."""
    unit = (DEPLOY / "hedgerow-serve.service").read_text()
    assert "ReadOnlyPaths=/srv/hedgerow/project\n" in unit
    assert "ReadWritePaths=-/srv/hedgerow/project/var/feature_repo\n" in unit
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    project = tmp_path / "project"
    settings = make_project(project, extra='\n[online_store]\npushed = ["pushed"]\n')
    with Ledger(settings.ledger_path) as ledger:
        for signal in ("plain", "pushed"):
            make_release(
                settings,
                ledger,
                signal=signal,
                keys={"item_id": "int64"},
                features={"users": "int64"},
                rows={"item_id": [1], "users": [7]},
                window_start=datetime(2025, 11, 3, tzinfo=UTC),
                ttl=timedelta(0),
                rho="0.001",
            )
    # A process of its own, as it ends before the server starts: while one has the store open, its files are there.
    subprocess.run([sys.executable, ROOT / "hedgerow.py", "publish", "-p", project], check=True, capture_output=True)
    done = subprocess.run(
        [*namespace, "sh", "-c", READ_ONLY, "sh", str(project), sys.executable, READ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "whole plain_v1 [7]",
        "whole pushed_v1 allow writing to that folder only, or use Redis for views that take pushes",
        "unit plain_v1 [7]",
        "unit pushed_v1 [7]",
    ]


@pytest.mark.parametrize("word", ["hedgerow-purpose", "grpc-status-details-bin"])
def test_names_on_the_wire_are_documented(word: str) -> None:
    pages = (ROOT / "docs/serving.md").read_text() + (ROOT / "proto/serving/v1/errors.proto").read_text()
    assert word in pages
