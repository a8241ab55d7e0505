"""How a front ends: what its peers had on their way does no harm, and who says nothing holds nobody up."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from hpack import Encoder

from serving.front import Front
from serving.tls import Tls, server_contexts
from tests.support.fronts import comes_true, running_front
from tests.support.http2 import (
    Answer,
    Code,
    Ended,
    Kind,
    Peer,
    data,
    frame,
    headers,
    ping,
    prefixed,
    request,
    reset,
    window_update,
)
from tests.support.serving import Authority

WAIT = "/a.S/Wait"
GRACE_SECONDS = 60.0
LEAVE, HANDSHAKE = "serving.front.server._LEAVE_SECONDS", "serving.front.server._HANDSHAKE_SECONDS"


class Waiting:
    """A method that answers when it is told to."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.answer = threading.Event()
        self.service = {"a.S": {"Wait": grpc.unary_unary_rpc_method_handler(self._wait)}}

    def _wait(self, _request: bytes, _context: grpc.ServicerContext) -> bytes:
        self.begun.release()
        self.answer.wait(20)
        return b"done"


@contextmanager
def draining(front: Front) -> Iterator[threading.Thread]:
    """Within it the front drains, for as long as it takes."""
    thread = threading.Thread(target=front.stop, args=(GRACE_SECONDS,))
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def until_last(peer: Peer) -> None:
    """Reads until the server has said which stream was the last; leaves its PING, and so the drain, unanswered."""
    while peer.last_stream is None or peer.last_stream == 2**31 - 1:
        assert peer.receive() is not None


class Silent(Peer):
    """A peer whose answers to the server's PING do not arrive."""

    def send(self, *frames: bytes) -> bool:
        return super().send(*(one for one in frames if not (one[3] == Kind.PING and one[4] == 1)))


LATE: dict[str, bytes] = {
    "a call": headers(3, request(WAIT)) + data(3, prefixed(b""), end=True),
    "calls": headers(3, request(WAIT)) + headers(5, request(WAIT)) + data(3, b"x") + data(5, b"x") + data(3, b"y"),
    "a request that goes on": headers(3, request(WAIT)) + data(3, prefixed(b"", size=10_000)) * 100,
    "a call that is cancelled": headers(3, request(WAIT)) + data(3, b"x") + reset(3),
    "window updates": headers(3, request(WAIT)) + window_update(3, 1_000) + window_update(0, 1_000),
    "trailers": headers(3, request(WAIT)) + headers(3, [(b"x-late", b"1")], end=True),
    "priority": headers(3, request(WAIT)) + frame(Kind.PRIORITY, 0, 3, bytes(4) + b"\x10"),
    "a malformed request": headers(3, [(b"X-Upper", b"a"), *request(WAIT)]) + data(3, b"x", end=True),
}


@pytest.mark.parametrize("case", LATE)
def test_frames_that_were_on_their_way_are_passed_over(case: str) -> None:
    """RFC 9113, 6.8: the peer did not know yet that the server sees no more streams. Those before are answered."""
    waiting = Waiting()
    with running_front(waiting.service) as running, Silent(running.address) as peer:
        peer.open().call(1, WAIT, b"")
        waiting.begun.acquire()
        with draining(running.front):
            until_last(peer)
            assert peer.last_stream == 1
            peer.send(LATE[case])
            assert peer.heard()
            waiting.answer.set()
            assert peer.answer(1).messages == [b"done"]
            assert peer.end() == Ended(code=Code.NO_ERROR)
        assert set(peer.streams) == {1}, "something was said of a stream that is not seen"
        assert peer.last_stream == 1


def test_what_is_passed_over_still_counts_for_table_and_window() -> None:
    """A later block of a stream that is seen points into the table, and the connection's window is given back."""
    waiting, encoder = Waiting(), Encoder()
    with running_front(waiting.service) as running, Silent(running.address) as peer:
        peer.open()
        peer.send(headers(1, encoder.encode(request(WAIT))), data(1, prefixed(b"")))
        assert peer.alive()
        with draining(running.front):
            until_last(peer)
            peer.send(headers(3, encoder.encode(request(WAIT, (b"x-new", b"kept")))))
            for _ in range(17):  # more than the connection's window, if it were not opened again
                peer.send(*(data(3, bytes(16_384)) for _ in range(64)))
                assert peer.heard()
            peer.send(headers(1, encoder.encode([(b"x-new", b"kept")]), end=True))
            waiting.answer.set()
            assert peer.answer(1).messages == [b"done"]


@pytest.mark.parametrize(
    "late", [data(3, b"x"), data(2, b"x"), headers(4, request(WAIT)), frame(Kind.DATA, 0, 0, b"x"), reset(9)]
)
def test_what_is_never_lawful_is_still_none(late: bytes) -> None:
    waiting = Waiting()
    with running_front(waiting.service) as running, Silent(running.address) as peer:
        peer.open().call(1, WAIT, b"")
        waiting.begun.acquire()
        with draining(running.front):
            until_last(peer)
            peer.send(late)
            assert peer.end().code == Code.PROTOCOL_ERROR
            assert peer.last_stream == 1
            waiting.answer.set()


def test_calls_that_come_before_the_peer_knows_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first GOAWAY and the PING's answer."""
    monkeypatch.setattr(LEAVE, GRACE_SECONDS)
    waiting = Waiting()
    with running_front(waiting.service) as running, Silent(running.address) as peer:
        peer.open().call(1, WAIT, b"")
        waiting.begun.acquire()
        with draining(running.front):
            while peer.last_stream is None:
                assert peer.receive() is not None
            peer.call(3, WAIT, b"")
            waiting.begun.acquire()
            waiting.answer.set()
            assert peer.answer(1).grpc_status == peer.answer(3).grpc_status == 0
            peer.socket.sendall(ping(ack=True))
            until_last(peer)
            assert peer.last_stream == 3


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tls(authority: Authority, tmp_path: Path) -> Tls:
    certificate, key = authority.issue("localhost", server=True)
    found = Tls(certificate=tmp_path / "server.pem", key=tmp_path / "server.key")
    found.certificate.write_bytes(certificate)
    found.key.write_bytes(key)
    return found


def trusting(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    return context


def test_a_connection_that_does_not_get_through_tls_holds_nobody_up(
    tls: Tls, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others are told at once, and the drain is over with the last call; both long before the handshake is given up."""
    monkeypatch.setattr(HANDSHAKE, GRACE_SECONDS)
    waiting = Waiting()
    with running_front(waiting.service, tls=server_contexts(tls)) as running:
        port = int(running.address.rpartition(":")[2])
        with (
            Peer(running.address, tls=trusting(authority), timeout_seconds=20.0) as peer,
            socket.create_connection(("127.0.0.1", port)) as silent,
        ):
            peer.open().call(1, WAIT, b"")
            waiting.begun.acquire()
            with draining(running.front) as stopping:
                until_last(peer)
                assert stopping.is_alive()
                waiting.answer.set()
                answer = peer.answer(1)
                assert isinstance(answer, Answer)
                assert answer.messages == [b"done"]
                stopping.join(20.0)
                assert not stopping.is_alive(), "the drain waits for who says nothing"
            silent.settimeout(20.0)
            assert silent.recv(1) == b""


def test_who_gets_through_tls_while_the_server_drains_is_answered(
    tls: Tls, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first call was on its way with the last bytes of the handshake."""
    monkeypatch.setattr(LEAVE, GRACE_SECONDS)
    monkeypatch.setattr(HANDSHAKE, GRACE_SECONDS)
    waiting = Waiting()
    with running_front(waiting.service, tls=server_contexts(tls)) as running:
        port = int(running.address.rpartition(":")[2])
        with Peer(running.address, tls=trusting(authority)) as first:
            first.open().call(1, WAIT, b"")
            waiting.begun.acquire()
            raw = socket.create_connection(("127.0.0.1", port))
            with draining(running.front):
                while first.last_stream is None:
                    assert first.receive() is not None
                through = trusting(authority).wrap_socket(raw, server_hostname="localhost")
                with Peer(running.address, over=through) as late:
                    late.open().call(1, WAIT, b"")
                    waiting.begun.acquire()
                    waiting.answer.set()
                    assert late.answer(1).messages == [b"done"]
                    assert comes_true(lambda: late.goaway == Code.NO_ERROR or late.receive() is None)
                    assert late.goaway == Code.NO_ERROR
                assert first.answer(1).messages == [b"done"]
                first.close()
