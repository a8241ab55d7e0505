"""From releases to a ranking on a device: the real publication, the real server, the real gate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from featurestore.catalogue.format import encode
from featurestore.catalogue.signing import sign, signing_key
from governance.errors import SnapshotRefused
from governance.ledger import Ledger
from governance.settings import Settings
from ondevice.device import Device, DeviceSettings
from ondevice.parcel import Parcel
from ondevice.sync import sync
from serving.publish import publish
from serving.server import start_server
from tests.support.devices import GENRES, NOW
from tests.support.releases import make_project, make_release, make_vector_release
from tests.support.serving import patient

ITEMS = list(range(1, 41))


def release_week(settings: Settings, ledger: Ledger, *, week: int) -> None:
    """Weekly users of the first 30 items, fewer the higher the id."""
    make_release(
        settings,
        ledger,
        signal="item_week",
        keys={"item_id": "int64"},
        features={"users": "int64"},
        rows={"item_id": ITEMS[:30], "users": [1000 + week - item for item in ITEMS[:30]]},
        window_start=datetime(2025, 11, 3, tzinfo=UTC) + week * timedelta(days=7),
    )


def test_a_device_follows_the_publications_of_a_project(tmp_path: Path) -> None:
    settings = make_project(tmp_path / "shop")
    vectors = np.eye(4, 16, dtype=np.float32)[[item % 4 for item in ITEMS]]
    titles, tags = [f"Film {item}" for item in ITEMS], [[GENRES[item % 4]] for item in ITEMS]
    with Ledger(settings.ledger_path) as ledger:
        release_week(settings, ledger, week=0)
        make_vector_release(settings, ledger, ids=ITEMS, vectors=vectors, titles=titles, tags=tags)
        publish(settings, ledger)

    pinned = (settings.serving_dir / "catalogue.pub").read_bytes()
    Device.create(tmp_path / "device", DeviceSettings(public_key=pinned))
    with (
        start_server(settings, config=patient(settings), port=0) as server,
        Device(tmp_path / "device", clock=lambda: NOW) as device,
    ):
        first = sync(device, server.address)
        assert first.new
        assert first.catalogue.titles == tuple(titles)
        popular = device.rank(k=3)
        assert [entry.item for entry in popular] == [1, 2, 3]
        device.record(6)
        device.record(10, value=2.0)
        mine = device.rank(k=5)
        assert {entry.reason for entry in mine} == {"because of Drama"}
        assert [entry.item for entry in mine] == [2, 14, 18, 22, 26]
        assert not sync(device, server.address).new

    with Ledger(settings.ledger_path) as ledger:
        release_week(settings, ledger, week=1)
        newer = publish(settings, ledger)
    assert newer.catalogue is not None
    with (
        start_server(settings, config=patient(settings), port=0) as server,
        Device(tmp_path / "device", clock=lambda: NOW) as device,
    ):
        second = sync(device, server.address)
        assert second.new
        assert second.catalogue.sequence == newer.catalogue.sequence > first.catalogue.sequence
        assert device.rank(k=1, include_seen=True)

    # The same publisher from an older backup: rightly signed, and refused.
    old = encode(first.catalogue)
    with Device(tmp_path / "device", clock=lambda: NOW) as device, pytest.raises(SnapshotRefused):
        device.accept(Parcel(signature=sign(old, signing_key(settings)), data=old))
