"""What `plan` draws and advises: error curves, and bounds compared by a public profile."""

from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from governance.errors import DefinitionError
from pipelines import (
    ZCDP,
    ClipNorm,
    ContributionProfile,
    Count,
    CountDistinct,
    Interval,
    KeepRandom,
    Mean,
    PublicPartitions,
    PureDP,
)
from pipelines.bounding_choice import compare_bounds
from pipelines.cli import balances_of, render_plan
from pipelines.curves import BUDGETS, budget_curves, draw, group_curves
from pipelines.plan import SignalPlan, plan_signal
from tests.support.projects import a_signal, engine_settings

PUBLIC = PublicPartitions({"item_id": (1, 2)})


def a_plan(tmp_path: Path, **changes: object) -> SignalPlan:
    return plan_signal(a_signal(partitions=PUBLIC, **changes), engine_settings(tmp_path))


def test_error_falls_with_the_root_of_the_budget_and_with_the_group(tmp_path: Path) -> None:
    plan = a_plan(tmp_path)
    (budget,), (group,) = budget_curves(plan), group_curves(plan)
    assert [x for x, _ in budget.points] == pytest.approx([10 * times for times in BUDGETS])
    assert budget.points[0][1] / budget.points[-1][1] == pytest.approx(10)
    assert group.points[0][1] / group.points[-1][1] == pytest.approx(group.points[-1][0] / group.points[0][0])
    told = next(error.relative for error in plan.errors if error.units == 1000)
    assert budget.points[len(BUDGETS) // 2][1] == pytest.approx(told)


def test_curves_fit_a_terminal_and_name_their_columns(tmp_path: Path) -> None:
    plan = a_plan(tmp_path, aggregates={"users": Count(), "mean": Mean("value", Interval(0, 5))})
    text = draw(budget_curves(plan), "rho of a release")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 74
    assert lines[-1].split() == ["o", "users", "x", "mean"]
    assert sum(line.count("o") for line in lines[:9]) + sum(line.count("x") for line in lines[:9]) > len(BUDGETS)
    assert lines[0].index("|") == lines[4].index("|") == 9
    # The first point of a falling curve is at the upper left, the last at the lower right.
    assert set(lines[0][10:12]) & set("ox")
    assert not set(lines[0][40:]) & set("ox")


def test_nothing_to_draw_is_no_drawing() -> None:
    assert draw((), "rho") == ""


@pytest.mark.parametrize(
    ("partitions", "winner"),
    [
        (((1, 1.0),), KeepRandom(max_partitions=1, max_rows_per_partition=1)),
        # Nine in ten units have one partition, the others very many: cutting those costs bias, clipping less noise.
        (((1, 0.9), (200, 0.1)), ClipNorm),
    ],
)
def test_the_better_bounds_follow_from_the_profile(tmp_path: Path, partitions: object, winner: object) -> None:
    profile = ContributionProfile(partitions=partitions, origin="test")  # type: ignore[arg-type]
    plan = a_plan(tmp_path, bounds=KeepRandom(max_partitions=3, max_rows_per_partition=1))
    best, *others = compare_bounds(plan, profile)
    assert best.error == min(choice.error for choice in (best, *others))
    assert best.bounds == winner or (isinstance(winner, type) and isinstance(best.bounds, winner))
    assert sum(choice.given for choice in (best, *others)) == 1


def test_what_bounds_lose_is_counted(tmp_path: Path) -> None:
    profile = ContributionProfile(partitions=((1, 0.5), (4, 0.5)), origin="test")
    given = next(c for c in compare_bounds(a_plan(tmp_path), profile) if c.given)
    # Of 1 + 4 contributions KeepRandom(3) keeps 1 + 3.
    assert given.bias == pytest.approx(1 - 4 / 5)
    assert given.noise > 0
    clipped = a_plan(tmp_path, bounds=ClipNorm(l2=1.0))
    own = next(c for c in compare_bounds(clipped, profile) if c.given)
    assert own.bias == pytest.approx(1 - (1 + 4 / math.sqrt(4)) / 5)


@pytest.mark.parametrize("rows", [1, 10])
def test_noise_is_what_the_plan_of_these_bounds_says(tmp_path: Path, rows: int) -> None:
    """`KeepRandom(4, 10)` at rho 0.01 has noise of 141, which of 1,000 is 0.141; a unit count under it has 14."""
    bounds = KeepRandom(max_partitions=4, max_rows_per_partition=rows)
    profile = ContributionProfile(partitions=((1, 0.5), (4, 0.5)), origin="test")
    for aggregates, expected in (
        ({"n": Count()}, rows * 0.01414),
        ({"u": CountDistinct()}, 0.01414),
        ({"u": CountDistinct(), "n": Count()}, None),
    ):
        plan = a_plan(tmp_path, aggregates=aggregates, bounds=bounds, budget_per_release=ZCDP(0.01))
        choices = compare_bounds(plan, profile)
        noisiest = max(mechanism.noise_stddev for mechanism in plan.calibration.mechanisms)
        given = next(choice for choice in choices if choice.given)
        assert given.noise == pytest.approx(noisiest / 1000)
        assert expected is None or given.noise == pytest.approx(expected, rel=1e-3)
        for choice in choices:
            other = plan_signal(replace(plan.signal, bounds=choice.bounds), engine_settings(tmp_path))
            output = next(output for output in other.recipe.outputs if output.name == choice.column)
            assert choice.noise == pytest.approx(other.calibration.stddev(output) / 1000)


def test_pure_privacy_needs_noise_by_all_partitions_and_cannot_clip(tmp_path: Path) -> None:
    profile = ContributionProfile(partitions=((200, 1.0),), origin="test")
    noise = {}
    for most in (4, 16):
        bounds = KeepRandom(max_partitions=most, max_rows_per_partition=1)
        choices = compare_bounds(a_plan(tmp_path, bounds=bounds, budget_per_release=PureDP(1.0)), profile)
        assert all(isinstance(choice.bounds, KeepRandom) for choice in choices)
        noise[most] = next(choice.noise for choice in choices if choice.given)
    assert noise[16] == pytest.approx(4 * noise[4], rel=0.01)


def test_other_bounds_could_be_written_down_as_they_are_told(tmp_path: Path) -> None:
    """With private selection ClipNorm needs a number of partitions, which cuts nothing here."""
    profile = ContributionProfile(partitions=((1, 0.5), (90, 0.5)), origin="test")
    plan = plan_signal(a_signal(profile=profile), engine_settings(tmp_path))
    clipped = next(c for c in compare_bounds(plan, profile) if isinstance(c.bounds, ClipNorm))
    assert clipped.bounds.max_partitions == 90
    printed = Console(width=200, file=StringIO())
    printed.print(render_plan(plan, balances_of(engine_settings(tmp_path), (plan.account,))[plan.account.name]))
    assert isinstance(printed.file, StringIO)
    text = " ".join(printed.file.getvalue().split())
    assert "Bounds by expected error of users over 1,000 rows, where a user_id has 1 row of a key (test)" in text
    assert f"ClipNorm(l2={clipped.bounds.l2:g} of 90 kept)" in text


def test_a_profile_says_where_it_comes_from_and_adds_up() -> None:
    with pytest.raises(DefinitionError, match="origin: empty"):
        ContributionProfile(partitions=((1, 1.0),), origin=" ")
    with pytest.raises(DefinitionError, match=r"shares add up to 0\.5"):
        ContributionProfile(partitions=((1, 0.5),), origin="test")
