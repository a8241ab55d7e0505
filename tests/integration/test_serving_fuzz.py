"""A protobuf fuzzer: whatever bytes come, the answer is a sensible status and the server lives.

Requests are valid ones, mutated: bits flipped, cut, spliced, lengths inflated, fields repeated and nested, random.
Seeds are told, so that a finding can be had again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from serving.server import RunningServer, start_server
from serving.v1 import embeddings_pb2, features_pb2, recommendation_pb2, snapshots_pb2
from tests.support.serving import connected, patient, served_items

ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
PACKAGE = "/hedgerow.serving.v1."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = served_items(tmp_path_factory.mktemp("fuzz"))
    with start_server(settings, config=patient(settings), port=0) as running:
        yield running


def seeds() -> dict[str, bytes]:
    """A valid request of every method."""
    features = features_pb2.GetFeaturesRequest()
    features.features.references.extend(["items_v1:users", "items_v1:score"])
    features.keys.add(name="item_id").int64s.values.extend(range(20))
    search = embeddings_pb2.SearchRequest(space="item_content", k=3, minimum_score=0.1, tags=["t1"])
    search.vectors = np.ones(16, "<f4").tobytes()
    search.exclude.int64s.values.extend([1, 2])
    search.allow.int64s.values.extend(range(40))
    embeddings = embeddings_pb2.GetEmbeddingsRequest(space="item_content")
    embeddings.ids.int64s.values.extend([1, 2, 3])
    context = recommendation_pb2.GetRecommendationContextRequest(user=features, candidates=search)
    context.items.feature_service = "ranking_item"
    messages = {
        "FeatureService/GetFeatures": features,
        "FeatureService/StreamFeatures": features_pb2.StreamFeaturesRequest(request=features, part_rows=7),
        "EmbeddingService/Search": search,
        "EmbeddingService/GetEmbeddings": embeddings,
        "EmbeddingService/StreamEmbeddings": embeddings_pb2.StreamEmbeddingsRequest(request=embeddings, part_rows=2),
        "RecommendationService/GetRecommendationContext": context,
        "SnapshotService/GetCatalogueInfo": snapshots_pb2.GetCatalogueInfoRequest(),
    }
    return {name: message.SerializeToString() for name, message in messages.items()}


def mutated(rng: np.random.Generator, data: bytes, others: list[bytes]) -> bytes:
    """The bytes with one to four things done to them."""
    raw = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(raw) + 1))
        match int(rng.integers(0, 8)):
            case 0 if raw:
                raw[at % len(raw)] ^= 1 << int(rng.integers(0, 8))
            case 1:
                del raw[at:]
            case 2:
                other = others[int(rng.integers(0, len(others)))]
                raw[at:at] = other[: int(rng.integers(0, len(other) + 1))]
            case 3:
                raw[at:at] = rng.bytes(int(rng.integers(1, 40)))
            case 4:
                raw[at:at] = b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # a length, or a number, that is huge
            case 5:
                raw = raw * int(rng.integers(1, 4))
            case 6:
                for _ in range(int(rng.integers(1, 120))):  # one message in another in another
                    raw = bytearray(b"\x0a") + bytearray(_varint(len(raw))) + raw
            case _:
                raw = bytearray(rng.bytes(int(rng.integers(0, 200))))
    return bytes(raw)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def fuzz(
    server: RunningServer, least: int, seconds: float, seed: int, caplog: pytest.LogCaptureFixture
) -> Counter[grpc.StatusCode]:
    """What so many requests are answered with, or more where they take less time than that."""
    rng, valid = np.random.default_rng(seed), seeds()
    others, names = list(valid.values()), list(valid)
    seen: Counter[grpc.StatusCode] = Counter()
    end = time.monotonic() + seconds
    number = 0
    with grpc.insecure_channel(server.address) as channel, caplog.at_level(logging.INFO):
        while number < least or time.monotonic() < end:
            number += 1
            name = names[number % len(names)]
            data = mutated(rng, valid[name], others)
            try:
                list(channel.unary_stream(PACKAGE + name)(data, timeout=60))
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
                text = error.details()
            assert code in ALLOWED, f"seed {seed}, request {number}, {name}: {code} {text} {data!r}"
            seen[code] += 1
    assert " at /" not in caplog.text, "a fault was logged"
    with connected(server.address) as client:
        answer = client.get_features(features=["items_v1:users"], entities={"item_id": [3]})
        assert answer["items_v1:users"].tolist() == [3]
    return seen


def test_a_short_fuzz(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    seen = fuzz(server, 2_000, 0.0, 1, caplog)
    assert seen[grpc.StatusCode.INVALID_ARGUMENT]
    assert seen[grpc.StatusCode.OK]
    assert seen[grpc.StatusCode.NOT_FOUND]


@pytest.mark.long
def test_a_minute_of_fuzz(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    seen = fuzz(server, 2_000, 65.0, int(time.time()), caplog)
    assert sum(seen.values()) > 1_000
