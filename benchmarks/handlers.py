"""What requests cost beyond their transport: the handlers called in process, from a request's bytes to an answer's.

    python -m benchmarks.handlers [--json] [--users N] [--seconds S]

The data of benchmarks.serving: 10 features of n users, n in {1, 10, 100}, from a snapshot, Redis and SQLite; the same
with a tenth of the users unknown; vectors of n items; the 10 nearest of 10,000 items to 1 and to 16 vectors, beside
FAISS alone on the same queries.

Told are microseconds of processor time of the calling thread, the least and the median of batches of 50 calls: other
work on the machine blurs these far less than time on the wall. Redis' own time is not in them, waiting for it neither.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks._feast_peer import FEATURES, KEY
from benchmarks.serving import ITEMS, SIZES, our_request, published
from featurestore.publication import load_publication
from featurestore.reading import open_published_reader
from governance.settings import Settings
from serving.embeddings import get_embeddings, search
from serving.features import get_features
from serving.index import single_threaded
from serving.index.engine import mapped, walk
from serving.index.layout import INDEX
from serving.state import Published, open_published
from serving.v1 import embeddings_pb2, values_pb2
from tests.support.redis import free_port, redis_server

REQUESTS: Final = 200
BATCH: Final = 50
K: Final = 10
UNKNOWN: Final = 0.1
TARGETS: Final = {
    "snapshot,n=1": 40,
    "snapshot,n=10": 40,
    "snapshot,n=100": 100,
    "redis,n=10": 150,
    "redis,n=100": 300,
}
"""Microseconds at most."""

Cost = dict[str, float]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    options = parser.parse_args()
    single_threaded()
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder, ExitStack() as stack:
        found = run(Path(folder), stack, options.users, options.seconds)
    if not options.json:
        for name, cost in found.items():
            print(f"{name:24} {cost['least']:>8.1f} µs  median {cost['median']:>8.1f}")
    targets = {
        name: {"found": found[name]["median"], "at_most": most, "met": found[name]["median"] <= most}
        for name, most in TARGETS.items()
    }
    document = {"benchmark": "handlers", "microseconds": found, "targets": targets}
    print(json.dumps(document, indent=None if options.json else 2))


def run(folder: Path, stack: ExitStack, users: int, seconds: float) -> dict[str, Cost]:
    """Every handler's cost."""
    rng = np.random.default_rng(1)
    data: dict[str, Any] = {KEY: np.arange(users, dtype=np.int64)}
    data |= {name: np.random.default_rng(i).standard_normal(users) for i, name in enumerate(FEATURES)}
    redis = stack.enter_context(redis_server(free_port()))
    states = {
        store: opened(published(folder / store, store, redis, data)[0]) for store in ("snapshot", "redis", "sqlite")
    }
    asked = rng.integers(0, users, (REQUESTS, max(SIZES)))
    partly = np.where(rng.random(asked.shape) < UNKNOWN, asked + users, asked)
    partly[:, 0] = users  # so that one at least is unknown in every request
    found: dict[str, Cost] = {}
    for store, state in states.items():
        for size in SIZES:
            for name, rows in ((f"{store},n={size}", asked), (f"{store},n={size},unknown", partly)):
                requests = [our_request(row[:size]) for row in rows]
                found[name] = cost(get_features, state, requests, seconds)
    state = states["snapshot"]
    space = next(iter(state.spaces))
    for size in SIZES:
        requests = [
            embeddings_pb2.GetEmbeddingsRequest(
                space=space, ids=values_pb2.Ids(int64s=values_pb2.Int64Values(values=row[:size].tolist()))
            ).SerializeToString()
            for row in asked % ITEMS
        ]
        found[f"vectors,n={size}"] = cost(get_embeddings, state, requests, seconds)
    for queries in (1, 16):
        found |= searched(state, space, rng.standard_normal((REQUESTS, queries, 64)).astype("<f4"), seconds)
    return found


def searched(state: Published, name: str, queries: Any, seconds: float) -> dict[str, Cost]:
    """A Search of so many queries, and FAISS alone."""
    space = state.spaces[name]
    index, effort = mapped(space.directory / INDEX, space.meta.index), space.meta.tuning.effort(K)
    requests = [
        embeddings_pb2.SearchRequest(space=name, vectors=some.tobytes(), k=K).SerializeToString() for some in queries
    ]

    def alone(_state: Published, some: Any, _permit: Any) -> None:
        walk(index, space.meta.index, some, K, effort)

    count = queries.shape[1]
    return {
        f"search,q={count}": cost(search, state, requests, seconds),
        f"search,q={count},faiss": cost(alone, state, list(queries), seconds),
    }


def opened(settings: Settings) -> Published:
    """What a server would answer from."""
    publication = load_publication(settings)
    return open_published(settings, publication, open_published_reader(settings, publication))


def cost(handler: Callable[..., Any], state: Published, requests: Sequence[Any], seconds: float) -> Cost:
    """Microseconds of processor time that a call takes."""

    def permit(_resources: tuple[str, ...], _rows: int) -> None:
        """Anybody may read anything."""

    taken: list[float] = []
    done = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < 3:
        began = time.thread_time()
        for position in range(done, done + BATCH):
            handler(state, requests[position % len(requests)], permit)
        taken.append(1e6 * (time.thread_time() - began) / BATCH)
        done += BATCH
    return {"least": round(min(taken), 1), "median": round(float(np.median(taken)), 1)}


if __name__ == "__main__":
    main()
