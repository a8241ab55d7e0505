"""A plan is a pure function of definition and settings: it reads nothing, writes nothing and says what it costs."""

from __future__ import annotations

import math
import socket
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from governance.canonical import canonical_bytes
from governance.errors import AccountUnknown
from governance.ledger import Balance
from governance.privacy import PrivacyLoss
from governance.settings import Settings
from pipelines import (
    ZCDP,
    ApproxDP,
    Count,
    CountDistinct,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PrivateSelection,
    PublicPartitions,
    PureDP,
    Signal,
    Sum,
    UnitKind,
)
from pipelines.plan import GROUP_SIZES, plan_signal
from tests.statistical.exact import gaussian_tail
from tests.support.projects import EVENTS, a_signal, engine_settings, with_cap

PUBLIC = PublicPartitions({"item_id": (1, 2)})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return engine_settings(tmp_path / "nothing-is-here")


def fresh(settings: Settings, signal: Signal) -> Balance:
    account = plan_signal(signal, settings).account
    return Balance(account=account.name, cap=account.cap, spent=PrivacyLoss.zero(), held=PrivacyLoss.zero())


def test_a_plan_reads_and_writes_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's folder does not even exist; opening any file, socket or process would fail the test."""

    def refuse(*arguments: object, **_: object) -> Any:
        raise AssertionError(f"a plan must not open {arguments[0]}")

    signal = a_signal(aggregates={"n": Count(), "m": Mean("v", Interval(0, 5))})
    first = plan_signal(signal, settings)
    for place, name in (
        ("builtins", "open"),
        ("io", "open"),
        ("os", "open"),
        ("os", "listdir"),
        ("sqlite3", "connect"),
    ):
        monkeypatch.setattr(f"{place}.{name}", refuse)
    monkeypatch.setattr(socket, "socket", refuse)
    again = plan_signal(signal, settings)
    monkeypatch.undo()
    assert first.to_json(fresh(settings, signal)) == again.to_json(fresh(settings, signal))
    assert not settings.root.exists()


def test_an_account_must_be_declared(settings: Settings) -> None:
    signal = a_signal(source=replace(EVENTS, name="plays"))
    with pytest.raises(
        AccountUnknown, match=r"no account 'plays/user_id'; hedgerow\.toml declares: events/user_id, "
    ) as caught:
        plan_signal(signal, settings)
    assert caught.value.account == "plays/user_id"
    with pytest.raises(AccountUnknown, match="declares: none"):
        plan_signal(signal, replace(settings, accounts=()))
    weekly = a_signal(privacy_unit=PrivacyUnit("user_id", per=timedelta(days=7)))
    with pytest.raises(AccountUnknown, match="no account 'events/user_id/week'"):
        plan_signal(weekly, settings)


@pytest.mark.parametrize(
    ("unit", "account", "words"),
    [
        (PrivacyUnit("user_id"), "events/user_id", "Hides everything any one person (user_id) did in the window, and"),
        (
            PrivacyUnit("user_id", per=timedelta(days=1)),
            "events/user_id/day",
            "Hides everything any one person (user_id) did on any one day",
        ),
        (
            PrivacyUnit("event_id", kind=UnitKind.EVENT),
            "events/event_id",
            "Hides any one event (event_id), though not a person's activity as a whole",
        ),
    ],
)
def test_who_pays_and_who_is_protected(settings: Settings, unit: PrivacyUnit, account: str, words: str) -> None:
    plan = plan_signal(a_signal(privacy_unit=unit), settings)
    assert plan.account.name == account
    assert plan.protects.startswith(words)
    assert plan.protects.endswith("except with a probability of 1e-06.")
    assert "(epsilon " in plan.protects


def test_only_pure_dp_has_no_exception(settings: Settings) -> None:
    pure = plan_signal(a_signal(budget_per_release=PureDP(1.0), partitions=PUBLIC), settings)
    assert "except" not in pure.protects
    assert "2.72" in pure.protects
    approx = plan_signal(a_signal(budget_per_release=ApproxDP(1.0, 1e-7), partitions=PUBLIC), settings)
    assert approx.protects.endswith("except with a probability of 1e-07.")


@pytest.mark.parametrize("budget", [ZCDP(0.1), ApproxDP(1.0, 1e-6), PureDP(1.0)])
def test_the_json_says_what_the_plan_says(settings: Settings, budget: Any) -> None:
    signal = a_signal(
        budget_per_release=budget,
        partitions=PUBLIC,
        aggregates={"n": Count(), "s": Sum("v", Interval(-5, 10)), "m": Mean("v", Interval(0, 5))},
        bounds=KeepRandom(max_partitions=3, max_rows_per_partition=2),
    )
    plan = plan_signal(signal, settings)
    document = plan.to_json(fresh(settings, signal))
    assert canonical_bytes(document), "it is JSON"
    assert PrivacyLoss.from_json(document["loss"]) == plan.loss
    assert document["epsilon"] == plan.calibration.epsilon
    assert document["selection"] == {"kind": "public", "threshold": None, "delta": 0.0, "release_probability": []}
    by_name = {measurement["name"]: measurement for measurement in document["measurements"]}
    assert set(by_name) == {"n", "s.centred_sum", "m.centred_sum"}
    assert (by_name["n"]["l0"], by_name["n"]["linf"], by_name["n"]["l2"]) == (3, 2, pytest.approx(2 * 3**0.5))
    assert by_name["s.centred_sum"]["linf"] == pytest.approx(15.0, rel=1e-3), "half the width, in the column's units"
    assert by_name["m.centred_sum"]["linf"] == pytest.approx(5.0, rel=1e-3), "half the width, for each of two rows"
    stddevs = {aggregate["name"]: aggregate["noise_stddev"] for aggregate in document["aggregates"]}
    centre = sum(Interval(-5, 10).grid) // 2 * Interval(-5, 10).grid_step
    both = math.hypot(by_name["s.centred_sum"]["noise_stddev"], centre * by_name["n"]["noise_stddev"])
    assert stddevs == {"n": by_name["n"]["noise_stddev"], "s": pytest.approx(both), "m": None}
    halves = {aggregate["name"]: aggregate["half_width"] for aggregate in document["aggregates"]}
    assert halves["m"] is None
    # Of Laplace noise the middle 95 % reach to 2.12 standard deviations, of Gaussian noise to 1.96; narrow noise is
    # told in whole steps.
    widths = 2.118 if isinstance(budget, PureDP) else 1.96
    assert halves["n"] == pytest.approx(widths * stddevs["n"], abs=1)
    assert halves["s"] == pytest.approx(1.96 * stddevs["s"], rel=1e-3)
    assert [aggregate["measurements"] for aggregate in document["aggregates"]] == [
        ["n"],
        ["s.centred_sum", "n"],
        ["m.centred_sum", "n"],
    ]
    assert {error["units"] for error in document["expected_relative_error"]} == set(GROUP_SIZES)


def test_errors_shrink_with_the_group(settings: Settings) -> None:
    signal = a_signal(aggregates={"n": Count(), "s": Sum("v", Interval(0, 5)), "m": Mean("v", Interval(0, 5))})
    plan = plan_signal(signal, settings)
    for column in signal.aggregates:
        errors = [error.relative for error in plan.errors if error.column == column]
        assert errors == sorted(errors, reverse=True)
        assert len(errors) == len(GROUP_SIZES)
    count = next(error for error in plan.errors if (error.column, error.units) == ("n", 100))
    sigma = plan.calibration.mechanism("n").noise_stddev
    assert count.relative == pytest.approx(math.sqrt(2 / math.pi) * sigma / 100)


def test_the_probability_of_release(settings: Settings) -> None:
    plan = plan_signal(a_signal(budget_per_release=ZCDP(0.002), partitions=PrivateSelection(delta=1e-9)), settings)
    threshold, sigma = plan.calibration.threshold, plan.calibration.mechanism("users").distribution.stddev
    assert threshold is not None
    assert 100 < threshold < 1000, "so that the group sizes straddle it"
    for units, probability in plan.selected:
        assert probability == pytest.approx(float(gaussian_tail(sigma, threshold - units)), abs=1e-4)
    assert [p for _, p in plan.selected] == sorted(p for _, p in plan.selected)


def test_how_many_windows_are_left_is_exact(settings: Settings) -> None:
    signal = a_signal(budget_per_release=ZCDP(0.1), aggregates={"u": CountDistinct()})
    for rho, expected in (("1", 10), ("0.99999999999999999999999999999999999999", 9), ("0.05", 0), ("0.3", 3)):
        limited = with_cap(settings, rho, "1")
        assert plan_signal(signal, limited).affordable(fresh(limited, signal)) == expected
    tight = with_cap(settings, "1000", "2e-9")
    plan, balance = plan_signal(signal, tight), fresh(tight, signal)
    assert plan.affordable(balance) == 1, "delta runs out first: two selections and a sampler do not fit"
    assert plan.to_json(balance)["account"]["windows_left"] == 1
    tiny = a_signal(budget_per_release=ZCDP(1e-7), partitions=PUBLIC)
    left = plan_signal(tiny, settings).affordable(fresh(settings, tiny))
    loss = plan_signal(tiny, settings).loss
    assert left == min(Fraction(1000) // Fraction(loss.rho), Fraction("1e-6") // Fraction(loss.delta))
