"""Answers out: frames as the peer's windows allow, collected and written at once.

An answer that fits into the windows goes out in one piece. Others wait in their call's queue and are sent a frame of
each call in turn, as the peer opens its windows and the socket takes them. Calls whose own window is closed are not
even looked at, so a peer that keeps thousands of them costs nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc

from serving.front.bodies import MESSAGE_HEADER
from serving.front.call import Call
from serving.front.frames import (
    DEFAULT_WINDOW,
    FRAME_HEADER,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    STREAM_NUMBER,
    ErrorCode,
    Fault,
    Flag,
    Kind,
    StreamFault,
    frame,
    rst_stream,
)
from serving.front.headers import ANSWER_BLOCK, OK_BLOCK, metadata_block, trailers_block

__all__ = ["Sender"]

_LAST: Final = Flag.END_HEADERS | Flag.END_STREAM
_PIECE_BYTES: Final = 1 << 16
"""No larger frame is sent, and about so much is collected before it is written: what a socket that is full leaves of it
is not seen before the next one."""


def _constant(block: bytes, flags: int) -> bytes:
    """A HEADERS frame's header, without the stream."""
    return frame(Kind.HEADERS, flags, 0, block)[:5]


_ANSWER: Final = _constant(ANSWER_BLOCK, Flag.END_HEADERS)
_OK: Final = _constant(OK_BLOCK, _LAST)


class Sender:
    """What one connection sends.

    Args:
        write: takes bytes for the socket.
        over: told of each call whose last frame is sent.
        hold: told how many bytes more, or fewer, wait.
        may_hold: asked before an answer waits.
        refuse: ends a call whose answer must not.

    Attributes:
        paused: whether the socket takes no more for now.
    """

    def __init__(
        self,
        write: Callable[[bytes], None],
        over: Callable[[Call], None],
        hold: Callable[[int], None],
        may_hold: Callable[[int], bool],
        refuse: Callable[[Call], None],
    ) -> None:
        self.paused = False
        self._write = write
        self._over = over
        self._hold = hold
        self._may_hold = may_hold
        self._refuse = refuse
        self._out: list[Any] = []
        self._collected = 0
        self._waiting: dict[int, Call] = {}
        self._window = DEFAULT_WINDOW
        self._frame_bytes = MAX_FRAME_BYTES
        self._prefix = b""

    # --- what the peer says -------------------------------------------------------------------------------------

    def table_resized(self) -> None:
        """The peer has changed its table's size. Ours is always 0, which must be said once (RFC 7541, 4.2)."""
        self._prefix = b"\x20"

    def frames_up_to(self, size: int) -> None:
        """The peer takes frames of so many bytes."""
        self._frame_bytes = min(size, _PIECE_BYTES)

    def opened(self, increment: int, call: Call | None) -> None:
        """The peer takes so many bytes more, of one call or, None, of all. `pump` sends what waited for it.

        Raises:
            Fault, StreamFault: more than a window can be.
        """
        if call is None:
            self._window += increment
            if self._window > MAX_WINDOW:
                raise Fault(ErrorCode.FLOW_CONTROL_ERROR)
        else:
            call.window += increment
            if call.window > MAX_WINDOW:
                raise StreamFault(call.stream, ErrorCode.FLOW_CONTROL_ERROR)
            if call.pending and call.window > 0:
                self._waiting[call.stream] = call

    # --- what goes out ------------------------------------------------------------------------------------------

    def add(self, data: bytes) -> None:
        """Collects a frame that needs no window."""
        self._out.append(data)

    def flush(self) -> None:
        """Writes what was collected."""
        if self._out:
            out, self._out, self._collected = self._out, [], 0
            self._write(b"".join(out))

    def answer(self, call: Call, message: bytes) -> None:
        """Ends a call well, with its one message. Nothing happens where the call is over."""
        size = len(message) + 5
        if (
            size > self._window
            or size > call.window
            or size > self._frame_bytes
            or call.ended
            or self.paused
            or call.initial
            or call.trailing
            or self._prefix
        ):
            self.part(call, message)
            self.end(call, grpc.StatusCode.OK, "", call.trailing)
            return
        stream = STREAM_NUMBER.pack(call.stream)
        self._window -= size
        self._out += (
            _ANSWER,
            stream,
            ANSWER_BLOCK,
            FRAME_HEADER.pack(size >> 8, size & 0xFF, Kind.DATA, 0, call.stream),
            MESSAGE_HEADER.pack(0, len(message)),
            message,
            _OK,
            stream,
            OK_BLOCK,
        )
        call.ended = call.good = True
        self._over(call)
        self._collected += size
        if self._collected > _PIECE_BYTES:
            self.flush()

    def part(self, call: Call, message: bytes) -> None:
        """Sends one message of a call's answer. Nothing happens where the call is over."""
        if call.ended:
            return
        if not call.headers_sent and not self._begun(call, len(message)):
            return
        if call.pending is None:
            call.pending = deque()
        if not call.pending:
            call.moved = time.monotonic()
        call.pending.append(memoryview(MESSAGE_HEADER.pack(0, len(message)) + message))
        self._hold(len(message) + 5)
        if call.window > 0:
            self._waiting[call.stream] = call
            self.pump()

    def _begun(self, call: Call, size: int) -> bool:
        """Sends the headers of an answer that begins with so many bytes, if it may be held."""
        if not self._may_hold(size):
            # Some peer takes nothing of large answers: this one, or others for a moment.
            self._refuse(call)
        if call.ended:
            return False  # refused, or given up with this very connection, which made room
        call.headers_sent = True
        self._headers(call.stream, ANSWER_BLOCK + metadata_block(call.initial), Flag.END_HEADERS)
        return True

    def end(self, call: Call, code: grpc.StatusCode, message: str, metadata: Iterable[Any]) -> None:
        """Ends a call with a status, after what is still to be sent. Nothing happens where the call is over."""
        if call.ended:
            return
        call.ended = True
        call.good = code is grpc.StatusCode.OK
        block = trailers_block(code.value[0], message, metadata, only=not call.headers_sent)
        if call.pending:
            call.last = block
        else:
            self.last(call, block)

    def refuse(self, call: Call, block: bytes) -> None:
        """Ends a call of which nothing is sent yet with these trailers. Nothing happens where it is over."""
        if not call.ended:
            self.last(call, block)

    def last(self, call: Call, block: bytes) -> None:
        """Ends a call's stream with this header block."""
        call.ended = True
        self._headers(call.stream, block, _LAST)
        if not call.remote_ended:
            self._out.append(rst_stream(call.stream, ErrorCode.NO_ERROR))
        self._over(call)

    def cut(self, call: Call) -> None:
        """Forgets what a call still had to send."""
        self._waiting.pop(call.stream, None)
        if call.pending:
            self._hold(-sum(map(len, call.pending)))
        call.pending = None

    def widened(self, calls: Iterable[Call]) -> None:
        """The peer takes more of each stream: those that waited for it go on."""
        self._waiting.update((call.stream, call) for call in calls if call.pending and call.window > 0)

    def pump(self) -> None:
        """Sends what windows and socket allow."""
        while self._waiting and self._window > 0 and not self._full():
            moved = False
            for call in list(self._waiting.values()):
                if self._full():
                    return
                moved |= self._pump_one(call)
                if self._collected > _PIECE_BYTES:
                    self.flush()
            if not moved:
                return

    def _full(self) -> bool:
        """Whether the socket takes no more; writing may have filled it."""
        return self.paused

    def _pump_one(self, call: Call) -> bool:
        pending = call.pending
        assert pending, "what waits has something to send"
        piece = pending[0]
        size = min(self._frame_bytes, self._window, call.window, len(piece))
        if size <= 0:
            return False
        self._out += (FRAME_HEADER.pack(size >> 8, size & 0xFF, Kind.DATA, 0, call.stream), piece[:size])
        self._collected += size
        self._window -= size
        call.window -= size
        self._hold(-size)
        if size < len(piece):
            pending[0] = piece[size:]
        else:
            pending.popleft()
        call.moved = time.monotonic()
        call.left(size)
        if not pending or call.window <= 0:
            del self._waiting[call.stream]
        if not pending and call.last is not None:
            self.last(call, call.last)
        return True

    def _headers(self, stream: int, block: bytes, flags: int) -> None:
        block, self._prefix = self._prefix + block, b""
        most = self._frame_bytes
        whole = len(block) <= most
        self._out.append(frame(Kind.HEADERS, flags if whole else flags & ~Flag.END_HEADERS, stream, block[:most]))
        for at in range(most, len(block), most):
            rest = 0 if at + most < len(block) else Flag.END_HEADERS
            self._out.append(frame(Kind.CONTINUATION, rest, stream, block[at : at + most]))
