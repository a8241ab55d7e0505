"""Bounded sums, for every aggregate, bounding, unit, relation and kind of keys: what they are and how far a unit moves
them.

Rows and kernel run on tables in memory, without Spark; `tests/support/bounded.py` computes the same in plain Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines.definitions import ClipNorm, PublicPartitions, Relation, Signal
from pipelines.engine import kernel
from pipelines.engine.kernel import Bounds
from pipelines.engine.outputs import tree_levels
from pipelines.engine.rows import Values
from pipelines.measurements import Measure, MeasureKind
from tests.support.bounded import bounded_sums
from tests.support.kernel import SALTS, Kernel, Sums
from tests.support.projects import SPAN
from tests.support.strategies import event_rows, examples, keep_random, rows_like, signals

Rows = list[dict[str, Any]]
SCHEMA = pa.schema(
    {
        "user_id": pa.int64(),
        "event_id": pa.int64(),
        "shop": pa.string(),
        "ts": pa.int64(),
        "item_id": pa.int64(),
        "country": pa.string(),
        "value": pa.float64(),
        "tag": pa.string(),
        "vector": pa.list_(pa.float64()),
    }
)


def table(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def domains(signal: Signal) -> list[Values | None] | None:
    if not isinstance(signal.partitions, PublicPartitions):
        return None
    public: Any = signal.partitions.domains
    return [Values(given=public[key]) for key in signal.entity.keys]


def summed(signal: Signal, *chunks: Rows, **options: Any) -> Sums:
    return Kernel.of(signal).sums(*(table(rows) for rows in chunks), domains=domains(signal), **options)


def unit_of(row: dict[str, Any], signal: Signal) -> tuple[Any, ...]:
    unit = tuple(row[column] for column in signal.privacy_unit.columns)
    return unit if signal.privacy_unit.per is None else (*unit, row["ts"] // 86400)


def in_domain(row: dict[str, Any], signal: Signal) -> bool:
    if not isinstance(signal.partitions, PublicPartitions):
        return True
    public: Any = signal.partitions.domains
    return all(row[key] in public[key] for key in signal.entity.keys)


def without_nothing(sums: Sums) -> Sums:
    """Only the keys whose sums are not all zero."""
    return {key: found for key, found in sums.items() if any(np.any(value) for value in found.values())}


# --- what they are ----------------------------------------------------------------------------------------------------


@examples(60)
@given(signals(), event_rows)
def test_the_kernel_equals_the_plain_computation(signal: Signal, rows: Rows) -> None:
    measures = Kernel.of(signal).measures
    expected = bounded_sums(
        rows, signal, SPAN, SALTS.rows, SALTS.partitions, lambda row: in_domain(row, signal), measures
    )
    assert summed(signal, rows) == expected


def wider(bounds: Bounds) -> Bounds:
    """Codes that no longer fit into one word with unit and key: sorted by columns instead."""
    return replace(bounds, bits=tuple(bits and 62 for bits in bounds.bits))


@examples(60)
@given(signals(), event_rows, st.randoms(use_true_random=False), st.integers(1, 7))
def test_order_chunks_buckets_and_the_way_of_sorting_change_nothing(
    signal: Signal, rows: Rows, random: Any, cut: int
) -> None:
    known = summed(signal, rows)
    shuffled = random.sample(rows, len(rows))
    assert summed(signal, shuffled) == known
    assert summed(signal, *(shuffled[at : at + cut] for at in range(0, len(rows), cut))) == known
    assert summed(signal, shuffled, buckets=cut) == known
    assert summed(signal, shuffled, change=wider) == known


def few(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: original(*arguments) & np.uint64(1)


@examples(30)
@given(signals(), event_rows, st.randoms(use_true_random=False))
def test_ties_of_hashes_are_decided_by_contents(signal: Signal, rows: Rows, random: Any) -> None:
    """With hashes of one bit nearly everything ties; still nothing but the unit's own rows decides."""
    # Rows that differ in a vector alone are told apart by its hash, which no tie of 64 bits spoils.
    assume(not any(m.kind is MeasureKind.VECTOR for m in Kernel.of(signal).measures))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "mixed_with", few(kernel.mixed_with))
        known = summed(signal, rows)
        shuffled = random.sample(rows, len(rows))
        assert summed(signal, shuffled, change=wider) == known
        one = unit_of(random.choice(rows), signal)
        own = [row for row in rows if unit_of(row, signal) == one]
        others = [row for row in rows if unit_of(row, signal) != one]
        apart = [summed(signal, part) if part else {} for part in (own, others)]
        assert without_nothing(difference(known, apart[1], signal)) == without_nothing(difference(apart[0], {}, signal))


# --- how far a unit moves them ----------------------------------------------------------------------------------------


def difference(one: Sums, two: Sums, signal: Signal) -> Sums:
    """Key → measurement → what `one` has more than `two`, every coordinate that noise is added to."""
    result: Sums = {}
    for key in one.keys() | two.keys():
        result[key] = {}
        for measure in Kernel.of(signal).measures:
            zero: Any = (0,) * measure.summed_width if measure.name in _wide(signal) else 0
            found = [np.atleast_1d(sums.get(key, {}).get(measure.name, zero)) for sums in (one, two)]
            change = (found[0] - found[1])[None, :]
            if measure.levels:
                change = tree_levels(change, measure.levels)
            result[key][measure.name] = tuple(change[0].tolist())
    return result


def _wide(signal: Signal) -> set[str]:
    wide = (MeasureKind.BINS, MeasureKind.TREE, MeasureKind.VECTOR)
    return {measure.name for measure in Kernel.of(signal).measures if measure.kind in wide}


def check_sensitivity(change: Sums, signal: Signal) -> None:
    """L0, Linf, L1 and L2 of each measurement, the coordinates that change, and jointly the clipped norm."""
    joint = 0.0
    for measure in Kernel.of(signal).measures:
        by_key = [found[measure.name] for found in change.values()]
        flat = [value for found in by_key for value in found]
        assert sum(any(found) for found in by_key) <= measure.l0
        assert sum(value != 0 for value in flat) <= measure.changed
        assert max(map(abs, flat), default=0) <= measure.linf
        norm = math.sqrt(sum(value * value for value in flat))
        assert norm <= measure.l2 * (1 + 1e-12)
        if not measure.clipped:
            assert sum(map(abs, flat)) <= measure.l1
            if measure.kind is not MeasureKind.WEIGHT:
                assert norm <= math.sqrt(measure.changed) * measure.linf
        elif isinstance(signal.bounds, ClipNorm):
            joint += (norm / claimed_scale(measure, signal.bounds)) ** 2
    if isinstance(signal.bounds, ClipNorm):
        assert joint <= signal.bounds.l2**2 * (1 + 1e-9), "all clipped measurements together"


def claimed_scale(measure: Measure, bounds: ClipNorm) -> float:
    """What a measurement's noise is proportional to: its L2 for a clip of 1."""
    return measure.l2 / bounds.l2


@examples(60)
@given(signals(), event_rows, st.data())
def test_taking_a_unit_away_takes_away_its_own_bounded_rows_alone(signal: Signal, rows: Rows, data: Any) -> None:
    one = unit_of(data.draw(st.sampled_from(rows)), signal)
    own = [row for row in rows if unit_of(row, signal) == one]
    others = [row for row in rows if unit_of(row, signal) != one]
    change = difference(summed(signal, rows), summed(signal, others) if others else {}, signal)
    assert without_nothing(change) == without_nothing(difference(summed(signal, own), {}, signal))
    check_sensitivity(change, signal)


@examples(60)
@given(signals(relations=(Relation.REPLACE_ONE,)), event_rows, st.data())
def test_replacing_a_unit_s_rows_moves_no_sum_further_than_claimed(signal: Signal, rows: Rows, data: Any) -> None:
    """The replacement differs in keys, values and number of rows."""
    row = data.draw(st.sampled_from(rows))
    others = [other for other in rows if unit_of(other, signal) != unit_of(row, signal)]
    two = others + data.draw(rows_like(row))
    check_sensitivity(difference(summed(signal, rows), summed(signal, two) if two else {}, signal), signal)


# --- what is bounded already ------------------------------------------------------------------------------------------


@examples(40)
@given(signals(boundings=keep_random), event_rows)
def test_bounding_what_is_bounded_changes_nothing(signal: Signal, rows: Rows) -> None:
    """Looser bounds on partitions and rows change nothing where the bounds do not bind."""
    limits: Any = signal.bounds
    few_rows: dict[Any, dict[Any, Rows]] = {}
    for row in rows:
        of_unit = few_rows.setdefault(unit_of(row, signal), {})
        key = tuple(row[key] for key in signal.entity.keys)
        if key in of_unit or len(of_unit) < limits.max_partitions:
            of_unit.setdefault(key, []).append(row)
    bounded = [
        row for keys in few_rows.values() for kept in keys.values() for row in kept[: limits.max_rows_per_partition]
    ]
    loose = summed(signal, bounded, change=lambda bounds: replace(bounds, max_partitions=None, max_rows=None))
    assert summed(signal, bounded) == loose
