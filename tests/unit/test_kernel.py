"""The kernel at its edges: ties, odd keys, one unit with everything, units with one row each, nothing at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines import Count, CountDistinct, Entity, Interval, KeepRandom, PrivateSelection, Sum, VectorSum
from pipelines.definitions import Signal
from pipelines.engine import kernel
from pipelines.engine.kernel import Bounds, bounded_sums
from pipelines.engine.noisy import Noising
from pipelines.noise import ZeroNoise
from tests.support.bounded import bounded_sums as plain_sums
from tests.support.kernel import SALTS, Kernel, Sums
from tests.support.projects import SPAN, a_signal

T0 = int(SPAN.start.timestamp())
VALUE = Interval(0, 63, step=1)


def events(**columns: Any) -> pa.Table:
    n = len(next(iter(columns.values())))
    given = {"user_id": np.zeros(n, np.int64), "item_id": np.zeros(n, np.int64), "ts": np.full(n, T0)}
    return pa.table({**given, **columns})


def plain(signal: Signal, table: pa.Table) -> Sums:
    return plain_sums(table.to_pylist(), signal, SPAN, SALTS.rows, SALTS.partitions)


def bounded(l0: int, rows: int, **aggregates: Any) -> Signal:
    return a_signal(
        aggregates=aggregates or {"n": Count()}, bounds=KeepRandom(max_partitions=l0, max_rows_per_partition=rows)
    )


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_nothing_gives_nothing() -> None:
    of = Kernel.of(bounded(1, 1))
    assert of.sums(events(user_id=pa.array([], pa.int64()))) == {}
    assert of.sums(events(user_id=pa.array([1]), ts=pa.array([T0 - 1]))) == {}


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_one_user_with_all_rows(rows: int) -> None:
    """100,000 rows of one user over 1,000 items: L0 items with m rows each, those of the plain computation."""
    rng = np.random.default_rng(1)
    table = events(item_id=rng.integers(0, 1000, 100_000), value=rng.integers(0, 64, 100_000))
    signal = bounded(7, rows, n=Count(), s=Sum("value", VALUE), u=CountDistinct())
    found = Kernel.of(signal).sums(table)
    assert found == plain(signal, table)
    units = Kernel.of(signal).recipe.units or ""
    assert len(found) == 7
    assert all(sums[units] == 1 for sums in found.values())
    if rows > 1:
        assert all(sums["n"] == min(rows, 100) or sums["n"] > 60 for sums in found.values())


def test_all_users_with_one_row() -> None:
    """Bounds do not bind, so nothing is lost: 200,000 users, each counted once."""
    n = 200_000
    table = events(user_id=np.arange(n), item_id=np.arange(n) % 11, value=np.arange(n) % 64)
    found = Kernel.of(bounded(1, 1, n=Count(), s=Sum("value", VALUE))).sums(table, buckets=3)
    assert sum(sums["n"] for sums in found.values()) == n
    assert len(found) == 11


def test_a_million_groups() -> None:
    """A key for each of a million users: every one is summed, gets noise of its own, and is selected by it alone."""
    n = 1_000_000
    signal = bounded(1, 1)
    of = Kernel.of(signal)
    rows = pa.table({"__u0": np.arange(n), "__k0": np.arange(n)[::-1]})
    batches = list(bounded_sums(rows, of.bounds))
    assert sum(batch.num_rows for batch in batches) == n
    sums = pa.Table.from_batches(batches)
    assert pa.compute.sum(sums.column("__m0")).as_py() == n
    noising = Noising.of(signal, of.recipe, of.calibration, ZeroNoise())
    assert noising.table(sums.slice(0, 200_000)).num_rows == 0, "one unit is below any threshold"
    loud = sums.slice(0, 50_000).set_column(1, "__m0", pa.array(np.full(50_000, 10_000)))
    assert noising.table(loud).num_rows == 50_000


def test_wide_sums_of_many_keys_come_in_batches() -> None:
    n = 3000
    signal = bounded(1, 1, x=VectorSum("vector", 4096, 1.0))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(n * 4096, np.int32)), 4096)
    rows = pa.table({"__u0": np.arange(n), "__k0": np.arange(n), "__v0": vectors})
    batches = list(bounded_sums(rows, Kernel.of(signal).bounds))
    assert len(batches) > 1
    assert sorted(key for batch in batches for key in batch.column("__k0").to_pylist()) == list(range(n))


# --- keys -------------------------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {
    "numbers at the ends of 64 bits": pa.array([-(2**63), 2**63 - 1, 0, -1, 2**40, 7]),
    "texts": pa.array(["", " ", "a", "ä", "a\u0308", "日本語" * 30]),
    "dates": pa.array([date(1, 1, 1), date(1969, 12, 31), date(1970, 1, 1), date(9999, 12, 31), date(2025, 1, 1)] * 1),
    "bytes that are no text": pa.array([b"\xff", b"\xfe", b"\xff\xfe", b"a\x80", b"a\x81"], pa.binary()).view(
        pa.string()
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_every_kind_stay_apart(kind: str) -> None:
    """Ten users with every key once: L0 of them are kept, as the plain computation says, whatever they look like."""
    distinct = KEYS[kind]
    n = len(distinct)
    rng = np.random.default_rng(2)
    order = rng.permutation(10 * n)
    keys = distinct.take(pa.array(np.tile(np.arange(n), 10)[order]))
    users = np.repeat(np.arange(10), n)[order]
    signal = bounded(2, 1)
    rows = pa.table({"__u0": users, "__k0": keys})
    found = Kernel.of(signal).summed(rows)
    assert sum(sums["n"] for sums in found.values()) == 20
    values = distinct.view(pa.binary()).to_pylist() if pa.types.is_string(distinct.type) else distinct.to_pylist()
    raw = [
        {"user_id": int(user), "item_id": values[i], "ts": T0}
        for user, i in zip(users, np.tile(np.arange(n), 10)[order].tolist(), strict=True)
    ]
    expected = plain_sums(raw, signal, SPAN, SALTS.rows, SALTS.partitions)
    assert {as_bytes(key[0]): sums for key, sums in found.items()} == {key[0]: sums for key, sums in expected.items()}
    loose = Kernel.of(bounded(n, 1)).summed(rows)
    assert {as_bytes(key[0]): sums["n"] for key, sums in loose.items()} == dict.fromkeys(values, 10)


def as_bytes(key: Any) -> Any:
    return key.encode() if isinstance(key, str) else key


def test_several_keys_and_dictionaries() -> None:
    """Key columns are told apart by place, and dictionaries are only another way to hold them."""
    signal = replace(bounded(1, 2, n=Count()), entity=Entity("pair", ("item_id", "country")))
    one = pa.table({"__u0": [1, 1, 2, 2], "__k0": ["a", "b", "a", "b"], "__k1": ["b", "a", "b", "a"]})
    found = Kernel.of(signal).summed(one)
    assert sum(sums["n"] for sums in found.values()) == 2
    encoded = one
    for name in ("__u0", "__k0", "__k1"):
        encoded = encoded.set_column(encoded.column_names.index(name), name, encoded.column(name).dictionary_encode())
    assert Kernel.of(signal).summed(encoded.unify_dictionaries()) == found


# --- ties -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hash_bits", [0, 1, 8, 40, 64])
@pytest.mark.parametrize(("n", "groups"), [(1, 1), (2, 1), (1000, 1), (1000, 37), (1000, 1000), (70_000, 20_000)])
def test_order_by_hash_is_the_exact_order(hash_bits: int, n: int, groups: int) -> None:
    """Shortened words, full hashes, contents: whichever way is taken, the order is that of (group, hash, content)."""
    rng = np.random.default_rng(n + groups)
    group = np.sort(rng.integers(0, groups, n))
    mask = np.uint64((1 << hash_bits) - 1) << np.uint64(64 - hash_bits) if hash_bits else np.uint64(0)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64) & mask
    content = rng.permutation(n)
    found = kernel._order_by_hash(group, hashes, lambda: content)
    exact = np.lexsort((content, hashes, group))
    assert found.tolist() == exact.tolist()


def test_low_bits_of_a_hash_decide_where_the_upper_ones_tie() -> None:
    hashes = np.array([3, 1, 2, 0], dtype=np.uint64)
    assert kernel._order_by_hash(np.zeros(4, np.int64), hashes, lambda: pytest.fail("no tie")).tolist() == [3, 1, 2, 0]


def constant(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: original(*arguments) & np.uint64(0)


def test_where_all_hashes_tie_bounds_hold_and_contents_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "mixed_with", constant(kernel.mixed_with))
    rng = np.random.default_rng(3)
    table = events(
        user_id=rng.integers(0, 5, 500),
        item_id=[f"item {i}" for i in rng.integers(0, 9, 500)],
        value=rng.integers(0, 64, 500),
    )
    signal = bounded(2, 3, u=CountDistinct(), n=Count(), s=Sum("value", VALUE))
    found = Kernel.of(signal).sums(table)
    assert found.keys() == {("item 0",), ("item 1",)}, "the first ones by content, for every user"
    assert all(sums == {**sums, "u": 5, "n": 15} for sums in found.values())
    shuffled = table.take(pa.array(rng.permutation(500)))
    for change in (lambda bounds: bounds, wide):
        assert Kernel.of(signal).sums(shuffled, change=change) == found


def wide(bounds: Bounds) -> Bounds:
    return replace(bounds, bits=tuple(62 for _ in bounds.bits))


# --- overflow ---------------------------------------------------------------------------------------------------------


def test_the_largest_lawful_sums_are_exact() -> None:
    """2^31 steps from each of 5,000 units: far beyond what a float adds exactly, and far below 2^63."""
    interval = Interval(-(2.0**30), 2.0**30, step=1)
    signal = bounded(1, 2, s=Sum("value", interval), u=CountDistinct())
    n = 5000
    table = events(user_id=np.arange(n) // 2, value=np.full(n, 2.0**40) - (np.arange(n) == 0) * (2.0**40 - 1))
    [sums] = Kernel.of(signal).sums(table).values()
    assert sums["s"] == (n - 1) * 2**30 + 1


def test_decayed_rows_of_one_unit() -> None:
    signal = bounded(1, 4, n=Count(half_life=timedelta(days=7)))
    table = events(value=np.zeros(10), ts=np.full(10, T0))
    assert Kernel.of(signal).sums(table) == plain(signal, table)
    assert isinstance(signal.partitions, PrivateSelection)
