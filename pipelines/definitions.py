"""What a data engineer writes: frozen, validated definitions of sources, privacy units, bounds, budgets and signals.

Nothing here reads data or starts Spark. An unlawful definition cannot be constructed: the constructor raises
`DefinitionError` with what, found, allowed and how to fix it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from governance.errors import DefinitionError

__all__ = [
    "Aggregate",
    "ApproxDP",
    "Budget",
    "ContentEmbedding",
    "Count",
    "CountDistinct",
    "Definition",
    "Entity",
    "EventSource",
    "Interval",
    "KeepRandom",
    "Mean",
    "Metric",
    "Partitions",
    "PrivacyUnit",
    "PrivateSelection",
    "PublicColumn",
    "PublicJoin",
    "PublicPartitions",
    "PublicTable",
    "PureDP",
    "Purpose",
    "Signal",
    "Sum",
    "UnitKind",
    "Window",
    "ZCDP",
]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_EPOCH_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def _check_name(subject: str, what: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DefinitionError(
            subject, f"{what}: found {name!r}, allowed: a lower-case letter, then letters, digits, underscores (63 at most)"
        )


def _check_column(subject: str, what: str, column: object) -> None:
    if not isinstance(column, str) or not column or column.startswith("__"):
        raise DefinitionError(subject, f"{what}: found {column!r}, allowed: a column's name (not starting with '__')")


def _check_number(subject: str, what: str, value: object, *, above: float, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DefinitionError(subject, f"{what}: found {value!r}, allowed: a finite number")
    if not above < value <= most:
        upper = "" if math.isinf(most) else f" and at most {most:g}"
        raise DefinitionError(subject, f"{what}: found {value!r}, allowed: greater than {above:g}{upper}")


def _check_whole(subject: str, what: str, value: object, *, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise DefinitionError(subject, f"{what}: found {value!r}, allowed: a whole number from {least} to {most:,}")


class Purpose(StrEnum):
    """What a signal may be used for. Policies decide by it."""

    RANKING = "ranking"
    RETRIEVAL = "retrieval"
    TRENDS = "trends"
    EXPLORATION = "exploration"
    ANALYTICS = "analytics"


class UnitKind(StrEnum):
    """What a privacy unit stands for: everything of a person, or one event."""

    PERSON = "person"
    EVENT = "event"


class Metric(StrEnum):
    """How vectors are compared."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


# --- budgets ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ZCDP:
    """rho-zero-concentrated DP (Bun and Steinke 2016): for all orders a > 1, `D_a(M(x) || M(x')) <= rho a`."""

    rho: float

    def __post_init__(self) -> None:
        _check_number("ZCDP", "rho", self.rho, above=0, most=100)


@dataclass(frozen=True, slots=True)
class ApproxDP:
    """(epsilon, delta)-DP; `delta` is the total, partition selection included. Calibrated through zCDP."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        _check_number("ApproxDP", "epsilon", self.epsilon, above=0, most=100)
        _check_number("ApproxDP", "delta", self.delta, above=0, most=0.1)


@dataclass(frozen=True, slots=True)
class PureDP:
    """epsilon-DP with discrete Laplace noise; needs public partitions. An account is charged at most `epsilon^2 / 2` in rho."""

    epsilon: float

    def __post_init__(self) -> None:
        _check_number("PureDP", "epsilon", self.epsilon, above=0, most=100)


Budget = ZCDP | ApproxDP | PureDP


# --- aggregates ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval:
    """A public range `[lower, upper]` that values are clamped to, and the public grid they are rounded to.

    Attributes:
        lower: smallest value, in the column's units.
        upper: largest value.
        step: the grid's step; None: the largest power of two that divides the larger bound into at least 4096 steps,
            so that sums are exact integers and rounding is far below the noise.
    """

    lower: float
    upper: float
    step: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_number("Interval", "lower", self.lower, above=-1e15, most=1e15)
        _check_number("Interval", "upper", self.upper, above=-1e15, most=1e15)
        object.__setattr__(self, "lower", float(self.lower))
        object.__setattr__(self, "upper", float(self.upper))
        if self.lower >= self.upper:
            raise DefinitionError("Interval", f"found [{self.lower}, {self.upper}], allowed: lower below upper")
        if self.step is not None:
            _check_number("Interval", "step", self.step, above=0, most=self.upper - self.lower)
            if max(abs(self.lower), abs(self.upper)) / self.step > 2**30:
                raise DefinitionError("Interval", f"step: found {self.step}, allowed: at most 2^30 steps to a bound")

    @property
    def grid_step(self) -> float:
        """The step in force."""
        if self.step is not None:
            return self.step
        return float(2.0 ** math.floor(math.log2(max(abs(self.lower), abs(self.upper)) / 4096)))

    @property
    def grid(self) -> tuple[int, int]:
        """`(lowest, highest)` in whole steps: the bounds rounded inwards as far as the grid allows."""
        step = self.grid_step
        lowest, highest = math.ceil(self.lower / step - 1e-9), math.floor(self.upper / step + 1e-9)
        return lowest, max(lowest, highest)


@dataclass(frozen=True, slots=True)
class Count:
    """Number of rows in a partition, at most `max_rows_per_partition` of each privacy unit."""


@dataclass(frozen=True, slots=True)
class CountDistinct:
    """Number of distinct privacy units in a partition."""


@dataclass(frozen=True, slots=True)
class Sum:
    """Sum of a column's values, each clamped to `interval` and rounded to its grid."""

    column: str
    interval: Interval

    def __post_init__(self) -> None:
        _check_aggregate("Sum", self.column, self.interval)


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean of a column's clamped values: a noisy centred sum over a noisy row count, clamped back to `interval`."""

    column: str
    interval: Interval

    def __post_init__(self) -> None:
        _check_aggregate("Mean", self.column, self.interval)


def _check_aggregate(subject: str, column: object, interval: object) -> None:
    _check_column(subject, "column", column)
    if not isinstance(interval, Interval):
        raise DefinitionError(subject, f"interval: found {type(interval).__name__}, allowed: Interval(lower, upper)")


Aggregate = Count | CountDistinct | Sum | Mean


# --- sources ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicTable:
    """A table with nothing personal in it, e.g. the catalogue.

    Attributes:
        name: its name in lineage.
        table: parquet file or folder, relative to the project.
    """

    name: str
    table: str

    def __post_init__(self) -> None:
        _check_name("PublicTable", "name", self.name)
        if not self.table:
            raise DefinitionError(f"PublicTable {self.name}", "table: empty; give a parquet file or folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """A table of raw, personal events, one row an event.

    Attributes:
        name: the dataset's name; accounts are kept per dataset and unit.
        table: parquet file or folder, relative to the project.
        timestamp: column with the event time (timestamp, or whole Unix seconds), UTC.
        person: column that identifies the person, whatever a signal's privacy unit is.
    """

    name: str
    table: str
    timestamp: str
    person: str

    def __post_init__(self) -> None:
        _check_name("EventSource", "name", self.name)
        subject = f"EventSource {self.name}"
        if not self.table:
            raise DefinitionError(subject, "table: empty; give a parquet file or folder")
        _check_column(subject, "timestamp", self.timestamp)
        _check_column(subject, "person", self.person)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicJoin:
    """Adds public facts to events before anything is bounded: an inner join, then one row for each list element.

    It may multiply rows, so contributions are bounded after it.

    Attributes:
        table: the public table.
        on: column of both tables.
        columns: columns to add.
        explode: one of `columns` that holds lists: one row for each element. None: no list.
    """

    table: PublicTable
    on: str
    columns: tuple[str, ...]
    explode: str | None = None

    def __post_init__(self) -> None:
        subject = "PublicJoin"
        object.__setattr__(self, "columns", tuple(self.columns))
        if not isinstance(self.table, PublicTable):
            raise DefinitionError(
                subject,
                f"table: found {type(self.table).__name__}, allowed: PublicTable; a join with private data has no bound",
            )
        _check_column(subject, "on", self.on)
        for column in self.columns:
            _check_column(subject, "columns", column)
        if self.explode is not None and self.explode not in self.columns:
            raise DefinitionError(subject, f"explode: found {self.explode!r}, allowed: one of {', '.join(self.columns)}")


@dataclass(frozen=True, slots=True)
class Entity:
    """What a row of a release is about.

    Attributes:
        name: e.g. `"genre"`.
        keys: the columns that identify it, e.g. `("genre", "cohort")`; a single name is accepted.
    """

    name: str
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_name("Entity", "name", self.name)
        object.__setattr__(self, "keys", (self.keys,) if isinstance(self.keys, str) else tuple(self.keys))
        for key in self.keys:
            _check_name(f"Entity {self.name}", "keys", key)
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise DefinitionError(f"Entity {self.name}", "keys: allowed: one or more different columns")


@dataclass(frozen=True, slots=True)
class PrivacyUnit:
    """Whose presence a release hides: neighboring datasets differ by all rows of one unit (add/remove one).

    Attributes:
        columns: columns whose values together identify the unit; a single name is accepted.
        per: None, or a span of event time: the unit is then one person's rows within one such span, counted from
            1970-01-01 UTC (`timedelta(days=1)`: one user-day).
        kind: a person, or one event (the columns then identify the event).
    """

    columns: tuple[str, ...]
    per: timedelta | None = field(default=None, kw_only=True)
    kind: UnitKind = field(default=UnitKind.PERSON, kw_only=True)

    def __post_init__(self) -> None:
        columns = (self.columns,) if isinstance(self.columns, str) else tuple(self.columns)
        object.__setattr__(self, "columns", columns)
        for column in columns:
            _check_column("PrivacyUnit", "columns", column)
        if not columns:
            raise DefinitionError("PrivacyUnit", "columns: none; name the columns that identify the unit")
        if self.per is not None:
            if self.kind is UnitKind.EVENT:
                raise DefinitionError("PrivacyUnit", "per: an event is at one time already; leave per out")
            if not isinstance(self.per, timedelta) or self.per < timedelta(hours=1) or self.per.microseconds:
                raise DefinitionError("PrivacyUnit", f"per: found {self.per!r}, allowed: whole seconds, an hour or more")

    @property
    def label(self) -> str:
        """Its name in accounts and reports: `user_id`, `user_id/day`, `event_id`."""
        base = "+".join(self.columns)
        return base if self.per is None else f"{base}/{span_text(self.per)}"


def span_text(span: timedelta) -> str:
    """A length of time in words: `day`, `week`, `3 days`, `36 hours`."""
    if span == DAY:
        return "day"
    if span == 7 * DAY:
        return "week"
    if span % DAY == timedelta(0):
        return f"{span // DAY} days"
    if span % timedelta(hours=1) == timedelta(0):
        return f"{span // timedelta(hours=1)} hours"
    return f"{int(span.total_seconds())} seconds"


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open spans of event time `[origin + k stride, origin + k stride + length)`; each is one release.

    Attributes:
        length: how much event time a release covers.
        stride: from one window's start to the next; None: `length` (tumbling).
        origin: start of one window, aware UTC; by default Monday 1970-01-05.
    """

    length: timedelta
    stride: timedelta | None = None
    origin: datetime = field(default=_EPOCH_MONDAY, kw_only=True)

    def __post_init__(self) -> None:
        for what, span in (("length", self.length), ("stride", self.stride or self.length)):
            if not isinstance(span, timedelta) or span < timedelta(minutes=1) or span.microseconds:
                raise DefinitionError("Window", f"{what}: found {span!r}, allowed: whole seconds, a minute or more")
        if self.stride is None:
            object.__setattr__(self, "stride", self.length)
        if self.origin.tzinfo is None or self.origin.utcoffset() != timedelta(0) or self.origin.microsecond:
            raise DefinitionError("Window", "origin: allowed: an aware UTC datetime in whole seconds")

    @property
    def step(self) -> timedelta:
        """The stride in force."""
        return self.stride or self.length


# --- bounds and partitions -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRandom:
    """Contribution bounds by keyed-hash sampling, independent of the data's order and of other units.

    Attributes:
        max_partitions: L0: partitions that one unit may contribute to; the rest is dropped at random.
        max_rows_per_partition: rows of one unit kept in each partition.
    """

    max_partitions: int
    max_rows_per_partition: int

    def __post_init__(self) -> None:
        _check_whole("KeepRandom", "max_partitions", self.max_partitions, least=1, most=1_000_000)
        _check_whole("KeepRandom", "max_rows_per_partition", self.max_rows_per_partition, least=1, most=1_000_000)


PublicValue = str | int | date


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicColumn:
    """The distinct values of a public table's column."""

    table: PublicTable
    column: str

    def __post_init__(self) -> None:
        if not isinstance(self.table, PublicTable):
            raise DefinitionError("PublicColumn", f"table: found {type(self.table).__name__}, allowed: PublicTable")
        _check_column("PublicColumn", "column", self.column)


@dataclass(frozen=True, slots=True)
class PublicPartitions:
    """The released keys are known beforehand: the product of public domains, one for each of the entity's keys.

    Every combination is released, with noise, whether or not anybody is in it. Keys outside are dropped.

    Attributes:
        domains: key column → tuple of values, or a `PublicColumn`. They must not come from the private data.
    """

    domains: Mapping[str, tuple[PublicValue, ...] | PublicColumn]

    def __post_init__(self) -> None:
        checked: dict[str, tuple[PublicValue, ...] | PublicColumn] = {}
        for key, domain in dict(self.domains).items():
            _check_name("PublicPartitions", "key", key)
            if isinstance(domain, PublicColumn):
                checked[key] = domain
                continue
            values = tuple(domain)
            kinds = {type(value) for value in values}
            if not values or len(set(values)) != len(values) or len(kinds) != 1 or not kinds <= {str, int, date}:
                raise DefinitionError(
                    "PublicPartitions", f"{key}: allowed: one or more different values, all str, all int or all date"
                )
            checked[key] = values
        if not checked:
            raise DefinitionError("PublicPartitions", "no key; give a domain for each of the entity's keys")
        object.__setattr__(self, "domains", MappingProxyType(checked))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSelection:
    """The released keys are chosen by the data: those whose noisy unit count reaches a threshold set by `delta`."""

    delta: float

    def __post_init__(self) -> None:
        _check_number("PrivateSelection", "delta", self.delta, above=0, most=0.01)


Partitions = PublicPartitions | PrivateSelection


# --- signals ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signal:
    """One differentially private feature table, released once for each window.

    Attributes:
        name: lower case with underscores; with `version` it names releases and views.
        version: raise it when the meaning changes.
        owner: who answers for it.
        purpose: what it may be used for.
        description: one sentence.
        source: the raw events.
        joins: public facts added to the events before bounding.
        privacy_unit: whose presence is hidden.
        entity: what a row is about.
        aggregates: output column → aggregate.
        window: which spans of event time.
        bounds: contribution bounds.
        partitions: public keys, or private selection.
        budget_per_release: what one window costs.
        ttl: how long after its window's end a value may be served.
    """

    name: str
    version: int
    owner: str
    purpose: Purpose
    description: str
    source: EventSource
    privacy_unit: PrivacyUnit
    entity: Entity
    aggregates: Mapping[str, Aggregate]
    window: Window
    bounds: KeepRandom
    partitions: Partitions
    budget_per_release: Budget
    ttl: timedelta
    joins: tuple[PublicJoin, ...] = ()

    def __post_init__(self) -> None:
        _check_name("Signal", "name", self.name)
        _check_whole(self.name, "version", self.version, least=1, most=1_000_000)
        object.__setattr__(self, "joins", tuple(self.joins))
        object.__setattr__(self, "aggregates", MappingProxyType(dict(self.aggregates)))
        _check_texts(self.identity, self.owner, self.description)
        for what, kinds in _SIGNAL_TYPES.items():
            value = getattr(self, what)
            if not isinstance(value, kinds):
                allowed = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
                raise DefinitionError(self.identity, f"{what}: found {type(value).__name__}, allowed: {allowed}")
        self._check_aggregates()
        self._check_partitions()
        self._check_unit()
        if self.ttl <= timedelta(0):
            raise DefinitionError(self.identity, f"ttl: found {self.ttl}, allowed: a positive length of time")

    @property
    def identity(self) -> str:
        """`name vN`, as messages and reports call it."""
        return f"{self.name} v{self.version}"

    def _check_aggregates(self) -> None:
        if not self.aggregates:
            raise DefinitionError(self.identity, "aggregates: none; add e.g. {'users': Count()}")
        for name, aggregate in self.aggregates.items():
            _check_name(self.identity, "aggregates", name)
            if name in self.entity.keys:
                raise DefinitionError(self.identity, f"aggregates: {name!r} is also a key of the entity; rename one")
            if not isinstance(aggregate, Aggregate):
                raise DefinitionError(
                    self.identity,
                    f"aggregates: {name}: found {type(aggregate).__name__}, allowed: Count, CountDistinct, Sum, Mean",
                )

    def _check_partitions(self) -> None:
        if isinstance(self.partitions, PublicPartitions):
            if set(self.partitions.domains) != set(self.entity.keys):
                raise DefinitionError(
                    self.identity,
                    f"partitions: domains for {', '.join(self.partitions.domains)}, but the entity's keys are "
                    f"{', '.join(self.entity.keys)}; give a domain for each key",
                )
        elif isinstance(self.budget_per_release, PureDP):
            raise DefinitionError(
                self.identity, "partitions: private selection needs a delta, which PureDP has not; use ZCDP or public keys"
            )
        elif isinstance(self.budget_per_release, ApproxDP) and self.partitions.delta >= self.budget_per_release.delta:
            raise DefinitionError(
                self.identity,
                f"partitions: delta {self.partitions.delta:g} leaves nothing of the budget's "
                f"{self.budget_per_release.delta:g}; make it smaller",
            )

    def _check_unit(self) -> None:
        unit, person = self.privacy_unit, self.source.person
        whole_person = unit.kind is UnitKind.PERSON and unit.per is None
        if unit.kind is UnitKind.PERSON and person not in unit.columns:
            raise DefinitionError(
                self.identity,
                f"privacy_unit: {unit.label!r} does not contain the person column {person!r}; "
                "use it, or kind=UnitKind.EVENT if one row is one event",
            )
        if unit.kind is UnitKind.PERSON and len(unit.columns) > 1:
            raise DefinitionError(
                self.identity,
                f"privacy_unit: {unit.label!r} splits one person over several units; name only {person!r}",
            )
        if person in self.entity.keys and (whole_person or not isinstance(self.partitions, PublicPartitions)):
            raise DefinitionError(
                self.identity,
                f"a row for each {person!r} cannot be released while the whole person is the privacy unit or the keys are "
                "private; lawful are: (a) one event or one user-day as the unit, over a public list of users, so that "
                "absent users get noise too; (b) a local randomizer per user, whose row protects the whole user; "
                "(c) compute it on the device (hedgerow device)",
            )


_SIGNAL_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "purpose": Purpose,
    "source": EventSource,
    "privacy_unit": PrivacyUnit,
    "entity": Entity,
    "window": Window,
    "bounds": KeepRandom,
    "partitions": (PublicPartitions, PrivateSelection),
    "budget_per_release": (ZCDP, ApproxDP, PureDP),
    "ttl": timedelta,
}


def _check_texts(subject: str, owner: object, description: object) -> None:
    for what, text in (("owner", owner), ("description", description)):
        if not isinstance(text, str) or not text.strip():
            raise DefinitionError(subject, f"{what}: empty; say it in a few words")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentEmbedding:
    """Item vectors from public catalogue facts alone: they cost no privacy.

    Attributes:
        source: the public catalogue.
        key: column that identifies an item.
        title: column with the item's title; its words are features.
        categories: columns with a category, or lists of them (genres, price bands); they become the items' tags.
        numeric: columns with numbers (a year); binned by quantiles.
        dimensions: length of the vectors.
        metric: how the vectors are to be compared.
    """

    name: str
    version: int
    owner: str
    purpose: Purpose
    description: str
    source: PublicTable
    key: str
    title: str
    categories: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    dimensions: int = 64
    metric: Metric = Metric.COSINE

    def __post_init__(self) -> None:
        _check_name("ContentEmbedding", "name", self.name)
        _check_whole(self.identity, "version", self.version, least=1, most=1_000_000)
        _check_whole(self.identity, "dimensions", self.dimensions, least=2, most=1024)
        _check_texts(self.identity, self.owner, self.description)
        if not isinstance(self.source, PublicTable):
            raise DefinitionError(
                self.identity, f"source: found {type(self.source).__name__}, allowed: PublicTable (nothing personal)"
            )
        object.__setattr__(self, "categories", tuple(self.categories))
        object.__setattr__(self, "numeric", tuple(self.numeric))
        for column in (self.key, self.title, *self.categories, *self.numeric):
            _check_column(self.identity, "column", column)

    @property
    def identity(self) -> str:
        """`name vN`, as messages and reports call it."""
        return f"{self.name} v{self.version}"


Definition = Signal | ContentEmbedding
