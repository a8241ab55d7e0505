"""What the load tests and the benchmark of resilience share: `hedgerow serve` in a process of its own, callers in
threads, and what is counted while it is overloaded, swapped, ended, or left by its Redis."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import psutil

from governance.settings import Settings
from serving.client import Client
from serving.problems import DETAILS_TRAILER, decode_details
from serving.v1 import embeddings_pb2
from tests.support.fronts import UNHURRIED, comes_true
from tests.support.redis import _answers, _binary
from tests.support.serving import CALENDAR, publish_items, published_items

FEATURES = ["items_v1:users", "items_v1:score"]
SEARCH = "/hedgerow.serving.v1.EmbeddingService/Search"
TIMES_THE_CAPACITY = 10
DEADLINE_SECONDS = 2.0
_CALLERS = 240
_CHANNELS = 4
_CORES = os.sched_getaffinity(0)
_MARGIN = 1.1
"""A caller whose call takes long is late with its next one."""


@contextmanager
def serving(
    settings: Settings, folder: Path, text: str = "", port: int = 0
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`hedgerow serve` with a configuration; its process and address."""
    path = folder / f"serve-{time.monotonic_ns()}.toml"
    path.write_text(f'mode = "demo"\n{text}', encoding="utf-8")
    command = [sys.executable, "-m", "hedgerow", "serve", "-p", settings.root, "--config", path, "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("serving on "), process.communicate()[1]
            yield process, line.split()[2]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def workers(supervisor: int) -> list[int]:
    """Processes that serve, of a server with several."""
    found = []
    for child in psutil.Process(supervisor).children():
        with suppress(psutil.NoSuchProcess):  # it may end while it is looked at
            if child.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in str(child.cmdline()):
                found.append(child.pid)
    return found


class Load:
    """Calls in threads within its context, until it is stopped; what each gave, counted.

    Args:
        callers: how many threads.
        call: gives a word for what became of it; what it raises is one too.
        period_seconds: from the begin of a caller's call to that of its next one, if it is over by then.

    Attributes:
        seen: word → how often.
        first: word → when it was told first since `first` was cleared, on the clock of `time.perf_counter`.
    """

    def __init__(self, callers: int, call: Callable[[], str], period_seconds: float = 0.0) -> None:
        self.seen: Counter[str] = Counter()
        self.first: dict[str, float] = {}
        self._call = call
        self._period = period_seconds
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i / callers,)) for i in range(callers)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, share: float) -> None:
        self._stop.wait(share * self._period)  # not all at once
        while not self._stop.is_set():
            began = time.perf_counter()
            try:
                told = self._call()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is what the test looks at
                told = f"{type(error).__name__}: {error}"
            ended = time.perf_counter()
            with self._lock:
                self.seen[told] += 1
                self.first.setdefault(told, ended)
            self._stop.wait(max(0.0, self._period - (ended - began)))

    def has_told(self, more: int) -> bool:
        """Whether so many more words are told soon."""
        until = self.seen.total() + more
        return comes_true(lambda: self.seen.total() >= until, 100.0)

    def stop(self) -> Counter[str]:
        """Waits for the calls under way; what all of them gave."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.seen


# --- overload ---------------------------------------------------------------------------------------------------


@contextmanager
def other_cores() -> Iterator[None]:
    """Keeps this process off the core that `apart` gives the server."""
    _pin(psutil.Process(), _CORES - {min(_CORES)} or _CORES)
    try:
        yield
    finally:
        _pin(psutil.Process(), _CORES)


def apart(pid: int) -> None:
    """Gives the server a core of its own, so that what the load generator takes is not taken from the server."""
    if len(_CORES) > 1:
        _pin(psutil.Process(pid), {min(_CORES)})


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _pin(process: psutil.Process, cores: set[int]) -> None:
    for thread in process.threads():
        with suppress(ProcessLookupError):  # it may end meanwhile
            os.sched_setaffinity(thread.id, cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """What a server did with ten times as many calls as it can answer.

    Attributes:
        peak_per_second: calls answered when it was not overloaded, before and after.
        offered_per_second: calls tried during the overload.
        goodput_per_second: of them, those that were answered.
        seen: status → calls.
        p99_seconds: of the answered ones.
        peak_cpu_share: of one core that the server got when it was not overloaded: less than what it would take says
            that others had it.
        overload_cpu_share: the same during the overload.
        grown_bytes: memory after it, over memory before.
        hinted: refused calls that were told when to come again.
        refused: refused calls.
    """

    peak_per_second: float
    offered_per_second: float
    goodput_per_second: float
    seen: Counter[str]
    p99_seconds: float
    peak_cpu_share: float
    overload_cpu_share: float
    grown_bytes: int
    hinted: int
    refused: int


def overloaded(project: Settings, folder: Path, seconds: float, deadline_seconds: float = DEADLINE_SECONDS) -> Overload:
    """Searches, each of 48 queries: first as many as are answered, then ten times so many for these seconds."""
    request = embeddings_pb2.SearchRequest(space="item_content", k=50)
    request.ids.int64s.values.extend(range(48))
    data = request.SerializeToString()
    with serving(project, folder, "[listen]\nthreads = 4\n[limits]\nqueue_seconds = 0.25\n") as (process, address):
        apart(process.pid)
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        channels = [grpc.insecure_channel(address, options) for _ in range(_CHANNELS)]
        latencies: list[float] = []
        hints: list[float | None] = []
        turns = iter(range(1 << 62))

        def call() -> str:
            search = channels[next(turns) % _CHANNELS].unary_unary(SEARCH)
            began = time.perf_counter()
            try:
                search(data, timeout=deadline_seconds)
            except grpc.RpcError as error:
                trailer = dict(error.trailing_metadata() or ()).get(DETAILS_TRAILER)
                hints.append(decode_details(trailer).retry_seconds if isinstance(trailer, bytes) else None)
                return error.code().name
            latencies.append(time.perf_counter() - began)
            return "OK"

        def phase(callers: int, lasting: float, period: float = 0.0) -> tuple[Counter[str], float]:
            latencies.clear()
            before = _cpu_seconds(process.pid)
            with Load(callers, call, period) as load:
                time.sleep(lasting)
                spent = _cpu_seconds(process.pid) - before
                return load.stop(), spent / lasting

        phase(4, 1.0)  # warm
        lasting = max(2.0, seconds / 4)
        seen, peak_share = phase(4, lasting)
        assert seen["OK"] >= 0.8 * seen.total(), seen
        peak = seen["OK"] / lasting
        memory = psutil.Process(process.pid).memory_info().rss
        hints.clear()
        seen, share = phase(_CALLERS, seconds, _CALLERS / (_MARGIN * TIMES_THE_CAPACITY * peak))
        slowest = sorted(latencies)
        grown = psutil.Process(process.pid).memory_info().rss - memory
        told = list(hints)
        time.sleep(1.0)  # what is queued is answered
        again, _ = phase(4, lasting)
        # A machine is not equally fast all the time: the peak is what was answered around the overload.
        peak = (peak + again["OK"] / lasting) / 2
        for channel in channels:
            channel.close()
    return Overload(
        peak_per_second=peak,
        offered_per_second=seen.total() / seconds,
        goodput_per_second=seen["OK"] / seconds,
        seen=seen,
        p99_seconds=slowest[len(slowest) * 99 // 100] if slowest else math.inf,
        peak_cpu_share=peak_share,
        overload_cpu_share=share,
        grown_bytes=grown,
        hinted=sum(hint is not None and 0 < hint <= 5 for hint in told),
        refused=seen.total() - seen["OK"],
    )


# --- swaps and restarts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What callers saw: `OK`, `a mix: ...`, or an error.

    Attributes:
        swaps: while publications changed.
        restart: while the server was ended with SIGTERM and another one took its port.
        last_value: of one feature, after all of it.
    """

    swaps: Counter[str]
    restart: Counter[str]
    last_value: int


def changed(folder: Path, weeks: int) -> Changes:
    """Publishes anew again and again, then ends the server with SIGTERM beside a new one, while callers read.

    Every answer must be of one release: all its values are that release's number.
    """
    settings = published_items(folder / "project", rows=200, users=0)
    config = "[listen]\nprocesses = 2\nthreads = 2\n" + UNHURRIED
    ids, values = np.arange(200), set[int]()
    with serving(settings, folder, config) as (process, address):
        port = int(address.rpartition(":")[2])
        with Client(address, connections=4, timeout_seconds=20) as client:

            def call() -> str:
                table = client.get_features(features=FEATURES, entities={"item_id": ids})
                users, scores = table["items_v1:users"], table["items_v1:score"]
                whole = (users == users[0]).all() and (scores == users[0]).all() and table.found["items_v1"].all()
                one = len(table.releases) == 1 and len(set(table.release_indexes["items_v1"].tolist())) == 1
                values.add(int(users[0]))
                return "OK" if whole and one else f"a mix: {table.releases}"

            with Load(4, call) as load:
                for week in range(1, weeks + 1):
                    publish_items(settings, rows=200, users=week, week=week)
                    assert comes_true(partial(values.__contains__, week), 100.0), load.seen
                assert load.has_told(100)
                swaps = load.stop()
            with Load(4, call) as load, serving(settings, folder, config, port) as (_, second):
                assert second == address
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)
                assert load.has_told(100)
                table = client.get_features(features=FEATURES, entities={"item_id": [7]})
                restart = load.stop()
    return Changes(swaps=swaps, restart=restart, last_value=int(table["items_v1:users"][0]))


# --- Redis ------------------------------------------------------------------------------------------------------


@contextmanager
def lasting_redis(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis that keeps what it has over a kill."""
    folder.mkdir(exist_ok=True)
    command = [_binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    durable = ["--appendonly", "yes", "--appendfsync", "always"]
    with subprocess.Popen([*command, *durable], stdout=subprocess.DEVNULL) as process:
        try:
            assert _answers(process, port)
            yield process
        finally:
            process.kill()


@contextmanager
def _port_of_ours() -> Iterator[int]:
    """A loopback port that nobody else is given, also while nothing listens on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Redis does: both may bind it
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def _note_when_it_listens(port: int, found: list[float]) -> None:
    while not found:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(time.perf_counter())
        time.sleep(0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAway:
    """What callers saw of a Redis that was killed and started again: `OK`, `a wrong answer`, or an error.

    Attributes:
        before: until it was killed.
        seen: from then on.
        recovery_seconds: from when Redis took connections again to the first right answer; None: none within a minute.
    """

    before: Counter[str]
    seen: Counter[str]
    recovery_seconds: float | None


def redis_restarted(folder: Path, away_seconds: float) -> RedisAway:
    """Kills the Redis that a server reads from, and starts it again with what it had, while callers read."""
    with _port_of_ours() as port, lasting_redis(folder / "redis", port) as redis:
        store = f'\n[online_store]\ntype = "redis"\nconnection_string = "127.0.0.1:{port}"\npushed = ["items"]\n'
        settings = published_items(folder / "project", rows=500, extra=CALENDAR + store)
        ids = np.arange(400, 600)
        with serving(settings, folder, UNHURRIED) as (_, address), Client(address, timeout_seconds=20) as client:

            def call() -> str:
                table = client.get_features(features=FEATURES, entities={"item_id": ids})
                right = np.array_equal(table["items_v1:users"], np.where(ids < 500, ids, 0))
                right &= np.array_equal(table.found["items_v1"], ids < 500)
                return "OK" if right and len(table.releases) == 1 else "a wrong answer"

            with Load(4, call) as load:
                assert load.has_told(100)
                before = load.seen.copy()
                redis.kill()
                redis.wait()
                comes_true(lambda: set(load.seen) != set(before))
                time.sleep(away_seconds)
                gone = time.perf_counter()
                load.first.clear()
                listening = threading.Thread(
                    target=_note_when_it_listens, args=(port, listens := list[float]()), daemon=True
                )
                listening.start()
                with lasting_redis(folder / "redis", port):
                    listening.join()
                    recovery = None
                    while recovery is None and time.perf_counter() < gone + 60:
                        told = load.first.get("OK")
                        recovery = None if told is None else max(0.0, told - listens[0])
                        time.sleep(0.002)
                    time.sleep(0.5)
                    seen = load.stop()
    return RedisAway(before=before, seen=seen - before, recovery_seconds=recovery)
