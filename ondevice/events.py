"""What a device remembers: one interaction, and many of them in columns."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from governance.errors import EventInvalid

__all__ = ["Event", "EventLog", "from_microseconds", "microseconds", "span_microseconds"]

MAX_VALUE: Final = 1e6
MAX_TEXT: Final = 256
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_KIND: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")


def microseconds(at: datetime) -> int:
    """An aware time as microseconds since 1970-01-01 UTC, exactly.

    Raises:
        EventInvalid: a time without a zone.
    """
    if at.tzinfo is None:
        raise EventInvalid("event: its time has no zone; give one, e.g. 2026-03-01T12:00:00+00:00")
    return (at - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The inverse of `microseconds`, in UTC."""
    return _EPOCH + value * _MICROSECOND


def span_microseconds(span: timedelta) -> int:
    """A length of time in microseconds.

    Raises:
        ValueError: not positive.
    """
    length = span // _MICROSECOND
    if length <= 0:
        raise ValueError(f"a window or half-life must be positive; found {span}")
    return length


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One interaction with one item.

    Attributes:
        event_id: names the event, so that recording it twice keeps it once.
        item: the item's id as text (`str(id)` where the catalogue's ids are integers).
        kind: what happened, e.g. `"view"`, `"play"`, `"rate"`: lower-case letters, digits and underscores.
        value: strength of interest; 1 is a plain interaction, negative is dislike. At most 1e6 in size.
        at: when, with a zone.

    Raises:
        EventInvalid: a field that cannot be kept; the message never shows it.
    """

    event_id: str
    item: str
    kind: str
    value: float
    at: datetime

    def __post_init__(self) -> None:
        for name, text in (("event id", self.event_id), ("item id", self.item)):
            if not 0 < len(text) <= MAX_TEXT or not text.isprintable():
                raise EventInvalid(f"event: its {name} must be 1 to {MAX_TEXT} printable characters; correct it")
        if not _KIND.fullmatch(self.kind):
            raise EventInvalid("event: its kind must be 1 to 32 of a-z, 0-9 and _, e.g. view; correct it")
        if not math.isfinite(self.value) or abs(self.value) > MAX_VALUE:
            raise EventInvalid(f"event: its value must be a finite number between -{MAX_VALUE:g} and {MAX_VALUE:g}")
        microseconds(self.at)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EventLog:
    """n events in columns.

    Attributes:
        items: n item ids.
        kinds: n kinds.
        values: float64 `(n,)`, read-only.
        at: int64 `(n,)`, microseconds since 1970-01-01 UTC, read-only.

    Raises:
        ValueError: the columns differ in length.
    """

    items: tuple[str, ...]
    kinds: tuple[str, ...]
    values: NDArray[np.float64]
    at: NDArray[np.int64]

    def __post_init__(self) -> None:
        rows = len(self.items)
        if len(self.kinds) != rows or self.values.shape != (rows,) or self.at.shape != (rows,):
            raise ValueError("the columns of an event log must have one length")
        self.values.flags.writeable = False
        self.at.flags.writeable = False

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(cls, events: Iterable[Event]) -> EventLog:
        """Events as columns, in the order given."""
        kept = tuple(events)
        return cls(
            items=tuple(event.item for event in kept),
            kinds=tuple(event.kind for event in kept),
            values=np.array([event.value for event in kept], np.float64),
            at=np.array([microseconds(event.at) for event in kept], np.int64),
        )
