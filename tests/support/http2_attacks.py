"""What holds of a server while it is attacked: others are answered, and it holds no more than it may."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.http2 import Answer
from tests.support.http2_servers import GET, Held, Target, features, settled

MIB = 1 << 20
DEADLINE_SECONDS = 20
_LOOK_SECONDS = 0.01


@dataclass(slots=True, kw_only=True)
class Seen:
    """What was seen of a server during an attack.

    Attributes:
        others: what became of other callers' calls, by gRPC's status, or in words.
        grown_bytes: by how much its memory grew at most.
    """

    others: Counter[int | str] = field(default_factory=Counter)
    grown_bytes: int = 0


@contextmanager
def attacked(target: Target, memory_bytes: int, *, may_refuse: bool = False) -> Iterator[Seen]:
    """Within it a server is attacked; it must answer others within their deadlines, and be whole afterwards.

    Args:
        target: our server, in a process of its own.
        memory_bytes: by how much its memory may grow at most.
        may_refuse: whether others' calls may be told that there is too much to do.
    """
    assert target.pid is not None, "a server within this process cannot be told from the test"
    assert target.answers()
    before, seen, over = Held.of(target.pid), Seen(), threading.Event()
    threads = [
        threading.Thread(target=_call, args=(target, seen, over)),
        threading.Thread(target=_look, args=(target.pid, before, seen, over)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert target.answers()
    assert set(seen.others) <= ({0, 8} if may_refuse else {0}), seen
    assert seen.others[0], seen
    assert seen.grown_bytes <= memory_bytes, f"{seen.grown_bytes / MIB:.0f} MiB more"
    after = settled(target.pid, before.files)
    assert after.files <= before.files, (before, after)
    assert after.threads <= before.threads, (before, after)


def _call(target: Target, seen: Seen, over: threading.Event) -> None:
    """Another caller, on a connection of its own: at least one call begins when the attack is over."""
    deadline = (b"grpc-timeout", b"%dS" % DEADLINE_SECONDS)
    try:
        with target.peer(timeout_seconds=2.0 * DEADLINE_SECONDS) as peer:
            stream, last = 1, False
            while not last:
                last = over.is_set()
                peer.call(stream, GET, features(3), deadline)
                found = peer.outcome(stream)
                told = found.grpc_status if isinstance(found, Answer) else repr(found)
                seen.others[-1 if told is None else told] += 1
                stream += 2
                time.sleep(_LOOK_SECONDS)
    except (OSError, AssertionError) as error:
        seen.others[repr(error)] += 1


def _look(pid: int, before: Held, seen: Seen, over: threading.Event) -> None:
    while not over.wait(_LOOK_SECONDS):
        seen.grown_bytes = max(seen.grown_bytes, Held.of(pid).memory_bytes - before.memory_bytes)
