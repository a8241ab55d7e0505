"""The repository as a whole: its tasks, its pins, and what the wheel carries."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("pipelines", "featurestore", "serving", "ondevice", "governance", "examples")
HEAVY = {"pyspark", "torch", "feast", "faiss-cpu", "pandas", "opendp", "great-expectations", "pyarrow"}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in requirements}


def needed_by(extra: str) -> set[str]:
    """The packages that an extra names, through the extras it is made of."""
    names: set[str] = set()
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == "hedgerow":
            for other in requirement.extras:
                names |= needed_by(other)
        else:
            names.add(canonicalize_name(requirement.name))
    return names


@pytest.mark.parametrize("extra", ["client", "device"])
def test_a_client_or_device_pulls_no_data_platform(extra: str) -> None:
    base = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert (base | needed_by(extra)) & HEAVY == set()


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    texts = [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]
    for requirement in map(Requirement, texts):
        if requirement.name != "hedgerow":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_torch_stays_where_it_is() -> None:
    assert pins()["torch"] == "2.13.0"


def test_what_is_installed_is_what_is_pinned() -> None:
    installed = {canonicalize_name(found.name): found.version for found in importlib.metadata.distributions()}
    differing = {
        name: (version, installed[name])
        for name, version in pins().items()
        if name in installed and installed[name].partition("+")[0] != version
    }
    # setuptools comes with the interpreter's venv, and only torch asks for it
    differing.pop("setuptools", None)
    assert differing == {}


def test_make_lists_its_tasks() -> None:
    done = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    listed = re.findall(r"^  make (\S+) +\S", done.stdout, re.MULTILINE)
    assert listed == ["help", "setup", "demo", "test", "test-all", "check", "proto", "bench"]


def test_make_setup_stops_at_an_old_python_with_one_line(tmp_path: Path) -> None:
    """A fresh copy of what setup reads, and a python that runs the doctor as Python 3.10 would."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "governance").mkdir()
    source = (ROOT / "governance/doctor.py").read_text()
    (tmp_path / "governance/doctor.py").write_text(source.replace("sys.version_info[:3]", "(3, 10, 13)"))
    done = subprocess.run(
        ["make", "setup", f"PYTHON={sys.executable}"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "problem  Python 3.10.13: install Python 3.11 or newer, or name one: make setup PYTHON=python3.11"
    )
    assert not (tmp_path / ".venv").exists()


@pytest.mark.long
def test_the_wheel_carries_every_package_and_the_generated_stubs(tmp_path: Path) -> None:
    """Builds the wheel in an isolated environment, which installs the build backend."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=600)
    (wheel,) = tmp_path.glob("hedgerow-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = set(archive.namelist())
    listed = subprocess.run(["git", "ls-files", *PACKAGES, "hedgerow.py"], cwd=ROOT, capture_output=True, text=True)
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked <= carried
    assert any(name.startswith("serving/v1/") and name.endswith("_pb2_grpc.py") for name in carried)
    assert {name.partition("/")[0] for name in carried if ".dist-info/" not in name} == {*PACKAGES, "hedgerow.py"}
