"""One row for each unit: how many keys it has, whatever chunks and tasks its events lie in."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from pipelines import PrivacyUnit, Signal, UnitKind
from pipelines.engine.rows import Problem
from pipelines.unit_rows import STEPS, UnitRows
from tests.support.kernel import plan_of
from tests.support.projects import SPAN, START, a_signal

T0 = int(START.timestamp())
DAY = 86_400
COLUMNS = ["user_id", "item_id", "ts", "event_id"]


def rows_of(signal: Signal, kinds: tuple[str, ...] = ("integer",)) -> UnitRows:
    return UnitRows.of(signal, replace(plan_of(signal, COLUMNS), codes=()), kinds, ("integer",))


def made(signal: Signal, *chunks: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
    stage = rows_of(signal)
    pairs = [batch for chunk in chunks for batch in stage.pairs(iter([(pa.table(chunk), True)]))]
    table = pa.Table.from_batches(list(stage.count(iter(pairs))))
    assert table.column_names == list(stage.columns) == stage.before().column_names
    assert table.schema.types == stage.before().schema.types
    return sorted(zip(*(column.to_pylist() for column in table.columns), strict=True))


def chunk(users: list[int], items: list[int], moments: list[int]) -> dict[str, list[Any]]:
    return {"user_id": users, "item_id": items, "ts": [T0 + moment for moment in moments], "event_id": users}


def test_keys_are_counted_once_wherever_they_are() -> None:
    first = chunk([1, 1, 1, 2], [5, 5, 6, 5], [0, 1, 2, 3])
    second = chunk([1, 1, 2, 3], [6, 7, 5, 5], [DAY, DAY, DAY, -1])
    assert made(a_signal(), first, second) == [(1, T0, 3), (2, T0, 1)], "the third was there before the window"


def test_steps_hold_every_number_from_their_own_on() -> None:
    many = list(range(1100))
    for count in (1, 4, 5, 6, 1023, 1024, 1100):
        [(_, _, step)] = made(a_signal(), chunk([7] * count, many[:count], [0] * count))
        assert step == max(step for step in STEPS if step <= count)


def test_a_person_s_span_has_a_time_of_its_own_in_the_window() -> None:
    signal = a_signal(privacy_unit=PrivacyUnit("user_id", per=timedelta(days=2)))
    events = chunk([1, 1, 1], [5, 6, 6], [0, DAY, 3 * DAY])
    found = made(signal, events)
    assert [row[-1] for row in found] == [2, 1] if T0 // DAY % 2 == 0 else [1, 1]
    assert all(T0 <= row[1] < SPAN.end.timestamp() for row in found)
    assert len({(row[0], row[1] // (2 * DAY)) for row in found}) == len(found), "still units of their own"


def test_an_event_names_no_person() -> None:
    signal = a_signal(privacy_unit=PrivacyUnit("event_id", kind=UnitKind.EVENT))
    assert made(signal, chunk([3, 4], [5, 5], [0, 1])) == [(3, 0, T0, 1), (4, 0, T0, 1)]


@pytest.mark.parametrize(("kind", "arrow"), [("integer", pa.int64()), ("text", pa.string())])
def test_a_problem_is_told_in_the_pairs_own_types(kind: str, arrow: pa.DataType) -> None:
    stage = rows_of(a_signal(), kinds=(kind,))
    stage = replace(stage, plan=replace(stage.plan, problems=(Problem("null", "t", "user_id", "privacy unit"),)))
    values = pa.array([None, 1 if kind == "integer" else "a"], arrow)
    [told] = stage.pairs(iter([(pa.table({**chunk([1, 1], [5, 5], [0, 0]), "user_id": values}), True)]))
    assert told.column("problem").to_pylist() == [0]
    assert told.schema.types[0] == arrow
    assert told.schema.names == [*stage.kinds, "problem"]


def test_no_pairs_are_no_rows() -> None:
    assert list(rows_of(a_signal()).count(iter(()))) == []
