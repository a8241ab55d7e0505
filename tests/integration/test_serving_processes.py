"""Several serving processes under one supervisor: what is told when one of them, or the metrics, cannot start."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from governance.files import write_atomic
from governance.settings import Settings
from serving.client import Client
from serving.server import start_server
from serving.watch import InForce
from tests.support.fronts import UNHURRIED, comes_true
from tests.support.redis import held_port
from tests.support.resilience import serving, workers
from tests.support.serving import connected, served_items


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return served_items(tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_busy_metrics_port_is_told_in_one_line(project: Settings, tmp_path: Path, processes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        path = tmp_path / "serve.toml"
        path.write_text(f'mode = "demo"\n[listen]\nport = 0\nprocesses = {processes}\n[metrics]\nport = {port}\n')
        command = [sys.executable, "-m", "hedgerow", "serve", "-p", str(project.root), "--config", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; correct [metrics]" in done.stderr
    assert "Traceback" not in done.stderr


def test_why_a_new_process_cannot_start_is_in_the_log(project: Settings, tmp_path: Path) -> None:
    """One process is killed while the record is damaged: the other goes on, and a new one starts once it is mended."""
    record = project.serving_dir / "publication.json"
    good = record.read_bytes()
    config = "[listen]\nprocesses = 2\nthreads = 1\n" + UNHURRIED
    with serving(project, tmp_path, config) as (process, address):
        lines: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=lambda stream: lines.extend(iter(stream.readline, "")), args=(process.stderr,))
        reader.start()
        write_atomic(record, b"{}")
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        assert comes_true(lambda: any("could not start" in line for line in lines), 100.0)
        told = next(line for line in lines if "could not start" in line)
        assert "publication.json: not a hedgerow.publication/1 record" in told
        with Client(address, timeout_seconds=20) as client:
            client.get_embeddings("item_content", [3])
        write_atomic(record, good)
        assert comes_true(lambda: len(workers(process.pid)) == 2, 100.0)
        process.send_signal(signal.SIGTERM)
        reader.join(60)
    assert any("ended with code -9" in line for line in lines)


def test_a_server_takes_no_connection_before_it_can_answer(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that share its port answer meanwhile."""
    found: list[int] = []

    class Looked(InForce):
        def __init__(self, *what: Any) -> None:
            with socket.socket() as early:
                found.append(early.connect_ex(("127.0.0.1", port)))
            super().__init__(*what)

    monkeypatch.setattr("serving.server.InForce", Looked)
    with held_port() as port, start_server(project, port=port) as running, connected(running.address) as client:
        assert client.get_embeddings("item_content", [3]).found.all()
    assert found == [errno.ECONNREFUSED]
