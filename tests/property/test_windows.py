"""Windows are complete, aligned and in order, whatever the calendar."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.errors import ConfigError
from governance.settings import Calendar
from pipelines import Window
from pipelines.windows import Newest, Span, Starting, choose_windows
from tests.support.strategies import calendars, days, examples, windows

DAY = timedelta(days=1)


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), UTC)


def chosen(window: Window, choice: Newest | Starting, calendar: Calendar, today: date) -> tuple[Span, ...]:
    try:
        return choose_windows(window, choice, calendar, today, "s v1")
    except ConfigError:
        return ()


def end_of(window: Window, calendar: Calendar, today: date) -> datetime:
    """The last moment at which a complete window ends: its days are over, and its late events had their time."""
    days_over = midnight(min(calendar.last_day or today - DAY, today - DAY)) + DAY
    return min(days_over, midnight(today) - window.allowed_lateness)


@examples(400)
@given(windows(), calendars(), days, st.integers(1, 60))
def test_newest_windows(window: Window, calendar: Calendar, today: date, count: int) -> None:
    spans = chosen(window, Newest(count), calendar, today)
    for span in spans:
        assert span.end - span.start == window.length
        assert (span.start - window.origin) % window.step == timedelta(0), "aligned"
        assert span.end <= end_of(window, calendar, today), "complete"
        assert calendar.first_day is None or span.start >= midnight(calendar.first_day)
    starts = [span.start for span in spans]
    assert all(after - before == window.step for before, after in itertools.pairwise(starts)), "no gap"
    assert len(spans) <= count
    if window.step >= window.length:
        assert all(a.end <= b.start for a, b in itertools.pairwise(spans)), "tumbling windows are disjoint"
    if spans:
        assert spans[-1].end + window.step > end_of(window, calendar, today), "the newest is last"
        assert spans[-count:] == spans
        assert chosen(window, Newest(1), calendar, today) == spans[-1:]
        if len(spans) < count and calendar.first_day is not None:
            assert spans[0].start - window.step < midnight(calendar.first_day), "fewer only where the calendar ends"
    elif calendar.first_day is not None:
        assert midnight(calendar.first_day) + window.length + window.step > end_of(window, calendar, today)
    else:
        pytest.fail("without a first day there is always a window")


@examples(400)
@given(windows(), calendars(), days, st.lists(days, min_size=1, max_size=3))
def test_starting_windows(window: Window, calendar: Calendar, today: date, asked: list[date]) -> None:
    spans = chosen(window, Starting(tuple(asked)), calendar, today)
    assert list(spans) == sorted(set(spans))
    assert {span.start.date() for span in spans} in (set(), set(asked))
    for span in spans:
        assert (span.start - window.origin) % window.step == timedelta(0)
        assert span.end - span.start == window.length
        assert span.end <= end_of(window, calendar, today)
        assert calendar.first_day is None or span.start >= midnight(calendar.first_day)
    for day in {span.start.date() for span in spans}:
        first = next(span.start for span in spans if span.start.date() == day)
        of_day = [first + k * window.step for k in range(1441) if first + k * window.step < midnight(day) + DAY]
        assert [span.start for span in spans if span.start.date() == day] == of_day, "every window of the day"


@examples(200)
@given(windows(), calendars(), days)
def test_what_newest_gives_starting_finds(window: Window, calendar: Calendar, today: date) -> None:
    for span in chosen(window, Newest(3), calendar, today):
        same_day = chosen(window, Starting((span.start.date(),)), calendar, today)
        # All windows of a day or none: with several, another one of that day may not be complete.
        assert span in same_day or (not same_day and window.step < DAY)


@examples(200)
@given(windows(), calendars(), days)
def test_labels_are_different_and_plain(window: Window, calendar: Calendar, today: date) -> None:
    spans = chosen(window, Newest(50), calendar, today)
    labels = [span.label for span in spans]
    assert len(set(labels)) == len(labels)
    assert labels == sorted(labels)
    assert all(set(label) <= set("0123456789-T") for label in labels)
