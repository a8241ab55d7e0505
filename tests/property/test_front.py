"""The front's parts by themselves: header blocks, bodies, and what is sent through windows of any size."""

from __future__ import annotations

import gzip
import struct
from typing import Any

import grpc
import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from serving.front.bodies import Refused, check_started, one_message, taken_messages
from serving.front.call import Call
from serving.front.frames import DEFAULT_WINDOW, FRAME_HEADER, MAX_FRAME_BYTES, ErrorCode, Fault, Flag, Kind
from serving.front.headers import Head, Heads, trailers_block
from serving.front.sender import Sender

PSEUDO = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.S/M"), (b":authority", b"x")]
GRPC = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
LISTS = st.lists(
    st.tuples(
        st.sampled_from([b"a", b"hedgerow-purpose", b"authorization"]),
        st.sampled_from([b"", b"1", b"a longer value that may be indexed", b"x" * 2_000]),
    ),
    max_size=6,
)


class TestHeads:
    @given(st.lists(st.tuples(LISTS, st.booleans(), st.sampled_from([None, 0, 64, 4096])), max_size=30))
    def test_a_block_means_what_it_says_however_often_it_came_before(
        self, calls: list[tuple[list[tuple[bytes, bytes]], bool, int | None]]
    ) -> None:
        """The encoder's table changes as it likes: by additions, evictions and new sizes."""
        encoder, heads = Encoder(), Heads({})
        for fields, huffman, size in calls:
            if size is not None:
                encoder.header_table_size = size
            head = heads.read(encoder.encode([*PSEUDO, *GRPC, *fields], huffman=huffman))
            assert head.path == "/a.S/M"
            assert [(key.encode(), value.encode()) for key, value in head.metadata if isinstance(value, str)] == fields

    @given(st.lists(st.tuples(st.sampled_from(["add", "use", "shrink"]), st.integers(0, 3)), max_size=40))
    def test_the_same_bytes_mean_something_else_after_the_table_has_changed(self, steps: list[tuple[str, int]]) -> None:
        """Against a model of the table; every block but the index in it is the same."""
        heads, table = Heads({}), list[bytes]()
        plain = b"".join(b"\0" + bytes((len(n),)) + n + bytes((len(v),)) + v for n, v in [*PSEUDO, *GRPC])
        for kind, which in steps:
            value = b"%d" % which
            if kind == "add":
                head = heads.read(plain + b"\x40\1a\1" + value)
                table.insert(0, value)
            elif kind == "shrink":
                heads.read(b"\x20\x3f\xe1\x1f" + plain)  # to nothing, and to 4,096 bytes again
                table.clear()
                continue
            elif which < len(table):
                head, value = heads.read(plain + bytes((0x80 | 62 + which,))), table[which]
            else:
                continue
            assert head.metadata == (("a", value.decode()),)

    def test_what_was_said_before_is_not_decoded_again(self) -> None:
        encoder, heads = Encoder(), Heads({})
        heads.read(encoder.encode([*PSEUDO, *GRPC]))
        block = encoder.encode([*PSEUDO, *GRPC])
        assert heads.read(block) is heads.read(block)

    @pytest.mark.parametrize(
        "fields",
        [
            [*PSEUDO[1:], *GRPC],
            [*PSEUDO, PSEUDO[0], *GRPC],
            [*GRPC, *PSEUDO],
            [*PSEUDO, (b":status", b"200"), *GRPC],
            [*PSEUDO, *GRPC, (b"Upper", b"1")],
            [*PSEUDO, *GRPC, (b"connection", b"close")],
            [*PSEUDO, *GRPC, (b"te", b"gzip")],
            [*PSEUDO, *GRPC, (b"a", b" 1")],
            [*PSEUDO, *GRPC, (b"a", b"1\r\n2")],
            [*PSEUDO, *GRPC, (b"content-length", b"1"), (b"content-length", b"2")],
            [*PSEUDO[:2], (b":path", b""), *GRPC],
        ],
    )
    def test_malformed_requests_are_refused(self, fields: list[tuple[bytes, bytes]]) -> None:
        with pytest.raises(ValueError, match=r"malformed|missing"):
            Heads({}).read(Encoder().encode(fields))

    @given(st.binary(max_size=200))
    def test_any_bytes_are_headers_or_a_fault(self, block: bytes) -> None:
        fault = None
        try:
            Heads({}).read(block)
        except ValueError:
            pass
        except Fault as caught:
            fault = caught.code
        assert fault in (None, ErrorCode.COMPRESSION_ERROR)

    @given(st.text(max_size=60), st.dictionaries(st.sampled_from(["a", "b-bin"]), st.binary(max_size=30), max_size=2))
    def test_trailers_are_read_as_they_were_written(self, message: str, metadata: dict[str, bytes]) -> None:
        from base64 import b64decode
        from urllib.parse import unquote

        from hpack import Decoder

        pairs = [(key, value if key.endswith("-bin") else value.hex()) for key, value in metadata.items()]
        read = Decoder().decode(trailers_block(5, message, pairs, only=False))
        found = {str(name): str(value) for name, value in read}
        assert found["grpc-status"] == "5"
        assert unquote(found.get("grpc-message", "")) == message.encode("utf-8", "replace").decode()
        for key, value in pairs:
            told = found[key]
            assert value == (b64decode(told + "=" * (-len(told) % 4)) if key.endswith("-bin") else told)


def framed(message: bytes, *, compressed: int = 0) -> bytes:
    return struct.pack(">BL", compressed, len(message)) + message


class TestBodies:
    @given(st.binary(max_size=300))
    def test_a_message_is_taken_out(self, message: bytes) -> None:
        assert one_message(framed(message), "identity", 300) == message
        assert one_message(framed(gzip.compress(message), compressed=1), "gzip", 400) == message

    @given(st.lists(st.binary(max_size=50), max_size=8), st.lists(st.integers(0, 60), max_size=20))
    def test_messages_come_out_whole_however_the_body_is_cut(self, messages: list[bytes], cuts: list[int]) -> None:
        whole, body = b"".join(map(framed, messages)), bytearray()
        taken: list[bytes] = []
        for cut in [*cuts, len(whole)]:
            body += whole[:cut]
            whole = whole[cut:]
            taken += taken_messages(body, "identity", 50)
        assert taken == messages
        assert not body

    @pytest.mark.parametrize(
        ("body", "encoding", "code"),
        [
            (b"", "identity", grpc.StatusCode.INVALID_ARGUMENT),
            (b"\0\0", "identity", grpc.StatusCode.INVALID_ARGUMENT),
            (framed(b"12")[:-1], "identity", grpc.StatusCode.INVALID_ARGUMENT),
            (framed(b"12") + framed(b""), "identity", grpc.StatusCode.UNIMPLEMENTED),
            (framed(bytes(101)), "identity", grpc.StatusCode.RESOURCE_EXHAUSTED),
            (struct.pack(">BL", 0, 2**32 - 1), "identity", grpc.StatusCode.RESOURCE_EXHAUSTED),
            (framed(b"12", compressed=1), "identity", grpc.StatusCode.INVALID_ARGUMENT),
            (framed(b"12", compressed=1), "gzip", grpc.StatusCode.INVALID_ARGUMENT),
            (framed(b"12", compressed=2), "gzip", grpc.StatusCode.INVALID_ARGUMENT),
            (framed(gzip.compress(bytes(101), mtime=0), compressed=1), "gzip", grpc.StatusCode.RESOURCE_EXHAUSTED),
            (framed(gzip.compress(b"1", mtime=0) + b"2", compressed=1), "gzip", grpc.StatusCode.INVALID_ARGUMENT),
            (framed(gzip.compress(b"1", mtime=0)[:-2], compressed=1), "gzip", grpc.StatusCode.INVALID_ARGUMENT),
        ],
        ids=range(12),
    )
    def test_what_is_no_message_has_its_status(self, body: bytes, encoding: str, code: grpc.StatusCode) -> None:
        with pytest.raises(Refused) as caught:
            one_message(body, encoding, 100)
        assert caught.value.code is code

    def test_a_body_that_will_be_too_large_is_known_by_its_first_bytes(self) -> None:
        check_started(b"\0\0\0", 100)
        check_started(framed(bytes(100)), 100)
        with pytest.raises(Refused):
            check_started(struct.pack(">BL", 0, 101), 100)


class Peer:
    """A connection that only sends, and the one that reads it with windows of its own."""

    def __init__(self, window: int) -> None:
        self.written = bytearray()
        self.over: list[Call] = []
        self.held = 0
        self.sender = Sender(self.written.__iadd__, self.gone, self.hold, lambda _: True, lambda _: None)  # type: ignore[arg-type]
        self.calls = [Call(self, stream, HEAD, window, 0) for stream in (1, 3, 5)]  # type: ignore[arg-type]
        for call in self.calls:
            call.remote_ended = True

    def hold(self, size: int) -> None:
        self.held += size
        assert self.held >= 0

    def gone(self, call: Call) -> None:
        self.over.append(call)
        self.sender.cut(call)

    def frames(self) -> list[tuple[int, int, int, bytes]]:
        self.sender.flush()
        found, at = [], 0
        while at < len(self.written):
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(self.written, at)
            end = at + 9 + (high << 8 | low)
            found.append((kind, flags, stream, bytes(self.written[at + 9 : end])))
            at = end
        assert at == len(self.written)
        return found


HEAD: Any = Head(method=None, path="/", timeout_seconds=None, encoding="identity", metadata=(), length=-1, size=0)


class TestSender:
    @given(
        st.integers(0, 70_000),
        st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40_000)), max_size=8),
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50_000)), max_size=30),
    )
    def test_windows_are_kept_and_everything_comes_in_order(
        self, window: int, parts: list[tuple[int, int]], updates: list[tuple[int, int]]
    ) -> None:
        peer = Peer(window)
        allowed = {0: DEFAULT_WINDOW, **{call.stream: window for call in peer.calls}}
        wanted: dict[int, bytes] = {call.stream: b"" for call in peer.calls}
        for i, (which, size) in enumerate(parts):
            message = bytes((i,)) * size
            peer.sender.part(peer.calls[which], message)
            wanted[peer.calls[which].stream] += framed(message)
        for call in peer.calls:
            peer.sender.end(call, grpc.StatusCode.OK, "", ())
        for which, increment in [*updates, *((i, 1 << 21) for i in range(4))]:
            widened = peer.calls[which - 1] if which else None
            allowed[0 if widened is None else widened.stream] += increment
            if widened not in peer.over:
                peer.sender.opened(increment, widened)
            peer.sender.pump()
            sent = peer.frames()
            for stream, most in allowed.items():
                taken = sum(len(data) for kind, _, of, data in sent if kind == Kind.DATA and stream in (0, of))
                assert taken <= most
        assert sorted(call.stream for call in peer.over) == [1, 3, 5]
        assert peer.held == 0
        for call in peer.calls:
            own = [(kind, flags, data) for kind, flags, stream, data in peer.frames() if stream == call.stream]
            assert b"".join(data for kind, _, data in own if kind == Kind.DATA) == wanted[call.stream]
            assert own[-1][0] == Kind.HEADERS
            assert own[-1][1] & Flag.END_STREAM
            assert all(len(data) <= MAX_FRAME_BYTES for _, _, data in own)

    def test_an_answer_in_one_piece_is_the_same_as_one_in_parts(self) -> None:
        whole, parts = Peer(1_000), Peer(1_000)
        whole.sender.answer(whole.calls[0], b"message")
        parts.sender.part(parts.calls[0], b"message")
        parts.sender.end(parts.calls[0], grpc.StatusCode.OK, "", ())
        assert whole.frames() == parts.frames()
