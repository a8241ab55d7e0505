"""Small tables and signals on which the engine is held against plain arithmetic: every aggregate, bounding and unit.

The table of one run has four items that are public (0, 1, 2, 4) and one that is not (3).

    2       steady: each unit has this item alone, and rows that are alike: bounds cut, yet the truth is always the same
    0, 1    varied: units with more items and more rows than are kept, values outside of their interval among them
    4       nobody is there
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pipelines import (
    ZCDP,
    ClipNorm,
    Count,
    CountDistinct,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PureDP,
    Quantiles,
    Relation,
    Sum,
    TopK,
    UnitKind,
    Variance,
    VectorSum,
)
from pipelines.definitions import Aggregate, Bounding, Budget
from pipelines.plan import SignalPlan, plan_signal
from tests.support.projects import START, engine_settings, with_cap
from tests.support.repeated import repeatable

__all__ = ["CANDIDATES", "CASES", "EVERY", "GRID", "ITEMS", "STEADY", "Case", "public_rows", "table_rows"]

ITEMS = (0, 1, 2, 4)
STEADY = 2
GRID = Interval(-1, 5)
CANDIDATES = (2, 5, 9)
EVERY: Mapping[str, Aggregate] = {
    "n": Count(),
    "u": CountDistinct(),
    "s": Sum("value", GRID),  # measured as a centred sum and a count
    "z": Sum("value", Interval(-4, 4)),  # measured as it is
    "m": Mean("value", GRID),
    "v": Variance("value", GRID),
    "h": Histogram("value", (-1.0, 1.0, 3.0, 5.0)),
    "q": Quantiles("value", GRID, (0.25, 0.5, 0.9), bins=16),
    "t": TopK("choice", CANDIDATES, 2),
    "x": VectorSum("vector", 3, 1.0),
    "r": Count(half_life=timedelta(days=2)),
    "w": Sum("value", GRID, half_life=timedelta(days=2)),
}
"""All eleven aggregates; a sum in both ways in which it is measured."""

_FIRST = int(START.timestamp())
_DAY = 86400
_STEADY_USERS = 24


def table_rows() -> list[dict[str, Any]]:
    """The rows of one run, without its number."""
    rows = []
    for user in range(_STEADY_USERS):
        steady = {
            "user_id": user,
            "item_id": STEADY,
            "value": user % 12 * 0.5 - 0.5,
            "choice": CANDIDATES[user % 3],
            "ts": _FIRST + user % 7 * _DAY + 5,
            "vector": [0.125 * (user % 4) - 0.25, 0.25, -0.25],
        }
        rows += [steady | {"event_id": 4 * user + i} for i in range(4)]
    for user in range(_STEADY_USERS, _STEADY_USERS + 4):
        for item in (0, 1, 3)[: 2 + user % 2]:
            for i in range(5):
                n = 17 * user + 5 * item + i
                rows.append(
                    {
                        "user_id": user,
                        "item_id": item,
                        "value": n * 11 % 40 * 0.25 - 3,
                        "choice": (2, 5, 9, 7)[n % 4],
                        "ts": _FIRST + (i // 3 + user) % 7 * _DAY + 25_000 * i % _DAY,
                        # Some events have a row in several items, and several rows in one of them.
                        "event_id": 900 + user + i // 3 if i else 100 + n,
                        "vector": [n * 5 % 16 * 0.25 - 2, n % 7 * 0.25 - 0.75, n % 3 * 0.5],
                    }
                )
    return rows


def public_rows(run: int = 0) -> list[dict[str, Any]]:
    """The rows of public items, with the run's number."""
    return [row | {"run": run} for row in table_rows() if row["item_id"] in ITEMS]


_USER = PrivacyUnit("user_id")
_BUDGET = ZCDP(4.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Bounds, a unit and a budget."""

    bounds: Bounding
    unit: PrivacyUnit = _USER
    budget: Budget = _BUDGET

    def plan(self, aggregates: Mapping[str, Aggregate] = EVERY, runs: int = 1) -> SignalPlan:
        """The signal and its noise; nothing is read."""
        signal = repeatable(
            ITEMS,
            runs,
            aggregates=aggregates,
            bounds=self.bounds,
            privacy_unit=self.unit,
            budget_per_release=self.budget,
        )
        return plan_signal(signal, with_cap(engine_settings(Path("nowhere")), "1", "1e-9"))


_DAYS = PrivacyUnit("user_id", per=timedelta(days=1))
_EVENT = PrivacyUnit("event_id", kind=UnitKind.EVENT)
_REPLACED = PrivacyUnit("user_id", relation=Relation.REPLACE_ONE)
CASES = {
    "user, sampled": Case(bounds=KeepRandom(max_partitions=1, max_rows_per_partition=3)),
    "user, one row sampled": Case(bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1), budget=ZCDP(2.0)),
    "user-day, sampled": Case(bounds=KeepRandom(max_partitions=1, max_rows_per_partition=2), unit=_DAYS),
    "event, sampled": Case(bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1), unit=_EVENT, budget=ZCDP(2)),
    "replaced user, sampled": Case(
        bounds=KeepRandom(max_partitions=1, max_rows_per_partition=3), unit=_REPLACED, budget=ZCDP(8.0)
    ),
    "user, sampled, Laplace": Case(
        bounds=KeepRandom(max_partitions=1, max_rows_per_partition=2), budget=PureDP(epsilon=20.0)
    ),
    "user, clipped": Case(bounds=ClipNorm(l2=3.0)),
    "user, sampled and clipped": Case(bounds=ClipNorm(l2=3.0, max_partitions=1)),
    "user-day, clipped": Case(bounds=ClipNorm(l2=2.0), unit=_DAYS),
    "event, clipped": Case(bounds=ClipNorm(l2=0.7), unit=_EVENT, budget=ZCDP(1.0)),
    "replaced user, clipped": Case(bounds=ClipNorm(l2=2.0), unit=_REPLACED),
}
