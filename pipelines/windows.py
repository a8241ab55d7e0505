"""Which spans of event time to release: pure functions of the definition, the public calendar and today's date.

Nothing here looks at the data: were the newest window found from the newest event, one event could move every release.
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
    last_day = calendar.last_day or today - timedelta(days=1)
    complete = _midnight(last_day) + timedelta(days=1)
    if isinstance(choice, Starting):
        return tuple(_starting(window, day, first, complete, subject) for day in sorted(set(choice.days)))
    if choice.count < 1:
        raise ConfigError(f"{subject}: windows: found {choice.count}, allowed: 1 or more")
    start = window.origin + (complete - window.length - window.origin) // window.step * window.step
    spans = tuple(
        Span(start - k * window.step, start - k * window.step + window.length) for k in reversed(range(choice.count))
    )
    within = tuple(span for span in spans if first is None or span.start >= first)
    if not within:
        raise ConfigError(
            f"{subject}: no complete window of {window.length} between {calendar.first_day} and {last_day}; "
            "correct [calendar] in hedgerow.toml or shorten the window"
        )
    return within


def _starting(window: Window, day: date, first: datetime | None, complete: datetime, subject: str) -> Span:
    start = _midnight(day)
    index, offset = divmod(start - window.origin, window.step)
    if offset:
        near = window.origin + index * window.step
        raise ConfigError(
            f"{subject}: no window starts on {day}; the nearest start on {near:%Y-%m-%d} and "
            f"{near + window.step:%Y-%m-%d}"
        )
    span = Span(start, start + window.length)
    if span.end > complete or (first is not None and span.start < first):
        raise ConfigError(
            f"{subject}: the window from {day} is not complete within the calendar; "
            "choose another, or correct [calendar] in hedgerow.toml"
        )
    return span


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(0), UTC)
