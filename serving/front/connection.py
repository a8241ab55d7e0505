"""One HTTP/2 connection of the server's side: frames in, calls out.

Everything here runs on the event loop. One read may hold many frames and end many requests; what they lead to is
collected and written at once (`sender`). RFC 9113 says what a peer may do; what it may not ends its stream or its
connection.

Memory that a peer can make us hold is bounded: unfinished requests by `Limits.unfinished_bytes` over all connections,
answers that it does not take by `Limits.held_bytes` on each (nothing is read while its socket is full, so no new
requests come), header lists by `headers.MAX_METADATA_BYTES`, streams by `Limits.streams`. Frames that cost us work and
lead to nothing (PING, SETTINGS, resets, empty DATA) are counted against calls that end well.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc

from serving.front.bodies import Refused, check_started, one_message, taken_messages
from serving.front.call import Call
from serving.front.frames import (
    DEFAULT_WINDOW,
    FRAME_HEADER,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    PREFACE,
    STREAM_NUMBER,
    ErrorCode,
    Fault,
    Flag,
    Kind,
    Setting,
    StreamFault,
    check,
    frame,
    goaway,
    ping,
    rst_stream,
    settings,
    unpadded,
    window_update,
)
from serving.front.headers import MAX_METADATA_BYTES, Head, Heads, http_status_block
from serving.front.methods import Method
from serving.front.sender import Sender

if TYPE_CHECKING:
    from ssl import SSLObject

__all__ = ["Connection", "Limits", "Site"]

_STREAM_WINDOW: Final = 1 << 20
_CONNECTION_WINDOW: Final = 1 << 24
_WRITE_BUFFER_BYTES: Final = 1 << 20
_SETTING: Final = struct.Struct(">HL")
_MOST_IDLE: Final = 10_000
"""So many frames that lead to nothing may come between calls that end well."""
_MOST_HEADER_BYTES: Final = 16 * MAX_METADATA_BYTES
_DRAIN_PING: Final = b"hedgerow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one server takes.

    Attributes:
        message_bytes: of one request.
        streams: calls at one time on one connection.
        connections: at one time.
        unfinished_bytes: of requests that have not ended, on all connections together.
        held_bytes: of answers that a connection's peer has not taken.
        begin_seconds: until a new connection has sent its preface.
        stalled_seconds: a connection whose peer reads nothing for so long is ended.
    """

    message_bytes: int = 32 * 1024 * 1024
    streams: int = 4_096
    connections: int = 4_096
    unfinished_bytes: int = 256 * 1024 * 1024
    held_bytes: int = 128 * 1024 * 1024
    begin_seconds: float = 10.0
    stalled_seconds: float = 60.0


class Site(Protocol):
    """What a connection asks of its server."""

    limits: Limits
    unfinished: int

    @property
    def methods(self) -> Mapping[str, Method]:
        """What is served, by path."""

    def opened(self, connection: Connection) -> None:
        """A connection begins."""

    def closed(self, connection: Connection) -> None:
        """A connection is over."""

    def refuses(self, head: Head) -> bool:
        """Whether a call must be refused because there is too much to do."""

    def refusal(self) -> tuple[str, Any]:
        """Message and trailing metadata of such a refusal."""

    def arrived(self, call: Call, message: bytes) -> None:
        """A request is whole."""

    def message(self, call: Call, message: bytes) -> None:
        """A message of a stream of requests is whole."""

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Calls a function on the event loop, soon; from any thread."""


class Connection(asyncio.Protocol):
    """See the module.

    Args:
        site: the server.

    Attributes:
        answer, part, end: see `sender.Sender`.
        peer: `ipv4:host:port` or `ipv6:[host]:port`.
        identity: what TLS has verified of the peer: kind of name → names.
    """

    def __init__(self, site: Site) -> None:
        self.peer = "unknown:"
        self.identity: Mapping[str, list[bytes]] = {}
        self._site = site
        self._limits = site.limits
        self._heads = Heads(site.methods)
        self._sender = Sender(self._write, self._over)
        self.answer, self.part, self.end = self._sender.answer, self._sender.part, self._sender.end
        self._transport: Any = None
        self._since = time.monotonic()
        self._rest = b""
        self._begun = self._settled = self._closing = self._draining = self._left = False
        self._block: tuple[int, int, bytearray] | None = None
        self._last = 0
        self._streams: dict[int, Call] = {}
        self._dropped: dict[int, None] = {}
        self._idle = 0
        self._credit = _CONNECTION_WINDOW
        self._taken = 0
        self._window = DEFAULT_WINDOW
        self._rare: Mapping[int, Callable[[int, int, bytes], None]] = {
            Kind.PRIORITY: self._priority,
            Kind.RST_STREAM: self._rst_stream,
            Kind.SETTINGS: self._settings,
            Kind.PUSH_PROMISE: self._push_promise,
            Kind.PING: self._ping,
            Kind.GOAWAY: self._goaway,
            Kind.CONTINUATION: self._continuation,
        }

    # --- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
        self.peer = f"ipv6:[{host}]:{port}" if ":" in str(host) else f"ipv4:{host}:{port}"
        self._site.opened(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            if tls.selected_alpn_protocol() != "h2":
                self.abort()
                return
            self.identity = _identity(tls)
        self._sender.add(
            settings(
                {
                    Setting.MAX_CONCURRENT_STREAMS: self._limits.streams,
                    Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                    Setting.MAX_HEADER_LIST_SIZE: MAX_METADATA_BYTES,
                }
            )
            + window_update(0, _CONNECTION_WINDOW - DEFAULT_WINDOW)
        )
        self.flush()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._closing:
            return
        if self._rest:
            data = self._rest + data
        try:
            self._rest = data[self._frames(data) :]
            check(self._idle <= _MOST_IDLE, ErrorCode.ENHANCE_YOUR_CALM)
        except Fault as fault:
            self._sender.add(goaway(self._last, fault.code))
            self._close()
            return
        self.flush()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`; a peer that sends no more takes no answers either."""
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._closing = True
        for call in list(self._streams.values()):
            self._over(call)
        self._site.closed(self)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the peer does not read, so we do not either."""
        self._sender.paused = True
        self._since = time.monotonic()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._sender.paused = False
        self._transport.resume_reading()
        self._sender.pump()
        self.flush()

    def flush(self) -> None:
        """Writes what is to be sent."""
        self._sender.flush()

    def _write(self, data: bytes) -> None:
        if not self._closing:
            self._transport.write(data)

    # --- frames -------------------------------------------------------------------------------------------------

    def _frames(self, data: bytes) -> int:
        """Takes the whole frames of what was read; gives where the rest begins."""
        at, size = 0, len(data)
        if not self._begun:
            check(data[: len(PREFACE)] == PREFACE[:size], ErrorCode.PROTOCOL_ERROR)
            if size < len(PREFACE):
                return 0
            at, self._begun = len(PREFACE), True
        while size - at >= 9 and not self._closing:
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(data, at)
            end = at + 9 + (high << 8 | low)
            check(end - at - 9 <= MAX_FRAME_BYTES, ErrorCode.FRAME_SIZE_ERROR)
            if end > size:
                break
            try:
                self._frame(kind, flags, stream & MAX_WINDOW, data[at + 9 : end])
            except StreamFault as fault:
                self._reset(fault.stream, fault.code)
            at = end
        return at

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None or not self._settled:
            check(self._block is None or kind == Kind.CONTINUATION, ErrorCode.PROTOCOL_ERROR)
            check(self._settled or (kind == Kind.SETTINGS and not flags & Flag.ACK), ErrorCode.PROTOCOL_ERROR)
            self._settled = True
        if kind == Kind.DATA:
            self._data(stream, flags, payload)
        elif kind == Kind.HEADERS:
            self._headers(stream, flags, payload)
        elif kind == Kind.WINDOW_UPDATE:
            self._window_update(stream, payload)
        else:
            self._idle += 1
            if (rare := self._rare.get(kind)) is not None:  # RFC 9113, 5.5: others are passed over
                rare(stream, flags, payload)

    def _priority(self, stream: int, _flags: int, payload: bytes) -> None:
        check(stream != 0, ErrorCode.PROTOCOL_ERROR)
        if len(payload) != 5:
            raise StreamFault(stream, ErrorCode.FRAME_SIZE_ERROR)
        if STREAM_NUMBER.unpack_from(payload)[0] & MAX_WINDOW == stream:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR)

    def _rst_stream(self, stream: int, _flags: int, payload: bytes) -> None:
        check(0 < stream <= self._last, ErrorCode.PROTOCOL_ERROR)
        check(len(payload) == 4, ErrorCode.FRAME_SIZE_ERROR)
        self._dropped.pop(stream, None)
        if (call := self._streams.get(stream)) is not None:
            self._over(call)

    def _settings(self, stream: int, flags: int, payload: bytes) -> None:
        check(stream == 0, ErrorCode.PROTOCOL_ERROR)
        check(len(payload) % 6 == 0 and not (payload and flags & Flag.ACK), ErrorCode.FRAME_SIZE_ERROR)
        if flags & Flag.ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                check(value <= MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR)
                change, self._window = value - self._window, value
                for call in list(self._streams.values()):
                    check(call.window + change <= MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR)
                    call.window += change
            elif name == Setting.MAX_FRAME_SIZE:
                check(MAX_FRAME_BYTES <= value < 1 << 24, ErrorCode.PROTOCOL_ERROR)
                self._sender.frames_up_to(value)
            elif name == Setting.ENABLE_PUSH:
                check(value <= 1, ErrorCode.PROTOCOL_ERROR)
            elif name == Setting.HEADER_TABLE_SIZE:
                self._sender.table_resized()
        self._sender.add(frame(Kind.SETTINGS, Flag.ACK, 0))
        self._sender.pump()

    def _push_promise(self, _stream: int, _flags: int, _payload: bytes) -> None:
        raise Fault(ErrorCode.PROTOCOL_ERROR)

    def _ping(self, stream: int, flags: int, payload: bytes) -> None:
        check(stream == 0, ErrorCode.PROTOCOL_ERROR)
        check(len(payload) == 8, ErrorCode.FRAME_SIZE_ERROR)
        if not flags & Flag.ACK:
            self._sender.add(ping(payload, ack=True))
        elif payload == _DRAIN_PING and self._draining:
            self.leave()

    def _goaway(self, stream: int, _flags: int, payload: bytes) -> None:
        check(stream == 0, ErrorCode.PROTOCOL_ERROR)
        check(len(payload) >= 8, ErrorCode.FRAME_SIZE_ERROR)

    def _window_update(self, stream: int, payload: bytes) -> None:
        check(len(payload) == 4, ErrorCode.FRAME_SIZE_ERROR)
        check(stream <= self._last, ErrorCode.PROTOCOL_ERROR)
        increment = STREAM_NUMBER.unpack(payload)[0] & MAX_WINDOW
        if not increment:
            check(stream != 0, ErrorCode.PROTOCOL_ERROR)
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR)
        call = self._streams.get(stream)
        if stream == 0 or call is not None:
            self._sender.opened(increment, call)

    # --- header blocks ------------------------------------------------------------------------------------------

    def _headers(self, stream: int, flags: int, payload: bytes) -> None:
        check(stream & 1 == 1, ErrorCode.PROTOCOL_ERROR)
        if flags & (Flag.PADDED | Flag.PRIORITY):
            payload = unpadded(flags, payload)
            if flags & Flag.PRIORITY:
                check(len(payload) >= 5, ErrorCode.FRAME_SIZE_ERROR)
                check(STREAM_NUMBER.unpack_from(payload)[0] & MAX_WINDOW != stream, ErrorCode.PROTOCOL_ERROR)
                payload = payload[5:]
        if flags & Flag.END_HEADERS:
            self._block_ended(stream, flags, payload)
        else:
            self._idle += 1
            self._block = stream, flags, bytearray(payload)

    def _continuation(self, stream: int, flags: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise Fault(ErrorCode.PROTOCOL_ERROR)
        _, first, block = self._block
        block += payload
        check(len(block) <= _MOST_HEADER_BYTES, ErrorCode.ENHANCE_YOUR_CALM)
        if flags & Flag.END_HEADERS:
            self._block = None
            self._block_ended(stream, first, bytes(block))

    def _block_ended(self, stream: int, flags: int, block: bytes) -> None:
        if stream <= self._last:
            self._trailers(stream, flags, block)
            return
        try:
            head = self._heads.read(block)
        except ValueError:
            self._last = stream
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR) from None
        if self._left:
            return  # the peer was told that streams this late are not seen
        self._last = stream
        if len(self._streams) >= self._limits.streams:
            raise StreamFault(stream, ErrorCode.REFUSED_STREAM)
        call = self._streams[stream] = Call(self, stream, head, self._window, _STREAM_WINDOW)
        ended = bool(flags & Flag.END_STREAM)
        if head.http_status or head.refusal is not None:
            call.remote_ended = ended
            self._idle += 1
            if head.http_status:
                self._sender.last(call, http_status_block(head.http_status))
            elif head.refusal is not None:
                self.end(call, *head.refusal, ())
        else:
            call.refused = self._site.refuses(head) or self._sender.held > self._limits.held_bytes
            if ended:
                self._request_ended(call, b"")

    def _trailers(self, stream: int, flags: int, block: bytes) -> None:
        """A further header block of a stream that is known already."""
        self._idle += 1
        try:
            self._heads.skip(block)
        except ValueError:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR) from None
        call = self._streams.get(stream)
        if call is None:
            check(stream in self._dropped, ErrorCode.STREAM_CLOSED)
        elif call.remote_ended:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED)
        elif not flags & Flag.END_STREAM:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR)
        else:
            self._request_ended(call, b"")

    # --- requests -----------------------------------------------------------------------------------------------

    def _data(self, stream: int, flags: int, payload: bytes) -> None:
        size = len(payload)
        self._credit -= size
        self._taken += size
        check(self._credit >= 0, ErrorCode.FLOW_CONTROL_ERROR)
        if self._taken > _CONNECTION_WINDOW // 2:
            self._sender.add(window_update(0, self._taken))
            self._credit += self._taken
            self._taken = 0
        call = self._streams.get(stream)
        if call is None:
            self._data_of_none(stream, flags)
            return
        if call.remote_ended:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED)
        if flags & Flag.PADDED:
            payload = unpadded(flags, payload)
        call.credit -= size
        if call.credit < 0:
            raise StreamFault(stream, ErrorCode.FLOW_CONTROL_ERROR)
        call.total += len(payload)
        if flags & Flag.END_STREAM:
            self._request_ended(call, payload)
            return
        if not payload:
            self._idle += 1
        if call.credit < _STREAM_WINDOW // 2:
            self._sender.add(window_update(stream, _STREAM_WINDOW - call.credit))
            call.credit = _STREAM_WINDOW
        if not call.refused:
            self._keep(call, payload)

    def _data_of_none(self, stream: int, flags: int) -> None:
        check(0 < stream <= self._last and stream & 1 == 1, ErrorCode.PROTOCOL_ERROR)
        self._idle += 1
        if stream not in self._dropped:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED)
        if flags & Flag.END_STREAM:  # it was on its way when we ended the stream, and this was the last of it
            del self._dropped[stream]

    def _keep(self, call: Call, payload: bytes) -> None:
        """Takes a piece of a request that goes on."""
        method = call.head.method
        assert method is not None, "calls without a method are refused"
        if call.body is None:
            call.body = bytearray()
        call.body += payload
        self._site.unfinished += len(payload)
        try:
            if method.requests:
                self._take_messages(call)
            else:
                check_started(call.body, self._limits.message_bytes)
            if self._site.unfinished > self._limits.unfinished_bytes and call.body:
                raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many unfinished requests; try again")
        except Refused as refused:
            self.end(call, refused.code, refused.message, ())

    def _take_messages(self, call: Call) -> None:
        """Answers the whole messages of a stream of requests."""
        body = call.body
        assert body is not None, "it has begun"
        before = len(body)
        for message in taken_messages(body, call.head.encoding, self._limits.message_bytes):
            self._site.unfinished -= before - len(body)
            before = len(body)
            self._site.message(call, message)
            if call.ended:
                return

    def _request_ended(self, call: Call, payload: bytes) -> None:
        call.remote_ended = True
        head, method = call.head, call.head.method
        assert method is not None, "calls without a method are refused"
        if head.length >= 0 and head.length != call.total:
            raise StreamFault(call.stream, ErrorCode.PROTOCOL_ERROR)
        if call.refused:
            self.end(call, grpc.StatusCode.RESOURCE_EXHAUSTED, *self._site.refusal())
            return
        if method.requests:
            self._keep(call, payload)
            cut = bool(call.body)
            code = grpc.StatusCode.INVALID_ARGUMENT if cut else grpc.StatusCode.OK
            self.end(call, code, "a message that is cut short" if cut else "", ())
            return
        if call.body is not None:
            self._site.unfinished -= len(call.body)
            payload, call.body = bytes(call.body) + payload, None
        try:
            message = one_message(payload, head.encoding, self._limits.message_bytes)
        except Refused as refused:
            self.end(call, refused.code, refused.message, ())
        else:
            self._site.arrived(call, message)

    # --- ends ---------------------------------------------------------------------------------------------------

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Has a function of this connection called on the event loop, from any thread."""
        self._site.post(function, *args)

    def drain(self) -> None:
        """Tells the peer to open no more streams; those on their way are still answered."""
        if not self._closing and not self._draining:
            self._draining = True
            self._sender.add(goaway(MAX_WINDOW, ErrorCode.NO_ERROR) + ping(_DRAIN_PING, ack=False))
            self.flush()

    def leave(self) -> None:
        """Says which stream was the last, and ends watches; the connection closes when all others are answered."""
        if self._closing or self._left:
            return
        self._left = True
        self._sender.add(goaway(self._last, ErrorCode.NO_ERROR))
        self._end_calls(call for call in self._streams.values() if call.head.method and call.head.method.watches)
        self.flush()
        self._close_when_done()

    def stop(self) -> None:
        """Ends all calls now, and the connection."""
        if not self._closing:
            self._end_calls(self._streams.values())
            self._close()

    def abort(self) -> None:
        """Ends the connection without a word."""
        self._closing = True
        self._transport.abort()

    def look(self, now: float) -> None:
        """Called every few seconds: ends connections that do not begin, or whose peer reads nothing."""
        self._idle //= 2
        waited = now - self._since
        if (not self._begun and waited > self._limits.begin_seconds) or (
            self._sender.paused and waited > self._limits.stalled_seconds
        ):
            self.abort()

    def _end_calls(self, calls: Iterable[Call]) -> None:
        for call in list(calls):
            self._sender.cut(call)
            call.ended = False
            self.end(call, grpc.StatusCode.UNAVAILABLE, "the server ends", ())

    def _close(self) -> None:
        self.flush()
        self._closing = True
        self._transport.close()

    def _close_when_done(self) -> None:
        if self._left and not self._streams and not self._closing:
            self._close()

    def _over(self, call: Call) -> None:
        """A stream is over, well or not."""
        if self._streams.pop(call.stream, None) is None:
            return
        if call.ended:
            self._idle = 0
        call.ended = True
        self._sender.cut(call)
        if not call.remote_ended:
            self._drop(call.stream)
        if call.body is not None:
            self._site.unfinished -= len(call.body)
            call.body = None
        call.close()
        if self._left:
            self._close_when_done()

    def _drop(self, stream: int) -> None:
        """Frames of this stream that are on their way are to be passed over."""
        self._dropped[stream] = None
        if len(self._dropped) > self._limits.streams:
            del self._dropped[next(iter(self._dropped))]

    def _reset(self, stream: int, code: ErrorCode) -> None:
        self._idle += 10
        self._sender.add(rst_stream(stream, code))
        self._drop(stream)
        if (call := self._streams.get(stream)) is not None:
            self._over(call)


def _identity(tls: SSLObject) -> dict[str, list[bytes]]:
    """What TLS has verified of the peer, named as gRPC names it."""
    found: dict[str, list[bytes]] = {"transport_security_type": [b"ssl"]}
    certificate: Any = tls.getpeercert() or {}
    alternative = [value.encode() for _, value in certificate.get("subjectAltName", ())]
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    common = [value.encode() for kind, value in subject if kind == "commonName"]
    if alternative:
        found["x509_subject_alternative_name"] = alternative
    if common:
        found["x509_common_name"] = common
    return found
