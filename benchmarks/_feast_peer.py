"""Feast's own servers over Feast's own Redis layout, as the peer of benchmarks.serving.

    python -m benchmarks._feast_peer load REPO REDIS STORE PARQUET      materialise; prints seconds
    python -m benchmarks._feast_peer grpc REPO                          serve; prints the address
    python -m benchmarks._feast_peer http REPO PORT                     serve
    python -m benchmarks._feast_peer client ADDRESS FILE CONCURRENCY SECONDS     load the HTTP server

STORE is `redis`, Feast's, or the class path of another online store.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import struct
import sys
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

VIEW, KEY = "users_v1", "user_id"
FEATURES = tuple(f"f{i:02d}" for i in range(20))
WARM_SECONDS = 0.5


def load(repo: str, redis: str, store: str, parquet: str) -> None:
    """Makes a repository over a parquet file and materialises it."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.types import Float64
    from feast.value_type import ValueType

    folder = Path(repo)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(
        "project: peer\nprovider: local\nregistry: registry.db\n"
        f"online_store:\n  type: {store}\n  connection_string: {redis}\n"
        "entity_key_serialization_version: 3\noffline_store:\n  type: file\n",
        encoding="utf-8",
    )
    feast = FeatureStore(repo_path=repo)
    user = Entity(name="user", join_keys=[KEY], value_type=ValueType.INT64)
    view = FeatureView(
        name=VIEW,
        entities=[user],
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=Float64) for name in FEATURES],
        source=FileSource(path=parquet, timestamp_field="event_timestamp"),
    )
    feast.apply([user, view])
    began = time.perf_counter()
    feast.materialize(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
    print(json.dumps({"seconds": round(time.perf_counter() - began, 2)}))


def grpc(repo: str) -> None:
    """`feast listen`, on a free port."""
    from feast import FeatureStore
    from feast.infra.contrib.grpc_server import get_grpc_server

    server = get_grpc_server("127.0.0.1:0", FeatureStore(repo_path=repo), 8, 600)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def http_server(repo: str, port: str) -> None:
    """`feast serve`."""
    from feast import FeatureStore

    FeatureStore(repo_path=repo).serve(
        host="127.0.0.1",
        port=int(port),
        type_="http",
        no_access_log=True,
        workers=1,
        metrics=False,
        worker_connections=1000,
        max_requests=1_000_000,
        max_requests_jitter=1,
        keep_alive_timeout=30,
        registry_ttl_sec=600,
    )


def client(address: str, path: str, concurrency: str, seconds: str) -> None:
    """Posts requests, so many at a time, and prints what came back, as `_grpc_load` does."""
    data, bodies, at = Path(path).read_bytes(), [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        bodies.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    begin = time.perf_counter() + WARM_SECONDS
    end = begin + float(seconds)
    latencies: list[list[float]] = [[] for _ in range(int(concurrency))]
    answered, failed = [0] * int(concurrency), [0] * int(concurrency)

    def run(who: int) -> None:
        connection = http.client.HTTPConnection(address, timeout=60)
        number = who * 7919
        while (start := time.perf_counter()) < end:
            body = bodies[number % len(bodies)]
            connection.request("POST", "/get-online-features", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                failed[who] += 1
                continue
            answered[who] += 1
            number += 1
            if start >= begin:
                latencies[who].append(time.perf_counter() - start)

    workers = [threading.Thread(target=run, args=(who,)) for who in range(int(concurrency))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    taken = sorted(one for own in latencies for one in own) or [float("nan")]
    print(
        json.dumps(
            {
                "calls": len(taken),
                "answered": sum(answered),
                "calls_per_second": round(len(taken) / float(seconds), 1),
                "p50_ms": round(1000 * taken[len(taken) // 2], 2),
                "p99_ms": round(1000 * taken[len(taken) * 99 // 100], 2),
                "failed": sum(failed),
            }
        )
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # Feast keeps a timer thread that would hold the process
    {"load": load, "grpc": grpc, "http": http_server, "client": client}[sys.argv[1]](*sys.argv[2:])
