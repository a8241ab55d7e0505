"""The core works where there is no network at all, and the check that there is none is part of the test."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.devices import NOW, make_catalogue, make_device

ROOT = Path(__file__).parents[2]

CORE = """
import json, socket, sys
from pathlib import Path

port, root, deny = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "seccomp"
if deny:
    from tests.integration.test_ondevice_isolation import deny_sockets
    deny_sockets()
try:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    reached = True
except OSError:
    reached = False

from ondevice.device import Device
from tests.support.devices import NOW

with Device(root, clock=lambda: NOW) as device:
    device.record(106)
    ranked = [entry.item for entry in device.rank(k=5)]
    features = device.features()
print(json.dumps({"reached": reached, "ranked": ranked, "tags": [tag.name for tag in features.tags]}))
"""


def deny_sockets() -> None:
    """Makes `socket` fail with EPERM in this process from now on, by a seccomp filter that needs no privilege."""
    import ctypes
    import struct

    number, architecture = {"x86_64": (41, 0xC000003E), "aarch64": (198, 0xC00000B7)}[platform.machine()]
    allow, refuse = 0x7FFF0000, 0x00050001
    program = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 4),  # load the architecture
            (0x15, 1, 0, architecture),
            (0x06, 0, 0, refuse),
            (0x20, 0, 0, 0),  # load the call's number
            (0x15, 0, 1, number),
            (0x06, 0, 0, refuse),
            (0x06, 0, 0, allow),
        )
    )
    code = ctypes.create_string_buffer(program)
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter = 38, 22
    if library.prctl(no_new_privileges, 1, 0, 0, 0) or library.prctl(set_filter, 2, header):
        raise OSError(ctypes.get_errno(), "seccomp")


def ways() -> tuple[list[str], str]:
    """How this machine takes the network away: an empty network namespace, or else a seccomp filter."""
    if shutil.which("unshare"):
        for command in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
            if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
                return command, "namespace"
    return [], "seccomp"


def run_core(prefix: list[str], way: str, root: Path) -> dict[str, object]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        ended = subprocess.run(
            [*prefix, sys.executable, "-c", CORE, port, str(root), way],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        )
    assert ended.returncode == 0, (
        f"the core did not run without a network ({way}); this test needs `unshare --net` or seccomp: {ended.stderr}"
    )
    answer: dict[str, object] = json.loads(ended.stdout)
    return answer


@pytest.fixture
def root(tmp_path: Path) -> Path:
    with make_device(tmp_path / "device", catalogue=make_catalogue()) as device:
        device.record(102, at=NOW)
    return tmp_path / "device"


def test_the_core_ranks_in_an_empty_network(root: Path) -> None:
    prefix, way = ways()
    answer = run_core(prefix, way, root)
    assert answer["reached"] is False, "the listener must be out of reach"
    assert answer["tags"] == ["Drama"]
    ranked = answer["ranked"]
    assert isinstance(ranked, list)
    assert len(ranked) == 5
    assert not {102, 106} & set(ranked)
    assert all(item % 4 == 2 for item in ranked)


@pytest.mark.skipif(platform.machine() not in {"x86_64", "aarch64"}, reason="the filter knows two architectures")
def test_the_core_ranks_where_sockets_are_forbidden(root: Path) -> None:
    answer = run_core([], "seccomp", root)
    assert answer["reached"] is False
    assert answer["tags"] == ["Drama"]


def test_without_either_the_listener_is_reached(root: Path) -> None:
    assert run_core([], "nothing", root)["reached"] is True
