"""What accounts have lost: parts add up to the whole, and a fixed plan is another claim than the filter."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.accounting import FILTER_CLAIM, account_views
from governance.errors import ConfigError
from governance.ledger import Ledger
from governance.privacy import PrivacyLoss, epsilon_of_rho
from governance.release import Measurement
from governance.settings import Account
from pipelines.fixed_plan import PLAN_CLAIM, _laplace_scale, fixed_plan, release_events
from tests.support.releases import make_project, make_release
from tests.support.strategies import examples

DELTA = 1e-6
MONTHLY = Account(dataset="events", unit="user_id/30 days", cap=PrivacyLoss.of("0.3", "1e-7"), renews_days=30)


def test_parts_add_up_to_the_lifetime(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        for number, (window, period) in enumerate(
            [("2025-10-06", "2025-09-29"), ("2025-10-13", "2025-09-29"), ("2025-11-03", "2025-10-29")]
        ):
            for name in ("a", "b"):
                run_id = f"{name}{number}"
                ledger.reserve(run_id, MONTHLY, f"{name}/v1/{window}", PrivacyLoss.of("0.05", "1e-9"), period)
                ledger.draw(run_id)
        ledger.reserve("again", MONTHLY, "a/v1/2025-11-03", PrivacyLoss.of("0.05", "1e-9"), "2025-10-29")
        ledger.draw("again")
        ledger.reserve("held", MONTHLY, "c/v1/2025-11-03", PrivacyLoss.of("0.01", 0), "2025-10-29")
        (view,) = account_views(ledger.entries(), DELTA)
    assert view.lifetime.loss == PrivacyLoss.of("0.35", "7e-9")
    assert view.held == PrivacyLoss.of("0.01", 0)
    for parts in (view.periods, view.windows, view.releases):
        assert sum((part.spent.loss for part in parts), PrivacyLoss.zero()) == view.lifetime.loss
    assert [(part.name, part.spent.loss.rho) for part in view.periods] == [
        ("2025-09-29", PrivacyLoss.of("0.2", 0).rho),
        ("2025-10-29", PrivacyLoss.of("0.15", 0).rho),
    ]
    assert {part.name: part.runs for part in view.releases}["a/v1/2025-11-03"] == 2
    assert view.lifetime.epsilon == pytest.approx(epsilon_of_rho(0.35, DELTA - 7e-9), abs=2e-6)
    assert view.lifetime.epsilon > max(part.spent.epsilon or math.inf for part in view.periods)
    assert view.to_json()["claim"] == FILTER_CLAIM


@given(st.integers(0, 20_000), st.integers(1, 400), st.data())
@examples(200)
def test_a_window_lies_in_the_period_that_its_unit_spans(day: int, length: int, data: st.DataObject) -> None:
    """Exactly the release's units: those whose span is the period; a window that reaches into two is refused."""
    account = replace(MONTHLY, renews_days=length)
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)
    end = start + timedelta(hours=data.draw(st.integers(1, 24 * 40)))
    first_hour, last_hour = day * 24, day * 24 + (end - start) // timedelta(hours=1) - 1
    if first_hour // (24 * length) == last_hour // (24 * length):
        period = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day // length * length)
        assert account.period(start, end) == period.date().isoformat()
    else:
        with pytest.raises(ConfigError, match="reaches beyond the period"):
            account.period(start, end)
    assert replace(account, renews_days=None).period(start, end) is None


def test_a_fixed_plan_is_below_the_filter_and_grouped(tmp_path: Path) -> None:
    settings = make_project(tmp_path / "project")
    with Ledger(settings.ledger_path) as ledger:
        manifest = make_release(
            settings,
            ledger,
            signal="weekly",
            keys={"item": "int64"},
            features={"users": "int64"},
            rows={"item": [1], "users": [30]},
        )
    rho = 0.01
    measure = Measurement(
        name="users",
        grid_step=2.0,
        l0=4,
        coordinates=4,
        linf=1,
        l2=2.0,
        mechanism="discrete Gaussian",
        noise_stddev=2.0 * 2.0 / math.sqrt(2 * rho),
        rho="0.01",
    )
    gaussian = replace(manifest, guarantee=replace(manifest.guarantee, measurements=(measure,), delta="1e-9"))
    for count in (1, 30):
        plan = fixed_plan([gaussian] * count, DELTA)
        filtered = PrivacyLoss.of(str(count * rho), f"{count}e-9").epsilon(DELTA)
        assert plan.epsilon is not None
        assert 0.8 * filtered < plan.epsilon < filtered
        assert (plan.releases, plan.kinds) == (count, 1)
    assert plan.to_json()["claim"] == PLAN_CLAIM
    laplace = replace(measure, mechanism="discrete Laplace", l0=1, noise_stddev=30.0)
    other = replace(gaussian, guarantee=replace(gaussian.guarantee, measurements=(laplace,)))
    mixed = fixed_plan([gaussian, other, other], DELTA)
    assert (mixed.releases, mixed.kinds) == (3, 2)
    assert mixed.epsilon is not None
    unknown = replace(gaussian, guarantee=replace(gaussian.guarantee, measurements=(replace(measure, mechanism="x"),)))
    assert release_events(unknown) is None
    assert fixed_plan([gaussian, unknown], DELTA).epsilon is None
    assert fixed_plan([], DELTA).epsilon == 0


@pytest.mark.parametrize("scale", [0.3, 1.0, 28.0, 1e4])
def test_the_scale_of_discrete_laplace_noise_from_its_deviation(scale: float) -> None:
    a = math.exp(-1 / scale)
    assert _laplace_scale(math.sqrt(2 * a) / (1 - a)) == pytest.approx(scale, rel=1e-6)
