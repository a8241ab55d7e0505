"""How a client is connected: channels, TLS, retries, the caller's token and purpose, and errors as types."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from governance.errors import AccessDenied, NotAuthenticated, NotServed, RequestInvalid, ServerUnavailable, ServingError
from serving.limits import MAX_MESSAGE_BYTES
from serving.problems import DETAILS_TRAILER, Details, Overloaded, decode_details
from serving.v1 import embeddings_pb2_grpc, features_pb2_grpc, recommendation_pb2_grpc, snapshots_pb2_grpc

__all__ = [
    "ANOTHER_MAY_SUCCEED",
    "ClientTls",
    "Stubs",
    "Token",
    "Turns",
    "call_metadata",
    "channel_options",
    "read_answer",
    "typed_error",
]

_T = TypeVar("_T")

Token = str | Callable[[], str]
"""A signed token, or what gives the current one."""

ANOTHER_MAY_SUCCEED: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
"""After these, a hedged call waits for its other answer; every other status is an answer."""

# What gRPC itself and other servers say of messages and metadata that are too large; ours sends details.
_TOO_LARGE: Final = re.compile(r"larger than|metadata size|header list size")

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
        ("grpc.min_reconnect_backoff_ms", 5_000),  # to gRPC's core, how long a connection may take to stand
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.service_config", _RETRIES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.use_local_subchannel_pool", 1),  # each channel its own connection, so a pool reaches several processes
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


class Stubs:
    """One connection and what is called on it.

    Args:
        channel: of either kind, `grpc.Channel` or `grpc.aio.Channel`.
    """

    __slots__ = ("channel", "embeddings", "features", "recommendation", "snapshots")

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.features: Any = features_pb2_grpc.FeatureServiceStub(channel)
        self.embeddings: Any = embeddings_pb2_grpc.EmbeddingServiceStub(channel)
        self.recommendation: Any = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        self.snapshots: Any = snapshots_pb2_grpc.SnapshotServiceStub(channel)


class Turns:
    """Connections that calls take in turn. Use from many threads.

    Args:
        opened: opens a channel.
        connections: how many.
        hedged: whether calls are hedged, which takes two connections at least: where one stands still, the same one is
            no way round.

    Raises:
        RequestInvalid: no connections.
    """

    def __init__(self, opened: Callable[[], Any], connections: int, *, hedged: bool) -> None:
        if connections < 1:
            raise RequestInvalid(f"connections: found {connections}, allowed: at least 1")
        self.all: Sequence[Stubs] = tuple(Stubs(opened()) for _ in range(max(connections, 2 if hedged else 1)))
        self._turns = itertools.count()

    def next_two(self) -> tuple[Stubs, Stubs]:
        """The connection whose turn it is, and another one for a hedge; the same where there is one only."""
        turn, number = next(self._turns), len(self.all)
        return self.all[turn % number], self.all[(turn + 1) % number]

    def next(self) -> Stubs:
        """The connection whose turn it is."""
        return self.next_two()[0]


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
        case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_LARGE.search(text):
            return RequestInvalid(f"{target}: {text}; split the request, or shorten the token and the purpose")
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
