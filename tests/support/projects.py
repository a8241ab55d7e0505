"""Small projects with event tables, for tests that run the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from governance.privacy import PrivacyLoss
from governance.settings import Account, Calendar, Settings, Spark
from pipelines import (
    ZCDP,
    Count,
    Entity,
    EventSource,
    KeepRandom,
    PrivacyUnit,
    PrivateSelection,
    PublicTable,
    Purpose,
    Signal,
    Window,
)
from pipelines.definitions import Aggregate
from pipelines.windows import Span

START = datetime(2025, 11, 3, tzinfo=UTC)
WEEK = timedelta(days=7)
SPAN = Span(START, START + WEEK)
EVENTS = EventSource(name="events", table="data/events.parquet", timestamp="ts", person="user_id")
ITEMS = PublicTable(name="items", table="data/items.parquet")
USERS = PublicTable(name="users", table="data/users.parquet")


def a_signal(**changes: Any) -> Signal:
    """A lawful signal: weekly users per item; `changes` replace fields."""
    aggregates: Mapping[str, Aggregate] = {"users": Count()}
    fields: dict[str, Any] = {
        "name": "item_weekly",
        "version": 1,
        "owner": "tests",
        "purpose": Purpose.RANKING,
        "description": "Users of each item in a week.",
        "source": EVENTS,
        "privacy_unit": PrivacyUnit("user_id"),
        "entity": Entity("item", ("item_id",)),
        "aggregates": aggregates,
        "window": Window(WEEK),
        "bounds": KeepRandom(max_partitions=3, max_rows_per_partition=1),
        "partitions": PrivateSelection(delta=1e-9),
        "budget_per_release": ZCDP(10.0),
        "ttl": timedelta(days=14),
    }
    return Signal(**{**fields, **changes})


def engine_settings(root: Path, *, rho: str = "1000") -> Settings:
    """Settings of a project whose accounts pay for anything, with a three-week calendar from `START`."""
    cap = PrivacyLoss.of(rho, "1e-6")
    return Settings(
        root=root,
        name="tests",
        signals_dir=root / "signals",
        state_dir=root / "var",
        calendar=Calendar(first_day=date(2025, 11, 3), last_day=date(2025, 11, 23)),
        accounts=tuple(
            Account(dataset="events", unit=unit, cap=cap) for unit in ("user_id", "user_id/day", "event_id")
        ),
        spark=Spark(master="local[2]", driver_memory="2g", shuffle_partitions=2),
    )


def with_cap(settings: Settings, rho: str, delta: str = "1e-6") -> Settings:
    """The same project with smaller caps."""
    accounts = tuple(replace(account, cap=PrivacyLoss.of(rho, delta)) for account in settings.accounts)
    return replace(settings, accounts=accounts)


def make_events(
    *, seed: int = 1, events: int = 3000, users: int = 60, items: int = 12, days: int = 21, text: bool = False
) -> dict[str, list[Any]]:
    """An event table: skewed items, values outside their interval too, exact duplicates, 21 days from `START`."""
    random = np.random.default_rng(seed)
    user = random.integers(0, users, events)
    item = np.minimum(random.geometric(0.25, events) - 1, items - 1)
    value = np.round(random.uniform(-2, 7, events), 2)
    moment = int(START.timestamp()) + random.integers(0, days * 86400, events)
    duplicates = random.integers(0, events, events // 20)
    order = np.concatenate([np.arange(events), duplicates])
    columns: dict[str, list[Any]] = {
        "user_id": [f"ü{u}" for u in user[order].tolist()] if text else user[order].tolist(),
        "item_id": [f"item {i}/é" for i in item[order].tolist()] if text else item[order].tolist(),
        "value": value[order].tolist(),
        "ts": moment[order].tolist(),
        "event_id": list(range(len(order))),
        "tag": [("a", "b", "é", "other")[i] for i in ((user + item) % 4)[order].tolist()],
        "vector": np.stack([value, user % 5 - 2, item % 3], axis=1)[order].tolist(),
    }
    return columns


def write_tables(
    root: Path, events: Mapping[str, list[Any]], *, files: int = 1, items: int = 12, users: int = 60
) -> None:
    """Writes the event table (one file, or a folder of several), the items with 0-3 genres each, and the user list."""
    data = root / "data"
    data.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: pa.array(column) for name, column in events.items()})
    if files == 1:
        pq.write_table(table, data / "events.parquet")
    else:
        (data / "events.parquet").mkdir()
        for index in range(files):
            part = table.slice(index * table.num_rows // files, -(-table.num_rows // files))
            pq.write_table(part, data / "events.parquet" / f"part-{index}.parquet")
    genres = [["drama", "crime", "comedy"][: item % 4] for item in range(items)]
    pq.write_table(pa.table({"item_id": list(range(items)), "genre": genres}), data / "items.parquet")
    pq.write_table(pa.table({"user_id": list(range(users))}), data / "users.parquet")


def write_definition(root: Path, body: str, name: str = "signal") -> None:
    """One definition file of a project."""
    (root / "signals").mkdir(parents=True, exist_ok=True)
    (root / "signals" / f"{name}.py").write_text(body, encoding="utf-8")


def rows_of(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Columns as rows."""
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
