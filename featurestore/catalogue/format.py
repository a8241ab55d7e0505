"""The bytes of a catalogue snapshot.

    "HGCAT001"                 8 bytes
    header length              u32, little-endian
    header                     canonical JSON: schema, sequence, counts, names, and the size of each section
    padding                    zeros, to a multiple of 8
    sections                   each padded with zeros to a multiple of 8
        ids                    int64 (n), or text
        vectors                int8 (n, d); vector i is approximately vectors[i] * scales[i]
        scales                 float32 (n)
        titles                 text
        tag_names              text: the vocabulary, sorted
        tag_offsets            u32 (n + 1)
        tag_codes              u32, indexes into the vocabulary; item i has codes[offsets[i]:offsets[i + 1]]
        feature 0, 1, ...      float32 (n) each; NaN where the item was not released
    SHA-256                    32 bytes, of everything before

Text is a u32 count of strings, u32 offsets (count + 1) and UTF-8. Numbers are little-endian. Nothing is compressed, so
a file can never unfold into more than it is, and every number in the header must agree with the sizes that are there.
One catalogue has one encoding.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from governance.canonical import canonical_bytes
from governance.errors import PublicationCorrupt

__all__ = ["MAX_BYTES", "Catalogue", "decode", "encode"]

MAGIC: Final = b"HGCAT001"
SCHEMA: Final = "hedgerow.catalogue/1"
MAX_BYTES: Final = 1 << 30
MAX_HEADER_BYTES: Final = 1 << 20
METRICS: Final = ("cosine", "dot", "l2")
_HEADER_FIELDS: Final = {
    "schema": str,
    "sequence": int,
    "created_at": str,
    "key": str,
    "metric": str,
    "rows": int,
    "dimension": int,
    "text_ids": bool,
    "features": list,
    "releases": list,
    "sections": list,
}
_FIXED_SECTIONS: Final = ("ids", "vectors", "scales", "titles", "tag_names", "tag_offsets", "tag_codes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What a device knows about the items: n of them, with vectors of d dimensions.

    Attributes:
        sequence: grows with every new content; a device refuses to go back.
        created_at: ISO 8601 UTC.
        key: the name of the ids, e.g. `"item_id"`.
        ids: int64 or str `(n,)`, distinct.
        vectors: int8 `(n, d)`.
        scales: float32 `(n,)`, not negative; vector i is approximately `vectors[i] * scales[i]`.
        titles: n texts, empty where an item has none.
        tags: n tuples of tags, e.g. genres.
        features: `view:feature` → float32 `(n,)`, NaN where the item was not released.
        releases: ids of the releases behind it.
        metric: how vectors are compared: `"cosine"`, `"dot"` or `"l2"`.

    Raises:
        ValueError: shapes, types or lengths do not agree.
    """

    sequence: int
    created_at: str
    key: str
    ids: NDArray[Any]
    vectors: NDArray[np.int8]
    scales: NDArray[np.float32]
    titles: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    features: Mapping[str, NDArray[np.float32]]
    releases: tuple[str, ...]
    metric: str = "cosine"

    def __post_init__(self) -> None:
        rows = len(self.ids)
        if self.sequence < 0:
            raise ValueError("sequence must not be negative")
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}")
        texts = self.ids.dtype.kind == "U" or all(type(item) is str for item in self.ids)
        if self.ids.ndim != 1 or not (self.ids.dtype == np.int64 or texts):
            raise ValueError("ids must be int64 or str, one-dimensional")
        if self.vectors.ndim != 2 or self.vectors.dtype != np.int8 or len(self.vectors) != rows:
            raise ValueError("vectors must be int8 of shape (n, d)")
        if self.scales.shape != (rows,) or self.scales.dtype != np.float32:
            raise ValueError("scales must be float32 of shape (n,)")
        if not (np.isfinite(self.scales) & (self.scales >= 0)).all():
            raise ValueError("scales must be finite and not negative")
        if len(self.titles) != rows or len(self.tags) != rows:
            raise ValueError("titles and tags must have n entries")
        for values in self.features.values():
            if values.shape != (rows,) or values.dtype != np.float32 or np.isinf(values).any():
                raise ValueError("features must be float32 of shape (n,), finite or NaN")
        if len(set(self.ids.tolist())) != rows:
            raise ValueError("ids must be distinct")

    @property
    def dimension(self) -> int:
        """d."""
        return int(self.vectors.shape[1])


def encode(catalogue: Catalogue) -> bytes:
    """A catalogue's one encoding.

    Raises:
        ValueError: larger than `MAX_BYTES`, or more names than a header holds.
    """
    names = sorted({tag for tags in catalogue.tags for tag in tags})
    codes = {name: code for code, name in enumerate(names)}
    lengths = [len(tags) for tags in catalogue.tags]
    features = sorted(catalogue.features)
    text_ids = catalogue.ids.dtype.kind != "i"
    ids = _text(catalogue.ids.tolist()) if text_ids else catalogue.ids.astype("<i8").tobytes()
    sections = [
        ids,
        np.ascontiguousarray(catalogue.vectors).tobytes(),
        catalogue.scales.astype("<f4").tobytes(),
        _text(catalogue.titles),
        _text(names),
        np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype("<u4").tobytes(),
        np.array([codes[tag] for tags in catalogue.tags for tag in tags], "<u4").tobytes(),
        *(catalogue.features[name].astype("<f4").tobytes() for name in features),
    ]
    header = canonical_bytes(
        {
            "schema": SCHEMA,
            "sequence": catalogue.sequence,
            "created_at": catalogue.created_at,
            "key": catalogue.key,
            "metric": catalogue.metric,
            "rows": len(catalogue.ids),
            "dimension": catalogue.dimension,
            "text_ids": text_ids,
            "features": features,
            "releases": list(catalogue.releases),
            "sections": [len(section) for section in sections],
        }
    )
    start = MAGIC + struct.pack("<I", len(header)) + header
    body = b"".join(part + bytes(-len(part) % 8) for part in (start, *sections))
    if len(header) > MAX_HEADER_BYTES or len(body) + 32 > MAX_BYTES:
        raise ValueError(f"a catalogue holds at most {MAX_BYTES} bytes, {MAX_HEADER_BYTES} of them names")
    return body + hashlib.sha256(body).digest()


def decode(data: bytes) -> Catalogue:
    """Reads a catalogue from bytes that may come from anywhere. Arrays are read-only views of `data`.

    Check the signature (`verify`) before believing what it says.

    Raises:
        PublicationCorrupt: the checksum differs, or sizes, types or names do not agree.
    """
    try:
        return _decode(data)
    except (ValueError, TypeError, KeyError, IndexError, struct.error, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise PublicationCorrupt(f"not a catalogue snapshot ({reason}); download it again") from None


def _decode(data: bytes) -> Catalogue:
    if len(data) > MAX_BYTES:
        raise ValueError("too large")
    if len(data) < len(MAGIC) + 4 + 32 or data[: len(MAGIC)] != MAGIC:
        raise ValueError("other kind of file")
    end = len(data) - 32
    if hashlib.sha256(memoryview(data)[:end]).digest() != data[end:]:
        raise ValueError("checksum differs")
    (length,) = struct.unpack_from("<I", data, len(MAGIC))
    cursor = len(MAGIC) + 4
    if length > min(MAX_HEADER_BYTES, end - cursor):
        raise ValueError("header length out of bounds")
    header = _header(data[cursor : cursor + length])
    cursor = _skip_padding(data, cursor + length, end)

    rows, features = header["rows"], header["features"]
    sizes = header["sections"]
    if len(sizes) != len(_FIXED_SECTIONS) + len(features):
        raise ValueError("number of sections")
    sections = []
    for size in sizes:
        if size > end - cursor:
            raise ValueError("section out of bounds")
        sections.append(memoryview(data)[cursor : cursor + size])
        cursor = _skip_padding(data, cursor + size, end)
    if cursor != end:
        raise ValueError("bytes after the last section")

    ids, vectors, scales, titles, tag_names, tag_offsets, tag_codes, *columns = sections
    if header["text_ids"]:
        found_ids: NDArray[Any] = np.array(_strings(ids, rows), object)
    else:
        found_ids = _numbers(ids, "<i8", rows)
    return Catalogue(
        sequence=header["sequence"],
        created_at=header["created_at"],
        key=header["key"],
        metric=header["metric"],
        ids=found_ids,
        vectors=_numbers(vectors, "<i1", rows * header["dimension"]).reshape(rows, header["dimension"]),
        scales=_numbers(scales, "<f4", rows),
        titles=_strings(titles, rows),
        tags=_tags(tag_names, tag_offsets, tag_codes, rows),
        features={name: _numbers(column, "<f4", rows) for name, column in zip(features, columns, strict=True)},
        releases=tuple(header["releases"]),
    )


def _header(data: bytes) -> dict[str, Any]:
    """The header, with every field's type and sign checked."""
    header = json.loads(data)
    if type(header) is not dict or set(header) != set(_HEADER_FIELDS):
        raise ValueError("header fields")
    for name, kind in _HEADER_FIELDS.items():
        if type(header[name]) is not kind:
            raise ValueError(f"header field {name}")
    if header["schema"] != SCHEMA:
        raise ValueError("schema")
    numbers = [header["sequence"], header["rows"], header["dimension"], *header["sections"]]
    if any(type(number) is not int or not 0 <= number < 1 << 63 for number in numbers):
        raise ValueError("header numbers")
    if any(type(name) is not str for name in [*header["features"], *header["releases"]]):
        raise ValueError("header names")
    if header["features"] != sorted(set(header["features"])) or canonical_bytes(header) != data:
        raise ValueError("header is not canonical")
    return header


def _skip_padding(data: bytes, cursor: int, end: int) -> int:
    after = cursor + -cursor % 8
    if after > end or any(data[cursor:after]):
        raise ValueError("padding")
    return after


def _numbers(section: memoryview, kind: str, count: int) -> NDArray[Any]:
    if len(section) != count * np.dtype(kind).itemsize:
        raise ValueError("section size")
    return np.frombuffer(section, kind)


def _text(strings: Sequence[str]) -> bytes:
    encoded = [string.encode() for string in strings]
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in encoded], dtype=np.int64)])
    return struct.pack("<I", len(encoded)) + offsets.astype("<u4").tobytes() + b"".join(encoded)


def _strings(section: memoryview, count: int | None = None) -> tuple[str, ...]:
    if len(section) < 8:
        raise ValueError("text size")
    (written,) = struct.unpack_from("<I", section)
    start = 4 + 4 * (written + 1)
    if (count is not None and written != count) or start > len(section):
        raise ValueError("text size")
    offsets = _offsets(section[4:start], len(section) - start)
    blob = section[start:]
    return tuple(str(blob[a:b], "utf-8") for a, b in pairwise(offsets))


def _offsets(section: memoryview, total: int) -> list[int]:
    offsets = np.frombuffer(section, "<u4").astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise ValueError("offsets")
    return [int(offset) for offset in offsets]


def _tags(names: memoryview, offsets: memoryview, codes: memoryview, rows: int) -> tuple[tuple[str, ...], ...]:
    vocabulary = _strings(names)
    if list(vocabulary) != sorted(set(vocabulary)) or len(codes) % 4 or len(offsets) != 4 * (rows + 1):
        raise ValueError("tags")
    used = np.frombuffer(codes, "<u4")
    if set(used.tolist()) != set(range(len(vocabulary))):
        raise ValueError("tags")
    spans = _offsets(offsets, len(used))
    tags = [vocabulary[code] for code in used]
    return tuple(tuple(tags[a:b]) for a, b in pairwise(spans))
