"""From a call's DATA to its messages: gRPC's framing, compression, and what a body may not be."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import grpc

from serving.front.refusals import Refused

__all__ = ["MESSAGE_HEADER", "check_started", "one_message", "taken_messages"]

MESSAGE_HEADER: Final = struct.Struct(">BL")
"""Whether the message is compressed, and its length."""
MAX_INFLATED_BYTES: Final = 1024 * 1024
"""Of a message that came compressed: a thousandth of it is enough to ask for so much work. Larger ones come plain."""
_HEADER_BYTES: Final = 5
_CUT: Final = "a message that is cut short"
_TWO: Final = "more than one message in a call that takes one"


def one_message(body: bytes, encoding: str, most: int) -> bytes:
    """The message of a whole body that holds one.

    Args:
        body: all DATA of a call.
        encoding: of compressed messages: `identity`, `gzip` or `deflate`.
        most: bytes that a message may have, also when it is not compressed any more.

    Raises:
        Refused: there is none, more than one, or one that is too large or cannot be read.
    """
    size = len(body) - _HEADER_BYTES
    if size < 0:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, _CUT if body else "a call without a message")
    compressed, declared = MESSAGE_HEADER.unpack_from(body)
    if compressed or declared != size or size > most:
        check_started(body, most)
        if declared > size:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, _CUT)
        return _inflated(body, compressed, encoding, most)
    return body[_HEADER_BYTES:]


def check_started(body: bytes | bytearray, most: int) -> None:
    """Returns if what has come of a body that holds one message may go on.

    Raises:
        Refused: the message will be too large, or another one follows.
    """
    if len(body) >= _HEADER_BYTES:
        declared = MESSAGE_HEADER.unpack_from(body)[1]
        if declared > most:
            raise _too_large(most)
        if len(body) > declared + _HEADER_BYTES:
            raise Refused(grpc.StatusCode.UNIMPLEMENTED, _TWO)


def taken_messages(body: bytearray, encoding: str, most: int) -> Iterator[bytes]:
    """Takes whole messages from the front of a body that goes on.

    Raises:
        Refused: one is too large or cannot be read.
    """
    while len(body) >= _HEADER_BYTES:
        declared = MESSAGE_HEADER.unpack_from(body)[1]
        if declared > most:
            raise _too_large(most)
        if len(body) < declared + _HEADER_BYTES:
            return
        whole = bytes(body[: declared + _HEADER_BYTES])
        del body[: declared + _HEADER_BYTES]
        yield one_message(whole, encoding, most)


def _inflated(body: bytes, compressed: int, encoding: str, most: int) -> bytes:
    if compressed != 1 or encoding == "identity":
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "a compressed message without grpc-encoding")
    most = min(most, MAX_INFLATED_BYTES)
    inflate = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        whole = inflate.decompress(memoryview(body)[_HEADER_BYTES:], most + 1)
    except zlib.error:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "a compressed message that cannot be read") from None
    if len(whole) > most:
        text = f"a compressed message of more than {most:,} bytes; send it without compression"
        raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    if not inflate.eof:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, _CUT)
    if inflate.unused_data:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "a compressed message with more bytes after its end")
    return whole


def _too_large(most: int) -> Refused:
    text = f"a message of more than {most:,} bytes; split the request"
    return Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
