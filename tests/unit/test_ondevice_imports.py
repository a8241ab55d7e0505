"""The core cannot reach the network: not by what it imports, and not by what those modules import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OWN = frozenset({"examples", "featurestore", "governance", "ondevice", "pipelines", "serving"})
CORE = ("events", "store", "features", "ranker", "parcel", "snapshot", "device")
GATE_SIDE = frozenset({"ondevice.gate", "ondevice.sync", "ondevice.cli"})
ALLOWED_ELSEWHERE = frozenset({"numpy", "cryptography"})
"""Every package outside the standard library that the core and what it imports may name at the top level."""

NETWORK = frozenset(
    {
        "asyncio",
        "concurrent",
        "ctypes",
        "ftplib",
        "grpc",
        "http",
        "httpx",
        "imaplib",
        "multiprocessing",
        "nntplib",
        "poplib",
        "pty",
        "requests",
        "select",
        "selectors",
        "smtplib",
        "socket",
        "socketserver",
        "ssl",
        "subprocess",
        "telnetlib",
        "urllib",
        "webbrowser",
        "wsgiref",
        "xmlrpc",
        "_socket",
        "_ssl",
        "_posixsubprocess",
        "_ctypes",
    }
)
CALLS = frozenset(
    {"system", "popen", "fork", "forkpty", "posix_spawn", "execv", "execve", "spawnv", "__import__", "eval", "exec"}
)


def imported(source: str) -> Iterator[str]:
    """Every module that a source file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(source: str) -> Iterator[str]:
    """The last name of everything that a source file calls."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr
            elif isinstance(node.func, ast.Name):
                yield node.func.id


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def network_in(source: str) -> set[str]:
    return {name for name in imported(source) if name.split(".")[0] in NETWORK} | (set(called(source)) & CALLS)


def core_modules() -> dict[str, str]:
    """The core and every module of this project that it reaches, with their sources."""
    reached: dict[str, str] = {}
    waiting = [f"ondevice.{name}" for name in CORE]
    while waiting:
        module = waiting.pop()
        file = file_of(module)
        if file is None or module in reached:
            continue
        reached[module] = file.read_text(encoding="utf-8")
        waiting += [name for name in imported(reached[module]) if name.split(".")[0] in OWN]
    return reached


def test_no_module_of_the_core_or_behind_it_has_network_code() -> None:
    reached = core_modules()
    assert {"ondevice.device", "featurestore.catalogue.format", "governance.files"} <= set(reached)
    assert not GATE_SIDE & set(reached)
    assert not [name for name in reached if name.startswith("serving")]
    assert {name: found for name, source in reached.items() if (found := network_in(source))} == {}


def test_the_core_names_few_packages_of_others() -> None:
    foreign = {
        name.split(".")[0]
        for source in core_modules().values()
        for name in imported(source)
        if name.split(".")[0] not in OWN | ALLOWED_ELSEWHERE | sys.stdlib_module_names
    }
    assert foreign == set()


@pytest.mark.parametrize(
    "planted",
    [
        "import socket",
        "def f():\n    from urllib import request",
        "import http.client as quiet",
        "import os\nos.system('x')",
    ],
)
def test_the_check_finds_what_it_looks_for(planted: str) -> None:
    assert network_in(planted)


def test_only_the_gate_names_grpc() -> None:
    naming = {
        path.stem
        for path in (ROOT / "ondevice").glob("*.py")
        if any(name.split(".")[0] in {"grpc", "serving"} for name in imported(path.read_text(encoding="utf-8")))
    }
    assert naming == {"gate"}


def modules_after(code: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return set(ended.stdout.split())


def test_a_working_core_has_loaded_no_network_module(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from ondevice.device import Device, DeviceSettings
root = Path({str(tmp_path / "device")!r})
Device.create(root, DeviceSettings(public_key=bytes(32)))
with Device(root) as device:
    device.record(1)
    device.features()
    device.forget()
"""
    loaded = modules_after(code)
    assert "ondevice.device" in loaded
    # ctypes comes with numpy and urllib.parse with pathlib; neither opens a connection, and no core module names them.
    network = (NETWORK - {"ctypes", "_ctypes", "urllib"}) & loaded
    assert network == set()
    assert "urllib.request" not in loaded
    assert not {"feast", "faiss", "pyspark", "pandas", "pyarrow", "torch"} & loaded


def test_the_gate_loads_no_module_of_the_core() -> None:
    loaded = modules_after("import ondevice.gate")
    assert {name for name in loaded if name.startswith("ondevice")} == {"ondevice", "ondevice.gate", "ondevice.parcel"}
    assert "sqlite3" not in loaded
