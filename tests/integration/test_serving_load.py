"""Under load: overload is told and leaves goodput, publications and processes change without a failed request, and what
comes back is whole. Everything runs in real processes on real sockets; the load comes from threads of the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

from governance.settings import Settings
from serving.client import Client
from serving.problems import DETAILS_TRAILER, decode_details
from serving.v1 import embeddings_pb2
from tests.support.redis import _answers, _binary, free_port
from tests.support.serving import CALENDAR, publish_items, published_items

FEATURES = ["items_v1:users", "items_v1:score"]
SEARCH = "/hedgerow.serving.v1.EmbeddingService/Search"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return published_items(tmp_path_factory.mktemp("project"), rows=20_000, dimension=64)


@contextmanager
def serving(
    settings: Settings, folder: Path, text: str = "", port: int = 0
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`hedgerow serve` with a configuration; its process and address."""
    path = folder / f"serve-{time.monotonic_ns()}.toml"
    path.write_text(f'mode = "demo"\n{text}', encoding="utf-8")
    command = [sys.executable, "-m", "hedgerow", "serve", "-p", settings.root, "--config", path, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving on "), process.communicate()[1]
            yield process, line.split()[2]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


class Load:
    """Calls in threads until it is stopped; what each gave, counted."""

    def __init__(self, callers: int, call: Callable[[], str]) -> None:
        self.seen: Counter[str] = Counter()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(call,)) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _run(self, call: Callable[[], str]) -> None:
        while not self._stop.is_set():
            try:
                told = call()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is what the test looks at
                told = f"{type(error).__name__}: {error}"
            with self._lock:
                self.seen[told] += 1

    def stop(self) -> Counter[str]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.seen


def apart(pid: int) -> None:
    """Gives the server a core of its own, so that what the load generator takes is not taken from the server."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        for thread in psutil.Process(pid).threads():
            os.sched_setaffinity(thread.id, cores[:1])


@pytest.fixture
def other_cores() -> Iterator[None]:
    """Keeps this process off the core that `apart` gives the server."""
    cores = os.sched_getaffinity(0)
    own = set(sorted(cores)[1:]) or cores
    for thread in psutil.Process().threads():
        os.sched_setaffinity(thread.id, own)
    yield
    for thread in psutil.Process().threads():
        os.sched_setaffinity(thread.id, cores)


def overload(project: Settings, folder: Path, seconds: float, share: float) -> None:
    """Ten times as many calls as the server can answer: goodput, deadlines, refusals and memory."""
    request = embeddings_pb2.SearchRequest(space="item_content", k=50)
    request.ids.int64s.values.extend(range(48))
    data, deadline = request.SerializeToString(), 2.0
    with serving(project, folder, "[listen]\nthreads = 4\n[limits]\nqueue_seconds = 0.25\n") as (process, address):
        apart(process.pid)
        channels = [
            grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)])
            for _ in range(4)
        ]
        latencies: list[float] = []
        hints: list[float | None] = []
        turns = iter(range(1 << 62))

        def call(pause: float) -> str:
            search = channels[next(turns) % len(channels)].unary_unary(SEARCH)
            began = time.perf_counter()
            try:
                search(data, timeout=deadline)
            except grpc.RpcError as error:
                trailer = dict(error.trailing_metadata() or ()).get(DETAILS_TRAILER)
                hints.append(decode_details(trailer).retry_seconds if isinstance(trailer, bytes) else None)
                return error.code().name
            finally:
                time.sleep(pause)
            latencies.append(time.perf_counter() - began - pause)
            return "OK"

        def phase(callers: int, lasting: float, pause: float = 0.0) -> tuple[float, Counter[str], list[float]]:
            latencies.clear()
            load = Load(callers, lambda: call(pause))
            time.sleep(lasting)
            seen = load.stop()
            return seen["OK"] / lasting, seen, sorted(latencies)

        phase(4, 1.0)  # warm
        peak, seen, _ = phase(4, max(2.0, seconds / 4))
        assert set(seen) == {"OK"}, seen
        memory = psutil.Process(process.pid).memory_info().rss
        hints.clear()
        # Each caller waits so long between calls that together they try ten times the peak.
        goodput, seen, taken = phase(160, seconds, pause=160 / (10 * peak))
        grown = psutil.Process(process.pid).memory_info().rss - memory
        for channel in channels:
            channel.close()
    assert set(seen) <= {"OK", "RESOURCE_EXHAUSTED"}, seen
    assert seen["RESOURCE_EXHAUSTED"] > seen["OK"], "far more than the capacity, and hardly anything refused"
    assert goodput >= share * peak, (goodput, peak, seen)
    assert taken[len(taken) * 99 // 100] < deadline
    assert all(hint is not None and 0 < hint <= 5 for hint in hints)
    assert grown < 64 * 1024 * 1024


@pytest.mark.usefixtures("other_cores")
def test_overload_is_told_and_leaves_goodput(project: Settings, tmp_path: Path) -> None:
    overload(project, tmp_path, 4.0, share=0.4)  # short, beside other tests: the long one has the real bound


@pytest.mark.long
@pytest.mark.usefixtures("other_cores")
def test_overload_for_twenty_seconds(project: Settings, tmp_path: Path) -> None:
    overload(project, tmp_path, 20.0, share=0.8)


def test_health_is_answered_during_overload(project: Settings, tmp_path: Path) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    request = embeddings_pb2.SearchRequest(space="item_content", k=500)
    request.ids.int64s.values.extend(range(512))
    data = request.SerializeToString()
    with (
        serving(project, tmp_path, "[listen]\nthreads = 1\n") as (_, address),
        grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel,
    ):
        search = channel.unary_unary(SEARCH)
        waiting = [search.future(data, timeout=30) for _ in range(200)]
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(5):
            answer = health.Check(health_pb2.HealthCheckRequest(service=""), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for call in waiting:
            call.cancel()


def test_swaps_and_restarts_under_load_fail_no_request_and_mix_no_releases(tmp_path: Path) -> None:
    """Two servers on one port. Publications change and each server is ended with SIGTERM and started again, while
    callers read; every answer is of one release: all its values are that release's number."""
    settings = published_items(tmp_path / "project", rows=200, users=0)
    config = "[listen]\nprocesses = 2\nthreads = 2\n"
    ids = np.arange(200)
    with serving(settings, tmp_path, config) as (process, address):
        port = int(address.rpartition(":")[2])
        with Client(address, connections=4, timeout_seconds=20) as client:

            def call() -> str:
                table = client.get_features(features=FEATURES, entities={"item_id": ids})
                users, scores = table["items_v1:users"], table["items_v1:score"]
                whole = (users == users[0]).all() and (scores == users[0]).all() and table.found["items_v1"].all()
                one = len(table.releases) == 1 and len(set(table.release_indexes["items_v1"].tolist())) == 1
                return "OK" if whole and one else f"a mix: {table.releases}"

            load = Load(4, call)
            for week in (1, 2):
                publish_items(settings, rows=200, users=week, week=week)
                time.sleep(0.6)
            with serving(settings, tmp_path, config, port) as (_, second):
                assert second == address
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)
                time.sleep(0.5)
                table = client.get_features(features=FEATURES, entities={"item_id": [7]})
                seen = load.stop()
            assert table["items_v1:users"].tolist() == [2]
    assert set(seen) == {"OK"}, seen
    assert seen["OK"] > 100


def test_a_process_that_dies_is_started_again(project: Settings, tmp_path: Path) -> None:
    with serving(project, tmp_path, "[listen]\nprocesses = 2\nthreads = 1\n[metrics]\nport = 0\n") as (
        process,
        address,
    ):
        workers = [
            child for child in psutil.Process(process.pid).children() if "resource_tracker" not in str(child.cmdline())
        ]
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGKILL)
        with Client(address, timeout_seconds=20) as client:
            for _ in range(20):
                found = client.get_features(features=FEATURES, entities={"item_id": [3]})["items_v1:users"]
                assert found.tolist() == [3]
        for _ in range(300):
            alive = {child.pid for child in psutil.Process(process.pid).children() if child.status() != "zombie"}
            if len(alive - {workers[0].pid}) >= 2:
                break
            time.sleep(0.1)
        else:
            pytest.fail("no new worker")


@contextmanager
def lasting_redis(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis that keeps what it has over a kill."""
    folder.mkdir(exist_ok=True)
    command = [_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    durable = ["--appendonly", "yes", "--appendfsync", "always"]
    with subprocess.Popen([*command, *durable], stdout=subprocess.DEVNULL) as process:
        try:
            assert _answers(process, port)
            yield process
        finally:
            process.kill()


def test_redis_killed_and_started_again_under_load(tmp_path: Path) -> None:
    """While it is away every call is told UNAVAILABLE; before, and soon after, every answer is right."""
    port = free_port()
    store = f'\n[online_store]\ntype = "redis"\nconnection_string = "127.0.0.1:{port}"\npushed = ["items"]\n'
    with lasting_redis(tmp_path / "redis", port) as redis:
        settings = published_items(tmp_path / "project", rows=500, extra=CALENDAR + store)
        ids = np.arange(400, 600)
        with serving(settings, tmp_path) as (_, address), Client(address, timeout_seconds=10) as client:

            def call() -> str:
                table = client.get_features(features=FEATURES, entities={"item_id": ids})
                right = np.array_equal(table["items_v1:users"], np.where(ids < 500, ids, 0))
                right &= np.array_equal(table.found["items_v1"], ids < 500)
                return "OK" if right and len(table.releases) == 1 else "a wrong answer"

            load = Load(4, call)
            time.sleep(1.0)
            before = load.seen["OK"]
            redis.kill()
            redis.wait()
            time.sleep(1.0)
            away = load.seen.copy()
            with lasting_redis(tmp_path / "redis", port):
                for _ in range(100):
                    if load.seen["OK"] > away["OK"]:
                        break
                    time.sleep(0.1)
                time.sleep(0.5)
                seen = load.stop()
    assert before > 0
    assert seen["OK"] > away["OK"], "no recovery"
    told = [text for text in seen if text != "OK"]
    assert told, "nobody was told that Redis was away"
    assert all("UNAVAILABLE" in text and "redis at" in text for text in told), told
