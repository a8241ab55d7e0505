"""Who is answered, who waits and who is refused: by what the server has to do, not by what a peer's link is like."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import grpc
import pytest

from serving.front import QUICK, Limits
from tests.support.fronts import comes_true, front_server, running_front
from tests.support.http2 import Peer, Setting, data, headers, prefixed, request

CLOSED = {Setting.INITIAL_WINDOW_SIZE: 0}
LARGE = bytes(500_000)
UNTAKEN_SECONDS = 2.2


def large(_request: bytes, _context: grpc.ServicerContext) -> bytes:
    return LARGE


def stream(_request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
    for _ in range(8):
        yield LARGE


setattr(large, QUICK, lambda _: True)
SERVICE: dict[str, dict[str, Any]] = {
    "a.S": {"Large": grpc.unary_unary_rpc_method_handler(large), "Stream": grpc.unary_stream_rpc_method_handler(stream)}
}


def test_answers_that_nobody_takes_make_way() -> None:
    """Peers hold all that may be held; then large answers of others wait for nothing."""
    with (
        running_front(SERVICE, limits=Limits(held_bytes=4 * 1024 * 1024)) as running,
        grpc.insecure_channel(running.address) as channel,
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(Peer(running.address, CLOSED)).open() for _ in range(6)]
        for peer in peers:
            peer.call(1, "/a.S/Large", b"")
            peer.call(3, "/a.S/Large", b"")
        assert running.holds(8 * len(LARGE))
        call = channel.unary_unary("/a.S/Large", bytes, bytes)
        time.sleep(UNTAKEN_SECONDS)
        for _ in range(20):
            assert call(b"", timeout=10) == LARGE
        for _ in range(6):  # and whoever still holds something may, as far as there is room
            peers.append(stack.enter_context(Peer(running.address, CLOSED)).open())
            peers[-1].call(1, "/a.S/Large", b"")
            assert peers[-1].alive()


def test_a_peer_may_hold_a_quarter_and_is_told_when_to_come_again() -> None:
    with front_server(SERVICE, limits=Limits(held_bytes=4 * 1024 * 1024)) as address, Peer(address, CLOSED) as peer:
        peer.open()
        for stream_number in (1, 3, 5):
            peer.call(stream_number, "/a.S/Large", b"")
        refused = peer.answer(5)
        assert refused.grpc_status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert b"grpc-status-details-bin" in dict(refused.headers)


@pytest.mark.parametrize("threads", [1, 2])
def test_streams_that_nobody_takes_make_way(threads: int) -> None:
    """As many as there are threads stand still; another one gets a thread as soon as it asks."""
    with (
        running_front(SERVICE, threads=threads, queue_seconds=5) as running,
        grpc.insecure_channel(running.address) as channel,
        Peer(running.address, CLOSED) as peer,
    ):
        peer.open()
        for i in range(threads):
            peer.call(2 * i + 1, "/a.S/Stream", b"")
        assert running.holds(threads * 3 * len(LARGE))  # each runs so far ahead, and waits
        time.sleep(UNTAKEN_SECONDS)
        answers = list(channel.unary_stream("/a.S/Stream", bytes, bytes)(b"", timeout=10))
        assert answers == [LARGE] * 8


@pytest.mark.parametrize("method", ["Quickly", "Aside"])
def test_who_is_long_in_asking_has_not_waited(method: str) -> None:
    """Requests come a second after their headers; a call may wait a quarter of one until it is begun.

    One may be refused when the server stands still just then; all would be if the time before counted.
    """

    def echo(sent: bytes, _context: grpc.ServicerContext) -> bytes:
        return sent

    def quickly(sent: bytes, _context: grpc.ServicerContext) -> bytes:
        return sent

    setattr(quickly, QUICK, lambda _: True)
    service = {
        "a.S": {
            "Quickly": grpc.unary_unary_rpc_method_handler(quickly),
            "Aside": grpc.unary_unary_rpc_method_handler(echo),
        }
    }
    streams, refused, answered = range(1, 101, 2), Counter[str](), 0
    with (
        running_front(service, queue_seconds=0.25, refused=lambda name: refused.update([name])) as running,
        Peer(running.address) as peer,
    ):
        peer.open().send(*(headers(stream, request(f"/a.S/{method}")) for stream in streams))
        peer.send(*(data(stream, prefixed(b"later", size=10)) for stream in streams))
        time.sleep(1.0)
        for stream in streams:
            peer.send(data(stream, b"later", end=True))
            answered += peer.answer(stream).messages == [b"laterlater"]
    assert answered + refused.total() == len(streams)
    assert answered > 40, refused


def test_calls_that_would_be_refused_are_soon_not_even_read() -> None:
    """By their connection's last calls, while the threads have too much to do. Quick ones of others are answered."""
    looks: Counter[bytes] = Counter()
    begun, answer = threading.Semaphore(0), threading.Event()

    def call(sent: bytes, _context: grpc.ServicerContext) -> bytes:
        if sent == b"quick":
            return sent
        begun.release()
        return b"slow" if answer.wait(60) else b""

    def quick(sent: bytes) -> bool:
        looks[sent] += 1
        return sent == b"quick"

    setattr(call, QUICK, quick)
    service = {"a.S": {"Call": grpc.unary_unary_rpc_method_handler(call)}}
    with (
        running_front(service, queue_seconds=60, threads=2) as running,
        Peer(running.address) as busy,
        Peer(running.address) as flooding,
        Peer(running.address) as other,
    ):
        for peer in (busy, flooding, other):
            peer.open()
        for i in range(1_000):
            if running.pool.full:
                break
            busy.call(2 * i + 1, "/a.S/Call", b"busy")
            assert busy.alive()
            if i < 2:
                assert begun.acquire(timeout=30)  # from then on nothing leaves the queue
        for i in range(160):
            flooding.call(2 * i + 1, "/a.S/Call", b"slow")
            assert flooding.answer(2 * i + 1).grpc_status == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            if not i % 10:
                other.call(2 * i + 1, "/a.S/Call", b"quick")
                assert other.answer(2 * i + 1).messages == [b"quick"]
        assert 16 <= looks[b"slow"] <= 16 + 160 // 16
        assert b"grpc-status-details-bin" in dict(flooding.answer(319).headers)
        statuses = []
        for i in range(160, 200):  # it is noticed when its calls are quick ones again
            flooding.call(2 * i + 1, "/a.S/Call", b"quick")
            statuses.append(flooding.answer(2 * i + 1).grpc_status)
        assert statuses[16:] == [0] * 24
        answer.set()
        later = count(401, 2)

        def taken(number: int) -> bool:
            flooding.call(number, "/a.S/Call", b"slow")
            return flooding.answer(number).grpc_status == 0

        assert comes_true(lambda: taken(next(later))), "calls are still refused when there is nothing to do"
