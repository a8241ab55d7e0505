"""How large a request may be: the same numbers for server, client and documentation."""

from __future__ import annotations

from typing import Final

__all__ = [
    "MAX_ALLOWED",
    "MAX_EXCLUDED",
    "MAX_FEATURES",
    "MAX_MESSAGE_BYTES",
    "MAX_NEIGHBORS",
    "MAX_QUERIES",
    "MAX_ROWS",
    "MAX_STREAM_ROWS",
    "MAX_TAGS",
    "STREAM_CHUNK_BYTES",
]

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""Of any one gRPC message, either way."""

MAX_ROWS: Final = 10_000
"""Entities of one GetFeatures, ids of one GetEmbeddings."""

MAX_STREAM_ROWS: Final = 1_000_000
"""Entities of one StreamFeatures, ids of one StreamEmbeddings."""

MAX_FEATURES: Final = 1_000
"""Features of one GetFeatures."""

MAX_QUERIES: Final = 1_024
"""Queries of one Search."""

MAX_NEIGHBORS: Final = 1_000
"""k of one Search."""

MAX_EXCLUDED: Final = 10_000
"""Excluded ids of one Search."""

MAX_ALLOWED: Final = 100_000
"""Allowed ids of one Search."""

MAX_TAGS: Final = 100
"""Tags of one Search."""

STREAM_CHUNK_BYTES: Final = 256 * 1024
"""Of one message of a catalogue stream."""
