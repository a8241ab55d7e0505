"""One call, as its handler sees it: a `grpc.ServicerContext`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from serving.front.headers import Head

if TYPE_CHECKING:
    from serving.front.connection import Connection

__all__ = ["Aborted", "Call", "Closed"]


class Aborted(Exception):
    """A handler ended its call with a status."""


class Closed(Exception):
    """Nobody waits for this stream's messages any more."""


class Call(grpc.ServicerContext):
    """One call.

    Handlers use it as a context, from their thread. The rest belongs to the connection, on the event loop; what most
    calls never change are attributes of the class.

    Args:
        connection: that it came by.
        stream: its number there.
        head: what its headers said.
        window: how many bytes its caller takes so far.
        credit: how many bytes its caller may send so far.
    """

    # of the request
    remote_ended = False
    total = 0
    body: bytearray | None = None
    refused = False
    counted = 0

    # of the answer
    headers_sent = False
    ended = False
    good = False
    last: bytes | None = None
    pending: deque[memoryview] | None = None
    room: threading.Condition | None = None
    queued = 0
    moved = 0.0

    # of the context
    _active = True
    _callbacks: list[Callable[[], None]] | None = None
    initial: Any = ()
    trailing: Any = ()
    _code: grpc.StatusCode | None = None
    _details = ""

    def __init__(self, connection: Connection, stream: int, head: Head, window: int, credit: int) -> None:
        self.connection = connection
        self.stream = stream
        self.head = head
        self.window = window
        self.credit = credit
        self.since = time.monotonic()

    @property
    def deadline(self) -> float | None:
        """On the monotonic clock."""
        seconds = self.head.timeout_seconds
        return None if seconds is None else self.since + seconds

    def makes_room(self) -> None:
        """Its answers are a stream, whose sender will wait for its reader."""
        self.room = threading.Condition()

    def close(self) -> None:
        """The call is over, well or not: what waits for it goes on, and callbacks are called. On the event loop."""
        if not self._active:
            return
        self._active = False
        if self.room is not None:
            with self.room:
                self.room.notify_all()
        for callback in self._callbacks or ():
            callback()

    # --- grpc.RpcContext ----------------------------------------------------------------------------------------

    def is_active(self) -> bool:
        """Whether the caller still waits."""
        return self._active

    def time_remaining(self) -> float | None:  # type: ignore[override]  # its stubs know no call without a deadline
        """Seconds until the caller's deadline, at least 0; None where there is none."""
        deadline = self.deadline
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    def cancel(self) -> None:
        """Ends the call with CANCELLED."""
        self.connection.post(self.connection.end, self, grpc.StatusCode.CANCELLED, "cancelled", ())

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Has a callback called when the call is over; False where it is already."""
        if not self._active:
            return False
        self._callbacks = [*(self._callbacks or ()), callback]
        return True

    # --- grpc.ServicerContext -----------------------------------------------------------------------------------

    def invocation_metadata(self) -> Any:
        """The call's metadata, in order."""
        return self.head.metadata

    def peer(self) -> str:
        """`ipv4:host:port` or `ipv6:[host]:port` of the caller."""
        return self.connection.peer

    def peer_identities(self) -> Iterable[bytes] | None:
        """The names in the caller's certificate; None where it showed none."""
        return self.connection.identity.get("x509_subject_alternative_name")

    def peer_identity_key(self) -> str | None:
        """Which kind of name `peer_identities` are."""
        return "x509_subject_alternative_name" if self.peer_identities() else None

    def auth_context(self) -> Any:
        """What TLS has verified of the caller: kind of name → names."""
        return self.connection.identity

    def set_compression(self, compression: grpc.Compression) -> NoReturn:
        """Answers are not compressed: vectors and floats do not shrink."""
        raise NotImplementedError("answers are not compressed")

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Metadata to send with the first message."""
        self.initial = tuple(initial_metadata)

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Metadata to send with the status."""
        self.trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """See `set_trailing_metadata`."""
        return self.trailing

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """Ends the call with this status, by raising."""
        self._code = grpc.StatusCode.UNKNOWN if code is grpc.StatusCode.OK else code
        self._details = details
        raise Aborted

    def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """As `abort`, with metadata."""
        self.trailing = tuple(status.trailing_metadata or ())
        self.abort(status.code, status.details)

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status to end with."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Its message."""
        self._details = details

    def code(self) -> grpc.StatusCode | None:
        """The status set so far."""
        return self._code

    def details(self) -> str:
        """The message set so far."""
        return self._details

    # --- streams of answers, from a thread ----------------------------------------------------------------------

    def send(self, message: bytes, most: int) -> None:
        """Sends one message of a stream, and waits while the caller is behind by `most` bytes.

        Raises:
            Closed: the call is over, or its deadline has passed.
        """
        room = self.room
        assert room is not None, "streams are given room before they begin"
        with room:
            while self._active and self.queued > most:
                room.wait(self._patience())
            if self.deadline is not None and time.monotonic() >= self.deadline:
                raise Closed
            if not self._active:
                raise Closed
            self.queued += len(message) + 5
        self.connection.post(self.connection.part, self, message)

    def left(self, size: int) -> None:
        """So many bytes of its messages were sent. On the event loop."""
        if self.room is not None:
            with self.room:
                self.queued -= size
                self.room.notify_all()

    def _patience(self) -> float:
        remaining = self.time_remaining()
        if remaining is None:
            return 5.0
        if remaining <= 0:
            raise Closed
        return min(remaining, 5.0)
