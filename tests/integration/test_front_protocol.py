"""What RFC 9113 and RFC 7541 ask of a server, said frame by frame by a peer that is written by hand.

Where grpcio's server keeps to the same rule the test asks it too: the peer is then known to be right, not only to agree
with the server that was written beside it. The peer itself holds the server to the rules for what servers send.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hpack import Encoder

from tests.support.fronts import UNHURRIED
from tests.support.http2 import (
    LARGEST_WINDOW,
    PADDED,
    PREFACE,
    PRIORITY_GIVEN,
    Answer,
    Broken,
    Code,
    Ended,
    Header,
    Kind,
    Peer,
    Reset,
    Setting,
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
    text,
    window_update,
)
from tests.support.http2_servers import GET, HEALTH, Target, features, grpcio_before, process
from tests.support.serving import served_items

HEAD = request(HEALTH)
CALL = headers(1, HEAD) + data(1, prefixed(b""), end=True)
OPEN = headers(1, HEAD)
"""A stream that waits for its message."""
ours = pytest.mark.parametrize("target", ["ours"], indirect=True)
both = pytest.mark.parametrize("target", ["ours", "grpcio"], indirect=True)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    settings = served_items(tmp_path_factory.mktemp("front"), rows=20_000, dimension=8)
    with process(settings.root, UNHURRIED) as ours, grpcio_before(ours) as grpcio:
        yield {"ours": ours, "grpcio": grpcio}


@pytest.fixture
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Target:
    found: Target = targets[request.param]
    return found


def healthy(peer: Peer, stream: int) -> bool:
    """Whether a call on this stream is answered."""
    peer.call(stream, HEALTH, b"")
    return peer.answer(stream).messages == [b"\x08\x01"]


def refused(target: Target, peer: Peer, *codes: Code) -> None:
    """The connection must end, and ours must say why. (grpcio's may close without a word.)"""
    ended = peer.end()
    assert ended.code in codes or (target.name == "grpcio" and ended.code is None), (ended, codes)


# --- how a connection begins ------------------------------------------------------------------------------------


@both
def test_the_server_speaks_first_with_its_settings_and_acknowledges_the_clients(target: Target) -> None:
    with target.peer() as peer:
        assert healthy(peer, 1)
        assert peer.acks == 1
        assert peer.theirs[Setting.MAX_HEADER_LIST_SIZE] <= 64 * 1024


@ours
def test_streams_at_one_time_are_bounded_and_the_bound_is_told(target: Target) -> None:
    with target.peer() as peer:
        most = peer.theirs[Setting.MAX_CONCURRENT_STREAMS]
        assert 100 <= most <= 4096
        for i in range(most):
            peer.send(headers(2 * i + 1, HEAD))
        assert peer.alive()
        over = 2 * most + 1
        peer.send(headers(over, HEAD))
        assert peer.outcome(over) == Reset(code=Code.REFUSED_STREAM)
        peer.send(data(1, prefixed(b""), end=True))
        assert peer.answer(1).grpc_status == 0
        assert healthy(peer, over + 2)


@both
@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        bytes(24),
    ],
    ids=["HTTP/1.1", "almost", "TLS", "zeros"],
)
def test_what_is_no_preface_ends_the_connection(target: Target, first: bytes) -> None:
    with Peer(target.address) as peer:
        peer.send(first + bytes(64))
        try:
            peer.end()
        except Broken:
            assert first.startswith(b"GET")  # an answer of HTTP/1.1 is lawful there


@both
@pytest.mark.parametrize(
    "first", [ping(), OPEN, settings(ack=True), window_update(0, 1)], ids=["ping", "call", "ack", "window"]
)
def test_settings_come_first(target: Target, first: bytes) -> None:
    if target.name == "grpcio" and first != ping():
        pytest.skip("grpcio lets this pass")
    with Peer(target.address) as peer:
        peer.send(PREFACE + first)
        refused(target, peer, Code.PROTOCOL_ERROR)


@both
def test_a_connection_may_come_byte_by_byte_or_all_at_once(target: Target) -> None:
    whole = PREFACE + settings() + CALL
    with Peer(target.address) as peer:
        for i in range(len(whole)):
            peer.send(whole[i : i + 1])
        assert peer.answer(1).grpc_status == 0
    with Peer(target.address) as peer:
        peer.send(whole)
        assert peer.answer(1).grpc_status == 0


# --- what ends a connection -------------------------------------------------------------------------------------

FATAL: dict[str, tuple[bytes, tuple[Code, ...]]] = {
    "SETTINGS of five bytes": (frame(Kind.SETTINGS, 0, 0, bytes(5)), (Code.FRAME_SIZE_ERROR,)),
    "SETTINGS ack with a payload": (frame(Kind.SETTINGS, 1, 0, bytes(6)), (Code.FRAME_SIZE_ERROR,)),
    "SETTINGS on a stream": (frame(Kind.SETTINGS, 0, 1), (Code.PROTOCOL_ERROR,)),
    "ENABLE_PUSH of 2": (settings({2: 2}), (Code.PROTOCOL_ERROR,)),
    "INITIAL_WINDOW_SIZE of 2^31": (settings({4: 2**31}), (Code.FLOW_CONTROL_ERROR,)),
    "MAX_FRAME_SIZE of 16,383": (settings({5: 16_383}), (Code.PROTOCOL_ERROR,)),
    "MAX_FRAME_SIZE of 2^24": (settings({5: 1 << 24}), (Code.PROTOCOL_ERROR,)),
    "PING of seven bytes": (frame(Kind.PING, 0, 0, bytes(7)), (Code.FRAME_SIZE_ERROR,)),
    "PING of nine bytes": (frame(Kind.PING, 0, 0, bytes(9)), (Code.FRAME_SIZE_ERROR,)),
    "PING on a stream": (frame(Kind.PING, 0, 1, bytes(8)), (Code.PROTOCOL_ERROR,)),
    "GOAWAY on a stream": (frame(Kind.GOAWAY, 0, 1, bytes(8)), (Code.PROTOCOL_ERROR,)),
    "GOAWAY of four bytes": (frame(Kind.GOAWAY, 0, 0, bytes(4)), (Code.FRAME_SIZE_ERROR,)),
    "WINDOW_UPDATE of three bytes": (frame(Kind.WINDOW_UPDATE, 0, 0, bytes(3)), (Code.FRAME_SIZE_ERROR,)),
    "WINDOW_UPDATE of five bytes": (OPEN + frame(Kind.WINDOW_UPDATE, 0, 1, bytes(5)), (Code.FRAME_SIZE_ERROR,)),
    "WINDOW_UPDATE of zero on the connection": (window_update(0, 0), (Code.PROTOCOL_ERROR,)),
    "WINDOW_UPDATE on an idle stream": (window_update(7, 1), (Code.PROTOCOL_ERROR,)),
    "the connection's window over 2^31-1": (window_update(0, LARGEST_WINDOW), (Code.FLOW_CONTROL_ERROR,)),
    "RST_STREAM of three bytes": (OPEN + frame(Kind.RST_STREAM, 0, 1, bytes(3)), (Code.FRAME_SIZE_ERROR,)),
    "RST_STREAM of an idle stream": (reset(7), (Code.PROTOCOL_ERROR,)),
    "RST_STREAM of the connection": (reset(0), (Code.PROTOCOL_ERROR,)),
    "DATA on the connection": (data(0, b"x"), (Code.PROTOCOL_ERROR,)),
    "DATA on an idle stream": (data(7, b"x"), (Code.PROTOCOL_ERROR,)),
    "HEADERS on the connection": (headers(0, HEAD), (Code.PROTOCOL_ERROR,)),
    "HEADERS on an even stream": (headers(2, HEAD), (Code.PROTOCOL_ERROR,)),
    "HEADERS on a lower stream": (headers(5, HEAD) + headers(3, HEAD), (Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)),
    "PRIORITY on the connection": (frame(Kind.PRIORITY, 0, 0, bytes(5)), (Code.PROTOCOL_ERROR,)),
    "PUSH_PROMISE": (frame(Kind.PUSH_PROMISE, 4, 1, bytes(4) + encode(HEAD)), (Code.PROTOCOL_ERROR,)),
    "padding longer than DATA": (OPEN + frame(Kind.DATA, PADDED, 1, b"\x05xxxx"), (Code.PROTOCOL_ERROR,)),
    "padding longer than HEADERS": (
        frame(Kind.HEADERS, PADDED | 4, 1, b"\xff" + encode(HEAD)[:40]),
        (Code.PROTOCOL_ERROR,),
    ),
    "padded DATA without the length": (
        OPEN + frame(Kind.DATA, PADDED, 1),
        (Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR),
    ),
    "padded HEADERS without the length": (
        frame(Kind.HEADERS, PADDED | 4, 1),
        (Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR),
    ),
    "HEADERS too short for its priority": (
        frame(Kind.HEADERS, PRIORITY_GIVEN | 4, 1, bytes(3)),
        (Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR),
    ),
    "HEADERS larger than allowed": (frame(Kind.HEADERS, 4, 1, bytes(16_385)), (Code.FRAME_SIZE_ERROR,)),
    "SETTINGS larger than allowed": (frame(Kind.SETTINGS, 0, 0, bytes(6 * 2731)), (Code.FRAME_SIZE_ERROR,)),
    "CONTINUATION of nothing": (continuation(1, b""), (Code.PROTOCOL_ERROR,)),
    "CONTINUATION after the block's end": (OPEN + continuation(1, b""), (Code.PROTOCOL_ERROR,)),
    "CONTINUATION of another stream": (
        headers(1, encode(HEAD), flags=0) + continuation(3, b""),
        (Code.PROTOCOL_ERROR,),
    ),
    "DATA within a header block": (headers(1, encode(HEAD), flags=0) + data(1, b""), (Code.PROTOCOL_ERROR,)),
    "PING within a header block": (headers(1, encode(HEAD), flags=0) + ping(), (Code.PROTOCOL_ERROR,)),
    "an unknown frame within a header block": (
        headers(1, encode(HEAD), flags=0) + frame(99, 0, 1),
        (Code.PROTOCOL_ERROR,),
    ),
    "HEADERS within a header block": (headers(1, encode(HEAD), flags=0) + headers(3, HEAD), (Code.PROTOCOL_ERROR,)),
}
LENIENT = {
    "SETTINGS ack with a payload",
    "SETTINGS on a stream",
    "GOAWAY on a stream",
    "PING on a stream",
    "WINDOW_UPDATE on an idle stream",
    "the connection's window over 2^31-1",
    "RST_STREAM of an idle stream",
    "RST_STREAM of the connection",
    "DATA on the connection",
    "DATA on an idle stream",
    "HEADERS on the connection",
    "HEADERS on an even stream",
    "PRIORITY on the connection",
    "PUSH_PROMISE",
    "padded DATA without the length",
    "padding longer than DATA",
    "HEADERS on a lower stream",
    "SETTINGS larger than allowed",
    "padded HEADERS without the length",
    "WINDOW_UPDATE of five bytes",
    "RST_STREAM of three bytes",
}
"""Which of them grpcio lets pass or takes for a smaller error."""


@both
@pytest.mark.parametrize("case", FATAL)
def test_what_ends_a_connection(target: Target, case: str) -> None:
    if target.name == "grpcio" and case in LENIENT:
        pytest.skip("grpcio is lenient here")
    frames, codes = FATAL[case]
    with target.peer() as peer:
        peer.send(frames)
        refused(target, peer, *codes)
    assert target.answers()


@ours
@pytest.mark.parametrize("size", [1 << 14, (1 << 24) - 10], ids=["just over", "the largest"])
def test_a_frame_that_is_too_large_is_refused_before_it_comes(target: Target, size: int) -> None:
    """Only its header is sent: whoever waits for the rest would hold a buffer for it."""
    for kind in (Kind.DATA, Kind.HEADERS, Kind.PING, 77):
        with target.peer() as peer:
            peer.send(OPEN, struct.pack(">I", size + 1)[1:] + struct.pack(">BBI", kind, 0, 1))
            refused(target, peer, Code.FRAME_SIZE_ERROR)


BAD_BLOCKS: dict[str, bytes] = {
    "index 0": b"\x80",
    "an index that is in no table": integer(70, 7, 0x80),
    "an index of 2^40": integer(1 << 40, 7, 0x80),
    "an integer without an end": b"\xff" + b"\x80" * 20 + b"\x01",
    "an integer cut short": b"\xff\x80",
    "a string cut short": b"\x00" + integer(10, 7) + b"abc",
    "a string of 2^60 bytes": b"\x00" + integer(1 << 60, 7) + b"abc",
    "a name's index that is in no table": integer(200, 6, 0x40) + text(b"x"),
    "Huffman: the end of string": b"\x00" + integer(4, 7, 0x80) + b"\xff\xff\xff\xff" + text(b"x"),
    "Huffman: more padding than a byte's": b"\x00" + integer(2, 7, 0x80) + b"\x1f\xff" + text(b"x"),
    "Huffman: padding that is not ones": b"\x00" + integer(1, 7, 0x80) + b"\x18" + text(b"x"),
    "a larger table than allowed": integer(1 << 16, 5, 0x20) + encode(HEAD),
    "a table's size after a field": encode(HEAD) + integer(0, 5, 0x20),
    "random bytes": bytes(range(200, 256)),
}


@both
@pytest.mark.parametrize("case", BAD_BLOCKS)
def test_a_block_that_is_no_hpack_ends_the_connection(target: Target, case: str) -> None:
    """The two sides' tables differ from there on: RFC 9113, 4.3."""
    if target.name == "grpcio" and (case.startswith("Huffman") or "after a field" in case):
        pytest.skip("grpcio lets this pass")
    with target.peer() as peer:
        peer.send(headers(1, BAD_BLOCKS[case], end=True))
        refused(target, peer, Code.COMPRESSION_ERROR)
    with target.peer() as peer:  # trailers too
        peer.send(OPEN, headers(1, BAD_BLOCKS[case], end=True))
        refused(target, peer, Code.COMPRESSION_ERROR)


# --- what ends one stream ---------------------------------------------------------------------------------------

STREAM_ERRORS: dict[str, tuple[bytes, tuple[Code, ...]]] = {
    "WINDOW_UPDATE of zero": (OPEN + window_update(1, 0), (Code.PROTOCOL_ERROR,)),
    "a window over 2^31-1": (OPEN + window_update(1, LARGEST_WINDOW), (Code.FLOW_CONTROL_ERROR,)),
    "a second header list without an end": (OPEN + headers(1, [(b"a", b"b")]), (Code.PROTOCOL_ERROR,)),
    "trailers with a pseudo-header": (OPEN + headers(1, [(b":path", b"/a")], end=True), (Code.PROTOCOL_ERROR,)),
    "more bytes than content-length": (
        headers(1, request(HEALTH, (b"content-length", b"5"))) + data(1, prefixed(b"\x0a\x00"), end=True),
        (Code.PROTOCOL_ERROR,),
    ),
    "fewer bytes than content-length": (
        headers(1, request(HEALTH, (b"content-length", b"6"))) + data(1, bytes(5), end=True),
        (Code.PROTOCOL_ERROR,),
    ),
}


@ours
@pytest.mark.parametrize("case", STREAM_ERRORS)
def test_what_ends_a_stream(target: Target, case: str) -> None:
    frames, codes = STREAM_ERRORS[case]
    with target.peer() as peer:
        peer.send(frames)
        found = peer.outcome(1)
        assert isinstance(found, Reset | Ended), found
        assert found.code in codes
        if isinstance(found, Reset):
            assert healthy(peer, 3)


@ours
@pytest.mark.parametrize("late", [data(1, b"late"), headers(1, [(b"a", b"b")], end=True)], ids=["DATA", "HEADERS"])
def test_frames_after_the_end_of_the_clients_side(target: Target, late: bytes) -> None:
    """STREAM_CLOSED, whether the server still answers or is done."""
    with target.peer(grant=False) as peer:
        peer.open_window(0, 1 << 20)
        peer.call(1, GET, features(10_000))
        peer.send(late)  # the answer is larger than the stream's window, so the stream still is
        found = peer.outcome(1)
        assert isinstance(found, Reset | Ended), found
        assert found.code == Code.STREAM_CLOSED
    with target.peer() as peer:
        peer.call(1, HEALTH, b"")
        peer.answer(1)
        peer.send(late)
        ended = not peer.alive()
        assert peer.goaway == Code.STREAM_CLOSED if ended else peer.streams[1].code in (None, Code.STREAM_CLOSED)


@both
def test_frames_of_a_stream_that_the_client_has_reset_end_nothing_else(target: Target) -> None:
    with target.peer() as peer:
        peer.send(headers(1, HEAD), reset(1))
        assert healthy(peer, 3)
        peer.send(window_update(1, 5), reset(1), frame(Kind.PRIORITY, 0, 1, bytes(4) + b"\x10"))
        assert healthy(peer, 5)


MALFORMED: dict[str, list[Header]] = {
    "an uppercase name": [*HEAD, (b"X-Upper", b"a")],
    "connection": [*HEAD, (b"connection", b"close")],
    "keep-alive": [*HEAD, (b"keep-alive", b"5")],
    "proxy-connection": [*HEAD, (b"proxy-connection", b"close")],
    "transfer-encoding": [*HEAD, (b"transfer-encoding", b"chunked")],
    "upgrade": [*HEAD, (b"upgrade", b"h2c")],
    "te that is not trailers": [*(field for field in HEAD if field[0] != b"te"), (b"te", b"gzip")],
    "no method": HEAD[1:],
    "no scheme": [HEAD[0], *HEAD[2:]],
    "no path": [*HEAD[:2], *HEAD[3:]],
    "an empty path": [*HEAD[:2], (b":path", b""), *HEAD[3:]],
    "two paths": [*HEAD[:3], (b":path", b"/b"), *HEAD[3:]],
    "two methods": [HEAD[0], *HEAD],
    "a pseudo-header after a header": [*HEAD[:3], *HEAD[4:], HEAD[3]],
    "an unknown pseudo-header": [(b":protocol-x", b"a"), *HEAD],
    "a response's pseudo-header": [(b":status", b"200"), *HEAD],
    "an empty name": [*HEAD, (b"", b"a")],
    "a space in a name": [*HEAD, (b"a b", b"c")],
    "a colon in a name": [*HEAD, (b"a:b", b"c")],
    "a NUL in a name": [*HEAD, (b"a\0b", b"c")],
    "a byte over 0x7f in a name": [*HEAD, (b"a\xffb", b"c")],
    "a line feed in a value": [*HEAD, (b"a", b"b\nc: d")],
    "a carriage return in a value": [*HEAD, (b"a", b"b\rc")],
    "a NUL in a value": [*HEAD, (b"a", b"b\0c")],
    "a value that begins with a space": [*HEAD, (b"a", b" b")],
    "a value that ends with a tab": [*HEAD, (b"a", b"b\t")],
    "a content-length that is no number": [*HEAD, (b"content-length", b"-1")],
    "two lengths": [*HEAD, (b"content-length", b"6"), (b"content-length", b"5")],
}


@ours
@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_and_nothing_else(target: Target, case: str) -> None:
    """RFC 9113, 8.1.1: a stream error of PROTOCOL_ERROR, before which a server may answer (400)."""
    with target.peer() as peer:
        peer.send(headers(1, MALFORMED[case]), data(1, prefixed(b""), end=True))
        found = peer.outcome(1)
        if isinstance(found, Answer):
            assert found.http_status == 400
        else:
            assert found == Reset(code=Code.PROTOCOL_ERROR)
        assert healthy(peer, 3)


# --- what is lawful, if seldom ----------------------------------------------------------------------------------

LAWFUL: dict[str, bytes] = {
    "an unknown frame of the connection": frame(0x42, 0xFF, 0, b"who knows") + CALL,
    "an unknown frame of an idle stream": frame(0x42, 0xFF, 9, b"who knows") + CALL,
    "an unknown frame of an open stream": OPEN + frame(0x42, 0xFF, 1, b"?") + data(1, prefixed(b""), end=True),
    "unknown flags": frame(Kind.HEADERS, 0x4 | 0x42, 1, encode(HEAD)) + frame(0, 1 | 0x42, 1, prefixed(b"")),
    "the reserved bit": frame(Kind.HEADERS, 4, 1 | 1 << 31, encode(HEAD)) + frame(0, 1, 1 | 1 << 31, prefixed(b"")),
    "the reserved bit of a window update": window_update(0, 1 | 1 << 31) + CALL,
    "unknown settings": settings({0x99: 7, 0xFFFF: 0xFFFFFFFF}) + CALL,
    "a setting said twice": settings([(4, 0), (4, 65_535), (2, 1), (2, 0)]) + CALL,
    "no settings": settings() + CALL,
    "an acknowledgement of nothing": settings(ack=True) + CALL,
    "a pong that nobody asked for": ping(ack=True) + CALL,
    "priority of an idle stream": frame(Kind.PRIORITY, 0, 9, struct.pack(">IB", 3, 200)) + CALL,
    "HEADERS with priority": frame(Kind.HEADERS, 4 | PRIORITY_GIVEN, 1, struct.pack(">IB", 1 << 31, 16) + encode(HEAD))
    + data(1, prefixed(b""), end=True),
    "padding everywhere": frame(Kind.HEADERS, 4 | PADDED, 1, b"\x07" + encode(HEAD) + bytes(7))
    + data(1, prefixed(b"")[:2], pad=0)
    + data(1, prefixed(b"")[2:], pad=255, end=True),
    "padding and nothing else": OPEN + data(1, b"", pad=10) + data(1, prefixed(b""), end=True),
    "padding and priority": frame(
        Kind.HEADERS, 4 | PADDED | PRIORITY_GIVEN, 1, b"\x02" + struct.pack(">IB", 0, 16) + encode(HEAD) + bytes(2)
    )
    + data(1, prefixed(b""), end=True),
    "a header block in many pieces": split_headers(1, encode(HEAD), 25) + data(1, prefixed(b""), end=True),
    "a header block whose first piece is empty": headers(1, b"", flags=0)
    + continuation(1, encode(HEAD), end_headers=True)
    + data(1, prefixed(b""), end=True),
    "END_STREAM before the block's end": headers(1, encode(HEAD)[:9], flags=0)
    + continuation(1, encode(HEAD)[9:], end_headers=True)
    + data(1, prefixed(b""))
    + data(1, b"", end=True),
    "trailers": OPEN + data(1, prefixed(b"")) + headers(1, [(b"x-trailer", b"1")], end=True),
    "a message in single bytes": OPEN + b"".join(data(1, bytes(1)) for _ in range(5)) + data(1, b"", end=True),
    "empty DATA": OPEN + data(1, b"") * 3 + data(1, prefixed(b"")) + data(1, b"", end=True),
    "content-length": headers(1, request(HEALTH, (b"content-length", b"5"))) + data(1, prefixed(b""), end=True),
    "a goodbye while a call runs": OPEN + goaway(0, Code.NO_ERROR, b"bye") + data(1, prefixed(b""), end=True),
    "literals never to be indexed": headers(1, b"".join(b"\x10" + text(name) + text(value) for name, value in HEAD))
    + data(1, prefixed(b""), end=True),
    "the table's size, twice": headers(1, integer(0, 5, 0x20) + integer(4096, 5, 0x20) + encode(HEAD))
    + data(1, prefixed(b""), end=True),
    "values with tabs and bytes over 0x7f": headers(1, request(HEALTH, (b"x-a", b"a\tb\xc3\xa9")))
    + data(1, prefixed(b""), end=True),
}
REFUSED_BY_GRPCIO = {
    "unknown flags",
    "an acknowledgement of nothing",
    "padding everywhere",
    "padding and nothing else",
    "padding and priority",
    "a goodbye while a call runs",
    "values with tabs and bytes over 0x7f",
}


@both
@pytest.mark.parametrize("case", LAWFUL)
def test_what_is_lawful_is_answered(target: Target, case: str) -> None:
    if target.name == "grpcio" and case in REFUSED_BY_GRPCIO:
        pytest.skip("grpcio refuses this")
    with target.peer() as peer:
        peer.send(LAWFUL[case])
        assert peer.answer(1).messages == [b"\x08\x01"]


@both
def test_stream_numbers_may_have_gaps_up_to_the_last(target: Target) -> None:
    with target.peer() as peer:
        for stream in (1, 3, 101, 100_001, LARGEST_WINDOW):
            assert healthy(peer, stream)


@both
def test_an_encoder_with_tables_and_huffman_is_understood_over_many_calls(target: Target) -> None:
    """With fields that push each other out, and the table made smaller and larger."""
    encoder = Encoder()
    with target.peer() as peer:
        for i in range(60):
            if i % 20 == 10:
                encoder.header_table_size = (0, 200, 4096)[i // 20]
            fields = request(HEALTH, *((b"x-%d" % (i % 7), b"value-%d" % (j % 3) * 20) for j in range(6)))
            peer.send(headers(2 * i + 1, encoder.encode(fields, huffman=i % 2 == 0)))
            peer.send(data(2 * i + 1, prefixed(b""), end=True))
            assert peer.answer(2 * i + 1).grpc_status == 0


@both
@pytest.mark.parametrize("size", [0, 64, 1 << 20])
def test_the_servers_encoder_keeps_to_the_clients_table(target: Target, size: int) -> None:
    """What it sends decodes with a table of the size that was allowed: the peer's decoder sees to that."""
    with target.peer({Setting.HEADER_TABLE_SIZE: size}) as peer:
        for i in range(5):
            assert healthy(peer, 2 * i + 1)
        peer.call(11, "/no.Such/Method", b"")
        assert peer.answer(11).grpc_status == 12


@ours
def test_a_refused_block_still_counts_for_the_table(target: Target) -> None:
    """A request that is refused for its size or form has changed the table like any other."""
    encoder = Encoder()
    with target.peer() as peer:
        large = request(HEALTH, *((b"x-large-%d" % i, b"v" * 2000) for i in range(30)), (b"x-last", b"kept"))
        block = encoder.encode(large, huffman=False)
        peer.send(split_headers(1, block, 16_000))
        found = peer.outcome(1)
        if isinstance(found, Ended):
            assert found.code == Code.ENHANCE_YOUR_CALM
            return
        peer.send(headers(3, encoder.encode([(b"X-Upper", b"malformed"), (b"x-indexed", b"yes"), *HEAD])))
        assert not isinstance(peer.outcome(3), Ended)
        fields = request(HEALTH, (b"x-last", b"kept"), (b"x-indexed", b"yes"))
        peer.send(headers(5, encoder.encode(fields)), data(5, prefixed(b""), end=True))
        assert peer.answer(5).grpc_status == 0


# --- flow control -----------------------------------------------------------------------------------------------


@both
def test_an_answer_trickles_through_a_tiny_window(target: Target) -> None:
    with target.peer({Setting.INITIAL_WINDOW_SIZE: 0}, grant=False) as peer:
        peer.call(1, GET, features(2))
        steps = 0
        while 1 not in peer.streams or not peer.streams[1].ended:
            if 1 in peer.streams and len(peer.streams[1].body) == steps and peer.streams[1].lists:
                peer.open_window(1, 1)
                steps += 1
            assert peer.receive() is not None
        answer = peer.answer(1)
        assert steps >= len(answer.body) > 40
        (message,) = answer.messages
    with target.peer() as peer:
        peer.call(1, GET, features(2))
        assert peer.answer(1).messages == [message]


@both
def test_a_stream_without_a_window_holds_up_no_other(target: Target) -> None:
    with target.peer({Setting.INITIAL_WINDOW_SIZE: 10}, grant=False) as peer:
        for i in range(20):
            peer.call(2 * i + 1, GET, features(50))
        assert healthy(peer, 99)
        for i in range(20):
            peer.open_window(2 * i + 1, 1 << 16)
        for i in range(20):
            assert len(peer.answer(2 * i + 1).messages) == 1


@both
def test_the_connections_window_bounds_all_streams(target: Target) -> None:
    """Large windows of the streams and the smallest of the connection: the peer counts every byte."""
    with target.peer({Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}, grant=False) as peer:
        for stream in (1, 3, 5):
            peer.call(stream, GET, features(5_000))
        while peer.window:
            assert peer.receive() is not None
        assert peer.alive()
        assert not any(known.ended for known in peer.streams.values())
        peer.open_window(0, 1 << 20)
        answers = [peer.answer(stream) for stream in (1, 3, 5)]
        assert len({answer.body for answer in answers}) == 1
        assert len(answers[0].messages) == 1


@both
def test_a_window_that_becomes_negative_is_waited_for(target: Target) -> None:
    """RFC 9113, 6.9.2."""
    with target.peer(grant=False) as peer:
        peer.open_window(0, 1 << 24)
        peer.call(1, GET, features(10_000))
        while peer.streams[1].window if 1 in peer.streams else True:
            assert peer.receive() is not None
        peer.set_window(0)
        assert peer.streams[1].window == -65_535
        peer.open_window(1, 65_535)
        assert peer.alive()
        assert peer.streams[1].window == 0
        peer.open_window(1, 100)
        while peer.streams[1].window:
            assert peer.receive() is not None
        peer.set_window(1 << 20)
        assert len(peer.answer(1).messages) == 1


@ours
def test_settings_that_overflow_a_streams_window(target: Target) -> None:
    with target.peer() as peer:
        peer.send(OPEN, window_update(1, LARGEST_WINDOW - 65_535), settings({Setting.INITIAL_WINDOW_SIZE: 65_536}))
        refused(target, peer, Code.FLOW_CONTROL_ERROR)


@both
def test_frames_are_no_larger_than_the_client_allows(target: Target) -> None:
    for most in (16_384, 20_000, 1 << 20):
        with target.peer({Setting.MAX_FRAME_SIZE: most, Setting.INITIAL_WINDOW_SIZE: 1 << 24}) as peer:
            peer.call(1, GET, features(10_000))
            assert len(peer.answer(1).messages) == 1


@both
def test_a_large_request_is_let_in(target: Target) -> None:
    """The peer keeps to the windows that the server gives."""
    message = features(1_000) + b"\xfa\x07" + integer_field(3_000_000)  # a field that nobody knows
    with target.peer() as peer:
        peer.send(headers(1, request(GET)))
        assert peer.upload(1, prefixed(message))
        assert len(peer.answer(1).messages) == 1


@ours
def test_more_than_the_window_is_refused(target: Target) -> None:
    """Unless the server has opened the window as fast as it was used up."""
    with target.peer() as peer:
        peer.send(headers(1, request(GET)))
        window = peer.theirs.get(Setting.INITIAL_WINDOW_SIZE, 65_535)
        burst = min(window, 65_535 + peer.credit.get(0, 0)) + (1 << 20)
        sent = 0
        body = prefixed(bytes(burst))
        while sent < burst and peer.send(data(1, body[sent : sent + 16_384])):
            sent += 16_384
        if peer.heard() and not peer.over(1):
            assert peer.credit.get(1, 0) + window >= sent, "more than the window was taken without a word"
            assert peer.credit.get(0, 0) + 65_535 >= sent
        else:
            found = peer.outcome(1)
            assert isinstance(found, Reset | Ended)
            assert found.code == Code.FLOW_CONTROL_ERROR


@both
def test_what_comes_for_closed_streams_is_given_back_to_the_connection(target: Target) -> None:
    """Else a client that cancels uploads would find the connection's window gone."""
    with target.peer() as peer:
        used = 0
        for i in range(40):
            stream = 2 * i + 1
            peer.send(headers(stream, request(GET)), data(stream, prefixed(bytes(9_000))[:9_000]), reset(stream))
            used += 9_000
            assert peer.alive()
            assert 65_535 + peer.credit.get(0, 0) > used, "the connection's window is not opened again"
        assert healthy(peer, 99)


def integer_field(size: int) -> bytes:
    """A length-delimited field's length and so many bytes."""
    out, rest = bytearray(), size
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((*out, rest)) + bytes(size)
