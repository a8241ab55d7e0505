"""The files of a space's directory, and the check that they are what was written.

index.faiss     the FAISS index; its vector i is row i, at length 1 for cosine
vectors.f32     the vectors as released: n * d little-endian float32, row after row
unit.f32        the same at length 1; cosine only, and only where they are not so already
ids.i64         n int64 ids, and
places.i64      which row each has, if they lie close together (`featurestore.rows.PlaceTable`), else
order.i64       the rows in the ids' order; or
ids.json        n string ids
tags.json       the tags, sorted
tags.rows.i64   for each tag in turn, the rows that carry it
tags.ends.i64   for each tag, where its run in tags.rows.i64 ends
probes.f32      for each probe, the scores of its true neighbors, nearest first; the probes are the last rows
meta.json       `SpaceMeta` as canonical JSON, with the size and SHA-256 of every file above
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from governance.canonical import canonical_bytes, sha256_file
from governance.errors import NotPublished, PublicationCorrupt
from serving.index.engine import Rows
from serving.index.kinds import METRICS, IndexKind
from serving.index.tuning import Tuning

__all__ = [
    "IDS",
    "INDEX",
    "NAMES",
    "ORDER",
    "PLACES",
    "PROBES",
    "SCHEMA",
    "UNIT",
    "VECTORS",
    "SpaceMeta",
    "corrupt",
    "read_array",
    "read_tags",
    "verified",
    "write_meta",
    "write_tags",
]

SCHEMA: Final = "hedgerow.space/2"
INDEX, VECTORS, UNIT, PROBES = "index.faiss", "vectors.f32", "unit.f32", "probes.f32"
IDS, PLACES, ORDER, NAMES = "ids.i64", "places.i64", "order.i64", "ids.json"

_META = "meta.json"
_TAGS, _TAG_ROWS, _TAG_ENDS = "tags.json", "tags.rows.i64", "tags.ends.i64"
_MOST: Final = 2**31 - 1
"""What FAISS counts to in its own files."""
_ALWAYS = frozenset((INDEX, VECTORS, PROBES, _TAGS, _TAG_ROWS, _TAG_ENDS))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceMeta:
    """What a space's directory says about itself.

    Attributes:
        name: the space's name.
        release_id: the release the vectors come from.
        key: the id column's name.
        key_type: `"int64"` or `"string"`.
        rows: n.
        dimension: d.
        metric: one of `METRICS`.
        index: how it is searched.
        tuning: the declared recall, and the effort that was measured to reach it.
        files: file name → `(bytes, sha256)`.
    """

    name: str
    release_id: str
    key: str
    key_type: str
    rows: int
    dimension: int
    metric: str
    index: IndexKind
    tuning: Tuning
    files: Mapping[str, tuple[int, str]]
    schema: str = SCHEMA


def write_meta(directory: Path, meta: SpaceMeta) -> None:
    """Writes `meta.json`, the last file of a directory."""
    (directory / _META).write_bytes(canonical_bytes(asdict(meta)))


def write_tags(directory: Path, tags: Sequence[Sequence[str]]) -> None:
    """Writes which rows carry each tag, from the tags of each row."""
    by_tag: dict[str, list[int]] = {}
    for row, own in enumerate(tags):
        for tag in dict.fromkeys(own):
            by_tag.setdefault(tag, []).append(row)
    names = sorted(by_tag)
    (directory / _TAGS).write_bytes(canonical_bytes(names))
    np.array([row for tag in names for row in by_tag[tag]], "<i8").tofile(directory / _TAG_ROWS)
    np.cumsum([len(by_tag[tag]) for tag in names], dtype="<i8").tofile(directory / _TAG_ENDS)


def read_tags(directory: Path) -> dict[str, Rows]:
    """The rows of each tag.

    Raises:
        ValueError: files that do not fit together.
    """
    names = json.loads((directory / _TAGS).read_bytes())
    rows = np.fromfile(directory / _TAG_ROWS, "<i8")
    ends = np.fromfile(directory / _TAG_ENDS, "<i8")
    if len(names) != len(ends) or (len(ends) and int(ends[-1]) != len(rows)):
        raise ValueError("tags")
    return dict(zip(names, np.split(rows, ends[:-1]), strict=True)) if names else {}


def read_array(path: Path, kind: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A file of numbers, mapped read-only; an empty one is an empty array.

    Raises:
        ValueError: a file of another size.
    """
    if path.stat().st_size != prod(shape) * np.dtype(kind).itemsize:
        raise ValueError(path.name)
    return np.asarray(np.memmap(path, kind, "r", shape=shape)) if all(shape) else np.empty(shape, kind)


def verified(directory: Path) -> SpaceMeta:
    """What the directory says about itself, after its files were compared with that.

    Raises:
        NotPublished: no such directory.
        PublicationCorrupt: a file is missing or differs from what `meta.json` says.
    """
    try:
        value = json.loads((directory / _META).read_bytes())
        meta = SpaceMeta(
            **{
                **value,
                "index": IndexKind(value["index"]),
                "tuning": Tuning(**value["tuning"]),
                "files": {name: tuple(entry) for name, entry in value["files"].items()},
            }
        )
        if meta.schema != SCHEMA or meta.metric not in METRICS or meta.key_type not in {"int64", "string"}:
            raise ValueError(meta.schema)
        tuning = meta.tuning
        counts = (meta.rows, meta.dimension, tuning.probes + 1, tuning.effort_10 + 1, tuning.effort_100 + 1)
        if not all(type(count) is int and 0 < count <= _MOST for count in counts):
            raise ValueError("counts")
        if not all(0 <= share <= 1 for share in (tuning.target, tuning.recall_10, tuning.recall_100)):
            raise ValueError("recall")
    except FileNotFoundError:
        raise NotPublished(f"{directory}: no vector space here; run 'hedgerow publish'") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise corrupt(directory, _META) from None
    ids = {NAMES}
    if meta.key_type == "int64":
        ids = {IDS, PLACES if PLACES in meta.files else ORDER}
    if lacking := sorted((ids | _ALWAYS) - set(meta.files)):
        raise corrupt(directory, lacking[0])
    for name, (size, digest) in meta.files.items():
        path = directory / name
        if path.parent != directory or not path.is_file() or path.stat().st_size != size or sha256_file(path) != digest:
            raise corrupt(directory, name)
    return meta


def corrupt(directory: Path, what: str) -> PublicationCorrupt:
    """The refusal of a directory, naming the file or finding."""
    return PublicationCorrupt(
        f"{directory}: {what} is not as published; remove the directory and run 'hedgerow publish' to build it anew"
    )
