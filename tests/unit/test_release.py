"""Manifests and the store of releases: round trips, and everything that must not be believed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from governance.canonical import canonical_bytes, sha256_hex
from governance.errors import ReleaseCorrupt, ReleaseMissing
from governance.ledger import Ledger
from governance.release import MANIFEST_NAME, DataFile, Manifest, ReleaseStore, WindowReference
from governance.settings import Settings
from tests.support.releases import make_project, make_release, make_vector_release


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path / "project")


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as opened:
        yield opened


@pytest.fixture
def store(settings: Settings) -> ReleaseStore:
    return ReleaseStore(settings.releases_dir)


@pytest.fixture
def manifest(settings: Settings, ledger: Ledger) -> Manifest:
    return make_release(
        settings,
        ledger,
        signal="genre_weekly",
        keys={"genre": "string"},
        features={"users": "int64"},
        rows={"genre": ["jazz", "rock"], "users": [120, 340]},
    )


def test_round_trip(settings: Settings, ledger: Ledger, store: ReleaseStore, manifest: Manifest) -> None:
    vectors = make_vector_release(settings, ledger, ids=range(3), vectors=np.eye(3))
    for made in (manifest, vectors):
        data = made.to_bytes()
        assert Manifest.from_bytes(data, "here") == made == store.load(made.release_id)
        assert Manifest.from_bytes(data, "here").to_bytes() == data
        assert made.sha256 == sha256_hex((store.directory(made.release_id) / MANIFEST_NAME).read_bytes())
        store.verify_files(made)
        assert all(path.is_file() for path in store.data_files(made))
        with pytest.raises(FrozenInstanceError):
            made.rows = 5  # type: ignore[misc]
    assert store.ids() == ("genre_weekly/v1/2025-11-03", vectors.release_id)
    assert tuple(store.manifests()) == (manifest, vectors)
    assert manifest.window_end == datetime(2025, 11, 10, tzinfo=UTC)
    assert vectors.window_end is None
    assert [column.name for column in manifest.features] == ["users"]


Change = Callable[[dict[str, Any]], object]


def at(path: str, value: Any) -> Change:
    """Sets the value at a path such as `signal.version`."""

    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = document
        for step in parents:
            place = place[int(step)] if isinstance(place, list) else place[step]
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value

    return change


WRONG_TYPES = [
    ("rows", "2", "manifest.rows: found str, allowed: int"),
    ("rows", 2.0, "manifest.rows: found float, allowed: int"),
    ("rows", True, "manifest.rows: found bool, allowed: int"),
    ("rows", None, "manifest.rows: found NoneType, allowed: int"),
    ("release_id", 5, "manifest.release_id: found int, allowed: str"),
    ("keys", "genre", "manifest.keys: found str"),
    ("keys", ["genre", 1], "manifest.keys[1]: found int, allowed: str"),
    ("keys", {"genre": 1}, "manifest.keys: found dict"),
    ("columns", {}, "manifest.columns: found dict"),
    ("columns.0", [], "manifest.columns[0]: found list, allowed: Column"),
    ("columns.1.noise_stddev", "3.5", "manifest.columns[1].noise_stddev: found str, allowed: float"),
    ("signal", None, "manifest.signal: found NoneType, allowed: SignalReference"),
    ("signal.version", "1", "manifest.signal.version: found str, allowed: int"),
    ("signal.definition", [], "manifest.signal.definition: found list"),
    ("guarantee.epsilon", "1.0", "manifest.guarantee.epsilon: found str, allowed: float"),
    ("guarantee.epsilon_delta", None, "manifest.guarantee.epsilon_delta: found NoneType, allowed: float"),
    ("guarantee.rho", 0.01, "manifest.guarantee.rho: found float, allowed: str"),
    ("guarantee.threshold", "12.5", "manifest.guarantee.threshold: found str, allowed: float"),
    ("guarantee.measurements.0.l0", False, "manifest.guarantee.measurements[0].l0: found bool, allowed: int"),
    ("guarantee.bounds", "none", "manifest.guarantee.bounds: found str"),
    ("ledger.reserve_entry", "2", "manifest.ledger.reserve_entry: found str, allowed: int"),
    ("inputs.0.columns.0", None, "manifest.inputs[0].columns[0]: found NoneType, allowed: str"),
    ("quality", [1], "manifest.quality[0]: found int"),
    ("code", {"hedgerow": 1}, "manifest.code.hedgerow: found int, allowed: str"),
    ("files.0.bytes", "12", "manifest.files[0].bytes: found str, allowed: int"),
]

UNLAWFUL = [
    ("schema", "hedgerow.release/1", "another schema"),
    ("schema", None, "another schema"),
    ("release_id", "../../etc/v1/x", "manifest.release_id: found '../../etc/v1/x'"),
    ("release_id", "genre_weekly/v1/..", "manifest.release_id"),
    ("release_id", "genre_weekly/v1/a/b", "manifest.release_id"),
    ("release_id", "genre_weekly/v2/2025-11-03", "allowed: genre_weekly/v1/<window>"),
    ("signal.name", "other", "allowed: other/v1/<window>"),
    ("files.0.name", "../../../../hedgerow.toml", "manifest.files: allowed: different plain names"),
    ("files.0.name", "/etc/passwd", "manifest.files"),
    ("files.0.name", "..", "manifest.files"),
    ("files.0.name", "", "manifest.files"),
    ("files.0.name", MANIFEST_NAME, "manifest.files"),
    ("window.start", "yesterday", "Invalid isoformat"),
    ("window.start", "2025-11-03T00:00:00", "manifest.window: allowed: a start in UTC"),
    ("window.start", "2025-11-03T00:00:00+01:00", "manifest.window"),
    ("window.start", "2025-11-17T00:00:00+00:00", "manifest.window"),
    ("window.end", "", "Invalid isoformat"),
    ("guarantee.rho", "-0.01", "manifest.guarantee: found '-0.01'"),
    ("guarantee.delta", "NaN", "manifest.guarantee: found 'NaN'"),
    ("guarantee.sampler_delta", "", "manifest.guarantee: found ''"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG_TYPES + UNLAWFUL)
def test_wrong_values_are_refused(manifest: Manifest, path: str, value: Any, message: str) -> None:
    document = json.loads(manifest.to_bytes())
    at(path, value)(document)
    with pytest.raises(ReleaseCorrupt) as caught:
        Manifest.from_bytes(canonical_bytes(document), "here")
    assert str(caught.value).startswith("here: not a hedgerow.release/2 manifest (")
    assert message in str(caught.value)
    assert str(caught.value).endswith("restore the release from a backup or run it again")


@pytest.mark.parametrize(
    "where", ["", "signal", "window", "guarantee", "guarantee.measurements.0", "ledger", "files.0"]
)
def test_unknown_and_missing_fields_are_refused(manifest: Manifest, where: str) -> None:
    def place(document: Any) -> Any:
        for step in where.split(".") if where else ():
            document = document[int(step)] if isinstance(document, list) else document[step]
        return document

    added = json.loads(manifest.to_bytes())
    place(added)["colour"] = "red"
    with pytest.raises(ReleaseCorrupt, match="unknown or missing: colour"):
        Manifest.from_bytes(canonical_bytes(added), "here")
    for name in place(json.loads(manifest.to_bytes())):
        removed = json.loads(manifest.to_bytes())
        del place(removed)[name]
        with pytest.raises(ReleaseCorrupt, match=f"unknown or missing: {name}|another schema"):
            Manifest.from_bytes(canonical_bytes(removed), "here")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'"hedgerow.release/2"',
        b"\xff\xfe\x00",
        b'{"schema":"hedgerow.release/2"}',
        b"[" * 100_000,
        b'{"schema":' + b'{"a":' * 100_000,
    ],
)
def test_bytes_that_are_no_manifest(data: bytes) -> None:
    with pytest.raises(ReleaseCorrupt, match=r"here: not a hedgerow\.release/2 manifest"):
        Manifest.from_bytes(data, "here")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b'"rows":2', b'"rows":2,"rows":2'),
        lambda data: data.replace(b'"rows":2', b'"rows": 2'),
        lambda data: data.replace(b"3.5", b"3.50"),
        lambda data: data.replace(b"3.5", b"NaN"),
        lambda data: data.replace(b"3.5", b"1e999"),
        lambda data: data.replace(b"made by tests", b"made \\u0062y tests"),
        lambda data: data.replace(b"made by tests", b"made \\ud800 tests"),
        lambda data: json.dumps(json.loads(data), indent=1).encode(),
    ],
)
def test_only_the_canonical_bytes_are_a_manifest(manifest: Manifest, spoil: Callable[[bytes], bytes]) -> None:
    """The ledger holds the hash of the file: were other bytes taken for the same manifest, the hashes would differ."""
    spoiled = spoil(manifest.to_bytes())
    assert spoiled != manifest.to_bytes()
    with pytest.raises(ReleaseCorrupt):
        Manifest.from_bytes(spoiled, "here")


def test_a_release_is_published_once(settings: Settings, store: ReleaseStore, manifest: Manifest) -> None:
    staged = settings.staging_dir / "again"
    staged.mkdir(parents=True)
    before = (store.directory(manifest.release_id) / MANIFEST_NAME).read_bytes()
    with pytest.raises(FileExistsError):
        store.publish(staged, replace(manifest, rows=5))
    assert (store.directory(manifest.release_id) / MANIFEST_NAME).read_bytes() == before


def test_what_is_not_there(store: ReleaseStore, manifest: Manifest) -> None:
    for missing in (
        "genre_weekly/v1/2025-11-10",
        "genre_weekly/v2/2025-11-03",
        "x/v1/y",
        manifest.release_id + "/manifest.json",
    ):
        assert not store.exists(missing)
        with pytest.raises(ReleaseMissing, match="run it first"):
            store.load(missing)
    assert ReleaseStore(store.root / "nowhere").ids() == ()


def test_a_release_under_another_name(store: ReleaseStore, manifest: Manifest) -> None:
    moved = store.directory("genre_weekly/v1/2025-11-10")
    store.directory(manifest.release_id).rename(moved)
    with pytest.raises(ReleaseCorrupt, match="says it is genre_weekly/v1/2025-11-03"):
        store.load("genre_weekly/v1/2025-11-10")
    with pytest.raises(ReleaseCorrupt):
        tuple(store.manifests())


def test_a_manifest_that_cannot_be_read(store: ReleaseStore, manifest: Manifest) -> None:
    path = store.directory(manifest.release_id) / MANIFEST_NAME
    path.unlink()
    path.mkdir()
    assert store.exists(manifest.release_id)
    with pytest.raises(ReleaseCorrupt, match="cannot be read"):
        store.load(manifest.release_id)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "part-00000.parquet").unlink(), "part-00000.parquet: missing"),
        (lambda folder: (folder / "part-00000.parquet").write_bytes(b""), "content differs"),
        (lambda folder: flip(folder / "part-00000.parquet"), "content differs"),
        (lambda folder: (folder / "part-00001.parquet").write_bytes(b"PAR1"), "does not list: part-00001.parquet"),
        (lambda folder: (folder / ".hidden").write_bytes(b""), "does not list: .hidden"),
        (lambda folder: (folder / "more").mkdir(), "does not list: more"),
    ],
)
def test_changed_data_files(
    store: ReleaseStore, manifest: Manifest, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(store.directory(manifest.release_id))
    with pytest.raises(ReleaseCorrupt, match=message):
        store.verify_files(store.load(manifest.release_id))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_stray_files_are_no_releases(store: ReleaseStore, manifest: Manifest) -> None:
    (store.root / "notes.txt").write_text("x")
    (store.root / "genre_weekly" / "v1" / "unfinished").mkdir()
    (store.root / "genre_weekly" / MANIFEST_NAME).write_text("{}")
    assert store.ids() == (manifest.release_id,)


def test_a_listed_file_twice(manifest: Manifest) -> None:
    (file,) = manifest.files
    twice = replace(manifest, files=(file, DataFile(name=file.name, bytes=0, sha256=sha256_hex(b""))))
    with pytest.raises(ReleaseCorrupt, match="different plain names"):
        Manifest.from_bytes(twice.to_bytes(), "here")
    snapshot = replace(manifest, window=WindowReference(start="", end=""))
    assert Manifest.from_bytes(snapshot.to_bytes(), "here").window_end is None


def test_a_release_without_its_manifest_is_there_and_corrupt(store: ReleaseStore, manifest: Manifest) -> None:
    """Were it taken for absent, a rerun would spend again and then find its name taken."""
    (store.directory(manifest.release_id) / MANIFEST_NAME).unlink()
    assert store.exists(manifest.release_id)
    with pytest.raises(ReleaseCorrupt, match="missing"):
        store.load(manifest.release_id)
