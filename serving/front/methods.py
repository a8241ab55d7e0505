"""What answers calls of one path: a gRPC method handler, and how it is to be run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc

__all__ = ["Method", "MethodTable", "handlers_of"]

Quick = Callable[[Any], bool]
"""Asked on the event loop about a request: whether it is answered there and then, in well under a millisecond."""

QUICK: Final = "quick"
"""Attribute of a unary behavior that holds its `Quick`; see `serving.calls`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method.

    Attributes:
        name: `package.Service/Method`.
        behavior: takes a request and a `grpc.ServicerContext`; of a request stream, an iterator of one message.
        parse: bytes → request; None: bytes are taken as they are.
        write: answer → bytes; None: answers are bytes.
        quick: see `Quick`; None: always a thread's.
        control: answered before all else and never refused: health, reflection. It must not wait for anything.
        requests: whether requests are a stream. Each is answered on its own, so only stateless methods can be such.
        answers: whether answers are a stream.
        watches: whether answers are sent by a callback for as long as the call lasts (health's Watch).
    """

    name: str
    behavior: Callable[..., Any]
    parse: Callable[[bytes], Any] | None
    write: Callable[[Any], bytes] | None
    quick: Quick | None
    control: bool
    requests: bool
    answers: bool
    watches: bool


class MethodTable(dict[str, Method]):
    """Path → method.

    Args:
        interceptors: passed by every call but control, the first outermost. What they do may depend on a call's method
            only: each is asked once.
    """

    def __init__(self, interceptors: Sequence[grpc.ServerInterceptor[Any, Any]] = ()) -> None:
        super().__init__()
        self._interceptors = tuple(interceptors)

    def add(self, service: str, handlers: Mapping[str, Any], *, control: bool = False) -> None:
        """Adds a service.

        Args:
            service: `package.Service`.
            handlers: method → what `grpc.unary_unary_rpc_method_handler` and its like make.
            control: see `Method`.

        Raises:
            ValueError: a stream of requests that is not control.
        """
        for name, handler in handlers.items():
            path = f"/{service}/{name}"
            if handler.request_streaming and not control:
                raise ValueError(f"{path}: streams of requests are not served")
            own = handler if control else self._intercepted(path, handler)
            behavior = own.unary_unary or own.unary_stream or own.stream_unary or own.stream_stream
            first = handler.unary_unary
            self[path] = Method(
                name=path[1:],
                behavior=behavior,
                parse=own.request_deserializer,
                write=own.response_serializer,
                quick=getattr(first, QUICK, None),
                control=control,
                requests=own.request_streaming,
                answers=own.response_streaming,
                watches=bool(getattr(behavior, "experimental_non_blocking", False)),
            )

    def _intercepted(self, path: str, handler: Any) -> Any:
        def step(at: int) -> Callable[[Any], Any]:
            if at == len(self._interceptors):
                return lambda _: handler
            return lambda details: self._interceptors[at].intercept_service(step(at + 1), details)

        return step(0)(_Details(method=path, invocation_metadata=()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Details(grpc.HandlerCallDetails):
    method: str
    invocation_metadata: Any


class _Collected:
    """Takes what generated code adds to a server."""

    def __init__(self) -> None:
        self.services: dict[str, Mapping[str, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """The same handlers in an older form."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.services[service] = handlers


def handlers_of(add: Callable[[Any, Any], Any], servicer: Any) -> Mapping[str, Mapping[str, Any]]:
    """Service → its handlers, of a servicer and the `add_..._to_server` that was generated for it."""
    collected = _Collected()
    add(servicer, collected)
    return collected.services
