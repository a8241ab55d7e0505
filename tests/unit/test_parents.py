"""Hierarchies: which releases a signal reads, and in which order signals run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from governance.errors import DefinitionError, ReleaseMissing
from governance.ledger import open_ledger
from governance.release import ReleaseStore
from pipelines import (
    ConsistentWith,
    Entity,
    Interval,
    Mean,
    PublicPartitions,
    ReleasedColumn,
    ShrinkTo,
    Signal,
)
from pipelines.parents import parents_first, parents_of
from pipelines.windows import Span
from tests.support.projects import a_signal
from tests.support.releases import make_project, make_release

END = datetime(2025, 11, 10, tzinfo=UTC)
SPAN = Span(END - timedelta(days=7), END)


PAIRS = PublicPartitions({"tag": ("x", "y"), "item_id": (1, 2)})


def child_of(name: str, parent: str) -> Signal:
    return a_signal(
        name=name,
        partitions=PublicPartitions({"item_id": ReleasedColumn(signal=parent, version=1, column="item_id")}),
    )


def test_parents_come_first_and_the_rest_keeps_its_order() -> None:
    signals = (child_of("c", "b"), child_of("b", "a"), a_signal(name="x"), a_signal(name="a"))
    assert [signal.name for signal in parents_first(signals)] == ["a", "b", "c", "x"]


def test_a_step_reads_its_parent_too() -> None:
    step = ConsistentWith(signal="z", version=1, columns=("users",))
    signals = (a_signal(name="y", post_processing=(step,)), a_signal(name="z"))
    assert [signal.name for signal in parents_first(signals)] == ["z", "y"]


def test_a_circle_is_refused() -> None:
    with pytest.raises(DefinitionError, match="reads its own keys through a -> b"):
        parents_first((child_of("a", "b"), child_of("b", "a")))


@pytest.fixture
def weeks(tmp_path: Path) -> tuple[ReleaseStore, list[str]]:
    """Releases of `a` for two weeks that end before and with `SPAN`, and one for the week after."""
    settings = make_project(tmp_path / "shop")
    with open_ledger(settings) as ledger:
        made = [
            make_release(
                settings,
                ledger,
                signal="a",
                keys={"item_id": "int64"},
                features={"users": "int64"},
                rows={"item_id": [1], "users": [week]},
                window_start=SPAN.start + timedelta(days=7 * week),
            ).release_id
            for week in (-2, -1, 1)
        ]
    return ReleaseStore(settings.releases_dir), made


def test_keys_come_from_the_newest_release_that_ends_no_later(weeks: tuple[ReleaseStore, list[str]]) -> None:
    store, made = weeks
    [parent] = parents_of(child_of("b", "a"), SPAN, store).values()
    assert parent.release_id == made[1]


STEP = ConsistentWith(signal="a", version=1, columns=("users",))


@pytest.mark.parametrize(
    "child",
    [
        a_signal(name="b", entity=Entity("tag_item", ("tag", "item_id")), partitions=PAIRS, post_processing=(STEP,)),
        a_signal(
            name="b",
            aggregates={"mean": Mean("value", Interval(0, 1))},
            post_processing=(ShrinkTo(signal="a", version=1, columns=("mean",)),),
        ),
    ],
)
def test_values_are_compared_with_those_of_the_same_window_only(
    child: Signal, weeks: tuple[ReleaseStore, list[str]]
) -> None:
    store, made = weeks
    for week, release_id in zip((-2, -1, 1), made, strict=True):
        moved = timedelta(days=7 * week)
        [parent] = parents_of(child, Span(SPAN.start + moved, SPAN.end + moved), store).values()
        assert parent.release_id == release_id
    with pytest.raises(ReleaseMissing) as caught:
        parents_of(child, SPAN, store)
    assert str(caught.value) == (
        "b v1: reads a v1, whose release of the same window, 2025-11-03 to 2025-11-10, post-processing needs and which "
        "has none; run it first for that window, or give both signals the same window"
    )
    # One that ends with it and is longer counts something else.
    with pytest.raises(ReleaseMissing):
        parents_of(child, Span(SPAN.start - timedelta(days=1), SPAN.end - timedelta(days=7)), store)


def test_keys_and_values_of_one_parent_are_of_one_release(weeks: tuple[ReleaseStore, list[str]]) -> None:
    child = a_signal(
        name="b",
        entity=Entity("tag_item", ("tag", "item_id")),
        partitions=PublicPartitions(
            {"tag": ("x",), "item_id": ReleasedColumn(signal="a", version=1, column="item_id")}
        ),
        post_processing=(STEP,),
    )
    store, made = weeks
    moved = timedelta(days=7)
    found = parents_of(child, Span(SPAN.start + moved, SPAN.end + moved), store)
    assert {name: parent.release_id for name, parent in found.items()} == {"a/v1": made[2]}
    with pytest.raises(ReleaseMissing, match="of the same window"):
        parents_of(child, SPAN, store)


def test_a_parent_without_a_release_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseMissing, match="reads a v1, which has no release that ends by 2025-11-10; run it first"):
        parents_of(child_of("b", "a"), SPAN, ReleaseStore(tmp_path))
