"""Publishing views: what is refused, what Feast sees afterwards, and what a killed run leaves."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from featurestore.feast_repository import feast_objects, quiet_feast
from featurestore.online import open_reader
from featurestore.publication import Publication, PublishedService, PublishedView
from featurestore.publish import publish_views
from featurestore.reading import open_published_reader
from featurestore.views import plan_services, plan_views
from governance.canonical import canonical_bytes
from governance.errors import PublicationError, ReleaseCorrupt
from governance.ledger import Ledger
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings
from tests.support.releases import make_project, make_release

ROOT = Path(__file__).parents[2]
FIRST, SECOND = datetime(2025, 11, 3, tzinfo=UTC), datetime(2025, 11, 10, tzinfo=UTC)
WEEK = timedelta(days=7)
NOW = SECOND + WEEK

pytestmark = pytest.mark.filterwarnings("ignore")  # Feast and what it uses warn of their own deprecations


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path / "project")


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as ledger:
        yield ledger


def publish(
    settings: Settings, ledger: Ledger, progress: Callable[[str], None] = lambda _: None
) -> tuple[tuple[PublishedView, ...], tuple[PublishedService, ...]]:
    return publish_views(settings, ledger, progress, clock=lambda: NOW)


def affinity(
    settings: Settings, ledger: Ledger, start: datetime = FIRST, scores: tuple[Any, ...] = (0.5, None)
) -> Manifest:
    return make_release(
        settings,
        ledger,
        signal="genre_affinity",
        entity="user_genre",
        keys={"user_id": "int64", "genre": "string"},
        features={"score": "float64", "plays": "int64"},
        rows={"user_id": [1, 2], "genre": ["rock", "jazz"], "score": list(scores), "plays": [3, 4]},
        window_start=start,
    )


def popularity(settings: Settings, ledger: Ledger, start: datetime = FIRST, users: int = 7, **options: Any) -> Manifest:
    return make_release(
        settings,
        ledger,
        signal="popularity",
        entity="item",
        keys={"item_id": "int64"},
        features={"users": "int64"},
        rows={"item_id": [10], "users": [users]},
        window_start=start,
        **options,
    )


def feast_store(settings: Settings) -> Any:
    with quiet_feast():
        from feast import FeatureStore

        return FeatureStore(repo_path=str(settings.feature_repo_dir))


def users_of(settings: Settings, view: PublishedView, item: int = 10) -> int | None:
    reader = open_reader(settings, clock=lambda: NOW)
    answer = reader.read(view, ["users"], {"item_id": [item]})
    reader.close()
    return int(answer.values["users"][0]) if answer.found[0] else None


# --- what is refused -------------------------------------------------------------------------------------------


def test_a_release_that_is_not_committed_is_passed_over(settings: Settings, ledger: Ledger) -> None:
    popularity(settings, ledger)
    uncommitted = popularity(settings, ledger, SECOND, users=8, commit=False)
    told: list[str] = []
    (view,), _ = publish(settings, ledger, told.append)
    assert [release.release_id for release in view.releases] == ["popularity/v1/2025-11-03"]
    assert users_of(settings, view) == 7
    assert f"{uncommitted.release_id}: not committed in the ledger, passed over" in told


def test_a_release_of_no_run_is_passed_over(settings: Settings, ledger: Ledger) -> None:
    manifest = popularity(settings, ledger)
    source = ReleaseStore(settings.releases_dir).directory(manifest.release_id)
    foreign = replace(
        manifest,
        release_id="popularity/v1/2025-11-10",
        ledger=replace(manifest.ledger, run_id="0" * 32),
    )
    target = ReleaseStore(settings.releases_dir).directory(foreign.release_id)
    shutil.copytree(source, target)
    (target / "manifest.json").write_bytes(foreign.to_bytes())
    (view,), _ = publish(settings, ledger)
    assert [release.release_id for release in view.releases] == [manifest.release_id]


def _edited_manifest(settings: Settings, manifest: Manifest) -> None:
    path = ReleaseStore(settings.releases_dir).directory(manifest.release_id) / "manifest.json"
    value = json.loads(path.read_bytes())
    value["guarantee"]["rho"] = "0"
    path.write_bytes(canonical_bytes(value))


def _broken_manifest(settings: Settings, manifest: Manifest) -> None:
    (ReleaseStore(settings.releases_dir).directory(manifest.release_id) / "manifest.json").write_bytes(b"{}")


def _copied_manifest(settings: Settings, manifest: Manifest) -> None:
    """The committed manifest of another window, in this window's place."""
    store = ReleaseStore(settings.releases_dir)
    shutil.copytree(store.directory(manifest.release_id), store.directory("popularity/v1/2025-11-10"))


def _changed_rows(settings: Settings, manifest: Manifest) -> None:
    (path,) = ReleaseStore(settings.releases_dir).data_files(manifest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _missing_rows(settings: Settings, manifest: Manifest) -> None:
    (path,) = ReleaseStore(settings.releases_dir).data_files(manifest)
    path.unlink()


def _added_rows(settings: Settings, manifest: Manifest) -> None:
    (path,) = ReleaseStore(settings.releases_dir).data_files(manifest)
    path.with_name("part-00001.parquet").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    "tamper",
    [_edited_manifest, _broken_manifest, _copied_manifest, _changed_rows, _missing_rows, _added_rows],
)
def test_a_tampered_release_stops_the_publication(
    settings: Settings, ledger: Ledger, tamper: Callable[[Settings, Manifest], None]
) -> None:
    affinity(settings, ledger)
    tamper(settings, popularity(settings, ledger))
    with pytest.raises(ReleaseCorrupt, match=r"popularity/v1/2025-11-"):
        publish(settings, ledger)
    assert not settings.feature_repo_dir.exists()


def test_test_noise_is_never_published(settings: Settings, ledger: Ledger) -> None:
    manifest = popularity(settings, ledger, commit=False)
    noiseless = replace(manifest, guarantee=replace(manifest.guarantee, sampler="zero scale, for tests"))
    path = ReleaseStore(settings.releases_dir).directory(manifest.release_id) / "manifest.json"
    path.write_bytes(noiseless.to_bytes())
    ledger.commit(manifest.ledger.run_id, noiseless.sha256)
    with pytest.raises(PublicationError, match="'zero scale, for tests', which protects nobody"):
        publish(settings, ledger)
    assert not settings.feature_repo_dir.exists()


def test_a_refused_publication_leaves_the_last_one_in_force(settings: Settings, ledger: Ledger) -> None:
    popularity(settings, ledger)
    (view,), _ = publish(settings, ledger)
    _changed_rows(settings, popularity(settings, ledger, SECOND, users=8))
    with pytest.raises(ReleaseCorrupt):
        publish(settings, ledger)
    assert users_of(settings, view) == 7
    assert [found.name for found in feast_store(settings).list_feature_views()] == ["popularity_v1"]


def test_rows_that_are_too_old_are_told(settings: Settings, ledger: Ledger) -> None:
    popularity(settings, ledger, ttl=timedelta(days=1))
    told: list[str] = []
    publish_views(settings, ledger, told.append, clock=lambda: FIRST + WEEK + timedelta(days=2))
    assert any("older than its ttl" in line and "[calendar]" in line for line in told)


def test_no_release_at_all(settings: Settings, ledger: Ledger) -> None:
    assert publish(settings, ledger) == ((), ())
    assert feast_store(settings).list_feature_views() == []


# --- what Feast sees -------------------------------------------------------------------------------------------


def test_definitions_as_code_are_the_definitions_applied(settings: Settings, ledger: Ledger) -> None:
    manifests = [affinity(settings, ledger), popularity(settings, ledger)]
    awkward = replace(manifests[1].signal, description="quotes \" ' and\nlines\\ and {braces}")
    publish(settings, ledger)
    plans = plan_views([manifests[0], replace(manifests[1], signal=awkward)], pushed=("genre_affinity",))
    services = plan_services(plan.view for plan in plans)
    from featurestore.feast_repository import definitions_text

    path = settings.feature_repo_dir / "other.py"
    path.write_text(definitions_text(plans, services), encoding="utf-8")
    coded = {
        (type(value).__name__, value.name): value
        for value in runpy.run_path(str(path)).values()
        if type(value).__name__ in ("Entity", "FeatureView", "FeatureService")
    }
    applied = {(type(value).__name__, value.name): value for value in feast_objects(plans, services)}
    assert set(coded) == set(applied)
    for name, value in applied.items():
        protos = [coded[name].to_proto(), value.to_proto()]
        for proto in protos:  # when a source was made does not count
            if name[0] == "FeatureView":
                proto.spec.batch_source.ClearField("meta")
                proto.spec.stream_source.ClearField("meta")
                proto.spec.stream_source.batch_source.ClearField("meta")
            for projection in proto.spec.features if name[0] == "FeatureService" else ():
                projection.batch_source.ClearField("meta")
        assert protos[0] == protos[1]
    assert coded["FeatureView", "popularity_v1"].description == awkward.description


def test_a_view_that_takes_pushes_takes_them(settings: Settings, ledger: Ledger) -> None:
    """Pushed rows are served from the online store beside released ones, and name no release."""
    pushed = replace(settings, online_store=replace(settings.online_store, pushed=("popularity",)))
    popularity(pushed, ledger)
    (view,), _ = publish(pushed, ledger)
    assert view.takes_pushes
    store = feast_store(pushed)
    rows = {"item_id": [10, 77], "users": [70, 77]}
    late = pd.DataFrame({**rows, "event_timestamp": [NOW - timedelta(days=1)] * 2})
    early = late.assign(users=[1, 1], event_timestamp=FIRST)
    for frame in (late, early):
        store.push("popularity_v1_push", frame)
    reader = open_reader(pushed, clock=lambda: NOW)
    answer = reader.get(view, ["users"], {"item_id": [10, 77, 78]})
    assert answer.values["users"].tolist() == [70, 77, 0]
    assert answer.release_indexes.tolist() == [-1, -1, -1]
    popularity(pushed, ledger, SECOND, users=8)
    (view,), _ = publish(pushed, ledger)
    answer = reader.get(view, ["users"], {"item_id": [10, 77]})
    assert answer.values["users"].tolist() == [8, 77]
    assert [answer.releases[i] if i >= 0 else None for i in answer.release_indexes] == [
        "popularity/v1/2025-11-10",
        None,
    ]
    reader.close()


def test_the_feast_command_works_in_the_repository(settings: Settings, ledger: Ledger) -> None:
    affinity(settings, ledger)
    popularity(settings, ledger)
    publish(settings, ledger)
    done = subprocess.run(
        [sys.executable, "-m", "feast.cli.cli", "feature-views", "list"],
        cwd=settings.feature_repo_dir,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "genre_affinity_v1" in done.stdout
    assert "popularity_v1" in done.stdout
    assert "AVAILABLE_ONLINE" in done.stdout


def test_feast_commands_on_the_generated_definitions(settings: Settings, ledger: Ledger, monkeypatch: Any) -> None:
    from click.testing import CliRunner
    from feast.cli.cli import cli

    affinity(settings, ledger)
    popularity(settings, ledger)
    (_, view), _ = publish(settings, ledger)
    monkeypatch.chdir(settings.feature_repo_dir)
    listed = CliRunner().invoke(cli, ["feature-services", "list"])
    assert listed.exit_code == 0
    assert "ranking_user_genre" in listed.output
    assert CliRunner().invoke(cli, ["entities", "describe", "user_id"]).exit_code == 0
    applied = CliRunner().invoke(cli, ["apply"])
    assert applied.exit_code == 0, applied.output
    assert users_of(settings, view) == 7


def test_feast_serves_the_same_values(settings: Settings, ledger: Ledger) -> None:
    affinity(settings, ledger)
    publish(settings, ledger)
    store = feast_store(settings)
    rows = [{"user_id": 1, "genre": "rock"}, {"user_id": 2, "genre": "jazz"}, {"user_id": 2, "genre": "rock"}]
    expected = {"score": [0.5, None, None], "plays": [3, 4, None]}
    for features in (
        ["genre_affinity_v1:score", "genre_affinity_v1:plays"],
        store.get_feature_service("ranking_user_genre"),
    ):
        answer = store.get_online_features(features, rows).to_dict()
        assert {name: answer[name] for name in expected} == expected


async def _online(store: Any, features: list[str], rows: list[dict[str, Any]]) -> Any:
    answer = await store.get_online_features_async(features, rows)
    return answer.to_dict()


def test_feast_serves_asynchronously(settings: Settings, ledger: Ledger) -> None:
    import asyncio

    popularity(settings, ledger)
    publish(settings, ledger)
    answer = asyncio.run(_online(feast_store(settings), ["popularity_v1:users"], [{"item_id": 10}, {"item_id": 11}]))
    assert answer["users"] == [7, None]


def test_feast_materializes_what_publishing_wrote(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    """From the offline rows, by Feast's own engine, into an empty packed store: the same answers."""
    affinity(settings, ledger)
    affinity(settings, ledger, SECOND, scores=(0.25, 0.75))
    (view,), _ = publish(settings, ledger)
    keys = {"user_id": [1, 2, 3], "genre": ["rock", "jazz", "rock"]}

    def read() -> tuple[Any, ...]:
        reader = open_reader(settings, clock=lambda: NOW)
        answer = reader.read(view, ["score", "plays"], keys)
        reader.close()
        return tuple(
            column.tolist()
            for column in (answer.values["plays"], answer.values["score"][:2], answer.found, answer.event_times)
        )

    published = read()
    assert published[1] == [0.25, 0.75]
    store = feast_store(settings)
    store._get_provider().online_store.rows(store.config).drop("shop_genre_affinity_v1")
    assert read()[2] == [False] * 3
    store.materialize(FIRST, SECOND + WEEK + timedelta(seconds=1))
    assert read() == published


def test_point_in_time_rows_come_from_the_window_before(settings: Settings, ledger: Ledger) -> None:
    popularity(settings, ledger, FIRST, users=1)
    popularity(settings, ledger, SECOND, users=2)
    publish(settings, ledger)
    moments = [FIRST + WEEK - timedelta(seconds=1), FIRST + WEEK, SECOND + WEEK, SECOND + 9 * WEEK]
    asked = pd.DataFrame({"item_id": [10] * 4, "event_timestamp": moments})
    found = feast_store(settings).get_historical_features(asked, ["popularity_v1:users"]).to_df()
    # Feast's own join leaves out the first moment, before any release, and the last, past the ttl.
    assert dict(zip(found["event_timestamp"], found["users"], strict=True)) == {moments[1]: 1, moments[2]: 2}


def test_rows_can_be_pushed_and_deleted(settings: Settings, ledger: Ledger) -> None:
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    popularity(settings, ledger)
    (view,), _ = publish(settings, ledger)
    store = feast_store(settings)
    row = {"item_id": [11], "users": [5], "event_timestamp": [FIRST + WEEK]}
    store.write_to_online_store("popularity_v1", pd.DataFrame(row))
    assert users_of(settings, view, 11) == 5
    store.write_to_online_store(
        "popularity_v1", pd.DataFrame(row | {"users": [1], "event_timestamp": [FIRST + WEEK - timedelta(seconds=1)]})
    )
    assert users_of(settings, view, 11) == 5, "an older row does not replace a newer one"
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=11)])
    store._get_provider().online_store.delete_entities(store.config, store.get_feature_view("popularity_v1"), [key])
    assert users_of(settings, view, 11) is None
    assert users_of(settings, view, 10) == 7
    store.teardown()
    assert users_of(settings, view, 10) is None


def test_a_signal_that_is_gone_leaves_feast_and_what_others_registered_stays(
    settings: Settings, ledger: Ledger
) -> None:
    from feast import Entity, ValueType

    affinity(settings, ledger)
    gone = popularity(settings, ledger)
    publish(settings, ledger)
    feast_store(settings).apply([Entity(name="shop_id", join_keys=["shop_id"], value_type=ValueType.INT64)])
    shutil.rmtree(ReleaseStore(settings.releases_dir).directory(gone.release_id))
    publish(settings, ledger)
    store = feast_store(settings)
    assert [view.name for view in store.list_feature_views()] == ["genre_affinity_v1"]
    assert [service.name for service in store.list_feature_services()] == ["ranking_user_genre"]
    assert "shop_id" in [entity.name for entity in store.list_entities()]


def test_publishing_again_adds_no_history(settings: Settings, ledger: Ledger) -> None:
    popularity(settings, ledger)
    publish(settings, ledger)
    publish(settings, ledger)
    (view,) = feast_store(settings).list_feature_views()
    assert view.materialization_intervals == [(FIRST, FIRST + WEEK)]
    assert [path.name for path in (settings.feature_repo_dir / "offline" / "popularity_v1").iterdir()] == [
        "2025-11-03.parquet"
    ]


def test_a_broken_registry_is_made_anew(settings: Settings, ledger: Ledger) -> None:
    popularity(settings, ledger)
    publish(settings, ledger)
    path = settings.feature_repo_dir / "registry.db"
    path.write_bytes(path.read_bytes()[:-7])
    publish(settings, ledger)
    assert [view.name for view in feast_store(settings).list_feature_views()] == ["popularity_v1"]


def test_a_damaged_offline_file_is_written_again(settings: Settings, ledger: Ledger) -> None:
    popularity(settings, ledger)
    publish(settings, ledger)
    (path,) = (settings.feature_repo_dir / "offline" / "popularity_v1").iterdir()
    data = path.read_bytes()
    path.write_bytes(b"damaged")
    path.with_name(".left.tmp").write_bytes(b"of a killed run")
    publish(settings, ledger)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == data


def test_publishing_is_quiet(settings: Settings, ledger: Ledger, capfd: pytest.CaptureFixture[str]) -> None:
    popularity(settings, ledger)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        publish(settings, ledger)
    assert told == []
    assert capfd.readouterr() == ("", "")


# --- killed at any point ---------------------------------------------------------------------------------------

_TOUCHES_DISK = ("open", "os.rename", "os.remove", "os.mkdir", "sqlite3.connect", "os.link")


def _publish_and_die(settings: Settings, at: int) -> bool:
    """Publishes in a child that is killed at its nth touch of the disk; True if it died before it was done."""
    child = os.fork()
    if child == 0:
        touches = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal touches
            if event in _TOUCHES_DISK and str(settings.state_dir) in str(arguments[0]):
                touches += 1
                if touches == at:
                    os.kill(os.getpid(), signal.SIGKILL)

        status = 1
        try:
            with Ledger(settings.ledger_path) as ledger:
                sys.addaudithook(count)
                publish(settings, ledger)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def served(settings: Settings, publication: Publication) -> int | None:
    """What serving answers for the item while this publication is in force."""
    view = publication.view("popularity_v1")
    assert view is not None
    reader = open_published_reader(settings, publication, clock=lambda: NOW)
    answer = reader.read(view, ["users"], {"item_id": [10]})
    reader.close()
    return int(answer.values["users"][0]) if answer.found[0] else None


@pytest.mark.parametrize("pushed", [(), ("popularity",)])
def test_killed_at_any_touch_of_the_disk(settings: Settings, pushed: tuple[str, ...]) -> None:
    settings = replace(settings, online_store=replace(settings.online_store, pushed=pushed))
    with Ledger(settings.ledger_path) as ledger:
        popularity(settings, ledger, FIRST, users=1)
        views, services = publish(settings, ledger)
        popularity(settings, ledger, SECOND, users=2)
        affinity(settings, ledger)
    before = settings.root / "before"
    shutil.copytree(settings.state_dir, before)
    old = Publication(
        sequence=1,
        created_at="2025-11-17T00:00:00+00:00",
        project=settings.name,
        views=views,
        services=services,
        spaces=(),
        catalogue=None,
    )
    kills = 0
    while _publish_and_die(settings, kills + 1):
        kills += 1
        assert served(settings, old) == 1, "what was in force still answers"
        names = [view.name for view in feast_store(settings).list_feature_views()]
        assert "popularity_v1" in names, "Feast's registry is whole"
        if kills % 3 == 0:
            with Ledger(settings.ledger_path) as ledger:
                _, new = publish(settings, ledger)[0]
            assert users_of(settings, new) == 2
            assert not list(settings.feature_repo_dir.rglob("*.tmp"))
            shutil.rmtree(settings.state_dir)
            shutil.copytree(before, settings.state_dir)
    assert kills > 20
    assert served(settings, old) == 1
