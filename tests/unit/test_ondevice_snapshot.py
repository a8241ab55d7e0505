from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore.catalogue.signing import public_key_bytes
from governance.errors import DeviceCorrupt, DeviceMissing, HedgerowError, PublicationCorrupt, SnapshotRefused
from governance.files import exclusive_lock
from ondevice.device import Device
from ondevice.parcel import Parcel
from ondevice.snapshot import SnapshotKeeper
from tests.support.devices import KEY, NOW, OTHER_KEY, make_catalogue, make_device, make_parcel

PARCEL = make_parcel(make_catalogue(sequence=2))


@pytest.fixture
def keeper(tmp_path: Path) -> SnapshotKeeper:
    return SnapshotKeeper(root=tmp_path, public_key=public_key_bytes(KEY))


def sequence(keeper: SnapshotKeeper) -> int | None:
    catalogue = keeper.load()
    return catalogue.sequence if catalogue else None


def test_what_the_pinned_key_signed_is_taken(keeper: SnapshotKeeper) -> None:
    assert sequence(keeper) is None
    assert keeper.accept(PARCEL).new
    assert not keeper.accept(PARCEL).new
    assert sequence(keeper) == 2
    assert (keeper.root / "catalogue.signed").stat().st_mode & 0o777 == 0o600


def test_another_key_is_refused_and_the_last_good_one_stays(keeper: SnapshotKeeper) -> None:
    keeper.accept(PARCEL)
    with pytest.raises(PublicationCorrupt, match="pinned key"):
        keeper.accept(make_parcel(make_catalogue(sequence=3), OTHER_KEY))
    assert sequence(keeper) == 2


def test_there_is_no_way_back(keeper: SnapshotKeeper) -> None:
    keeper.accept(PARCEL)
    with pytest.raises(SnapshotRefused, match="catalogue 1: this device has had 2"):
        keeper.accept(make_parcel(make_catalogue(sequence=1)))
    (keeper.root / "catalogue.signed").unlink()
    with pytest.raises(SnapshotRefused):
        keeper.accept(make_parcel(make_catalogue(sequence=1)))
    assert keeper.accept(make_parcel(make_catalogue(sequence=3))).new


def test_one_number_stands_for_one_content(keeper: SnapshotKeeper) -> None:
    keeper.accept(PARCEL)
    with pytest.raises(SnapshotRefused, match="under this number"):
        keeper.accept(make_parcel(make_catalogue(sequence=2, seed=8)))
    assert sequence(keeper) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 64 + len(PARCEL.data) - 1), st.integers(0, 7))
def test_any_flipped_bit_is_refused(keeper: SnapshotKeeper, position: int, bit: int) -> None:
    raw = bytearray(PARCEL.to_bytes())
    raw[position] ^= 1 << bit
    with pytest.raises(PublicationCorrupt):
        keeper.accept(Parcel.from_bytes(bytes(raw)))
    assert not list(keeper.root.iterdir()), "nothing may be written before the signature is verified"


@given(st.binary(max_size=200))
def test_any_bytes_give_a_typed_error(raw: bytes) -> None:
    keeper = SnapshotKeeper(root=Path("/nonexistent"), public_key=public_key_bytes(KEY))
    with pytest.raises(PublicationCorrupt):
        keeper.accept(Parcel.from_bytes(raw))


def test_a_file_changed_on_the_disk_is_noticed_and_mended_by_a_sync(keeper: SnapshotKeeper) -> None:
    keeper.accept(PARCEL)
    path = keeper.root / "catalogue.signed"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PublicationCorrupt):
        keeper.load()
    assert not keeper.accept(PARCEL).new
    assert sequence(keeper) == 2


def test_a_crash_between_the_two_writes_keeps_the_old_catalogue_and_closes_the_way_back(
    keeper: SnapshotKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ondevice import snapshot

    keeper.accept(PARCEL)
    write = snapshot.write_atomic

    def crash_on_the_catalogue(path: Path, data: bytes, *, mode: int) -> None:
        if path.name == "catalogue.signed":
            raise OSError("the power is gone")
        write(path, data, mode=mode)

    newer = make_parcel(make_catalogue(sequence=5))
    with monkeypatch.context() as patched:
        patched.setattr(snapshot, "write_atomic", crash_on_the_catalogue)
        with pytest.raises(OSError, match="power"):
            keeper.accept(newer)
    assert sequence(keeper) == 2
    with pytest.raises(SnapshotRefused):
        keeper.accept(make_parcel(make_catalogue(sequence=4)))
    keeper.accept(newer)
    assert sequence(keeper) == 5


def test_a_damaged_floor_opens_no_way_back(keeper: SnapshotKeeper) -> None:
    keeper.accept(PARCEL)
    for damage in (b"", b"{}", b'{"schema":"hedgerow.device-floor/1","sequence":"2","sha256":"x"}'):
        (keeper.root / "catalogue.floor").write_bytes(damage)
        with pytest.raises(DeviceCorrupt):
            keeper.accept(make_parcel(make_catalogue(sequence=1)))


def test_two_processes_do_not_take_snapshots_at_once(keeper: SnapshotKeeper) -> None:
    with exclusive_lock(keeper.root / "catalogue.lock", "test"), pytest.raises(HedgerowError, match="another process"):
        keeper.accept(PARCEL)


def test_a_device_appears_whole_and_private(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "device"
    make_device(root).close()
    assert root.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in root.iterdir()} == {
        "device.json": 0o600,
        "events.db": 0o600,
    }
    assert [path.name for path in root.parent.iterdir()] == ["device"]
    with pytest.raises(HedgerowError, match="not an empty folder"):
        make_device(root)


def test_a_device_whose_settings_are_damaged_is_refused(tmp_path: Path) -> None:
    make_device(tmp_path / "d").close()
    path = tmp_path / "d" / "device.json"
    good = json.loads(path.read_bytes())
    for wrong in ({**good, "public_key": "00"}, {**good, "retention_events": 0}, {**good, "more": 1}, {}, []):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DeviceCorrupt):
            Device(tmp_path / "d")
    with pytest.raises(DeviceMissing):
        Device(tmp_path / "elsewhere")


def test_a_damaged_event_store_can_still_be_erased(tmp_path: Path) -> None:
    with make_device(tmp_path / "d", catalogue=make_catalogue()) as device:
        device.record("needle-item")
    events = tmp_path / "d" / "events.db"
    events.write_bytes(b"x" * 100 + events.read_bytes()[100:])
    with pytest.raises(DeviceCorrupt):
        Device(tmp_path / "d")
    Device.erase(tmp_path / "d")
    with Device(tmp_path / "d", clock=lambda: NOW) as device:
        assert device.count() == 0
        assert device.rank(k=3)
    assert all(b"needle" not in path.read_bytes() for path in (tmp_path / "d").iterdir())
