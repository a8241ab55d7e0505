"""From whole requests to handlers and back: what is answered on the event loop, what by threads, what not at all.

A call whose method says that it is quick (`Method.quick`) is answered where it was read: the way to a thread and back
costs more than looking a hundred rows up in mapped memory. Others, which wait for a store or compute for long, go to
the pool. Both have a queue before them whose bound is a time (`serving.admission`). Reading goes before answering, so
that queues are seen as they are and refusals are not late; answers of one turn are written together.

A refusal must cost far less than an answer, or a server that is asked ten times too much does nothing but refuse. Most
calls are refused by their headers: their requests are neither kept nor parsed, the trailers are ready, and their
connection is read less often, so that many are told at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import lru_cache
from typing import Any, Final

import grpc

from serving.admission import QueueSpeed, WorkerPool, refusal
from serving.front.call import Aborted, Call, Closed
from serving.front.connection import Connection
from serving.front.headers import Head, trailers_block
from serving.front.methods import Method, MethodTable
from serving.front.refusals import Refused, status_metadata
from serving.front.streams import Limits

__all__ = ["Dispatcher"]

_TURN_SECONDS: Final = 0.001
_UNTAKEN_SECONDS: Final = 2.0
"""A peer that has taken nothing for so long makes way for others, where there is no room for all."""
_ROOM_SECONDS: Final = 0.1
"""Where no such peer was found, none is looked for again within this time."""
_REST_SECONDS: Final = 0.02
"""So long nothing is read from connections whose calls are refused. Then all are, and many calls told, in one turn: the
threads use the processor's caches meanwhile, and each turn of the loop finds them cold."""
_LARGE_BYTES: Final = 64 * 1024
"""Of a request that a thread parses."""
_AHEAD_BYTES: Final = 1 << 20
"""So far a stream runs ahead of its reader."""
_FAILED: Final = "the server failed at this request"
_SURELY_SLOW: Final = 16
"""After so many calls in a row that were not quick, a connection's next ones are taken for such unseen while the pool
is full; one of so many is looked at, to notice when that changes."""


class Dispatcher:
    """What connections ask of their server (`connection.Site`).

    Args:
        methods: what is served.
        limits: of connections.
        pool: the threads.
        queue_seconds: how long a call may wait.
        refused: told the method of each call that was refused for want of time.
        streams: of answers, at one time.
    """

    def __init__(
        self,
        methods: MethodTable,
        limits: Limits,
        pool: WorkerPool,
        queue_seconds: float,
        refused: Callable[[str], None],
        streams: int,
    ) -> None:
        self.methods: Mapping[str, Method] = methods
        self.limits = limits
        self.unfinished = 0
        self.held = 0
        self.connections: dict[Connection, None] = {}
        self.emptied: Callable[[], object] = lambda: None
        self.loop: Any = None
        self._pool = pool
        self._most_waited = 2 * queue_seconds
        self._speed = QueueSpeed(queue_seconds)
        self._refused = refused
        self._no_room_until = 0.0
        self._resting: list[Callable[[], None]] = []
        self._streams: dict[Call, None] = {}
        self._most_streams = streams
        self._ready: deque[tuple[Call, bytes, int, float]] = deque()
        self._turn_comes = False
        self._posted: deque[tuple[Callable[..., None], Any]] = deque()
        self._woken = False

    # --- asked by connections, on the event loop ----------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """A connection begins."""
        self.connections[connection] = None

    def closed(self, connection: Connection) -> None:
        """A connection is over."""
        self.connections.pop(connection, None)
        if not self.connections:
            self.emptied()

    def busy(self) -> bool:
        """Whether there is too much to do, or held, for any more calls."""
        return len(self._ready) >= self._speed.most_waiting or (
            self.held > self.limits.held_bytes and not self.makes_room()
        )

    def refuses(self, connection: Connection, head: Head) -> bool:
        """Whether a call of this connection must be refused because there is too much to do."""
        method = head.method
        assert method is not None, "calls without a method are refused before"
        if method.control:
            return False
        if self.busy() or connection.held > self.limits.held_bytes // 4:
            connection.refused = True
        elif method.quick is None:
            return self._pool.full
        elif connection.slow >= _SURELY_SLOW and self._pool.full:
            connection.slow += 1
            connection.refused = connection.slow % _SURELY_SLOW != 0
        else:
            return False
        return connection.refused

    def refuse(self, call: Call) -> None:
        """Ends a call for that reason; its caller is told when to come again."""
        self._refused(_method(call).name)
        seconds = max(self._pool.retry_seconds, self._speed.retry_seconds(len(self._ready)))
        seconds = round(seconds, 1) or 0.05  # few values, so that what is said of them is ready
        if call.headers_sent:
            call.connection.end(call, grpc.StatusCode.RESOURCE_EXHAUSTED, *refusal(seconds))
        else:
            call.connection.refuse(call, _refusal_block(seconds))

    def makes_room(self) -> bool:
        """Ends the connection that holds most of what nobody takes; whether there is room now."""
        now = time.monotonic()
        if now < self._no_room_until:
            return False
        untaken = (one for one in self.connections if now - one.untaken_since >= _UNTAKEN_SECONDS)  # others are read
        most = max(untaken, key=lambda one: one.held, default=None)
        if most is None:
            self._no_room_until = now + _ROOM_SECONDS
            return False
        most.abort()
        return self.held <= self.limits.held_bytes

    def arrived(self, call: Call, message: bytes) -> None:
        """A request is whole."""
        method = _method(call)
        if method.control:
            self._control(call, method, message)
            return
        self._ready.append((call, message, len(self._ready), time.monotonic()))
        self._come_again()

    def message(self, call: Call, message: bytes) -> None:
        """A message of a stream of requests is whole; it is answered on its own."""
        method = _method(call)
        if (request := self._parsed(call, method, message)) is _NOTHING:
            return
        try:
            for answer in method.behavior(iter((request,)), call):
                call.connection.part(call, _written(method, answer))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises becomes a status
            self._failed(call, error)

    def later(self, function: Callable[[], None]) -> None:
        """Calls a function in the event loop's next turn."""
        self.loop.call_soon(function)

    def after_rest(self, function: Callable[[], None]) -> None:
        """Calls a function on the event loop soon, with those of others whose calls are refused."""
        self._resting.append(function)
        if len(self._resting) == 1:
            self.loop.call_later(_REST_SECONDS, self._rested)

    def _rested(self) -> None:
        resting, self._resting = self._resting, []
        for function in resting:
            function()

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Calls a connection's function on the event loop, soon; from any thread."""
        self._posted.append((function, args))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self._do_posted)

    # --- on the event loop --------------------------------------------------------------------------------------

    def _do_posted(self) -> None:
        self._woken = False
        posted = self._posted
        touched: dict[Connection, None] = {}
        for _ in range(len(posted)):
            function, args = posted.popleft()
            function(*args)
            touched[args[0].connection] = None
        for connection in touched:
            connection.flush()
        if posted and not self._woken:
            self._woken = True
            self.loop.call_soon(self._do_posted)

    def _come_again(self) -> None:
        if not self._turn_comes:
            self._turn_comes = True
            self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Answers what is quick for about a millisecond, then lets the loop read."""
        self._turn_comes = False
        ready = self._ready
        touched: dict[Connection, None] = {}
        until = time.monotonic() + _TURN_SECONDS
        while ready:
            call, message, ahead, since = ready.popleft()
            if call.is_active():
                now = self._begin(call, message, ahead, since)
                touched[call.connection] = None
                if now >= until:
                    break
        for connection in touched:
            connection.flush()
        if ready:
            self._come_again()

    def _begin(self, call: Call, message: bytes, ahead: int, since: float) -> float:
        """Answers a call that was whole then, or hands it to a thread; gives the time when it began."""
        now = time.monotonic()
        waited = now - since
        self._speed.note(ahead, waited)
        method = _method(call)
        if waited > self._most_waited:
            self.refuse(call)
        elif method.answers or method.quick is None or len(message) > _LARGE_BYTES:
            self._hand_over(call, method, lambda: self._parsed(call, method, message))
        elif (request := self._parsed(call, method, message)) is not _NOTHING:
            if method.quick(request):
                call.connection.slow = 0
                answer = self._run(call, method, request)
                if answer is not None:
                    call.connection.answer(call, answer)
            else:
                call.connection.slow += 1
                self._hand_over(call, method, lambda: request)
        return now

    def _hand_over(self, call: Call, method: Method, request: Callable[[], Any]) -> None:
        """Has a thread answer a call; a large request is parsed there too."""
        if self._pool.full:
            self.refuse(call)
        elif method.answers:
            self._make_way()
            call.makes_room()
            self._streams[call] = None
            call.add_callback(lambda: self._streams.pop(call, None))
            self._pool.submit(self._stream, call, method, request)
        else:
            self._pool.submit(self._run_aside, call, method, request)

    def _make_way(self) -> None:
        """Where all places for streams are taken, ends the one whose reader has taken nothing for longest."""
        if len(self._streams) < self._most_streams:
            return
        stalled = min((call for call in self._streams if call.pending), key=lambda call: call.moved, default=None)
        if stalled is not None and time.monotonic() - stalled.moved > _UNTAKEN_SECONDS:
            stalled.connection.cancel(stalled, "the answer is not taken, and others wait")

    def _control(self, call: Call, method: Method, message: bytes) -> None:
        if (request := self._parsed(call, method, message)) is _NOTHING:
            return
        if not method.watches:
            answer = self._run(call, method, request)
            if answer is not None:
                call.connection.answer(call, answer)
            return

        def send(answer: Any) -> None:
            if answer is None:
                self.post(call.connection.end, call, grpc.StatusCode.OK, "", ())
            else:
                self.post(call.connection.part, call, _written(method, answer))

        try:
            method.behavior(request, call, send)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(call, error)

    def _parsed(self, call: Call, method: Method, message: bytes) -> Any:
        if method.parse is None:
            return message
        try:
            return method.parse(message)
        except Exception:  # noqa: BLE001 - whatever a parser raises, the message is not one
            refused = Refused(grpc.StatusCode.INVALID_ARGUMENT, "the message cannot be read")
            self.post(call.connection.end, call, refused.code, refused.message, refused.metadata)
            return _NOTHING

    # --- on the loop or on a thread -----------------------------------------------------------------------------

    def _run(self, call: Call, method: Method, request: Any) -> bytes | None:
        """The answer's bytes; None where the call ended with another status, which is sent already."""
        try:
            answer = method.behavior(request, call)
            if call.code() in (None, grpc.StatusCode.OK):
                return _written(method, answer)
            raise Aborted
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(call, error)
            return None

    def _failed(self, call: Call, error: Exception) -> None:
        connection = call.connection
        if isinstance(error, Aborted):
            self.post(connection.end, call, call.code() or grpc.StatusCode.UNKNOWN, call.details(), call.trailing)
        else:
            code = grpc.StatusCode.UNKNOWN
            self.post(connection.end, call, code, _FAILED, status_metadata(code, _FAILED))

    # --- on a thread --------------------------------------------------------------------------------------------

    def _run_aside(self, call: Call, method: Method, request: Callable[[], Any]) -> None:
        if not call.is_active():
            return
        if self._pool.overdue:
            self.post(self.refuse, call)
        elif (parsed := request()) is not _NOTHING and (answer := self._run(call, method, parsed)) is not None:
            self.post(call.connection.answer, call, answer)

    def _stream(self, call: Call, method: Method, request: Callable[[], Any]) -> None:
        if (parsed := request()) is _NOTHING:
            return
        try:
            with closing(method.behavior(parsed, call)) as answers:
                for answer in answers:
                    call.send(_written(method, answer), _AHEAD_BYTES)
        except Closed:
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(call, error)
        else:
            self.post(call.connection.end, call, grpc.StatusCode.OK, "", call.trailing)


_NOTHING: Final = object()


@lru_cache(maxsize=64)
def _refusal_block(seconds: float) -> bytes:
    """Trailers of a call that is refused for so long."""
    return trailers_block(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], *refusal(seconds), only=True)


def _method(call: Call) -> Method:
    method = call.head.method
    assert method is not None, "calls without a method are refused before"
    return method


def _written(method: Method, answer: Any) -> bytes:
    return answer if method.write is None else method.write(answer)
