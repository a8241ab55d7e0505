"""GetEmbeddings and Search as functions: from a message or from its bytes, the answer is the same, and protobuf's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from governance.errors import AccessDenied, NotServed, RequestInvalid
from serving.columns import unbitmap
from serving.embeddings import get_embeddings, search, stream_embeddings
from serving.index import VectorSpace, write_space
from serving.limits import MAX_QUERIES, MAX_ROWS
from serving.problems import TooLarge
from serving.state import Published
from serving.v1 import embeddings_pb2
from serving.wire import delimited, first_field, packed, uint

ROWS, DIMENSION = 120, 8
VECTORS = np.random.default_rng(5).normal(size=(ROWS, DIMENSION)).astype(np.float32)
IDS = {
    "close": np.arange(ROWS) * 3 - 50,
    "far": np.random.default_rng(6).permutation(ROWS) * 10**15 - (1 << 62),
    "text": [f"item-{i}" for i in range(ROWS)],
}
Handler = Callable[[Published, Any, Any], bytes]


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VectorSpace]:
    return {name: opened(tmp_path_factory.mktemp(name), name) for name in IDS}


def opened(folder: Path, name: str) -> VectorSpace:
    write_space(
        folder,
        name=name,
        release_id=f"{name}/v1/x",
        key="id",
        ids=IDS[name],
        vectors=VECTORS,
        tags=[()] * ROWS,
        metric="cosine",
    )
    return VectorSpace(folder)


@pytest.fixture
def published(spaces: dict[str, VectorSpace]) -> Published:
    return Published(sequence=3, views={}, services={}, spaces=spaces, catalogue=None, reader=None)


def ids_message(name: str, ids: Any) -> Any:
    return {"strings" if name == "text" else "int64s": {"values": np.asarray(ids).tolist()}}


def answered(handler: Handler, published: Published, request: Any) -> bytes:
    """The answer to a message and, three times, to its bytes; and what was asked to be permitted."""
    asked: list[Any] = []

    def permit(resources: tuple[str, ...], rows: int) -> None:
        asked.append((resources, rows))

    answer = handler(published, request, permit)
    for _ in range(3):
        assert handler(published, request.SerializeToString(), permit) == answer
    assert asked == asked[:1] * 4
    assert asked[0][0] == (request.space,)
    return answer


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("rows", [[], [0], [5, 5, 7], list(range(ROWS)), [3, None, 4], [None]])
def test_vectors_by_id(published: Published, name: str, rows: list[int | None]) -> None:
    nobody: Any = "nobody" if name == "text" else 10**18 + 7
    ids = [nobody if row is None else IDS[name][row] for row in rows]
    request = embeddings_pb2.GetEmbeddingsRequest(space=name, ids=ids_message(name, ids))
    raw = answered(get_embeddings, published, request)
    answer = embeddings_pb2.GetEmbeddingsResponse.FromString(raw)
    assert answer.SerializeToString() == raw
    found = unbitmap(answer.found, len(rows))
    assert found.tolist() == [row is not None for row in rows]
    wanted = [np.zeros(DIMENSION) if row is None else VECTORS[row] for row in rows]
    assert np.array_equal(np.frombuffer(answer.vectors, "<f4").reshape(-1, DIMENSION), np.reshape(wanted, (-1, 8)))
    assert (answer.dimension, answer.release, answer.publication) == (DIMENSION, f"{name}/v1/x", 3)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize(("queries", "k"), [(1, 1), (1, 10), (3, 200), (16, 10), (MAX_QUERIES, 1)])
def test_neighbors(published: Published, name: str, queries: int, k: int) -> None:
    vectors = np.random.default_rng(7).normal(size=(queries, DIMENSION)).astype("<f4")
    request = embeddings_pb2.SearchRequest(space=name, vectors=vectors.tobytes(), k=k)
    raw = answered(search, published, request)
    answer = embeddings_pb2.SearchResponse.FromString(raw)
    assert answer.SerializeToString() == raw
    truth = vectors @ VECTORS.T / np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(VECTORS, axis=1)
    order = np.argsort(-truth, axis=1)[:, :k]
    assert list(answer.counts) == [min(k, ROWS)] * queries
    found = answer.ids.strings.values if name == "text" else answer.ids.int64s.values
    assert list(found) == np.array(IDS[name])[order].ravel().tolist()
    assert np.allclose(answer.scores, np.take_along_axis(truth, order, axis=1).ravel(), atol=1e-5)


def outcome(handler: Handler, published: Published, request: Any) -> bytes | str:
    """The answer to a request, or what is wrong with it."""
    try:
        return handler(published, request, lambda *_: None)
    except DecodeError:
        return "no message"
    except RequestInvalid as error:
        return "no message" if getattr(error, "field", "") == "request" else f"{type(error).__name__}: {error}"
    except NotServed as error:
        return str(error)


def differing(handler: Handler, kind: Any, published: Published, raw: bytes) -> list[bytes]:
    """Of all requests that are one bit away, or cut short, those that are not answered as if they were parsed."""
    changed = [raw[:cut] for cut in range(len(raw))]
    changed += [raw[:at] + bytes((raw[at] ^ 1 << bit,)) + raw[at + 1 :] for at in range(len(raw)) for bit in range(8)]

    def parsed(data: bytes) -> Any:
        try:
            return kind.FromString(data)
        except DecodeError:
            return data

    return [data for data in changed if outcome(handler, published, data) != outcome(handler, published, parsed(data))]


def test_bytes_that_are_written_in_another_way_are_parsed(published: Published) -> None:
    by_id = embeddings_pb2.GetEmbeddingsRequest(space="close", ids=ids_message("close", IDS["close"][:2]))
    nearest = embeddings_pb2.SearchRequest(space="close", vectors=VECTORS[:2].tobytes(), k=300)
    for handler, request in ((get_embeddings, by_id), (search, nearest)):
        answer = answered(handler, published, request)  # type: ignore[arg-type]
        raw = request.SerializeToString()
        end = first_field(raw)
        for unusual in (raw[end:] + raw[:end], raw + uint(99, 1), raw[:end] + uint(99, 1) + raw[end:]):
            assert outcome(handler, published, unusual) == answer  # type: ignore[arg-type]
        assert differing(handler, type(request), published, raw) == []  # type: ignore[arg-type]
    halves = [packed(1, np.array([one], "<i8")) for one in IDS["close"][:2].tolist()]  # type: ignore[union-attr]
    split = delimited(1, b"close") + delimited(2, delimited(1, b"".join(halves)))
    assert outcome(get_embeddings, published, split) == get_embeddings(published, by_id, lambda *_: None)


@pytest.mark.parametrize(
    ("vectors", "k", "error"),
    [
        (VECTORS[:1].tobytes(), 0, "allowed: 1 to 1,000"),
        (VECTORS[:1].tobytes(), 1_001, "allowed: 1 to 1,000"),
        (VECTORS[:1].tobytes(), 1 << 31, "allowed: 1 to 1,000"),
        (VECTORS[:1].tobytes()[:-1], 1, "allowed: a multiple of 32"),
        (b"", 1, None),
        (np.full((1, DIMENSION), np.nan, "<f4").tobytes(), 1, "NaN or infinite"),
        (np.full((2, DIMENSION), -np.inf, "<f4").tobytes(), 1, "NaN or infinite"),
        (np.full((1, DIMENSION), 3e38, "<f4").tobytes(), 1, None),
        (bytes(4 * DIMENSION), 1, None),
        (bytes(4 * DIMENSION * (MAX_QUERIES + 1)), 1, "found 1,025 queries, allowed 1,024"),
    ],
)
def test_queries_are_checked_alike(published: Published, vectors: bytes, k: int, error: str | None) -> None:
    request = embeddings_pb2.SearchRequest(space="close", vectors=vectors, k=k)
    for asked in (request, request.SerializeToString(), request.SerializeToString()):
        found = outcome(search, published, asked)
        assert isinstance(found, bytes) == (error is None)
        assert error is None or error in str(found)


@pytest.mark.parametrize(
    "request_",
    [
        embeddings_pb2.GetEmbeddingsRequest(space="close", ids=ids_message("text", ["a"])),
        embeddings_pb2.GetEmbeddingsRequest(space="close", ids=ids_message("close", [1] * (MAX_ROWS + 1))),
        embeddings_pb2.SearchRequest(space="close", vectors=b"1", k=0),
        embeddings_pb2.SearchRequest(space="close", vectors=bytes(4 * DIMENSION), k=0),
        embeddings_pb2.SearchRequest(space="close", ids=ids_message("text", ["a"]), k=1),
    ],
)
def test_nothing_of_a_space_is_told_before_it_is_permitted(published: Published, request_: Any) -> None:
    """What is wrong with ids and vectors names their type and dimension."""
    handler = search if isinstance(request_, embeddings_pb2.SearchRequest) else get_embeddings
    asked: list[int] = []

    def never(_resources: tuple[str, ...], rows: int) -> None:
        asked.append(rows)
        raise AccessDenied("no")

    for form in (request_, request_.SerializeToString(), request_.SerializeToString()):
        with pytest.raises(RequestInvalid):
            handler(published, form, lambda *_: None)
        with pytest.raises(AccessDenied):
            handler(published, form, never)
    if isinstance(request_, embeddings_pb2.GetEmbeddingsRequest):
        with pytest.raises(AccessDenied):
            next(stream_embeddings(published, embeddings_pb2.StreamEmbeddingsRequest(request=request_), never))
    assert len(set(asked)) == 1, "as many rows are noted in each form"


def test_no_more_ids_pass_as_bytes(published: Published) -> None:
    request = embeddings_pb2.GetEmbeddingsRequest(space="close", ids=ids_message("close", [1] * (MAX_ROWS + 1)))
    for asked in (request, request.SerializeToString()):
        with pytest.raises(TooLarge, match="found 10,001 ids, allowed 10,000"):
            get_embeddings(published, asked, lambda *_: None)


def test_removed_vectors_are_not_found(published: Published, spaces: dict[str, VectorSpace]) -> None:
    for name, own in spaces.items():
        gone = own.without(IDS[name][2:4])  # type: ignore[arg-type]
        state = Published(sequence=3, views={}, services={}, spaces={name: gone}, catalogue=None, reader=None)
        request = embeddings_pb2.GetEmbeddingsRequest(space=name, ids=ids_message(name, IDS[name][1:5]))
        answer = embeddings_pb2.GetEmbeddingsResponse.FromString(answered(get_embeddings, state, request))
        assert unbitmap(answer.found, 4).tolist() == [True, False, False, True]
        near = embeddings_pb2.SearchRequest(space=name, vectors=VECTORS[2].tobytes(), k=ROWS)
        hits = embeddings_pb2.SearchResponse.FromString(answered(search, state, near))
        assert list(hits.counts) == [ROWS - 2]


def test_ids_that_lie_close_together_have_a_table(spaces: dict[str, VectorSpace]) -> None:
    files = {name: {"places.i64", "order.i64"} & set(space.meta.files) for name, space in spaces.items()}
    assert files == {"close": {"places.i64"}, "far": {"order.i64"}, "text": set()}
