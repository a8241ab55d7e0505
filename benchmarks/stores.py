"""Filling the online store: hedgerow's packed Redis store beside Feast's own, on the same rows, in one run.

    python -m benchmarks.stores --json

100,000 users × 20 floats and 10,000 items × 10 floats and a 64-vector. Each way runs in a process of its own against a
Redis of its own; told are seconds and CPU seconds, also Redis' own, peak memory of that process while filling (and what
it took before), and the memory that Redis takes for the rows. Ways:

    feast            Feast's `materialize` into Feast's Redis store
    feast-api        the same call into `PackedRedisOnlineStore`, with `PackedComputeEngine`
    publish          what `hedgerow publish` does: the release's parquet, packed as columns
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from redis import Redis

from tests.support.redis import redis_server

USERS, USER_FLOATS = 100_000, 20
ITEMS, ITEM_FLOATS, DIMENSION = 10_000, 10, 64
EVENT_TIME = datetime(2025, 11, 10, tzinfo=UTC)
WAYS = ("feast", "feast-api", "publish")


def write_tables(folder: Path, users: int = USERS, items: int = ITEMS) -> None:
    """The rows of both views, as the offline store holds them."""
    generator = np.random.default_rng(1)
    for name, count, floats, dimension in (("users", users, USER_FLOATS, 0), ("items", items, ITEM_FLOATS, DIMENSION)):
        columns: dict[str, Any] = {f"{name[:-1]}_id": pa.array(np.arange(count))}
        columns |= {f"f{i}": pa.array(generator.random(count, np.float32)) for i in range(floats)}
        if dimension:
            vectors = pa.array(generator.standard_normal((count * dimension), np.float32))
            columns["vector"] = pa.FixedSizeListArray.from_arrays(vectors, dimension).cast(pa.list_(pa.float32()))
        columns["event_timestamp"] = pa.repeat(pa.scalar(EVENT_TIME, pa.timestamp("us", "UTC")), count)
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")


def fill(way: str, folder: Path, address: str) -> dict[str, float]:
    """Fills both views and tells what it took; run it in a process of its own."""
    work = _publish(folder, address) if way == "publish" else _feast(way, folder, address)
    before = _peak_mib()
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": _peak_mib(),
        "peak_mib_before": before,
    }


def measure(folder: Path, ways: tuple[str, ...] = WAYS) -> dict[str, dict[str, float]]:
    """Every way once, each with its own process and Redis."""
    found = {}
    for way in ways:
        with redis_server() as address:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.stores", "--fill", way, str(folder), address]
            ended = subprocess.run(command, check=True, capture_output=True, text=True)
            found[way] = json.loads(ended.stdout.splitlines()[-1])
            host, _, port = address.partition(":")
            with Redis(host=host, port=int(port)) as client:
                found[way]["redis_mib"] = client.info("memory")["used_memory_dataset"] / 2**20
                found[way]["redis_keys"] = client.dbsize()
                cpu = client.info("cpu")
                found[way]["redis_cpu_seconds"] = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
    return found


def _feast(way: str, folder: Path, address: str) -> Any:
    warnings.simplefilter("ignore")
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Array, Float32

    packed = way == "feast-api"
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=str(folder / f"{way}.registry.db"),
            online_store={
                "type": "featurestore.online.packed_redis.PackedRedisOnlineStore" if packed else "redis",
                "connection_string": address,
            },
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
            **({"batch_engine": {"type": "featurestore.online.feast_engine.PackedComputeEngine"}} if packed else {}),
        )
    )
    objects: list[Any] = []
    for name, floats, vector in (("users", USER_FLOATS, False), ("items", ITEM_FLOATS, True)):
        entity = Entity(name=name[:-1], join_keys=[f"{name[:-1]}_id"], value_type=ValueType.INT64)
        fields = [Field(name=f"f{i}", dtype=Float32) for i in range(floats)]
        fields += [Field(name="vector", dtype=Array(Float32))] if vector else []
        source = FileSource(name=name, path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp")
        objects += [
            entity,
            FeatureView(name=name, entities=[entity], schema=fields, source=source, ttl=timedelta(days=365)),
        ]
    store.apply(objects)
    return lambda: store.materialize(EVENT_TIME - timedelta(days=1), EVENT_TIME + timedelta(days=1))


def _publish(folder: Path, address: str) -> Any:
    from featurestore.freshness import microseconds
    from featurestore.online.redis_client import RedisAddress
    from featurestore.online.redis_rows import PackedRedis
    from featurestore.publication import FeatureField, KeyField, PublishedView
    from featurestore.released import released_rows
    from featurestore.rows import key_bytes

    store = PackedRedis(RedisAddress.parse(address))

    def work() -> None:
        for name, floats, vector in (("users", USER_FLOATS, False), ("items", ITEM_FLOATS, True)):
            types = {f"f{i}": "float32" for i in range(floats)}
            types |= {"vector": f"vector<float32>[{DIMENSION}]"} if vector else {}
            view = PublishedView(
                name=name,
                signal=name,
                version=1,
                entity=name,
                keys=(KeyField(name=f"{name[:-1]}_id", type="int64"),),
                features=tuple(
                    FeatureField(name=feature, type=kind, description="", noise_stddev=None)
                    for feature, kind in types.items()
                ),
                ttl_seconds=0,
                purpose="ranking",
                releases=(),
            )
            table = pq.read_table(folder / f"{name}.parquet")
            if vector:
                vectors = table["vector"].cast(pa.list_(pa.float32(), DIMENSION))
                table = table.set_column(table.schema.get_field_index("vector"), "vector", vectors)
            rows = released_rows(table, view, release_id=f"{name}/v1/a", event_time=microseconds(EVENT_TIME))
            store.write(f"bench_{name}", rows.schema, key_bytes(rows.keys), rows.packed())

    return work


def _peak_mib() -> float:
    """The most memory that this program held, not the one that started it: `ru_maxrss` would count that as well."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="kept for a common call; output is always JSON")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--fill", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fill:
        way, folder, address = given.fill
        print(json.dumps(fill(way, Path(folder), address)))
        return
    with TemporaryDirectory() as folder:
        write_tables(Path(folder), given.users, given.items)
        found = measure(Path(folder))
    oracle = found["feast"]
    for way in WAYS[1:]:
        told = found[way]
        told["times_faster"] = oracle["seconds"] / told["seconds"]
        own, theirs = (way["cpu_seconds"] + way["redis_cpu_seconds"] for way in (told, oracle))
        told["times_less_cpu"] = theirs / own  # of both processes, which other work on the machine does not blur
        told["share_of_peak"] = told["peak_mib"] / oracle["peak_mib"]
        told["share_of_memory_added"] = (told["peak_mib"] - told["peak_mib_before"]) / (
            oracle["peak_mib"] - oracle["peak_mib_before"]
        )
        told["share_of_redis"] = told["redis_mib"] / oracle["redis_mib"]
    print(json.dumps({"users": given.users, "items": given.items, "cores": os.cpu_count(), "ways": found}, indent=2))


if __name__ == "__main__":
    main()
