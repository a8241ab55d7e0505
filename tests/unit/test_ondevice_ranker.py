from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from featurestore.catalogue.format import Catalogue
from governance.errors import NotPublished, RequestInvalid
from ondevice.events import Event, EventLog
from ondevice.ranker import Blend, Ranker
from tests.support.devices import NOW, make_catalogue


def likes(*items: int | str, value: float = 1.0, days: float = 1) -> EventLog:
    return EventLog.of(
        Event(event_id=str(n), item=str(item), kind="view", value=value, at=NOW - timedelta(days=days))
        for n, item in enumerate(items)
    )


def popular_order(catalogue: Catalogue) -> list[int]:
    users = np.nan_to_num(catalogue.features["item_week_v1:users"])
    return [int(catalogue.ids[row]) for row in np.argsort(-users, kind="stable")]


def test_without_events_it_is_the_popular_list() -> None:
    catalogue = make_catalogue()
    ranked = Ranker(catalogue).rank(likes(), NOW, k=10)
    assert [entry.item for entry in ranked] == popular_order(catalogue)[:10]
    assert {entry.reason for entry in ranked} == {"popular with everyone"}


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_liked_genres_come_first_and_are_the_reason(metric: str) -> None:
    ranked = Ranker(make_catalogue(metric=metric)).rank(likes(102, 106, 110), NOW, k=7)
    assert all(entry.item % 4 == 102 % 4 for entry in ranked)
    assert not {102, 106, 110} & {entry.item for entry in ranked}
    assert {entry.reason for entry in ranked} == {"because of Drama"}
    assert {type(entry.item) for entry in ranked} == {int}


def test_what_is_disliked_comes_last() -> None:
    ranker = Ranker(make_catalogue())
    ranked = ranker.rank(likes(100, 104, 108, value=-2.0), NOW, k=40)
    assert all(entry.item % 4 == 0 for entry in ranked[-7:])
    assert all(entry.reason != "because of Comedy" for entry in ranked)


def test_newer_interests_outweigh_older_ones() -> None:
    both = EventLog.of(
        [
            Event(event_id="old", item="101", kind="view", value=1.0, at=NOW - timedelta(days=90)),
            Event(event_id="new", item="103", kind="view", value=1.0, at=NOW - timedelta(days=1)),
        ]
    )
    assert Ranker(make_catalogue()).rank(both, NOW, k=1)[0].item % 4 == 103 % 4  # type: ignore[operator]


def test_text_ids_and_reasons_without_tags() -> None:
    catalogue = make_catalogue(text_ids=True)
    bare = Catalogue(
        **{name: getattr(catalogue, name) for name in ("sequence", "created_at", "key", "ids", "vectors", "scales")},
        titles=catalogue.titles,
        tags=tuple(() for _ in catalogue.tags),
        features={},
        releases=(),
    )
    ranker = Ranker(bare)
    assert ranker.popularity_reference() is None
    ranked = ranker.rank(likes("sku-0002"), NOW, k=3)
    assert all(str(entry.item).startswith("sku-") for entry in ranked)
    assert {entry.reason for entry in ranked} == {"close to Title 2"}
    assert [entry.reason for entry in ranker.rank(likes(), NOW, k=1)] == ["from the catalogue"]


def test_taste_is_the_exact_cosine_to_the_profile() -> None:
    catalogue = make_catalogue()
    vectors = catalogue.vectors.astype(np.float64) * catalogue.scales[:, None]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    profile = 0.75 * unit[1] + 0.25 * unit[2]
    expected = unit @ profile / np.linalg.norm(profile)
    log = EventLog.of(
        [
            Event(event_id="a", item="101", kind="view", value=3.0, at=NOW),
            Event(event_id="b", item="102", kind="view", value=1.0, at=NOW),
        ]
    )
    blend = Blend(taste=1.0, tags=0.0, popularity=0.0, prior_mass=4.0)
    ranked = Ranker(catalogue).rank(log, NOW, k=40, blend=blend, include_seen=True)
    trust = 4.0 / (4.0 + 4.0)
    for entry in ranked:
        assert entry.score == pytest.approx(trust * expected[int(entry.item) - 100], abs=1e-6)


def test_equal_scores_are_ordered_by_id_wherever_they_lie() -> None:
    catalogue = make_catalogue(items=4)
    same = Catalogue(
        sequence=1,
        created_at="2026-01-01",
        key="item_id",
        ids=np.array([9, 3, 7, 5]),
        vectors=np.repeat(catalogue.vectors[:1], 4, axis=0),
        scales=np.repeat(catalogue.scales[:1], 4),
        titles=("",) * 4,
        tags=((),) * 4,
        features={},
        releases=(),
    )
    ranker = Ranker(same)
    assert [entry.item for entry in ranker.rank(likes(1), NOW, k=2)] == [3, 5]
    assert [entry.item for entry in ranker.rank(likes(3), NOW, k=4)] == [5, 7, 9]


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_extreme_catalogues_give_finite_scores(metric: str) -> None:
    catalogue = make_catalogue(items=8)
    vectors = catalogue.vectors.copy()
    vectors[0] = 0
    extreme = Catalogue(
        sequence=1,
        created_at="2026-01-01",
        key="item_id",
        ids=catalogue.ids,
        vectors=vectors,
        scales=np.array([3e38, 0, 3e38, 1e-38, 1, 1, 1, 1], np.float32),
        titles=catalogue.titles,
        tags=catalogue.tags,
        features={"v:users": np.array([3e38, -3e38, np.nan, 0, 0, 0, 0, 0], np.float32)},
        releases=(),
        metric=metric,
    )
    ranked = Ranker(extreme).rank(likes(100, 102, 103), NOW, k=8, include_seen=True)
    assert len(ranked) == 8
    assert all(np.isfinite([entry.score, entry.taste, entry.tags, entry.popularity]).all() for entry in ranked)


def test_an_empty_catalogue_ranks_nothing() -> None:
    assert Ranker(make_catalogue(items=0)).rank(likes(1), NOW, k=3) == ()


def test_popularity_can_be_chosen_and_must_be_there() -> None:
    ranker = Ranker(make_catalogue())
    assert ranker.popularity_reference() == "item_week_v1:users"
    assert ranker.rank(likes(), NOW, k=3, popularity="item_week_v1:mean")
    with pytest.raises(NotPublished, match="found: item_week_v1:mean, item_week_v1:users"):
        ranker.rank(likes(), NOW, k=3, popularity="item_week_v1:viewers")
    with pytest.raises(RequestInvalid, match="k is 0"):
        ranker.rank(likes(), NOW, k=0)


@pytest.mark.parametrize(
    "wrong", [{"taste": -1.0}, {"tags": float("nan")}, {"prior_mass": 0.0}, {"half_life": timedelta(0)}]
)
def test_blends_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="blend"):
        Blend(**wrong)  # type: ignore[arg-type]


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Ranker(make_catalogue()).rank(likes(101, 105), NOW, k=40)
    monkeypatch.setattr("ondevice.ranker._BLOCK_ROWS", 7)
    blocks = Ranker(make_catalogue()).rank(likes(101, 105), NOW, k=40)
    assert [entry.item for entry in blocks] == [entry.item for entry in whole]
    assert [entry.score for entry in blocks] == pytest.approx([entry.score for entry in whole], abs=1e-6)
