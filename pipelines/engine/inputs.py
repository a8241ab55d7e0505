"""What a signal reads: the right columns, checked, cut to the window and joined with public facts.

Checks come before any noise. They are refusals, not repairs: a null unit id, a null key, a null or non-finite value
stops the run with a typed error, and the reservation is given back. That such a row exists is one bit about the data
which the operator, and nobody else, gets to see; docs/privacy-promise.md states it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance.errors import ColumnTypeError, DefinitionError, NonFiniteValue, NullValue
from pipelines.definitions import PublicColumn, PublicPartitions, Signal
from pipelines.engine.tables import Table, kind_of, open_table
from pipelines.measurements import Recipe
from pipelines.windows import Span

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

__all__ = ["SignalInputs", "check_footers", "check_rows", "open_inputs", "read_events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalInputs:
    """The tables of a signal, with the columns that are read.

    Attributes:
        events: the raw events.
        joined: public tables in the order of `Signal.joins`.
        domains: public tables behind public partitions, by key.
        event_columns: columns read from the events.
        values: value column → the table it comes from.
    """

    events: Table
    joined: tuple[Table, ...]
    domains: dict[str, Table]
    event_columns: tuple[str, ...]
    values: dict[str, Table]


def open_inputs(signal: Signal, recipe: Recipe, root: Path) -> SignalInputs:
    """Opens a signal's tables and checks their columns and types by the footers.

    Raises:
        InputMissing, EmptyInput, ColumnMissing, ColumnTypeError: the input is not as the definition says.
        DefinitionError: a join adds a column that the events have already.
    """
    events = open_table(root, signal.source.table)
    joined = tuple(_public(signal, events, open_table(root, join.table.table)) for join in signal.joins)
    origin = _joined_columns(signal, events, joined)
    exploded = {join.explode for join in signal.joins}

    events.require(signal.source.timestamp, "time")
    for column in (signal.source.person, *signal.privacy_unit.columns):
        events.require(column, "unit")
    for key in signal.entity.keys:
        origin.get(key, events).require(key, "key", element=key in exploded)
    values = {m.column: origin.get(m.column, events) for m in recipe.measures if m.column is not None}
    for column, table in values.items():
        table.require(column, "value", element=column in exploded)
    read = (
        signal.source.timestamp,
        signal.source.person,
        *signal.privacy_unit.columns,
        *(join.on for join in signal.joins),
        *(key for key in signal.entity.keys if key not in origin),
        *(column for column, table in values.items() if table is events),
    )
    inputs = SignalInputs(
        events=events,
        joined=joined,
        domains=_domains(signal, events, root),
        event_columns=tuple(dict.fromkeys(read)),
        values=values,
    )
    _check_domain_kinds(signal, inputs, origin, exploded)
    return inputs


def _public(signal: Signal, events: Table, table: Table) -> Table:
    """A public table, unless it is the private one under another name.

    Raises:
        DefinitionError: it shares files with the events.
    """
    one, two = events.path, table.path
    if one == two or one in two.parents or two in one.parents:
        raise DefinitionError(
            signal.identity,
            f"{table.name} is used as a public table, but it shares files with the private events; "
            "public keys and facts must not come from the private data",
        )
    return table


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


def _domains(signal: Signal, events: Table, root: Path) -> dict[str, Table]:
    """The public tables behind public partitions, by key."""
    domains = {}
    if isinstance(signal.partitions, PublicPartitions):
        for key, domain in signal.partitions.domains.items():
            if isinstance(domain, PublicColumn):
                domains[key] = _public(signal, events, open_table(root, domain.table.table))
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
        found = table.element_type(key) if key in exploded else table.type_of(key)
        if isinstance(domain, PublicColumn):
            public = inputs.domains[key]
            if public.kind(domain.column) != kind_of(found):
                both = f"{public.type_of(domain.column)} here, but {key!r} is {found} in {table.name}"
                raise ColumnTypeError(public.name, domain.column, both, "the same kind in both")
        elif _LITERAL_KINDS[type(domain[0])] != kind_of(found):
            raise DefinitionError(
                signal.identity,
                f"partitions: the domain of {key!r} is of {type(domain[0]).__name__}, but the data has {found}",
            )


_LITERAL_KINDS = {int: "integer", str: "text", date: "date"}


def check_footers(signal: Signal, inputs: SignalInputs) -> None:
    """Looks for nulls where the parquet footers tell them: no row is read.

    Raises:
        NullValue: a footer says that there are some.
    """
    for table, roles in _roles(signal, inputs):
        for column, role in roles.items():
            if column in table.with_nulls:
                raise NullValue(table.name, column, role)


def check_rows(signal: Signal, inputs: SignalInputs, spark: SparkSession) -> tuple[str, ...]:
    """Looks for nulls and non-finite numbers, where the footers do not settle it, in one scan of each table.

    Returns:
        What was checked, in words, for the manifest.

    Raises:
        NullValue, NonFiniteValue: found some; nothing was drawn.
    """
    for table, roles in _roles(signal, inputs):
        suspects = [column for column in roles if column not in table.without_nulls]
        floats = [column for column in roles if column in inputs.values and _is_float(table, column)]
        if suspects or floats:
            _scan(spark, table, roles, suspects, floats)
    return ("unit ids, keys, times and values have no nulls", "values are finite", "columns have the declared types")


def _roles(signal: Signal, inputs: SignalInputs) -> Iterator[tuple[Table, dict[str, str]]]:
    """Each table with its columns and what they are for; lists are left out, for their elements count."""
    roles = dict.fromkeys(inputs.event_columns, "value")
    roles |= {join.on: "join key" for join in signal.joins}
    roles |= {key: "key" for key in signal.entity.keys if key in roles}
    roles |= dict.fromkeys((signal.source.person, *signal.privacy_unit.columns), "privacy unit")
    roles[signal.source.timestamp] = "event time"
    yield inputs.events, roles
    needed = {*signal.entity.keys, *inputs.values} - {join.explode for join in signal.joins}
    for join, table in zip(signal.joins, inputs.joined, strict=True):
        used = {column: "public fact" for column in join.columns if column in needed}
        yield table, {join.on: "join key", **used}


def _is_float(table: Table, column: str) -> bool:
    from pyarrow import types

    return bool(types.is_floating(table.type_of(column)))


def _scan(spark: SparkSession, table: Table, roles: dict[str, str], suspects: list[str], floats: list[str]) -> None:
    from pyspark.sql import functions as F

    def any_of(condition: Column, name: str) -> Column:
        return F.coalesce(F.bool_or(condition), F.lit(False)).alias(name)

    checks = [any_of(F.col(column).isNull(), f"null {column}") for column in suspects]
    infinite = float("inf")
    for column in floats:
        value = F.col(column).cast("double")
        bad = F.isnan(value) | (F.abs(value) == F.lit(infinite))
        checks.append(any_of(F.coalesce(bad, F.lit(False)), f"finite {column}"))
    found = _read(spark, table).select(*dict.fromkeys([*suspects, *floats])).agg(*checks).first()
    if found is None:
        return
    for column in suspects:
        if found[f"null {column}"]:
            raise NullValue(table.name, column, roles[column])
    for column in floats:
        if found[f"finite {column}"]:
            raise NonFiniteValue(table.name, column)


def _read(spark: SparkSession, table: Table) -> DataFrame:
    return spark.read.parquet(*table.spark_paths())


def read_events(signal: Signal, inputs: SignalInputs, span: Span, spark: SparkSession) -> DataFrame:
    """The events of a window with public facts joined; only the columns that are needed, the filter pushed down.

    A join may multiply rows (one for each genre of an item), which is why bounding comes after it. With public
    partitions, rows of other keys are dropped here, so that a unit's bounds are not spent on what is never released:
    whether a row stays depends on that row and public values alone.
    """
    from pyspark.sql import functions as F

    time = F.col(signal.source.timestamp)
    events = _read(spark, inputs.events).select(*inputs.event_columns)
    ticks = ticks_per_second(signal, inputs)
    if ticks is not None:
        first, last = (int(moment.timestamp()) * ticks for moment in (span.start, span.end))
        events = events.where((time >= first) & (time < last))
    else:
        start, end = (F.lit(moment.isoformat()).cast("timestamp") for moment in (span.start, span.end))
        if getattr(inputs.events.type_of(signal.source.timestamp), "tz", None) is None:
            start, end = start.cast("timestamp_ntz"), end.cast("timestamp_ntz")
        events = events.where((time >= start) & (time < end))
    for join, table in zip(signal.joins, inputs.joined, strict=True):
        facts = _read(spark, table).select(join.on, *join.columns)
        events = events.join(facts, join.on, "inner")
        if join.explode is not None:
            events = events.withColumn(join.explode, F.explode(join.explode)).where(F.col(join.explode).isNotNull())
    if isinstance(signal.partitions, PublicPartitions):
        types = dict(events.dtypes)
        for key in signal.partitions.domains:
            values = public_values(signal.partitions, inputs, key, types[key], spark)
            events = events.join(F.broadcast(values) if key not in inputs.domains else values, key, "left_semi")
    return events


def public_values(
    partitions: PublicPartitions, inputs: SignalInputs, key: str, kind: str, spark: SparkSession
) -> DataFrame:
    """The distinct values of a key's public domain, as a column named like the key, of Spark type `kind`."""
    import pyarrow as pa
    from pyspark.sql import functions as F

    domain = partitions.domains[key]
    if isinstance(domain, PublicColumn):
        values = _read(spark, inputs.domains[key]).select(F.col(domain.column).cast(kind).alias(key))
        return values.where(F.col(key).isNotNull()).distinct()
    # Through Arrow: thousands of literals in an expression cost more than the query.
    literals: Any = list(domain)
    return spark.createDataFrame(pa.table({key: pa.array(literals)})).select(F.col(key).cast(kind).alias(key))


def ticks_per_second(signal: Signal, inputs: SignalInputs) -> int | None:
    """How many of the event time's units make a second, where Spark reads it as a number; None for timestamps."""
    from pyarrow import types

    found = inputs.events.type_of(signal.source.timestamp)
    if types.is_integer(found):
        return 1
    return 1_000_000_000 if types.is_timestamp(found) and found.unit == "ns" else None


def event_seconds(signal: Signal, inputs: SignalInputs) -> Column:
    """The event time as whole Unix seconds, rounded down."""
    from pyspark.sql import functions as F

    time = F.col(signal.source.timestamp)
    ticks = ticks_per_second(signal, inputs)
    if ticks is None:
        return F.unix_seconds(time.cast("timestamp"))
    if ticks == 1:
        return time.cast("long")
    name = "`" + signal.source.timestamp.replace("`", "``") + "`"
    return F.expr(f"({name} - pmod({name}, {ticks}L)) div {ticks}L")
