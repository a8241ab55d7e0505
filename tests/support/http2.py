"""An HTTP/2 peer written by hand from RFC 9113, which says frame by frame what a test wants said.

It shares no code with any server: frames and header blocks are written here, and only the reading of a server's header
blocks is left to the `hpack` library. Whatever a test does, the peer holds the server to the protocol: frame sizes,
windows, the order of frames on a stream, header blocks that decode within the table the peer allows.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Any, Final

from hpack import Decoder

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65_535
FRAME_BYTES: Final = 16_384
"""The largest frame that either side may send until told otherwise."""

Header = tuple[bytes, bytes]


class Kind(IntEnum):
    """Types of frames."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Error codes."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """Settings."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


_FRAMES_OF_ANSWERS: Final = frozenset({Kind.DATA, Kind.HEADERS, Kind.CONTINUATION, Kind.RST_STREAM})

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_GIVEN: Final = 0x20


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Any frame, lawful or not."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(values: Mapping[Any, int] | Iterable[tuple[int, int]] = (), *, ack: bool = False) -> bytes:
    pairs = values.items() if isinstance(values, Mapping) else values
    return frame(Kind.SETTINGS, ACK if ack else 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in pairs))


def ping(data: bytes = b"hedgerow", *, ack: bool = False) -> bytes:
    return frame(Kind.PING, ACK if ack else 0, 0, data)


def reset(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream, struct.pack(">I", code))


def window_update(stream: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def goaway(last: int = 0, code: int = Code.NO_ERROR, text: bytes = b"") -> bytes:
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">II", last, code) + text)


def data(stream: int, payload: bytes, *, end: bool = False, pad: int | None = None) -> bytes:
    if pad is not None:
        return frame(Kind.DATA, PADDED | (END_STREAM * end), stream, bytes([pad]) + payload + bytes(pad))
    return frame(Kind.DATA, END_STREAM * end, stream, payload)


def body(stream: int, payload: bytes, *, end: bool = True) -> bytes:
    """DATA in frames as large as any server takes."""
    starts = range(0, max(1, len(payload)), FRAME_BYTES)
    pieces = [payload[at : at + FRAME_BYTES] for at in starts]
    return b"".join(data(stream, piece, end=end and i == len(pieces)) for i, piece in enumerate(pieces, 1))


def headers(stream: int, fields: Iterable[Header] | bytes, *, end: bool = False, flags: int = END_HEADERS) -> bytes:
    """A HEADERS frame of a field list, or of a block that is written already."""
    block = fields if isinstance(fields, bytes) else encode(fields)
    return frame(Kind.HEADERS, flags | (END_STREAM * end), stream, block)


def continuation(stream: int, block: bytes, *, end_headers: bool = False) -> bytes:
    return frame(Kind.CONTINUATION, END_HEADERS * end_headers, stream, block)


def split_headers(stream: int, block: bytes, size: int, *, end: bool = False) -> bytes:
    """A header block in pieces of so many bytes: HEADERS, then CONTINUATION."""
    pieces = [block[at : at + size] for at in range(0, len(block), size)]
    first = headers(stream, pieces[0], end=end, flags=END_HEADERS * (len(pieces) == 1))
    rest = [continuation(stream, piece, end_headers=i == len(pieces)) for i, piece in enumerate(pieces[1:], 2)]
    return first + b"".join(rest)


def encode(fields: Iterable[Header]) -> bytes:
    """A header block of literals, nothing indexed: RFC 7541, 6.2.2."""
    return b"".join(b"\x00" + text(name) + text(value) for name, value in fields)


def text(value: bytes) -> bytes:
    """A string literal without Huffman coding."""
    return integer(len(value), 7) + value


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """RFC 7541, 5.1: an integer with a prefix of so many bits in a first byte that has other bits set."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = bytearray([first | most]), value - most
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame that the server sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A stream that the server ended: header lists and the bytes between them."""

    headers: tuple[Header, ...]
    body: bytes
    trailers: tuple[Header, ...]

    @property
    def http_status(self) -> int:
        return int(dict(self.headers)[b":status"])

    @property
    def grpc_status(self) -> int | None:
        """From the trailers, or from the only header list; None where there is none."""
        found = dict(self.trailers or self.headers).get(b"grpc-status")
        return None if found is None else int(found)

    @property
    def messages(self) -> list[bytes]:
        """The messages, none compressed and none cut short."""
        found, at = [], 0
        while at < len(self.body):
            flag, size = struct.unpack_from(">BI", self.body, at)
            assert flag == 0, "the server compressed what it was not asked to compress"
            found.append(self.body[at + 5 : at + 5 + size])
            assert len(found[-1]) == size, "the last message is cut short"
            at += 5 + size
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """A stream that the server reset."""

    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A connection that the server ended, with GOAWAY's code, or None if it said nothing."""

    code: int | None


class Broken(AssertionError):
    """The server did what the protocol forbids."""


@dataclass(slots=True)
class _Stream:
    window: int
    lists: list[tuple[Header, ...]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    code: int | None = None


class Peer:
    """One connection, and what the server said on it.

    Args:
        address: `host:port`.
        values: the settings sent first.
        grant: whether windows are opened again as data comes.
        timeout_seconds: the longest wait for a frame.
        buffer_bytes: the socket's receive buffer, where a test needs it small.
        tls: how the server, whose name is `localhost`, is verified; None: no TLS.
        over: a socket that is connected already, instead of all these.
    """

    def __init__(
        self,
        address: str,
        values: Mapping[Any, int] | None = None,
        *,
        grant: bool = True,
        timeout_seconds: float = 30.0,
        buffer_bytes: int | None = None,
        tls: ssl.SSLContext | None = None,
        over: socket.socket | None = None,
    ) -> None:
        self.socket = connected(address, timeout_seconds, buffer_bytes, tls) if over is None else over
        self.values = dict(values or {})
        self.grant = grant
        self.timeout_seconds = timeout_seconds
        self.theirs: dict[int, int] = {}
        self.goaway: int | None = None
        self.last_stream: int | None = None
        self.window = DEFAULT_WINDOW  # the server may send so much
        self.streams: dict[int, _Stream] = {}
        self.sent: dict[int, int] = {}  # DATA by stream, of `upload`; 0: all
        self.credit: dict[int, int] = {}  # what WINDOW_UPDATE gave this side, by stream
        self.pongs: list[bytes] = []
        self.acks = 0
        self.resets_of_idle = False  # whether RST_STREAM may come for streams that never were
        self._settings_seen = False
        self._buffer = bytearray()
        self._decoder = Decoder(max_header_list_size=1 << 24)
        self._decoder.max_allowed_table_size = self.values.get(Setting.HEADER_TABLE_SIZE, 4096)
        self._initial = self.values.get(Setting.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW)
        self._most = self.values.get(Setting.MAX_FRAME_SIZE, FRAME_BYTES)
        self._block: tuple[int, int, bytearray] | None = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def open(self) -> Peer:
        """Preface and settings, and the server's, acknowledged."""
        self.send(PREFACE, settings(self.values))
        while not self._settings_seen:
            if self.receive() is None:
                raise Broken("the server closed instead of sending SETTINGS")
        return self

    def send(self, *frames: bytes) -> bool:
        """Sends bytes; False if the server has closed meanwhile."""
        try:
            self.socket.sendall(b"".join(frames))
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def call(self, stream: int, path: str, message: bytes | None = None, *extra: Header) -> None:
        """A whole unary call, as a gRPC client would send it; without a message only its headers."""
        self.send(headers(stream, request(path, *extra)))
        if message is not None:
            self.upload(stream, prefixed(message))

    def upload(self, stream: int, payload: bytes, *, end: bool = True) -> bool:
        """Sends DATA as the server's windows allow; False if the server has ended stream or connection meanwhile."""
        at, most = 0, self.theirs.get(Setting.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW)
        while True:
            window = min(
                most + self.credit.get(stream, 0) - self.sent.get(stream, 0),
                DEFAULT_WINDOW + self.credit.get(0, 0) - self.sent.get(0, 0),
            )
            piece = payload[at : at + min(window, FRAME_BYTES)]
            if piece or at == len(payload):
                at += len(piece)
                self.sent[stream] = self.sent.get(stream, 0) + len(piece)
                self.sent[0] = self.sent.get(0, 0) + len(piece)
                if not self.send(data(stream, piece, end=end and at == len(payload))):
                    return False
                if at == len(payload):
                    return True
            elif self.receive() is None or self.over(stream):
                return False

    def over(self, stream: int) -> bool:
        """Whether the server has ended the stream."""
        known = self.streams.get(stream)
        return known is not None and (known.ended or known.code is not None)

    def receive(self, timeout_seconds: float | None = None) -> Frame | None:
        """The next frame, held to the protocol; None when the server has closed.

        Raises:
            TimeoutError: nothing came in time.
            Broken: the server may not send this.
        """
        self.socket.settimeout(self.timeout_seconds if timeout_seconds is None else timeout_seconds)
        try:
            while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3]):
                piece = self.socket.recv(1 << 16)
                if not piece:
                    return None
                self._buffer += piece
        except ConnectionResetError:
            return None
        size = int.from_bytes(self._buffer[:3])
        kind, flags, stream = struct.unpack_from(">BBI", self._buffer, 3)
        found = Frame(kind=kind, flags=flags, stream=stream, payload=bytes(self._buffer[9 : 9 + size]))
        del self._buffer[: 9 + size]
        self._hold(found)
        return found

    def outcome(self, stream: int, timeout_seconds: float | None = None) -> Answer | Reset | Ended:
        """What becomes of a stream.

        Raises:
            TimeoutError: nothing came of it in time, whatever else came.
        """
        wait = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        until = time.monotonic() + wait
        while True:
            known = self.streams.get(stream)
            if known is not None and known.code is not None and not known.ended:
                return Reset(code=known.code)
            if known is not None and known.ended:
                trailers = known.lists[-1] if len(known.lists) > 1 else ()
                return Answer(headers=known.lists[0], body=bytes(known.body), trailers=trailers)
            if self.receive(max(0.01, until - time.monotonic())) is None:
                return Ended(code=self.goaway)

    def answer(self, stream: int, timeout_seconds: float | None = None) -> Answer:
        """The stream's answer, where nothing else is right."""
        found = self.outcome(stream, timeout_seconds)
        assert isinstance(found, Answer), found
        return found

    def end(self, timeout_seconds: float | None = None) -> Ended:
        """Reads until the server closes.

        Raises:
            TimeoutError: it does not.
        """
        until = time.monotonic() + (self.timeout_seconds if timeout_seconds is None else timeout_seconds)
        while self.receive(max(0.01, until - time.monotonic())) is not None:
            pass
        return Ended(code=self.goaway)

    def alive(self) -> bool:
        """As `heard`, and the server has not said that it ends the connection."""
        return self.heard() and self.goaway is None

    def heard(self) -> bool:
        """Whether the connection answers a PING, that is, has read all that was sent before it.

        Refused is by then what is refused when it is read; other calls may still wait for their turn.
        """
        token = os.urandom(8)
        self.send(ping(token))
        while token not in self.pongs:
            if self.receive() is None:
                return False
        return True

    def _hold(self, frame: Frame) -> None:
        if not self._settings_seen and (frame.kind != Kind.SETTINGS or frame.flags & ACK):
            raise Broken(f"the server's first frame is of type {frame.kind}, not SETTINGS")
        if len(frame.payload) > self._most:
            raise Broken(f"a frame of {len(frame.payload)} bytes, allowed: {self._most}")
        if self._block is not None and (frame.kind != Kind.CONTINUATION or frame.stream != self._block[0]):
            raise Broken("a frame within another stream's header block")
        if frame.kind in _FRAMES_OF_ANSWERS:
            self._on_answer(frame)
        else:
            self._on_connection(frame)

    def _on_connection(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.SETTINGS:
                self._on_settings(frame)
            case Kind.PING if frame.flags & ACK:
                self.pongs.append(frame.payload)
            case Kind.PING:
                self.send(ping(frame.payload, ack=True))
            case Kind.GOAWAY:
                self.last_stream, self.goaway = struct.unpack_from(">II", frame.payload)
            case Kind.WINDOW_UPDATE:
                (increment,) = struct.unpack(">I", frame.payload)
                if not 0 < increment <= LARGEST_WINDOW:
                    raise Broken(f"a window update of {increment}")
                self.credit[frame.stream] = self.credit.get(frame.stream, 0) + increment
            case Kind.PUSH_PROMISE | Kind.PRIORITY:
                raise Broken(f"a frame of type {frame.kind} from a server")

    def _on_answer(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.RST_STREAM if self.resets_of_idle and frame.stream not in self.streams:
                pass
            case Kind.RST_STREAM:
                known = self._stream(frame)
                (known.code,) = struct.unpack(">I", frame.payload)
            case Kind.HEADERS:
                self._stream(frame, open_only=True)
                self._block = (frame.stream, frame.flags, bytearray(frame.payload))
                if frame.flags & (PADDED | PRIORITY_GIVEN):
                    raise Broken("a server has no reason to pad or to give priorities; not read here")
                self._end_block(frame.flags)
            case Kind.CONTINUATION:
                if self._block is None:
                    raise Broken("CONTINUATION without HEADERS")
                self._block[2].extend(frame.payload)
                self._end_block(frame.flags)
            case Kind.DATA:
                self._on_data(frame)

    def _on_settings(self, frame: Frame) -> None:
        if frame.stream or len(frame.payload) % 6:
            raise Broken("SETTINGS of a wrong form")
        if frame.flags & ACK:
            self.acks += 1
            return
        self._settings_seen = True
        found = dict(struct.iter_unpack(">HI", frame.payload))
        if found.get(Setting.ENABLE_PUSH, 0) or found.get(Setting.INITIAL_WINDOW_SIZE, 0) > LARGEST_WINDOW:
            raise Broken("SETTINGS with a value that a server may not send")
        if not FRAME_BYTES <= found.get(Setting.MAX_FRAME_SIZE, FRAME_BYTES) < 1 << 24:
            raise Broken("MAX_FRAME_SIZE outside its range")
        self.theirs.update(found)
        self.send(settings(ack=True))

    def _stream(self, frame: Frame, *, open_only: bool = False) -> _Stream:
        if frame.stream % 2 == 0:
            raise Broken(f"a frame of type {frame.kind} on stream {frame.stream}")
        known = self.streams.setdefault(frame.stream, _Stream(window=self._initial))
        if open_only and (known.ended or known.code is not None):
            raise Broken(f"a frame of type {frame.kind} on a stream that the server has ended")
        return known

    def _end_block(self, flags: int) -> None:
        if not flags & END_HEADERS or self._block is None:
            return
        stream, first_flags, block = self._block
        self._block = None
        fields = tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(bytes(block), raw=True))
        known = self.streams[stream]
        ends = bool(first_flags & END_STREAM)
        if known.lists and not ends:
            raise Broken("a second header list that does not end the stream")
        if (b":status" in dict(fields)) == bool(known.lists):
            raise Broken("the first header list has a status, trailers have none")
        for name, value in fields:
            if name != name.lower() or any(byte < 0x20 or byte > 0x7E for byte in value):
                raise Broken(f"a header field that is not lawful: {name!r}")
            if name in (b"connection", b"transfer-encoding", b"keep-alive", b"upgrade"):
                raise Broken(f"a header field of HTTP/1: {name!r}")
        known.lists.append(fields)
        known.ended = ends

    def _on_data(self, frame: Frame) -> None:
        known = self._stream(frame, open_only=True)
        if not known.lists:
            raise Broken("DATA before HEADERS")
        if frame.flags & PADDED:
            raise Broken("a server has no reason to pad; not read here")
        size = len(frame.payload)
        known.window -= size
        self.window -= size
        if size and (known.window < 0 or self.window < 0):
            raise Broken(f"more DATA than the window: {known.window} of the stream, {self.window} of the connection")
        known.body += frame.payload
        known.ended = bool(frame.flags & END_STREAM)
        if self.grant and size:
            self.open_window(0, size)
            if not known.ended:
                self.open_window(frame.stream, size)

    def open_window(self, stream: int, increment: int) -> None:
        """Lets the server send more, on a stream or (0) on the connection."""
        if stream:
            self.streams.setdefault(stream, _Stream(window=self._initial)).window += increment
        else:
            self.window += increment
        self.send(window_update(stream, increment))

    def set_window(self, initial: int) -> None:
        """Changes INITIAL_WINDOW_SIZE, and with it the windows of all streams, and waits until the server says so."""
        acks = self.acks
        self.send(settings({Setting.INITIAL_WINDOW_SIZE: initial}))
        if initial > self._initial:
            self._change_windows(initial)
        while self.acks == acks:
            assert self.receive() is not None
        if initial < self._initial:
            self._change_windows(initial)

    def _change_windows(self, initial: int) -> None:
        for known in self.streams.values():
            known.window += initial - self._initial
        self._initial = initial


def connected(
    address: str, timeout_seconds: float, buffer_bytes: int | None, tls: ssl.SSLContext | None
) -> socket.socket:
    """A socket of a peer."""
    host, _, port = address.rpartition(":")
    found = socket.socket()
    if buffer_bytes is not None:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    found.settimeout(timeout_seconds)
    found.connect((host, int(port)))
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found if tls is None else tls.wrap_socket(found, server_hostname="localhost")


def request(path: str, *extra: Header, method: bytes = b"POST", timeout: bytes | None = None) -> list[Header]:
    """The headers of a gRPC call."""
    fields = [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
    if timeout is not None:
        fields.append((b"grpc-timeout", timeout))
    return [*fields, *extra]


def prefixed(message: bytes, *, compressed: int = 0, size: int | None = None) -> bytes:
    """A message with gRPC's prefix, which may lie about the size."""
    return struct.pack(">BI", compressed, len(message) if size is None else size) + message
