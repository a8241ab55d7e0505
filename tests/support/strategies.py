"""Hypothesis strategies for hedgerow's values: the one place where random ones come from.

`examples(n)` bounds a property's effort; no property has a deadline, for a test asserts no times.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from governance.privacy import PrivacyLoss
from governance.settings import Calendar
from pipelines import Count, CountDistinct, Interval, KeepRandom, Mean, Sum, Window
from pipelines.definitions import Aggregate

__all__ = [
    "aggregates",
    "amounts",
    "bounds",
    "calendars",
    "days",
    "deltas",
    "examples",
    "intervals",
    "json_values",
    "losses",
    "names",
    "rhos",
    "windows",
]

_Test = TypeVar("_Test", bound=Callable[..., Any])


def examples(n: int) -> Callable[[_Test], _Test]:
    """Runs a property on `n` examples, however long each takes."""
    return settings(max_examples=n, deadline=None, suppress_health_check=[HealthCheck.too_slow])


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
    """Tumbling, sliding and gapped windows from any origin."""
    length = draw(_lengths)
    stride = draw(st.one_of(st.none(), _lengths))
    return Window(length, stride, origin=draw(_origins)) if draw(st.booleans()) else Window(length, stride)


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
