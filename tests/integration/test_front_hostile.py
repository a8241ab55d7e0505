"""Hostile clients: each does what costs a server much and itself little. Whatever it is, other callers are answered
within their deadlines, memory stays bounded, and nothing is left behind."""

from __future__ import annotations

import gzip
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from governance.settings import Settings
from serving.v1 import embeddings_pb2, features_pb2
from tests.support.fronts import UNHURRIED
from tests.support.http2 import (
    PREFACE,
    Answer,
    Code,
    Ended,
    Kind,
    Peer,
    Setting,
    body,
    continuation,
    data,
    encode,
    frame,
    headers,
    ping,
    prefixed,
    request,
    reset,
    settings,
    split_headers,
    window_update,
)
from tests.support.http2_attacks import MIB, attacked
from tests.support.http2_servers import GET, HEALTH, REFLECTION, STREAM, Held, Target, features, process
from tests.support.serving import served_items

SEARCH = "/hedgerow.serving.v1.EmbeddingService/Search"
EMBEDDINGS = "/hedgerow.serving.v1.EmbeddingService/GetEmbeddings"
OK, EXHAUSTED = 0, 8
OPEN = headers(1, request(HEALTH))
CLOSED = {Setting.INITIAL_WINDOW_SIZE: 0}
"""Settings of a peer that takes no answers."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return served_items(tmp_path_factory.mktemp("hostile"), rows=20_000, dimension=64)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One server for the attacks that should leave no trace."""
    root = Path(served_items(tmp_path_factory.mktemp("shared"), rows=20_000, dimension=8).root)
    with process(root, UNHURRIED) as found:
        yield found


@pytest.fixture
def own(project: Settings) -> Iterator[Target]:
    """A server for one attack: memory that one has grown to hides what the next one takes."""
    with process(Path(project.root)) as found:
        yield found


# --- many frames that lead to nothing ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """A few bytes again and again.

    Attributes:
        again: the frames for each turn.
        turns: how often.
        first: what is sent before.
    """

    again: Callable[[int], bytes]
    turns: int
    first: bytes = b""


FLOODS: dict[str, Flood] = {
    "PING": Flood(again=lambda _: ping(), turns=300_000),
    "SETTINGS": Flood(again=lambda _: settings({4: 0}), turns=9_000),
    "PRIORITY": Flood(again=lambda i: frame(Kind.PRIORITY, 0, 2 * i + 1, bytes(4) + b"\x10"), turns=100_000),
    "frames of no known kind": Flood(again=lambda _: frame(0x42, 0, 0, b"?"), turns=100_000),
    "empty DATA": Flood(first=OPEN, again=lambda _: data(1, b""), turns=100_000),
    "DATA that is padding": Flood(first=OPEN, again=lambda _: data(1, b"", pad=0), turns=100_000),
    "one-byte DATA": Flood(
        first=headers(1, request(GET)) + data(1, prefixed(b"", size=MIB)), again=lambda _: data(1, b"x"), turns=100_000
    ),
    "empty CONTINUATION": Flood(
        first=headers(1, encode(request(HEALTH)), flags=0), again=lambda _: continuation(1, b""), turns=300_000
    ),
    "a header block without an end": Flood(
        first=headers(1, encode(request(HEALTH)), flags=0),
        again=lambda i: continuation(1, encode([(b"x-%d" % i, b"v" * 1000)])),
        turns=10_000,
    ),
    "malformed requests": Flood(
        again=lambda i: headers(2 * i + 1, request(HEALTH, (b"X", b"y")), end=True), turns=5_000
    ),
    "tiny window updates": Flood(first=OPEN, again=lambda _: window_update(1, 1), turns=100_000),
    "DATA of a stream that is over": Flood(first=OPEN + reset(1), again=lambda _: data(1, b"x"), turns=100_000),
    "calls that are reset at once": Flood(
        again=lambda i: (
            headers(2 * i + 1, request(GET)) + data(2 * i + 1, prefixed(features(48)), end=True) + reset(2 * i + 1)
        ),
        turns=20_000,
    ),
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_flood_ends_its_connection(shared: Target, case: str) -> None:
    flood, step = FLOODS[case], 1_000
    refuse = case == "calls that are reset at once"  # until the flood is seen for what it is they are calls
    with attacked(shared, 48 * MIB, may_refuse=refuse), shared.peer(timeout_seconds=30) as peer:
        assert peer.send(flood.first)
        for at in range(0, flood.turns, step):
            if not peer.send(b"".join(flood.again(i) for i in range(at, min(at + step, flood.turns)))):
                break
        ended = peer.end(30)  # its last words are lost where more was sent than it has read
        assert ended.code in (Code.ENHANCE_YOUR_CALM, Code.STREAM_CLOSED, None), ended


def test_many_blocked_streams_cost_nothing_when_the_connections_window_opens(shared: Target) -> None:
    """Each small update of the connection's window would otherwise look through all of them."""
    with attacked(shared, 64 * MIB), shared.peer(CLOSED, grant=False, timeout_seconds=30) as peer:
        for i in range(4_000):
            peer.call(2 * i + 1, HEALTH, b"")
        assert peer.alive()
        peer.send(window_update(0, 1) * 20_000)
        assert peer.end(30).code in (Code.ENHANCE_YOUR_CALM, None)


def test_integers_without_an_end(shared: Target) -> None:
    """RFC 7541, 5.1: each byte of an integer would make it seven bits longer."""
    with attacked(shared, 16 * MIB):
        for _ in range(5):
            with shared.peer(timeout_seconds=30) as peer:
                peer.send(split_headers(1, b"\xff" + b"\x80" * 60_000, 16_000))
                assert peer.end().code in (Code.COMPRESSION_ERROR, None)


# --- little that becomes much -----------------------------------------------------------------------------------


def test_compressed_messages_of_one_connection(shared: Target) -> None:
    """60 at once, each of which becomes 31 MB."""
    bomb = prefixed(gzip.compress(features(10) + unknown_field(31_000_000)), compressed=1)
    head = request(GET, (b"grpc-encoding", b"gzip"))
    with attacked(shared, 128 * MIB, may_refuse=True), shared.peer(timeout_seconds=60) as peer:
        for i in range(60):
            peer.send(headers(2 * i + 1, head), body(2 * i + 1, bomb))
        found = [peer.answer(2 * i + 1, 60).grpc_status for i in range(60)]
        assert set(found) <= {OK, EXHAUSTED}


def test_questions_whose_answers_are_not_read(shared: Target) -> None:
    name = b"hedgerow.serving.v1.FeatureService"
    ask = prefixed(b"\x22" + bytes([len(name)]) + name)
    with attacked(shared, 32 * MIB), shared.peer(CLOSED, grant=False, timeout_seconds=30) as peer:
        peer.send(headers(1, request(REFLECTION)))
        for _ in range(10):
            peer.send(data(1, ask * (16_000 // len(ask))) * 10)
            if not peer.alive():
                break


def test_a_message_without_an_end_on_a_stream_that_has_ended(shared: Target) -> None:
    with attacked(shared, 32 * MIB), shared.peer(CLOSED, grant=False, timeout_seconds=30) as peer:
        peer.send(
            headers(1, request(REFLECTION)), data(1, prefixed(b"\x3a\x00")), data(1, prefixed(b"", size=2**32 - 1))
        )
        assert peer.alive()
        peer.upload(1, bytes(64 * MIB), end=False)


def test_no_file_descriptors_are_left(shared: Target) -> None:
    """Who is there already is answered; once some have gone, newcomers are too."""
    assert shared.pid is not None
    server = psutil.Process(shared.pid)
    usual = server.rlimit(resource.RLIMIT_NOFILE)
    with attacked(shared, 32 * MIB), ExitStack() as stack:
        server.rlimit(resource.RLIMIT_NOFILE, (server.num_fds() + 20, usual[1]))
        stack.callback(server.rlimit, resource.RLIMIT_NOFILE, usual)
        waiting = [stack.enter_context(Peer(shared.address)) for _ in range(60)]
        for peer in waiting[:10]:
            peer.open()
        for peer in waiting[:45]:  # fewer are left than there is room for
            peer.close()
        waiting[-1].open().call(1, GET, features(3))
        assert waiting[-1].answer(1).grpc_status == OK


# --- for minutes, or much ---------------------------------------------------------------------------------------


@pytest.mark.long
def test_answers_that_nobody_takes(own: Target) -> None:
    """Vectors of 2.5 MB, 1,200 of them; twice, so that what is counted is known to be given back."""
    wanted = embeddings_pb2.GetEmbeddingsRequest(space="item_content")
    wanted.ids.int64s.values.extend(range(10_000))
    message, held = wanted.SerializeToString(), []
    with attacked(own, 512 * MIB, may_refuse=True):
        for _ in range(2):
            with ExitStack() as stack:
                peers = [stack.enter_context(own.peer(CLOSED, grant=False, timeout_seconds=60)) for _ in range(20)]
                for peer in peers:
                    for i in range(60):
                        peer.call(2 * i + 1, EMBEDDINGS, message)
                    assert peer.alive()
                time.sleep(2.0)
                alive = [peer for peer in peers if peer.alive()]  # and so all that was said of them is read
                held.append(sum(not known.ended for peer in alive for known in peer.streams.values()))
            time.sleep(1.0)
    assert all(20 < count < 400 for count in held), held


@pytest.mark.long
def test_streams_that_nobody_takes(own: Target) -> None:
    """More than there are threads, of a million rows each."""
    wanted = features_pb2.GetFeaturesRequest()
    wanted.features.references.extend(["items_v1:users", "items_v1:score"])
    wanted.keys.add(name="item_id").int64s.values.extend([1] * 1_000_000)
    message = features_pb2.StreamFeaturesRequest(request=wanted, part_rows=10_000).SerializeToString()
    with attacked(own, 256 * MIB):
        with own.peer(CLOSED, grant=False, timeout_seconds=60) as peer:
            for i in range(8):
                peer.call(2 * i + 1, STREAM, message)
            assert peer.alive()
        with own.peer() as peer:  # when they are gone, so is what they held
            deadline = time.monotonic() + 30
            stream = 1
            while time.monotonic() < deadline:
                peer.call(stream, STREAM, features(10, stream=True))
                if peer.answer(stream).grpc_status == OK:
                    return
                stream += 2
                time.sleep(0.1)
    pytest.fail("streams that are over are still counted")


@pytest.mark.long
def test_requests_that_do_not_end(own: Target) -> None:
    """30 MB each of messages that should have 31, on ten connections."""
    with attacked(own, 384 * MIB, may_refuse=True), ExitStack() as stack:
        for _ in range(10):
            peer = stack.enter_context(own.peer(timeout_seconds=60))
            for i in range(4):
                peer.send(headers(2 * i + 1, request(GET)))
                peer.upload(2 * i + 1, prefixed(bytes(30 * MIB), size=31 * MIB), end=False)


@pytest.mark.long
def test_large_header_lists_are_not_kept(own: Target) -> None:
    """10 connections with 300 lists of 15 kB, all different, of calls that are answered."""
    with attacked(own, 64 * MIB), ExitStack() as stack:
        for _ in range(10):
            peer = stack.enter_context(own.peer(timeout_seconds=60))
            for i in range(300):
                stream, extra = 2 * i + 1, (b"x-%d" % i, b"v" * 15_000)
                peer.send(split_headers(stream, encode(request(HEALTH, extra)), 16_000))
                peer.send(data(stream, prefixed(b""), end=True))
                assert peer.answer(stream).grpc_status == OK


@pytest.mark.long
def test_a_socket_that_is_never_read(own: Target) -> None:
    """The server must not read on from who does not read. What it holds of answers is bounded: 256 MiB of all."""
    message = prefixed(features(10_000))
    with attacked(own, 320 * MIB), ExitStack() as stack:
        for _ in range(3):  # more would hold all there may be, and the rest be refused
            peer = stack.enter_context(own.peer({4: 2**31 - 1}, buffer_bytes=4096))
            peer.open_window(0, 2**31 - 1 - 65_535)
            peer.socket.settimeout(2.0)
            try:
                taken = sum(peer.send(headers(2 * i + 1, request(GET)), body(2 * i + 1, message)) for i in range(3_000))
            except TimeoutError:
                continue
            assert taken < 3_000, "3,000 answers of 160 kB, none of them read, and still requests are taken"


@pytest.mark.long
def test_calls_that_are_reset_at_once_on_one_connection_after_another(own: Target) -> None:
    """CVE-2023-44487, for ten seconds, with searches."""
    wanted = embeddings_pb2.SearchRequest(space="item_content", k=50)
    wanted.ids.int64s.values.extend(range(48))
    message, until, connections = prefixed(wanted.SerializeToString()), time.monotonic() + 10, 0
    with attacked(own, 64 * MIB, may_refuse=True):
        while time.monotonic() < until:
            with own.peer(timeout_seconds=30) as peer:
                connections += 1
                for i in range(20_000):
                    stream = 2 * i + 1
                    call = headers(stream, request(SEARCH)) + data(stream, message, end=True)
                    if not peer.send(call + reset(stream)):
                        break
                assert peer.end(30).code in (Code.ENHANCE_YOUR_CALM, None)
    assert connections > 1


@contextmanager
def many_files(count: int) -> Iterator[None]:
    """Lets this process, and those it starts, have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"this needs {count:,} open files, allowed here: {hard:,}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.long
def test_more_connections_than_there_may_be(project: Settings) -> None:
    """Idle ones make room: callers with something to ask are answered."""
    with many_files(20_000), process(Path(project.root)) as target, attacked(target, 128 * MIB), ExitStack() as stack:
        assert target.pid is not None
        for _ in range(5_000):
            stack.enter_context(target.peer(timeout_seconds=60))
        assert target.answers()
        assert Held.of(target.pid).files < 4_500


@pytest.mark.long
def test_connections_that_say_nothing_or_no_more_are_ended(own: Target) -> None:
    """Before the preface after 10 s, within a request after 30 s."""
    with attacked(own, 64 * MIB), ExitStack() as stack:
        silent = [stack.enter_context(Peer(own.address, timeout_seconds=60)) for _ in range(50)]
        for peer in silent[25:]:
            peer.send(PREFACE[:10])
        begun = [stack.enter_context(own.peer(timeout_seconds=60)) for _ in range(50)]
        for peer in begun:
            peer.send(headers(1, request(GET)), data(1, prefixed(b"", size=100)))
        for peer in silent:
            while peer.socket.recv(1 << 16):  # the server's settings, then nothing
                pass
        for peer in begun:
            found = peer.outcome(1, 60)
            assert isinstance(found, Answer | Ended) or found.code in (Code.CANCEL, Code.NO_ERROR), found


def unknown_field(size: int) -> bytes:
    """A field that no message has, with so many bytes."""
    out, rest = bytearray(b"\xfa\x7f"), size
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((*out, rest)) + bytes(size)
