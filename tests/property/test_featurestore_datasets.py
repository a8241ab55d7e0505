"""The point-in-time join against a plain loop: one suite, run on the vectorised join and on the SQL for Spark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from featurestore.datasets.join import newest_rows
from featurestore.datasets.sql import point_in_time_sql

Key = tuple[int | None, str | None]
Row = tuple[Key, int, int]
"""Key, event time, known from."""
Question = tuple[Key, int]
Join = Callable[[Sequence[Question], Sequence[Row], int | None], list[int]]

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


def tables(questions: Sequence[Question], rows: Sequence[Row]) -> tuple[pa.Table, pa.Table]:
    whole = pa.int64()
    asked = pa.table(
        [
            *columns([key for key, _ in questions]),
            pa.array([time for _, time in questions], whole),
            pa.array(range(len(questions)), whole),
        ],
        names=["the number", "word", "asked_time", "n"],
    )
    known = pa.table(
        [
            *columns([key for key, _, _ in rows]),
            pa.array([event for _, event, _ in rows], whole),
            pa.array([known for _, _, known in rows], whole),
            pa.array(range(len(rows)), whole),
        ],
        names=["the number", "word", "event_time", "known_from", "at"],
    )
    return asked, known


def query(ttl: int | None) -> str:
    return point_in_time_sql(
        labels="asked", rows="known", row_number="n", keys=["the number", "word"], features=["at"], ttl=ttl
    )


def in_order(found: Sequence[tuple[int, int | None]], count: int) -> list[int]:
    assert sorted(n for n, _ in found) == list(range(count))
    return [-1 if at is None else at for _, at in sorted(found)]


def by_duckdb(questions: Sequence[Question], rows: Sequence[Row], ttl: int | None) -> list[int]:
    asked, known = tables(questions, rows)
    with duckdb.connect() as connection:
        connection.register("asked", asked)
        connection.register("known", known)
        found = connection.execute(query(ttl).replace("`", '"')).fetchall()
    return in_order(found, len(questions))


@pytest.mark.parametrize("join", [vectorised, by_duckdb])
def test_the_newest_known_row_answers(join: Join) -> None:
    twice = ((0, "a"), 5)

    @settings(deadline=None, max_examples=150 if join is vectorised else 40)
    @given(QUESTIONS, ROWS, st.none() | st.integers(0, 10))
    @example([twice, twice, twice], [((0, "a"), 5, 5), ((0, "a"), 4, 4), ((0, "a"), 6, 6)], None)
    @example([((0, "a"), 9)], [((0, "a"), 3, 3), ((0, "a"), 1, 8)], None)  # made late: never comes into force
    def compare(questions: list[Question], rows: list[Row], ttl: int | None) -> None:
        assert join(questions, rows, ttl) == by_loop(questions, rows, ttl)

    compare()


@settings(deadline=None)
@given(QUESTIONS, ROWS, st.none() | st.integers(0, 10), TIMES)
def test_the_future_changes_nothing(questions: list[Question], rows: list[Row], ttl: int | None, now: int) -> None:
    """No leakage: what becomes known after a time does not change what is answered for questions until then."""
    asked = [question for question in questions if question[1] <= now]
    past = [row for row in rows if row[2] <= now]
    before = [past[at] if at >= 0 else None for at in vectorised(asked, past, ttl)]
    after = [rows[at] if at >= 0 else None for at in vectorised(asked, rows, ttl)]
    assert before == after


@pytest.mark.long
def test_spark_answers_alike() -> None:
    from pyspark.sql import SparkSession

    generator = np.random.default_rng(7)
    names = ["", "a", "ü"]
    rows = list(
        {(((int(a), names[b])), int(event)): None for a, b, event in generator.integers(0, [20, 3, 60], (900, 3))}
    )
    known = [
        (key, event, event + int(delay))
        for (key, event), delay in zip(rows, generator.integers(0, 9, len(rows)), strict=True)
    ]
    questions = [((int(a), names[b]), int(time)) for a, b, time in generator.integers(0, [22, 3, 70], (2_000, 3))]
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        asked, table = tables(questions, known)
        spark.createDataFrame(asked.to_pandas()).createOrReplaceTempView("asked")
        spark.createDataFrame(table.to_pandas()).createOrReplaceTempView("known")
        for ttl in (None, 15):
            found = [(row["n"], row["at"]) for row in spark.sql(query(ttl)).collect()]
            assert in_order(found, len(questions)) == by_loop(questions, known, ttl)
    finally:
        spark.stop()
