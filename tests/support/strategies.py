"""Hypothesis strategies for hedgerow's values: the one place where random ones come from.

`examples(n)` bounds a property's effort; no property has a deadline, for a test asserts no times.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st

from governance.privacy import PrivacyLoss
from governance.settings import Calendar
from pipelines import (
    ZCDP,
    ClipNorm,
    Count,
    CountDistinct,
    Entity,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PrivateSelection,
    PublicPartitions,
    Quantiles,
    Relation,
    Signal,
    Sum,
    TopK,
    UnitKind,
    Variance,
    VectorSum,
    WeightedUnits,
    Window,
)
from pipelines.definitions import Aggregate, Bounding
from tests.support.projects import START, a_signal

__all__ = [
    "aggregates",
    "amounts",
    "bounds",
    "calendars",
    "days",
    "deltas",
    "event_rows",
    "examples",
    "intervals",
    "json_values",
    "keep_random",
    "losses",
    "names",
    "rhos",
    "rows_like",
    "signals",
    "windows",
]

_Test = TypeVar("_Test", bound=Callable[..., Any])


def examples(n: int) -> Callable[[_Test], _Test]:
    """Runs a property on `n` examples."""
    return settings(max_examples=n)


names = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)

# --- privacy ----------------------------------------------------------------------------------------------------------

rhos = st.floats(min_value=1e-9, max_value=50)
deltas = st.floats(min_value=1e-15, max_value=0.05)
amounts = st.decimals(min_value=0, max_value=10, allow_nan=False, places=40) | st.sampled_from(
    [Decimal(0), Decimal("0.1"), Decimal("1e-40"), Decimal("1e-9"), Decimal(3)]
)
losses = st.builds(PrivacyLoss, amounts, amounts)

# --- definitions ------------------------------------------------------------------------------------------------------


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    """Lawful intervals: huge, tiny, negative, far from zero, with a step of their own or none."""
    magnitude = 10.0 ** draw(st.integers(-6, 14))
    lower = draw(st.floats(-1, 1)) * magnitude
    largest = max(abs(lower), magnitude * 1e-3)
    upper = lower + largest * draw(st.floats(2**-18, 2))
    if draw(st.booleans()):
        return Interval(lower, upper)
    steps = draw(st.integers(1, 1_000))
    return Interval(lower, upper, step=(upper - lower) / steps)


bounds = st.builds(
    KeepRandom, max_partitions=st.integers(1, 50), max_rows_per_partition=st.one_of(st.just(1), st.integers(1, 20))
)
_columns = st.sampled_from(["value", "seconds", "rating"])
aggregates: st.SearchStrategy[Aggregate] = st.one_of(
    st.just(Count()),
    st.just(CountDistinct()),
    st.builds(Sum, _columns, intervals()),
    st.builds(Mean, _columns, intervals()),
)

# --- signals over small tables of events ------------------------------------------------------------------------------

_SPANS = (Interval(-1, 5), Interval(0, 3, step=1), Interval(-4, -1, step=0.5))
_grids = st.sampled_from(_SPANS)
_half_lives = st.sampled_from([timedelta(hours=7), timedelta(days=30)])
_DIMENSION = 3
_every_aggregate: st.SearchStrategy[Aggregate] = st.one_of(
    st.just(Count()),
    st.just(CountDistinct()),
    st.builds(Count, half_life=_half_lives),
    st.builds(Sum, st.just("value"), _grids),
    st.builds(Sum, st.just("value"), _grids, half_life=_half_lives),
    st.builds(Mean, st.just("value"), _grids),
    st.builds(Variance, st.just("value"), _grids),
    st.just(Histogram("value", (-1, 0, 2, 5))),
    st.builds(Quantiles, st.just("value"), _grids, bins=st.sampled_from([16, 256])),
    st.just(TopK("tag", ("a", "b", "é"), 1)),
    st.just(VectorSum("vector", _DIMENSION, 1.5)),
)
keep_random = st.builds(KeepRandom, max_partitions=st.integers(1, 3), max_rows_per_partition=st.integers(1, 3))
_clip_norm = st.builds(
    ClipNorm, l2=st.sampled_from([0.7, 2.0, 9.0]), max_partitions=st.sampled_from([1, 2, 3])
) | st.builds(ClipNorm, l2=st.sampled_from([0.7, 2.0]))
_units = st.sampled_from(
    [
        {"columns": "user_id"},
        {"columns": "user_id", "per": timedelta(days=1)},
        {"columns": ("event_id", "shop"), "kind": UnitKind.EVENT},
    ]
)


@st.composite
def signals(
    draw: st.DrawFn,
    relations: tuple[Relation, ...] = tuple(Relation),
    boundings: st.SearchStrategy[Bounding] = keep_random | _clip_norm,
) -> Signal:
    """Every aggregate, bounding, unit, relation and kind of keys, over tables of `event_rows`."""
    bounds = draw(boundings)
    keys = draw(st.sampled_from([("item_id",), ("item_id", "country")]))
    public = PublicPartitions({key: {"item_id": (0, 1, 2), "country": ("at", "ü")}[key] for key in keys})
    private = (
        PrivateSelection(delta=1e-7)
        if draw(st.booleans())
        else PrivateSelection(delta=1e-7, by=WeightedUnits(max_keys=draw(st.integers(1, 4))))
    )
    return a_signal(
        aggregates=draw(st.dictionaries(st.sampled_from(["a", "b", "c"]), _every_aggregate, min_size=1)),
        entity=Entity("item", keys),
        privacy_unit=PrivacyUnit(**draw(_units), relation=draw(st.sampled_from(relations))),
        bounds=bounds,
        partitions=public if bounds.max_partitions is None else draw(st.sampled_from([public, private])),
        budget_per_release=ZCDP(1.0),
    )


_values = st.sampled_from([-1e300, -4.0, -1.0, -0.25, 0.0, 0.5, 1.25, 2.0, 5.0, 1e300]) | st.floats(-9, 9)
_numbers = st.sampled_from([-3.0, -0.5, 0.0, 0.25, 1.0, 30.0]) | st.floats(-2, 2)
_CONTENT = {
    "item_id": st.sampled_from([0, 0, 0, 1, 1, 2, 3]),
    "country": st.sampled_from(["at", "at", "at", "ü", ""]),
    "value": _values,
    "tag": st.sampled_from(["a", "b", "é", "other"]),
    "vector": st.lists(_numbers, min_size=_DIMENSION, max_size=_DIMENSION),
}
_WHOSE = {
    "user_id": st.sampled_from([0, 0, 1, 2]),
    "event_id": st.sampled_from([0, 0, 1, 2]),
    "shop": st.sampled_from(["s", "s", "t"]),
    "ts": st.integers(0, 7 * 86400 - 1).map(lambda second: int(START.timestamp()) + second)
    | st.just(int(START.timestamp()) + 5),
}
event_rows = st.lists(st.fixed_dictionaries(_WHOSE | _CONTENT), min_size=12, max_size=40)
"""Events of few units with few keys, so that bounds bind; extremes, and values outside their interval."""


def rows_like(row: dict[str, Any]) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Other events of the same user, event and moment: what the unit's rows may be replaced by."""
    return st.lists(st.fixed_dictionaries(_CONTENT).map(lambda content: {**row, **content}), max_size=12)


# --- time -------------------------------------------------------------------------------------------------------------

days = st.dates(min_value=date(2000, 1, 1), max_value=date(2040, 12, 31))
_lengths = st.one_of(
    st.sampled_from([timedelta(days=1), timedelta(days=7), timedelta(hours=6), timedelta(days=365)]),
    st.integers(1, 60 * 24 * 40).map(lambda minutes: timedelta(minutes=minutes)),
)
_origins = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=0)
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Tumbling, sliding and gapped windows from any origin, with and without lateness."""
    length = draw(_lengths)
    stride = draw(st.one_of(st.none(), _lengths))
    lateness = draw(st.sampled_from([timedelta(0), timedelta(minutes=1), timedelta(hours=36), timedelta(days=9)]))
    if draw(st.booleans()):
        return Window(length, stride, origin=draw(_origins), allowed_lateness=lateness)
    return Window(length, stride, allowed_lateness=lateness)


@st.composite
def calendars(draw: st.DrawFn) -> Calendar:
    """With and without a first and a last day."""
    last = draw(st.none() | days)
    first = None
    if draw(st.booleans()):
        first = (last or date(2040, 12, 31)) - timedelta(days=draw(st.integers(0, 900)))
    return Calendar(first_day=first, last_day=last)


# --- JSON -------------------------------------------------------------------------------------------------------------

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)
