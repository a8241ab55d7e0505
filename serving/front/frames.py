"""HTTP/2 frames (RFC 9113): numbers of the protocol, and bytes of the frames that a server writes."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

__all__ = [
    "DEFAULT_WINDOW",
    "FRAME_HEADER",
    "MAX_FRAME_BYTES",
    "MAX_WINDOW",
    "PREFACE",
    "STREAM_NUMBER",
    "ErrorCode",
    "Fault",
    "Flag",
    "Kind",
    "Setting",
    "StreamFault",
    "check",
    "frame",
    "goaway",
    "ping",
    "rst_stream",
    "settings",
    "unpadded",
    "window_update",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER: Final = struct.Struct(">HBBBL")
"""Length (16 and 8 bits), kind, flags, stream."""
MAX_FRAME_BYTES: Final = 16_384
"""Of the payload of frames that we take; RFC 9113's smallest allowed."""
MAX_WINDOW: Final = (1 << 31) - 1
DEFAULT_WINDOW: Final = 65_535
STREAM_NUMBER: Final = struct.Struct(">L")
"""Also of window increments and error codes."""


class Kind(IntEnum):
    """RFC 9113, 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag(IntEnum):
    """RFC 9113, 6. ACK and END_STREAM are the same bit."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """RFC 9113, 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class ErrorCode(IntEnum):
    """RFC 9113, 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Fault(Exception):
    """The peer broke the protocol: the connection ends with a GOAWAY."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


class StreamFault(Exception):
    """The peer broke the protocol within one stream, which ends with a RST_STREAM."""

    def __init__(self, stream: int, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.stream = stream
        self.code = code


def check(holds: bool, code: ErrorCode) -> None:
    """Raises a `Fault` where something does not hold."""
    if not holds:
        raise Fault(code)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    """SETTINGS."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HL", name, value) for name, value in values.items()))


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE; stream 0 is the connection."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, STREAM_NUMBER.pack(increment))


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """RST_STREAM."""
    return frame(Kind.RST_STREAM, 0, stream, STREAM_NUMBER.pack(code))


def goaway(last_stream: int, code: ErrorCode) -> bytes:
    """GOAWAY."""
    return frame(Kind.GOAWAY, 0, 0, struct.pack(">LL", last_stream, code))


def ping(opaque: bytes, *, ack: bool) -> bytes:
    """PING of 8 bytes."""
    return frame(Kind.PING, Flag.ACK if ack else 0, 0, opaque)


def unpadded(flags: int, payload: bytes) -> bytes:
    """A payload without its padding.

    Raises:
        Fault: there is more padding than payload.
    """
    if not flags & Flag.PADDED:
        return payload
    check(bool(payload) and payload[0] < len(payload), ErrorCode.PROTOCOL_ERROR)
    return payload[1 : len(payload) - payload[0]]
