"""Peers that take nothing of what they asked for make way for those that do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from serving.front import QUICK, Limits
from tests.support.fronts import front_server
from tests.support.http2 import Peer, Setting

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
        front_server(SERVICE, limits=Limits(held_bytes=4 * 1024 * 1024)) as address,
        grpc.insecure_channel(address) as channel,
        ExitStack() as stack,
    ):
        peers = [stack.enter_context(Peer(address, CLOSED)).open() for _ in range(6)]
        for peer in peers:
            peer.call(1, "/a.S/Large", b"")
            peer.call(3, "/a.S/Large", b"")
            assert peer.alive()
        call = channel.unary_unary("/a.S/Large", bytes, bytes)
        time.sleep(UNTAKEN_SECONDS)
        for _ in range(20):
            assert call(b"", timeout=10) == LARGE
        for _ in range(6):  # and whoever still holds something may, as far as there is room
            peers.append(stack.enter_context(Peer(address, CLOSED)).open())
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
        front_server(SERVICE, threads=threads, queue_seconds=5) as address,
        grpc.insecure_channel(address) as channel,
        Peer(address, CLOSED) as peer,
    ):
        peer.open()
        for i in range(threads):
            peer.call(2 * i + 1, "/a.S/Stream", b"")
        assert peer.alive()
        time.sleep(UNTAKEN_SECONDS)
        answers = list(channel.unary_stream("/a.S/Stream", bytes, bytes)(b"", timeout=10))
        assert answers == [LARGE] * 8
