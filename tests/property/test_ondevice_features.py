from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ondevice.events import Event, EventLog, from_microseconds, microseconds
from ondevice.features import compute, decay_weights, item_affinities, tag_affinities, window_counts
from ondevice.ranker import Blend, Ranker
from tests.support.devices import GENRES, NOW, make_catalogue

RANKERS = {metric: Ranker(make_catalogue(metric=metric)) for metric in ("cosine", "dot", "l2")}
TAGS = {str(item): (GENRES[item % 4], *(("Classic",) if item % 3 == 0 else ())) for item in range(8)}
# Whole hours, so that events fall on window edges often.
TIMES = st.one_of(
    st.integers(-72, 24 * 60).map(lambda hours: NOW - timedelta(hours=hours)),
    st.datetimes(datetime(2025, 1, 1), datetime(2026, 6, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
EVENTS = st.builds(
    Event,
    event_id=st.uuids().map(str),
    item=st.one_of(st.integers(0, 9), st.integers(100, 139)).map(str),
    kind=st.sampled_from(["view", "play", "rate"]),
    value=st.one_of(st.floats(-1e6, 1e6), st.sampled_from([1.0, -1.0, 0.0, 5.0])),
    at=TIMES,
)
HISTORIES = st.lists(EVENTS, max_size=30)
SPANS = st.timedeltas(timedelta(microseconds=1), timedelta(days=400))


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_round_trip_to_the_microsecond(at: datetime) -> None:
    assert from_microseconds(microseconds(at)) == at


@given(HISTORIES, st.one_of(SPANS, st.integers(1, 100).map(lambda hours: timedelta(hours=hours))))
def test_window_counts_equal_a_plain_loop(history: list[Event], length: timedelta) -> None:
    found = window_counts(EventLog.of(history), NOW, length)
    by_item: dict[str, int] = {}
    by_kind: dict[str, int] = {}
    for event in history:
        if NOW - length < event.at <= NOW:
            by_item[event.item] = by_item.get(event.item, 0) + 1
            by_kind[event.kind] = by_kind.get(event.kind, 0) + 1
    assert dict(found.by_item) == by_item
    assert dict(found.by_kind) == by_kind
    assert (found.events, found.items) == (sum(by_item.values()), len(by_item))
    assert [count for _, count in found.by_item] == sorted(by_item.values(), reverse=True)


@given(st.lists(TIMES, min_size=1), SPANS)
def test_decay_is_monotone_bounded_and_blind_to_the_future(times: list[datetime], half_life: timedelta) -> None:
    ordered = sorted(times)
    weights = decay_weights(np.array([microseconds(at) for at in ordered]), NOW, half_life)
    assert ((weights >= 0) & (weights <= 1)).all()
    past = [at <= NOW for at in ordered]
    assert (weights[np.logical_not(past)] == 0).all()
    assert (np.diff(weights[past]) >= 0).all(), "an older event weighs no more than a newer one"


@given(SPANS)
def test_decay_halves_with_each_half_life(half_life: timedelta) -> None:
    at = np.array([microseconds(NOW - n * half_life) for n in range(4)])
    assert decay_weights(at, NOW, half_life).tolist() == [1.0, 0.5, 0.25, 0.125]


@given(HISTORIES, SPANS)
def test_affinities_equal_a_plain_loop(history: list[Event], half_life: timedelta) -> None:
    found = item_affinities(EventLog.of(history), NOW, half_life)
    terms: dict[str, list[float]] = {}
    for event in history:
        if event.at <= NOW:
            weight = 2.0 ** -((NOW - event.at) / half_life)
            terms.setdefault(event.item, []).append(event.value * weight)
    assert set(found) == set(terms)
    for item, score in found.items():
        scale = sum(abs(term) for term in terms[item])
        assert math.isclose(score, sum(terms[item]), rel_tol=1e-9, abs_tol=1e-9 * scale + 1e-12)


@given(st.dictionaries(st.sampled_from(sorted(TAGS)), st.floats(-1e6, 1e6)))
def test_tags_share_out_what_items_have(items: dict[str, float]) -> None:
    tags = tag_affinities(items, lambda item: TAGS[item])
    size = sum(abs(score) for score in items.values())
    assert math.isclose(math.fsum(tags.values()), math.fsum(items.values()), abs_tol=1e-9 * size + 1e-12)
    assert all(abs(score) <= size * (1 + 1e-12) for score in tags.values())


@given(HISTORIES, st.randoms(use_true_random=False))
def test_features_and_ranking_do_not_depend_on_the_order_of_recording(history: list[Event], shuffle: object) -> None:
    shuffled = list(history)
    shuffle.shuffle(shuffled)  # type: ignore[attr-defined]
    ranker = RANKERS["cosine"]
    one, two = EventLog.of(history), EventLog.of(shuffled)
    assert compute(one, NOW, ranker.tags_of) == compute(two, NOW, ranker.tags_of)
    assert ranker.rank(one, NOW, k=7) == ranker.rank(two, NOW, k=7)


@given(HISTORIES, st.sampled_from(sorted(RANKERS)), st.integers(1, 60), st.booleans())
def test_a_ranking_is_ordered_bounded_finite_and_leaves_out_what_was_met(
    history: list[Event], metric: str, k: int, include_seen: bool
) -> None:
    ranker, log = RANKERS[metric], EventLog.of(history)
    ranked = ranker.rank(log, NOW, k=k, include_seen=include_seen)
    met = set() if include_seen else {event.item for event in history}
    allowed = [item for item in range(100, 140) if str(item) not in met]
    assert len(ranked) == min(k, len(allowed))
    assert {entry.item for entry in ranked} <= set(allowed)
    assert list(ranked) == sorted(ranked, key=lambda entry: (-entry.score, entry.item))
    blend = Blend()
    for entry in ranked:
        assert abs(entry.taste) <= blend.taste
        assert abs(entry.tags) <= blend.tags
        assert 0 <= entry.popularity <= blend.popularity
        assert math.isclose(entry.score, entry.taste + entry.tags + entry.popularity, abs_tol=1e-12)
        assert entry.reason
    longer = ranker.rank(log, NOW, k=k + 5, include_seen=include_seen)
    assert longer[: len(ranked)] == ranked, "asking for more must not change the beginning"


@given(HISTORIES)
def test_affinities_fade_to_the_popular_list(history: list[Event]) -> None:
    ranker = RANKERS["cosine"]
    much_later = NOW + timedelta(days=365 * 60)
    faded = ranker.rank(EventLog.of(history), much_later, k=40, include_seen=True)
    everyone = ranker.rank(EventLog.of([]), NOW, k=40)
    assert [entry.item for entry in faded if entry.popularity > 0] == [
        entry.item for entry in everyone if entry.popularity > 0
    ]
