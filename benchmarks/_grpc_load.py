"""A load generator and an empty server, each a process of its own.

    python -m benchmarks._grpc_load client ADDRESS METHOD FILE CONCURRENCY SECONDS
    python -m benchmarks._grpc_load empty ANSWER_BYTES THREADS

The client sends the requests of FILE (each a little-endian uint32 and so many bytes), CONCURRENCY at a time, and
prints one JSON line. The empty server answers every call with ANSWER_BYTES zeros: what gRPC itself costs.
"""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WARM_SECONDS = 0.5


def write_requests(path: Path, requests: Sequence[bytes]) -> None:
    """The file that the client sends from."""
    path.write_bytes(b"".join(struct.pack("<I", len(request)) + request for request in requests))


def load(address: str, method: str, requests: Path, concurrency: int, seconds: float) -> dict[str, Any]:
    """Runs the client in another process: `calls_per_second`, `p50_ms`, `p99_ms`, `failed`, and the calls themselves.

    `calls` were begun after warming, `answered` are all.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, "client", address, method, requests, str(concurrency), str(seconds)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def process(command: Sequence[str | Path]) -> Iterator[tuple[int, str]]:
    """A server's process, ended with SIGTERM; gives its id and the first line it prints."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.pid, server.stdout.readline()
        finally:
            server.send_signal(signal.SIGTERM)


@contextmanager
def empty_server(answer_bytes: int, threads: int) -> Iterator[tuple[int, str]]:
    """The empty server's process id and address."""
    with process([sys.executable, "-m", __name__, "empty", str(answer_bytes), str(threads)]) as (pid, line):
        yield pid, line.strip()


def client(address: str, method: str, path: str, concurrency: str, seconds: str) -> None:
    """Sends requests, so many at a time, and prints what came back."""
    import grpc

    data, requests, at = Path(path).read_bytes(), [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        requests.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    latencies: list[list[float]] = [[] for _ in range(int(concurrency))]
    answered = [0] * int(concurrency)
    failed = [0] * int(concurrency)
    begin = time.perf_counter() + WARM_SECONDS
    end = begin + float(seconds)
    with grpc.insecure_channel(address, options=(("grpc.max_receive_message_length", -1),)) as channel:
        grpc.channel_ready_future(channel).result(10)
        call = channel.unary_unary(method)

        def run(who: int) -> None:
            number = who * 7919
            while (start := time.perf_counter()) < end:
                try:
                    call(requests[number % len(requests)], timeout=30)
                except grpc.RpcError:
                    failed[who] += 1
                    continue
                answered[who] += 1
                if start >= begin:
                    latencies[who].append(time.perf_counter() - start)
                number += 1

        workers = [threading.Thread(target=run, args=(who,)) for who in range(int(concurrency))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    taken = sorted(one for own in latencies for one in own)
    print(
        json.dumps(
            {
                "calls": len(taken),
                "answered": sum(answered),
                "calls_per_second": round(len(taken) / float(seconds)),
                "p50_ms": round(1000 * taken[len(taken) // 2], 2),
                "p99_ms": round(1000 * taken[len(taken) * 99 // 100], 2),
                "failed": sum(failed),
            }
        )
    )


class _Everything:
    """Any method, answered with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        import grpc

        self._handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer)

    def service(self, _call: Any) -> Any:
        """What grpc asks for."""
        return self._handler


def empty(answer_bytes: str, threads: str) -> None:
    """Serves until SIGTERM."""
    import grpc

    server = grpc.server(ThreadPoolExecutor(int(threads)))
    server.add_generic_rpc_handlers((_Everything(bytes(int(answer_bytes))),))  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop(0).wait()


if __name__ == "__main__":
    {"client": client, "empty": empty}[sys.argv[1]](*sys.argv[2:])
