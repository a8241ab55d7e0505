"""Taking one event out leaves every other event's id as it was: what the event-level guarantee rests on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from examples.demo.prepare import event_ids

ROWS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 3),
        st.sampled_from([0.0, -0.0, 1.5, 4.0, 1e300]),
        st.integers(0, 2),
        st.sampled_from(["DE", "US", "", "é"]),
    ),
    min_size=1,
    max_size=40,
)
Row = tuple[int, int, float, int, str]


def table(rows: list[Row]) -> pa.Table:
    user, item, value, seconds, cohort = zip(*rows, strict=True) if rows else ([], [], [], [], [])
    return pa.table(
        {
            "user_id": pa.array(user, pa.int64()),
            "item_id": pa.array(item, pa.int64()),
            "value": pa.array(value, pa.float64()),
            "ts": pa.array(seconds, pa.timestamp("us", tz="UTC")),
            "cohort": pa.array(cohort, pa.string()),
        }
    )


def identified(rows: list[Row]) -> Counter[tuple[Row, int]]:
    """Rows with their ids, as a multiset: the order of a table means nothing."""
    return Counter(zip(rows, event_ids(table(rows)).tolist(), strict=True))


@given(ROWS, st.data())
def test_removing_a_row_removes_one_id_and_changes_none(rows: list[Row], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(rows) - 1))
    neighbor = rows[:index] + rows[index + 1 :]
    before, after = identified(rows), identified(neighbor)
    assert not after - before
    ((gone, _),) = (before - after).keys()
    assert gone == rows[index]


@given(ROWS, st.randoms(use_true_random=False))
def test_order_does_not_matter(rows: list[Row], random: Any) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert identified(shuffled) == identified(rows)


@given(ROWS)
def test_every_event_has_an_id_of_its_own(rows: list[Row]) -> None:
    assert len(np.unique(event_ids(table(rows)))) == len(rows)


@given(ROWS)
def test_a_row_number_would_fail(rows: list[Row]) -> None:
    """Power: the test above rejects the obvious wrong id wherever it is wrong."""
    if len(set(rows)) < 2:
        return
    numbered = Counter(zip(rows, range(len(rows)), strict=True))
    without_first = Counter(zip(rows[1:], range(len(rows) - 1), strict=True))
    if rows[1:] != rows[:-1]:
        assert without_first - numbered
