"""What a client's process loads: numpy, gRPC and protobuf, and nothing of the platform behind the server."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"faiss", "feast", "pyarrow", "pandas", "pyspark", "redis", "torch", "sqlite3", "cryptography"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("serving", set()),
        ("serving.client", set()),
        ("serving.async_client", set()),
        ("serving.v1.snapshots_pb2_grpc", set()),
        ("serving.cli", set()),
        ("serving.index", {"faiss"}),
    ],
)
def test_imports_stay_light(module: str, allowed: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "sys" in loaded
    assert HEAVY & set(loaded) == allowed
    if module in ("serving.client", "serving.async_client"):
        assert {name for name in ("featurestore", "pipelines", "ondevice") if name in loaded} == set()
