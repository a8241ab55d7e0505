"""From raw Arrow rows to what the kernel bounds: unit, key and codes of each row of the window.

Everything here is a function of one row and of public facts: cut to the window, join public facts, drop keys outside
public domains (so that a unit's bounds are not spent on what is never released), clamp and round values to their grids.
So it commutes with taking a unit's rows away, and bounding comes after it.

A null or a number that is not finite where the engine cannot use it is a problem, reported by its position in
`RowPlan.problems`: no row, value or count goes with it. Public tables have no nulls: inputs.py has seen to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from governance.errors import HedgerowError, NonFiniteValue, NullValue, VectorLength
from pipelines.engine.sums import int_column
from pipelines.measurements import COUNT_STEP, Code, CodeKind, vector_step

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Facts", "Made", "Problem", "RowPlan", "Values", "plain", "rows_of", "ticks_of"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What may be wrong with a column."""

    what: str
    table: str
    column: str
    role: str

    def error(self) -> HedgerowError:
        """As a refusal."""
        if self.what == "null":
            return NullValue(self.table, self.column, self.role)
        if self.what == "length":
            return VectorLength(self.table, self.column)
        return NonFiniteValue(self.table, self.column)


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """A public list of values: given, or the distinct ones of a column in files that every worker can read."""

    given: tuple[Any, ...] = ()
    files: tuple[str, ...] = ()
    column: str = ""

    def load(self) -> pa.Array[Any]:
        """The values as int64, string or date32, however narrow the column is that they are compared with."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if not self.files:
            given: Any = list(self.given)
            listed: pa.Array[Any] = pa.array(given)
            return listed
        parts = [pq.read_table(file, columns=[self.column]).column(self.column) for file in self.files]
        chunks = [chunk for part in parts for chunk in part.chunks]
        values: Any = plain(pa.chunked_array(chunks, parts[0].type))
        distinct: pa.Array[Any] = pc.unique(values)
        return distinct


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A public table to join: read whole by each worker.

    Attributes:
        files: parquet files that every worker can read.
        on: column of both.
        columns: columns to add.
        explode: one of them that holds lists, or None.
    """

    files: tuple[str, ...]
    on: str
    columns: tuple[str, ...]
    explode: str | None

    def load(self) -> pa.Table:
        """The table."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = list(dict.fromkeys((self.on, *self.columns)))
        return pa.concat_tables([pq.read_table(file, columns=columns) for file in self.files])


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """How rows are made. Travels with the task; holds public things only.

    Attributes:
        columns: read from the events, without the time where nothing but the cut needs it.
        time: column with the event time.
        start: first second of the window, Unix time.
        end: first second after it.
        time_needed: whether codes or units read the time.
        arrival: column with the arrival time, or None.
        deadline: last second, Unix time, at which an event may have arrived.
        units: unit columns.
        per: seconds of the spans that units are cut into, or None.
        keys: the entity's keys.
        codes: what is read of each row.
        facts: joins.
        domains: public values for each key, or None.
        problems: what is looked for.
    """

    columns: tuple[str, ...]
    time: str
    start: int
    end: int
    time_needed: bool
    arrival: str | None
    deadline: int
    units: tuple[str, ...]
    per: int | None
    keys: tuple[str, ...]
    codes: tuple[Code, ...]
    facts: tuple[Facts, ...]
    domains: tuple[Values | None, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Rows for the kernel (`__u0 .. __k0 .. __v0 ..`), unit columns of rows that came too late, and a problem or -1."""

    rows: pa.Table
    late: pa.Table | None = None
    problem: int = -1


def rows_of(chunks: Iterator[tuple[pa.Table, bool]], plan: RowPlan) -> Iterator[Made]:
    """Makes rows of chunks of raw events.

    Args:
        chunks: raw events with `plan.columns`, and whether they must be cut to the window (else they lie in it).
        plan: how.

    Yields:
        One result for each chunk; the one with a problem is the last.
    """
    facts = [one.load() for one in plan.facts]
    domains = [None if values is None else values.load() for values in plan.domains]
    for chunk, cut in chunks:
        raw, late, problem = _within(chunk, plan, cut=cut)
        if problem < 0:
            problem = _problem_in(raw, plan, {plan.time, *plan.units, *(one.on for one in plan.facts)})
        if problem >= 0:
            yield Made(rows=raw.slice(0, 0), problem=problem)
            return
        for one, table in zip(plan.facts, facts, strict=True):
            raw = _joined(raw, table, one)
        problem = _problem_in(raw, plan, set(raw.column_names))
        if problem >= 0:
            yield Made(rows=raw.slice(0, 0), problem=problem)
            return
        made, problem = _coded(_in_domains(raw, plan, domains), plan)
        yield Made(rows=made, late=late, problem=problem)
        if problem >= 0:
            return


def _within(chunk: pa.Table, plan: RowPlan, *, cut: bool) -> tuple[pa.Table, pa.Table | None, int]:
    """The rows of the window that came in time; the unit columns of those that did not."""
    import pyarrow as pa

    if cut:
        if (problem := _problem_in(chunk, plan, {plan.time})) >= 0:
            return chunk, None, problem
        ticks, per_second = ticks_of(chunk.column(plan.time))
        inside = (ticks >= plan.start * per_second) & (ticks < plan.end * per_second)
        if not inside.all():
            chunk = chunk.filter(pa.array(inside))
    if plan.arrival is None:
        return chunk, None, -1
    if (problem := _problem_in(chunk, plan, {plan.arrival, *plan.units})) >= 0:
        return chunk, None, problem
    ticks, per_second = ticks_of(chunk.column(plan.arrival))
    in_time = ticks < (plan.deadline + 1) * per_second
    if in_time.all():
        return chunk, None, -1
    return chunk.filter(pa.array(in_time)), _units(chunk.filter(pa.array(~in_time)), plan), -1


def ticks_of(column: pa.ChunkedArray[Any]) -> tuple[NDArray[np.int64], int]:
    """A time column as whole numbers, and how many of them make a second."""
    import pyarrow as pa
    from pyarrow import types

    kind: Any = column.type
    per_second = 1
    if types.is_timestamp(kind):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[kind.unit]
        column = column.cast(pa.timestamp(kind.unit)).cast(pa.int64())
    return column.to_numpy().astype(np.int64, copy=False), per_second


def _seconds(column: pa.ChunkedArray[Any]) -> NDArray[np.float64]:
    ticks, per_second = ticks_of(column)
    return ticks / per_second


def _problem_in(raw: pa.Table, plan: RowPlan, columns: set[str]) -> int:
    """The first problem with these columns' nulls, or -1."""
    for index, problem in enumerate(plan.problems):
        if problem.what != "null" or problem.column not in columns or problem.column not in raw.column_names:
            continue
        if raw.column(problem.column).null_count:
            return index
    return -1


def _joined(raw: pa.Table, table: pa.Table, facts: Facts) -> pa.Table:
    """An inner join with public facts, then one row for each element of a list."""
    import pyarrow.compute as pc

    # By place, not by Arrow's own join: that one takes no lists along.
    distinct: Any = plain(table.column(facts.on)).combine_chunks().dictionary_encode()
    of_fact = distinct.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    by_value = np.argsort(of_fact, kind="stable")
    sizes = np.bincount(of_fact, minlength=len(distinct.dictionary))
    firsts = np.cumsum(sizes) - sizes
    found = pc.index_in(plain(raw.column(facts.on)).combine_chunks(), value_set=distinct.dictionary)
    code = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    left = np.flatnonzero(code >= 0)
    repeats = sizes[code[left]]
    ends = np.cumsum(repeats)
    within = np.arange(int(repeats.sum())) - np.repeat(ends - repeats, repeats)
    right = by_value[np.repeat(firsts[code[left]], repeats) + within]
    raw = raw.take(int_column(np.repeat(left, repeats)))
    for column in facts.columns:
        raw = raw.append_column(column, table.column(column).take(int_column(right)))
    return raw if facts.explode is None else _exploded(raw, facts.explode)


def _exploded(raw: pa.Table, column: str) -> pa.Table:
    """One row for each element of a list; none for a list without any."""
    import pyarrow.compute as pc

    lists: Any = raw.column(column).combine_chunks()
    parents, elements = pc.list_parent_indices(lists), pc.list_flatten(lists)
    place = raw.column_names.index(column)
    return raw.remove_column(place).take(parents).add_column(place, column, elements)


def _in_domains(raw: pa.Table, plan: RowPlan, domains: list[pa.Array[Any] | None]) -> pa.Table:
    """Only rows whose keys are public, where keys are public."""
    import pyarrow.compute as pc

    for key, values in zip(plan.keys, domains, strict=True):
        if values is not None:
            inside: Any = pc.is_in(plain(raw.column(key)), value_set=values)
            if not pc.all(inside).as_py():
                raw = raw.filter(inside)
    return raw


def _coded(raw: pa.Table, plan: RowPlan) -> tuple[pa.Table, int]:
    import pyarrow as pa

    units = _units(raw, plan)
    columns: dict[str, Any] = {name: units.column(name) for name in units.column_names}
    columns |= {f"__k{i}": plain(raw.column(key)) for i, key in enumerate(plan.keys)}
    for i, code in enumerate(plan.codes):
        columns[f"__v{i}"], what = _code(raw, code, plan)
        if what:
            wrong = (what, code.column)
            return raw.slice(0, 0), next(p for p, one in enumerate(plan.problems) if (one.what, one.column) == wrong)
    return pa.table(columns), -1


def _units(raw: pa.Table, plan: RowPlan) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, Any] = {f"__u{i}": plain(raw.column(unit)) for i, unit in enumerate(plan.units)}
    if plan.per is not None:
        ticks, per_second = ticks_of(raw.column(plan.time))
        columns[f"__u{len(columns)}"] = pa.array(ticks // (per_second * plan.per))
    return pa.table(columns)


def plain(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """One of the three types of units and keys: int64, string, date32."""
    import pyarrow as pa
    from pyarrow import types

    kind = column.type
    if types.is_integer(kind):
        return column if types.is_int64(kind) else column.cast(pa.int64())
    if types.is_date(kind):
        return column.cast(pa.date32())
    return column if types.is_string(kind) else column.cast(pa.string())


# --- codes ------------------------------------------------------------------------------------------------------------


def _code(raw: pa.Table, code: Code, plan: RowPlan) -> tuple[pa.Array[Any], str]:
    """A code's column, and what is wrong with it: `finite`, `length`, or nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if code.kind is CodeKind.AGE:
        return _integers(np.floor(_weights(raw, code, plan) / COUNT_STEP + 0.5).astype(np.int64), code), ""
    assert code.column is not None
    column: Any = raw.column(code.column)
    if code.kind is CodeKind.VECTOR:
        return _vectors(column.combine_chunks(), code)
    if code.kind is CodeKind.CANDIDATE:
        candidates: Any = list(code.candidates)
        values = pa.array(candidates)
        found: Any = pc.index_in(plain(column), value_set=values)
        return _integers(found.fill_null(len(values)).to_numpy().astype(np.int64), code), ""
    numbers = column.cast(pa.float64(), safe=False).to_numpy()
    what = "" if np.isfinite(numbers).all() else "finite"
    if code.kind is CodeKind.BIN:
        return _integers(np.searchsorted(np.array(code.edges), numbers, side="right"), code), what
    assert code.interval is not None
    interval = code.interval
    if what:
        return _integers(np.zeros(len(numbers), dtype=np.int64), code), what
    steps = np.clip(numbers, interval.lower, interval.upper)
    if code.half_life is not None:
        steps *= _weights(raw, code, plan)
    # Round half up to the grid, then to whole steps within it.
    steps /= interval.grid_step
    steps += 0.5
    np.floor(steps, out=steps)
    steps -= code.lowest
    return _integers(np.clip(steps, 0, code.highest, out=steps), code), ""


def _weights(raw: pa.Table, code: Code, plan: RowPlan) -> NDArray[np.float64]:
    """`2^(-age / half-life)` at the window's end, in (0, 1]."""
    assert code.half_life is not None
    age = plan.end - _seconds(raw.column(plan.time))
    return np.exp2(-np.maximum(age, 0.0) / code.half_life.total_seconds())


def _integers(values: NDArray[Any], code: Code) -> pa.Array[Any]:
    """As few bytes as the code's bits need."""
    import pyarrow as pa

    short: Any = values.astype(np.uint16 if code.bits <= 16 else np.int32 if code.bits <= 31 else np.int64)
    column: pa.Array[Any] = pa.array(short)
    return column


def _vectors(lists: pa.Array[Any], code: Code) -> tuple[pa.Array[Any], str]:
    """Vectors scaled to norm `l2` at most and rounded towards zero to the grid, which lengthens none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths: Any = pc.list_value_length(lists)
    empty = pa.FixedSizeListArray.from_arrays(pa.array([], pa.int32()), code.dimension)
    if np.any(lengths.to_numpy(zero_copy_only=False) != code.dimension):
        return empty, "length"
    flat: Any = pc.list_flatten(lists)
    numbers = flat.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).reshape(-1, code.dimension)
    if not np.isfinite(numbers).all():
        return empty, "finite"
    norms = np.sqrt(np.square(numbers).sum(axis=1))
    factors = np.minimum(1.0, code.l2 * (1 - 1e-12) / np.maximum(norms, 1e-300)) / vector_step(code.l2)
    steps = np.trunc(numbers * factors[:, None]).astype(np.int32)
    return pa.FixedSizeListArray.from_arrays(pa.array(steps.reshape(-1)), code.dimension), ""
