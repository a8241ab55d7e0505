"""Windows at the edges of their calendar."""

from __future__ import annotations

import os
import time as clock
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from governance.errors import ConfigError
from governance.settings import Calendar
from pipelines import Window
from pipelines.windows import Newest, Span, Starting, WindowChoice, choose_windows

DAY, WEEK = timedelta(days=1), timedelta(days=7)
TODAY = date(2025, 11, 20)  # a Thursday


def labels(
    window: Window, choice: WindowChoice, first: date | None = None, last: date | None = None, today: date = TODAY
) -> list[str]:
    calendar = Calendar(first_day=first, last_day=last)
    return [span.label for span in choose_windows(window, choice, calendar, today, "s v1")]


@pytest.mark.parametrize(
    ("window", "choice", "first", "last", "expected"),
    [
        (Window(WEEK), Newest(), None, None, ["2025-11-10"]),
        (Window(WEEK), Newest(3), None, None, ["2025-10-27", "2025-11-03", "2025-11-10"]),
        (Window(WEEK), Newest(3), date(2025, 11, 3), None, ["2025-11-03", "2025-11-10"]),
        (Window(WEEK), Newest(3), date(2025, 11, 4), None, ["2025-11-10"]),
        (Window(WEEK), Newest(), None, date(2025, 11, 16), ["2025-11-10"]),
        (Window(WEEK), Newest(), None, date(2025, 11, 15), ["2025-11-03"]),
        (Window(WEEK, DAY), Newest(2), None, date(2025, 11, 16), ["2025-11-09", "2025-11-10"]),
        (Window(DAY), Newest(2), None, None, ["2025-11-18", "2025-11-19"]),
        (Window(DAY), Newest(1), None, TODAY, ["2025-11-19"]),  # today is not over
        (Window(DAY), Newest(1), None, date(9999, 12, 31), ["2025-11-19"]),
        (
            Window(timedelta(hours=12)),
            Newest(2),
            None,
            None,
            ["2025-11-19", "2025-11-19T120000"],
        ),
        (Window(WEEK), Starting((date(2025, 11, 3), date(2025, 10, 27))), None, None, ["2025-10-27", "2025-11-03"]),
        (Window(WEEK), Starting((date(2025, 11, 3),) * 2), None, None, ["2025-11-03"]),
        (
            Window(timedelta(hours=8)),
            Starting((date(2025, 11, 3),)),
            None,
            None,
            ["2025-11-03", "2025-11-03T080000", "2025-11-03T160000"],
        ),
        (
            Window(DAY, origin=datetime(2025, 1, 1, 6, tzinfo=UTC)),
            Starting((date(2025, 11, 3),)),
            None,
            None,
            ["2025-11-03T060000"],
        ),
        (Window(DAY, origin=datetime(2030, 1, 1, tzinfo=UTC)), Newest(1), None, None, ["2025-11-19"]),
        # Two days after its end at the earliest: events of the 18th may come until the 21st.
        (Window(DAY, allowed_lateness=2 * DAY), Newest(1), None, None, ["2025-11-17"]),
        (Window(DAY, allowed_lateness=2 * DAY), Newest(2), None, date(2025, 11, 16), ["2025-11-15", "2025-11-16"]),
        (Window(DAY, allowed_lateness=timedelta(seconds=1)), Newest(1), None, None, ["2025-11-18"]),
        (Window(WEEK, DAY, allowed_lateness=DAY), Starting((date(2025, 11, 12),)), None, None, ["2025-11-12"]),
        # A closed record is complete through its last day, and the clock is past its lateness.
        (Window(WEEK, allowed_lateness=3 * DAY), Newest(1), None, date(2025, 11, 16), ["2025-11-10"]),
    ],
)
def test_choices(
    window: Window, choice: WindowChoice, first: date | None, last: date | None, expected: list[str]
) -> None:
    assert labels(window, choice, first, last) == expected


NEAREST = "s v1: no window starts on 2025-11-05; the nearest start on 2025-11-03 and 2025-11-10"
INCOMPLETE = (
    "s v1: the window from {} is not complete within the calendar; choose another, or correct [calendar] in "
    "hedgerow.toml"
)


@pytest.mark.parametrize(
    ("window", "choice", "first", "last", "message"),
    [
        (Window(WEEK), Newest(0), None, None, "s v1: windows: found 0, allowed: 1 or more"),
        (Window(WEEK), Newest(-1), None, None, "s v1: windows: found -1"),
        (Window(WEEK), Starting(()), None, None, "s v1: windows: no day given"),
        (Window(WEEK), Starting((date(2025, 11, 5),)), None, None, NEAREST),
        (Window(WEEK), Starting((date(2025, 11, 3), date(2025, 11, 5))), None, None, NEAREST),
        (Window(WEEK), Starting((date(2025, 11, 17),)), None, None, INCOMPLETE.format("2025-11-17")),
        (Window(WEEK), Starting((date(2025, 12, 1),)), None, None, INCOMPLETE.format("2025-12-01")),
        (Window(WEEK), Starting((date(2025, 10, 6),)), date(2025, 10, 7), None, INCOMPLETE.format("2025-10-06")),
        (Window(timedelta(hours=12)), Starting((TODAY,)), None, date(2025, 11, 19), INCOMPLETE.format("2025-11-20")),
        (
            Window(WEEK),
            Newest(),
            date(2025, 11, 11),
            None,
            "s v1: no complete window of 7 days, 0:00:00 between 2025-11-11 and 2025-11-19; "
            "correct [calendar] in hedgerow.toml or shorten the window",
        ),
        (
            Window(WEEK, DAY, allowed_lateness=DAY),
            Starting((date(2025, 11, 13),)),
            None,
            None,
            "s v1: the window from 2025-11-13 is not complete within the calendar, 1 day, 0:00:00 after its end for "
            "late events; choose another",
        ),
        (
            Window(DAY, allowed_lateness=5 * DAY),
            Newest(),
            date(2025, 11, 15),
            None,
            "s v1: no complete window of 1 day, 0:00:00 between 2025-11-15 and 2025-11-19, 5 days, 0:00:00 after its "
            "end for late events",
        ),
        (Window(WEEK), Newest(), date(2026, 1, 1), None, "s v1: no complete window"),
        (Window(timedelta(days=36_525)), Newest(), date(2025, 1, 1), None, "s v1: no complete window"),
    ],
)
def test_refusals(window: Window, choice: WindowChoice, first: date | None, last: date | None, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        labels(window, choice, first, last)
    assert str(caught.value).startswith(message)


def test_a_huge_count_ends_where_history_does() -> None:
    found = labels(Window(WEEK), Newest(10**9))
    assert (found[0], found[-1]) == ("1900-01-01", "2025-11-10")
    assert len(found) == 6568


@pytest.fixture(params=["UTC", "America/New_York", "Pacific/Apia"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if not hasattr(clock, "tzset"):
        pytest.fail("the machine's zone cannot be set")
    monkeypatch.setitem(os.environ, "TZ", request.param)
    clock.tzset()
    yield request.param
    monkeypatch.undo()
    clock.tzset()


def test_the_machines_time_zone_and_its_summer_do_not_matter(zone: str) -> None:
    """Across both changes of the clocks, days have 24 hours and windows meet end to end."""
    spans = choose_windows(Window(DAY), Newest(400), Calendar(), TODAY, "s v1")
    assert len(spans) == 400
    assert {span.end - span.start for span in spans} == {DAY}
    assert all(before.end == after.start for before, after in pairwise(spans))
    assert {(span.start.hour, span.start.utcoffset()) for span in spans} == {(0, timedelta(0))}


def test_labels_tell_windows_apart() -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    starts = [start, start + timedelta(seconds=1), start + timedelta(hours=1), start + DAY]
    assert [Span(moment, moment + WEEK).label for moment in starts] == [
        "2025-01-01",
        "2025-01-01T000001",
        "2025-01-01T010000",
        "2025-01-02",
    ]
