"""An independent computation of a bounded aggregation: plain Python over dictionaries, no Spark, no NumPy.

It follows the definition's words, not the engine's code: clamp and round each value, keep the rows with the smallest
salted hashes, keep the partitions with the smallest salted hashes, sum. Only the hash itself (xxHash64, chained over
columns from seed 42, as Spark documents it) is shared, through another implementation of it.
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import xxhash

from pipelines.definitions import Signal
from pipelines.measurements import Measure, MeasureKind, recipe_of
from pipelines.windows import Span

Row = Mapping[str, Any]


def chained_hash(*values: object) -> int:
    """Spark's `xxhash64(values...)` for int64, string and date columns, as a signed number."""
    state = 42
    for value in values:
        if isinstance(value, date):
            data = struct.pack("<i", (value - date(1970, 1, 1)).days)
        elif isinstance(value, int):
            data = struct.pack("<q", value)
        else:
            data = str(value).encode()
        state = xxhash.xxh64_intdigest(data, seed=state)
    return state - (1 << 64) if state >= 1 << 63 else state


def on_grid(measure: Measure, value: float) -> int:
    """A value in whole steps."""
    assert measure.interval is not None
    lowest, highest = measure.interval.grid
    clamped = min(max(value, measure.interval.lower), measure.interval.upper)
    return min(max(math.floor(clamped / measure.grid_step + 0.5), lowest), highest) - measure.centre


def codes_of(row: Row, valued: list[Measure]) -> list[int]:
    """Steps above the lowest one, once for each column and interval."""
    codes = {}
    for measure in valued:
        assert measure.interval is not None
        uncentred = on_grid(measure, float(row[measure.column or ""])) + measure.centre
        codes[measure.column, measure.interval] = uncentred - measure.interval.grid[0]
    return list(codes.values())


def seconds(value: Any) -> int:
    """An event time in whole Unix seconds."""
    return math.floor(value.replace(tzinfo=UTC).timestamp()) if isinstance(value, datetime) else int(value)


def bounded_sums(
    rows: Iterable[Row],
    signal: Signal,
    span: Span,
    row_salt: int,
    partition_salt: int,
    allowed: Callable[[Row], bool] = lambda _: True,
) -> dict[tuple[Any, ...], dict[str, int]]:
    """Exact bounded sums: partition key → measurement → integer. `rows` have joins done already;
    those of keys that are not `allowed` (outside a public domain) do not count."""
    measures = recipe_of(signal).measures
    valued = [measure for measure in measures if measure.column is not None]
    units: dict[tuple[Any, ...], dict[tuple[Any, ...], list[tuple[Any, ...]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        moment = seconds(row[signal.source.timestamp])
        if not span.start.timestamp() <= moment < span.end.timestamp():
            continue
        if not allowed(row):
            continue
        unit = tuple(row[column] for column in signal.privacy_unit.columns)
        if signal.privacy_unit.per is not None:
            length = int(signal.privacy_unit.per.total_seconds())
            unit = (*unit, moment // length * length)
        key = tuple(row[column] for column in signal.entity.keys)
        values = tuple(on_grid(measure, float(row[measure.column])) for measure in valued)
        rank = chained_hash(row_salt, *unit, *key, moment, *codes_of(row, valued)) >> 31
        units[unit][key].append((rank, *values))
    sums: dict[tuple[Any, ...], dict[str, int]] = defaultdict(lambda: dict.fromkeys((m.name for m in measures), 0))
    for unit, partitions in units.items():
        chosen = sorted(partitions, key=lambda key: (chained_hash(partition_salt, *unit, *key), *key))
        for key in chosen[: signal.bounds.max_partitions]:
            kept = sorted(partitions[key])[: signal.bounds.max_rows_per_partition]
            for measure in measures:
                sums[key][measure.name] += _contribution(measure, valued, kept)
    return dict(sums)


def _contribution(measure: Measure, valued: list[Measure], kept: list[tuple[Any, ...]]) -> int:
    if measure.kind is MeasureKind.UNITS:
        return 1
    if measure.kind is MeasureKind.ROWS:
        return len(kept)
    position = 1 + valued.index(measure)
    return sum(row[position] for row in kept)


def exploded(rows: Iterable[Row], facts: Mapping[Any, Row], on: str, column: str) -> list[Row]:
    """Rows joined with public facts, one for each element of a list."""
    return [{**row, column: item} for row in rows if row[on] in facts for item in facts[row[on]][column]]


__all__ = ["Row", "bounded_sums", "chained_hash", "exploded", "on_grid", "seconds"]
