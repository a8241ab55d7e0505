"""The threshold of private selection, everywhere it is printed or written: in units or weight, never in grid steps."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from benchmarks._sparkless import Sparkless
from governance.disclosure.hazards import hazards_of
from governance.ledger import Balance, open_ledger
from governance.policy.facts import request_of_manifest
from governance.policy.requests import Action
from governance.privacy import PrivacyLoss
from governance.release import Guarantee, Manifest
from governance.report import build, report_key, write
from pipelines import (
    ZCDP,
    AdaptiveWeights,
    ClipNorm,
    Count,
    CountDistinct,
    KeepRandom,
    PrivateSelection,
    PublicPartitions,
    Signal,
    WeightedUnits,
)
from pipelines.cli import render_plan
from pipelines.manifests import guarantee_of
from pipelines.noise import KeyedNoise, ReleaseKey
from pipelines.plan import SignalPlan, plan_signal
from pipelines.policy import request_of_plan
from tests.support.projects import SPAN, a_signal, engine_settings
from tests.support.releases import make_project, make_release
from tests.support.report_fixture import NOW, SIGNALS, make_empty_shop

KEY = ReleaseKey(bytes(range(32)))
CLIP = ClipNorm(l2=2.0, max_partitions=50)


def selecting(**changes: Any) -> Signal:
    return a_signal(**{"partitions": PrivateSelection(delta=1e-9), "budget_per_release": ZCDP(0.1), **changes})


CASES = {
    "units": (selecting(), 26, "26 noisy user_ids on (chance"),
    "weights": (
        selecting(partitions=PrivateSelection(delta=1e-9, by=WeightedUnits())),
        22.2766,
        "a noisy weight of 22.3 on; a user_id with t of them adds 1/sqrt(t) to each (chance",
    ),
    "weights in two rounds": (
        selecting(partitions=PrivateSelection(delta=1e-9, by=AdaptiveWeights())),
        None,
        "a noisy weight of ",
    ),
    "clipped units, measured for selection": (selecting(bounds=CLIP), 42.168, "42.2 noisy user_ids on (chance"),
    "clipped units that are released too": (
        selecting(bounds=CLIP, aggregates={"n": Count(), "u": CountDistinct()}),
        None,
        " noisy user_ids on (chance",
    ),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[SignalPlan, float, str]:
    signal, expected, text = CASES[request.param]
    plan = plan_signal(signal, engine_settings(tmp_path / "none"))
    assert plan.threshold is not None
    assert expected is None or plan.threshold == pytest.approx(expected, rel=1e-4)
    # No scheme needs more than a few hundred units here; in grid steps it would be tens of thousands at least.
    assert 5 < plan.threshold < 500
    return plan, plan.threshold, text


def told(plan: SignalPlan) -> Guarantee:
    return guarantee_of(plan, KeyedNoise(KEY))


def test_a_plan_tells_it(case: tuple[SignalPlan, float, str]) -> None:
    plan, threshold, text = case
    zero = PrivacyLoss.zero()
    balance = Balance(account=plan.account.name, cap=plan.account.cap, spent=zero, held=zero)
    assert plan.to_json(balance)["selection"]["threshold"] == threshold
    with (console := Console(width=400)).capture() as captured:
        console.print(render_plan(plan, balance))
    printed = " ".join(captured.get().split())
    assert text in printed
    assert f"{threshold:,.1f}".removesuffix(".0") in printed


def test_a_manifest_and_the_policy_tell_it(case: tuple[SignalPlan, float, str], tmp_path: Path) -> None:
    plan, threshold, _ = case
    settings = make_project(tmp_path / "shop")
    with open_ledger(settings) as ledger:
        made = make_release(
            settings,
            ledger,
            signal="s",
            keys={"item_id": "int64"},
            features={"n": "int64"},
            rows={"item_id": [1], "n": [1]},
        )
    written = replace(made, guarantee=told(plan))
    read = Manifest.from_bytes(written.to_bytes(), "here")
    assert read.guarantee.threshold == threshold
    assert request_of_manifest(settings, read).group_threshold == int(threshold)
    assert request_of_plan(plan, Action.PLAN).group_threshold == int(threshold)
    said = hazards_of(read).data_dependent_partitions.evidence
    what = "noisy weight" if "weight" in case[2] else "noisy unit count"
    assert said.startswith(f"A key shows only where its {what} is {round(threshold, 2)} or more;")


def test_a_signed_report_tells_it(case: tuple[SignalPlan, float, str], tmp_path: Path) -> None:
    plan, threshold, _ = case
    shop = make_empty_shop(tmp_path / "shop")
    of = told(plan)
    shop.release(
        SIGNALS[1],
        datetime(2025, 11, 24, tzinfo=UTC),
        change=lambda manifest: replace(
            manifest,
            guarantee=replace(manifest.guarantee, threshold=of.threshold, measurements=of.measurements),
        ),
    )
    files = write(
        build(shop.settings, shop.ledger, lambda: NOW), tmp_path / "out", key=report_key(shop.settings), paper=False
    )
    document = json.loads(files.json.read_text(encoding="utf-8"))
    assert document["releases"][0]["content"]["guarantee"]["threshold"] == threshold
    what = "noisy weight" if "weight" in case[2] else "noisy unit count"
    page = files.html.read_text(encoding="utf-8")
    assert f"a key is released where its {what} is {threshold:.4g} or more" in page
    assert f"a key is left out where its {what} is below {round(threshold, 2)}" in json.dumps(document)


def test_nothing_below_it_is_released(tmp_path: Path) -> None:
    """Groups of 30 to 59 units: of those released, the count that selects is also told, and begins at the threshold."""
    sizes = range(30, 60)
    users = [user for size in sizes for user in range(size)]
    items = [item for item, size in enumerate(sizes) for _ in range(size)]
    times = [int(SPAN.start.timestamp())] * len(users)
    events = pa.table(
        {"user_id": [7919 * i + u for i, u in zip(items, users, strict=True)], "item_id": items, "ts": times}
    )
    signal = selecting(bounds=CLIP, aggregates={"u": CountDistinct()})
    plan = plan_signal(signal, engine_settings(tmp_path))
    assert plan.threshold is not None
    shown: list[float] = []
    for draw in range(40):
        one = Sparkless(
            signal=signal, recipe=plan.recipe, calibration=plan.calibration, key=ReleaseKey(bytes([draw]) * 32)
        )
        shown += one.released(one.sums(events, end=int(SPAN.end.timestamp())))["u"].to_pylist()
    assert len(shown) > 100
    assert plan.threshold <= min(shown) < plan.threshold + 1


def test_public_keys_have_none(tmp_path: Path) -> None:
    plan = plan_signal(
        selecting(
            partitions=PublicPartitions({"item_id": (1,)}),
            bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1),
        ),
        engine_settings(tmp_path),
    )
    assert (plan.threshold, plan.threshold_text, plan.by_weight) == (None, "", False)
    assert told(plan).threshold is None
