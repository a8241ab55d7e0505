"""Two fuzzers of connections: frames in any order and form, made by Hypothesis, and the bytes of good connections with
something done to them. Whatever comes, the server answers or closes in time, sends nothing that the protocol forbids,
answers others, and holds nothing afterwards."""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from hpack import Encoder
from hypothesis import HealthCheck, Phase, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from serving.admission import WorkerPool
from serving.front import QUICK, Dispatcher, Front, Limits, MethodTable, handlers_of
from tests.support.fronts import UNHURRIED, comes_true
from tests.support.http2 import (
    END_HEADERS,
    LARGEST_WINDOW,
    PREFACE,
    Peer,
    Setting,
    body,
    continuation,
    data,
    encode,
    frame,
    goaway,
    headers,
    integer,
    ping,
    prefixed,
    request,
    reset,
    settings,
    split_headers,
    window_update,
)
from tests.support.http2_attacks import MIB, attacked
from tests.support.http2_servers import GET, HEALTH, REFLECTION, STREAM, WATCH, Target, features, process
from tests.support.serving import served_items

QUICKLY, SLOWLY, MANY, FAILS = "/t.T/Quickly", "/t.T/Slowly", "/t.T/Many", "/t.T/Fails"
_UNBOUNDED = 1 << 60
_ANSWER_SECONDS = 0.05
_CLOSE_SECONDS = 30.0


# --- one connection, whatever comes -----------------------------------------------------------------------------


def exchanged(address: str, pieces: list[bytes], expected: int = 0, seconds: float = _ANSWER_SECONDS) -> Counter[int]:
    """Sends these bytes, waits a moment for what they lead to, ends the sending, and reads to the end.

    Args:
        address: the server's.
        pieces: sent one by one.
        expected: so many streams should be answered; once they are there is no wait.
        seconds: so long is waited for more.

    Returns:
        Statuses of the answers.

    Raises:
        AssertionError: the server sends what it may not, or keeps the connection open.
    """
    with Peer(address, grant=False, timeout_seconds=_CLOSE_SECONDS) as peer:
        lenient(peer)
        for piece in pieces:
            if not peer.send(piece):
                break
        try:
            while not expected or sum(known.ended for known in peer.streams.values()) < expected:
                if peer.receive(seconds) is None:
                    break
        except TimeoutError:
            pass
        try:
            peer.socket.shutdown(socket.SHUT_WR)
            peer.end()
        except TimeoutError:
            raise AssertionError("the server neither answers nor closes") from None
        except OSError:
            pass  # it has closed already
        lists = [dict(known.lists[-1]) for known in peer.streams.values() if known.ended]
    return Counter(int(found[b"grpc-status"]) for found in lists if b"grpc-status" in found)


def lenient(peer: Peer) -> None:
    """The peer has not counted what windows, settings and streams were sent in its name."""
    peer.resets_of_idle = False
    peer.window = peer._initial = _UNBOUNDED
    peer._most = (1 << 24) - 1


# --- frames -----------------------------------------------------------------------------------------------------

STREAMS = st.sampled_from([0, 1, 1, 1, 3, 3, 5, 7, 2, 99, LARGEST_WINDOW])
ALL_PATHS = (QUICKLY, SLOWLY, MANY, FAILS, HEALTH, WATCH, REFLECTION, "/no.Such/Method")
PATHS = st.sampled_from(ALL_PATHS)
FIELDS = st.lists(
    st.sampled_from(
        [
            (b"grpc-timeout", b"1n"),
            (b"grpc-timeout", b"20m"),
            (b"grpc-timeout", b"x"),
            (b"grpc-encoding", b"gzip"),
            (b"grpc-encoding", b"none"),
            (b"content-length", b"5"),
            (b"content-length", b"99999999999"),
            (b"x-bin", b"!"),
            (b"X-Upper", b"a"),
            (b":path", b"/b"),
            (b"te", b"gzip"),
            (b"x-large", b"v" * 9_000),
        ]
    ),
    max_size=2,
)
BLOCKS = st.one_of(
    st.builds(lambda path, extra: encode(request(path, *extra)), PATHS, FIELDS),
    st.builds(lambda path: Encoder().encode(request(path)), PATHS),
    st.sampled_from(
        [b"", b"\x80", b"\xff\x80\x80", integer(70, 7, 0x80), integer(99, 5, 0x20), encode([(b"x", b"1")])]
    ),
    st.binary(max_size=30),
)
MESSAGES = st.one_of(
    st.sampled_from(
        [
            b"",
            prefixed(b""),
            prefixed(b"abc"),
            prefixed(b"abc") * 2,
            prefixed(b"abc", size=10),
            prefixed(b"abc")[:3],
            prefixed(bytes(200_000))[:16_000],
            prefixed(b"", size=2**32 - 1),
            prefixed(gzip.compress(b"abc"), compressed=1),
            prefixed(b"abc", compressed=1),
            prefixed(b"\x3a\x00"),
        ]
    ),
    st.binary(max_size=40),
)
NUMBERS = st.sampled_from([0, 1, 2, 10, 16_383, 16_384, 65_535, 1 << 24, 2**31 - 1, 2**31, 2**32 - 1])
FLAGS = st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF])


def lying(kind: int, stream: int, payload: bytes, more: int) -> bytes:
    """A frame that says it is longer than it is."""
    return struct.pack(">I", len(payload) + more)[1:] + struct.pack(">BBI", kind, 0, stream) + payload


FRAMES = st.one_of(
    st.builds(headers, STREAMS, BLOCKS, end=st.booleans()),
    st.builds(headers, STREAMS, BLOCKS, end=st.booleans(), flags=FLAGS),
    st.builds(lambda stream, block, size: split_headers(stream, block + b"\x00", size), STREAMS, BLOCKS, st.just(50)),
    st.builds(continuation, STREAMS, BLOCKS, end_headers=st.booleans()),
    st.builds(data, STREAMS, MESSAGES, end=st.booleans(), pad=st.sampled_from([None, None, 0, 9, 255])),
    st.builds(settings, st.lists(st.tuples(st.integers(0, 7), NUMBERS), max_size=3)),
    st.builds(settings, ack=st.just(True)),
    st.builds(ping, ack=st.booleans()),
    st.builds(reset, STREAMS, st.integers(0, 20)),
    st.builds(window_update, STREAMS, NUMBERS),
    st.builds(goaway, STREAMS, st.integers(0, 20)),
    st.builds(frame, st.integers(0, 12), FLAGS, STREAMS, st.binary(max_size=40)),
    st.builds(lying, st.integers(0, 10), STREAMS, st.binary(max_size=20), st.sampled_from([1, 100, 16_384, 1 << 20])),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lawful:
    """A call as it should be, on the next free stream: most of a connection, so that faults meet one that lives."""

    path: str
    message: bytes
    pieces: int

    def bytes_on(self, stream: int) -> bytes:
        """HEADERS and DATA."""
        step = -(-len(self.message) // self.pieces) or 1
        cut = [self.message[at : at + step] for at in range(0, len(self.message), step)]
        return headers(stream, request(self.path)) + b"".join(
            data(stream, piece, end=i == len(cut)) for i, piece in enumerate(cut, 1)
        )


LAWFUL = st.builds(
    Lawful, path=PATHS, message=st.just(prefixed(b"")) | st.just(prefixed(b"abc" * 99)), pieces=st.integers(1, 6)
)
EVERY_PATH: Final[list[Lawful | bytes]] = [Lawful(path=path, message=prefixed(b""), pieces=1) for path in ALL_PATHS]
FIRST = st.sampled_from(
    [PREFACE + settings()] * 6
    + [
        PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 0}),
        PREFACE + settings({Setting.INITIAL_WINDOW_SIZE: 7}),
        PREFACE + settings({Setting.HEADER_TABLE_SIZE: 0}),
        PREFACE,
        PREFACE[:20],
        b"",
    ]
)
HARMLESS = st.one_of(
    st.builds(ping, ack=st.booleans()),
    st.builds(window_update, st.just(0), st.integers(1, 1_000)),
    st.builds(
        settings, st.lists(st.sampled_from([(1, 0), (1, 4096), (2, 0), (4, 5), (4, 70_000), (5, 1 << 20), (9, 9)]))
    ),
    st.builds(frame, st.integers(10, 255), FLAGS, STREAMS, st.binary(max_size=40)),
    st.builds(goaway, st.just(0), st.integers(0, 20)),
)
CONNECTIONS = st.tuples(
    FIRST,
    st.builds(
        lambda *parts: [one for part in parts for one in part],
        st.lists(LAWFUL | HARMLESS, max_size=8),
        st.lists(FRAMES, max_size=5),
        st.lists(LAWFUL, max_size=2),
    ),
    st.integers(0, 5),
)


def pieces_of(first: bytes, parts: list[Lawful | bytes], cuts: int) -> list[bytes]:
    """The bytes of a connection, in one piece or several."""
    out, stream = bytearray(first), 101
    for part in parts:
        if isinstance(part, Lawful):
            out += part.bytes_on(stream)
            stream += 2
        else:
            out += part
    step = max(1, len(out) // (cuts + 1))
    return [bytes(out[at : at + step]) for at in range(0, len(out), step)]


@contextmanager
def small_server() -> Iterator[tuple[str, Dispatcher]]:
    """A front within this process, whose counts can be looked at."""
    methods = MethodTable()

    def quickly(message: bytes, _context: grpc.ServicerContext) -> bytes:
        return message

    setattr(quickly, QUICK, lambda _: True)

    def slowly(message: bytes, _context: grpc.ServicerContext) -> bytes:
        time.sleep(0.002)
        return message * 100

    def many(message: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in range(20):
            yield message * 50

    def fails(message: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("x-why", "so"), ("x-bin", message[:9])))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "caf\u00e9 100%\n")

    unary, streamed = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    methods.add(
        "t.T", {"Quickly": unary(quickly), "Slowly": unary(slowly), "Many": streamed(many), "Fails": unary(fails)}
    )
    checks = health.HealthServicer(experimental_non_blocking=True)
    about = reflection.ReflectionServicer(("t.T", health.SERVICE_NAME))
    for add, servicer in (
        (health_pb2_grpc.add_HealthServicer_to_server, checks),
        (reflection_pb2_grpc.add_ServerReflectionServicer_to_server, about),
    ):
        for service, own in handlers_of(add, servicer).items():
            methods.add(service, own, control=True)
    pool = WorkerPool(2, 5.0)
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    dispatcher = Dispatcher(methods, Limits(), pool, 5.0, lambda _: None, 2)
    front = Front(dispatcher, listening)
    front.start()
    try:
        yield address, dispatcher
    finally:
        front.stop(1.0)
        pool.close()


def empty(dispatcher: Dispatcher) -> bool:
    """Whether the server soon holds nothing of any connection."""
    return comes_true(lambda: not (dispatcher.connections or dispatcher.unfinished or dispatcher.held))


def frames_fuzz(examples: int, *, derandomize: bool) -> Callable[[], Any]:
    """A test of so many connections, always the same or never."""
    with_limits = hypothesis_settings(
        max_examples=examples,
        derandomize=derandomize,
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )

    def run() -> None:
        with small_server() as (address, dispatcher):
            seen: Counter[int] = Counter()

            @with_limits
            @example((PREFACE + settings(), EVERY_PATH, 0))
            @given(CONNECTIONS)
            def one(connection: tuple[bytes, list[Lawful | bytes], int]) -> None:
                first, parts, cuts = connection
                lawful = sum(isinstance(part, Lawful) for part in parts)
                seen.update(exchanged(address, pieces_of(first, parts, cuts), lawful))
                assert exchanged(
                    address,
                    [PREFACE + settings() + Lawful(path=QUICKLY, message=prefixed(b"abc"), pieces=1).bytes_on(1)],
                    1,
                    _CLOSE_SECONDS,
                ) == {0: 1}
                assert empty(dispatcher), (dispatcher.unfinished, dispatcher.held, len(dispatcher.connections))

            one()
            assert seen[0], "no call of any connection was answered: the fuzzer reaches nothing"
            assert seen[grpc.StatusCode.FAILED_PRECONDITION.value[0]]
            assert seen[grpc.StatusCode.UNIMPLEMENTED.value[0]]

    return run


def test_frames_in_any_order() -> None:
    frames_fuzz(150, derandomize=True)()


@pytest.mark.long
def test_thousands_of_frames_in_any_order() -> None:
    frames_fuzz(3_000, derandomize=False)()


# --- bytes ------------------------------------------------------------------------------------------------------


def recorded() -> list[bytes]:
    """Connections as good clients send them."""
    coded = Encoder()
    first = PREFACE + settings({Setting.ENABLE_PUSH: 0}) + window_update(0, 1 << 20)
    calls = [
        headers(stream, coded.encode(request(path, (b"x-trace", b"t%d" % stream), timeout=b"5S")), flags=END_HEADERS)
        + body(stream, prefixed(message))
        for stream, path, message in (
            (1, GET, features(50)),
            (3, HEALTH, b""),
            (5, STREAM, features(3_000, stream=True)),
            (7, WATCH, b""),
            (9, GET, features(2_000)),
        )
    ]
    asks = headers(1, request(REFLECTION)) + data(1, prefixed(b"\x3a\x00")) + data(1, prefixed(b"\x3a\x00"), end=True)
    packed = gzip.compress(features(50))
    gzipped = headers(1, request(GET, (b"grpc-encoding", b"gzip"))) + body(1, prefixed(packed, compressed=1))
    large = split_headers(1, encode(request(HEALTH, (b"x-large", b"v" * 5_000))), 2_000)
    return [
        first + b"".join(calls),
        first + calls[0] + ping() + reset(1) + goaway(1),
        first + asks,
        first + gzipped,
        first + large + data(1, prefixed(b""), pad=20, end=True),
    ]


def mutated(rng: np.random.Generator, raw: bytes, others: list[bytes]) -> bytes:
    """The bytes with one to six things done to them, mostly after the preface."""
    out = bytearray(raw)
    for _ in range(int(rng.integers(1, 7))):
        at = int(rng.integers(len(PREFACE) if rng.random() < 0.95 else 0, max(len(out), len(PREFACE)) + 1))
        match int(rng.integers(0, 8)):
            case 0 | 1 if at < len(out):
                out[at] ^= 1 << int(rng.integers(0, 8))
            case 2 if at < len(out):
                out[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
            case 3:
                del out[at : at + int(rng.integers(1, 20))]
            case 4:
                out[at:at] = rng.bytes(int(rng.integers(1, 20)))
            case 5:
                other = others[int(rng.integers(0, len(others)))]
                begin = int(rng.integers(0, len(other)))
                out[at:at] = other[begin : begin + int(rng.integers(1, 400))]
            case 6:
                begin = int(rng.integers(0, at + 1))
                out[at:at] = out[begin:at][:2_000]
            case _:
                kind, flags, stream = (int(x) for x in rng.integers(0, [12, 256, 12]))
                out[at:at] = frame(kind, flags, stream, rng.bytes(int(rng.integers(0, 30))))
    return bytes(out)


def bytes_fuzz(target: Target, seconds: float, seed: int) -> Counter[int]:
    """Connections, four at a time, until the time is over and there were a hundred; which statuses were seen."""
    valid = recorded()
    for whole in valid:
        assert set(exchanged(target.address, [whole])) <= {0}, "a recorded connection is no good one"
    until, seen = time.monotonic() + seconds, Counter[int]()

    def run(who: int) -> Counter[int]:
        rng, own = np.random.default_rng([seed, who]), Counter[int]()
        number = 0
        while time.monotonic() < until or number < 25:
            number += 1
            whole = mutated(rng, valid[int(rng.integers(0, len(valid)))], valid)
            cut = int(rng.integers(0, len(whole) + 1))
            try:
                own.update(exchanged(target.address, [whole[:cut], whole[cut:]]))
            except Exception as error:
                raise AssertionError(f"seed {seed}, {who}, connection {number}: {error!r} {whole!r}") from error
        return own

    with ThreadPoolExecutor(4) as pool:
        for own in pool.map(run, range(4)):
            seen += own
    return seen


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    project = served_items(tmp_path_factory.mktemp("front-fuzz"), rows=20_000, dimension=8)
    with process(Path(project.root), UNHURRIED) as found:
        yield found


def test_bytes_of_good_connections_changed(target: Target) -> None:
    with attacked(target, 64 * MIB):
        seen = bytes_fuzz(target, 4.0, 1)
    assert seen[0]
    assert len(seen) > 2, seen


@pytest.mark.long
def test_a_minute_of_changed_bytes(target: Target) -> None:
    with attacked(target, 96 * MIB):
        seen = bytes_fuzz(target, 60.0, int(time.time()))
    assert sum(seen.values()) > 500
    assert grpc.StatusCode.INTERNAL.value[0] not in seen
