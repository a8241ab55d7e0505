"""Which spans of event time to release: pure functions of the definition, the public calendar and today's date.

Nothing here looks at the data: were the newest window found from the newest event, one event could move every release.

A window is complete when two things are past: its last day of event time, which the calendar tells, and its allowed
lateness, which the clock tells. Computed earlier, it would lack events that a later computation of it counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from governance.errors import ConfigError
from governance.settings import Calendar
from pipelines.definitions import Window

__all__ = ["Newest", "Span", "Starting", "WindowChoice", "choose_windows"]


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest `count` complete windows."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class Starting:
    """The windows that start on these UTC days."""

    days: tuple[date, ...]


WindowChoice = Newest | Starting

_NO_EARLIER = datetime(1900, 1, 1, tzinfo=UTC)  # where no first day is stated, it bounds how many windows are listed


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """One window, half-open: `start <= event time < end`, both aware UTC."""

    start: datetime
    end: datetime

    @property
    def label(self) -> str:
        """Its name in release ids: the start's day, with the time of day where that is not midnight."""
        midnight = self.start.time() == time(0)
        return self.start.strftime("%Y-%m-%d" if midnight else "%Y-%m-%dT%H%M%S")


def choose_windows(
    window: Window, choice: WindowChoice, calendar: Calendar, today: date, subject: str
) -> tuple[Span, ...]:
    """The chosen complete windows, oldest first.

    Args:
        window: the signal's window.
        choice: which ones.
        calendar: the public facts: first day of the data, last complete day (by default yesterday).
        today: the current UTC date.
        subject: whose windows, for messages.

    Raises:
        ConfigError: no complete window lies within the calendar, or a day does not start one.
    """
    first = None if calendar.first_day is None else _midnight(calendar.first_day)
    # A calendar may run ahead; no day is complete before it is over.
    yesterday = today - timedelta(days=1)
    last_day = min(calendar.last_day or yesterday, yesterday)
    # Without a column of arrival nothing can be dropped as late: to wait is then all that the lateness means.
    complete = min(_midnight(last_day) + timedelta(days=1), _midnight(today) - window.allowed_lateness)
    if isinstance(choice, Starting):
        days = sorted(set(choice.days))
        if not days:
            raise ConfigError(f"{subject}: windows: no day given; name the UTC day that a window starts on")
        return tuple(span for day in days for span in _starting(window, day, first, complete, subject))
    if choice.count < 1:
        raise ConfigError(f"{subject}: windows: found {choice.count}, allowed: 1 or more")
    newest = (complete - window.length - window.origin) // window.step
    oldest = newest + 1 - choice.count
    oldest = max(oldest, _first_at_or_after(window, first or _NO_EARLIER))
    if oldest > newest:
        raise ConfigError(
            f"{subject}: no complete window of {window.length} between {calendar.first_day} and {last_day}"
            f"{_waited(window)}; correct [calendar] in hedgerow.toml or shorten the window"
        )
    return tuple(_span(window, index) for index in range(oldest, newest + 1))


def _starting(window: Window, day: date, first: datetime | None, complete: datetime, subject: str) -> tuple[Span, ...]:
    """Every window that starts on a day; all must end by `complete`, and start within the calendar."""
    midnight = _midnight(day)
    following = _first_at_or_after(window, midnight)
    beyond = _first_at_or_after(window, midnight + timedelta(days=1))
    if following == beyond:
        before, after = _span(window, following - 1), _span(window, following)
        raise ConfigError(
            f"{subject}: no window starts on {day}; the nearest start on {before.start:%Y-%m-%d} and "
            f"{after.start:%Y-%m-%d}"
        )
    spans = tuple(_span(window, index) for index in range(following, beyond))
    if spans[-1].end > complete or (first is not None and spans[0].start < first):
        raise ConfigError(
            f"{subject}: the window from {day} is not complete within the calendar{_waited(window)}; "
            "choose another, or correct [calendar] in hedgerow.toml"
        )
    return spans


def _waited(window: Window) -> str:
    """What a window waits for beyond its end, in words; empty where it does not wait."""
    return f", {window.allowed_lateness} after its end for late events" if window.allowed_lateness else ""


def _first_at_or_after(window: Window, moment: datetime) -> int:
    """Index of the first window that starts at a moment or later."""
    return -((window.origin - moment) // window.step)


def _span(window: Window, index: int) -> Span:
    start = window.origin + index * window.step
    return Span(start, start + window.length)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), UTC)
