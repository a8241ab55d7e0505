"""Contribution sampling is uniform, independent between units and between runs, and depends on nobody else's rows.

Each test is a chi-square test at a false-alarm rate of 1e-6 (see `exact`) and shows its power: the same test rejects a
sampler with a stated fault, with probability above 0.999 where the fault is random. Salts are fixed, so a pass is a
pass for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from pipelines.engine.kernel import Bounds, Salts, Sum, bounded_sums
from pipelines.measurements import MeasureKind
from tests.statistical.exact import fits, power

SALTS = Salts(rows=-5_114_310_022_553_013_299, partitions=7_223_372_036_854_775_801)
SIX_BITS = 6
Totals = dict[Any, int]


def plain(kind: MeasureKind, code: int = -1) -> Sum:
    return Sum(kind=kind, code=code, offset=0, centre=0, width=1, clip_scale=0.0, steps=1)


def bounded(
    units: Any, keys: Any, codes: Any = None, *, l0: int | None = None, rows: int | None = None, salts: Salts = SALTS
) -> Totals:
    """Key → sum of the codes that were kept, or number of units that kept it where there are no codes."""
    columns = {"__u0": pa.array(units), "__k0": pa.array(keys)}
    if codes is not None:
        columns["__v0"] = pa.array(codes)
    bounds = Bounds(
        units=1,
        keys=1,
        bits=() if codes is None else (SIX_BITS,),
        sums=(plain(MeasureKind.UNITS) if codes is None else plain(MeasureKind.SUM, 0),),
        max_partitions=l0,
        max_rows=rows,
        max_weighted=0,
        norm=0.0,
        salts=salts,
    )
    totals: Totals = {}
    for batch in bounded_sums(pa.table(columns), bounds):
        totals |= dict(zip(batch.column("__k0").to_pylist(), batch.column("__m0").to_pylist(), strict=True))
    return totals


# --- partitions -------------------------------------------------------------------------------------------------------

USERS, KEYS, KEPT = 40_000, 8, 3
SUBSETS = {subset: i for i, subset in enumerate(combinations(range(KEYS), KEPT))}
EVEN = np.full(len(SUBSETS), 1 / len(SUBSETS))


def chosen_subsets(kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each subset was chosen, from keys `KEYS * user + i`."""
    chosen = np.zeros((USERS, KEYS), dtype=bool)
    chosen[kept // KEYS, kept % KEYS] = True
    assert (chosen.sum(axis=1) == KEPT).all(), "exactly L0 partitions of each unit"
    picks = np.nonzero(chosen)[1].reshape(USERS, KEPT)
    return np.bincount([SUBSETS[tuple(pick)] for pick in picks.tolist()], minlength=len(SUBSETS))


IDS: Mapping[str, Callable[[NDArray[np.int64]], Any]] = {
    "numbers": lambda ids: ids,
    "numbers with few bits": lambda ids: ids << 40,
    "texts": lambda ids: [f"user-{i:012d}" for i in ids],
}


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("salts", [SALTS, Salts(rows=0, partitions=0)])
def test_partitions_are_a_uniform_sample(ids: str, salts: Salts) -> None:
    """40,000 units with 8 partitions each, of which 3 are kept: each of 56 subsets equally often."""
    units = np.repeat(np.arange(USERS), KEYS)
    keys = np.arange(USERS * KEYS)
    kept = np.array(sorted(bounded(IDS[ids](units), keys, l0=KEPT, salts=salts)))
    observed = chosen_subsets(kept)
    assert fits(observed, EVEN)
    # The fault: one unit in twenty keeps its first partitions.
    biased = 0.95 * EVEN
    biased[0] += 0.05
    assert power(biased, EVEN, USERS) > 0.999
    first_kept = kept // KEYS % 20 == 0
    spoiled = np.where(first_kept, kept // KEYS * KEYS + np.arange(len(kept)) % KEPT, kept)
    assert not fits(chosen_subsets(spoiled), EVEN)


def test_units_choose_independently() -> None:
    """50 units with the same 8 partitions, 3,000 runs: how many keep the first one is binomial.

    A sampler that ranks by the partition alone keeps the same ones for every unit. The fault here is smaller: 20 of the
    50 units are 10 pairs that always agree.
    """
    units, keys = np.repeat(np.arange(50), KEYS), np.tile(np.arange(KEYS), 50)
    salts = (Salts(rows=i, partitions=i * 1_000_003) for i in range(3000))
    counts = np.array([bounded(units, keys, l0=KEPT, salts=one).get(0, 0) for one in salts])
    binomial = binomial_chances(50, KEPT / KEYS)
    assert fits(np.bincount(counts, minlength=51), binomial)
    agreeing = np.convolve(
        binomial_chances(30, KEPT / KEYS), np.insert(binomial_chances(10, KEPT / KEYS), range(1, 11), 0)
    )
    assert power(agreeing, binomial, 3000) > 0.999
    draws = np.random.default_rng(3).choice(51, size=3000, p=agreeing)
    assert not fits(np.bincount(draws, minlength=51), binomial)


def binomial_chances(n: int, p: float) -> NDArray[np.float64]:
    return np.array([comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


def test_runs_choose_independently() -> None:
    """What two runs both keep of a unit's 8 partitions, 3 each, is hypergeometric: not the same ones every time."""
    units, keys = np.repeat(np.arange(USERS), KEYS), np.arange(USERS * KEYS)
    first, second = (
        np.array(sorted(bounded(units, keys, l0=KEPT, salts=Salts(rows=0, partitions=p))))
        for p in (SALTS.partitions, 12)
    )
    expected = np.array([comb(KEPT, k) * comb(KEYS - KEPT, KEPT - k) / comb(KEYS, KEPT) for k in range(KEPT + 1)])
    common = np.bincount(np.intersect1d(first, second) // KEYS, minlength=USERS)
    assert fits(np.bincount(common, minlength=KEPT + 1), expected)
    common[: USERS // 20] = KEPT  # the fault: one unit in twenty keeps the same in both
    assert not fits(np.bincount(common, minlength=KEPT + 1), expected)


# --- rows -------------------------------------------------------------------------------------------------------------

PAIRS = 40_000
ROW_CASES = [
    ((1, 2, 4, 8, 16, 32), 2),
    ((1, 2, 4, 8, 16), 4),
    ((1, 1, 1, 8), 2),  # equal rows count as often as they occur
    ((1, 1, 1, 1, 1, 1, 1, 8), 1),
    ((1, 2, 4), 1),
]


@pytest.mark.parametrize(("codes", "kept"), ROW_CASES)
def test_rows_of_a_partition_are_a_uniform_sample(codes: tuple[int, ...], kept: int) -> None:
    """40,000 (unit, partition) pairs; the sum of powers of two tells which rows were kept."""
    n = len(codes)
    units, keys = np.repeat(np.arange(PAIRS) // 4, n), np.repeat(np.arange(PAIRS), n)
    observed = np.bincount(list(bounded(units, keys, np.tile(codes, PAIRS), rows=kept).values()), minlength=64)
    expected = np.zeros(64)
    for subset in combinations(codes, kept):
        expected[sum(subset)] += 1 / comb(n, kept)
    assert not observed[expected == 0].any(), "exactly m rows of each pair"
    possible = np.flatnonzero(expected)
    assert fits(observed[possible], expected[possible])
    # The fault: one pair in twenty keeps its last rows.
    biased = 0.95 * expected
    biased[sum(codes[-kept:])] += 0.05
    if len(possible) > 1:
        assert power(biased[possible], expected[possible], PAIRS) > 0.999
        draws = np.random.default_rng(4).choice(64, size=PAIRS, p=biased)
        assert not fits(np.bincount(draws, minlength=64)[possible], expected[possible])


def test_a_row_s_chance_depends_on_its_own_partition_only() -> None:
    """Units with a partition of 2 rows and one of 32: a row of either is kept as often as its own partition says."""
    units = np.repeat(np.arange(PAIRS // 2), 34)
    small, large = [1, 2], [4, *[8] * 31]
    codes = np.tile(small + large, PAIRS // 2)
    keys = 2 * units + np.tile([0] * 2 + [1] * 32, PAIRS // 2)
    totals = bounded(units, keys, codes, rows=1)
    sums = np.array([totals[key] for key in range(PAIRS)])
    assert fits(np.bincount(sums[::2], minlength=3)[1:], np.array([0.5, 0.5]))
    rare = np.bincount(sums[1::2], minlength=9)[[4, 8]]
    assert fits(rare, np.array([1 / 32, 31 / 32]))
    assert not fits(rare, np.array([1 / 2, 1 / 2])), "merged unweighted, as one peer does"


def test_partitions_and_rows_are_chosen_independently() -> None:
    """Of 6 partitions with rows 1, 2, 4 two are kept, with one row each: the rows are uniform in what is kept."""
    users = 20_000
    units = np.repeat(np.arange(users), 18)
    keys = 6 * units + np.tile(np.repeat(np.arange(6), 3), users)
    totals = bounded(units, keys, np.tile([1, 2, 4], 6 * users), l0=2, rows=1)
    assert len(totals) == 2 * users
    kept = np.array(sorted(totals))
    row = np.log2([totals[key] for key in kept]).astype(int)
    assert fits(np.bincount(kept % 6 * 3 + row, minlength=18), np.full(18, 1 / 18))
    pair = row[::2] * 3 + row[1::2]
    assert fits(np.bincount(pair, minlength=9), np.full(9, 1 / 9)), "and independent between partitions"


# --- others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", IDS)
def test_nobody_else_s_rows_and_no_order_matter(ids: str) -> None:
    """The sample of 300 units is the same alone, shuffled, and beside many units that crowd the same partitions."""
    rng = np.random.default_rng(5)
    units, items = rng.integers(0, 300, 20_000), rng.integers(0, 12, 20_000)
    codes = rng.integers(0, 64, 20_000)

    def kept(units: NDArray[np.int64], items: NDArray[np.int64], codes: NDArray[np.int64]) -> Totals:
        # Keys of one unit only, so that each sum is one unit's contribution.
        keys = [f"{u}/{i}" for u, i in zip(units, items, strict=True)] if ids == "texts" else units * 100 + items
        return bounded(IDS[ids](units), keys, codes, l0=4, rows=3)

    alone = kept(units, items, codes)
    assert len(alone) == 300 * 4
    order = rng.permutation(len(units))
    assert kept(units[order], items[order], codes[order]) == alone
    others = [
        np.concatenate([new, old])
        for new, old in zip(
            (rng.integers(300, 90_000, 50_000), rng.integers(0, 12, 50_000), rng.integers(0, 64, 50_000)),
            (units, items, codes),
            strict=True,
        )
    ]
    beside = kept(*others)
    own = {key: value for key, value in beside.items() if owner(key) < 300}
    assert own == alone
    fewer = kept(units[units != 7], items[units != 7], codes[units != 7])
    assert fewer == {key: value for key, value in alone.items() if owner(key) != 7}


def owner(key: Any) -> int:
    return int(key.split("/")[0]) if isinstance(key, str) else key // 100


def test_what_is_kept_does_not_follow_from_the_values() -> None:
    """Kept rows have the distribution of all rows, large values and small ones alike."""
    rng = np.random.default_rng(6)
    units = np.repeat(np.arange(PAIRS), 10)
    codes = np.minimum(63, rng.geometric(0.1, len(units)))
    totals = bounded(units, units, codes, rows=1)
    kept = np.bincount([totals[key] for key in range(PAIRS)], minlength=64)
    chances = np.bincount(codes, minlength=64) / len(codes)
    assert fits(kept, chances)
    largest = codes.reshape(PAIRS, 10).max(axis=1)
    mixed = np.where(np.arange(PAIRS) % 20 == 0, largest, [totals[key] for key in range(PAIRS)])
    assert not fits(np.bincount(mixed, minlength=64), chances), "one unit in twenty keeping its largest must show"
