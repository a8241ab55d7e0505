"""An independent computation of a bounded aggregation: plain Python over dictionaries, no Spark, no Arrow, no NumPy.

It follows the definition's words, not the engine's code: cut to the window, clamp and round each value, keep the
partitions with the smallest salted hashes, keep the rows with the smallest salted hashes or scale the unit's whole
vector, sum. The salted hash is written down here a second time, on Python's integers. What is taken from the engine's
own description of a signal is only which measurements there are, and their scales.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Any

from pipelines.definitions import ClipNorm, PrivateSelection, Signal, WeightedUnits
from pipelines.measurements import TREE_FANOUT, Code, CodeKind, Measure, MeasureKind
from pipelines.recipes import recipe_of
from pipelines.windows import Span

__all__ = ["Row", "bounded_sums", "content_hash", "exploded", "late_units", "on_grid", "seconds"]

Row = Mapping[str, Any]
Contribution = int | tuple[int, ...]
_WORD = 2**64
_GOLDEN = 0x9E3779B97F4A7C15


# --- hashes -----------------------------------------------------------------------------------------------------------


def _mixed(word: int) -> int:
    word = (word + _GOLDEN) % _WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB % _WORD
    return word ^ word >> 31


def _chained(state: int, *words: int) -> int:
    for word in words:
        state = _mixed(state * _GOLDEN % _WORD ^ word % _WORD)
    return state


def content_hash(value: object, salt: int) -> int:
    """Of a whole number, a date (days since 1970) or a text (its length, then its bytes in words of eight)."""
    salt %= _WORD
    if isinstance(value, date):
        value = (value - date(1970, 1, 1)).days
    if isinstance(value, int):
        return _mixed(value % _WORD ^ salt)
    text = value if isinstance(value, bytes) else str(value).encode()
    if len(text) > 64:
        digest = hashlib.blake2b(text, digest_size=8, key=salt.to_bytes(8, "little")).digest()
        return int.from_bytes(digest, "little")
    words = [int.from_bytes(text[at : at + 8], "little") for at in range(0, len(text), 8)]
    return _chained(_mixed(len(text) ^ salt), *words)


def _tuple_hash(values: Sequence[object], salt: int) -> int:
    first, *rest = (content_hash(value, salt) for value in values)
    return _chained(first, *rest)


# --- rows -------------------------------------------------------------------------------------------------------------


def seconds(value: Any) -> int:
    """An event time in whole Unix seconds."""
    return math.floor(_exact_seconds(value))


def _exact_seconds(value: Any) -> Fraction:
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return Fraction(round((aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 10**6), 10**6)
    return Fraction(value)


def on_grid(measure: Measure, value: float) -> int:
    """A value in whole steps from the measurement's centre."""
    assert measure.code is not None
    return _steps(measure.code, value, 1.0) - measure.centre


def _steps(code: Code, value: float, weight: float) -> int:
    """A value in whole steps: clamped, weighted, rounded half up, kept between the ends of the grid."""
    interval = code.interval
    assert interval is not None
    lowest, highest = interval.grid
    if code.half_life is not None:
        lowest, highest = min(lowest, 0), max(highest, 0)
    clamped = min(max(value, interval.lower), interval.upper) * weight
    return min(max(math.floor(clamped / interval.grid_step + 0.5), lowest), highest)


def _code_of(row: Row, code: Code, signal: Signal, span: Span) -> Contribution:
    """What is read of a row: an index, a number of steps, or a vector of steps."""
    age = span.end.timestamp() - float(_exact_seconds(row[signal.source.timestamp]))
    weight = 1.0 if code.half_life is None else 2.0 ** (-age / code.half_life.total_seconds())
    if code.kind is CodeKind.AGE:
        return math.floor(weight * 4096 + 0.5)
    value = row[code.column or ""]
    if code.kind is CodeKind.GRID:
        return _steps(code, float(value), weight)
    if code.kind is CodeKind.BIN:
        return bisect_right(code.edges, float(value))
    if code.kind is CodeKind.CANDIDATE:
        return code.candidates.index(value) if value in code.candidates else len(code.candidates)
    assert len(value) == code.dimension
    step = 2.0 ** (math.floor(math.log2(code.l2)) - 15)
    norm = math.hypot(*value)
    factor = min(1.0, code.l2 * (1 - 1e-12) / norm) if norm else 1.0
    return tuple(math.trunc(float(number) * (factor / step)) for number in value)


def _unit_of(row: Row, signal: Signal) -> tuple[Any, ...]:
    unit = tuple(row[column] for column in signal.privacy_unit.columns)
    if signal.privacy_unit.per is None:
        return unit
    return (*unit, seconds(row[signal.source.timestamp]) // int(signal.privacy_unit.per.total_seconds()))


def _in_window(rows: Iterable[Row], signal: Signal, span: Span) -> list[Row]:
    start, end = int(span.start.timestamp()), int(span.end.timestamp())
    return [row for row in rows if start <= _exact_seconds(row[signal.source.timestamp]) < end]


def _late(row: Row, signal: Signal, span: Span) -> bool:
    """Whether an event came after the window's end and its allowed lateness, counted in whole seconds."""
    if signal.source.arrival is None:
        return False
    deadline = int((span.end + signal.window.allowed_lateness).timestamp())
    return seconds(row[signal.source.arrival]) > deadline


def late_units(rows: Iterable[Row], signal: Signal, span: Span) -> int:
    """How many units have events in the window that came too late."""
    return len({_unit_of(row, signal) for row in _in_window(rows, signal, span) if _late(row, signal, span)})


def exploded(rows: Iterable[Row], facts: Mapping[Any, Row], on: str, column: str) -> list[Row]:
    """Rows joined with public facts, one for each element of a list."""
    return [{**row, column: item} for row in rows if row[on] in facts for item in facts[row[on]][column]]


# --- bounds and sums --------------------------------------------------------------------------------------------------


def bounded_sums(
    rows: Iterable[Row],
    signal: Signal,
    span: Span,
    row_salt: int,
    partition_salt: int,
    allowed: Callable[[Row], bool] = lambda _: True,
    measures: Sequence[Measure] | None = None,
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Exact bounded sums: partition key → measurement → integer, or a tuple of them.

    Args:
        rows: with joins done already.
        signal: the definition.
        span: the window.
        row_salt: of the run.
        partition_salt: of the run.
        allowed: those of keys that are not (outside a public domain) do not count.
        measures: as calibrated, for the scales of `ClipNorm`; None: as the recipe names them.
    """
    recipe = recipe_of(signal)
    codes = recipe.codes
    wanted = [m for m in (recipe.measures if measures is None else measures) if m.kind is not MeasureKind.LATE]
    units: dict[tuple[Any, ...], dict[tuple[Any, ...], list[tuple[Contribution, ...]]]]
    units = defaultdict(lambda: defaultdict(list))
    for row in _in_window(rows, signal, span):
        if not _late(row, signal, span) and allowed(row):
            key = tuple(row[column] for column in signal.entity.keys)
            units[_unit_of(row, signal)][key].append(tuple(_code_of(row, code, signal, span) for code in codes))
    sums: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(lambda: {m.name: _nothing(m) for m in wanted})
    for unit, partitions in units.items():
        hashes = {
            key: _chained(_tuple_hash(unit, partition_salt), _tuple_hash(key, partition_salt + 1)) for key in partitions
        }
        ranked = sorted(partitions, key=lambda key: (hashes[key], key))
        for key, steps in _weights(ranked, signal):
            [weight] = (m.name for m in wanted if m.kind is MeasureKind.WEIGHT)
            sums[key][weight] += steps
        kept = ranked[: signal.bounds.max_partitions]
        contributions = {
            key: {
                m.name: _contribution(m, codes, _kept_rows(partitions[key], codes, hashes[key], row_salt, signal))
                for m in wanted
                if m.kind is not MeasureKind.WEIGHT
            }
            for key in kept
        }
        if isinstance(signal.bounds, ClipNorm):
            contributions = _clipped(contributions, wanted, signal.bounds.l2)
        for key, contribution in contributions.items():
            for name, value in contribution.items():
                sums[key][name] = _added(sums[key][name], value)
    return dict(sums)


def _weights(ranked: list[tuple[Any, ...]], signal: Signal) -> list[tuple[tuple[Any, ...], int]]:
    """What a unit gives to each of its keys for the selection: 1 / sqrt(keys) in steps of 2^-20."""
    by = signal.partitions.by if isinstance(signal.partitions, PrivateSelection) else None
    if not isinstance(by, WeightedUnits):
        return []
    weighted = ranked[: by.max_keys]
    return [(key, math.isqrt(2**40 // len(weighted))) for key in weighted]


def _kept_rows(
    rows: list[tuple[Contribution, ...]], codes: Sequence[Code], pair: int, salt: int, signal: Signal
) -> list[tuple[Contribution, ...]]:
    """The m rows with the smallest hashes of (unit, key, codes, j), where j numbers equal rows."""
    if isinstance(signal.bounds, ClipNorm):
        return rows
    seen: Counter[tuple[Contribution, ...]] = Counter()
    ranked = []
    for row in rows:
        words = [_word(value, code) for value, code in zip(row, codes, strict=True)]
        ranked.append((_chained(_chained(pair, salt), *words, seen[row]), row))
        seen[row] += 1
    return [row for _, row in sorted(ranked)[: signal.bounds.max_rows_per_partition]]


def _word(value: Contribution, code: Code) -> int:
    """A code as it is hashed: steps above the lowest; of a vector, a hash of its numbers."""
    if isinstance(value, tuple):
        return _chained(0, *value)
    if code.kind is not CodeKind.GRID or code.interval is None:
        return value
    lowest = code.interval.grid[0]
    return value - (min(lowest, 0) if code.half_life is not None else lowest)


def _contribution(measure: Measure, codes: Sequence[Code], kept: list[tuple[Contribution, ...]]) -> Contribution:
    one = round(1 / measure.grid_step) if measure.grid_step < 1 else 1
    if measure.kind is MeasureKind.UNITS:
        return one
    if measure.kind is MeasureKind.ROWS:
        return len(kept) * one
    assert measure.code is not None
    values: list[Any] = [row[codes.index(measure.code)] for row in kept]
    match measure.kind:
        case MeasureKind.SUM | MeasureKind.CENTRED_SUM:
            return sum(value - measure.centre for value in values)
        case MeasureKind.CENTRED_SQUARES:
            return sum((value - measure.square_centre) ** 2 - measure.centre for value in values)
        case MeasureKind.VECTOR:
            return tuple(sum(numbers) for numbers in zip(*values, strict=True))
    counts = Counter(values)
    return tuple(counts[index] * one for index in range(measure.summed_width))


def _clipped(
    contributions: dict[tuple[Any, ...], dict[str, Contribution]], measures: Sequence[Measure], l2: float
) -> dict[tuple[Any, ...], dict[str, Contribution]]:
    """A unit's whole vector scaled to norm `l2`, rounded towards zero."""
    squares = 0.0
    for contribution in contributions.values():
        for measure in measures:
            if measure.clip_scale and measure.name in contribution:
                squares += sum((x / measure.clip_scale) ** 2 for x in _nodes(measure, contribution[measure.name]))
    factor = min(1.0, l2 * (1 - 1e-9) / math.sqrt(squares)) if squares else 1.0
    scales = {measure.name: factor if measure.clip_scale else 1.0 for measure in measures}
    return {
        key: {name: _scaled(value, scales[name]) for name, value in contribution.items()}
        for key, contribution in contributions.items()
    }


def _nodes(measure: Measure, value: Contribution) -> list[int]:
    """Every coordinate that noise is added to: of a tree, all levels below the root."""
    nodes = list(value) if isinstance(value, tuple) else [value]
    level = nodes
    while measure.kind is MeasureKind.TREE and len(level) > TREE_FANOUT:
        level = [sum(level[at : at + TREE_FANOUT]) for at in range(0, len(level), TREE_FANOUT)]
        nodes = nodes + level
    return nodes


def _scaled(value: Contribution, factor: float) -> Contribution:
    if isinstance(value, tuple):
        return tuple(math.trunc(number * factor) for number in value)
    return math.trunc(value * factor)


def _nothing(measure: Measure) -> Contribution:
    wide = measure.kind in (MeasureKind.BINS, MeasureKind.TREE, MeasureKind.VECTOR)
    return (0,) * measure.summed_width if wide else 0


def _added(one: Contribution, two: Contribution) -> Contribution:
    if isinstance(one, tuple) and isinstance(two, tuple):
        return tuple(a + b for a, b in zip(one, two, strict=True))
    assert isinstance(one, int)
    assert isinstance(two, int)
    return one + two
