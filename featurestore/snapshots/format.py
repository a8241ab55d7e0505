"""The file: what is where, and how it is known to be whole.

    magic       8 bytes    "HRSNAP", 0, version 1
    length      u32        of the header; then 4 bytes 0
    header      JSON       canonical: view, keys, fields, rows, releases, sections
    sections               each at a multiple of 64 bytes, in the order of the header
    digest      32 bytes   SHA-256 of everything before

Sections: `places`, or `hashes` and `starts` (the index), `row` (packed rows, one more than there are: the row that
stands for those that are not there), `tail` and `tail.starts` where there are text fields, and one column for each key:
`key.<i>`, for texts with `key.<i>.offsets`. Nothing is compressed: a file is never larger in memory than on disk.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.rows import RowSchema
from governance.canonical import canonical_bytes

__all__ = ["DIGEST_BYTES", "Header", "assemble", "parse"]

_MAGIC: Final = b"HRSNAP\x00\x01"
_ALIGNMENT: Final = 64
_MAX_HEADER: Final = 1 << 20
DIGEST_BYTES: Final = 32
_KEY_TYPES: Final = ("int64", "string")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a snapshot says of itself.

    Attributes:
        view: the view's name.
        keys: join key and its stored type (`"int64"` or `"string"`), in the view's order.
        schema: of the packed rows.
        rows: N.
        releases: the releases whose rows it holds.
    """

    view: str
    keys: tuple[tuple[str, str], ...]
    schema: RowSchema
    rows: int
    releases: tuple[str, ...]


def assemble(header: Header, sections: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a snapshot file."""
    places: list[list[Any]] = []
    end = 0  # counted from the first section
    for name, array in sections.items():
        start = _aligned(end)
        places.append([name, start, array.nbytes])
        end = start + array.nbytes
    text = canonical_bytes(
        {
            "view": header.view,
            "keys": [list(key) for key in header.keys],
            "fields": header.schema.to_json(),
            "rows": header.rows,
            "releases": list(header.releases),
            "sections": places,
            "bytes": end,
        }
    )
    base = _aligned(16 + len(text))
    out = bytearray(base + end + DIGEST_BYTES)
    out[:16] = _MAGIC + len(text).to_bytes(4, "little") + bytes(4)
    out[16 : 16 + len(text)] = text
    view = np.frombuffer(out, np.uint8)
    for (_, start, size), array in zip(places, sections.values(), strict=True):
        view[base + start : base + start + size] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    out[-DIGEST_BYTES:] = hashlib.sha256(memoryview(out)[:-DIGEST_BYTES]).digest()
    return bytes(out)


def parse(data: memoryview) -> tuple[Header, dict[str, NDArray[np.uint8]]]:
    """Header and sections of a file, checked to be whole. Sections are views of `data`.

    Raises:
        ValueError: why it is none, in words without data.
    """
    if len(data) < 16 + DIGEST_BYTES or bytes(data[:8]) != _MAGIC:
        raise ValueError("not a snapshot of this version")
    length = int.from_bytes(data[8:12], "little")
    if length > min(_MAX_HEADER, len(data) - 16 - DIGEST_BYTES):
        raise ValueError("cut short")
    header, places, size = _header(bytes(data[16 : 16 + length]))
    base = _aligned(16 + length)
    if len(data) != base + size + DIGEST_BYTES:
        raise ValueError("cut short, or longer than it says")
    if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != bytes(data[-DIGEST_BYTES:]):
        raise ValueError("its digest does not match")
    sections = {}
    for name, start, count in places:
        if start % _ALIGNMENT or start < 0 or count < 0 or start + count > size:
            raise ValueError(f"section {name!r} lies outside")
        sections[name] = np.frombuffer(data, np.uint8, count, base + start)
    return header, sections


def _header(text: bytes) -> tuple[Header, list[tuple[str, int, int]], int]:
    try:
        value = json.loads(text)
        keys = tuple((str(name), str(kind)) for name, kind in value["keys"])
        header = Header(
            view=_of(str, value["view"]),
            keys=keys,
            schema=RowSchema.from_json(value["fields"]),
            rows=_of(int, value["rows"]),
            releases=tuple(_of(str, release) for release in value["releases"]),
        )
        places = [(_of(str, name), _of(int, start), _of(int, count)) for name, start, count in value["sections"]]
        size = _of(int, value["bytes"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError("its header cannot be read") from None
    if not keys or any(kind not in _KEY_TYPES for _, kind in keys) or header.rows < 0 or size < 0:
        raise ValueError("its header contradicts itself")
    return header, places, size


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


def typed(sections: Mapping[str, NDArray[np.uint8]], name: str, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    """A section as an array of that type and shape.

    Raises:
        ValueError: it is not there or has another size.
    """
    section = sections.get(name)
    if section is None or section.nbytes != np.dtype(dtype).itemsize * math.prod(shape):
        raise ValueError(f"section {name!r} is missing or has another size")
    return section.view(dtype).reshape(shape)
