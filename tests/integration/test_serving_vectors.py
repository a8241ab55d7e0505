"""Vectors, search and catalogue over real sockets, from real releases and real FAISS indexes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from featurestore.catalogue import build_catalogue, decode, public_key_bytes, signing_key, verify
from featurestore.publication import Publication, write_publication
from governance.errors import ConfigError, NotPublished, NotServed, PortBusy, RequestInvalid, ServerUnavailable
from governance.files import write_atomic
from governance.ledger import Ledger
from governance.settings import Serving, Settings
from serving.calls import SERVICES, method_handlers
from serving.client import Client
from serving.gate import Gate
from serving.index import VectorSpace, write_space
from serving.limits import MAX_EXCLUDED, MAX_MESSAGE_BYTES, MAX_QUERIES, MAX_ROWS
from serving.problems import DETAILS_TRAILER, Overloaded, decode_details
from serving.server import RunningServer, start_server
from serving.spaces import build_spaces
from serving.state import Published
from serving.v1 import snapshots_pb2, snapshots_pb2_grpc
from tests.support.fronts import front_server
from tests.support.redis import held_port
from tests.support.releases import make_project, make_vector_release
from tests.support.serving import connected, patient

ROWS, DIMENSION = 300, 16
IDS = (np.arange(ROWS) * 7 + 3).tolist()
VECTORS = np.random.default_rng(5).normal(size=(ROWS, DIMENSION)).astype(np.float32)
UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
TAGS = [["jazz"] if row % 3 == 0 else ["rock", "live"] if row % 3 == 1 else [] for row in range(ROWS)]
METHODS = [
    "FeatureService/GetFeatures",
    "EmbeddingService/GetEmbeddings",
    "EmbeddingService/Search",
    "SnapshotService/GetCatalogueInfo",
    "SnapshotService/GetCatalogue",
]


def publish_vectors(settings: Settings, sequence: int) -> Publication:
    """Puts the newest vector release in force, without feature views."""
    with Ledger(settings.ledger_path) as ledger:
        spaces = build_spaces(settings, ledger, lambda _: None)
        catalogue = build_catalogue(settings, ledger, (), spaces[0].release_id)
    write_atomic(settings.catalogue_public_key_path, public_key_bytes(signing_key(settings)))
    publication = Publication(
        sequence=sequence,
        created_at="2025-12-01T00:00:00+00:00",
        project=settings.name,
        views=(),
        services=(),
        spaces=spaces,
        catalogue=catalogue,
    )
    write_publication(settings, publication)
    return publication


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = make_project(tmp_path_factory.mktemp("project"))
    with Ledger(made.ledger_path) as ledger:
        make_vector_release(made, ledger, ids=IDS, vectors=VECTORS, tags=TAGS)
    publish_vectors(made, sequence=1)
    return made


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[RunningServer]:
    with start_server(settings, config=patient(settings)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with connected(server.address) as found:
        yield found


def test_vectors_by_id_are_the_released_ones(client: Client) -> None:
    answer = client.get_embeddings("item_content", [IDS[4], 1, IDS[0], IDS[4]])
    assert np.array_equal(answer.vectors, np.stack([VECTORS[4], np.zeros(DIMENSION), VECTORS[0], VECTORS[4]]))
    assert answer.found.tolist() == [True, False, True, True]
    assert answer.release.startswith("item_content/v1/")
    assert answer.publication == 1
    assert client.get_embeddings("item_content", []).vectors.shape == (0, DIMENSION)


def test_neighbors_by_vector_are_the_exact_ones(client: Client) -> None:
    queries = np.random.default_rng(6).normal(size=(5, DIMENSION))
    answer = client.search("item_content", vectors=queries, k=9)
    truth = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ UNIT.T
    order = np.argsort(-truth, axis=1)[:, :9]
    assert np.array_equal(answer.ids, np.array(IDS)[order])
    assert np.allclose(answer.scores, np.take_along_axis(truth, order, axis=1), atol=1e-5)
    assert answer.counts.tolist() == [9] * 5
    assert answer.release == client.get_embeddings("item_content", IDS[:1]).release


def test_neighbors_by_id_leave_the_item_itself_out_unless_asked(client: Client) -> None:
    near = client.search("item_content", ids=[IDS[8], 1, IDS[9]], k=4)
    assert near.found.tolist() == [True, False, True]
    assert near.counts.tolist() == [4, 0, 4]
    assert IDS[8] not in near.ids[0]
    assert np.isnan(near.scores[1]).all()
    itself = client.search("item_content", ids=[IDS[8]], k=4, include_self=True)
    assert itself.ids[0, 0] == IDS[8]
    assert itself.ids[0, 1:].tolist() == near.ids[0, :3].tolist()


def test_conditions_hold_together(client: Client) -> None:
    truth = UNIT @ UNIT[0]
    first = int(np.argsort(-truth)[1])
    rows = [r for r in range(1, ROWS) if r != first and truth[r] >= 0.1 and set(TAGS[r]) & {"jazz", "live"}]
    expected = [IDS[row] for row in sorted(rows, key=lambda row: -truth[row])]
    near = client.search(
        "item_content", ids=[IDS[0]], k=200, min_score=0.1, exclude=[IDS[first], 1], tags=["jazz", "live"]
    )
    assert near.ids[0, : near.counts[0]].tolist() == expected
    assert client.search("item_content", ids=[IDS[0]], k=5, tags=["polka"]).counts.tolist() == [0]


def test_one_query_vector_may_be_flat(client: Client) -> None:
    assert client.search("item_content", vectors=VECTORS[3], k=1).ids.tolist() == [[IDS[3]]]


def test_text_ids_are_served_too(tmp_path: Path) -> None:
    write_space(
        tmp_path,
        name="animals",
        release_id="animals/v1/x",
        key="name",
        ids=["żółw", "cat", "dog"],
        vectors=np.eye(3, dtype=np.float32),
        tags=[[]] * 3,
        metric="dot",
    )
    spaces = {"animals": VectorSpace(tmp_path)}
    state = Published(sequence=1, views={}, services={}, spaces=spaces, catalogue=None, reader=None)
    handlers = method_handlers(lambda: state, Gate(), concurrent_streams=1)
    with front_server(handlers) as address, connected(address) as client:
        near = client.search("animals", ids=["cat", "cow"], k=2, exclude=["dog"])
        assert near.ids.tolist() == [["żółw", ""], ["", ""]]
        assert near.counts.tolist() == [1, 0]
        assert client.get_embeddings("animals", ["dog", "cow"]).found.tolist() == [True, False]
        with pytest.raises(RequestInvalid, match="found int64 ids, allowed: string"):
            client.get_embeddings("animals", [1])
        with pytest.raises(NotServed, match="no catalogue is published"):
            client.catalogue_info()


def test_the_catalogue_is_the_signed_file(client: Client, settings: Settings) -> None:
    download = client.catalogue()
    assert download.info == client.catalogue_info()
    verify(download.data, download.info.signature, download.info.public_key)
    assert download.info.public_key == public_key_bytes(signing_key(settings))
    catalogue = decode(download.data)
    assert catalogue.sequence == download.info.sequence
    assert sorted(catalogue.ids.tolist()) == sorted(IDS)
    assert download.info.releases == catalogue.releases


def test_an_older_catalogue_is_not_served(server: RunningServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = snapshots_pb2_grpc.SnapshotServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.GetCatalogue(snapshots_pb2.GetCatalogueRequest(sequence=99), timeout=30))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_health_answers_for_every_service(server: RunningServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", *SERVICES):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
            serving = not name.endswith("FeatureService")  # no view is published
            assert answer.status == (
                health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            )
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=30)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_describes_every_service(server: RunningServer) -> None:
    with grpc.insecure_channel(server.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(SERVICES) <= set(database.get_services())
        file = database.FindFileContainingSymbol("hedgerow.serving.v1.EmbeddingService")
        assert [method.name for method in file.service[0].method] == ["GetEmbeddings", "StreamEmbeddings", "Search"]


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_invalid(server: RunningServer, method: str) -> None:
    error = raw_call(server.address, method, b"\xff\xff\xff\xff")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    trailer = dict(error.trailing_metadata())[DETAILS_TRAILER]
    assert decode_details(trailer).violations[0][0] == "request"


def test_random_bytes_never_break_the_server(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(11)
    expected = {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    with grpc.insecure_channel(server.address) as channel:
        for method in METHODS[:4]:
            call = channel.unary_unary(f"/hedgerow.serving.v1.{method}")
            for _ in range(150):
                noise = rng.integers(0, 256, size=int(rng.integers(0, 60)), dtype=np.uint8).tobytes()
                data = b"\x0a\x0citem_content" + noise if rng.random() < 0.5 else noise
                assert call.future(data, timeout=30).code() in expected, (method, data)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.search("item_content", ids=[1], k=0), "k: found 0, allowed: 1 to 1,000"),
        (lambda c: c.search("item_content", ids=[1], k=1001), "k: found 1,001"),
        (lambda c: c.search("item_content", ids=["alice"], k=1), "found string ids, allowed: int64"),
        (lambda c: c.search("item_content", vectors=[[1.0] * 3], k=1), "12 bytes, allowed: a multiple of 64"),
        (lambda c: c.search("item_content", vectors=[[np.nan] * 16], k=1), "NaN or infinite"),
        (lambda c: c.search("item_content", vectors=np.zeros((MAX_QUERIES + 1, 16)), k=1), "1,025 queries"),
        (lambda c: c.search("item_content", ids=[1], k=1, exclude=range(MAX_EXCLUDED + 1)), "found 10,001 ids"),
        (lambda c: c.search("item_content", ids=[1], k=1, tags=["t"] * 101), "found 101 tags"),
        (lambda c: c.search("item_content", ids=[1], k=1, min_score=float("nan")), "minimum_score: found NaN"),
        (lambda c: c.search("item_content", k=1), "give either vectors or ids"),
        (lambda c: c.search("item_content", ids=[1], vectors=[[1.0]], k=1), "give either vectors or ids"),
        (lambda c: c.get_embeddings("item_content", range(MAX_ROWS + 1)), "found 10,001 ids, allowed 10,000"),
        (lambda c: c.get_embeddings("item_content", [1.5]), "allowed: integers or texts"),
        (lambda c: c.get_embeddings("item_content", [[1]]), r"shape \(1, 1\)"),
        (lambda c: c.get_embeddings("item_content", np.array([2**63], np.uint64)), "beyond 64-bit"),
        (lambda c: c.get_features(entities={}), "give either features or service"),
        (lambda c: c.get_features(entities={"x": [b"raw"]}, features=["a:b"]), "key 'x' has type"),
    ],
)
def test_bad_requests_are_refused_in_words(client: Client, call: object, message: str) -> None:
    with pytest.raises(RequestInvalid, match=message) as caught:
        call(client)  # type: ignore[operator]
    assert "alice" not in str(caught.value)


def test_a_message_over_the_limit_is_refused(client: Client) -> None:
    with pytest.raises(RequestInvalid, match="split the request"):
        client.search("item_content", vectors=np.zeros((MAX_MESSAGE_BYTES // 64 + 1, 16), np.float32), k=1)


@pytest.mark.parametrize("name", ["nothing", "../../etc/passwd", "item_content/../item_content", "bob@example.org", ""])
def test_unknown_spaces_are_not_served(client: Client, name: str) -> None:
    with pytest.raises(NotServed, match="published: item_content") as caught:
        client.search(name, ids=[1], k=1)
    assert "bob" not in str(caught.value)


def test_a_busy_port_says_so(server: RunningServer, settings: Settings) -> None:
    with pytest.raises(PortBusy, match="--port"):
        start_server(settings, port=int(server.address.rpartition(":")[2]))


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 70000)])
def test_an_address_of_another_machine_says_so(settings: Settings, host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        start_server(settings, host=host, port=port)


def test_no_server_is_unavailable_in_time() -> None:
    with (
        held_port() as port,
        Client(f"127.0.0.1:{port}", timeout_seconds=1) as lonely,
        pytest.raises(ServerUnavailable),
    ):
        lonely.get_embeddings("item_content", [1])


def test_nothing_published_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(NotPublished, match="hedgerow publish"):
        start_server(make_project(tmp_path))


def test_downloads_leave_threads_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two threads one download may run; its slow reader keeps neither lookups nor health from answering."""
    monkeypatch.setattr("serving.front.dispatch._UNTAKEN_SECONDS", 60.0)  # until then it does not make way
    settings = replace(make_project(tmp_path), serving=Serving(port=0, threads=2))
    with Ledger(settings.ledger_path) as ledger:
        make_vector_release(settings, ledger, ids=range(6_000), vectors=np.ones((6_000, 2_048)))
    publish_vectors(settings, sequence=1)
    with start_server(settings, config=patient(settings)) as running, connected(running.address) as client:
        with grpc.insecure_channel(running.address) as channel:
            slow = snapshots_pb2_grpc.SnapshotServiceStub(channel).GetCatalogue(snapshots_pb2.GetCatalogueRequest())
            assert next(slow).info.sequence == 1
            with pytest.raises(Overloaded, match="too many streams") as caught:
                client.catalogue()
            assert caught.value.retry_seconds == 1
            assert client.get_embeddings("item_content", [5]).found.all()
            assert sum(len(part.data) for part in slow) > 1_000_000
        assert len(client.catalogue().data) > 1_000_000


def test_a_swap_under_load_never_mixes_two_releases(tmp_path: Path) -> None:
    """Every vector of release r is r: an answer whose vectors, neighbors, release or publication disagree is a mix."""
    settings = replace(make_project(tmp_path), serving=Serving(port=0, threads=4))
    release_of: dict[int, str] = {}
    rows = 64

    def publish(number: int) -> None:
        with Ledger(settings.ledger_path) as ledger:
            vectors = np.full((rows, 4), number, np.float32) + np.arange(rows)[:, None] / 1000
            manifest = make_vector_release(settings, ledger, ids=range(rows), vectors=vectors, metric="l2")
        release_of[number] = manifest.release_id
        publish_vectors(settings, sequence=number)

    publish(1)
    seen: list[set[int]] = [set() for _ in range(3)]
    problems: list[str] = []
    ended = threading.Event()

    def ask(own: set[int], address: str) -> None:
        with connected(address) as client:
            while not ended.is_set():
                vectors = client.get_embeddings("item_content", range(rows))
                near = client.search("item_content", ids=range(8), k=3)
                number = vectors.publication
                own.add(number)
                if vectors.release != release_of.get(number) or set(np.floor(vectors.vectors.ravel())) != {number}:
                    problems.append(f"vectors of {number}")
                if near.release != release_of.get(near.publication) or near.counts.tolist() != [3] * 8:
                    problems.append(f"neighbors of {near.publication}")

    with start_server(settings, config=patient(settings)) as running:
        threads = [threading.Thread(target=ask, args=(own, running.address)) for own in seen]
        for thread in threads:
            thread.start()
        for number in range(2, 9):
            publish(number)
            reached = wait_until(lambda number=number: running.publication == number)
            assert reached, f"publication {number} never came into force"
            assert wait_until(lambda number=number: any(number in own for own in seen)), (
                f"nobody was answered by {number}"
            )
        reached_all = wait_until(lambda: all(8 in own for own in seen))
        ended.set()
        for thread in threads:
            thread.join()
    assert reached_all
    assert problems == []


def test_a_damaged_publication_is_refused_and_the_last_good_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_project(tmp_path)
    with Ledger(settings.ledger_path) as ledger:
        make_vector_release(settings, ledger, ids=[1, 2], vectors=np.eye(2))
    first = publish_vectors(settings, sequence=1)
    record = settings.serving_dir / "publication.json"
    good = record.read_bytes()
    with start_server(settings, config=patient(settings)) as running, connected(running.address) as client:
        with caplog.at_level(logging.WARNING, logger="hedgerow.serving"):
            for bad in (
                b"{",
                good.replace(b'"sequence":1', b'"sequence":2').replace(first.catalogue.sha256.encode(), b"0" * 64),
            ):
                caplog.clear()
                write_atomic(record, bad)
                assert wait_until(lambda: "publication 1 stays in force" in caplog.text)
                assert client.get_embeddings("item_content", [1]).publication == 1
        with Ledger(settings.ledger_path) as ledger:
            make_vector_release(settings, ledger, ids=[1, 2], vectors=np.ones((2, 2)))
        publish_vectors(settings, sequence=3)
        assert wait_until(lambda: running.publication == 3)
        assert client.get_embeddings("item_content", [1]).vectors.tolist() == [[1, 1]]


def wait_until(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true in time."""
    until = time.monotonic() + 120
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def raw_call(address: str, method: str, data: bytes) -> grpc.RpcError:
    """Sends bytes as they are and gives back the error."""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(f"/hedgerow.serving.v1.{method}")(data, timeout=30))
    return caught.value
