"""The point-in-time join as SQL that Spark and DuckDB understand, for label tables that fit no single machine.

It gives one row for each label row, whatever the data: the window function keeps one candidate each, and the outer join
keeps labels that have none. `join.newest_rows` and this pass the same conformance suite.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["point_in_time_sql"]


def point_in_time_sql(
    *, labels: str, rows: str, row_number: str, keys: Sequence[str], features: Sequence[str], ttl: int | None = None
) -> str:
    """A query that gives `row_number` and the features for each row of `labels`.

    Args:
        labels: table with the keys, `asked_time` (microseconds) and `row_number`, which tells its rows apart.
        rows: table with the keys, `event_time`, `known_from` (microseconds) and the features.
        row_number: name of that column.
        keys: names of the join keys.
        features: names of the columns wanted of `rows`.
        ttl: in microseconds, see `join.newest_rows`.
    """
    number = f"l.{_quoted(row_number)}"
    conditions = [f"l.{_quoted(key)} = r.{_quoted(key)}" for key in keys]
    conditions.append("r.known_from <= l.asked_time")
    if ttl is not None:
        conditions.append(f"r.event_time >= l.asked_time - {int(ttl)}")
    newest_first = f"ROW_NUMBER() OVER (PARTITION BY {number} ORDER BY r.event_time DESC NULLS LAST) AS candidate"
    candidates = [
        "SELECT",
        ", ".join([number, *(f"r.{_quoted(feature)}" for feature in features), newest_first]),
        f"FROM {labels} l LEFT JOIN {rows} r ON",
        " AND ".join(conditions),
    ]
    wanted = ", ".join(_quoted(name) for name in (row_number, *features))
    return " ".join(["SELECT", wanted, "FROM (", *candidates, ") AS candidates WHERE candidate = 1"])


def _quoted(name: str) -> str:
    """Backquotes, as Spark takes them; DuckDB takes double quotes in their place."""
    return "`" + name.replace("`", "``") + "`"
