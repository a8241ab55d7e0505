"""What gRPC's protocol (PROTOCOL-HTTP2.md) asks of a server, said by a peer that is written by hand."""

from __future__ import annotations

import base64
import gzip
import struct
import time
import zlib
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import pytest

from governance.errors import RequestInvalid
from serving.client import Client
from serving.limits import MAX_MESSAGE_BYTES
from serving.problems import decode_details
from serving.v1 import features_pb2
from tests.support.fronts import UNHURRIED
from tests.support.http2 import (
    Answer,
    Code,
    Ended,
    Header,
    Reset,
    Setting,
    body,
    data,
    encode,
    headers,
    prefixed,
    request,
    reset,
    split_headers,
)
from tests.support.http2_servers import (
    GET,
    HEALTH,
    REFLECTION,
    STREAM,
    WATCH,
    Target,
    features,
    grpcio_before,
    process,
)
from tests.support.serving import served_items

OK, INVALID, DEADLINE, NOT_FOUND, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 5, 8, 12, 13
SERVING = b"\x08\x01"
ours = pytest.mark.parametrize("target", ["ours"], indirect=True)
both = pytest.mark.parametrize("target", ["ours", "grpcio"], indirect=True)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    settings = served_items(tmp_path_factory.mktemp("calls"), rows=20_000, dimension=8)
    with process(settings.root, UNHURRIED) as ours, grpcio_before(ours) as grpcio:
        yield {"ours": ours, "grpcio": grpcio}


@pytest.fixture
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Target:
    found: Target = targets[request.param]
    return found


def asked(target: Target, payload: bytes | None, *extra: Header, path: str = HEALTH, **how: bytes) -> Answer | Reset:
    """What becomes of one call with these headers and this body; the connection must live on."""
    with target.peer() as peer:
        fields = request(path, *extra)
        fields = [(name, how.get(name.decode().replace("-", "_"), value)) for name, value in fields]
        fields = [field for field in fields if field[1] != b""]
        peer.send(headers(1, fields, end=payload is None), b"" if payload is None else body(1, payload))
        found = peer.outcome(1)
        assert not isinstance(found, Ended), found
        peer.call(3, HEALTH, b"")
        assert peer.answer(3).messages == [SERVING]
        return found


def status(found: Answer | Reset) -> int | None:
    assert isinstance(found, Answer), found
    assert found.http_status == 200
    return found.grpc_status


# --- the form of answers ----------------------------------------------------------------------------------------


@both
def test_an_answer_has_headers_one_message_and_trailers(target: Target) -> None:
    found = asked(target, prefixed(b""))
    assert isinstance(found, Answer)
    assert found.messages == [SERVING]
    assert dict(found.headers)[b"content-type"].startswith(b"application/grpc")
    assert b"grpc-status" not in dict(found.headers)
    assert dict(found.trailers)[b"grpc-status"] == b"0"


@ours
def test_a_refusal_is_trailers_only_with_details(target: Target) -> None:
    unknown = features_pb2.GetFeaturesRequest(feature_service="abc")
    unknown.keys.add(name="item_id").int64s.values.append(1)
    found = asked(target, prefixed(unknown.SerializeToString()), path=GET)
    assert isinstance(found, Answer)
    assert not found.body
    assert not found.trailers
    assert found.grpc_status == NOT_FOUND
    fields = dict(found.trailers or found.headers)
    assert b"grpc-status-details-bin" in fields
    raw = fields[b"grpc-status-details-bin"]
    assert base64.b64decode(raw + b"=" * (-len(raw) % 4)).startswith(b"\x08\x05")


@both
@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8"])
def test_content_types_of_grpc(target: Target, kind: bytes) -> None:
    assert status(asked(target, prefixed(b""), content_type=kind)) == OK


@ours
@pytest.mark.parametrize("kind", [b"", b"text/plain", b"application/json", b"application/grpcx"])
def test_other_content_types_are_told_by_http(target: Target, kind: bytes) -> None:
    found = asked(target, prefixed(b""), content_type=kind)
    assert isinstance(found, Answer)
    assert found.http_status == 415


@ours
@pytest.mark.parametrize("method", [b"GET", b"PUT", b"OPTIONS", b"CONNECT", b"BREW"])
def test_other_methods_of_http_are_refused(target: Target, method: bytes) -> None:
    with target.peer() as peer:
        peer.send(headers(1, request(HEALTH, method=method), end=True))
        found = peer.outcome(1)
        assert found == Reset(code=Code.PROTOCOL_ERROR) or (isinstance(found, Answer) and found.http_status == 405)
        assert peer.alive()


@both
@pytest.mark.parametrize(
    "path",
    [
        "/no.Such/Method",
        "/grpc.health.v1.Health/Nothing",
        "/",
        "//",
        "/a",
        "/a/b/c",
        "no-slash",
        "*",
        "/%00/x",
        "/" + "x" * 4000,
        GET + "/",
        GET.lower(),
        GET + "?a=b",
    ],
)
def test_what_is_not_served_is_unimplemented(target: Target, path: str) -> None:
    if target.name == "grpcio" and path in ("no-slash", "*"):
        pytest.skip("grpcio resets these")
    assert status(asked(target, prefixed(b""), path=path)) == UNIMPLEMENTED


@ours
def test_messages_of_refusals_are_percent_encoded(target: Target) -> None:
    wrong = features_pb2.GetFeaturesRequest(feature_service="no\u00e9 100% \n\u6f22\U0001f33f")
    wrong.keys.add(name="item_id").int64s.values.append(1)
    found = asked(target, prefixed(wrong.SerializeToString()), path=GET)
    assert isinstance(found, Answer)
    raw = dict(found.trailers or found.headers)[b"grpc-message"]
    assert all(0x20 <= byte <= 0x7E for byte in raw)
    unquote_to_bytes(raw).decode()


# --- metadata ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("value", [b"AAEC", b"AAECAw==", b"AAECAw", b"", b"AAEC,AwQF", b"/+8="])
def test_binary_metadata_in_every_form(target: Target, value: bytes) -> None:
    if target.name == "grpcio" and b"," in value:
        pytest.skip("grpcio does not take several values in one field")
    assert status(asked(target, prefixed(b""), (b"x-trace-bin", value))) == OK


@ours
@pytest.mark.parametrize("value", [b"A", b"!!!!", b"AAAA====="])
def test_binary_metadata_that_is_no_base64(target: Target, value: bytes) -> None:
    assert status(asked(target, prefixed(b""), (b"x-trace-bin", value))) in (OK, INVALID)


@both
def test_names_may_come_twice_and_be_reserved(target: Target) -> None:
    twice = [(b"x-twice", b"1"), (b"x-twice", b"2"), (b"grpc-unknown", b"x"), (b"grpc-trace-bin", b"AAAA")]
    assert status(asked(target, prefixed(b""), *twice, (b"user-agent", b"by hand"), (b"cookie", b"a=b"))) == OK


@ours
@pytest.mark.parametrize("count", [1, 300], ids=["one large", "many small"])
def test_too_much_metadata(target: Target, count: int) -> None:
    extra = [(b"x-%d" % i, b"v" * (20_000 // count)) for i in range(count)]
    with target.peer() as peer:
        peer.send(split_headers(1, encode(request(HEALTH, *extra)), 16_000) + data(1, prefixed(b""), end=True))
        found = peer.outcome(1)
        if isinstance(found, Answer):
            assert found.grpc_status == EXHAUSTED or found.http_status == 431
        else:
            assert found in (Reset(code=Code.PROTOCOL_ERROR), Reset(code=Code.ENHANCE_YOUR_CALM))
        assert peer.alive()


# --- deadlines and cancelling -----------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    "value", [b"1H", b"99999999H", b"10M", b"10S", b"9000m", b"9000000u", b"99999999n", b"00000001H"]
)
def test_deadlines_in_every_unit(target: Target, value: bytes) -> None:
    assert status(asked(target, prefixed(b""), (b"grpc-timeout", value))) in (
        OK,
        *((DEADLINE,) if b"n" in value else ()),
    )


@ours
@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"-1S", b"1x", b"123456789S", b"1.5S", b"1 S", b"+1S", b"\xb2S", b"1S1S"]
)
def test_deadlines_that_are_none(target: Target, value: bytes) -> None:
    found = asked(target, prefixed(b""), (b"grpc-timeout", value)) if value else asked(target, prefixed(b""))
    assert (isinstance(found, Reset) and found.code == Code.PROTOCOL_ERROR) or status(found) in (OK, INVALID)


@ours
@pytest.mark.parametrize("value", [b"0n", b"1n", b"0S"])
def test_a_deadline_that_has_passed_is_told(target: Target, value: bytes) -> None:
    assert status(asked(target, prefixed(features(3)), (b"grpc-timeout", value), path=GET)) == DEADLINE


@both
def test_a_deadline_ends_a_call_that_goes_on(target: Target) -> None:
    """Also where the client does not say so itself."""
    with target.peer() as peer:
        peer.send(headers(1, request(WATCH, timeout=b"300m")), data(1, prefixed(b""), end=True))
        found = peer.outcome(1)
        if isinstance(found, Reset):
            assert found.code in (Code.CANCEL, Code.NO_ERROR)
        else:
            assert isinstance(found, Answer)
            assert found.grpc_status == DEADLINE
        assert peer.alive()


@ours
def test_a_deadline_ends_a_request_that_never_ends(target: Target) -> None:
    with target.peer() as peer:
        peer.send(headers(1, request(GET, timeout=b"300m")), data(1, prefixed(b"", size=100)))
        found = peer.outcome(1)
        assert isinstance(found, Reset) or status(found) == DEADLINE  # type: ignore[arg-type]


@ours
def test_a_deadline_ends_an_answer_that_is_not_taken(target: Target) -> None:
    with target.peer({Setting.INITIAL_WINDOW_SIZE: 0}, grant=False) as peer:
        peer.send(headers(1, request(GET, timeout=b"500m")), body(1, prefixed(features(1_000))))
        found = peer.outcome(1)
        assert isinstance(found, Reset) or (isinstance(found, Answer) and found.grpc_status == DEADLINE)


@both
def test_cancelled_calls_leave_nothing_behind(target: Target) -> None:
    """Streams that nobody reads, cancelled again and again: more than may run at one time."""
    message = prefixed(features(20_000, stream=True))
    with target.peer({Setting.INITIAL_WINDOW_SIZE: 0}, grant=False) as peer:
        for i in range(60):
            stream = 2 * i + 1
            peer.send(headers(stream, request(STREAM)))
            assert peer.upload(stream, message)
            if i % 3:
                assert peer.alive()
            peer.send(reset(stream))
    for _ in range(200):
        with target.peer() as peer:
            peer.call(1, STREAM, features(2_500, stream=True))
            found = peer.answer(1)
            if found.grpc_status == OK:
                assert len(found.messages) == 3
                break
            time.sleep(0.05)  # what was cancelled last may still be ending
    else:
        pytest.fail("streams that were cancelled are still counted")


@both
def test_a_watch_may_be_cancelled_and_others_go_on(target: Target) -> None:
    told = prefixed(SERVING)
    with target.peer() as peer:
        for i in range(20):
            peer.call(2 * i + 1, WATCH, b"")
        while not all(i in peer.streams and len(peer.streams[i].body) >= len(told) for i in range(1, 41, 2)):
            assert peer.receive() is not None
        for i in range(10):
            peer.send(reset(2 * i + 1))
        peer.call(101, HEALTH, b"")
        assert peer.answer(101).messages == [SERVING]
        for i in range(1, 41, 2):  # what is set again is told again: a status may come twice
            found = bytes(peer.streams[i].body)
            assert found == told * (len(found) // len(told))


# --- messages ---------------------------------------------------------------------------------------------------


@both
def test_a_message_may_be_compressed(target: Target) -> None:
    raw = features(100)
    plain = asked(target, prefixed(raw), path=GET)
    for encoding, packed in ((b"gzip", gzip.compress(raw)), (b"deflate", zlib.compress(raw))):
        found = asked(target, prefixed(packed, compressed=1), (b"grpc-encoding", encoding), path=GET)
        assert isinstance(found, Answer)
        assert isinstance(plain, Answer)
        assert found.messages == plain.messages
        assert status(asked(target, prefixed(raw), (b"grpc-encoding", encoding), path=GET)) == OK  # said, not done
    assert status(asked(target, prefixed(raw), (b"grpc-encoding", b"identity"), path=GET)) == OK


@ours  # grpcio's server answers INTERNAL, where gRPC's compression.md asks for this
def test_an_unknown_compression_is_unimplemented(target: Target) -> None:
    found = asked(target, prefixed(b"xyz", compressed=1), (b"grpc-encoding", b"snappy"))
    assert status(found) == UNIMPLEMENTED
    assert isinstance(found, Answer)
    assert b"gzip" in dict(found.headers)[b"grpc-accept-encoding"]


BAD_MESSAGES: dict[str, tuple[bytes | None, tuple[Header, ...]]] = {
    "none": (None, ()),
    "an empty body": (b"", ()),
    "half a prefix": (b"\0\0\0", ()),
    "a message cut short": (prefixed(b"abc", size=10), ()),
    "two messages": (prefixed(b"") * 2, ()),
    "a byte too many": (prefixed(b"") + b"\0", ()),
    "compressed without an encoding": (prefixed(gzip.compress(b""), compressed=1), ()),
    "compressed, and identity": (prefixed(gzip.compress(b""), compressed=1), ((b"grpc-encoding", b"identity"),)),
    "a flag of 2": (prefixed(b"", compressed=2), ()),
    "gzip that is none": (prefixed(b"not gzip", compressed=1), ((b"grpc-encoding", b"gzip"),)),
    "gzip cut short": (prefixed(gzip.compress(b"x" * 100)[:-9], compressed=1), ((b"grpc-encoding", b"gzip"),)),
    "gzip with a wrong sum": (
        prefixed(gzip.compress(b"")[:-8] + struct.pack("<II", 7, 0), compressed=1),
        ((b"grpc-encoding", b"gzip"),),
    ),
    "gzip and what follows": (prefixed(gzip.compress(b"") + b"more", compressed=1), ((b"grpc-encoding", b"gzip"),)),
    "bytes that are no such message": (prefixed(b"\xff\xff\xff"), ()),
}


@ours
@pytest.mark.parametrize("case", BAD_MESSAGES)
@pytest.mark.parametrize("path", [HEALTH, GET, STREAM])
def test_messages_that_are_none(target: Target, case: str, path: str) -> None:
    payload, extra = BAD_MESSAGES[case]
    found = status(asked(target, payload, *extra, path=path))
    assert found not in (OK, INTERNAL, None)


@both
@pytest.mark.parametrize("size", [MAX_MESSAGE_BYTES + 1, 2**32 - 1])
def test_a_message_that_is_too_large_is_refused_before_it_comes(target: Target, size: int) -> None:
    with target.peer() as peer:
        peer.send(headers(1, request(GET)), data(1, prefixed(b"begun", size=size)))
        assert peer.answer(1).grpc_status == EXHAUSTED
        assert peer.alive()


REFUSED: dict[str, tuple[str, bytes | None, tuple[Header, ...], str]] = {
    "no message": (GET, None, (), "request"),
    "a message cut short": (GET, prefixed(b"abc", size=10), (), "request"),
    "two messages": (GET, prefixed(b"") * 2, (), "request"),
    "a message that is too large": (GET, prefixed(b"begun", size=MAX_MESSAGE_BYTES + 1), (), "request"),
    "gzip that is none": (GET, prefixed(b"not gzip", compressed=1), ((b"grpc-encoding", b"gzip"),), "request"),
    "gzip of too much": (
        GET,
        prefixed(gzip.compress(bytes(2 << 20)), compressed=1),
        ((b"grpc-encoding", b"gzip"),),
        "request",
    ),
    "an encoding that is not supported": (GET, prefixed(b""), ((b"grpc-encoding", b"snappy"),), "metadata"),
    "too much metadata": (GET, prefixed(b""), tuple((b"x-%d" % i, b"v") for i in range(500)), "metadata"),
    "metadata that is no base64": (GET, prefixed(b""), ((b"x-bin", b"!"),), "metadata"),
    "a deadline that is none": (GET, prefixed(b""), ((b"grpc-timeout", b"soon"),), "metadata"),
    "no such method": ("/no.Such/Method", prefixed(b""), (), "method"),
    "no message for health": (HEALTH, b"", (), "request"),
    "bytes that are no message, for health": (HEALTH, prefixed(b"\xff\xff\xff"), (), "request"),
    "a message cut short, for reflection": (REFLECTION, prefixed(b"abc", size=10), (), "request"),
}


@ours
@pytest.mark.parametrize("case", REFUSED)
def test_what_no_handler_has_seen_is_refused_with_details_too(target: Target, case: str) -> None:
    """A google.rpc.BadRequest that says what the message says, so a caller knows that trying again is of no use."""
    path, payload, extra, field = REFUSED[case]
    found = asked(target, payload, *extra, path=path)
    assert isinstance(found, Answer)
    fields = dict(found.trailers or found.headers)
    raw = fields[b"grpc-status-details-bin"]
    ((named, told),) = decode_details(base64.b64decode(raw + b"=" * (-len(raw) % 4))).violations
    assert (named, told) == (field, unquote_to_bytes(fields[b"grpc-message"]).decode())


@ours
def test_a_token_that_is_too_long_is_the_callers_mistake(target: Target) -> None:
    """Not an overload, after which it would be tried again in vain."""
    with (
        Client(target.address, token="x" * 20_000, timeout_seconds=20) as client,
        pytest.raises(RequestInvalid, match=r"found 20,\d+ bytes of metadata, allowed 16,384"),
    ):
        client.get_features(features=["items_v1:users"], entities={"item_id": [1]})


@both
def test_a_compressed_message_that_becomes_too_large_is_refused(target: Target) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert status(asked(target, prefixed(bomb, compressed=1), (b"grpc-encoding", b"gzip"), path=GET)) == EXHAUSTED


@both
def test_a_message_in_frames_of_every_length(target: Target) -> None:
    whole = prefixed(features(7))
    with target.peer() as peer:
        for i, size in enumerate((1, 2, 3, 4, 5, 6, 7, 50)):
            stream = 2 * i + 1
            peer.send(headers(stream, request(GET)))
            for at in range(0, len(whole), size):
                peer.send(data(stream, whole[at : at + size], end=at + size >= len(whole)))
            assert len(peer.answer(stream).messages) == 1


@both
def test_messages_of_a_stream_are_answered_one_by_one(target: Target) -> None:
    if target.name == "grpcio":
        pytest.skip("what is behind it hands on no streams of requests")
    ask = prefixed(b"\x3a\x00")  # list the services
    with target.peer() as peer:
        peer.send(headers(1, request(REFLECTION)))
        for count in range(1, 4):
            peer.send(data(1, ask[:3]), data(1, ask[3:] + ask[:2]), data(1, ask[2:]))
            while 1 not in peer.streams or bytes(peer.streams[1].body).count(b"grpc.health.v1.Health") < 2 * count:
                assert peer.receive() is not None
        peer.send(data(1, b"", end=True))
        answer = peer.answer(1)
        assert len(answer.messages) == 6
        assert answer.grpc_status == OK
