"""What a signal reads: the right tables, columns and types, and how rows are made of them.

Checks come before any noise. They are refusals, not repairs: a null unit id, a null key, a null or non-finite value
in the window stops the run with a typed error, and the reservation is given back. That such a row exists is one bit
about the data which the operator, and nobody else, gets to see; docs/privacy-promise.md states it. What lies outside of
the window is no matter, the event time aside, without which nobody knows the window.

A public table must have no null where it is used, neither in its keys and facts nor in their lists, whether or not an
event would meet it: so what a run says of it depends on nobody's events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from governance.errors import ColumnTypeError, DefinitionError, NullValue
from pipelines.definitions import PublicColumn, PublicPartitions, PublicTable, ReleasedColumn, Signal
from pipelines.definitions.partitions import PublicValue
from pipelines.engine.places import Place, private_as_public
from pipelines.engine.rows import Facts, Problem, RowPlan, Values
from pipelines.engine.tables import Table, kind_of, open_table
from pipelines.measurements import CodeKind
from pipelines.recipes import Recipe
from pipelines.windows import Span

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CHECKS", "SignalInputs", "check_footers", "open_inputs", "row_plan"]

CHECKS = ("unit ids, keys, times and values have no nulls", "values are finite", "columns have the declared types")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalInputs:
    """The tables of a signal, with the columns that are read.

    Attributes:
        events: the raw events.
        joined: public tables in the order of `Signal.joins`.
        domains: public or released tables behind public partitions, by key.
        event_columns: columns read from the events.
        values: value column → the table it comes from.
        key_kinds: key → `integer`, `text` or `date`.
    """

    events: Table
    joined: tuple[Table, ...]
    domains: dict[str, Table]
    event_columns: tuple[str, ...]
    values: dict[str, Table]
    key_kinds: dict[str, str]

    def public_keys(self, signal: Signal) -> int:
        """How many combinations of public values there are, at most; 0 where keys are private."""
        if not isinstance(signal.partitions, PublicPartitions):
            return 0
        return math.prod(
            self.domains[key].rows if isinstance(domain, PublicColumn | ReleasedColumn) else len(domain)
            for key, domain in signal.partitions.domains.items()
        )


def open_inputs(signal: Signal, recipe: Recipe, root: Path, released: Mapping[str, Path] | None = None) -> SignalInputs:
    """Opens a signal's tables and checks their columns and types by the footers.

    Args:
        signal: the definition.
        recipe: its measurements.
        root: the project's folder.
        released: key → folder of the release that its `ReleasedColumn` names.

    Raises:
        InputMissing, EmptyInput, ColumnMissing, ColumnTypeError: the input is not as the definition says.
        NullValue: a public table has nulls where it is used.
        DefinitionError: a join adds a column that the events have already, private events are called public, or public
            values are of another kind than the data.
    """
    events = open_table(root, signal.source.table)
    joined = tuple(_public(signal, root, join.table) for join in signal.joins)
    origin = _joined_columns(signal, events, joined)
    exploded = {join.explode for join in signal.joins}

    events.require(signal.source.timestamp, "time")
    for column in (signal.source.person, *signal.privacy_unit.columns):
        events.require(column, "unit")
    for key in signal.entity.keys:
        origin.get(key, events).require(key, "key", element=key in exploded)
    values = {c.column: origin.get(c.column, events) for c in recipe.codes if c.column is not None}
    for code in recipe.codes:
        if code.column is not None:
            roles = {CodeKind.VECTOR: "vector", CodeKind.CANDIDATE: "key"}
            values[code.column].require(code.column, roles.get(code.kind, "value"), element=code.column in exploded)
        if code.column is not None and code.candidates:
            found = _row_type(code.column, values[code.column], exploded)
            _check_literals(signal, f"aggregates: the candidates of {code.column!r}", code.candidates, found)
    if signal.source.arrival is not None:
        events.require(signal.source.arrival, "time")
    read = (
        signal.source.timestamp,
        signal.source.person,
        *signal.privacy_unit.columns,
        *(join.on for join in signal.joins),
        *(key for key in signal.entity.keys if key not in origin),
        *(column for column, table in values.items() if table is events),
        *([signal.source.arrival] if signal.source.arrival is not None else []),
    )
    inputs = SignalInputs(
        events=events,
        joined=joined,
        domains=_domains(signal, root, released or {}),
        event_columns=tuple(dict.fromkeys(read)),
        values=values,
        key_kinds={key: kind_of(_row_type(key, origin.get(key, events), exploded)) for key in signal.entity.keys},
    )
    _check_domain_kinds(signal, inputs, origin, exploded)
    _check_public_nulls(signal, inputs)
    return inputs


def _public(signal: Signal, root: Path, table: PublicTable) -> Table:
    """Opens a public table, unless it is the private one under another name.

    Other signals' events are looked for where the project is loaded (pipelines.project).

    Raises:
        DefinitionError: it shares files with the events.
    """
    if Place.of(root, table.table).shares(Place.of(root, signal.source.table)):
        raise private_as_public(signal.identity, table, signal.source)
    return open_table(root, table.table)


def _joined_columns(signal: Signal, events: Table, joined: tuple[Table, ...]) -> dict[str, Table]:
    """Which public table each joined column comes from."""
    origin: dict[str, Table] = {}
    for join, table in zip(signal.joins, joined, strict=True):
        events.require(join.on, "unit")
        table.require(join.on, "unit")
        if events.kind(join.on) != table.kind(join.on):
            both = f"{table.type_of(join.on)} here and {events.type_of(join.on)} in {events.name}"
            raise ColumnTypeError(table.name, join.on, both, "whole numbers in both, or strings in both")
        for column in join.columns:
            if column in events.schema.names or column in origin:
                raise DefinitionError(
                    signal.identity,
                    f"joins: {join.table.name} adds column {column!r}, which is there already; rename it",
                )
            table.type_of(column)
            if column == join.explode:
                table.require(column, "list")
            origin[column] = table
    return origin


def _domains(signal: Signal, root: Path, released: Mapping[str, Path]) -> dict[str, Table]:
    """The tables behind public partitions, by key."""
    domains = {}
    if isinstance(signal.partitions, PublicPartitions):
        for key, domain in signal.partitions.domains.items():
            if isinstance(domain, PublicColumn):
                domains[key] = _public(signal, root, domain.table)
                domains[key].require(domain.column, "key")
            elif isinstance(domain, ReleasedColumn):
                domains[key] = open_table(root, str(released[key]))
                domains[key].require(domain.column, "key")
    return domains


def _check_domain_kinds(
    signal: Signal, inputs: SignalInputs, origin: dict[str, Table], exploded: set[str | None]
) -> None:
    """Compares the kinds of public domains with those of the keys they are for.

    Raises:
        ColumnTypeError, DefinitionError: a domain of another kind, which no key could ever equal.
    """
    if not isinstance(signal.partitions, PublicPartitions):
        return
    for key, domain in signal.partitions.domains.items():
        table = origin.get(key, inputs.events)
        found = _row_type(key, table, exploded)
        if isinstance(domain, PublicColumn | ReleasedColumn):
            public = inputs.domains[key]
            if public.kind(domain.column) != kind_of(found):
                both = f"{public.type_of(domain.column)} here, but {key!r} is {found} in {table.name}"
                raise ColumnTypeError(public.name, domain.column, both, "the same kind in both")
        else:
            _check_literals(signal, f"partitions: the values of {key!r}", domain, found)


def _row_type(column: str, table: Table, exploded: set[str | None]) -> pa.DataType:
    """The type of a column once lists have given a row for each element."""
    return table.element_type(column) if column in exploded else table.type_of(column)


def _check_literals(signal: Signal, what: str, values: tuple[PublicValue, ...], found: pa.DataType) -> None:
    """Compares the kind of values that a definition gives with the data's.

    Raises:
        DefinitionError: another kind, which nothing could ever equal.
    """
    if _LITERAL_KINDS[type(values[0])] != kind_of(found):
        raise DefinitionError(
            signal.identity,
            f"{what} are of {type(values[0]).__name__}, but the data has {found}; give them as the data has",
        )


_LITERAL_KINDS = {int: "integer", str: "text", date: "date"}


def _check_public_nulls(signal: Signal, inputs: SignalInputs) -> None:
    """Refuses nulls in public tables: a join or a set of keys would leave them out without a word.

    Raises:
        NullValue: there are some in a column that is used.
    """
    used = {*signal.entity.keys, *inputs.values}
    for join, table in zip(signal.joins, inputs.joined, strict=True):
        table.require_no_nulls(join.on, "join key")
        for column in join.columns:
            if column == join.explode:
                table.require_no_nulls(column, "public lists and what is in them")
            elif column in used:
                table.require_no_nulls(column, "public fact")
    if isinstance(signal.partitions, PublicPartitions):
        for key, table in inputs.domains.items():
            domain = signal.partitions.domains[key]
            if isinstance(domain, PublicColumn):
                table.require_no_nulls(domain.column, "public key")


def check_footers(signal: Signal, inputs: SignalInputs) -> None:
    """Looks for nulls that would stop every window, where the parquet footers tell them: no row is read.

    Raises:
        NullValue: a footer says that some event has no time.
    """
    if signal.source.timestamp in inputs.events.with_nulls:
        raise NullValue(inputs.events.name, signal.source.timestamp, _roles(signal, inputs)[signal.source.timestamp])


def _roles(signal: Signal, inputs: SignalInputs) -> dict[str, str]:
    """The columns that are read of the events, and what they are for."""
    roles = dict.fromkeys(inputs.event_columns, "value")
    roles |= {join.on: "join key" for join in signal.joins}
    roles |= {key: "key" for key in signal.entity.keys if key in roles}
    roles |= dict.fromkeys((signal.source.person, *signal.privacy_unit.columns), "privacy unit")
    roles[signal.source.timestamp] = "event time"
    if signal.source.arrival is not None:
        roles[signal.source.arrival] = "arrival time"
    return roles


def row_plan(signal: Signal, recipe: Recipe, inputs: SignalInputs, span: Span) -> RowPlan:
    """How rows of a window are made; public facts only."""
    unit, source = signal.privacy_unit, signal.source
    problems = [
        Problem("null", inputs.events.name, column, role)
        for column, role in _roles(signal, inputs).items()
        if column not in inputs.events.without_nulls
    ]
    exploded = {join.explode for join in signal.joins}
    for code in recipe.codes:
        if code.column is None or code.kind is CodeKind.CANDIDATE:
            continue
        table = inputs.values[code.column]
        if code.column in exploded or table.kind(code.column) != "integer":
            problems.append(Problem("finite", table.name, code.column, "value"))
        if code.kind is CodeKind.VECTOR:
            problems.append(Problem("length", table.name, code.column, "value"))
    domains: list[Values | None] = [None] * len(signal.entity.keys)
    if isinstance(signal.partitions, PublicPartitions):
        domains = [_values(signal.partitions, inputs, key) for key in signal.entity.keys]
    lateness = signal.window.allowed_lateness
    return RowPlan(
        columns=inputs.event_columns,
        time=source.timestamp,
        start=int(span.start.timestamp()),
        end=int(span.end.timestamp()),
        time_needed=unit.per is not None or any(code.half_life is not None for code in recipe.codes),
        arrival=source.arrival,
        deadline=int((span.end + lateness).timestamp()),
        units=unit.columns,
        per=None if unit.per is None else int(unit.per.total_seconds()),
        keys=signal.entity.keys,
        codes=recipe.codes,
        facts=tuple(
            Facts(
                files=tuple(str(file) for file in table.files),
                on=join.on,
                columns=join.columns,
                explode=join.explode,
            )
            for join, table in zip(signal.joins, inputs.joined, strict=True)
        ),
        domains=tuple(domains),
        problems=tuple(problems),
    )


def _values(partitions: PublicPartitions, inputs: SignalInputs, key: str) -> Values:
    domain = partitions.domains[key]
    if isinstance(domain, PublicColumn | ReleasedColumn):
        return Values(files=tuple(str(file) for file in inputs.domains[key].files), column=domain.column)
    return Values(given=tuple(domain))
