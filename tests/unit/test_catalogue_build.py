"""The device catalogue, made from releases."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from featurestore.catalogue import build_catalogue, decode, public_key_bytes, signing_key, verify
from featurestore.publication import Publication, PublishedCatalogue, PublishedView, write_publication
from featurestore.views import plan_views
from governance.canonical import sha256_hex
from governance.errors import ConfigError, NotPublished, ReleaseCorrupt
from governance.ledger import Ledger
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings
from tests.support.releases import make_project, make_release, make_vector_release

VECTORS = np.array([[3.0, 4.0], [0.0, 0.0], [-1.0, 1.0]], np.float32)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path)


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return Ledger(settings.ledger_path)


@pytest.fixture
def vectors(settings: Settings, ledger: Ledger) -> Manifest:
    return make_vector_release(
        settings,
        ledger,
        ids=[30, 10, 20],
        vectors=VECTORS,
        titles=["C", "A", "B"],
        tags=[["war", "drama"], [], ["drama"]],
    )


def popularity(settings: Settings, ledger: Ledger, *, version: int = 1, day: int = 3) -> Manifest:
    return make_release(
        settings,
        ledger,
        signal="popularity",
        version=version,
        entity="item",
        keys={"item_id": "int64"},
        features={"users": "int64", "mean": "float64", "label": "string"},
        rows={
            "item_id": [10, 30, 99],
            "users": [5 * version, 7, 1],
            "mean": [None, 3.5, 1.0],
            "label": ["a", "b", "c"],
        },
        window_start=datetime(2025, 11, day, tzinfo=UTC),
    )


def views(*manifests: Manifest) -> list[PublishedView]:
    return [plan.view for plan in plan_views(manifests)]


def read(settings: Settings, published: PublishedCatalogue) -> bytes:
    return (settings.serving_dir / published.file).read_bytes()


def test_it_holds_vectors_labels_and_released_item_features(
    settings: Settings, ledger: Ledger, vectors: Manifest
) -> None:
    old, new = popularity(settings, ledger, version=1), popularity(settings, ledger, version=2)
    by_user = make_release(
        settings,
        ledger,
        signal="affinity",
        keys={"user_id": "int64", "item_id": "int64"},
        features={"score": "float64"},
        rows={"user_id": [1], "item_id": [10], "score": [1.0]},
    )

    published = build_catalogue(settings, ledger, views(old, new, by_user), vectors.release_id)

    data = read(settings, published)
    verify(data, bytes.fromhex(published.signature), public_key_bytes(signing_key(settings)))
    assert (published.bytes, published.sha256) == (len(data), sha256_hex(data))
    assert published.file == f"catalogues/1-{published.sha256[:12]}.bin"
    catalogue = decode(data)
    assert catalogue.sequence == published.sequence == 1
    assert catalogue.releases == published.releases == (vectors.release_id, new.release_id)
    assert (catalogue.key, catalogue.metric) == ("item_id", "cosine")
    assert catalogue.ids.tolist() == [10, 20, 30]
    assert catalogue.titles == ("A", "B", "C")
    assert catalogue.tags == ((), ("drama",), ("war", "drama"))
    assert set(catalogue.features) == {"popularity_v2:users", "popularity_v2:mean"}
    np.testing.assert_array_equal(catalogue.features["popularity_v2:users"], [10, np.nan, 7])
    np.testing.assert_array_equal(catalogue.features["popularity_v2:mean"], [np.nan, np.nan, 3.5])
    unit = VECTORS[[1, 2, 0]] / np.array([[1], [np.sqrt(2)], [5]])
    np.testing.assert_allclose(catalogue.vectors * catalogue.scales[:, None], unit, atol=0.005)


def test_what_is_removed_is_in_no_byte_of_it(settings: Settings, ledger: Ledger, vectors: Manifest) -> None:
    manifest = popularity(settings, ledger)
    whole = build_catalogue(settings, ledger, views(manifest), vectors.release_id)
    published = build_catalogue(settings, ledger, views(manifest), vectors.release_id, removed=[20, 77])
    catalogue = decode(read(settings, published))
    assert catalogue.ids.tolist() == [10, 30]
    assert catalogue.titles == ("A", "C")
    assert len(catalogue.vectors) == 2
    np.testing.assert_array_equal(catalogue.features["popularity_v1:users"], [5, 7])
    assert published.sequence == whole.sequence + 1


def test_the_newest_window_counts(settings: Settings, ledger: Ledger, vectors: Manifest) -> None:
    manifests = [popularity(settings, ledger, day=3), popularity(settings, ledger, day=10)]
    published = build_catalogue(settings, ledger, views(*manifests), vectors.release_id)
    assert published.releases == (vectors.release_id, manifests[1].release_id)


def test_building_again_changes_nothing(settings: Settings, ledger: Ledger, vectors: Manifest) -> None:
    first = build_catalogue(settings, ledger, [], vectors.release_id)
    assert build_catalogue(settings, ledger, [], vectors.release_id) == first
    assert len(list((settings.serving_dir / "catalogues").iterdir())) == 1


def test_other_content_takes_the_next_number(settings: Settings, ledger: Ledger, vectors: Manifest) -> None:
    first = build_catalogue(settings, ledger, [], vectors.release_id)
    second = build_catalogue(settings, ledger, views(popularity(settings, ledger)), vectors.release_id)
    third = build_catalogue(settings, ledger, [], vectors.release_id)
    assert [first.sequence, second.sequence, third.sequence] == [1, 2, 3]
    assert decode(read(settings, third)).releases == decode(read(settings, first)).releases


def test_a_number_in_force_is_not_used_again_when_files_are_gone(
    settings: Settings, ledger: Ledger, vectors: Manifest
) -> None:
    first = build_catalogue(settings, ledger, [], vectors.release_id)
    write_publication(
        settings,
        Publication(
            sequence=1, created_at="", project=settings.name, views=(), services=(), spaces=(), catalogue=first
        ),
    )
    (settings.serving_dir / first.file).unlink()
    second = build_catalogue(settings, ledger, views(popularity(settings, ledger)), vectors.release_id)
    assert second.sequence == 2


def test_a_damaged_file_is_replaced_under_the_next_number(
    settings: Settings, ledger: Ledger, vectors: Manifest
) -> None:
    first = build_catalogue(settings, ledger, [], vectors.release_id)
    (settings.serving_dir / first.file).write_bytes(b"damaged")
    second = build_catalogue(settings, ledger, [], vectors.release_id)
    assert second.sequence == 2
    decode(read(settings, second))


def test_an_empty_release_of_vectors(settings: Settings, ledger: Ledger) -> None:
    manifest = make_vector_release(settings, ledger, ids=[], vectors=np.zeros((0, 4), np.float32))
    catalogue = decode(read(settings, build_catalogue(settings, ledger, [], manifest.release_id)))
    assert catalogue.vectors.shape == (0, 4)


def test_only_committed_releases(settings: Settings, ledger: Ledger, vectors: Manifest) -> None:
    with pytest.raises(NotPublished, match=r"item_content/v1/other"):
        build_catalogue(settings, ledger, [], "item_content/v1/other")
    uncommitted = make_release(
        settings,
        ledger,
        signal="popularity",
        keys={"item_id": "int64"},
        features={"users": "int64"},
        rows={"item_id": [10], "users": [1]},
        commit=False,
    )
    with pytest.raises(NotPublished, match=uncommitted.release_id):
        build_catalogue(settings, ledger, views(uncommitted), vectors.release_id)


def test_only_unchanged_files(settings: Settings, ledger: Ledger, vectors: Manifest) -> None:
    (path,) = ReleaseStore(settings.releases_dir).data_files(vectors)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ReleaseCorrupt):
        build_catalogue(settings, ledger, [], vectors.release_id)
    assert not (settings.serving_dir / "catalogues").exists()


def test_the_key_is_made_once_and_kept_private(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: public_key_bytes(signing_key(settings)), range(16)))
    assert len(set(keys)) == 1
    (path,) = settings.keys_dir.iterdir()
    assert path.name == "catalogue.ed25519"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_can_read_is_not_used(settings: Settings) -> None:
    signing_key(settings)
    path = settings.keys_dir / "catalogue.ed25519"
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        signing_key(settings)


def test_another_file_is_not_a_key(settings: Settings) -> None:
    signing_key(settings)
    (settings.keys_dir / "catalogue.ed25519").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n")
    with pytest.raises(ConfigError, match="not an Ed25519 private key"):
        signing_key(settings)
