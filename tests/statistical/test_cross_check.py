"""Every aggregate, bounding and unit against plain arithmetic: releases scatter around the bounded truth as told.

The truth is enumerated (tests.support.expected): the exact mean and variance, over all samples, of what the bounds
keep. Each case is released 10,000 times, under 20 release keys, without Spark; tests/integration/test_cross_check.py
ties that to Spark. What is told are the manifest's numbers, `noise_stddev` and `half_width`.

Every comparison is within 5.5 of its standard errors (a false-alarm rate of 4e-8 each, below 1e-4 over all of some
2,000); keys are fixed, so a pass is a pass for ever. Power: a bias of a tenth of the noise lies 10 standard errors away
and noise a tenth larger some 12, so each is missed with probability below 1e-5; both are tried and rejected.

What is no sum has a bias, which is computed here exactly from the noise's distribution (a mean, a variance) or bounded
(a quantile); a ranking has exact probabilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.calibration import Mechanism
from pipelines.definitions import Quantiles
from pipelines.manifests import guarantee_of
from pipelines.noise import KeyedNoise
from pipelines.plan import SignalPlan
from pipelines.recipes import UNCERTAIN
from tests.statistical.exact import KEY, fits, gaussian_weight, laplace_weight, power
from tests.support.cross_checked import CANDIDATES, CASES, GRID, ITEMS, STEADY, public_rows, table_rows
from tests.support.expected import Moments, expected_columns, plain_quantile
from tests.support.projects import SPAN
from tests.support.repeated import Columns, Repeated

RUNS, BLOCKS = 10_000, 20
LIMIT = 5.5
MIDDLE, HALF_SQUARE = 2.0, 4.5
"""Of the interval [-1, 5]: its middle, and half of the largest squared distance from it."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A case: what is released, what is told of it, and what is true."""

    plan: SignalPlan
    released: Columns
    told: dict[str, tuple[float, float]]
    noise: dict[str, float]
    truth: dict[tuple[int, str], Moments]

    def mechanism(self, aggregate: str) -> Mechanism:
        """Of an aggregate that is one measurement."""
        output = next(output for output in self.plan.recipe.outputs if output.aggregate == aggregate)
        return self.plan.calibration.mechanism(output.measure)

    def at(self, column: str, item: int = STEADY) -> NDArray[Any]:
        """Released values of one item, shape `(runs,)`."""
        values: NDArray[Any] = self.released[column][:, ITEMS.index(item)]
        return values


@lru_cache
def checked(name: str) -> Checked:
    plan = CASES[name].plan()
    signal, recipe, calibration = plan.signal, plan.recipe, plan.calibration
    found = expected_columns(public_rows(), signal, SPAN, recipe, calibration)
    released = Repeated(signal=signal, recipe=recipe, calibration=calibration, span=SPAN)
    return Checked(
        plan=plan,
        released=released.columns(table_rows(), RUNS, BLOCKS, name),
        told={o.name: (calibration.stddev(o), calibration.half_width(o)) for o in recipe.outputs if o.linear},
        noise={m.name: m.noise_stddev for m in guarantee_of(plan, KeyedNoise(KEY)).measurements},
        truth={(key[1], column): moments for (key, column), moments in found.items()},
    )


# --- sums -------------------------------------------------------------------------------------------------------------


def sums_of(case: Checked) -> dict[str, tuple[NDArray[np.float64], float, float]]:
    """Column → released values `(runs, items)`, their noise as the manifest tells it, and how far rounding may go.

    A mean times its count is a sum again, and so is a variance with its mean: their noise is that of one measurement.
    """
    rows = len(table_rows())
    rounding = {"x": rows * 2.0**-15, "r": rows * 2.0**-13, "w": rows * 2.0**-11}
    sums = {}
    for name, values in case.released.items():
        column = name.partition("[")[0]
        if column in case.told:
            sums[name] = values, case.told[column][0], rounding.get(name[0], 0.0)
    count = np.maximum(case.released["n"], 1.0)
    centred = case.released["m"] - MIDDLE
    squares = (case.released["v"] + np.square(centred) - HALF_SQUARE) * count
    sums["m.centred"] = centred * count, case.noise["m.centred_sum"], 0.0
    # Given back with the count's noise, which the rows' half squares carry.
    sums["v.squares"] = (
        squares + HALF_SQUARE * count,
        math.hypot(case.noise["v.centred_squares"], HALF_SQUARE * case.told["n"][0]),
        0.0,
    )
    return sums


@pytest.mark.parametrize("name", CASES)
def test_sums_scatter_around_the_bounded_truth_by_the_noise_that_the_manifest_tells(name: str) -> None:
    case = checked(name)
    sums = sums_of(case)
    assert {column[0] for column in sums} == set("nuszmvhxrw"), "every aggregate that is made of sums"
    for column, (values, noise, rounding) in sums.items():
        for place, item in enumerate(ITEMS):
            if column in ("m.centred", "v.squares") and item != STEADY:
                continue  # few rows: clamped, and not given back
            truth = case.truth.get((item, column), Moments(0.0, 0.0))
            sample = values[:, place]
            spread = math.sqrt(noise**2 + truth.variance)
            error = spread / math.sqrt(RUNS)
            bias = sample.mean() - truth.mean
            assert abs(bias) <= LIMIT * error + rounding, (column, item)
            assert abs(bias - spread / 10) > LIMIT * error, "a bias of a tenth must show"
            deviations = sample - truth.mean - bias
            variance = float(np.mean(deviations**2)) * RUNS / (RUNS - 1)
            doubt = math.sqrt((float(np.mean(deviations**4)) - variance**2) / RUNS)
            assert abs(variance - spread**2) <= LIMIT * doubt, (column, item)
            if truth.variance < noise**2 / 8:  # else the sample's own scatter, which is exact too, hides a tenth
                for factor in (1.1, 1 / 1.1):
                    wrong = (noise * factor) ** 2 + truth.variance
                    assert abs(variance - wrong) > LIMIT * doubt, (column, item, "a wrong scale must show")


@pytest.mark.parametrize("name", CASES)
def test_bounds_bind_in_every_case(name: str) -> None:
    """Else the truth would be the plain total, and nothing would be said of sampling or clipping."""
    case = checked(name)
    total = sum(row["item_id"] in ITEMS for row in table_rows())
    kept = sum(case.truth.get((item, "n"), Moments(0, 0)).mean for item in ITEMS)
    assert kept < 0.95 * total
    sampled = "sampled" in name
    assert sampled == (sum(moments.variance for moments in case.truth.values()) > 1)


# --- ratios -----------------------------------------------------------------------------------------------------------


def weights(mechanism: Mechanism) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact distribution of a measurement's noise: values in the column's units, and probabilities."""
    law = gaussian_weight if mechanism.name == "discrete Gaussian" else laplace_weight
    reach = int((12 if mechanism.name == "discrete Gaussian" else 40) * mechanism.distribution.scale) + 5
    x = np.arange(-reach, reach + 1)
    chances = law(mechanism.distribution.scale)(x)
    return x * mechanism.measure.grid_step, chances / chances.sum()


@pytest.mark.parametrize("name", CASES)
def test_means_and_variances_are_what_noisy_ratios_are_on_average(name: str) -> None:
    """Bias and all: `E[S / N']` is `S E[1 / N']`, for the noises of a sum and of a count are independent."""
    case = checked(name)
    size, first, second = (case.truth[STEADY, column].mean for column in ("n", "m.centred", "v.squares"))
    noise, chances = weights(case.mechanism("n"))
    inverse = 1 / np.maximum(size + noise, 1.0)
    once, twice = float(inverse @ chances), float(np.square(inverse) @ chances)
    stddev = case.noise["m.centred_sum"]
    mean = MIDDLE + first * once
    variance = HALF_SQUARE + (second - HALF_SQUARE * size) * once - (first**2 + stddev**2) * twice
    for column, expected in (("m", mean), ("v", variance)):
        sample = case.at(column)
        low, high = (-1.0, 5.0) if column == "m" else (0.0, 9.0)
        assert ((sample > low) & (sample < high)).all(), "nothing is clamped"
        error = float(sample.std(ddof=1)) / math.sqrt(RUNS)
        assert abs(sample.mean() - expected) <= LIMIT * error, column
        assert abs(sample.mean() - expected - sample.std() / 10) > LIMIT * error, "a bias of a tenth must show"
    # How large that bias is: less than the count's relative variance, and the sum's for a variance.
    relative = (case.noise["n"] / size) ** 2
    assert abs(mean - MIDDLE - first / size) <= 1.5 * relative * abs(first / size) + 1e-12
    plain = second / size - (first / size) ** 2
    assert abs(variance - plain) <= 1.5 * relative * 9 + 1.5 * (stddev / size) ** 2


# --- half-widths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_half_widths_hold_the_truth_in_95_of_100_releases(name: str) -> None:
    """Of 10,000 releases 95 % give or take 1.2 % (5.5 standard errors); where noise is a few steps wide, at least that
    many, and as many as its distribution says. Half-widths a tenth too small or too large hold clearly fewer, or more
    (of Laplace noise, which has heavier tails, 15 in 100).
    """
    case = checked(name)
    tried, off = 0, 1.15 if case.plan.calibration.pure else 1.1  # Laplace noise has heavier tails
    for column, (values, _, rounding) in sums_of(case).items():
        if column.partition("[")[0] not in case.told:
            continue
        half_width = case.told[column.partition("[")[0]][1]
        mechanism = case.mechanism(column[0])
        expected, fine = 0.95, mechanism.distribution.stddev > 20
        if column != "s" and not fine:
            noise, chances = weights(mechanism)
            expected = float(chances[np.abs(noise) <= half_width + 1e-9].sum())
            assert expected >= 0.95 - 1e-12
        elif case.plan.calibration.pure and column == "s":
            expected = 0.945  # two Laplace noises, told as if their sum were normal
        for place, item in enumerate(ITEMS):
            truth = case.truth.get((item, column), Moments(0.0, 0.0))
            if truth.variance > 1e-9 or rounding > 0.02 * half_width:
                continue  # the truth differs from run to run
            tried += 1
            errors = np.abs(values[:, place] - truth.mean)
            doubt = math.sqrt(expected * (1 - expected) / RUNS)
            assert abs(float((errors <= half_width + 1e-9).mean()) - expected) <= LIMIT * doubt, column
            if fine and expected == 0.95:
                for factor in (off, 1 / off):
                    share = float((errors <= half_width * factor).mean())
                    assert abs(share - expected) > LIMIT * doubt, "a half-width that is a tenth off must show"
    assert tried >= 20


@pytest.mark.parametrize("name", CASES)
def test_half_widths_beside_means_and_variances_hold_them(name: str) -> None:
    """By the first derivatives, and so only about: 95 % give or take 2 %; eight tenths of them hold fewer than 92 %."""
    case = checked(name)
    size, first, second = (case.truth[STEADY, column].mean for column in ("n", "m.centred", "v.squares"))
    for column, truth in (("m", MIDDLE + first / size), ("v", second / size - (first / size) ** 2)):
        errors, half = np.abs(case.at(column) - truth), case.at(column + UNCERTAIN)
        assert abs(float((errors <= half).mean()) - 0.95) <= 0.02
        assert float((errors <= 0.8 * half).mean()) < 0.92


# --- rankings ---------------------------------------------------------------------------------------------------------


def ranking_chances(counts: dict[int, float], noise: Mechanism) -> dict[tuple[int, ...], float]:
    """Probability of each order of three noisy counts; of equal ones the one named first comes first."""
    step = noise.measure.grid_step
    steps = {candidate: round(count / step) for candidate, count in counts.items()}
    values, chances = weights(noise)
    reach = round(values[-1] / step)
    tail = np.concatenate([[0.0], np.cumsum(chances)])  # tail[i]: below the i-th value

    def below(candidate: int, levels: NDArray[np.int64]) -> NDArray[np.float64]:
        """P[noisy count < level]."""
        return np.asarray(tail[np.clip(levels - steps[candidate] + reach, 0, len(chances))])

    found = {}
    place = CANDIDATES.index
    for order in permutations(CANDIDATES):
        first, second, third = order
        levels = np.arange(-reach, reach + 1) + steps[second]
        above = 1 - below(first, levels + (place(first) > place(second)))
        under = below(third, levels + (place(third) > place(second)))
        found[order] = float((chances * above * under).sum())
    return found


@pytest.mark.parametrize("name", CASES)
def test_rankings_come_out_as_often_as_noisy_counts_say(name: str) -> None:
    """A chi-square test at a false-alarm rate of 1e-6 over the six orders of three candidates.

    Where counts are equal, orders differ by ties alone. Noise of twice the scale, or one candidate ahead by a count,
    is rejected wherever the computed power says that it must be.
    """
    case = checked(name)
    noise = case.mechanism("t")
    row_counts = kept_rows(case)
    chances = ranking_chances(row_counts, noise)
    assert sum(chances.values()) == pytest.approx(1, abs=1e-9)
    orders = list(chances)
    first, second = case.at("t_1"), case.at("t_2")
    observed = np.array([int(((first == a) & (second == b)).sum()) for a, b, _ in orders])
    assert observed.sum() == RUNS
    exact = np.array([chances[order] for order in orders])
    assert fits(observed, exact)
    ahead = ranking_chances(row_counts | {9: row_counts[9] + 0.5 * noise.noise_stddev}, noise)
    wrong = np.array([ahead[order] for order in orders])
    assert power(exact, wrong, RUNS) > 0.9999
    assert not fits(observed, wrong)


def kept_rows(case: Checked) -> dict[int, float]:
    """Candidate → rows of the steady item that count: each unit's are alike, and so is what counts of each of them."""
    units: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    unit = case.plan.signal.privacy_unit
    for row in public_rows():
        if row["item_id"] == STEADY:
            day = () if unit.per is None else (row["ts"] // 86400,)
            units.setdefault((*(row[column] for column in unit.columns), *day), []).append(row)
    counts = dict.fromkeys(CANDIDATES, 0.0)
    for rows in units.values():
        own = expected_columns(rows, case.plan.signal, SPAN, case.plan.recipe, case.plan.calibration)
        counts[rows[0]["choice"]] += own[(0, STEADY), "n"].mean
    return counts


# --- quantiles --------------------------------------------------------------------------------------------------------

SPREADS = {
    "the whole range": (-1.0, 5.0),
    "a fifth of the range": (0.0, 1.2),
    "two bins at an end": (4.96, 5.0),
}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("bins", [16, 256])
@pytest.mark.parametrize("bounds", ["user, one row sampled", "event, clipped"])
def test_quantiles_are_near_the_plain_ones_and_within_their_half_widths(spread: str, bins: int, bounds: str) -> None:
    """2,000 releases of 600 units with one row each. At least 94 of 100 half-widths hold the plain quantile, wherever
    in the range the values lie, and a third of a median's hold fewer than 92. The bias is below a fifth of the
    scatter, or a tenth of a bin: an estimate that counts noise as rows in the empty part of the range is off by many
    times as much.
    """
    runs, units = 2000, 600
    plan = CASES[bounds].plan({"q": Quantiles("value", GRID, (0.1, 0.5, 0.9), bins=bins)})
    low, high = SPREADS[spread]
    values = [low + (high - low) * (i + 0.5) / units for i in range(units)]
    one = table_rows()[0] | {"item_id": STEADY}
    rows = [one | {"user_id": i, "event_id": i, "value": value} for i, value in enumerate(values)]
    released = Repeated(signal=plan.signal, recipe=plan.recipe, calibration=plan.calibration, span=SPAN)
    columns = released.columns(rows, runs, 4, f"{spread} {bins} {bounds}")
    for p, name in ((0.1, "q_p10"), (0.5, "q_p50"), (0.9, "q_p90")):
        truth = plain_quantile(values, p, GRID.lower, GRID.upper, bins)
        errors, half = (columns[column][:, ITEMS.index(STEADY)] for column in (name, name + UNCERTAIN))
        errors = errors - truth
        assert float((np.abs(errors) <= half + 1e-9).mean()) >= 0.94, name
        assert p != 0.5 or float((np.abs(errors) <= half / 3 + 1e-9).mean()) < 0.92, name
        assert abs(float(errors.mean())) <= max(0.2 * float(errors.std()), 0.1 * 6 / bins), name
