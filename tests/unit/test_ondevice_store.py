from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from governance.errors import DeviceCorrupt, DeviceError, DeviceMissing, EventInvalid
from ondevice.events import Event
from ondevice.store import EventStore, Recorded, Retention
from tests.support.devices import NOW

KEEP = Retention()


def event(name: str, *, item: str = "7", days: float = 0, value: float = 1.0, kind: str = "view") -> Event:
    return Event(event_id=name, item=item, kind=kind, value=value, at=NOW - timedelta(days=days))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "events.db"
    EventStore.create(made)
    return made


def test_only_the_owner_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        EventStore.create(tmp_path / "events.db")
    finally:
        os.umask(before)
    assert (tmp_path / "events.db").stat().st_mode & 0o777 == 0o600


def test_a_store_that_others_may_read_is_refused(path: Path) -> None:
    path.chmod(0o640)
    with pytest.raises(DeviceCorrupt, match="chmod 600"):
        EventStore(path)


def test_recording_twice_keeps_once_and_another_event_under_the_id_is_refused(path: Path) -> None:
    with EventStore(path) as store:
        assert store.add([event("a")], retention=KEEP, now=NOW) == Recorded(new=1, repeated=0, expired=0)
        assert store.add([event("a"), event("b")], retention=KEEP, now=NOW) == Recorded(new=1, repeated=1, expired=0)
        with pytest.raises(EventInvalid, match="different event"):
            store.add([event("c"), event("a", value=2)], retention=KEEP, now=NOW)
        assert store.count() == 2, "the whole batch must be refused"


def test_events_come_back_as_they_were_in_order_of_time(path: Path) -> None:
    with EventStore(path) as store:
        store.add(
            [event("z", days=1, value=-0.1, kind="skip"), event("b", item="é 9", days=3)], retention=KEEP, now=NOW
        )
    with EventStore(path) as store:
        log = store.log(oldest=NOW - timedelta(days=10), now=NOW)
        assert (log.items, log.kinds, log.values.tolist()) == (("é 9", "7"), ("view", "skip"), [1.0, -0.1])
        assert len(store.log(oldest=NOW - timedelta(days=2), now=NOW)) == 1


def test_retention_by_age_and_by_number(path: Path) -> None:
    with EventStore(path) as store:
        store.add([event(str(days), days=days) for days in range(10)], retention=KEEP, now=NOW)
        small = Retention(age=timedelta(days=6), events=4)
        assert store.expire(retention=small, now=NOW) == 6
        assert len(store.log(oldest=NOW - timedelta(days=3), now=NOW)) == 4
        late = store.add([event("late", days=7)], retention=small, now=NOW)
        assert late == Recorded(new=1, repeated=0, expired=1)


def test_a_time_in_the_future_is_refused(path: Path) -> None:
    with EventStore(path) as store, pytest.raises(EventInvalid, match="future"):
        store.add([event("a", days=-0.001)], retention=KEEP, now=NOW)


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": float("nan")},
        {"value": float("inf")},
        {"value": 1e7},
        {"item": ""},
        {"item": "line\nbreak"},
        {"item": "x" * 257},
        {"event_id": ""},
        {"kind": "View"},
        {"kind": "a b"},
        {"at": datetime(2026, 1, 1)},  # noqa: DTZ001
    ],
)
def test_events_that_cannot_be_kept(wrong: dict[str, object]) -> None:
    good = {"event_id": "secret-id", "item": "secret-item", "kind": "view", "value": 1.0, "at": NOW}
    with pytest.raises(EventInvalid) as caught:
        Event(**{**good, **wrong})  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("only_item", [None, "needle-item-0123456789"])
def test_forgetting_leaves_no_trace_in_any_file(path: Path, only_item: str | None) -> None:
    filler = [event(f"filler-{n}", item=f"other-{n}") for n in range(500)]
    needles = [event(f"needle-event-{n:04d}", item="needle-item-0123456789") for n in range(200)]
    with EventStore(path) as store:
        store.add([*filler, *needles], retention=KEEP, now=NOW)
        assert b"needle-item-0123456789" in path.read_bytes(), "the search must be able to find it"
        assert store.forget(only_item) == (700 if only_item is None else 200)
        assert store.count() == (0 if only_item is None else 500)
        for file in path.parent.iterdir():
            assert b"needle" not in file.read_bytes(), file.name


def test_retention_leaves_no_trace_either(path: Path) -> None:
    with EventStore(path) as store:
        store.add([event(f"needle-{n:04d}", days=5) for n in range(300)], retention=KEEP, now=NOW)
        store.expire(retention=Retention(age=timedelta(days=1)), now=NOW)
        assert all(b"needle-" not in file.read_bytes() for file in path.parent.iterdir())


def test_killed_in_the_middle_of_a_batch_nothing_of_it_is_there(path: Path) -> None:
    code = """
import os, sys
from datetime import timedelta
from pathlib import Path
from ondevice import store
from tests.support.devices import NOW
from tests.unit.test_ondevice_store import KEEP, event
whole = store._expire
store._expire = lambda *a: os.kill(os.getpid(), 9)
with store.EventStore(Path(sys.argv[1])) as opened:
    opened.add([event(str(n)) for n in range(2000)], retention=KEEP, now=NOW)
"""
    with EventStore(path) as store:
        store.add([event("kept")], retention=KEEP, now=NOW)
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == -9
    with EventStore(path) as store:
        assert store.count() == 1
        assert store.add([event("after")], retention=KEEP, now=NOW).new == 1


def test_two_writers_lose_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ondevice.store._PATIENCE_SECONDS", 120.0)

    def write(prefix: str) -> None:
        with EventStore(path) as store:
            for n in range(20):
                store.add([event(f"{prefix}{n}")], retention=KEEP, now=NOW)

    threads = [threading.Thread(target=write, args=(prefix,)) for prefix in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with EventStore(path) as store:
        assert store.count() == 60


def test_other_files_are_refused(tmp_path: Path, path: Path) -> None:
    with pytest.raises(DeviceMissing, match="device init"):
        EventStore(tmp_path / "absent.db")
    assert not (tmp_path / "absent.db").exists()
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"not a database, " * 100)
    foreign = tmp_path / "foreign.db"
    sqlite3.connect(foreign).execute("CREATE TABLE t (x)").connection.close()
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    for file in (garbage, foreign, damaged):
        file.chmod(0o600)
        with pytest.raises(DeviceCorrupt), EventStore(file) as store:
            store.log(oldest=NOW - timedelta(days=1), now=NOW)


def test_a_store_in_use_is_an_error_without_a_traceback(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ondevice.store._PATIENCE_SECONDS", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(DeviceError, match="another process"):
            EventStore(path)
    finally:
        other.close()
