"""The point-in-time join against a plain loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore.datasets.join import newest_rows

Key = tuple[int | None, str | None]
Row = tuple[Key, int, int]
"""Key, event time, known from."""
Question = tuple[Key, int]

NUMBERS, WORDS = st.sampled_from([0, 1, -5, 1 << 40]), st.sampled_from(["", "a", "ü", "ab"])
TIMES = st.integers(-3, 12)
QUESTIONS = st.lists(st.tuples(st.tuples(st.none() | NUMBERS, st.none() | WORDS), TIMES), max_size=12)
ROWS = st.lists(
    st.tuples(st.tuples(NUMBERS, WORDS), TIMES, st.integers(0, 6)), max_size=15, unique_by=lambda row: row[:2]
).map(lambda rows: [(key, event, event + delay) for key, event, delay in rows])


def by_loop(questions: Sequence[Question], rows: Sequence[Row], ttl: int | None) -> list[int]:
    """What is meant: of the rows of the same key that were known, and are not too old, the one of the latest event."""
    answers = []
    for key, time in questions:
        best = -1
        for at, (own, event, known) in enumerate(rows):
            usable = own == key and known <= time and (ttl is None or event >= time - ttl)
            if usable and (best < 0 or event > rows[best][1]):
                best = at
        answers.append(best)
    return answers


def columns(keys: Sequence[Key]) -> list[Any]:
    return [pa.array([a for a, _ in keys], pa.int64()), pa.array([b for _, b in keys], pa.string())]


def vectorised(questions: Sequence[Question], rows: Sequence[Row], ttl: int | None) -> list[int]:
    return newest_rows(
        columns([key for key, _ in questions]),
        np.array([time for _, time in questions], np.int64),
        columns([key for key, _, _ in rows]),
        np.array([event for _, event, _ in rows], np.int64),
        np.array([known for _, _, known in rows], np.int64),
        ttl=ttl,
    ).tolist()


TWICE = ((0, "a"), 5)


@settings(deadline=None, max_examples=150)
@given(QUESTIONS, ROWS, st.none() | st.integers(0, 10))
@example([TWICE, TWICE, TWICE], [((0, "a"), 5, 5), ((0, "a"), 4, 4), ((0, "a"), 6, 6)], None)
@example([((0, "a"), 9)], [((0, "a"), 3, 3), ((0, "a"), 1, 8)], None)  # made late: never comes into force
def test_the_newest_known_row_answers(questions: list[Question], rows: list[Row], ttl: int | None) -> None:
    assert vectorised(questions, rows, ttl) == by_loop(questions, rows, ttl)


@given(QUESTIONS, ROWS, st.none() | st.integers(0, 10), TIMES)
def test_the_future_changes_nothing(questions: list[Question], rows: list[Row], ttl: int | None, now: int) -> None:
    """No leakage: what becomes known after a time does not change what is answered for questions until then."""
    asked = [question for question in questions if question[1] <= now]
    past = [row for row in rows if row[2] <= now]
    before = [past[at] if at >= 0 else None for at in vectorised(asked, past, ttl)]
    after = [rows[at] if at >= 0 else None for at in vectorised(asked, rows, ttl)]
    assert before == after
