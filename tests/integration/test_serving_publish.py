"""From releases to answers: `publish` and `serve` as a person runs them, with Feast, SQLite, Redis and real sockets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import numpy as np
import pytest

from featurestore.catalogue import decode
from featurestore.publication import load_publication
from governance.errors import PublicationError, RequestInvalid, RunInProgress, ServerUnavailable, StoreUnreachable
from governance.files import exclusive_lock, write_atomic
from governance.ledger import Ledger
from governance.release import ReleaseStore
from governance.settings import OnlineStore, OnlineStoreType, Settings, load_settings
from serving.client import Client
from serving.publish import publish
from serving.server import RunningServer, start_server
from serving.v1 import snapshots_pb2, snapshots_pb2_grpc
from tests.support.fronts import UNHURRIED, comes_true
from tests.support.redis import held_port, redis_server
from tests.support.releases import make_project, make_release, make_vector_release
from tests.support.serving import connected, patient

REPOSITORY = Path(__file__).resolve().parents[2]
CALENDAR = "\n[calendar]\nlast_day = 2025-11-30\n"
ITEMS = [3, 10, 17, 24]
WEEK = timedelta(days=7)
FIRST = datetime(2025, 11, 3, tzinfo=UTC)


def release_items(settings: Settings, week: int, users: list[int], *, commit: bool = True) -> str:
    """One week of the item signal: users by item, and a mean that is null for the last item."""
    with Ledger(settings.ledger_path) as ledger:
        return make_release(
            settings,
            ledger,
            signal="item_week",
            keys={"item_id": "int64"},
            features={"users": "int64", "mean": "float64"},
            rows={"item_id": ITEMS, "users": users, "mean": [0.5, 1.5, 2.5, None]},
            window_start=FIRST + week * WEEK,
            commit=commit,
        ).release_id


def release_genres(settings: Settings) -> str:
    with Ledger(settings.ledger_path) as ledger:
        return make_release(
            settings,
            ledger,
            signal="genre_week",
            keys={"genre": "string", "cohort": "string"},
            features={"users": "int64"},
            rows={"genre": ["jazz", "jazz", "żółw"], "cohort": ["DE", "FR", "DE"], "users": [5, 6, 7]},
        ).release_id


def release_vectors(settings: Settings) -> str:
    with Ledger(settings.ledger_path) as ledger:
        vectors = np.random.default_rng(3).normal(size=(len(ITEMS), 8))
        return make_vector_release(settings, ledger, ids=ITEMS, vectors=vectors, tags=[["a"]] * len(ITEMS)).release_id


def publish_all(settings: Settings) -> int:
    with Ledger(settings.ledger_path) as ledger:
        return publish(settings, ledger).sequence


def hedgerow(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command line to its end."""
    command = [sys.executable, "hedgerow.py", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300, env=environment
    )


@contextmanager
def serving(project: Path, *options: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`hedgerow serve` as a process, and the address it says."""
    command = [sys.executable, "hedgerow.py", "serve", "--project", str(project), "--port", "0", *map(str, options)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert line.startswith("serving on "), line or process.stderr.read()  # type: ignore[union-attr]
            yield process, line.split()[2]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = make_project(tmp_path_factory.mktemp("project"), extra=CALENDAR)
    release_items(settings, 0, [1, 2, 3, 4])
    release_items(settings, 1, [10, 20, 30, 40])
    release_items(settings, 2, [99, 99, 99, 99], commit=False)
    release_genres(settings)
    release_vectors(settings)
    return settings


def test_publish_and_serve_from_the_command_line(project: Settings, tmp_path: Path) -> None:
    how = tmp_path / "serve.toml"
    how.write_text(f'mode = "demo"\n{UNHURRIED}', encoding="utf-8")
    told = hedgerow("publish", "-p", project.root)
    assert told.returncode == 0, told.stderr
    for text in ("publication 1 of shop", "item_week_v1", "genre_week_v1", "item_content", "2025-11-10", "signed"):
        assert text in told.stdout
    assert "Traceback" not in told.stderr

    with serving(project.root, "--config", how) as (process, address), connected(address) as client:
        table = client.get_features(
            features=["item_week_v1:mean", "item_week_v1:users"], entities={"item_id": [24, 5, 3]}
        )
        assert table["item_week_v1:users"].tolist() == [40, 0, 10]
        assert np.array_equal(table["item_week_v1:mean"], [np.nan, np.nan, 0.5], equal_nan=True)
        assert table.nulls["item_week_v1:mean"].tolist() == [True, True, False]
        assert table.nulls["item_week_v1:users"].tolist() == [False, True, False]
        assert table.found["item_week_v1"].tolist() == [True, False, True]
        assert table.releases == ("item_week/v1/2025-11-10",)
        assert table.release_indexes["item_week_v1"].tolist() == [0, -1, 0]
        assert table.event_times["item_week_v1"][0] == np.datetime64("2025-11-17")
        assert np.isnat(table.event_times["item_week_v1"][1])
        assert table.noise_stddev["item_week_v1:users"] == 3.5

        genres = client.get_features(
            features=["genre_week_v1:users"], entities={"cohort": ["DE", "FR", "FR"], "genre": ["żółw", "jazz", "żółw"]}
        )
        assert genres["genre_week_v1:users"].tolist() == [7, 6, 0]
        assert genres.found["genre_week_v1"].tolist() == [True, True, False]
        service = load_publication(project).services[0]
        assert len(
            client.get_features(service=service.name, entities=entities_of(project, service.name)).values
        ) == len(service.features)
        catalogue = decode(client.catalogue().data)
        assert catalogue.features["item_week_v1:users"].tolist() == [10, 20, 30, 40]

        stream = open_download(address)
        process.send_signal(signal.SIGTERM)
        assert sum(len(part.data) for part in stream) > 0  # a call under way ends whole
        assert process.wait(timeout=60) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        with pytest.raises(ServerUnavailable):
            client.catalogue_info()


def entities_of(settings: Settings, service: str) -> dict[str, list[object]]:
    """One entity for each key that a service needs."""
    publication = load_publication(settings)
    features = next(own.features for own in publication.services if own.name == service)
    needed = [publication.view(reference.split(":")[0]) for reference in features]
    return {key.name: [3] if key.type == "int64" else ["jazz"] for view in needed if view for key in view.keys}


def open_download(address: str) -> Iterator[snapshots_pb2.GetCatalogueResponse]:
    """A catalogue stream of which the first message has come."""
    stub = snapshots_pb2_grpc.SnapshotServiceStub(grpc.insecure_channel(address))
    stream = stub.GetCatalogue(snapshots_pb2.GetCatalogueRequest(), timeout=60)
    next(stream)
    return stream


def test_interrupt_ends_the_server_cleanly(project: Settings) -> None:
    if not (project.serving_dir / "publication.json").exists():
        publish_all(project)
    with serving(project.root) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_a_new_release_is_served_without_a_restart(tmp_path: Path) -> None:
    settings = make_project(tmp_path, extra=CALENDAR)
    first = release_items(settings, 0, [1, 2, 3, 4])
    assert publish_all(settings) == 1
    with start_server(settings, config=patient(settings)) as server, connected(server.address) as client:

        def read() -> tuple[list[int], tuple[str, ...], int]:
            table = client.get_features(features=["item_week_v1:users"], entities={"item_id": ITEMS})
            return table["item_week_v1:users"].tolist(), table.releases, table.publication

        assert read() == ([1, 2, 3, 4], (first,), 1)
        second = release_items(settings, 1, [5, 6, 7, 8])
        release_vectors(settings)
        assert publish_all(settings) == 2
        assert wait_for(server, 2)
        assert read() == ([5, 6, 7, 8], (second,), 2)
        assert client.get_embeddings("item_content", ITEMS).found.all()
        with pytest.raises(RequestInvalid, match="found string, allowed: int64"):
            client.get_features(features=["item_week_v1:users"], entities={"item_id": ["3"]})


def test_publishing_again_keeps_spaces_and_catalogue_and_removes_what_is_old(tmp_path: Path) -> None:
    settings = make_project(tmp_path, extra=CALENDAR)
    seen = []
    for _ in range(3):
        release_vectors_anew(settings, len(seen))
        publish_all(settings)
        seen.append(load_publication(settings).spaces[0].directory)
    publish_all(settings)
    assert load_publication(settings).spaces[0].directory == seen[-1]
    assert load_publication(settings).catalogue.sequence == 3  # type: ignore[union-attr]
    assert [(settings.serving_dir / directory).exists() for directory in seen] == [False, False, True]
    index = settings.serving_dir / seen[-1] / "index.faiss"
    good = index.read_bytes()
    index.write_bytes(good[:-1])
    publish_all(settings)
    assert index.read_bytes() == good


def release_vectors_anew(settings: Settings, seed: int) -> None:
    with Ledger(settings.ledger_path) as ledger:
        make_vector_release(settings, ledger, ids=ITEMS, vectors=np.random.default_rng(seed).normal(size=(4, 8)))


KILLED_AT_EVERY_STEP = """
import os, signal, sys
from pathlib import Path
from featurestore.publication import load_publication
from governance.ledger import Ledger
from governance.settings import load_settings
from serving.publish import publish

settings = load_settings(Path(sys.argv[1]))

def child(step):
    left = [step]
    def progress(_):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    with Ledger(settings.ledger_path) as ledger:
        publish(settings, ledger, progress)
    os._exit(0)

import feast
for step in range(100):
    process = os.fork()
    if process == 0:
        child(step)
    status = os.waitpid(process, 0)[1]
    print(step, os.WIFSIGNALED(status), load_publication(settings).sequence)
    if not os.WIFSIGNALED(status):
        break
"""


def test_killed_at_any_step_the_old_publication_stays_and_a_rerun_completes(tmp_path: Path) -> None:
    settings = make_project(tmp_path, extra=CALENDAR)
    release_items(settings, 0, [1, 2, 3, 4])
    release_vectors(settings)
    publish_all(settings)
    before = load_publication(settings)
    release_items(settings, 1, [5, 6, 7, 8])
    release_vectors_anew(settings, 1)
    with start_server(settings, config=patient(settings)) as server, connected(server.address) as client:
        told = subprocess.run(
            [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(settings.root)],
            cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=500,
        ).stdout.split("\n")[:-1]  # fmt: skip
        killed, (_, signaled, sequence) = told[:-1], told[-1].split()
        assert len(killed) >= 4
        assert all(line.endswith("True 1") for line in killed)
        assert (signaled, sequence) == ("False", "2")
        after = load_publication(settings)
        assert after.spaces != before.spaces
        assert after.catalogue != before.catalogue
        assert wait_for(server, 2)
        table = client.get_features(features=["item_week_v1:users"], entities={"item_id": ITEMS})
        assert table["item_week_v1:users"].tolist() == [5, 6, 7, 8]
        assert client.get_embeddings("item_content", ITEMS).release == after.spaces[0].release_id
    assert [path.name for path in settings.serving_dir.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_record_starts_no_numbers_anew(tmp_path: Path) -> None:
    settings = make_project(tmp_path, extra=CALENDAR)
    release_items(settings, 0, [1, 2, 3, 4])
    for _ in range(2):
        publish_all(settings)
    (settings.serving_dir / "publication.json").write_bytes(b"{}")
    publish_all(settings)
    assert load_publication(settings).sequence == 3


def test_rows_of_a_later_publication_are_not_served_before_it_is_in_force(tmp_path: Path) -> None:
    """As after a publisher was killed between the online store and the record."""
    settings = make_project(tmp_path, extra=CALENDAR)
    first = release_items(settings, 0, [1, 2, 3, 4])
    publish_all(settings)
    record = settings.serving_dir / "publication.json"
    before = record.read_bytes()
    release_items(settings, 1, [5, 6, 7, 8])
    publish_all(settings)
    write_atomic(record, before)
    with start_server(settings, config=patient(settings)) as server, connected(server.address) as client:
        for _ in range(2):
            table = client.get_features(features=["item_week_v1:users"], entities={"item_id": ITEMS})
            assert table["item_week_v1:users"].tolist() == [1, 2, 3, 4]
            assert table.releases == (first,)


def wait_for(server: RunningServer, publication: int) -> bool:
    """Whether the server takes a publication over, in time."""
    return comes_true(lambda: server.publication == publication, 120.0)


def test_test_noise_is_never_published(tmp_path: Path) -> None:
    settings = make_project(tmp_path, extra=CALENDAR)
    with Ledger(settings.ledger_path) as ledger:
        manifest = make_vector_release(settings, ledger, ids=ITEMS, vectors=np.eye(4))
        store = ReleaseStore(settings.releases_dir)
        forged = replace(manifest, release_id="item_content/v1/zero", ledger=replace(manifest.ledger, run_id="zero"))
        forged = replace(forged, guarantee=replace(manifest.guarantee, sampler="zero noise, for tests"))
        staged = settings.staging_dir / "zero"
        staged.mkdir()
        for file in store.data_files(manifest):
            write_atomic(staged / file.name, file.read_bytes())
        store.publish(staged, forged)
        ledger.commit_public("zero", forged.release_id, forged.sha256)
    with pytest.raises(PublicationError, match="zero noise"):
        publish_all(settings)
    assert not (settings.serving_dir / "publication.json").exists()


def test_two_publishers_do_not_meet(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    with exclusive_lock(settings.locks_dir / "publish.lock", "publish"), pytest.raises(RunInProgress):
        publish_all(settings)


def test_serve_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    nothing = hedgerow("serve", "-p", settings.root)
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("error: ")
    assert "nothing is published yet" in nothing.stderr
    assert len(nothing.stderr.strip().splitlines()) == 1


@pytest.fixture
def port() -> Iterator[int]:
    with held_port() as held:
        yield held


def test_redis_serves_fails_clearly_and_recovers(tmp_path: Path, port: int) -> None:
    settings = make_project(tmp_path, extra=CALENDAR)
    store = OnlineStore(type=OnlineStoreType.REDIS, connection_string=f"127.0.0.1:{port}", pushed=("item_week",))
    settings = replace(load_settings(settings.root), online_store=store)
    release = release_items(settings, 0, [1, 2, 3, 4])

    def read(client: Client) -> list[int]:
        table = client.get_features(features=["item_week_v1:users"], entities={"item_id": [17, 8, 3]})
        assert table.releases == (release,)
        assert table.found["item_week_v1"].tolist() == [True, False, True]
        return table["item_week_v1:users"].tolist()

    with pytest.raises(StoreUnreachable):
        publish_all(settings)
    assert not (settings.serving_dir / "publication.json").exists()
    with redis_server(port):
        publish_all(settings)
        server = start_server(settings, config=patient(settings))
    with server, connected(server.address) as client:
        with pytest.raises(ServerUnavailable, match="UNAVAILABLE"):
            read(client)
        with redis_server(port):
            publish_all(settings)
            assert read(client) == [3, 0, 1]
