"""Both clients against a real server: streams, allow-lists, one round trip, frames, hedging, connection pools."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import grpc
import numpy as np
import pytest

from governance.errors import AccessDenied, NotServed, RequestInvalid, ServerUnavailable
from serving.async_client import AsyncClient
from serving.channel import Turns
from serving.client import Client
from serving.problems import DETAILS_TRAILER, Details, Overloaded, encode_details
from serving.server import RunningServer, start_server
from tests.support.fronts import grpcio_server
from tests.support.redis import held_port
from tests.support.serving import connected, patient, served_items

FEATURES = ["items_v1:users", "items_v1:score"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = served_items(tmp_path_factory.mktemp("clients"), rows=300)
    with start_server(settings, config=patient(settings), port=0) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with connected(server.address) as found:
        yield found


def test_a_stream_of_features_is_the_answer_in_parts(client: Client) -> None:
    ids = np.arange(290, 320).repeat(1_001)
    parts = list(client.stream_features(features=FEATURES, entities={"item_id": ids}, part_rows=7_000))
    assert [part.rows for part in parts] == [7_000] * 4 + [2_030]
    assert len({part.publication for part in parts}) == 1
    users = np.concatenate([part["items_v1:users"] for part in parts])
    found = np.concatenate([part.found["items_v1"] for part in parts])
    assert np.array_equal(found, ids < 300)
    assert np.array_equal(users[found], ids[found])
    assert not users[~found].any()
    with pytest.raises(RequestInvalid, match=r"part_rows: found 10,001"):
        next(client.stream_features(features=FEATURES, entities={"item_id": ids}, part_rows=10_001))


def test_a_stream_of_vectors_is_the_answer_in_parts(client: Client) -> None:
    ids = np.arange(310)
    whole = client.get_embeddings("item_content", ids)
    parts = list(client.stream_embeddings("item_content", ids, part_rows=100))
    assert [len(part.vectors) for part in parts] == [100, 100, 100, 10]
    assert np.array_equal(np.concatenate([part.vectors for part in parts]), whole.vectors)
    assert np.array_equal(np.concatenate([part.found for part in parts]), ids < 300)


def test_allow_lists_and_exclusions(client: Client) -> None:
    near = client.search("item_content", ids=[5], k=10, allow=[1, 5, 9, 4_000], exclude=[9])
    assert near.ids[0, : near.counts[0]].tolist() == [1]
    assert client.search("item_content", ids=[5], k=10, allow=[]).counts.tolist() == [0]
    near = client.search("item_content", ids=[5], k=300, allow=np.arange(100), tags=["t1"])
    assert set(near.ids[0, : near.counts[0]].tolist()) == {i for i in range(100) if i % 3 == 1}


def test_one_round_trip_is_the_three_calls(client: Client) -> None:
    context = client.get_recommendation_context(
        "item_content",
        ids=[7, 8],
        k=5,
        user_entities={"item_id": [7]},
        user_features=FEATURES,
        item_features=["items_v1:score"],
    )
    alone = client.search("item_content", ids=[7, 8], k=5)
    assert np.array_equal(context.candidates.ids, alone.ids)
    assert context.user is not None
    assert context.user["items_v1:users"].tolist() == [7]
    assert context.items is not None
    assert context.items["items_v1:score"].tolist() == (alone.ids.ravel() / 2).tolist()
    only = client.get_recommendation_context("item_content", ids=[7], k=5)
    assert (only.user, only.items) == (None, None)
    with pytest.raises(RequestInvalid, match=r"user\.keys: key columns are missing: item_id"):
        client.get_recommendation_context("item_content", ids=[7], k=5, user_entities={}, user_features=FEATURES)
    with pytest.raises(RequestInvalid, match=r"candidates\.k"):
        client.get_recommendation_context("item_content", ids=[7], k=0)
    with pytest.raises(NotServed, match="no feature 'nothing'"):
        client.get_recommendation_context("item_content", ids=[7], k=1, item_features=["items_v1:nothing"])


def test_one_round_trip_is_no_larger_than_a_message(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part may be as large as a message; all of them together must be no larger."""
    monkeypatch.setattr("serving.recommendation.MAX_MESSAGE_BYTES", 1_000)
    ask = partial(client.get_recommendation_context, "item_content", ids=[7, 8, 9])
    assert ask(k=5).candidates.counts.tolist() == [5] * 3
    with pytest.raises(RequestInvalid, match=r"bytes in the answer, allowed 1,000; split the request"):
        ask(k=20, item_features=FEATURES)


def test_frames_keep_nulls_and_types(client: Client) -> None:
    table = client.get_features(features=FEATURES, entities={"item_id": [2, 999]})
    assert table.to_arrow().to_pydict() == {"items_v1:users": [2, None], "items_v1:score": [1.0, None]}
    frame = table.to_pandas()
    assert frame["items_v1:score"].isna().tolist() == [False, True]


async def connections_stand(client: AsyncClient) -> None:
    """As `connected` has it."""
    for connection in client._turns.all:
        await asyncio.wait_for(connection.channel.channel_ready(), 60)


def test_the_async_client_answers_the_same(server: RunningServer, client: Client) -> None:
    async def ask() -> None:
        async with AsyncClient(server.address, timeout_seconds=20, purpose="ranking", connections=2) as asked:
            await connections_stand(asked)
            table, near, vectors, context = await asyncio.gather(
                asked.get_features(features=FEATURES, entities={"item_id": [2, 3]}),
                asked.search("item_content", ids=[3], k=4),
                asked.get_embeddings("item_content", [3]),
                asked.get_recommendation_context("item_content", ids=[3], k=4, item_features=FEATURES),
            )
            assert table["items_v1:users"].tolist() == [2, 3]
            assert np.array_equal(near.ids, client.search("item_content", ids=[3], k=4).ids)
            assert vectors.found.all()
            assert context.items is not None
            assert context.items["items_v1:users"].tolist() == near.ids[0].tolist()
            parts = [
                part
                async for part in asked.stream_features(
                    features=FEATURES, entities={"item_id": np.arange(10)}, part_rows=4
                )
            ]
            assert [part.rows for part in parts] == [4, 4, 2]
            with pytest.raises(NotServed):
                await asked.get_embeddings("nothing", [3])
            with pytest.raises(NotServed):
                _ = [part async for part in asked.stream_embeddings("nothing", [3])]
            streamed = [part async for part in asked.stream_embeddings("item_content", [1, 2, 3], part_rows=2)]
            assert [len(part.vectors) for part in streamed] == [2, 1]
            assert np.array_equal(streamed[1].vectors, vectors.vectors)
            info, whole = await asked.catalogue_info(), await asked.catalogue()
            assert whole.info == info == client.catalogue_info()
            assert whole.data == client.catalogue().data

    asyncio.run(ask())


def test_a_slow_call_is_hedged_and_the_first_answer_counts(server: RunningServer) -> None:
    """A second server that never answers stands before the real one: only the hedge can succeed."""
    with (
        stuck() as address,
        connected(server.address, hedge_after_seconds=0.05, timeout_seconds=20) as hedged,
        connected(address) as other,
    ):
        hedged._turns.all = (other._turns.all[0], hedged._turns.all[1])
        for _ in range(4):
            table = hedged.get_features(features=FEATURES, entities={"item_id": [4]})
            assert table["items_v1:users"].tolist() == [4]
        with pytest.raises(NotServed):
            hedged.get_embeddings("nothing", [4])


def test_the_async_client_hedges_too(server: RunningServer) -> None:
    async def ask(address: str) -> None:
        async with (
            AsyncClient(server.address, hedge_after_seconds=0.05, timeout_seconds=20) as hedged,
            AsyncClient(address) as other,
            AsyncClient(nobody, timeout_seconds=0.5) as away,
        ):
            await connections_stand(hedged)
            await connections_stand(other)
            working = hedged._turns.all
            hedged._turns.all = (other._turns.all[0], working[1])
            for _ in range(4):
                table = await hedged.get_features(features=FEATURES, entities={"item_id": [4]})
                assert table["items_v1:users"].tolist() == [4]
            with pytest.raises(NotServed):
                await hedged.get_embeddings("nothing", [4])
            hedged._turns.all = (other._turns.all[0], away._turns.all[0])
            hedged._timeout = 0.5
            with pytest.raises(ServerUnavailable):
                await hedged.get_embeddings("nothing", [4])

    with held_port() as port, stuck() as address:
        nobody = f"127.0.0.1:{port}"
        asyncio.run(ask(address))


@contextmanager
def stuck() -> Iterator[str]:
    """A server that never answers."""

    class Never:
        def service(self, _details: object) -> object:
            return grpc.unary_unary_rpc_method_handler(wait)

    def wait(_request: bytes, context: grpc.ServicerContext) -> bytes:
        while context.is_active():
            time.sleep(0.01)
        return b""

    never = grpc.server(ThreadPoolExecutor(8))
    never.add_generic_rpc_handlers((Never(),))  # type: ignore[arg-type]
    port = never.add_insecure_port("127.0.0.1:0")
    never.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        never.stop(0).wait()


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        own = {name: value for name, value in vars(kind).items() if callable(value) and name[0] != "_"}
        return {name: list(inspect.signature(value).parameters) for name, value in own.items()}

    assert methods(AsyncClient) == methods(Client)
    assert list(inspect.signature(AsyncClient).parameters) == list(inspect.signature(Client).parameters)


def test_a_hedge_takes_another_connection_whoever_else_calls() -> None:
    turns = Turns(lambda: grpc.insecure_channel("127.0.0.1:1"), 1, hedged=True)
    assert len(turns.all) == 2, "the same connection is no way round one that stands still"
    turns = Turns(lambda: grpc.insecure_channel("127.0.0.1:1"), 3, hedged=True)
    pairs = [turns.next_two() for _ in range(6)]
    assert all(first is not other for first, other in pairs)
    assert [first for first, _ in pairs] == [*turns.all, *turns.all]
    with pytest.raises(RequestInvalid, match="connections: found 0, allowed: at least 1"):
        Client("127.0.0.1:1", connections=0)


@pytest.mark.parametrize(
    ("code", "text", "details", "kind"),
    [
        (8, "grpc: received message larger than max (33554500 vs. 33554432)", None, RequestInvalid),
        (8, "CLIENT: Sent message larger than max (33554500 vs. 33554432)", None, RequestInvalid),
        (8, "received metadata size exceeds hard limit (20000 vs. 16384)", None, RequestInvalid),
        (8, "too much", Details(violations=(("request", "too much"),)), RequestInvalid),
        (8, "busy", Details(retry_seconds=0.5), Overloaded),
        (8, "quota of a proxy", None, Overloaded),
        (5, "no view", Details(violations=(("space", "no view"),)), NotServed),
        (7, "no", None, AccessDenied),
        (9, "out of order", None, ServerUnavailable),
    ],
)
def test_statuses_are_typed_errors(code: int, text: str, details: Details | None, kind: type) -> None:
    """What can never succeed is not told as something to try again."""
    status = next(status for status in grpc.StatusCode if status.value[0] == code)

    def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
        if details is not None:
            context.set_trailing_metadata(((DETAILS_TRAILER, encode_details(code, text, details)),))
        context.abort(status, text)

    handlers = {"hedgerow.serving.v1.EmbeddingService": {"Search": grpc.unary_unary_rpc_method_handler(refuse)}}
    with grpcio_server(handlers) as address, connected(address) as client:
        with pytest.raises(kind) as caught:
            client.search("x", ids=[1], k=1)
        assert type(caught.value) is kind


def test_metadata_that_no_server_takes_is_the_callers_fault(server: RunningServer) -> None:
    with (
        connected(server.address, token="x" * 20_000) as client,
        pytest.raises(RequestInvalid, match="16,384"),
    ):
        client.search("item_content", ids=[1], k=1)


def test_metrics_count_calls_by_method_and_code(server: RunningServer, client: Client) -> None:
    client.get_features(features=FEATURES, entities={"item_id": [1]})
    with pytest.raises(NotServed):
        client.get_embeddings("nothing", [1])
    value = server.metrics.registry.get_sample_value
    features = "hedgerow.serving.v1.FeatureService/GetFeatures"
    embeddings = "hedgerow.serving.v1.EmbeddingService/GetEmbeddings"
    assert (value("hedgerow_calls_total", {"method": features, "code": "OK"}) or 0) >= 1
    assert (value("hedgerow_calls_total", {"method": embeddings, "code": "NOT_FOUND"}) or 0) >= 1
    assert (value("hedgerow_call_seconds_count", {"method": features}) or 0) >= 1
    assert value("hedgerow_publication") == 1
    assert (value("hedgerow_release_age_seconds", {"view": "items_v1"}) or 0) > 0


def test_the_recommender_of_the_documentation_runs(client: Client) -> None:
    import re
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    block = re.search(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block
    assert len(block[1].splitlines()) < 40
    names: dict[str, object] = {}
    exec(block[1], names)
    recommend = names["recommend"]
    assert callable(recommend)
    best = recommend(client, seen=[3, 8], k=5, space="item_content", features=["items_v1:users"])
    assert len(best) == 5
    assert not {3, 8} & set(best.tolist())
