"""The engine seen from outside stays below its claims, and each planted fault shows: `benchmarks.audit` on fewer runs.

Bounds are at 1 - 1e-6 each (nine a case), seeds are fixed. The benchmark itself makes more runs and comes closer.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import pytest

import benchmarks.audit as module
from benchmarks._audited import CASES, FAULTS, Case, Fault
from benchmarks.audit import audit

BY_NAME = {case.name: case for case in CASES}
HIDDEN = (
    "top_k",
    "quantiles",
    "selection_by_weight",
    "selection_in_two_rounds",
    "selection_of_a_unit_s_own_keys",
    "two_rounds_of_a_unit_s_own_keys",
    "count_of_a_scattered_unit",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_engine_stays_below_its_claims(case: Case) -> None:
    found = audit(case, 4000, seed=1)
    assert not found["above_claim"], found
    if case.name not in HIDDEN:
        assert found["ratio"] > 0.3, "an audit that sees nothing would prove nothing"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_planted_faults_are_caught(fault: Fault) -> None:
    runs = 20_000 if fault.name == "noise_drawn_twice_and_averaged" else 6000
    assert audit(BY_NAME[fault.case], runs, fault, seed=2)["above_claim"]


def test_a_unit_s_own_keys_show_about_as_often_as_claimed() -> None:
    found = audit(BY_NAME["selection_of_a_unit_s_own_keys"], 20_000, seed=3)
    assert found["claimed_exposure"] == 0.009
    assert 0.5 < found["exposure_ratio"] <= 1


def test_what_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "audit", partial(audit, seed=4))
    monkeypatch.setattr(sys, "argv", ["audit", "--runs", "400", "--fault-runs", "400", "--json"])
    module.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["below_every_claim"] is True
    assert {one["case"] for one in printed["audited"]} == set(BY_NAME)
    assert {one["fault"] for one in printed["faults"]} == {fault.name for fault in FAULTS}
    assert all(one["epsilon_lower_bound"] <= one["claimed_epsilon"] for one in printed["audited"])
    assert 0.999 < printed["confidence"] < 1
