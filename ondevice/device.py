"""The core as one object: everything personal on a device, without a way to send any of it.

    DIR/                  0700
        device.json       the pinned key and how long events are kept
        events.db         the events, 0600
        catalogue.signed  the catalogue in use
        catalogue.floor   the way back, closed

The clock is passed in. Two processes may use one device: each change is one transaction or one rename.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from governance.canonical import canonical_bytes
from governance.errors import ConfigError, DeviceCorrupt, DeviceError, DeviceMissing, NotPublished
from governance.files import publish_directory, write_atomic
from ondevice.events import Event, EventLog
from ondevice.features import LocalFeatures, compute
from ondevice.parcel import Parcel
from ondevice.ranker import DEFAULT_BLEND, Blend, Ranked, Ranker
from ondevice.snapshot import Accepted, SnapshotKeeper
from ondevice.store import EventStore, Recorded, Retention

__all__ = ["Device", "DeviceSettings"]

SETTINGS_FILE: Final = "device.json"
EVENTS_FILE: Final = "events.db"
KEY_BYTES: Final = 32
_SCHEMA: Final = "hedgerow.device/1"


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """What a device is set up with.

    Attributes:
        public_key: the Ed25519 key whose catalogues it takes, 32 bytes.
        retention: how long it keeps events.

    Raises:
        ConfigError: not 32 bytes.
    """

    public_key: bytes
    retention: Retention = field(default_factory=Retention)

    def __post_init__(self) -> None:
        if len(self.public_key) != KEY_BYTES:
            found = len(self.public_key)
            raise ConfigError(f"device: a public key has {KEY_BYTES} bytes, found {found}; pass the publisher's")


class Device:
    """Opens a device that `create` set up. Use as a context manager, or call `close`.

    Args:
        root: the device's folder.
        clock: gives the current aware time.

    Raises:
        DeviceMissing: nothing was set up there.
        DeviceCorrupt: damaged, or readable by others.
    """

    def __init__(self, root: Path, *, clock: Callable[[], datetime] = _utc_now) -> None:
        self.settings = _load_settings(root)
        self._clock = clock
        self._keeper = SnapshotKeeper(root=root, public_key=self.settings.public_key)
        self._ranker: Ranker | None = None
        self._store = EventStore(root / EVENTS_FILE)
        try:
            self._store.expire(retention=self.settings.retention, now=clock())
        except BaseException:
            self._store.close()
            raise

    @classmethod
    def create(cls, root: Path, settings: DeviceSettings) -> None:
        """Sets a device up in a folder that is not there or empty; it appears whole, in one rename.

        Raises:
            DeviceError: the folder is not empty.
        """
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DeviceError(f"{root}: not an empty folder; choose another, or delete it to set the device up anew")
        staged = root.absolute().with_name(f".{root.absolute().name}.{uuid4().hex}.tmp")
        staged.mkdir(parents=True, mode=0o700)
        try:
            staged.chmod(0o700)
            EventStore.create(staged / EVENTS_FILE)
            body = {
                "schema": _SCHEMA,
                "public_key": settings.public_key.hex(),
                "retention_seconds": int(settings.retention.age.total_seconds()),
                "retention_events": settings.retention.events,
            }
            write_atomic(staged / SETTINGS_FILE, canonical_bytes(body), mode=0o600)
            if root.is_dir():
                root.rmdir()
            publish_directory(staged, root.absolute())
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise

    @staticmethod
    def erase(root: Path) -> None:
        """Replaces the event store by an empty one, also where it is damaged and cannot be opened.

        Raises:
            DeviceMissing: nothing was set up there.
        """
        _load_settings(root)
        fresh = root / f".{EVENTS_FILE}.{uuid4().hex}.tmp"
        try:
            EventStore.create(fresh)
            for path in (root / EVENTS_FILE, root / f"{EVENTS_FILE}-journal"):
                _overwrite(path)
            fresh.replace(root / EVENTS_FILE)
            (root / f"{EVENTS_FILE}-journal").unlink(missing_ok=True)
        finally:
            fresh.unlink(missing_ok=True)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the store. Idempotent."""
        self._store.close()

    def accept(self, parcel: Parcel) -> Accepted:
        """Takes a snapshot from the gate, if it may be taken.

        Raises:
            PublicationCorrupt: not signed by the pinned key, or not a catalogue.
            SnapshotRefused: it would take the device back.
            RunInProgress: another process takes a snapshot now.
        """
        accepted = self._keeper.accept(parcel)
        self._ranker = Ranker(accepted.catalogue)
        return accepted

    def ranker(self) -> Ranker | None:
        """The catalogue in use, ready to be searched; None before the first sync.

        Raises:
            PublicationCorrupt: its file was changed since it was accepted.
        """
        if self._ranker is None and (catalogue := self._keeper.load()) is not None:
            self._ranker = Ranker(catalogue)
        return self._ranker

    def record(
        self,
        item: int | str,
        *,
        value: float = 1.0,
        kind: str = "view",
        at: datetime | None = None,
        event_id: str | None = None,
    ) -> Recorded:
        """Records one event.

        Args:
            item: its id, as in the catalogue.
            value: strength of interest; 1 is a plain interaction, negative is dislike.
            kind: what happened.
            at: when, with a zone; None: now.
            event_id: recording the same id again changes nothing; None: a new one.

        Raises:
            EventInvalid: a field that cannot be kept.
        """
        now = self._clock()
        return self._add(
            (
                Event(
                    event_id=uuid4().hex if event_id is None else event_id,
                    item=str(item),
                    kind=kind,
                    value=value,
                    at=now if at is None else at,
                ),
            ),
            now,
        )

    def record_all(self, events: tuple[Event, ...]) -> Recorded:
        """Records many events, all or none.

        Raises:
            EventInvalid: a time in the future, or an id that names another event.
        """
        return self._add(events, self._clock())

    def count(self) -> int:
        """How many events are kept."""
        return self._store.count()

    def features(self) -> LocalFeatures:
        """All local features now. Tag affinities need a catalogue; without one there are none.

        Raises:
            PublicationCorrupt: the catalogue's file was changed since it was accepted.
        """
        now = self._clock()
        ranker = self.ranker()
        return compute(self._log(now), now, ranker.tags_of if ranker else lambda _: ())

    def rank(
        self,
        *,
        k: int = 10,
        blend: Blend = DEFAULT_BLEND,
        popularity: str | None = None,
        include_seen: bool = False,
    ) -> tuple[Ranked, ...]:
        """Ranks the catalogue for this person now; see `Ranker.rank`.

        Raises:
            NotPublished: no catalogue yet, or it has no such feature.
            RequestInvalid: k below 1.
            PublicationCorrupt: the catalogue's file was changed since it was accepted.
        """
        ranker = self.ranker()
        if ranker is None:
            raise NotPublished("device: no catalogue yet; run 'hedgerow device sync --server HOST:PORT'")
        now = self._clock()
        return ranker.rank(self._log(now), now, k=k, blend=blend, popularity=popularity, include_seen=include_seen)

    def forget(self, item: int | str | None = None) -> int:
        """Deletes all events, or those with one item, and returns how many there were. The catalogue stays."""
        return self._store.forget(None if item is None else str(item))

    def _add(self, events: tuple[Event, ...], now: datetime) -> Recorded:
        return self._store.add(events, retention=self.settings.retention, now=now)

    def _log(self, now: datetime) -> EventLog:
        return self._store.log(oldest=now - self.settings.retention.age, now=now)


def _load_settings(root: Path) -> DeviceSettings:
    path = root / SETTINGS_FILE
    try:
        body: Any = json.loads(path.read_bytes())
        if set(body) != {"schema", "public_key", "retention_seconds", "retention_events"} or body["schema"] != _SCHEMA:
            raise ValueError
        return DeviceSettings(
            public_key=bytes.fromhex(body["public_key"]),
            retention=Retention(age=timedelta(seconds=body["retention_seconds"]), events=body["retention_events"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        raise DeviceMissing(f"{root}: no device here; run 'hedgerow device init --store {root}'") from None
    except (ValueError, KeyError, TypeError, OverflowError, ConfigError):
        raise DeviceCorrupt(f"{path}: damaged; restore it, or set the device up in another folder") from None


def _overwrite(path: Path) -> None:
    """Zeros in place of a file's content, durably."""
    if path.is_file():
        with path.open("r+b") as stream:
            stream.write(bytes(path.stat().st_size))
            stream.flush()
            os.fsync(stream.fileno())
