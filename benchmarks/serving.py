"""Feature serving: our server over snapshots, Redis and SQLite, beside Feast's servers and an empty gRPC server.

    python -m benchmarks.serving [--json] [--users N] [--seconds S] [--rounds R] [--without-feast]

Starts everything itself on loopback, Redis included; every server and every client is a process of its own. The same
100,000 users × 20 floats (and 10,000 items × 10 floats with a vector of 64) are in every store. A request asks for 10
features of n users, n in {1, 10, 100}, by 1 or 16 callers at a time; all servers take turns, each round, and the best
round of each counts. The empty server is a plain threaded gRPC server that answers with as many bytes as ours does.

Every answer of ours is compared with the data first: a fast wrong answer counts for nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks._feast_peer import FEATURES, KEY, VIEW
from benchmarks._grpc_load import empty_server, load, process, write_requests
from benchmarks.stores import measure, write_tables
from governance.ledger import Ledger
from governance.settings import Settings
from serving.client import Client
from serving.publish import publish
from serving.v1 import features_pb2
from tests.support.redis import free_port, redis_server
from tests.support.releases import make_project, make_release, make_vector_release

ITEMS: Final = 10_000
WANTED: Final = FEATURES[:10]
SIZES: Final = (1, 10, 100)
CALLERS: Final = (1, 16)
REQUESTS: Final = 200
METHOD: Final = "/hedgerow.serving.v1.FeatureService/GetFeatures"
FEAST_METHOD: Final = "/GrpcFeatureServer/GetOnlineFeatures"
THREADS: Final = 4

Data = dict[str, NDArray[Any]]
Load = Callable[[int, int], dict[str, Any]]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=1.5, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--without-feast", action="store_true", help="leave Feast's own servers out")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--callers", default=",".join(map(str, CALLERS)))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hedgerow-bench-") as folder, ExitStack() as stack:
        found = run(Path(folder), stack, options)
    if not options.json:
        for size, callers in ((s, c) for s in found["entities"] for c in found["callers"]):
            print(f"n={size} c={callers}")
            for name, row in found["servers"].items():
                point = row[f"n={size},c={callers}"]
                print(
                    f"  {name:10} {point['rows_per_second']:>9,.0f} rows/s  p50 {point['p50_ms']:>8.2f} ms"
                    f"  p99 {point['p99_ms']:>8.2f} ms  {point['cpu_seconds_per_1000_calls']:>7.3f} CPU s/1000"
                )
    print(json.dumps(found, indent=None if options.json else 2))


def run(folder: Path, stack: ExitStack, options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as one JSON value."""
    sizes, callers = ([int(x) for x in text.split(",")] for text in (options.sizes, options.callers))
    data = {KEY: np.arange(options.users, dtype=np.int64)} | {
        name: np.random.default_rng(i).standard_normal(options.users) for i, name in enumerate(FEATURES)
    }
    users = np.random.default_rng(1).integers(0, options.users, (REQUESTS, max(sizes)))
    redis = stack.enter_context(redis_server(free_port()))
    loads: dict[str, tuple[Load, list[int]]] = {}
    publish_seconds = {}
    for store in ("snapshot", "redis", "sqlite"):
        settings, publish_seconds[store] = published(folder / store, store, redis, data)
        pid, address = stack.enter_context(our_server(settings.root))
        check(address, data, users[0])
        loads[store] = (our_load(folder, address, users, options.seconds), [pid])
    stores = {}
    if not options.without_feast:
        (folder / "tables").mkdir()
        write_tables(folder / "tables")
        stores = measure(folder / "tables", ("feast", "publish"))
        feast_repository(folder, stack.enter_context(redis_server(free_port())), data)
        loads |= feast_servers(folder, stack, users, options.seconds)
    loads["empty"] = empty_load(folder, stack, users, sizes, options.seconds)
    servers: dict[str, Any] = {name: {} for name in loads}
    for size in sizes:
        for at_once in callers:
            rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in loads}
            for _ in range(options.rounds):
                for name, (one, pids) in loads.items():
                    rounds[name].append(measured(one, pids, size, at_once))
            for name, taken in rounds.items():
                servers[name][f"n={size},c={at_once}"] = best(taken)
    return {
        "benchmark": "serving",
        "cores": os.cpu_count(),
        "users": options.users,
        "features": len(WANTED),
        "entities": sizes,
        "callers": callers,
        "publish_seconds": publish_seconds,
        "materialize": stores,
        "servers": servers,
        "targets": targets(servers, stores),
    }


# --- data and servers ------------------------------------------------------------------------------------------


def published(root: Path, store: str, redis: str, data: Data) -> tuple[Settings, float]:
    """A project whose users are answered from this store, and the seconds that publishing took."""
    online = {
        "snapshot": '[online_store]\ntype = "sqlite"\n',
        "sqlite": '[online_store]\ntype = "sqlite"\npushed = ["users"]\n',
        "redis": f'[online_store]\ntype = "redis"\nconnection_string = "{redis}"\npushed = ["users"]\n',
    }[store]
    settings = make_project(root, name=store, extra=f"\n[calendar]\nlast_day = 2025-11-30\n\n{online}")
    rng = np.random.default_rng(0)
    items: Data = {"item_id": np.arange(ITEMS)} | {f"g{i}": rng.random(ITEMS) for i in range(10)}
    with Ledger(settings.ledger_path) as ledger:
        for signal, rows, key in (("users", data, KEY), ("items", items, "item_id")):
            make_release(
                settings,
                ledger,
                signal=signal,
                keys={key: "int64"},
                features={name: "float64" for name in rows if name != key},
                rows=rows,
                rho="0.001",
                ttl=timedelta(0),
            )
        vectors = rng.standard_normal((ITEMS, 64))
        make_vector_release(settings, ledger, ids=range(ITEMS), vectors=vectors)
        began = time.perf_counter()
        publish(settings, ledger)
        return settings, round(time.perf_counter() - began, 2)


@contextmanager
def our_server(root: Path) -> Iterator[tuple[int, str]]:
    """`hedgerow serve`, as installed; its process and address."""
    with process([sys.executable, "-m", "hedgerow", "serve", "--project", root, "--port", "0"]) as (pid, line):
        assert line.startswith("serving on "), f"the server does not start: {line}"
        yield pid, line.split()[2]


def check(address: str, data: Data, users: NDArray[np.int64]) -> None:
    """Returns if the server answers what is in the data."""
    with Client(address, timeout_seconds=60) as client:
        table = client.get_features(features=[f"{VIEW}:{name}" for name in WANTED], entities={KEY: users})
    for name in WANTED:
        assert np.array_equal(table[f"{VIEW}:{name}"], data[name][users]), "a wrong answer"


def our_load(folder: Path, address: str, users: NDArray[np.int64], seconds: float) -> Load:
    """Requests of ours."""

    def one(size: int, callers: int) -> dict[str, Any]:
        path = folder / f"ours-{size}"
        if not path.exists():
            write_requests(path, [our_request(row[:size]) for row in users])
        return load(address, METHOD, path, callers, seconds)

    return one


def our_request(users: NDArray[np.int64]) -> bytes:
    """A GetFeatures of these users."""
    request = features_pb2.GetFeaturesRequest()
    request.features.references.extend(f"{VIEW}:{name}" for name in WANTED)
    request.keys.add(name=KEY).int64s.values.extend(users.tolist())
    return request.SerializeToString()


def empty_load(
    folder: Path,
    stack: ExitStack,
    users: NDArray[np.int64],
    sizes: Sequence[int],
    seconds: float,
) -> tuple[Load, list[int]]:
    """An empty server for each size of answer."""
    servers = {}
    for size in sizes:
        path = folder / f"ours-{size}"
        write_requests(path, [our_request(row[:size]) for row in users])
        answer = 4 + 10 * (28 + 8 * size) + 20 + 12 * size + 30
        servers[size] = (*stack.enter_context(empty_server(answer, THREADS)), path)

    def one(size: int, callers: int) -> dict[str, Any]:
        _, address, path = servers[size]
        return load(address, "/empty.Empty/Get", path, callers, seconds)

    return one, [pid for pid, _, _ in servers.values()]


def feast_repository(folder: Path, redis: str, data: Data) -> None:
    """Feast's own repository of the same rows, materialised into this Redis."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parquet = folder / "users.parquet"
    moment = pa.scalar(1_762_500_000_000_000, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({**data, "event_timestamp": pa.repeat(moment, len(data[KEY]))}), parquet)
    subprocess.run(
        [sys.executable, "-m", "benchmarks._feast_peer", "load", folder / "feast_redis", redis, "redis", parquet],
        check=True,
        capture_output=True,
    )


def feast_servers(
    folder: Path, stack: ExitStack, users: NDArray[np.int64], seconds: float
) -> dict[str, tuple[Load, list[int]]]:
    """Feast's gRPC and HTTP servers over its Redis."""
    from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesRequest

    repo, peer = folder / "feast_redis", (sys.executable, "-m", "benchmarks._feast_peer")
    names = [f"{VIEW}:{name}" for name in WANTED]

    def message(row: NDArray[np.int64]) -> bytes:
        request = GetOnlineFeaturesRequest()
        request.features.val.extend(names)
        for user in row.tolist():
            request.entities[KEY].val.add(int64_val=user)
        raw: bytes = request.SerializeToString()
        return raw

    def body(row: NDArray[np.int64]) -> bytes:
        return json.dumps({"features": names, "entities": {KEY: row.tolist()}}).encode()

    pid, address = stack.enter_context(process([*peer, "grpc", repo]))
    address = address.strip()
    port = free_port()
    server = subprocess.Popen(
        [*peer, "http", repo, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stack.callback(server.wait)
    stack.callback(server.terminate)
    wait_for_port(port)

    def by_grpc(size: int, callers: int) -> dict[str, Any]:
        path = folder / f"feast-grpc-{size}"
        write_requests(path, [message(row[:size]) for row in users])
        return load(address, FEAST_METHOD, path, callers, seconds)

    def by_http(size: int, callers: int) -> dict[str, Any]:
        path = folder / f"feast-http-{size}"
        write_requests(path, [body(row[:size]) for row in users])
        done = subprocess.run(
            [*peer, "client", f"127.0.0.1:{port}", path, str(callers), str(seconds)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return {"feast_grpc": (by_grpc, [pid]), "feast_http": (by_http, [server.pid])}


def wait_for_port(port: int) -> None:
    """Returns when something listens there."""
    import socket

    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


# --- measuring -------------------------------------------------------------------------------------------------


def cpu_seconds(pids: Sequence[int]) -> float:
    """Of these processes and their children, so far."""
    total = 0.0
    for pid in pids:
        root = psutil.Process(pid)
        for one in (root, *root.children(recursive=True)):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def measured(one: Load, pids: Sequence[int], size: int, callers: int) -> dict[str, Any]:
    """One measurement, with the server's CPU time."""
    before = cpu_seconds(pids)
    found = one(size, callers)
    spent = cpu_seconds(pids) - before
    return {
        "calls_per_second": found["calls_per_second"],
        "rows_per_second": round(found["calls_per_second"] * size),
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "cpu_seconds_per_1000_calls": round(1000 * spent / max(1, found["answered"]), 4),
        "failed": found["failed"],
    }


def best(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The round with the most calls, and the least CPU time of all."""
    fastest = max(rounds, key=lambda row: row["calls_per_second"])
    return {**fastest, "cpu_seconds_per_1000_calls": min(row["cpu_seconds_per_1000_calls"] for row in rounds)}


def targets(servers: dict[str, Any], stores: dict[str, Any]) -> dict[str, Any]:
    """The ratios that this benchmark is judged by, each with what it should be."""
    found = {}

    def ratio(name: str, value: float, least: float) -> None:
        found[name] = {"found": round(value, 2), "at_least": least, "met": value >= least}

    many, ten = "n=100,c=16", "n=10,c=16"
    empty, snapshot, redis = servers["empty"], servers["snapshot"], servers["redis"]
    if many in empty:
        ratio(
            "snapshot rows/s of the empty server's, n=100",
            snapshot[many]["rows_per_second"] / empty[many]["rows_per_second"],
            0.8,
        )
    if "feast_grpc" in servers and many in empty:
        feast = servers["feast_grpc"]
        for name, own, least in (("snapshot", snapshot, 25), ("redis", redis, 13)):
            spent = own[many]["cpu_seconds_per_1000_calls"]
            ratio(
                f"{name} rows per server CPU second of Feast gRPC's, n=100",
                feast[many]["cpu_seconds_per_1000_calls"] / spent,
                least,
            )
        if ten in redis:
            ratio(
                "redis calls/s of Feast gRPC's, n=10",
                redis[ten]["calls_per_second"] / feast[ten]["calls_per_second"],
                3.5,
            )
    if stores:
        theirs, ours = stores["feast"], stores["publish"]
        ratio("materialize: Feast's seconds over ours", theirs["seconds"] / ours["seconds"], 5)
        ratio("materialize: Feast's peak memory over ours", theirs["peak_mib"] / ours["peak_mib"], 4)
    return found


if __name__ == "__main__":
    main()
