"""Where events come from, whose they are, and which spans of time they are cut into."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from governance.errors import DefinitionError
from pipelines.definitions.checks import check_column, check_kind, check_name, check_span, check_table, names_of

_EPOCH_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
DAY = timedelta(days=1)


class UnitKind(StrEnum):
    """What a privacy unit stands for: everything of a person, or one event."""

    PERSON = "person"
    EVENT = "event"


class Relation(StrEnum):
    """Which datasets are neighbors: they differ by one unit that is there or not, or by what one unit's rows say."""

    ADD_REMOVE_ONE = "add_remove_one"
    REPLACE_ONE = "replace_one"


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
        check_name("PublicTable", "name", self.name)
        check_table(f"PublicTable {self.name}", self.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """A table of raw, personal events, one row an event.

    Attributes:
        name: the dataset's name; accounts are kept per dataset and unit.
        table: parquet file or folder, relative to the project.
        timestamp: column with the event time (timestamp, or whole Unix seconds), UTC.
        person: column that identifies the person, whatever a signal's privacy unit is.
        arrival: None, or the column with the time at which an event became known (same forms as `timestamp`). A window
            then counts only events that arrived by its end plus its allowed lateness, whenever it is computed.
    """

    name: str
    table: str
    timestamp: str
    person: str
    arrival: str | None = None

    def __post_init__(self) -> None:
        check_name("EventSource", "name", self.name)
        subject = f"EventSource {self.name}"
        check_table(subject, self.table)
        check_column(subject, "timestamp", self.timestamp)
        check_column(subject, "person", self.person)
        if self.arrival is not None:
            check_column(subject, "arrival", self.arrival)


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
        object.__setattr__(self, "columns", names_of(self.columns))
        if not isinstance(self.table, PublicTable):
            raise DefinitionError(
                subject,
                f"table: found {type(self.table).__name__}, allowed: PublicTable; a join with private data has no "
                "bound",
            )
        check_column(subject, "on", self.on)
        for column in self.columns:
            check_column(subject, "columns", column)
        if not self.columns:
            raise DefinitionError(subject, "columns: none; name the columns to add")
        if self.explode is not None and self.explode not in self.columns:
            raise DefinitionError(
                subject, f"explode: found {self.explode!r}, allowed: one of {', '.join(self.columns)}"
            )


@dataclass(frozen=True, slots=True)
class Entity:
    """What a row of a release is about.

    Attributes:
        name: e.g. `"genre"`.
        keys: the columns that identify it, e.g. `("genre", "cohort")`; a single name is accepted.
    """

    name: str
    keys: tuple[str, ...]

    if TYPE_CHECKING:  # what may be written; __post_init__ makes a tuple of it

        def __init__(self, name: str, keys: str | tuple[str, ...]) -> None: ...

    def __post_init__(self) -> None:
        check_name("Entity", "name", self.name)
        object.__setattr__(self, "keys", names_of(self.keys))
        for key in self.keys:
            check_name(f"Entity {self.name}", "keys", key)
        if not self.keys or len(set(self.keys)) != len(self.keys):
            raise DefinitionError(f"Entity {self.name}", "keys: allowed: one or more different columns")


@dataclass(frozen=True, slots=True)
class PrivacyUnit:
    """Whose presence a release hides: neighboring datasets differ by all rows of one unit.

    Attributes:
        columns: columns whose values together identify the unit; a single name is accepted.
        per: None, or a span of event time: the unit is then one person's rows within one such span, counted from
            1970-01-01 UTC (`timedelta(days=1)`: one user-day).
        kind: a person, or one event (the columns then identify the event).
        relation: one unit more or less (the default), or one unit's rows replaced by any others: stronger, with up to
            twice the noise, and what a row about the unit itself needs.
    """

    columns: tuple[str, ...]
    per: timedelta | None = field(default=None, kw_only=True)
    kind: UnitKind = field(default=UnitKind.PERSON, kw_only=True)
    relation: Relation = field(default=Relation.ADD_REMOVE_ONE, kw_only=True)

    if TYPE_CHECKING:  # what may be written; __post_init__ makes a tuple of it

        def __init__(
            self,
            columns: str | tuple[str, ...],
            *,
            per: timedelta | None = None,
            kind: UnitKind = UnitKind.PERSON,
            relation: Relation = Relation.ADD_REMOVE_ONE,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", names_of(self.columns))
        for column in self.columns:
            check_column("PrivacyUnit", "columns", column)
        if not self.columns or len(set(self.columns)) != len(self.columns):
            raise DefinitionError(
                "PrivacyUnit", "columns: allowed: one or more different columns that identify the unit"
            )
        check_kind("PrivacyUnit", "kind", self.kind, UnitKind)
        check_kind("PrivacyUnit", "relation", self.relation, Relation)
        if self.per is not None:
            if self.kind is UnitKind.EVENT:
                raise DefinitionError("PrivacyUnit", "per: an event is at one time already; leave per out")
            check_span("PrivacyUnit", "per", self.per, least=timedelta(hours=1))

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
        allowed_lateness: how long after its end a window waits for events that arrive late: it is released only then.
            Where the source tells arrival, what comes later is dropped and counted; else what is there is counted.
    """

    length: timedelta
    stride: timedelta | None = None
    origin: datetime = field(default=_EPOCH_MONDAY, kw_only=True)
    allowed_lateness: timedelta = field(default=timedelta(0), kw_only=True)

    def __post_init__(self) -> None:
        check_span("Window", "length", self.length, least=timedelta(minutes=1))
        if self.stride is None:
            object.__setattr__(self, "stride", self.length)
        check_span("Window", "stride", self.stride, least=timedelta(minutes=1))
        check_span("Window", "allowed_lateness", self.allowed_lateness, least=timedelta(0))
        check_kind("Window", "origin", self.origin, datetime)
        if self.origin.utcoffset() != timedelta(0) or self.origin.microsecond:
            raise DefinitionError("Window", "origin: allowed: an aware UTC datetime in whole seconds")

    @property
    def step(self) -> timedelta:
        """The stride in force."""
        return self.stride or self.length
