"""Compiled definitions, byte for byte: what manifests hash, and what tells that a definition has changed.

`UPDATE_GOLDEN=1 pytest tests/golden/test_compiled_golden.py` writes them anew. A changed golden file means that every
project must raise its versions: read the difference.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from governance.canonical import canonical_bytes, sha256_hex
from pipelines import (
    ZCDP,
    ApproxDP,
    ContentEmbedding,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    Interval,
    KeepRandom,
    Mean,
    Metric,
    PrivacyUnit,
    PrivateSelection,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    PublicTable,
    PureDP,
    Purpose,
    Signal,
    Sum,
    UnitKind,
    Window,
)
from pipelines.compiled import compile_definition, definition_bytes, definition_sha256
from pipelines.definitions import Definition

FOLDER = Path(__file__).parent
PLAYS = EventSource(name="plays", table="data/plays.parquet", timestamp="played_at", person="user_id")
CATALOGUE = PublicTable(name="items", table="data/items.parquet")

GENRE_SECONDS = Signal(
    name="genre_listening_seconds",
    version=1,
    owner="reco-platform",
    purpose=Purpose.RANKING,
    description="Seconds listened to each genre in a week.",
    source=PLAYS,
    joins=(PublicJoin(table=CATALOGUE, on="item_id", columns=("genres",), explode="genres"),),
    privacy_unit=PrivacyUnit("user_id"),
    entity=Entity("genre", ("genres", "country")),
    aggregates={
        "listeners": CountDistinct(),
        "plays": Count(),
        "seconds": Sum("seconds_played", Interval(0, 600)),
        "rating": Mean("rating", Interval(0.5, 5.0, step=0.5)),
    },
    window=Window(length=timedelta(days=7), stride=timedelta(days=1)),
    bounds=KeepRandom(max_partitions=8, max_rows_per_partition=20),
    partitions=PrivateSelection(delta=1e-9),
    budget_per_release=ZCDP(rho=0.005),
    ttl=timedelta(days=14),
)
USER_DAYS = Signal(
    name="user_affinity",
    version=3,
    owner="müller",
    purpose=Purpose.EXPLORATION,
    description="“Taste”, by day.",
    source=PLAYS,
    privacy_unit=PrivacyUnit("user_id", per=timedelta(days=1)),
    entity=Entity("user_day", ("user_id", "day", "country")),
    aggregates={"plays": Count()},
    window=Window(timedelta(days=1), origin=datetime(2025, 1, 1, 6, tzinfo=UTC)),
    bounds=KeepRandom(max_partitions=1, max_rows_per_partition=5),
    partitions=PublicPartitions(
        {
            "user_id": PublicColumn(table=PublicTable(name="users", table="data/users.parquet"), column="user_id"),
            "day": (date(2025, 1, 1), date(2025, 1, 2)),
            "country": ("DE", "FR"),
        }
    ),
    budget_per_release=PureDP(epsilon=1),
    ttl=timedelta(hours=36),
)
EVENTS_APPROX = Signal(
    name="trend",
    version=1,
    owner="o",
    purpose=Purpose.TRENDS,
    description="Plays.",
    source=PLAYS,
    privacy_unit=PrivacyUnit(("shop", "receipt"), kind=UnitKind.EVENT),
    entity=Entity("shop", "shop_id"),
    aggregates={"plays": Count()},
    window=Window(timedelta(days=365)),
    bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1),
    partitions=PublicPartitions({"shop_id": (3, 1, 2)}),
    budget_per_release=ApproxDP(epsilon=0.5, delta=1e-7),
    ttl=timedelta(days=400),
)
ITEM_CONTENT = ContentEmbedding(
    name="item_content",
    version=2,
    owner="o",
    purpose=Purpose.RETRIEVAL,
    description="Item vectors.",
    source=CATALOGUE,
    key="item_id",
    title="title",
    categories=("genres",),
    numeric=("year",),
    dimensions=32,
    metric=Metric.DOT,
)


@pytest.mark.parametrize("definition", [GENRE_SECONDS, USER_DAYS, EVENTS_APPROX, ITEM_CONTENT], ids=lambda d: d.name)
def test_compiled(definition: Definition) -> None:
    path = FOLDER / f"compiled_{definition.name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        text = json.dumps(compile_definition(definition), indent=1, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert compile_definition(definition) == golden
    assert definition_bytes(definition) == canonical_bytes(golden)
    assert definition_sha256(definition) == sha256_hex(canonical_bytes(golden))
