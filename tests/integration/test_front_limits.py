"""What a front may hold, counted as it is held: on both sides of its sockets, and given back when they are closed."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from contextlib import ExitStack
from itertools import chain
from typing import Any

import grpc
import pytest

from serving.front import QUICK, Limits
from tests.support.fronts import comes_true, running_front
from tests.support.http2 import PREFACE, Ended, Peer, Setting, data, encode, headers, prefixed, request, settings

MIB = 1 << 20
CLOSED = {Setting.INITIAL_WINDOW_SIZE: 0}
OPEN = {Setting.INITIAL_WINDOW_SIZE: 2**31 - 1, Setting.MAX_FRAME_SIZE: MIB}
UNTAKEN_SECONDS = 2.2
GET, WAIT = "/a.S/Get", "/a.S/Wait"


def get(request: bytes, _context: grpc.ServicerContext) -> bytes:
    """As many bytes as are asked for."""
    return bytes(int(request))


setattr(get, QUICK, lambda _: True)


def service(**more: Any) -> dict[str, dict[str, Any]]:
    behaviors = {"Get": get, **more}
    return {"a.S": {name: grpc.unary_unary_rpc_method_handler(behavior) for name, behavior in behaviors.items()}}


def answered(channel: grpc.Channel, size: int) -> bool:
    """Whether so many bytes are given, or refused for now."""
    try:
        return len(channel.unary_unary(GET, bytes, bytes)(b"%d" % size, timeout=10)) == size
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return False


def test_what_a_connection_held_is_given_back_where_it_makes_room_itself() -> None:
    """The connection that holds most, and takes nothing, asks for more than there is room for: it is ended itself."""
    limits = Limits(held_bytes=2 * MIB)
    with running_front(service(), limits=limits) as running, ExitStack() as stack:
        others = [stack.enter_context(Peer(running.address, CLOSED)).open() for _ in range(4)]
        for peer in others:
            peer.call(1, GET, b"400000")
        most = stack.enter_context(Peer(running.address, CLOSED)).open()
        most.call(1, GET, b"410000")
        assert running.holds(4 * 400_005 + 410_005)
        time.sleep(UNTAKEN_SECONDS)
        most.call(3, GET, b"100000")
        assert isinstance(most.outcome(3), Ended)
        for peer in others:
            peer.close()
        assert comes_true(lambda: not running.dispatcher.connections)
        assert running.dispatcher.held == 0
        with grpc.insecure_channel(running.address) as channel:
            assert channel.unary_unary(GET, bytes, bytes)(b"100000", timeout=10) == bytes(100_000)


def test_a_request_of_a_connection_that_makes_room_is_not_counted_any_more() -> None:
    """More is held than may be, and a request comes from the very connection that is ended for that."""
    with running_front(service(), limits=Limits(held_bytes=2 * MIB)) as running, ExitStack() as stack:
        most, *others = [stack.enter_context(Peer(running.address, CLOSED)).open() for _ in range(5)]
        most.call(1, GET, b"250000")
        most.send(headers(3, request(GET)))
        for peer in others:
            peer.call(1, GET, b"240000")
        assert running.holds(250_005 + 4 * 240_005)
        assert most.alive()
        running.dispatcher.limits = Limits(held_bytes=MIB)
        time.sleep(UNTAKEN_SECONDS)
        most.send(data(3, prefixed(b"1"), end=True))
        assert isinstance(most.outcome(3), Ended)
        stack.close()
        assert comes_true(lambda: not running.dispatcher.connections)
        assert running.dispatcher.held == running.dispatcher.unfinished == 0


def test_a_peer_that_reads_does_not_shield_those_that_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds most is reading, slowly; the others, who are not, make room."""
    patience = 6.0  # so long the reading one may stand still
    monkeypatch.setattr("serving.front.dispatch._UNTAKEN_SECONDS", patience)
    limits = Limits(held_bytes=2 * MIB)
    with running_front(service(), limits=limits) as running, ExitStack() as stack:
        others = [stack.enter_context(Peer(running.address, CLOSED)).open() for _ in range(4)]
        for peer in others:
            peer.call(1, GET, b"400000")
        reading = stack.enter_context(Peer(running.address, CLOSED, grant=False)).open()
        reading.call(1, GET, b"450000")
        assert running.holds(4 * 400_005 + 450_005)
        for _ in range(12):
            reading.open_window(1, 1_000)
            assert reading.alive()
            time.sleep((patience + 0.2) / 12)
        with grpc.insecure_channel(running.address) as channel:
            assert channel.unary_unary(GET, bytes, bytes)(b"200000", timeout=10) == bytes(200_000)
        assert reading.alive()


@pytest.mark.parametrize("answers", [1, 8])
def test_what_waits_for_sockets_is_held(answers: int) -> None:
    """Windows are open, so all is written; but no peer reads, and the kernel takes little."""
    how: dict[str, Any] = {"limits": Limits(held_bytes=6 * MIB), "queue_seconds": 60, "send_buffer_bytes": 8_192}
    with running_front(service(), **how) as running, ExitStack() as stack:
        peers = [stack.enter_context(Peer(running.address, OPEN, buffer_bytes=4_096)).open() for _ in range(12)]
        for peer in peers:
            peer.open_window(0, 2**31 - 1 - 65_535)
            ask = prefixed(b"%d" % (880_000 // answers))
            calls = ((headers(i, request(GET)), data(i, ask, end=True)) for i in range(1, 2 * answers, 2))
            peer.send(*chain.from_iterable(calls))  # at once: none is read while answers wait for the socket
        assert comes_true(lambda: running.dispatcher.held > 5.5 * MIB), running.dispatcher.held
        assert running.dispatcher.held < 7 * MIB
        with grpc.insecure_channel(running.address) as channel:
            assert comes_true(lambda: answered(channel, 900_000), 20.0)  # some made room, before they were stalled
        for peer in peers:
            peer.close()
        assert comes_true(lambda: not running.dispatcher.connections)
        assert running.dispatcher.held == 0


def test_what_waits_for_a_socket_is_given_back_when_it_is_read() -> None:
    with (
        running_front(service(), send_buffer_bytes=8_192) as running,
        Peer(running.address, OPEN, buffer_bytes=4_096, grant=False) as peer,
    ):
        peer.open().open_window(0, 2**31 - 1 - 65_535)
        peer.call(1, GET, b"900000")
        assert comes_true(lambda: running.dispatcher.held > 500_000)
        assert len(peer.answer(1).body) == 900_005
        assert comes_true(lambda: running.dispatcher.held == 0)


def test_compressed_requests_of_calls_opened_before_are_bounded() -> None:
    """Streams are opened while there is nothing to do; then their requests come, each of 1 kB that becomes 1 MiB."""
    gate = threading.Event()

    def wait(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        gate.wait(20)
        return b""

    limits = Limits(unfinished_bytes=64 * MIB)
    bomb = prefixed(gzip.compress(bytes(MIB)), compressed=1)
    block = encode(request(WAIT, (b"grpc-encoding", b"gzip")))
    with running_front(service(Wait=wait), limits=limits, queue_seconds=60) as running, Peer(running.address) as peer:
        peer.open()
        streams = range(1, 201, 2)
        peer.send(*(headers(stream, block) for stream in streams))
        assert peer.alive()
        peer.send(*(data(stream, bomb, end=True) for stream in streams))
        assert peer.alive()
        held = running.dispatcher.unfinished
        gate.set()
        statuses = [peer.answer(stream).grpc_status for stream in streams]
        assert 8 * MIB < held <= 17 * MIB + 4096, held  # a quarter of 64 MiB, and one more
        assert 16 <= statuses.count(0) <= 18
        assert statuses.count(8) == len(streams) - statuses.count(0)
        assert comes_true(lambda: running.dispatcher.unfinished == 0)


def closed(connection: socket.socket) -> bool:
    """Whether the server has ended a connection whose socket does not block."""
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_no_more_connections_than_there_may_be_even_at_once() -> None:
    """A hundred come in one turn of the loop; who has done nothing for longest makes room each time."""
    limits = Limits(connections=8, begin_seconds=600)
    with running_front(service(), limits=limits) as running, ExitStack() as stack:
        dispatcher, port = running.dispatcher, int(running.address.rpartition(":")[2])
        opened, counts, newcomers = dispatcher.opened, list[int](), list[socket.socket]()

        def counted(connection: Any) -> None:
            opened(connection)
            counts.append(len(dispatcher.connections))

        dispatcher.opened = counted
        for _ in range(3):
            for _ in range(100):
                newcomers.append(stack.enter_context(socket.socket()))
                newcomers[-1].setblocking(False)
                newcomers[-1].connect_ex(("127.0.0.1", port))
            assert comes_true(lambda: sum(not closed(one) for one in newcomers) == len(dispatcher.connections))
        assert 0 < max(counts) <= 8
        with Peer(running.address) as peer:
            peer.open().call(1, GET, b"3")
            assert peer.answer(1).messages == [bytes(3)]


def test_a_connection_with_a_call_makes_no_room() -> None:
    """All have calls: the newcomer is turned away."""
    gate = threading.Event()

    def wait(_request: bytes, _context: grpc.ServicerContext) -> bytes:
        gate.wait(20)
        return b""

    with (
        running_front(service(Wait=wait), limits=Limits(connections=2)) as running,
        Peer(running.address) as one,
        Peer(running.address) as two,
    ):
        for peer in (one, two):
            peer.open().call(1, WAIT, b"")
            assert peer.alive()
        with Peer(running.address) as third:
            third.send(PREFACE + settings({}))
            assert isinstance(third.end(), Ended)
        gate.set()
        assert one.answer(1).grpc_status == two.answer(1).grpc_status == 0
