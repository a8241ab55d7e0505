"""Header blocks: requests' decoded once each, answers' written from constants.

HPACK (RFC 7541) is the `hpack` library's. What is ours is that a block is not decoded twice: a client that calls again
and again sends the same few bytes, which point into a table that both sides hold, and as long as nothing was added to
that table the same bytes mean the same headers. So a connection remembers, for the table as it is, what each block
meant, with everything that follows from it: method, deadline, metadata.

Answers use the static table and literals only, so they depend on nothing and are the same bytes for every call.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import grpc
from hpack import Decoder
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from serving.front.frames import ErrorCode, Fault
from serving.front.methods import Method
from serving.front.refusals import Refused

__all__ = ["ANSWER_BLOCK", "OK_BLOCK", "Head", "Heads", "http_status_block", "metadata_block", "trailers_block"]

MAX_METADATA_BYTES: Final = 16 * 1024
"""Of a call's header list, as RFC 9113 counts it; larger ones are refused."""
_MAX_LIST_BYTES: Final = 16 * MAX_METADATA_BYTES
"""Beyond it the connection ends: such lists are not even decoded."""
_REMEMBERED: Final = 64
_REMEMBERED_BYTES: Final = 4 * 1024
"""Larger header lists are decoded each time: what a connection remembers must stay small."""
_RESIZE: Final = 0x20
"""How a block begins that changes the table's size (RFC 7541, 6.3)."""

logging.getLogger("hpack").setLevel(logging.WARNING)  # at DEBUG it logs headers, tokens among them

_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|^[ \t]|[ \t]\Z")
_FORBIDDEN: Final = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority"))
_HIDDEN: Final = frozenset((b"content-type", b"te", b"grpc-encoding", b"grpc-accept-encoding", b"content-length"))
"""Not metadata of the call but of its transport."""
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_ENCODINGS: Final = frozenset((b"identity", b"gzip", b"deflate"))
_PLAIN_MESSAGE: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Metadatum(NamedTuple):
    """One pair of a call's metadata, as grpcio's servers give it."""

    key: str
    value: str | bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a call's headers say.

    Attributes:
        method: what answers it; None where there is none.
        path: `/package.Service/Method`.
        timeout_seconds: the caller's deadline from now, or None.
        encoding: of compressed messages, `identity`, `gzip` or `deflate`.
        metadata: the call's own, in order; values of names in `-bin` are bytes.
        length: of all DATA, where the caller says so; -1 otherwise.
        size: of the header list in bytes, as RFC 9113 counts it.
        http_status: what to answer instead of gRPC, where this is no gRPC call; 0 otherwise.
        refusal: why a call is refused for its headers; None where it is not.
    """

    method: Method | None
    path: str
    timeout_seconds: float | None
    encoding: str
    metadata: tuple[Metadatum, ...]
    length: int
    size: int
    http_status: int = 0
    refusal: Refused | None = None


class _Table(HeaderTable):
    """A header table that counts its additions."""

    version = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.version += 1
        super().add(name, value)


class Heads:
    """Decodes one connection's header blocks. Every block must pass through, in order: they change the table.

    Args:
        methods: path → what answers it.
    """

    def __init__(self, methods: Mapping[str, Method]) -> None:
        self._methods = methods
        self._decoder = Decoder(_MAX_LIST_BYTES)
        self._table = self._decoder.header_table = _Table()
        self._version = 0
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """What a call's header block says.

        Raises:
            Fault: it is no HPACK, or far too large; then the table is lost, and with it the connection.
            ValueError: it is not a well-formed request (RFC 9113, 8.3).
        """
        if self._table.version != self._version:
            self._known.clear()
            self._version = self._table.version
        known = self._known.get(block)
        if known is not None:
            return known
        head = _head(self._decoded(block), self._methods)
        if self._table.version == self._version and head.size <= _REMEMBERED_BYTES:
            # The block changed nothing, so it will mean the same next time.
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = head
        return head

    def skip(self, block: bytes) -> None:
        """Decodes a block that nobody asks for: trailers, or headers of a stream that is over.

        Raises:
            Fault: as `read`.
            ValueError: it holds what trailers must not.
        """
        for name, _ in self._decoded(block):
            if name.startswith(b":") or _NAME.fullmatch(name) is None or name in _FORBIDDEN:
                raise ValueError("malformed trailers")

    def _decoded(self, block: bytes) -> list[tuple[bytes, bytes]]:
        if block and block[0] & 0xE0 == _RESIZE:
            self._table.version += 1
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except (HPACKError, IndexError, ValueError):
            raise Fault(ErrorCode.COMPRESSION_ERROR) from None


def _head(fields: list[tuple[bytes, bytes]], methods: Mapping[str, Method]) -> Head:
    pseudo: dict[bytes, bytes] = {}
    regular: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name not in _PSEUDO or name in pseudo:
                raise ValueError("malformed pseudo-header")
            pseudo[name] = value
        else:
            if _NAME.fullmatch(name) is None or name in _FORBIDDEN or (name == b"te" and value != b"trailers"):
                raise ValueError("malformed header")
            if _BAD_VALUE.search(value) is not None:
                raise ValueError("malformed value")
            regular.append((name, value))
    if not pseudo.get(b":path") or b":method" not in pseudo or b":scheme" not in pseudo:
        raise ValueError("pseudo-header missing")
    own = dict(regular)
    status = _http_status(pseudo, own)
    refusal: Refused | None = None
    path = pseudo[b":path"].decode("ascii", "replace")
    timeout: float | None = None
    metadata: tuple[Metadatum, ...] = ()
    size = sum(len(name) + len(value) + 32 for name, value in fields)
    if size > MAX_METADATA_BYTES:
        found = f"found {size:,} bytes of metadata, allowed {MAX_METADATA_BYTES:,}; send fewer, or a shorter token"
        refusal = Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, found, "metadata")
    else:
        try:
            timeout = _timeout(own.get(b"grpc-timeout"))
            metadata = tuple(_metadata(regular))
        except ValueError as error:
            refusal = Refused(grpc.StatusCode.INVALID_ARGUMENT, str(error), "metadata")
    method = methods.get(path)
    encoding = own.get(b"grpc-encoding", b"identity")
    if refusal is None and method is None:
        text = "no such method; this server's reflection lists what there is"
        refusal = Refused(grpc.StatusCode.UNIMPLEMENTED, text, "method")
    if refusal is None and encoding not in _ENCODINGS:
        text = "this message encoding is not supported; use identity or gzip"
        refusal = Refused(grpc.StatusCode.UNIMPLEMENTED, text, "metadata")
    return Head(
        method=method,
        path=path,
        timeout_seconds=timeout,
        encoding=encoding.decode("ascii", "replace"),
        metadata=metadata,
        length=_length({value for name, value in regular if name == b"content-length"}),
        size=size,
        http_status=status,
        refusal=refusal,
    )


def _http_status(pseudo: Mapping[bytes, bytes], own: Mapping[bytes, bytes]) -> int:
    if pseudo[b":method"] != b"POST":
        return 405
    kind = own.get(b"content-type", b"")
    if not kind.startswith(b"application/grpc") or kind[16:17] not in (b"", b"+", b";"):
        return 415
    return 0


def _length(values: set[bytes]) -> int:
    if not values:
        return -1
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise ValueError("malformed content-length")
    return int(value)


def _timeout(value: bytes | None) -> float | None:
    if value is None:
        return None
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise ValueError("grpc-timeout is not a number and a unit")
    return int(found[1]) * _UNITS[found[2]]


def _metadata(regular: Iterable[tuple[bytes, bytes]]) -> Iterable[Metadatum]:
    for name, value in regular:
        if name in _HIDDEN or (name.startswith(b"grpc-") and not name.endswith(b"-bin")):
            continue
        text = name.decode("ascii")
        if not name.endswith(b"-bin"):
            yield Metadatum(text, value.decode("utf-8", "replace"))
            continue
        for part in value.split(b","):  # several values may come as one
            try:
                yield Metadatum(text, base64.b64decode(part.strip() + b"=" * (-len(part.strip()) % 4), validate=True))
            except binascii.Error:
                raise ValueError("metadata in -bin is not base64") from None


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    prefix, rest = bytearray((0x7F,)), size - 0x7F
    while rest >= 0x80:
        prefix.append(rest & 0x7F | 0x80)
        rest >>= 7
    prefix.append(rest)
    return bytes(prefix) + text


_STATUS_200: Final = b"\x88"  # static table, entry 8
ANSWER_BLOCK: Final = (
    _STATUS_200
    + _literal(b"content-type", b"application/grpc")
    + _literal(b"grpc-accept-encoding", b"identity, deflate, gzip")
)
"""Headers of every gRPC answer."""
OK_BLOCK: Final = _literal(b"grpc-status", b"0")
"""Trailers of a call that went well and says nothing more."""


def trailers_block(code: int, message: str, metadata: Iterable[tuple[str, str | bytes]], *, only: bool) -> bytes:
    """Trailers.

    Args:
        code: the status' number.
        message: its text.
        metadata: the call's trailing metadata.
        only: whether no headers went before (a Trailers-Only answer, which holds them too).
    """
    block = ANSWER_BLOCK if only else b""
    block += _literal(b"grpc-status", str(code).encode())
    if message:
        block += _literal(b"grpc-message", quote(message, safe=_PLAIN_MESSAGE).encode("ascii"))
    return block + metadata_block(metadata)


def metadata_block(metadata: Iterable[Any]) -> bytes:
    """Metadata of an answer, names in `-bin` as base64."""
    block = b""
    for name, value in metadata:
        raw = value.encode() if isinstance(value, str) else value
        block += _literal(name.encode("ascii"), base64.b64encode(raw).rstrip(b"=") if name.endswith("-bin") else raw)
    return block


def http_status_block(status: int) -> bytes:
    """Headers of an answer to what is no gRPC call."""
    return _literal(b":status", str(status).encode())
