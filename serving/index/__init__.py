"""A vector space on disk and its search. FAISS lives here and nowhere else.

A space is one immutable directory, made at publish from one vector release and mapped by the server. What it holds,
what was measured on it, and how it is searched are one module each:

Reading guide
    kinds    which index for how many vectors, which recall and which memory: pure functions
    engine   the few FAISS calls everything else is made of: build, map, walk, compare
    tuning   how much effort reaches the declared recall
    probes   recall, measured on vectors that the index has not seen, and again on the whole
    layout   the directory's files; verifies them, so that a damaged or half-copied space is refused
    pages    brings mapped files into memory before the first request needs them
    write    vectors to a directory
    space    an opened space: look up, search under conditions, leave out what was removed
    gpu      the same search on a GPU, where there is one
"""

from serving.index.engine import single_threaded
from serving.index.kinds import FLAT_ROWS, METRICS, IndexKind, candidates, resident_bytes
from serving.index.layout import SCHEMA, SpaceMeta
from serving.index.space import Hits, VectorSpace
from serving.index.tuning import Tuning
from serving.index.write import write_space

__all__ = [
    "FLAT_ROWS",
    "METRICS",
    "SCHEMA",
    "Hits",
    "IndexKind",
    "SpaceMeta",
    "Tuning",
    "VectorSpace",
    "candidates",
    "resident_bytes",
    "single_threaded",
    "write_space",
]
