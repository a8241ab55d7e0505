"""The gate that every call passes: who calls, for what, whether they may read it, and the line about it afterwards."""

from __future__ import annotations

import time
from typing import Protocol

import grpc

from governance.errors import AccessDenied, ServerUnavailable
from serving.access import ANONYMOUS, PURPOSE_METADATA, Access, Authorizer, Caller, check, open_to_all
from serving.audit import AuditLog, AuditRecord

__all__ = ["Entry", "Gate", "Identify", "anonymous"]


class Identify(Protocol):
    """Says who calls, from the connection's certificate or the call's metadata."""

    def __call__(self, context: grpc.ServicerContext, metadata: dict[str, str | bytes], /) -> Caller:
        """The caller.

        Raises:
            NotAuthenticated: no valid certificate or token.
        """
        ...


def anonymous(_context: grpc.ServicerContext, _metadata: dict[str, str | bytes], /) -> Caller:
    """Asks nobody for a name: for a demonstration on loopback."""
    return ANONYMOUS


class Entry:
    """One call on its way through. Calling it asks for permission to read; see `serving.access.Permit`."""

    __slots__ = ("_authorizer", "began", "caller", "method", "purpose", "recorded", "resources", "rows", "rule")

    def __init__(self, method: str, authorizer: Authorizer, recorded: bool) -> None:
        self.method = method
        self._authorizer = authorizer
        self.recorded = recorded
        self.caller = ANONYMOUS
        self.purpose = ""
        self.resources: tuple[str, ...] = ()
        self.rows = 0
        self.rule = ""
        self.began = time.monotonic()

    def __call__(self, resources: tuple[str, ...], rows: int) -> None:
        """Notes what is read, and asks.

        Raises:
            AccessDenied: it may not be read.
        """
        self.resources += resources
        self.rows += rows
        self.rule = self._checked(resources, tried=True)

    def may_read(self, resources: tuple[str, ...]) -> bool:
        """Whether it would be let; nothing is noted."""
        try:
            self._checked(resources, tried=False)
        except AccessDenied:
            return False
        return True

    def _checked(self, resources: tuple[str, ...], *, tried: bool) -> str:
        access = Access(caller=self.caller, purpose=self.purpose, method=self.method, resources=resources, tried=tried)
        return check(self._authorizer, access).rule


class Gate:
    """Identifies callers, asks the authorizer, writes the audit log.

    Args:
        identify: says who calls.
        authorizer: says what they may read.
        audit: takes a record of every call; None: nothing is recorded.
    """

    def __init__(
        self,
        identify: Identify = anonymous,
        authorizer: Authorizer = open_to_all,
        audit: AuditLog | None = None,
    ) -> None:
        self._identify = identify
        self._authorizer = authorizer
        self._audit = audit

    @property
    def recording(self) -> bool:
        """Whether what is read now would be recorded, if it is to be."""
        return self._audit is None or self._audit.ready

    @property
    def unwritten(self) -> int:
        """Records that the audit log's file has not taken yet."""
        return 0 if self._audit is None else self._audit.waiting

    def entry(self, method: str) -> Entry:
        """A call begins. Where the audit log takes no more, it will be refused, and has no line.

        Args:
            method: `package.Service/Method`.
        """
        return Entry(method, self._authorizer, self.recording)

    def identify(self, entry: Entry, context: grpc.ServicerContext) -> None:
        """Finds out who calls and for what.

        Raises:
            NotAuthenticated: no valid certificate or token.
            ServerUnavailable: the audit log takes no more.
        """
        if not entry.recorded:
            raise ServerUnavailable("the audit log cannot be written now, and nothing is read without it; try again")
        metadata = {pair[0]: pair[1] for pair in context.invocation_metadata() or ()}
        purpose = metadata.get(PURPOSE_METADATA, "")
        entry.purpose = purpose if isinstance(purpose, str) else ""
        entry.caller = self._identify(context, metadata)

    def leave(self, entry: Entry, code: str) -> None:
        """A call ends with this status."""
        if self._audit is not None and entry.recorded:
            self._audit.write(
                AuditRecord(
                    caller=entry.caller.name,
                    purpose=entry.purpose,
                    method=entry.method,
                    resources=entry.resources,
                    rows=entry.rows,
                    rule=entry.rule,
                    code=code,
                    seconds=time.monotonic() - entry.began,
                )
            )
