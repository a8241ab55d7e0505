"""One HTTP/2 connection of the server's side: frames in, and what they say of the connection as a whole.

Everything here runs on the event loop. One read may hold many frames and end many requests (`streams`); what they lead
to is collected and written at once (`sender`). RFC 9113 says what a peer may do; what it may not ends its stream or its
connection.

Memory that a peer can make us hold is bounded: unfinished requests by `Limits.unfinished_bytes` over all connections,
answers that it does not take by `Limits.held_bytes` on each and on all, with what waits for its socket (while that is
full nothing is read from it, so no new requests come), header lists by `headers.MAX_METADATA_BYTES`, streams by
`Limits.streams`. What does not end, and what is not taken, ends after `Limits.stalled_seconds`. Frames that cost us
work and lead to nothing (PING, SETTINGS, resets, empty DATA) are counted against calls that end well.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

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
    settings,
    window_update,
)
from serving.front.headers import MAX_METADATA_BYTES
from serving.front.sender import Sender
from serving.front.streams import CONNECTION_WINDOW, STREAM_WINDOW, Site, Streams

if TYPE_CHECKING:
    from ssl import SSLObject

    from serving.front.call import Call

__all__ = ["Connection"]

_WRITE_BUFFER_BYTES: Final = 1 << 14
"""So much waits for a socket before its peer counts as one that does not read."""
_SETTING: Final = struct.Struct(">HL")
_MOST_IDLE: Final = 10_000
"""So many frames that lead to nothing may come between calls that end well."""
_COSTS: Final[Mapping[int, int]] = {Kind.SETTINGS: 100, Kind.RST_STREAM: 10}
"""How many such frames one counts for: SETTINGS are looked up in every stream, a reset undoes a call's work."""
_SMALL_INCREMENT: Final = 512
_MOST_FRAMES: Final = 1_000
"""So many frames of one read are enough for one turn of the loop."""
_DRAIN_PING: Final = b"hedgerow"
_ENDS: Final = "the server ends"


class Connection(asyncio.Protocol):
    """See the module.

    Args:
        site: the server.

    Attributes:
        answer, part, end, refuse: see `sender.Sender`.
        post: has a function of this connection called on the event loop, from any thread.
        peer: `ipv4:host:port` or `ipv6:[host]:port`.
        identity: what TLS has verified of the peer: kind of name → names.
        held: bytes of answers that its peer has not taken.
        slow: how many calls in a row were no quick ones, of methods that have such; see `dispatch`.
        refused: whether calls of what was read last are refused, and the next ones will be.
    """

    def __init__(self, site: Site) -> None:
        self.peer = "unknown:"
        self.identity: Mapping[str, list[bytes]] = {}
        self._site = site
        self.held = 0
        self.slow = 0
        self.refused = False
        self._sender = Sender(self._write, self._over, self._hold, self._may_hold, site.refuse)
        self._streams = Streams(self, site, self._sender)
        self.answer, self.part, self.end = self._sender.answer, self._sender.part, self._sender.end
        self.refuse, self.flush = self._sender.refuse, self._sender.flush
        self.post, self._later, self._after_rest = site.post, site.later, site.after_rest
        self._transport: Any = None
        self._since = time.monotonic()
        self._rest = b""
        self._seen = 0
        self._stuck = 0
        self._begun = self._settled = self._closing = self._draining = False
        self._kinds: Mapping[int, Callable[[int, int, bytes], None]] = {
            Kind.DATA: self._streams.data,
            Kind.HEADERS: self._streams.headers,
            Kind.PRIORITY: self._priority,
            Kind.RST_STREAM: self._streams.rst_stream,
            Kind.SETTINGS: self._settings,
            Kind.PUSH_PROMISE: self._push_promise,
            Kind.PING: self._ping,
            Kind.GOAWAY: self._goaway,
            Kind.WINDOW_UPDATE: self._window_update,
            Kind.CONTINUATION: self._streams.continuation,
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
                    Setting.MAX_CONCURRENT_STREAMS: self._site.limits.streams,
                    Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                    Setting.MAX_HEADER_LIST_SIZE: MAX_METADATA_BYTES,
                }
            )
            + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        )
        self.flush()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._closing:
            return
        if self._rest:
            data = self._rest + data
        self._since = time.monotonic()
        try:
            self._rest = data[self._frames(data) :]
            check(self._streams.idle <= _MOST_IDLE, ErrorCode.ENHANCE_YOUR_CALM)
        except Fault as fault:
            self._sender.add(goaway(self._streams.seen, fault.code))
            self.close()
            return
        self._sender.pump()
        self.flush()
        if self.refused:
            self.refused = False
            self._rest_until(self._after_rest)
        elif self._seen > _MOST_FRAMES:
            self._rest_until(self._later)  # others first: the loop would read from this socket again at once

    def _rest_until(self, then: Callable[[Callable[[], None]], None]) -> None:
        """Reads no more until it is called back."""
        if not self._closing and not self._sender.paused:
            self._transport.pause_reading()
            then(self._resume)

    def _resume(self) -> None:
        if not self._closing and not self._sender.paused:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`; a peer that sends no more takes no answers either."""
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._closing = True
        self._streams.close()
        self._waits_for_socket(0)
        self._site.closed(self)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the peer does not read, so we do not either."""
        self._sender.paused = True
        self._since = time.monotonic()
        self._transport.pause_reading()
        self._waits_for_socket(self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._sender.paused = False
        self._waits_for_socket(0)
        self._transport.resume_reading()
        self._sender.pump()
        self.flush()

    def _write(self, data: bytes) -> None:
        if not self._closing:
            self._transport.write(data)
            if self._sender.paused:
                self._waits_for_socket(self._transport.get_write_buffer_size())

    def _waits_for_socket(self, size: int) -> None:
        """So many bytes of what was written are still here: answers that the peer has not taken, like those before."""
        if size < self._stuck:
            self._since = time.monotonic()
        self._hold(size - self._stuck)
        self._stuck = size

    def _hold(self, size: int) -> None:
        self.held += size
        self._site.held += size

    def _may_hold(self, size: int) -> bool:
        most = self._site.limits.held_bytes
        if self.held + size > most // 4:
            return False
        return self._site.held + size <= most or self._site.makes_room()

    def _over(self, call: Any) -> None:
        self._streams.over(call)

    # --- frames -------------------------------------------------------------------------------------------------

    def _frames(self, data: bytes) -> int:
        """Takes the whole frames of what was read; gives where the rest begins."""
        at, size, self._seen = 0, len(data), 0
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
                check(fault.stream & 1 == 1 and fault.stream <= self._streams.last, fault.code)  # none that is idle
                self._streams.reset(fault.stream, fault.code)
            at = end
            self._seen += 1
        return at

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._streams.within_block:
            check(kind == Kind.CONTINUATION, ErrorCode.PROTOCOL_ERROR)
        elif not self._settled:
            check(kind == Kind.SETTINGS and not flags & Flag.ACK, ErrorCode.PROTOCOL_ERROR)
            self._settled = True
        if kind > Kind.HEADERS and kind != Kind.WINDOW_UPDATE:
            self._streams.idle += _COSTS.get(kind, 1)
            check(self._streams.idle <= _MOST_IDLE, ErrorCode.ENHANCE_YOUR_CALM)
            if kind not in self._kinds:
                return  # RFC 9113, 5.5: frames of other kinds are passed over
        self._kinds[kind](stream, flags, payload)

    def _priority(self, stream: int, _flags: int, payload: bytes) -> None:
        check(stream != 0, ErrorCode.PROTOCOL_ERROR)
        if len(payload) != 5:
            raise StreamFault(stream, ErrorCode.FRAME_SIZE_ERROR)
        if STREAM_NUMBER.unpack_from(payload)[0] & MAX_WINDOW == stream:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR)

    def _settings(self, stream: int, flags: int, payload: bytes) -> None:
        check(stream == 0, ErrorCode.PROTOCOL_ERROR)
        check(len(payload) % 6 == 0 and not (payload and flags & Flag.ACK), ErrorCode.FRAME_SIZE_ERROR)
        if flags & Flag.ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            if name == Setting.INITIAL_WINDOW_SIZE:
                check(value <= MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR)
                self._streams.resized(value)
            elif name == Setting.MAX_FRAME_SIZE:
                check(MAX_FRAME_BYTES <= value < 1 << 24, ErrorCode.PROTOCOL_ERROR)
                self._sender.frames_up_to(value)
            elif name == Setting.ENABLE_PUSH:
                check(value <= 1, ErrorCode.PROTOCOL_ERROR)
            elif name == Setting.HEADER_TABLE_SIZE:
                self._sender.table_resized()
        self._sender.add(frame(Kind.SETTINGS, Flag.ACK, 0))

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

    def _window_update(self, stream: int, _flags: int, payload: bytes) -> None:
        check(len(payload) == 4, ErrorCode.FRAME_SIZE_ERROR)
        check(stream <= self._streams.last, ErrorCode.PROTOCOL_ERROR)
        increment = STREAM_NUMBER.unpack(payload)[0] & MAX_WINDOW
        if not increment:
            check(stream != 0, ErrorCode.PROTOCOL_ERROR)
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR)
        self._streams.idle += increment < _SMALL_INCREMENT
        call = self._streams.get(stream)
        if stream == 0 or call is not None:
            self._sender.opened(increment, call)

    # --- ends ---------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Tells the peer to open no more streams; those on their way are still answered."""
        if not self._closing and not self._draining:
            self._draining = True
            self._sender.add(goaway(MAX_WINDOW, ErrorCode.NO_ERROR) + ping(_DRAIN_PING, ack=False))
            self.flush()

    def leave(self) -> None:
        """Says which stream was the last, and ends watches; the connection closes when all others are answered."""
        streams = self._streams
        if self._closing or streams.left:
            return
        streams.left = True
        self._sender.add(goaway(streams.seen, ErrorCode.NO_ERROR))
        streams.cancel(lambda call: call.head.method is not None and call.head.method.watches, _ENDS)
        self.flush()
        if not streams:
            self.close()

    def cancel(self, call: Call, message: str) -> None:
        """Ends one call, whatever it still had to send."""
        self._streams.cancel(lambda one: one is call, message)
        self.flush()

    def stop(self) -> None:
        """Ends all calls now, and the connection."""
        self._streams.cancel(lambda _: True, _ENDS)
        self.close()

    def close(self) -> None:
        """Closes the connection when what was collected is written."""
        if not self._closing:
            self.flush()
            self._closing = True
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection without a word, and gives up what it holds now, not when its socket is closed."""
        self._transport.abort()
        self.connection_lost(None)

    def look(self, now: float) -> None:
        """Called a few times a second: ends what does not begin, does not end, or is not taken."""
        if self._sender.paused:
            self._waits_for_socket(self._transport.get_write_buffer_size())
        waited, limits = now - self._since, self._site.limits
        if (not self._begun and waited > limits.begin_seconds) or (
            self._sender.paused and waited > limits.stalled_seconds
        ):
            self.abort()
        elif self._streams:
            self._streams.look(now)
            self._sender.pump()
            self.flush()

    @property
    def untaken_since(self) -> float:
        """When its peer last took something of what it was sent; infinity where nothing waits."""
        return self._since if self._sender.paused else self._streams.untaken_since

    @property
    def idle_since(self) -> float:
        """When it last had a call; infinity where it has one."""
        return self._since if not self._streams else math.inf

    def forgive(self) -> None:
        """Called every few seconds: what led to nothing counts half."""
        self._streams.idle //= 2


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
