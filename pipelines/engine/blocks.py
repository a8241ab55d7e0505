"""A partition's 128-bit block, by which its noise is keyed.

The block is `SHA-256(hex of each key column's bytes, joined by commas)[:16]`: of the bytes, because
a text that is not valid UTF-8 would turn into replacement characters on its way through a string function, and two such
keys would share their noise.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.noise import BLOCK_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["blocks_of"]


def blocks_of(keys: list[pa.Array[Any]]) -> NDArray[np.uint8]:
    """The 128-bit blocks of partitions by their keys, shape `(n, 16)`."""
    import pyarrow as pa

    columns = []
    for key in keys:
        if pa.types.is_string(key.type):
            texts = [value or b"" for value in key.cast(pa.binary()).to_pylist()]
        else:
            texts = [str(value).encode() for value in key.to_pylist()]
        columns.append([text.hex().upper().encode() for text in texts])
    digests = [hashlib.sha256(b",".join(parts)).digest()[:BLOCK_BYTES] for parts in zip(*columns, strict=True)]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, BLOCK_BYTES)
