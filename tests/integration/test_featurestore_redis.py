"""Packed rows in Redis by themselves: keys, connections, and what a read costs Redis."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from featurestore.online.redis_client import RedisAddress
from featurestore.online.redis_rows import PackedRedis, view_part
from featurestore.rows import Column, Kind, PackedRows, RowField, RowSchema, Texts, key_bytes, pack, text_keys
from tests.support.redis import redis_server

SCHEMA = RowSchema(fields=(RowField(name="f", kind=Kind.INT64),))


@pytest.fixture(scope="module")
def address() -> Iterator[RedisAddress]:
    with redis_server() as found:
        yield RedisAddress.parse(found)


@pytest.fixture
def store(address: RedisAddress) -> Iterator[PackedRedis]:
    opened = PackedRedis(address)
    opened._client.flushdb()
    yield opened
    opened.close()


def rows_of(values: list[int]) -> PackedRows:
    column = Column(values=np.array(values), nulls=np.zeros(len(values), bool))
    return pack(SCHEMA, {"f": column}, event_times=np.ones(len(values), np.int64))


def test_a_view_is_dropped_alone_whatever_its_hash(store: PackedRedis) -> None:
    """Keys begin with bytes of a hash, some of which mean something in the pattern that finds a view's keys."""
    names = [next(name for name in map(str, range(1, 30_000)) if byte in view_part(name)) for byte in b"*?[]^-\\"]
    keys, rows = key_bytes({"id": np.arange(3)}), rows_of([7, 8, 9])
    for name in (*names, "0"):
        store.write(name, SCHEMA, keys, rows)
    for name in names:
        store.delete_before(name, 1)
        assert store.read(name, keys) == rows.tolist()
        store.drop(name)
        assert store.read(name, keys) == [None] * 3
        assert store.read("0", keys) == rows.tolist()


@pytest.mark.parametrize(
    "keys",
    [
        key_bytes({"id": np.array([1, -1, 1 << 62])}),
        key_bytes({"id": text_keys(["a", "", "żółw"])}),
        key_bytes({"id": text_keys(["\r\n$1\r\n", "*1", "-"])}),
        key_bytes({"a": np.array([1, 2, 3]), "b": text_keys(["x", "yy", "x"])}),
        Texts.of([b"\x00", b"\xff" * 300, b"{}"]),
    ],
)
def test_any_key_is_read_and_deleted(store: PackedRedis, keys: Texts) -> None:
    rows = rows_of([1, 2, 3])
    store.write("view", SCHEMA, keys, rows)
    order = np.array([2, 0, 2, 1])
    assert store.read("view", keys.take(order)) == [rows.tolist()[i] for i in order.tolist()]
    assert store.read("other", keys) == [None] * 3
    store.delete("view", keys.take(np.array([1])))
    assert store.read("view", keys) == [rows.tolist()[0], None, rows.tolist()[2]]


def test_a_key_of_an_integer_fills_its_allocation(store: PackedRedis) -> None:
    """16 bytes with the two that Redis adds; one more and it would take 24."""
    store.write("view", SCHEMA, key_bytes({"id": np.arange(3)}), rows_of([1, 2, 3]))
    sizes = {len(key) for key in store._client.scan_iter() if key != b"h:schemas"}
    assert sizes == {14}


def test_connections_in_hand_are_renewed(store: PackedRedis) -> None:
    keys = key_bytes({"id": np.arange(3)})

    def read(_: int) -> list[Any]:
        return store.read("none", keys)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            assert list(pool.map(read, range(64))) == [[None] * 3] * 64
            store._client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert len(store._idle) <= 5
