"""Views and services out of manifests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from featurestore.freshness import earliest, fresh, microseconds, project_clock
from featurestore.views import plan_services, plan_views
from governance.errors import PublicationError
from governance.ledger import Ledger
from governance.release import Manifest
from governance.settings import Settings
from tests.support.releases import make_project, make_release, make_vector_release

FIRST, SECOND = datetime(2025, 11, 3, tzinfo=UTC), datetime(2025, 11, 10, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path)


@pytest.fixture
def ledger(settings: Settings) -> Ledger:
    return Ledger(settings.ledger_path)


def popularity(
    settings: Settings,
    ledger: Ledger,
    start: datetime = FIRST,
    *,
    signal: str = "popularity",
    version: int = 1,
    key: str = "int64",
    feature: str = "users",
    days: int = 7,
) -> Manifest:
    return make_release(
        settings,
        ledger,
        signal=signal,
        version=version,
        entity="item",
        keys={"item_id": key},
        features={feature: "int64"},
        rows={"item_id": [], feature: []},
        window_start=start,
        window_length=timedelta(days=days),
    )


def test_a_view_is_one_version_of_one_signal_with_its_releases_oldest_first(settings: Settings, ledger: Ledger) -> None:
    new, old = popularity(settings, ledger, SECOND), popularity(settings, ledger, FIRST)
    changed = popularity(settings, ledger, SECOND, version=2, feature="visitors")
    make_vector_release(settings, ledger, ids=[1], vectors=[[1.0, 2.0]])

    first, second = plan_views([changed, new, old])

    assert (first.view.name, first.view.signal, first.view.version) == ("popularity_v1", "popularity", 1)
    assert [release.release_id for release in first.view.releases] == [old.release_id, new.release_id]
    assert [release.sha256 for release in first.view.releases] == [old.sha256, new.sha256]
    assert first.newest is new
    assert first.view.ttl_seconds == 28 * 86_400
    assert first.view.features[0].noise_stddev == 3.5
    assert first.view.release_at(datetime(2025, 11, 17, tzinfo=UTC)) == new.release_id
    assert second.view.name == "popularity_v2"


def test_a_service_takes_the_newest_version_of_each_signal(settings: Settings, ledger: Ledger) -> None:
    plans = plan_views(
        [
            popularity(settings, ledger),
            popularity(settings, ledger, version=2, feature="visitors"),
            popularity(settings, ledger, version=10, feature="guests"),
            popularity(settings, ledger, signal="trend"),
        ]
    )
    (service,) = plan_services(plan.view for plan in plans)
    assert service.name == "ranking_item"
    assert service.features == ("popularity_v10:guests", "trend_v1:users")


def test_releases_of_vectors_form_no_view(settings: Settings, ledger: Ledger) -> None:
    assert plan_views([make_vector_release(settings, ledger, ids=[1], vectors=[[1.0, 2.0]])]) == ()


def test_columns_change_only_with_the_version(settings: Settings, ledger: Ledger) -> None:
    manifests = [popularity(settings, ledger), popularity(settings, ledger, SECOND, feature="visitors")]
    with pytest.raises(PublicationError, match="give the changed signal a new version"):
        plan_views(manifests)


def test_one_key_has_one_type(settings: Settings, ledger: Ledger) -> None:
    manifests = [popularity(settings, ledger), popularity(settings, ledger, signal="trend", key="string")]
    with pytest.raises(PublicationError, match="'item_id' is int64 in popularity_v1 and string in trend_v1"):
        plan_views(manifests)


def test_two_windows_do_not_end_together(settings: Settings, ledger: Ledger) -> None:
    manifests = [popularity(settings, ledger, FIRST, days=14), popularity(settings, ledger, SECOND, days=7)]
    with pytest.raises(PublicationError, match="end at the same time"):
        plan_views(manifests)


@pytest.mark.parametrize("name", ["event_timestamp", "release_id"])
def test_names_of_the_feature_store_are_taken(settings: Settings, ledger: Ledger, name: str) -> None:
    with pytest.raises(PublicationError, match="rename the column"):
        plan_views([popularity(settings, ledger, feature=name)])


def test_a_type_that_no_view_can_hold(settings: Settings, ledger: Ledger) -> None:
    manifest = popularity(settings, ledger)
    column = replace(manifest.columns[1], type="list<string>")
    with pytest.raises(PublicationError, match="list<string>; a feature of a feature view is one of: int64"):
        plan_views([replace(manifest, columns=(manifest.columns[0], column))])


def test_time_stands_still_at_the_end_of_a_closed_calendar(tmp_path: Path) -> None:
    closed = make_project(tmp_path / "closed", extra="\n[calendar]\nlast_day = 2018-09-24\n")
    assert project_clock(closed)() == datetime(2018, 9, 25, tzinfo=UTC)
    before = datetime.now(UTC)
    assert before <= project_clock(make_project(tmp_path / "open"))() <= datetime.now(UTC)


def test_a_row_exactly_as_old_as_the_ttl_is_fresh() -> None:
    now = datetime(2025, 11, 17, tzinfo=UTC)
    edge = earliest(60, now)
    assert edge == microseconds(now - timedelta(seconds=60))
    times = np.array([edge - 1, edge, edge + 1, microseconds(now) + 5])
    assert fresh(times, 60, now).tolist() == [False, True, True, True]
    assert fresh(times, 0, now).all()
