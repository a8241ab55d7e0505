"""Servers that the HTTP/2 peer talks to: hedgerow's own, and grpcio's in front of it as an oracle."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from serving.limits import MAX_MESSAGE_BYTES
from serving.v1 import features_pb2
from tests.support.http2 import Peer

GET = "/hedgerow.serving.v1.FeatureService/GetFeatures"
STREAM = "/hedgerow.serving.v1.FeatureService/StreamFeatures"
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server to test.

    Attributes:
        name: `ours` or `grpcio`.
        address: `host:port`.
        pid: its process, None where it is this one.
    """

    name: str
    address: str
    pid: int | None = None

    def peer(self, values: Mapping[Any, int] | None = None, **how: Any) -> Peer:
        """A connection that has exchanged settings."""
        return Peer(self.address, values, **how).open()

    def answers(self) -> bool:
        """Whether someone else's call is answered, and answered right."""
        with self.peer() as peer:
            peer.call(1, GET, features(3))
            (message,) = peer.answer(1).messages
        read = features_pb2.GetFeaturesResponse.FromString(message)
        return read.columns[0].int64s.values == [0, 1, 2]


def features(rows: int, stream: bool = False) -> bytes:
    """A request for two features of the first items."""
    request = features_pb2.GetFeaturesRequest()
    request.features.references.extend(["items_v1:users", "items_v1:score"])
    request.keys.add(name="item_id").int64s.values.extend(np.arange(rows).tolist())
    if stream:
        return features_pb2.StreamFeaturesRequest(request=request, part_rows=1000).SerializeToString()
    return request.SerializeToString()


@contextmanager
def process(root: Path, text: str = "") -> Iterator[Target]:
    """`hedgerow serve` of a project, in a process of its own, ended with SIGTERM.

    Args:
        root: the project's folder.
        text: what its configuration says besides.
    """
    path = root / f"serve-{time.monotonic_ns()}.toml"
    path.write_text(f'mode = "demo"\n{text}', encoding="utf-8")
    command = [sys.executable, "-m", "hedgerow", "serve", "-p", str(root), "--config", str(path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert line.startswith("serving on "), line
            yield Target(name="ours", address=line.split()[2], pid=server.pid)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


@contextmanager
def grpcio_before(target: Target) -> Iterator[Target]:
    """A server of grpcio's that hands every call on, so that both give the same answers by another HTTP/2."""
    with grpc.insecure_channel(target.address, [("grpc.max_receive_message_length", -1)]) as channel:
        server = grpc.server(
            ThreadPoolExecutor(32),
            options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.so_reuseport", 0)],
        )
        server.add_generic_rpc_handlers((_Forward(channel),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield Target(name="grpcio", address=f"127.0.0.1:{port}")
        finally:
            server.stop(0).wait()


class _Forward(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """Every method of the server behind, asked there."""

    def __init__(self, channel: Any) -> None:
        self._unary = {path: channel.unary_unary(path) for path in (GET, HEALTH)}
        self._streams = {path: channel.unary_stream(path) for path in (STREAM, WATCH)}

    def service(self, handler_call_details: Any) -> Any:
        """What grpc asks for."""
        path = handler_call_details.method
        if path in self._unary:
            return grpc.unary_unary_rpc_method_handler(_asked(self._unary[path]))
        if path in self._streams:
            return grpc.unary_stream_rpc_method_handler(_streamed(self._streams[path]))
        return None


def _left(context: grpc.ServicerContext) -> float:
    """The call's deadline, which grpcio tells as centuries where there is none."""
    return min(60.0, context.time_remaining() or 60.0)


def _asked(call: Any) -> Callable[[bytes, grpc.ServicerContext], bytes]:
    def behavior(data: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            answer: bytes = call(data, timeout=_left(context))
        except grpc.RpcError as error:
            context.abort(error.code(), error.details() or "")
        return answer

    return behavior


def _streamed(call: Any) -> Callable[[bytes, grpc.ServicerContext], Iterator[bytes]]:
    def behavior(data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        answers = call(data, timeout=_left(context))
        if not context.add_callback(answers.cancel):  # it was cancelled while it waited for this thread
            answers.cancel()
            return
        try:
            yield from answers
        except grpc.RpcError as error:
            if context.is_active():
                context.abort(error.code(), error.details() or "")

    return behavior


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a process holds."""

    memory_bytes: int
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Held:
        found = psutil.Process(pid)
        with found.oneshot():
            return cls(memory_bytes=found.memory_info().rss, files=found.num_fds(), threads=found.num_threads())


def settled(pid: int, files: int, seconds: float = 30.0) -> Held:
    """What the process holds once it has closed all but so many files, or after so long."""
    until = time.monotonic() + seconds
    while (held := Held.of(pid)).files > files and time.monotonic() < until:
        time.sleep(0.05)
    return held
