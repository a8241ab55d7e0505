"""Lawful definitions: what they accept, what they make of it, and that nothing changes them afterwards."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

import pipelines
import pipelines.definitions
from pipelines import (
    ZCDP,
    AdaptiveWeights,
    ApproxDP,
    ClipNorm,
    ConsistentWith,
    ContentEmbedding,
    ContributionProfile,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    Metric,
    NonNegative,
    PrivacyUnit,
    PrivateSelection,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    PublicTable,
    PureDP,
    Purpose,
    Quantiles,
    Relation,
    ReleasedColumn,
    ShrinkTo,
    Signal,
    Sum,
    TopK,
    UnitCount,
    UnitKind,
    Variance,
    VectorSum,
    WeightedUnits,
    Window,
)
from pipelines.definitions import Aggregate, Budget, Definition, Partitions, released_names, span_text
from pipelines.recipes import recipe_of
from tests.support.projects import ITEMS, a_signal

DAY = timedelta(days=1)
USERS = Entity("user", "user_id")
PUBLIC_USERS = PublicPartitions({"user_id": (1, 2)})

FURTHER_AGGREGATES: tuple[Any, ...] = (
    Variance("value", Interval(0, 1, step=0.01)),
    Histogram("value", (0, 1, 2)),
    Quantiles("value", Interval(0, 1)),
    TopK("tag", ("a", "b"), 1),
    VectorSum("vector", 3, 1.0),
)

EVERY: tuple[Any, ...] = (
    ZCDP(1),
    ApproxDP(1, 1e-6),
    PureDP(1),
    Interval(0, 1),
    Count(),
    CountDistinct(),
    Sum("value", Interval(0, 1)),
    Mean("value", Interval(0, 1)),
    ITEMS,
    EventSource(name="e", table="t", timestamp="ts", person="user_id"),
    PublicJoin(table=ITEMS, on="item_id", columns=("genres",), explode="genres"),
    USERS,
    PrivacyUnit("user_id"),
    Window(DAY),
    KeepRandom(max_partitions=1, max_rows_per_partition=1),
    PublicColumn(table=ITEMS, column="item_id"),
    PUBLIC_USERS,
    PrivateSelection(delta=1e-9),
    *FURTHER_AGGREGATES,
    ClipNorm(l2=1, max_partitions=3),
    ReleasedColumn(signal="parent", version=1, column="item_id"),
    UnitCount(),
    WeightedUnits(max_keys=10),
    AdaptiveWeights(),
    NonNegative(),
    ConsistentWith(signal="parent", version=1, columns="users"),  # type: ignore[arg-type]
    ShrinkTo(signal="parent", version=1, columns=("mean",)),
    ContributionProfile(partitions=((1, 0.5), (7, 0.5)), origin="a survey"),
    a_signal(),
    ContentEmbedding(
        name="items",
        version=1,
        owner="o",
        purpose=Purpose.RETRIEVAL,
        description="d",
        source=ITEMS,
        key="item_id",
        title="title",
    ),
)


@pytest.mark.parametrize("value", EVERY, ids=lambda value: type(value).__name__)
def test_nothing_changes_a_definition(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
        value.colour = "red"
    assert not hasattr(value, "__dict__")


def test_every_definition_is_covered_and_exported() -> None:
    classes = {name for name in pipelines.__all__ if dataclasses.is_dataclass(getattr(pipelines, name))}
    assert {type(value).__name__ for value in EVERY} == classes
    assert set(pipelines.__all__) <= set(pipelines.definitions.__all__)
    assert list(pipelines.__all__) == sorted(pipelines.__all__, key=lambda name: (not name.isupper(), name))


def test_mappings_do_not_change_behind_a_signal() -> None:
    aggregates: dict[str, Aggregate] = {"users": Count()}
    domains: dict[str, tuple[int, ...]] = {"item_id": (1, 2)}
    signal = a_signal(aggregates=aggregates, partitions=PublicPartitions(domains))
    aggregates["more"] = Count()
    domains["more"] = (3,)
    assert list(signal.aggregates) == ["users"]
    assert isinstance(signal.partitions, PublicPartitions)
    assert list(signal.partitions.domains) == ["item_id"]
    for frozen in (signal.aggregates, signal.partitions.domains):
        with pytest.raises(TypeError):
            frozen["x"] = None  # type: ignore[index]


def test_unions() -> None:
    assert isinstance(ZCDP(1), Budget)
    assert not isinstance(ZCDP, Budget)
    assert all(isinstance(value, Aggregate) for value in (*EVERY[4:8], *FURTHER_AGGREGATES))
    assert isinstance(PUBLIC_USERS, Partitions)
    assert not isinstance(Interval(0, 1), Aggregate | Budget | Partitions)
    assert isinstance(a_signal(), Definition)


def test_single_names_may_be_bare() -> None:
    """A bare text is one name, never a sequence of letters."""
    assert Entity("genre", "genre").keys == ("genre",)
    assert PrivacyUnit("user_id").columns == ("user_id",)
    assert PublicJoin(table=ITEMS, on="item_id", columns="genres").columns == ("genres",)  # type: ignore[arg-type]
    embedding = dataclasses.replace(EVERY[-1], categories="genres", numeric=["year"])
    assert (embedding.categories, embedding.numeric, embedding.metric) == (("genres",), ("year",), Metric.COSINE)
    assert Entity("genre", ["genre", "cohort"]).keys == ("genre", "cohort")  # type: ignore[arg-type]


def test_equal_numbers_make_equal_definitions() -> None:
    assert repr(ZCDP(1)) == repr(ZCDP(1.0))
    assert repr(Interval(0, 10, step=1)) == repr(Interval(0.0, 10.0, step=1.0))
    assert repr(ApproxDP(1, 1e-6)) == repr(ApproxDP(1.0, 1e-6))
    assert repr(PureDP(2)) == repr(PureDP(2.0))


@pytest.mark.parametrize(
    ("interval", "step", "grid"),
    [
        (Interval(0, 600), 2**-3, (0, 4800)),
        (Interval(0, 1), 2**-12, (0, 4096)),
        (Interval(0.5, 5), 2**-10, (512, 5120)),
        (Interval(-5, 5), 2**-10, (-5120, 5120)),
        (Interval(-5, 0), 2**-10, (-5120, 0)),
        (Interval(-600, -1), 2**-3, (-4800, -8)),
        (Interval(1990, 2020), 2**-4, (31840, 32320)),
        (Interval(1000.01, 1000.1), 2**-12, (4096041, 4096409)),
        (Interval(0, 0.3, step=0.1), 0.1, (0, 3)),
        (Interval(0.05, 0.29, step=0.1), 0.1, (1, 2)),
        (Interval(1, 5, step=1), 1.0, (1, 5)),
        (Interval(0, 1e15), 2.0**37, (0, 7275)),
        (Interval(0, 1e-15), 2.0**-62, (0, 4611)),
    ],
)
def test_grids(interval: Interval, step: float, grid: tuple[int, int]) -> None:
    assert interval.grid_step == step
    assert interval.grid == grid


def test_a_narrow_interval_keeps_its_values() -> None:
    """A step set by the bounds alone would have been wider than the interval, and its only value outside of it."""
    interval = Interval(1000.01, 1000.1)
    lowest, highest = interval.grid
    assert 1000.01 <= lowest * interval.grid_step < highest * interval.grid_step <= 1000.1


@pytest.mark.parametrize(
    ("unit", "label"),
    [
        (PrivacyUnit("user_id"), "user_id"),
        (PrivacyUnit("user_id", per=DAY), "user_id/day"),
        (PrivacyUnit("user_id", per=7 * DAY), "user_id/week"),
        (PrivacyUnit("user_id", per=3 * DAY), "user_id/3 days"),
        (PrivacyUnit("user_id", per=timedelta(hours=36)), "user_id/36 hours"),
        (PrivacyUnit("user_id", per=timedelta(hours=1, seconds=1)), "user_id/3601 seconds"),
        (PrivacyUnit(("shop", "receipt"), kind=UnitKind.EVENT), "shop+receipt"),
    ],
)
def test_units_have_names(unit: PrivacyUnit, label: str) -> None:
    assert unit.label == label


def test_different_spans_have_different_names() -> None:
    spans = [timedelta(seconds=s) for s in (3600, 3601, 7200, 86400, 90000, 172800, 604800, 604801, 1209600)]
    assert len({span_text(span) for span in spans}) == len(spans)


@pytest.mark.parametrize("unit", [PrivacyUnit("user_id", per=DAY), PrivacyUnit("event_id", kind=UnitKind.EVENT)])
def test_user_rows_over_a_public_list_are_lawful_for_days_and_events(unit: PrivacyUnit) -> None:
    column = PublicPartitions({"user_id": PublicColumn(table=PublicTable(name="users", table="u"), column="user_id")})
    for partitions in (PUBLIC_USERS, column):
        assert a_signal(entity=USERS, privacy_unit=unit, partitions=partitions).privacy_unit == unit


def test_domains_take_one_type_each() -> None:
    for values in (("a", "b"), (1, -(2**63), 2**63 - 1), (date(2025, 1, 1),), [3, 1]):
        partitions = PublicPartitions({"k": values})  # type: ignore[dict-item]
        assert partitions.domains["k"] == tuple(values)


def test_a_row_for_each_user_by_a_local_randomizer() -> None:
    """The whole person as the unit, replaced rather than removed, over a public list of users."""
    unit = PrivacyUnit("user_id", relation=Relation.REPLACE_ONE)
    signal = a_signal(entity=USERS, privacy_unit=unit, partitions=PUBLIC_USERS, aggregates={"v": FURTHER_AGGREGATES[4]})
    assert signal.privacy_unit.relation is Relation.REPLACE_ONE


@pytest.mark.parametrize(
    ("name", "aggregate", "columns"),
    [
        ("n", Count(), ("n",)),
        ("h", Histogram("value", (0, 1, 2)), ("h_0", "h_1")),
        ("q", Quantiles("value", Interval(0, 1), (0.5, 0.999, 0.05)), ("q_p50", "q_p99_9", "q_p5")),
        ("t", TopK("tag", ("a", "b"), 2), ("t_1", "t_2")),
    ],
)
def test_aggregates_name_their_columns(name: str, aggregate: Any, columns: tuple[str, ...]) -> None:
    assert pipelines.definitions.column_names(name, aggregate) == columns


@pytest.mark.parametrize("aggregate", [Count(), CountDistinct(), Sum("v", Interval(0, 1)), Mean("v", Interval(0, 1))])
@pytest.mark.parametrize("further", FURTHER_AGGREGATES)
def test_what_definitions_call_released_is_what_recipes_release(aggregate: Any, further: Any) -> None:
    """By these names two columns of one name are refused, so none may be missing."""
    signal = a_signal(aggregates={"a": aggregate, "b": further})
    named = [column for name, each in signal.aggregates.items() for column in released_names(name, each)]
    assert [column.name for column in recipe_of(signal).columns] == named


def test_windows_tumble_unless_told() -> None:
    assert Window(DAY).stride == Window(DAY).step == DAY
    assert Window(7 * DAY, DAY).step == DAY
    assert Window(DAY, 7 * DAY).step == 7 * DAY
    assert Window(DAY).origin == datetime(1970, 1, 5, tzinfo=UTC)
    assert Window(DAY).origin.weekday() == 0


def test_signals_are_themselves() -> None:
    """Signals hold mappings: they compare by identity, their meaning by the compiled form."""
    signal = a_signal()
    assert signal in (signal,)
    assert signal != a_signal()
    assert len({signal, a_signal()}) == 2
    assert signal.identity == "item_weekly v1"
    assert isinstance(signal, Signal)
