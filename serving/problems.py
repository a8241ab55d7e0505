"""What can be wrong with a call, and its form on the wire.

A refused request carries a google.rpc.BadRequest (which field, what was found, what is allowed), a busy server a
google.rpc.RetryInfo. They travel as a serialised google.rpc.Status in the trailer `grpc-status-details-bin`; see
`proto/serving/v1/errors.proto`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from google.protobuf.message import DecodeError

from governance.errors import NotServed, RequestInvalid, ServerUnavailable
from serving.v1 import errors_pb2

__all__ = [
    "DETAILS_TRAILER",
    "Details",
    "FieldProblem",
    "Overloaded",
    "TooLarge",
    "UnknownName",
    "decode_details",
    "encode_details",
    "shown",
]

DETAILS_TRAILER: Final = "grpc-status-details-bin"
_TYPE_PREFIX: Final = "type.googleapis.com/google.rpc."
_MOST_NAMES: Final = 20
"""Told of what there is: trailers must stay below the 8 KiB that clients take."""
_MOST_ASKED: Final = 100
"""Looked at for that."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]{0,99}")


class FieldProblem(RequestInvalid):
    """A field of a request that the API does not take (INVALID_ARGUMENT).

    Attributes:
        field: path in the request message, e.g. `keys[0].values`.
        problem: what was found, what is allowed; without the path.
    """

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem
        super().__init__(f"{field}: {problem}")


class TooLarge(FieldProblem):
    """A field that holds more than one request may (RESOURCE_EXHAUSTED)."""

    def __init__(self, field: str, what: str, found: int, allowed: int) -> None:
        super().__init__(field, f"found {found:,} {what}, allowed {allowed:,}; split the request")


class UnknownName(NotServed):
    """A name in a request that is not published (NOT_FOUND). Who may not read what is published is not told of it.

    Args:
        field: path in the request message.
        problem: what there is not.
        there: what there is instead: each name, and what one must be allowed to read to be told of it.
        lead: what stands before those names.
        within: what one must be allowed to read to be told even the problem.
    """

    def __init__(
        self,
        field: str,
        problem: str,
        there: Mapping[str, tuple[str, ...]],
        *,
        lead: str = "published",
        within: tuple[str, ...] = (),
    ) -> None:
        self.field = field
        self.problem = problem
        self.within = within
        self._there = there
        self._lead = lead
        super().__init__(problem)

    def told(self, may_read: Callable[[tuple[str, ...]], bool]) -> str:
        """The problem and the first names of what this caller may read instead."""
        asked = islice(sorted(self._there), _MOST_ASKED)
        names = list(islice((name for name in asked if may_read(self._there[name])), _MOST_NAMES + 1))
        if not names:
            return f"{self.problem}; {self._lead}: none that this caller may read"
        more = ", ..." if len(names) > _MOST_NAMES else ""
        return f"{self.problem}; {self._lead}: {', '.join(names[:_MOST_NAMES])}{more}"


class Overloaded(ServerUnavailable):
    """The server has no room for this call now (RESOURCE_EXHAUSTED, with a time to wait)."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        self.retry_seconds = retry_seconds
        super().__init__(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What a caller learns beyond code and message.

    Attributes:
        violations: `(field, description)` of each field that was refused.
        retry_seconds: wait so long before trying again; None where the server does not say.
    """

    violations: tuple[tuple[str, str], ...] = ()
    retry_seconds: float | None = None


def encode_details(code: int, message: str, details: Details) -> bytes:
    """The trailer's value: a serialised google.rpc.Status."""
    status = errors_pb2.ErrorStatus(code=code, message=message)
    if details.violations:
        bad = errors_pb2.ErrorBadRequest()
        for field, description in details.violations:
            bad.field_violations.add(field=field, description=description)
        status.details.add(type_url=_TYPE_PREFIX + "BadRequest", value=bad.SerializeToString())
    if details.retry_seconds is not None:
        retry = errors_pb2.ErrorRetryInfo()
        retry.retry_delay.FromMilliseconds(round(details.retry_seconds * 1000))
        status.details.add(type_url=_TYPE_PREFIX + "RetryInfo", value=retry.SerializeToString())
    return status.SerializeToString()


def decode_details(trailer: bytes) -> Details:
    """The inverse of `encode_details`; a trailer that does not parse says nothing."""
    violations: list[tuple[str, str]] = []
    retry_seconds: float | None = None
    try:
        for detail in errors_pb2.ErrorStatus.FromString(trailer).details:
            if detail.type_url == _TYPE_PREFIX + "BadRequest":
                bad = errors_pb2.ErrorBadRequest.FromString(detail.value)
                violations += [(violation.field, violation.description) for violation in bad.field_violations]
            elif detail.type_url == _TYPE_PREFIX + "RetryInfo":
                retry_seconds = errors_pb2.ErrorRetryInfo.FromString(detail.value).retry_delay.ToMilliseconds() / 1000
    except DecodeError:
        return Details()
    return Details(violations=tuple(violations), retry_seconds=retry_seconds)


def shown(name: str) -> str:
    """A name from a request as it may stand in a message: quoted if it reads like a name, else not at all."""
    return repr(name) if _NAME.fullmatch(name) else "of that name"
