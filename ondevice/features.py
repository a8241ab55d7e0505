"""Local features: windowed counts and exponentially decayed affinities, as pure functions of an event log and a time.

    decay       w(age) = 2^(-age / half_life), 0 for events after `now`
    item        a(i) = sum over events of item i of value * w
    tag         a(t) = sum over items i that have tag t of a(i) / number of tags of i

Claim: no raw value leaves. Proof sketch: these functions read their arguments and return new values; they open no
file or socket, keep no state and log nothing, and no module they import can (tested on the import graph), so a
feature exists only where the caller puts it, and the only caller is the core.

Sums are correctly rounded (`math.fsum`), so features do not depend on the order in which events were recorded.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ondevice.events import EventLog, microseconds, span_microseconds

__all__ = [
    "Affinity",
    "LocalFeatures",
    "WindowCounts",
    "compute",
    "decay_weights",
    "item_affinities",
    "tag_affinities",
    "window_counts",
]

HALF_LIFE: Final = timedelta(days=30)
WINDOWS: Final = (timedelta(days=1), timedelta(days=7), timedelta(days=30))


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCounts:
    """What happened in `(now - length, now]`.

    Attributes:
        length: of the window.
        events: how many events.
        items: how many distinct items.
        by_item: `(item, events)`, most first, then by id.
        by_kind: `(kind, events)`, most first, then by name.
    """

    length: timedelta
    events: int
    items: int
    by_item: tuple[tuple[str, int], ...]
    by_kind: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Affinity:
    """How much one item or tag is liked; negative is dislike. In the events' value units, decayed."""

    name: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFeatures:
    """All local features at one time.

    Attributes:
        at: when they hold.
        half_life: of the affinities.
        windows: counts, shortest window first.
        items: affinities by item id, strongest first.
        tags: affinities by tag, strongest first.
    """

    at: datetime
    half_life: timedelta
    windows: tuple[WindowCounts, ...]
    items: tuple[Affinity, ...]
    tags: tuple[Affinity, ...]


def compute(
    log: EventLog,
    now: datetime,
    tags_of: Callable[[str], tuple[str, ...]],
    *,
    half_life: timedelta = HALF_LIFE,
    windows: tuple[timedelta, ...] = WINDOWS,
) -> LocalFeatures:
    """All local features of a log.

    Args:
        log: n events.
        now: features hold at this time; later events do not count.
        tags_of: item id → its tags; empty for items that are not in the catalogue.

    Raises:
        ValueError: a window or half-life that is not positive.
    """
    items = item_affinities(log, now, half_life)
    return LocalFeatures(
        at=now,
        half_life=half_life,
        windows=tuple(window_counts(log, now, length) for length in sorted(windows)),
        items=_strongest_first(items),
        tags=_strongest_first(tag_affinities(items, tags_of)),
    )


def window_counts(log: EventLog, now: datetime, length: timedelta) -> WindowCounts:
    """Counts the events in the half-open window `(now - length, now]`.

    Raises:
        ValueError: a length that is not positive.
    """
    end = microseconds(now)
    inside = np.flatnonzero((log.at > end - span_microseconds(length)) & (log.at <= end)).tolist()
    by_item = Counter(log.items[row] for row in inside)
    by_kind = Counter(log.kinds[row] for row in inside)
    return WindowCounts(
        length=length,
        events=len(inside),
        items=len(by_item),
        by_item=_most_first(by_item),
        by_kind=_most_first(by_kind),
    )


def decay_weights(at: NDArray[np.int64], now: datetime, half_life: timedelta) -> NDArray[np.float64]:
    """`2^(-age / half_life)` for each event.

    Args:
        at: int64 `(n,)`, microseconds since 1970-01-01 UTC.

    Returns:
        float64 `(n,)` in [0, 1]: 1 now, 1/2 after a half-life, never larger for an older event, 0 after `now`.

    Raises:
        ValueError: a half-life that is not positive.
    """
    age = microseconds(now) - at
    return np.where(age < 0, 0.0, np.exp2(-np.maximum(age, 0) / span_microseconds(half_life)))


def item_affinities(log: EventLog, now: datetime, half_life: timedelta) -> dict[str, float]:
    """Item id → decayed sum of its events' values; items with later events only are not there.

    Raises:
        ValueError: a half-life that is not positive.
    """
    parts: defaultdict[str, list[float]] = defaultdict(list)
    terms = (log.values * decay_weights(log.at, now, half_life)).tolist()
    past = (log.at <= microseconds(now)).tolist()
    for item, term, counts in zip(log.items, terms, past, strict=True):
        if counts:
            parts[item].append(term)
    return {item: math.fsum(terms) for item, terms in parts.items()}


def tag_affinities(items: Mapping[str, float], tags_of: Callable[[str], tuple[str, ...]]) -> dict[str, float]:
    """Tag → sum of its items' affinities, each item's split evenly over its distinct tags, so the total is kept."""
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for item, affinity in items.items():
        tags = set(tags_of(item))
        for tag in tags:
            parts[tag].append(affinity / len(tags))
    return {tag: math.fsum(shares) for tag, shares in parts.items()}


def _most_first(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _strongest_first(scores: Mapping[str, float]) -> tuple[Affinity, ...]:
    ordered = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(Affinity(name=name, score=score) for name, score in ordered)
