"""The event store: one SQLite file that only its owner can read, and that forgets.

Everything personal on the device is in this file and nowhere else. Each change is one transaction, durable when the
call returns (`synchronous=FULL`, rollback journal): a crash leaves the events before it or after it.

Forgetting is real as far as a file can make it: `secure_delete` overwrites freed content with zeros, the journal is
deleted with each transaction, temporary data stays in memory, and forgetting rewrites the file. What the disk itself
keeps (wear levelling, snapshots, backups) is out of reach.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np

from governance.errors import DeviceCorrupt, DeviceError, DeviceMissing, EventInvalid
from ondevice.events import Event, EventLog, microseconds, span_microseconds

__all__ = ["EventStore", "Recorded", "Retention"]

_APPLICATION: Final = 0x48474456  # "HGDV", so that another program's database is not taken for ours
_VERSION: Final = 1
_PATIENCE_SECONDS: Final = 10.0
_TABLES: Final = """
CREATE TABLE events (
    event_id TEXT PRIMARY KEY,
    item TEXT NOT NULL,
    kind TEXT NOT NULL,
    value REAL NOT NULL,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX events_at ON events (at);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long events are kept: what is older, or beyond the newest `events`, is deleted.

    Raises:
        ValueError: not positive.
    """

    age: timedelta = timedelta(days=180)
    events: int = 100_000

    def __post_init__(self) -> None:
        span_microseconds(self.age)
        if self.events < 1:
            raise ValueError("retention: keep at least one event")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What became of the events handed over.

    Attributes:
        new: were not there before.
        repeated: were there already, the same.
        expired: events deleted by retention in the same transaction, old or new.
    """

    new: int
    repeated: int
    expired: int


class EventStore:
    """Opens a store that `create` made. Use as a context manager, or call `close`.

    Args:
        path: the file.

    Raises:
        DeviceMissing: no such file.
        DeviceCorrupt: not an event store, damaged, or readable by others.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            raise DeviceMissing(f"{path}: no event store; run 'hedgerow device init'") from None
        if mode & 0o077:
            raise DeviceCorrupt(f"{path}: others may read the events; run: chmod 600 {path}")
        with self._errors():
            self._connection = _connect(path)
            try:
                found = tuple(self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in _MARKS)
            except BaseException:
                self._connection.close()
                raise
        if found != (_APPLICATION, _VERSION):
            self._connection.close()
            raise DeviceCorrupt(f"{path}: not an event store of this version; choose another folder with --store")

    @classmethod
    def create(cls, path: Path) -> None:
        """Makes an empty store, mode 0600 from its first byte, whatever the umask.

        Raises:
            FileExistsError: something is there.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        connection = _connect(path)
        try:
            connection.executescript(
                f"BEGIN; {_TABLES} PRAGMA application_id={_APPLICATION}; PRAGMA user_version={_VERSION}; COMMIT;"
            )
        finally:
            connection.close()

    def __enter__(self) -> EventStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. Idempotent."""
        self._connection.close()

    def add(self, events: Sequence[Event], *, retention: Retention, now: datetime) -> Recorded:
        """Records events and applies retention, all in one transaction.

        Raises:
            EventInvalid: a time after `now`, or an id that names a different event already; nothing was recorded.
        """
        latest = microseconds(now)
        if any(microseconds(event.at) > latest for event in events):
            raise EventInvalid("event: its time lies in the future; correct it, or this device's clock")
        with self._transaction() as connection:
            new = sum(_insert(connection, event) for event in events)
            expired = _expire(connection, retention, latest)
        return Recorded(new=new, repeated=len(events) - new, expired=expired)

    def expire(self, *, retention: Retention, now: datetime) -> int:
        """Deletes what retention no longer allows, and returns how many events that were."""
        with self._transaction() as connection:
            return _expire(connection, retention, microseconds(now))

    def log(self, *, oldest: datetime, now: datetime) -> EventLog:
        """The events in `[oldest, now]`, by time."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT item, kind, value, at FROM events WHERE at BETWEEN ? AND ? ORDER BY at, event_id",
                (microseconds(oldest), microseconds(now)),
            ).fetchall()
        items, kinds, values, at = zip(*rows, strict=True) if rows else ((), (), (), ())
        return EventLog(items=items, kinds=kinds, values=np.array(values, np.float64), at=np.array(at, np.int64))

    def count(self) -> int:
        """How many events are kept."""
        with self._errors():
            return int(self._connection.execute("SELECT count(*) FROM events").fetchone()[0])

    def forget(self, item: str | None = None) -> int:
        """Deletes all events, or those with one item, overwrites their content and returns how many there were."""
        with self._transaction() as connection:
            if item is None:
                deleted = connection.execute("DELETE FROM events").rowcount
            else:
                deleted = connection.execute("DELETE FROM events WHERE item = ?", (item,)).rowcount
        with self._errors():
            self._connection.execute("VACUUM")
        return deleted

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as ours; its texts name tables and states, never content."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname in ("SQLITE_BUSY", "SQLITE_LOCKED"):
                raise DeviceError(f"{self._path}: another process is using it; try again") from None
            raise DeviceError(
                f"{self._path}: {error.sqlite_errorname}; check the disk's space and permissions"
            ) from None
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            raise DeviceCorrupt(
                f"{self._path}: damaged; restore it, or delete it with 'hedgerow device forget', which starts a new one"
            ) from None


_MARKS: Final = ("application_id", "user_version")


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that never creates the file and leaves nothing behind in other files."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=_PATIENCE_SECONDS
    )
    try:
        for setting in ("journal_mode=DELETE", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def _insert(connection: sqlite3.Connection, event: Event) -> int:
    """1 if the event is new, 0 if it was there."""
    row = (event.item, event.kind, float(event.value), microseconds(event.at))
    added = connection.execute(
        "INSERT INTO events (event_id, item, kind, value, at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (event.event_id, *row),
    ).rowcount
    if not added:
        known = connection.execute(
            "SELECT item, kind, value, at FROM events WHERE event_id = ?", (event.event_id,)
        ).fetchone()
        if known != row:
            raise EventInvalid("event: its id names a different event already; give each event its own id")
    return added


def _expire(connection: sqlite3.Connection, retention: Retention, now: int) -> int:
    aged = connection.execute("DELETE FROM events WHERE at < ?", (now - span_microseconds(retention.age),)).rowcount
    surplus = connection.execute(
        "DELETE FROM events WHERE event_id IN "
        "(SELECT event_id FROM events ORDER BY at DESC, event_id DESC LIMIT -1 OFFSET ?)",
        (retention.events,),
    ).rowcount
    return aged + surplus
