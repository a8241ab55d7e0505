"""Compiled definitions tell apart what releases different things, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines import (
    ZCDP,
    ApproxDP,
    ClipNorm,
    ContributionProfile,
    Count,
    CountDistinct,
    Entity,
    Interval,
    KeepRandom,
    PrivacyUnit,
    PrivateSelection,
    PublicJoin,
    PublicPartitions,
    Purpose,
    Quantiles,
    Relation,
    ReleasedColumn,
    Sum,
    TopK,
    UnitKind,
    WeightedUnits,
    Window,
)
from pipelines.compiled import SCHEMA, compile_definition, definition_sha256, releases_the_same
from tests.support.projects import EVENTS, ITEMS, a_signal

ROOT = Path(__file__).parents[2]
DAY = timedelta(days=1)

CHANGES: list[dict[str, Any]] = [
    {},
    {"name": "other"},
    {"version": 2},
    {"owner": "others"},
    {"purpose": Purpose.TRENDS},
    {"description": "Other."},
    {"source": replace(EVENTS, person="user_id", timestamp="at")},
    {"joins": (PublicJoin(table=ITEMS, on="item_id", columns=("genre",)),)},
    {"joins": (PublicJoin(table=ITEMS, on="item_id", columns=("genre",), explode="genre"),)},
    {"privacy_unit": PrivacyUnit("user_id", per=DAY)},
    {"privacy_unit": PrivacyUnit("event_id", kind=UnitKind.EVENT)},
    {"entity": Entity("thing", "item_id")},
    {"entity": Entity("item", ("item_id", "country"))},
    {"aggregates": {"users": CountDistinct()}},
    {"aggregates": {"n": Count()}},
    {"aggregates": {"users": Sum("value", Interval(0, 1))}},
    {"aggregates": {"users": Sum("value", Interval(0, 1, step=0.5))}},
    {"aggregates": {"users": Sum("other", Interval(0, 1))}},
    {"window": Window(DAY)},
    {"window": Window(7 * DAY, DAY)},
    {"window": Window(7 * DAY, origin=datetime(2025, 1, 1, tzinfo=UTC))},
    {"bounds": KeepRandom(max_partitions=4, max_rows_per_partition=1)},
    {"bounds": KeepRandom(max_partitions=3, max_rows_per_partition=2)},
    {"partitions": PrivateSelection(delta=1e-8)},
    {"partitions": PublicPartitions({"item_id": (1, 2)})},
    {"partitions": PublicPartitions({"item_id": ("1", "2")})},
    {"partitions": PublicPartitions({"item_id": ("2025-01-01",)})},
    {"partitions": PublicPartitions({"item_id": (date(2025, 1, 1),)})},
    {"budget_per_release": ZCDP(0.1)},
    {"budget_per_release": ApproxDP(0.1, 1e-6)},
    {"ttl": timedelta(days=14, seconds=1)},
    {"source": replace(EVENTS, arrival="seen")},
    {"privacy_unit": PrivacyUnit("user_id", relation=Relation.REPLACE_ONE)},
    {"aggregates": {"users": Count(half_life=DAY)}},
    {"aggregates": {"users": Count(half_life=2 * DAY)}},
    {"aggregates": {"users": Quantiles("value", Interval(0, 1))}},
    {"aggregates": {"users": Quantiles("value", Interval(0, 1), bins=16)}},
    {"aggregates": {"users": TopK("value", (1, 2), 1)}},
    {"aggregates": {"users": TopK("value", ("1", "2"), 1)}},
    {"window": Window(7 * DAY, allowed_lateness=DAY)},
    {"bounds": ClipNorm(l2=3, max_partitions=3)},
    {"bounds": ClipNorm(l2=3, max_partitions=4)},
    {"partitions": PrivateSelection(delta=1e-9, by=WeightedUnits())},
    {"partitions": PublicPartitions({"item_id": ReleasedColumn(signal="p", version=1, column="item_id")})},
    {"weights": {"users": 2.0}},
]


def test_what_releases_different_things_compiles_differently() -> None:
    hashes = {definition_sha256(a_signal(**change)): change for change in CHANGES}
    assert len(hashes) == len(CHANGES)


@pytest.mark.parametrize(
    ("one", "same"),
    [
        ({"budget_per_release": ZCDP(1)}, {"budget_per_release": ZCDP(1.0)}),
        (
            {"aggregates": {"s": Sum("v", Interval(0, 10, step=1))}},
            {"aggregates": {"s": Sum("v", Interval(0.0, 10.0, step=1.0))}},
        ),
        ({"window": Window(DAY)}, {"window": Window(timedelta(hours=24), stride=DAY)}),
        ({"entity": Entity("item", "item_id")}, {"entity": Entity("item", ("item_id",))}),
        ({"joins": []}, {"joins": ()}),
        ({"profile": ContributionProfile(partitions=((3, 1.0),), origin="a survey")}, {"profile": None}),
    ],
)
def test_spellings_of_the_same_compile_to_the_same(one: dict[str, Any], same: dict[str, Any]) -> None:
    assert definition_sha256(a_signal(**one)) == definition_sha256(a_signal(**same))


def test_a_manifest_that_names_a_profile_is_of_the_same_signal() -> None:
    """So manifests were written once; what else they say still counts."""
    signal = a_signal()
    compiled = compile_definition(signal)
    profile = {"type": "ContributionProfile", "partitions": [[3, 1.0]], "origin": "a survey"}
    assert releases_the_same(compiled, signal)
    assert releases_the_same({**compiled, "profile": profile}, signal)
    assert not releases_the_same({**compiled, "profile": profile, "owner": "others"}, signal)
    assert not releases_the_same({**compiled, "surplus": None}, signal)


def test_shape() -> None:
    compiled = compile_definition(a_signal())
    assert compiled["schema"] == SCHEMA == "hedgerow.definition/1"
    assert compiled["kind"] == "signal"
    assert compiled["ttl_seconds"] == 14 * 86400
    assert compiled["budget_per_release"] == {"type": "ZCDP", "rho": 10.0}
    assert list(compiled)[2:] == ["name", "version", *list(compiled)[4:]], "in the order of the definition"


def test_the_same_in_every_process() -> None:
    """Hash seeds, locales and time zones do not show."""
    script = (
        "from tests.support.projects import a_signal\n"
        "from pipelines.compiled import definition_sha256\n"
        "print(definition_sha256(a_signal()))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed, zone in (("1", "UTC"), ("2", "America/New_York"))
    }
    assert seen == {definition_sha256(a_signal())}
