"""Under load: overload is told and leaves goodput, publications and processes change without a failed request, and what
comes back is whole. Everything runs in real processes on real sockets; the load comes from threads of the test.
`python -m benchmarks.resilience` prints the same as figures."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import grpc
import pytest

from governance.settings import Settings
from serving.client import Client
from serving.v1 import embeddings_pb2
from tests.support.fronts import UNHURRIED, comes_true
from tests.support.resilience import (
    DEADLINE_SECONDS,
    FEATURES,
    SEARCH,
    Overload,
    changed,
    other_cores,
    overloaded,
    redis_restarted,
    serving,
    workers,
)
from tests.support.serving import published_items


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return published_items(tmp_path_factory.mktemp("project"), rows=20_000, dimension=64)


def overload(project: Settings, folder: Path, seconds: float, deadline_seconds: float) -> Overload:
    """Ten times as many calls as the server can answer: what each is told, and memory."""
    with other_cores():
        found = overloaded(project, folder, seconds, deadline_seconds)
    assert set(found.seen) <= {"OK", "RESOURCE_EXHAUSTED"}, found
    assert found.hinted == found.refused
    assert found.grown_bytes < 64 * 1024 * 1024
    return found


def withstood(found: Overload, share: float) -> bool:
    """Whether far more came than the capacity, and what is left of that was answered in time."""
    return (
        found.refused > found.seen["OK"]
        and found.goodput_per_second >= share * found.peak_per_second
        and found.p99_seconds < DEADLINE_SECONDS
    )


def test_overload_is_told_and_leaves_goodput(project: Settings, tmp_path: Path) -> None:
    """Short, beside other tests: the long one has the real bound. What the machine does beside it spoils one try."""
    tries: list[Overload] = []
    while not tries or not withstood(tries[-1], share=0.4):
        assert len(tries) < 5, tries
        tries.append(overload(project, tmp_path, 4.0, deadline_seconds=30.0))


@pytest.mark.long
def test_overload_for_twenty_seconds(project: Settings, tmp_path: Path) -> None:
    found = overload(project, tmp_path, 20.0, DEADLINE_SECONDS)
    assert withstood(found, share=0.8), found


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
            answer = health.Check(health_pb2.HealthCheckRequest(service=""), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for call in waiting:
            call.cancel()


def test_swaps_and_restarts_under_load_fail_no_request_and_mix_no_releases(tmp_path: Path) -> None:
    """Two servers on one port. Publications change and each server is ended with SIGTERM and started again, while
    callers read; every answer is of one release."""
    found = changed(tmp_path, weeks=2)
    assert set(found.swaps) == {"OK"}, found
    assert set(found.restart) == {"OK"}, found
    assert found.swaps["OK"] > 50
    assert found.restart["OK"] > 50
    assert found.last_value == 2


def test_a_process_that_dies_is_started_again(project: Settings, tmp_path: Path) -> None:
    config = "[listen]\nprocesses = 2\nthreads = 1\n[metrics]\nport = 0\n" + UNHURRIED
    with serving(project, tmp_path, config) as (process, address):
        first, second = workers(process.pid)
        os.kill(first, signal.SIGKILL)
        assert comes_true(lambda: first not in workers(process.pid))
        with Client(address, timeout_seconds=20) as client:
            for _ in range(20):
                found = client.get_features(features=FEATURES, entities={"item_id": [3]})["items_v1:users"]
                assert found.tolist() == [3]
        assert comes_true(lambda: set(workers(process.pid)) > {second}), "no new worker"


def test_redis_killed_and_started_again_under_load(tmp_path: Path) -> None:
    """While it is away every call is told UNAVAILABLE; before, and soon after, every answer is right."""
    found = redis_restarted(tmp_path, away_seconds=1.0)
    assert set(found.before) == {"OK"}
    assert found.recovery_seconds is not None, "no recovery"
    told = [text for text in found.seen if text != "OK"]
    assert told, "nobody was told that Redis was away"
    assert all("UNAVAILABLE" in text and "the online store does not answer" in text for text in told), told
