"""The protobuf wire form, written by hand where a message is mostly a block of memory.

A packed, fixed-width repeated field is one length-prefixed run of little-endian values. Answers are put together from
such runs and a few cached bytes between them, so no Python code runs for a row or a value; what comes out is byte for
byte what protobuf's own serialiser gives (tests compare the two).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from serving.problems import FieldProblem

__all__ = [
    "Buffer",
    "IdRun",
    "delimited",
    "first_field",
    "header",
    "packed",
    "parsed",
    "run",
    "texts_field",
    "uint",
    "varint",
]

Parsed = TypeVar("Parsed", bound=Message)
Buffer = bytes | memoryview
"""What `bytes.join` takes: bytes, or the memory of a contiguous array."""

_DELIMITED: Final = 2
_INT64: Final = np.dtype("<i8")
_MAX_SHAPES: Final = 512
_SMALL: Final = tuple(bytes((value,)) for value in range(0x80))


def varint(value: int) -> bytes:
    """A non-negative integer, 7 bits a byte, least significant first."""
    if value < 0x80:
        return _SMALL[value]
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


@lru_cache(maxsize=4_096)
def header(number: int, size: int) -> bytes:
    """What precedes `size` bytes of a length-delimited field."""
    return varint(number << 3 | _DELIMITED) + varint(size)


def delimited(number: int, content: bytes) -> bytes:
    """A text, bytes or message field that is present, be it empty."""
    return header(number, len(content)) + content


def uint(number: int, value: int) -> bytes:
    """A varint field; nothing where it is 0, as proto3 has it."""
    return varint(number << 3) + varint(value) if value else b""


def packed(number: int, array: NDArray[Any]) -> bytes:
    """A packed repeated field; nothing where it is empty.

    Args:
        number: the field's number.
        array: `(n,)`, of the field's own width and little-endian.
    """
    raw = array.tobytes()
    return header(number, len(raw)) + raw if raw else b""


def texts_field(number: int, data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> bytes:
    """A repeated text or bytes field, its n headers written all at once.

    Args:
        number: the field's number, at most 15.
        data: uint8, the contents one after another.
        offsets: `(n + 1,)`, where each begins, from 0 on.
    """
    lengths = np.diff(offsets)
    if not len(lengths):
        return b""
    longest = int(lengths.max())
    widths = np.ones(len(lengths), np.int64)  # bytes of each length's varint
    for bits in range(7, longest.bit_length(), 7):
        widths += lengths >= 1 << bits
    starts = offsets[:-1] + np.concatenate(([0], np.cumsum(1 + widths)[:-1]))
    out = np.empty(int(offsets[-1] + len(lengths) + widths.sum()), np.uint8)
    out[starts] = number << 3 | _DELIMITED
    for place in range(int(widths.max())):
        here = widths > place
        more = np.where(widths[here] > place + 1, 0x80, 0)
        out[starts[here] + 1 + place] = lengths[here] >> 7 * place & 0x7F | more
    out[np.repeat(starts + 1 + widths - offsets[:-1], lengths) + np.arange(len(data))] = data
    return out.tobytes()


def run(raw: bytes, prefix: bytes, values: Sequence[Any], dtype: str, suffix: int = 0) -> NDArray[Any]:
    """The values of a packed field as an array `(n,)`: a view of the message's wire form, instead of visiting each.

    Args:
        raw: the message's wire form.
        prefix: everything that stands before the run if the message holds nothing unexpected; then the run is where it
            should be. Otherwise the values are visited after all.
        values: the field itself.
        dtype: of the field's own width, little-endian.
        suffix: how many bytes follow the run.
    """
    count = len(values)
    size = count * np.dtype(dtype).itemsize
    if count and len(raw) == len(prefix) + size + suffix and raw.startswith(prefix):
        return np.frombuffer(raw, dtype, count, len(prefix))
    return np.asarray(values, dtype=dtype)


def first_field(data: bytes) -> int:
    """Where a message's first field ends, if it is a text, bytes or message of less than 16 KiB; else 0."""
    if len(data) < 3 or data[0] & 7 != _DELIMITED or data[0] > 0x7F:
        return 0
    size = data[1]
    if size < 0x80:
        return 2 + size
    return 3 + (size & 0x7F) + (data[2] << 7) if data[2] < 0x80 else 0


def parsed(kind: type[Parsed], data: bytes) -> Parsed:
    """A message out of its wire form.

    Raises:
        RequestInvalid: it is none.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise FieldProblem("request", f"the bytes are not a {name} message; use the published proto files") from None


class IdRun:
    """Finds the 64-bit integers that end a message, where all that stands before them is as usual.

    What stands before a run depends on its length only, so by the number of bytes that are left it is known what must
    stand there. Whatever looks otherwise is not found, and is left to protobuf's own parser.

    Args:
        before: gives what stands before a run of so many bytes, which ends the message.
        most: so many integers at most are found.
    """

    __slots__ = ("_before", "_known", "_most")

    def __init__(self, before: Callable[[int], bytes], most: int) -> None:
        self._before = before
        self._most = most
        self._known: dict[int, tuple[bytes, int]] = {}

    def find(self, data: bytes, start: int) -> NDArray[np.int64] | None:
        """The integers, `(n,)`, a view of the message; None where there are none, or it looks otherwise.

        Args:
            data: the message.
            start: where the fields before are over.
        """
        rest = len(data) - start
        known = self._known.get(rest)
        if known is None:
            known = self._learn(rest)
        before, count = known
        if not count or not data.startswith(before, start):
            return None
        return np.frombuffer(data, _INT64, count, start + len(before))

    def _learn(self, rest: int) -> tuple[bytes, int]:
        """What stands before the run in so many bytes, and how many integers; none where no number of them fits."""
        found = b"", 0
        for count in range(min(rest // 8, self._most), max(0, rest // 8 - 16), -1):
            before = self._before(8 * count)
            if len(before) + 8 * count == rest:
                found = before, count
                break
        if len(self._known) >= _MAX_SHAPES:
            self._known.clear()
        self._known[rest] = found
        return found
