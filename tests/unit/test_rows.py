"""From raw events to rows: cut, joined, clamped, coded; and what cannot be used, told by its kind alone."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.errors import NonFiniteValue, NullValue, VectorLength
from pipelines import (
    Count,
    Entity,
    Histogram,
    Interval,
    KeepRandom,
    PrivacyUnit,
    Sum,
    TopK,
    VectorSum,
    Window,
)
from pipelines.engine.rows import Facts, Values
from tests.support.kernel import Kernel, plan_of
from tests.support.projects import EVENTS, SPAN, START, WEEK, a_signal

T0 = int(START.timestamp())
END = int(SPAN.end.timestamp())
MANY = KeepRandom(max_partitions=9, max_rows_per_partition=9)


def signal(**aggregates: Any) -> Any:
    return a_signal(aggregates=aggregates or {"n": Count()}, bounds=MANY)


def table(**columns: Any) -> pa.Table:
    n = len(next(iter(columns.values())))
    given = {"user_id": pa.array([1] * n), "item_id": pa.array([2] * n), "ts": pa.array([T0] * n)}
    return pa.table({**given, **columns})


def codes(of: Any, events: pa.Table, **options: Any) -> list[Any]:
    made = Kernel.of(of).made(events, **options)
    assert [one.problem for one in made] == [-1] * len(made)
    return [value for one in made for value in one.rows.column("__v0").to_pylist()]


@pytest.mark.parametrize("kind", ["s", "ms", "us", "ns", "int64", "int32", "utc"])
def test_the_window_is_half_open(kind: str) -> None:
    moments = [T0 - 1, T0, T0 + 5, END - 1, END]
    if kind.startswith("int"):
        column: Any = pa.array(moments, {"int64": pa.int64(), "int32": pa.int32()}[kind])
    else:
        unit = "us" if kind == "utc" else kind
        column = pa.array(moments, pa.timestamp("s", "UTC" if kind == "utc" else None)).cast(
            pa.timestamp(unit, "UTC" if kind == "utc" else None)
        )
    events = table(ts=column, user_id=pa.array(range(5)))
    [made] = Kernel.of(signal()).made(events)
    assert made.rows.column("__u0").to_pylist() == [1, 2, 3]
    [uncut] = Kernel.of(signal()).made(events, cut=False)
    assert uncut.rows.num_rows == 5, "where the footer says that all of it lies in the window"


def test_a_fraction_of_a_second_before_the_window_is_outside() -> None:
    moments = [SPAN.start - timedelta(microseconds=1), SPAN.start, SPAN.end - timedelta(microseconds=1), SPAN.end]
    [made] = Kernel.of(signal()).made(table(ts=pa.array(moments), user_id=pa.array(range(4))))
    assert made.rows.column("__u0").to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        (-math.inf, None),
        (math.nan, None),
        (-9.0, -4),
        (-1.0, -4),
        (-0.9, -4),
        (0.0, 0),
        (0.12, 0),
        (0.125, 1),
        (7.0, 20),
        (4.99, 20),
        (1e300, 20),
        (-1e300, -4),
    ],
)
def test_values_are_clamped_and_rounded_half_up(value: float, steps: int | None) -> None:
    of = signal(s=Sum("value", Interval(-1, 5, step=0.25)))
    events = table(value=pa.array([value]))
    if steps is None:
        [made] = Kernel.of(of).made(events)
        problem = plan_of(of, events.column_names).problems[made.problem]
        assert isinstance(problem.error(), NonFiniteValue)
    else:
        assert [code - 4 for code in codes(of, events)] == [steps]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint32(), pa.int64(), pa.float32(), pa.float64()])
def test_values_of_any_number_type(kind: pa.DataType) -> None:
    of = signal(s=Sum("value", Interval(0, 100, step=1)))
    assert codes(of, table(value=pa.array([0, 7, 100, 120], kind))) == [0, 7, 100, 100]


def test_decayed_values_count_half_after_a_half_life() -> None:
    of = signal(s=Sum("value", Interval(0, 8, step=1), half_life=timedelta(days=1)))
    ages = [86400, 0.0, 2 * 86400, 7 * 86400]
    events = table(value=pa.array([8.0] * 4), ts=pa.array([int(END - max(age, 1)) for age in ages]))
    assert codes(of, events) == [4, 8, 2, 0]
    counted = signal(n=Count(half_life=timedelta(days=1)))
    assert codes(counted, events) == [2048, 4096, 1024, 32]
    negative = signal(s=Sum("value", Interval(-8, -4, step=1), half_life=timedelta(days=1)))
    assert [code - 8 for code in codes(negative, events)] == [-2, -4, -1, 0], "clamped first, then weighted"


def test_bins_and_candidates() -> None:
    of = signal(h=Histogram("value", (0, 1, 2, 3)))
    assert codes(of, table(value=[-5.0, 0.0, 0.99, 1.0, 2.0, 3.0, 99.0])) == [0, 0, 0, 1, 2, 2, 2]
    of = signal(t=TopK("tag", ("a", "é"), 1))
    assert codes(of, table(tag=["é", "a", "other", ""])) == [1, 0, 2, 2]
    of = signal(t=TopK("tag", (7, 9), 1))
    assert codes(of, table(tag=pa.array([9, 7, 8], pa.int32()))) == [1, 0, 2]


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32()), pa.list_(pa.float64(), 2)])
def test_vectors_are_clipped_and_rounded_towards_zero(kind: pa.DataType) -> None:
    of = signal(x=VectorSum("vector", 2, 1.0))
    found = codes(of, table(vector=pa.array([[0.5, -0.25], [3.0, 4.0], [0.0, 0.0], [-3e30, 0.0]], kind)))
    step = 2.0**-15
    assert found[0] == [0.5 / step, -0.25 / step]
    assert found[1] == [math.trunc(0.6 / step * (1 - 1e-12)), math.trunc(0.8 / step * (1 - 1e-12))]
    assert found[2] == [0, 0]
    assert math.hypot(*found[3]) <= 1 / step


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        ([1.0], VectorLength),
        ([1.0, 2.0, 3.0], VectorLength),
        ([], VectorLength),
        (None, NullValue),
        ([1.0, None], NonFiniteValue),
        ([math.nan, 1.0], NonFiniteValue),
        ([1.0, math.inf], NonFiniteValue),
    ],
)
def test_vectors_that_cannot_be_used(vector: Any, error: type[Exception]) -> None:
    of = signal(x=VectorSum("vector", 2, 1.0))
    events = table(vector=pa.array([[1.0, 1.0], vector, [1.0, 1.0]], pa.list_(pa.float64())))
    [made] = Kernel.of(of).made(events)
    raised = plan_of(of, events.column_names).problems[made.problem].error()
    assert isinstance(raised, error)
    assert "vector" in str(raised)
    assert made.rows.num_rows == 0


@pytest.mark.parametrize("column", ["user_id", "item_id", "ts", "value"])
def test_nulls_in_the_window_are_told_and_end_the_reading(column: str) -> None:
    of = signal(s=Sum("value", Interval(0, 1)))
    good = table(value=pa.array([0.5, 0.5]))
    bad = good.set_column(good.column_names.index(column), column, pa.array([None, 1], good.column(column).type))
    made = Kernel.of(of).made(good, bad, good)
    assert [one.problem >= 0 for one in made] == [False, True]
    problem = plan_of(of, good.column_names).problems[made[1].problem]
    assert isinstance(problem.error(), NullValue)
    assert problem.column == column


def test_nulls_outside_of_the_window_are_no_matter() -> None:
    of = signal(s=Sum("value", Interval(0, 1)))
    events = table(value=pa.array([0.5, None]), ts=pa.array([T0, END]), item_id=pa.array([1, None]))
    [made] = Kernel.of(of).made(events)
    assert (made.problem, made.rows.num_rows) == (-1, 1)


def test_units_of_days_are_counted_from_1970() -> None:
    of = a_signal(privacy_unit=PrivacyUnit("user_id", per=timedelta(days=1)))
    for column in ([T0, T0 + 86399, T0 + 86400], [datetime.fromtimestamp(T0 + s, UTC) for s in (0, 86399, 86400)]):
        [made] = Kernel.of(of).made(table(ts=pa.array(column)))
        assert made.rows.column("__u1").to_pylist() == [T0 // 86400] * 2 + [T0 // 86400 + 1]


def test_late_rows_are_set_apart_with_their_units() -> None:
    of = a_signal(source=replace(EVENTS, arrival="seen"), window=Window(WEEK, allowed_lateness=timedelta(hours=1)))
    deadline = END + 3600
    events = table(user_id=[1, 2, 3, 4], seen=[T0, deadline, deadline + 1, deadline + 9], ts=[T0, T0, T0, END])
    [made] = Kernel.of(of).made(events)
    assert made.rows.column("__u0").to_pylist() == [1, 2]
    assert made.late is not None
    assert made.late.column("__u0").to_pylist() == [3], "an event outside of the window is not late"


def facts(path: Path, columns: dict[str, Any], explode: str | None = "genre") -> tuple[Facts, ...]:
    pq.write_table(pa.table(columns), path / "items.parquet")
    return (Facts(files=(str(path / "items.parquet"),), on="item_id", columns=("genre",), explode=explode),)


def test_joins_multiply_rows_and_lists_give_one_row_each(tmp_path: Path) -> None:
    of = a_signal(entity=Entity("genre", "genre"), bounds=MANY)
    joined = facts(tmp_path, {"item_id": [1, 2, 2, 3, 4, 5], "genre": [["a", "b"], ["c"], ["d"], [], ["e"], ["x"]]})
    events = table(item_id=pa.array([2, 1, 3, 4, 9, 1]), user_id=pa.array([20, 10, 30, 40, 90, 11]))
    [made] = Kernel.of(of).made(events, facts=joined)
    pairs = zip(made.rows.column("__u0").to_pylist(), made.rows.column("__k0").to_pylist(), strict=True)
    assert sorted(pairs) == [(10, "a"), (10, "b"), (11, "a"), (11, "b"), (20, "c"), (20, "d"), (40, "e")]


@pytest.mark.parametrize(
    ("values", "public"),
    [(["a", "b", "ü"], ("ü", "b")), ([1, 2, 3], (3, 2)), ([date(2025, 1, 1), date(2025, 1, 2)], (date(2025, 1, 2),))],
)
def test_keys_outside_public_domains_are_left_out(values: list[Any], public: tuple[Any, ...]) -> None:
    events = table(item_id=pa.array(values))
    [made] = Kernel.of(signal()).made(events, domains=[Values(given=public)])
    assert set(made.rows.column("__k0").to_pylist()) == set(public)


def test_public_values_are_read_from_files_once_each(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": pa.array([1, 2, 2], pa.int32())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": pa.array([5, 1], pa.int32())}), tmp_path / "b.parquet")
    values = Values(files=(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")), column="id")
    assert values.load().to_pylist() == [1, 2, 5]
    assert values.load().type == pa.int64()
