"""A connection's streams: header blocks and DATA in, calls out.

Frames of streams that are over are passed over where they may have been on their way, and refused otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc

from serving.front.bodies import check_started, one_message, taken_messages
from serving.front.call import Call
from serving.front.frames import (
    DEFAULT_WINDOW,
    MAX_WINDOW,
    STREAM_NUMBER,
    ErrorCode,
    Fault,
    Flag,
    StreamFault,
    check,
    rst_stream,
    unpadded,
    window_update,
)
from serving.front.headers import MAX_METADATA_BYTES, Head, Heads, http_status_block
from serving.front.methods import Method
from serving.front.refusals import Refused, status_metadata
from serving.front.sender import Sender

if TYPE_CHECKING:
    from serving.front.connection import Connection

__all__ = ["CONNECTION_WINDOW", "STREAM_WINDOW", "Limits", "Site", "Streams"]

STREAM_WINDOW: Final = 1 << 20
CONNECTION_WINDOW: Final = 1 << 24
_UNTAKEN_BYTES: Final = 256 * 1024
"""Of answers within a stream of requests, whose peer must read some before it asks for more."""
_SMALL_BYTES: Final = 64
"""DATA of fewer, which does not end a request, leads to nothing by itself."""
_WORTH: Final = 100
"""So many idle frames a call makes good."""
_MOST_HEADER_BYTES: Final = 16 * MAX_METADATA_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one server takes.

    Attributes:
        message_bytes: of one request.
        streams: calls at one time on one connection.
        connections: at one time.
        unfinished_bytes: of requests whose calls are not over, on all connections; a quarter of it on one.
        held_bytes: of answers that peers have not taken, on all connections; a quarter of it on one. What waits
            for a socket counts from 16 KiB on; of TLS, what is encrypted already does not.
        begin_seconds: until a new connection has sent its preface.
        stalled_seconds: a request may take so long until it is whole, and a peer take nothing of an answer for so long.
    """

    message_bytes: int = 32 * 1024 * 1024
    streams: int = 4_096
    connections: int = 4_096
    unfinished_bytes: int = 256 * 1024 * 1024
    held_bytes: int = 256 * 1024 * 1024
    begin_seconds: float = 10.0
    stalled_seconds: float = 30.0


class Site(Protocol):
    """What a connection asks of its server."""

    limits: Limits
    unfinished: int
    held: int

    @property
    def methods(self) -> Mapping[str, Method]:
        """What is served, by path."""

    def opened(self, connection: Connection) -> None:
        """A connection begins."""

    def closed(self, connection: Connection) -> None:
        """A connection is over."""

    def busy(self) -> bool:
        """Whether there is too much to do, or held, for any more calls."""

    def refuses(self, connection: Connection, head: Head) -> bool:
        """Whether a call of this connection must be refused because there is too much to do."""

    def refuse(self, call: Call) -> None:
        """Ends a call for that reason; its caller is told when to come again."""

    def makes_room(self) -> bool:
        """Ends the connection that holds most of what nobody takes; whether there is room now."""

    def arrived(self, call: Call, message: bytes) -> None:
        """A request is whole."""

    def message(self, call: Call, message: bytes) -> None:
        """A message of a stream of requests is whole."""

    def later(self, function: Callable[[], None]) -> None:
        """Calls a function in the event loop's next turn."""

    def after_rest(self, function: Callable[[], None]) -> None:
        """Calls a function on the event loop soon, with those of others whose calls are refused."""

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Calls a function on the event loop, soon; from any thread."""


class Streams:
    """The streams of one connection.

    Args:
        connection: theirs.
        site: the server.
        sender: of answers.

    Attributes:
        idle: frames that led to nothing since a call ended well.
        last: the newest stream.
        seen: the newest stream that the peer may expect an answer of.
        left: whether the peer was told that later ones are not seen.
        window: how many bytes of a new stream the peer takes.
    """

    def __init__(self, connection: Connection, site: Site, sender: Sender) -> None:
        self.idle = 0
        self.last = 0
        self.seen = 0
        self.left = False
        self.window = DEFAULT_WINDOW
        self._connection = connection
        self._site = site
        self._limits = site.limits
        self._sender = sender
        self._end = sender.end
        self._heads = Heads(site.methods)
        self._block: tuple[int, int, bytearray] | None = None
        self._calls: dict[int, Call] = {}
        self._dropped: dict[int, None] = {}
        self._unfinished = 0
        self._credit = CONNECTION_WINDOW
        self._taken = 0

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def within_block(self) -> bool:
        """Whether a header block has begun and not ended."""
        return self._block is not None

    def get(self, stream: int) -> Call | None:
        """The call of a stream, if it is not over."""
        return self._calls.get(stream)

    def resized(self, window: int) -> None:
        """The peer has changed how many bytes of each stream it takes.

        Raises:
            Fault: a window becomes larger than it can be.
        """
        change, self.window = window - self.window, window
        for call in self._calls.values():
            check(call.window + change <= MAX_WINDOW, ErrorCode.FLOW_CONTROL_ERROR)
            call.window += change
        if change > 0:
            self._sender.widened(self._calls.values())

    @property
    def untaken_since(self) -> float:
        """When something of an answer was last taken; infinity where none waits."""
        return max((call.moved for call in self._calls.values() if call.pending), default=math.inf)

    def look(self, now: float) -> None:
        """Ends calls whose deadline has passed, that were begun and never ended, or whose answer nobody takes."""
        patience = self._limits.stalled_seconds
        for call in list(self._calls.values()):
            method = call.head.method
            if call.deadline is not None and now >= call.deadline:
                self._cancel(call, grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
            elif call.pending and now - call.moved > patience:
                self._cancel(call, grpc.StatusCode.CANCELLED, "the answer is not taken")
            elif not call.remote_ended and now - call.since > patience and not (method and method.requests):
                self._cancel(call, grpc.StatusCode.CANCELLED, f"the request did not end within {patience:g} s")

    def rst_stream(self, stream: int, _flags: int, payload: bytes) -> None:
        """RST_STREAM.

        Raises:
            Fault: see RFC 9113, 6.4.
        """
        check(0 < stream <= self.last, ErrorCode.PROTOCOL_ERROR)
        check(len(payload) == 4, ErrorCode.FRAME_SIZE_ERROR)
        self._dropped.pop(stream, None)  # what comes after its own reset was not on its way
        if (call := self._calls.get(stream)) is not None:
            call.remote_ended = True
            self.over(call)

    # --- header blocks ------------------------------------------------------------------------------------------

    def headers(self, stream: int, flags: int, payload: bytes) -> None:
        """HEADERS.

        Raises:
            Fault, StreamFault: see RFC 9113, 5.1, 6.2 and 8.
        """
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
            self.idle += 1
            self._block = stream, flags, bytearray(payload)

    def continuation(self, stream: int, flags: int, payload: bytes) -> None:
        """CONTINUATION.

        Raises:
            Fault, StreamFault: see RFC 9113, 6.10; or the block is far too large.
        """
        if self._block is None or self._block[0] != stream:
            raise Fault(ErrorCode.PROTOCOL_ERROR)
        _, first, block = self._block
        block += payload
        check(len(block) <= _MOST_HEADER_BYTES, ErrorCode.ENHANCE_YOUR_CALM)
        if flags & Flag.END_HEADERS:
            self._block = None
            self._block_ended(stream, first, bytes(block))

    def _block_ended(self, stream: int, flags: int, block: bytes) -> None:
        if stream <= self.last:
            self._trailers(stream, flags, block)
            return
        self.last = stream
        if self.left:
            self._pass_over(block)
            return
        self.seen = stream
        try:
            head = self._heads.read(block)
        except ValueError:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR) from None
        if len(self._calls) >= self._limits.streams:
            raise StreamFault(stream, ErrorCode.REFUSED_STREAM)
        call = self._calls[stream] = Call(self._connection, stream, head, self.window, STREAM_WINDOW)
        ended = bool(flags & Flag.END_STREAM)
        if head.http_status or head.refusal is not None:
            call.remote_ended = ended
            self.idle += 1
            if head.http_status:
                self._sender.last(call, http_status_block(head.http_status))
            elif head.refusal is not None:
                self._refuse(call, head.refusal)
        else:
            call.refused = self._site.refuses(self._connection, head)
            if ended:
                self._request_ended(call, b"")

    def _trailers(self, stream: int, flags: int, block: bytes) -> None:
        """A further header block of a stream that is known already."""
        if stream > self.seen:
            self._pass_over(block)
            return
        self.idle += 1
        call = self._calls.get(stream)
        check(call is not None or stream in self._dropped, ErrorCode.STREAM_CLOSED)
        try:
            self._heads.skip(block)
        except ValueError:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR) from None
        if call is None:
            return
        if call.remote_ended:
            raise StreamFault(stream, ErrorCode.STREAM_CLOSED)
        if not flags & Flag.END_STREAM:
            raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR)
        self._request_ended(call, b"")

    def _pass_over(self, block: bytes) -> None:
        """A header block of a stream that the peer opened before it was told that it is not seen (RFC 9113, 6.8).

        Only the table that both sides hold is kept in step.
        """
        self.idle += 1
        with suppress(ValueError):
            self._heads.skip(block)

    # --- requests -----------------------------------------------------------------------------------------------

    def data(self, stream: int, flags: int, payload: bytes) -> None:
        """DATA.

        Raises:
            Fault, StreamFault: see RFC 9113, 5.2 and 6.1.
        """
        size = len(payload)
        self._credit -= size
        self._taken += size
        check(self._credit >= 0, ErrorCode.FLOW_CONTROL_ERROR)
        if self._taken > CONNECTION_WINDOW // 2:
            self._sender.add(window_update(0, self._taken))
            self._credit += self._taken
            self._taken = 0
        call = self._calls.get(stream)
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
        self.idle += len(payload) < _SMALL_BYTES
        if call.credit < STREAM_WINDOW // 2:
            self._sender.add(window_update(stream, STREAM_WINDOW - call.credit))
            call.credit = STREAM_WINDOW
        if not call.refused and not call.ended:
            self._keep(call, payload)

    def _data_of_none(self, stream: int, flags: int) -> None:
        check(0 < stream <= self.last and stream & 1 == 1, ErrorCode.PROTOCOL_ERROR)
        self.idle += 1
        if stream > self.seen:
            return
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
        self._count(call, len(payload))
        try:
            if method.requests:
                self._take_messages(call)
            else:
                check_started(call.body, self._limits.message_bytes)
        except Refused as refused:
            self._refuse(call, refused)
        else:
            if call.body and self._crowded:
                self._site.refuse(call)

    def _take_messages(self, call: Call) -> None:
        """Answers the whole messages of a stream of requests."""
        body = call.body
        assert body is not None, "it has begun"
        before = len(body)
        for message in taken_messages(body, call.head.encoding, self._limits.message_bytes):
            self._count(call, len(body) - before)
            before = len(body)
            self._site.message(call, message)
            if call.pending and sum(map(len, call.pending)) > _UNTAKEN_BYTES:
                raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "read the answers before asking for more")
            if call.ended:
                return

    def _request_ended(self, call: Call, payload: bytes) -> None:
        call.remote_ended = True
        if call.ended:
            return  # its answer is under way
        head, method = call.head, call.head.method
        assert method is not None, "calls without a method are refused"
        if head.length >= 0 and head.length != call.total:
            raise StreamFault(call.stream, ErrorCode.PROTOCOL_ERROR)
        if not self._admitted(call, method):
            return
        if method.requests:
            self._keep(call, payload)
            if call.body:
                self._refuse(call, Refused(grpc.StatusCode.INVALID_ARGUMENT, "a message that is cut short"))
            else:
                self._end(call, grpc.StatusCode.OK, "", ())
            return
        if call.body is not None:
            payload, call.body = bytes(call.body) + payload, None
        try:
            message = one_message(payload, head.encoding, self._limits.message_bytes)
        except Refused as refused:
            self._refuse(call, refused)
        else:
            self._count(call, len(message) - call.counted)
            self._site.arrived(call, message)

    def _admitted(self, call: Call, method: Method) -> bool:
        """Whether a call whose request is whole goes on; by now there may be more to do than when it began."""
        if call.refused or (not method.control and (self._site.busy() or self._crowded)):
            self._site.refuse(call)
        return not call.ended  # refused, or given up with this very connection, which made room

    @property
    def _crowded(self) -> bool:
        """Whether requests whose calls are not over take as much as they may, here or on all connections."""
        most = self._limits.unfinished_bytes
        return self._site.unfinished > most or self._unfinished > most // 4

    def _count(self, call: Call, size: int) -> None:
        """So many bytes more, or fewer, are held of a request until its call is over."""
        call.counted += size
        self._unfinished += size
        self._site.unfinished += size

    # --- ends ---------------------------------------------------------------------------------------------------

    def cancel(self, calls: Callable[[Call], bool], message: str) -> None:
        """Ends the calls of which this holds with UNAVAILABLE, whatever they still had to send."""
        for call in [call for call in self._calls.values() if calls(call)]:
            self._cancel(call, grpc.StatusCode.UNAVAILABLE, message)

    def _cancel(self, call: Call, code: grpc.StatusCode, message: str) -> None:
        """Ends a call whatever it still had to send."""
        self._sender.cut(call)
        call.ended = False
        call.last = None
        self._end(call, code, message, status_metadata(code, message))

    def _refuse(self, call: Call, refused: Refused) -> None:
        """Ends a call for what it sent."""
        self._end(call, refused.code, refused.message, refused.metadata)

    def close(self) -> None:
        """The connection is gone, and nobody waits for any call."""
        for call in list(self._calls.values()):
            self.over(call)

    def over(self, call: Call) -> None:
        """A stream is over, well or not."""
        if self._calls.pop(call.stream, None) is None:
            return
        if call.good:
            self.idle = max(0, self.idle - _WORTH)
        call.ended = True
        self._sender.cut(call)
        if not call.remote_ended:
            self._drop(call.stream)
        call.body = None
        self._count(call, -call.counted)
        call.close()
        if self.left and not self._calls:
            self._connection.close()

    def _drop(self, stream: int) -> None:
        """Frames of this stream that are on their way are to be passed over."""
        self._dropped[stream] = None
        if len(self._dropped) > self._limits.streams:
            del self._dropped[next(iter(self._dropped))]

    def reset(self, stream: int, code: ErrorCode) -> None:
        """Ends a stream whose peer broke the protocol in it."""
        self.idle += 10
        self._sender.add(rst_stream(stream, code))
        self._drop(stream)
        if (call := self._calls.get(stream)) is not None:
            self.over(call)
