"""Calls that end before a handler has seen them: their callers are told google.rpc details, as handlers give them."""

from __future__ import annotations

from functools import lru_cache

import grpc

from serving.problems import DETAILS_TRAILER, Details, encode_details

__all__ = ["Refused", "status_metadata"]


class Refused(Exception):
    """A call that ends with a status for what it sent.

    Args:
        code: the status.
        message: what was found, what is allowed.
        field: what of the call is wrong: `request`, `metadata` or `method`.
    """

    def __init__(self, code: grpc.StatusCode, message: str, field: str = "request") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field

    @property
    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Trailing metadata: a google.rpc.BadRequest that says the same."""
        return status_metadata(self.code, self.message, self.field)


@lru_cache(maxsize=256)
def status_metadata(code: grpc.StatusCode, message: str, field: str = "") -> tuple[tuple[str, bytes], ...]:
    """Trailing metadata of a call that ends with this status, made once for each.

    Args:
        field: what of the call was wrong; empty where nothing was.
    """
    details = Details(violations=((field, message),) if field else ())
    return ((DETAILS_TRAILER, encode_details(code.value[0], message, details)),)
