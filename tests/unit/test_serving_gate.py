"""The gate, the queue, the wire form, the audit log and traces, each by itself."""

from __future__ import annotations

import errno
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.errors import AccessDenied, ConfigError
from governance.policy import Decision, Policy, load_policy
from serving.access import ANONYMOUS, Access, Caller, PolicyAuthorizer, Verdict, check, deny, open_to_all
from serving.admission import WorkerPool
from serving.audit import AuditLog, AuditRecord
from serving.calls import _Method, _unary
from serving.gate import Gate, anonymous
from serving.logs import JsonLines
from serving.traces import start_traces
from serving.v1 import features_pb2, values_pb2
from serving.wire import delimited, header, run, texts_field, uint, varint
from tests.support.fronts import comes_true, front_server, grpcio_server
from tests.support.releases import make_project


def access(caller: Caller = ANONYMOUS, purpose: str = "ranking") -> Access:
    return Access(caller=caller, purpose=purpose, method="S/M", resources=("items_v1",))


class TestAccess:
    def test_open_and_deny(self) -> None:
        assert check(open_to_all, access()).rule == "open"
        with pytest.raises(AccessDenied, match=r"caller 'anonymous': rule default-deny .*no policy is loaded"):
            check(deny, access())

    def test_a_tokens_purposes_come_before_the_policy(self) -> None:
        asked: list[Access] = []

        def authorizer(what: Access, /) -> Verdict:
            asked.append(what)
            return Verdict(allowed=True, rule="R")

        limited = Caller(name="a", purposes=frozenset({"analytics"}))
        with pytest.raises(AccessDenied, match="allowed: analytics"):
            check(authorizer, access(limited))
        assert not asked
        assert check(authorizer, access(limited, "analytics")).rule == "R"

    def test_what_is_only_asked_is_refused_but_not_recorded(self, tmp_path: Path) -> None:
        policy, refused = read_policy(tmp_path), list[Decision]()
        entry = Gate(anonymous, PolicyAuthorizer(policy, refused.append)).entry("S/M")
        assert not entry.may_read(("items_v1",))
        assert (refused, entry.resources, entry.rows) == ([], (), 0)
        for _ in range(2):
            with pytest.raises(AccessDenied, match="HEDGEROW-READ"):
                entry(("items_v1",), 3)
        assert [decision.subject for decision in refused] == ["items_v1"]
        assert not entry.may_read(("items_v1",))
        assert len(refused) == 1


def read_policy(folder: Path) -> Policy:
    settings = make_project(folder / "project")
    settings.policy_dir.mkdir(parents=True, exist_ok=True)
    rule = "{id: READ-1, kind: may_read, reason: made for it, callers: [a], purposes: [ranking], views: [items_v1]}"
    (settings.policy_dir / "reads.yaml").write_text(f"rules:\n  - {rule}\n", encoding="utf-8")
    return load_policy(settings)


class TestWire:
    @given(st.lists(st.binary(max_size=300), max_size=60))
    def test_texts_are_written_as_protobuf_writes_them(self, values: list[bytes]) -> None:
        data = np.frombuffer(b"".join(values), np.uint8)
        offsets = np.concatenate(([0], np.cumsum([len(value) for value in values]))).astype(np.int64)
        assert texts_field(1, data, offsets) == values_pb2.BytesValues(values=values).SerializeToString()

    @given(st.integers(0, 2**63 - 1))
    def test_numbers(self, value: int) -> None:
        message = features_pb2.GetFeaturesResponse(publication=value)
        assert uint(5, value) == message.SerializeToString()
        if value:
            assert varint(value) == message.SerializeToString()[1:]

    @given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40), st.binary(max_size=20))
    def test_a_run_is_read_right_even_beside_unknown_fields(self, values: list[int], junk: bytes) -> None:
        message = values_pb2.Int64Values(values=values)
        raw = message.SerializeToString() + (delimited(9, junk) if junk else b"")
        again = values_pb2.Int64Values.FromString(raw)
        found = run(again.SerializeToString(), header(1, 8 * len(values)), again.values, "<i8")
        assert found.tolist() == values


class TestQueue:
    def test_the_bound_follows_the_speed(self) -> None:
        with closing(WorkerPool(1, queue_seconds=0.05)) as pool:
            assert pool.most_waiting == 64
            done = threading.Semaphore(0)

            def work() -> None:
                time.sleep(0.01)
                done.release()

            for _ in range(60):
                pool.submit(work)
            for _ in range(60):
                done.acquire()
            assert 2 <= pool.most_waiting < 20  # 100 calls a second, for 50 ms

    def test_what_waited_too_long_knows_it(self) -> None:
        with closing(WorkerPool(1, queue_seconds=0.01)) as pool:
            hold, told = threading.Event(), queue.SimpleQueue[bool]()
            pool.submit(hold.wait)
            pool.submit(lambda: told.put(pool.overdue))
            time.sleep(0.1)
            assert not pool.overdue  # this thread is none of the pool's
            hold.set()
            assert told.get(timeout=30) is True

            def in_time() -> bool:
                pool.submit(lambda: told.put(pool.overdue))
                return not told.get(timeout=30)

            assert comes_true(in_time)  # 20 ms are not much on a busy machine

    def test_it_is_full_when_enough_wait(self) -> None:
        with closing(WorkerPool(1, queue_seconds=0.25)) as pool:
            hold, last = threading.Event(), threading.Event()
            for _ in range(80):
                pool.submit(hold.wait)
            assert pool.full
            assert 0.05 <= pool.retry_seconds <= 5
            pool.submit(last.set)
            hold.set()
            assert last.wait(10)
            assert not pool.full

    def test_a_fault_costs_no_thread_and_shows_no_value(self, caplog: pytest.LogCaptureFixture) -> None:
        with closing(WorkerPool(1, queue_seconds=1)) as pool:
            done = threading.Event()
            pool.submit(int, "secret-id")
            pool.submit(done.set)
            assert done.wait(10)
        assert "ValueError on a serving thread" in caplog.text
        assert "secret-id" not in caplog.text


class TestDeadline:
    class Aborted(Exception):
        """What `abort` raises."""

    class Context:
        """A call whose deadline is `remaining` seconds away."""

        def __init__(self, remaining: float | None) -> None:
            self.remaining = remaining
            self.told: tuple[grpc.StatusCode, str] | None = None

        def time_remaining(self) -> float | None:
            return self.remaining

        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return ()

        def set_trailing_metadata(self, _trailer: Any) -> None:
            """Looked at elsewhere."""

        def abort(self, code: grpc.StatusCode, text: str) -> None:
            self.told = code, text
            raise TestDeadline.Aborted

    @pytest.mark.parametrize("remaining", [0.0, -1.0])
    def test_no_work_is_begun_for_a_call_that_comes_too_late(self, remaining: float) -> None:
        worked: list[Any] = []
        method = _Method(request=features_pb2.GetFeaturesRequest, answer=lambda *what: worked.append(what) or b"")
        handler = _unary("S/M", method, lambda: None, Gate())  # type: ignore[arg-type, return-value]
        request = handler.request_deserializer(b"")
        context = self.Context(remaining)
        with pytest.raises(self.Aborted):
            handler.unary_unary(request, context)
        assert not worked
        assert context.told is not None
        assert context.told[0] is grpc.StatusCode.DEADLINE_EXCEEDED
        for in_time in (None, 5.0):
            assert handler.unary_unary(request, self.Context(in_time)) == b""
        assert len(worked) == 2


def wait_until(there: Callable[[], bool]) -> None:
    assert comes_true(there, 60.0), "it did not come"


class TestAudit:
    RECORD = AuditRecord(
        caller="ranker", purpose="ranking", method="S/M", resources=("v",), rows=3, rule="R", code="OK", seconds=0.0012
    )

    def test_every_record_is_a_line_and_none_is_lost(self, tmp_path: Path) -> None:
        path = tmp_path / "log" / "audit.jsonl"
        log = AuditLog(path)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(log.write, [self.RECORD] * 2_000))
        log.close()
        log.close()
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == 2_000
        assert lines[0] == {**lines[0], "caller": "ranker", "rows": 3, "code": "OK", "milliseconds": 1.2}
        assert path.stat().st_mode & 0o077 == 0

    def test_a_full_disk_loses_no_line_blocks_nobody_and_is_told_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Half of a batch fits, then nothing, then the disk is free again."""
        path = tmp_path / "audit.jsonl"
        log = AuditLog(path)
        real, fits = os.write, [0.5]

        def write(file: int, data: Any) -> int:
            share = fits[0]
            if not share:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if share < 1:
                fits[0] = 0.0
            return real(file, data[: int(share * len(data))])

        monkeypatch.setattr(os, "write", write)
        for _ in range(12_000):
            log.write(self.RECORD)
        wait_until(lambda: bool(caplog.records))
        assert not log.ready
        assert log.waiting == 12_000
        assert path.read_bytes() == b"", "no part of a line stays"
        assert [record.getMessage() for record in caplog.records] == [
            f"{path}: the audit log cannot be written (No space left on device); calls are refused until it can"
        ]
        fits[0] = 1.0
        wait_until(lambda: log.ready and not log.waiting)
        log.close()
        assert [json.loads(line)["rows"] for line in path.read_text().splitlines()] == [3] * 12_000
        assert caplog.records[-1].getMessage().endswith("the audit log is written again")

    def test_what_a_full_disk_never_took_is_told_at_the_end(self, caplog: pytest.LogCaptureFixture) -> None:
        log = AuditLog(Path("/dev/full"))
        for _ in range(20_000):
            log.write(self.RECORD)
        log.close()
        assert caplog.records[-1].getMessage() == "/dev/full: the audit log was closed without 20000 lines"

    def test_several_writers_and_a_file_that_is_moved_away_lose_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "audit.jsonl"
        logs = [AuditLog(path) for _ in range(3)]
        for turn in range(300):
            for log in logs:
                log.write(self.RECORD)
            if turn == 150:
                wait_until(lambda: not any(log.waiting for log in logs))
                path.rename(path.with_suffix(".1"))
        for log in logs:
            log.close()
        lines = path.with_suffix(".1").read_text().splitlines(), path.read_text().splitlines()
        assert [len(found) for found in lines] == [453, 447]
        assert all(json.loads(line)["code"] == "OK" for found in lines for line in found)

    def test_a_file_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="audit log cannot be written"):
            AuditLog(tmp_path / "file" / "audit.jsonl")


def test_json_lines_tell_an_exceptions_kind_only() -> None:
    try:
        raise ValueError("secret-id")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", 40, "f", 1, "it %s", ("failed",), __import__("sys").exc_info())
    line = json.loads(JsonLines().format(record))
    assert line["message"] == "it failed"
    assert line["exception"] == "ValueError"
    assert "secret-id" not in json.dumps(line)


def test_traces_reach_a_collector() -> None:
    """A real OTLP collector's socket, a real server behind the interceptor."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

    taken: list[Any] = []

    def export(data: bytes, _context: grpc.ServicerContext) -> bytes:
        taken.append(trace_service_pb2.ExportTraceServiceRequest.FromString(data))
        return b""

    unary = grpc.unary_unary_rpc_method_handler
    collector = {"opentelemetry.proto.collector.trace.v1.TraceService": {"Export": unary(export)}}
    with grpcio_server(collector) as to:
        interceptor, close = start_traces(f"http://{to}", 1.0)
        own = {"a.Service": {"Call": unary(lambda data, _context: data)}}
        try:
            with front_server(own, interceptors=[interceptor]) as address, grpc.insecure_channel(address) as channel:
                assert channel.unary_unary("/a.Service/Call")(b"secret-id", timeout=10) == b"secret-id"
        finally:
            close()
    spans = [
        span
        for message in taken
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == ["/a.Service/Call"] or "Call" in spans[0].name
    assert "secret-id" not in str(taken)
