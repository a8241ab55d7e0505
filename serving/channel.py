"""How a client is connected: channels, TLS, retries, the caller's token and purpose, and errors as types."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from governance.errors import AccessDenied, NotAuthenticated, NotServed, RequestInvalid, ServerUnavailable, ServingError
from serving.limits import MAX_MESSAGE_BYTES
from serving.problems import DETAILS_TRAILER, Details, Overloaded, decode_details

__all__ = ["ClientTls", "Token", "call_metadata", "channel_options", "read_answer", "typed_error"]

_T = TypeVar("_T")

Token = str | Callable[[], str]
"""A signed token, or what gives the current one."""

# CANCELLED comes from a server that is told to end in the very moment in which a call arrives: gRPC's core then drops
# the call unseen. A call that its own caller cancels is over, and never sent again.
_RETRIES: Final = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
        # The budget: each failure takes a token, each success gives a tenth back; below half there are no retries.
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """How the server is verified, and who this client is. All PEM.

    Attributes:
        server_ca: who signed the server's certificate; None: the system's list.
        certificate: this client's chain, for mTLS; comes with `key`.
        key: its private key.
        server_name: the name that the server's certificate must have, if it is not the target's host.
    """

    server_ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel."""
        return grpc.ssl_channel_credentials(self.server_ca, self.key, self.certificate)


def channel_options(tls: ClientTls | None) -> list[tuple[str, Any]]:
    """Options of every channel: message sizes, retries with a budget, fast reconnection."""
    options: list[tuple[str, Any]] = [
        ("grpc.enable_retries", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.service_config", _RETRIES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),  # each channel its own connection, so a pool reaches several processes
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def call_metadata(purpose: str, token: Token | None) -> tuple[tuple[str, str], ...]:
    """What every call says of its caller."""
    metadata = (("hedgerow-purpose", purpose),) if purpose else ()
    if token is None:
        return metadata
    return (*metadata, ("authorization", f"Bearer {token if isinstance(token, str) else token()}"))


def typed_error(error: Any, target: str) -> ServingError:
    """A gRPC error as one of ours."""
    code, text = error.code(), error.details() or ""
    trailer = next((value for key, value in error.trailing_metadata() or () if key == DETAILS_TRAILER), None)
    details = decode_details(trailer) if isinstance(trailer, bytes) else Details()
    match code:
        case grpc.StatusCode.NOT_FOUND:
            return NotServed(text)
        case grpc.StatusCode.UNAUTHENTICATED:
            return NotAuthenticated(f"{target}: {text}")
        case grpc.StatusCode.PERMISSION_DENIED:
            return AccessDenied(f"{target}: {text}")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return RequestInvalid(text)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if details.retry_seconds is not None:
            return Overloaded(f"{target}: {text}", details.retry_seconds)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if details.violations:
            return RequestInvalid(text)
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in text:
            return RequestInvalid(f"{target}: a message over {MAX_MESSAGE_BYTES:,} bytes; split the request")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return Overloaded(f"{target}: {text}", 1.0)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServerUnavailable(f"{target}: no answer in time; check the address, or raise timeout_seconds")
    return ServerUnavailable(f"{target}: {code.name}: {text}; is the server running there?")


def read_answer(read: Callable[[Any], _T], response: Any, target: str) -> _T:
    """An answer as the client gives it.

    Raises:
        ServingError: it is not one that this client can read.
    """
    try:
        return read(response)
    except ValueError:
        raise ServingError(f"{target}: the answer cannot be read; use a client of the server's version") from None
