"""The publication record: written whole, read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from featurestore.publication import (
    FeatureField,
    KeyField,
    Publication,
    PublishedCatalogue,
    PublishedRelease,
    PublishedService,
    PublishedSpace,
    PublishedView,
    load_publication,
    write_publication,
)
from governance.errors import NotPublished, PublicationCorrupt
from tests.support.releases import make_project

VIEW = PublishedView(
    name="pop_v1",
    signal="pop",
    version=1,
    entity="item",
    keys=(KeyField(name="item_id", type="int64"),),
    features=(FeatureField(name="users", type="int64", description="weekly users", noise_stddev=3.5),),
    ttl_seconds=60,
    purpose="ranking",
    releases=(
        PublishedRelease(release_id="pop/v1/2025-11-03", event_time="2025-11-10T00:00:00+00:00", sha256="ab"),
        PublishedRelease(release_id="pop/v1/2025-11-10", event_time="2025-11-17T00:00:00+00:00", sha256="cd"),
    ),
)
PUBLICATION = Publication(
    sequence=3,
    created_at="2025-12-01T00:00:00+00:00",
    project="shop",
    views=(VIEW,),
    services=(PublishedService(name="ranking_item", features=("pop_v1:users",)),),
    spaces=(
        PublishedSpace(
            name="content",
            release_id="content/v1/ab",
            key=KeyField(name="item_id", type="int64"),
            dimension=64,
            metric="cosine",
            directory="spaces/content-ab",
        ),
    ),
    catalogue=PublishedCatalogue(
        sequence=2, file="catalogues/2-ab.bin", bytes=10, sha256="ab", signature="cd", releases=("content/v1/ab",)
    ),
)


@pytest.mark.parametrize("publication", [PUBLICATION, replace(PUBLICATION, catalogue=None, views=(), services=())])
def test_what_is_written_is_read(tmp_path: Path, publication: Publication) -> None:
    settings = make_project(tmp_path)
    write_publication(settings, publication)
    assert load_publication(settings) == publication


def test_writing_again_replaces(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    write_publication(settings, PUBLICATION)
    write_publication(settings, replace(PUBLICATION, sequence=4))
    assert load_publication(settings).sequence == 4
    assert [path.name for path in settings.serving_dir.iterdir()] == ["publication.json"]


def test_nothing_published(tmp_path: Path) -> None:
    with pytest.raises(NotPublished, match="hedgerow publish"):
        load_publication(make_project(tmp_path))


def _without_views(value: dict[str, Any]) -> None:
    del value["views"]


def _with_more(value: dict[str, Any]) -> None:
    value["more"] = 1


def _sequence_of_text(value: dict[str, Any]) -> None:
    value["sequence"] = "3"


def _sequence_of_truth(value: dict[str, Any]) -> None:
    value["sequence"] = True


def _other_schema(value: dict[str, Any]) -> None:
    value["schema"] = "hedgerow.publication/9"


def _views_as_object(value: dict[str, Any]) -> None:
    value["views"] = {}


def _unknown_type(value: dict[str, Any]) -> None:
    value["views"][0]["keys"][0]["type"] = "decimal"


def _null_key(value: dict[str, Any]) -> None:
    value["spaces"][0]["key"] = None


@pytest.mark.parametrize(
    "change",
    [
        _without_views,
        _with_more,
        _sequence_of_text,
        _sequence_of_truth,
        _other_schema,
        _views_as_object,
        _unknown_type,
        _null_key,
    ],
)
def test_another_shape_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    settings = make_project(tmp_path)
    write_publication(settings, PUBLICATION)
    path = settings.serving_dir / "publication.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(PublicationCorrupt, match=r"publication\.json"):
        load_publication(settings)


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_other_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    settings = make_project(tmp_path)
    settings.serving_dir.mkdir(parents=True)
    (settings.serving_dir / "publication.json").write_bytes(data)
    with pytest.raises(PublicationCorrupt):
        load_publication(settings)


def test_a_row_tells_its_release_by_its_event_time() -> None:
    assert VIEW.release_at(datetime(2025, 11, 10, tzinfo=UTC)) == "pop/v1/2025-11-03"
    assert VIEW.release_at(datetime(2025, 11, 17)) == "pop/v1/2025-11-10"  # noqa: DTZ001
    assert VIEW.release_at(datetime(2025, 11, 18, tzinfo=UTC)) is None


def test_references() -> None:
    assert VIEW.reference("users") == "pop_v1:users"
    assert VIEW.feature("users") == VIEW.features[0]
    assert VIEW.feature("visits") is None
    assert PUBLICATION.view("pop_v1") == VIEW
    assert PUBLICATION.view("pop_v2") is None
