"""Noise follows the distribution it claims, exactly; each test rejects a scale that is a tenth too large.

Sample size 200,000 a test, a false-alarm rate of 1e-6 and a power above 1 - 1e-6 (see `exact`; the power is computed
for every scale), unless a test says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.noise import (
    Distribution,
    KeyedNoise,
    ReleaseKey,
    ZeroNoise,
    discrete_gaussian,
    discrete_laplace,
    sampler,
)
from pipelines.noise.tables import Table, gaussian_table, geometric_table, laplace_table, tail_at_least
from tests.statistical.exact import (
    KEY,
    SAMPLES,
    counter_blocks,
    draw,
    edges_of,
    expected_cells,
    fits,
    gaussian_tail,
    gaussian_weight,
    laplace_weight,
    observed_cells,
    power,
    same_distribution,
    uncorrelated,
)

FAMILIES = {"gaussian": (discrete_gaussian, gaussian_weight), "laplace": (discrete_laplace, laplace_weight)}
SCALES = [
    ("gaussian", 0.5),
    ("gaussian", 3.0),
    ("gaussian", 28.0),
    ("gaussian", 4096.0),  # the largest single table
    ("gaussian", 4097.0),  # the smallest composed one
    ("gaussian", 1e5),
    ("laplace", 3.0),
    ("laplace", 1e5),
]


@pytest.mark.parametrize(("family", "scale"), SCALES)
def test_noise_has_the_exact_distribution(family: str, scale: float) -> None:
    make, weight = FAMILIES[family]
    distribution = make(scale)
    values, edges, reach = draw(distribution), edges_of(distribution.stddev), int(30 * scale) + 30
    observed = observed_cells(values, edges)
    exact = expected_cells(weight(scale), edges, reach)
    assert fits(observed, exact)
    for wrong in (scale * 1.1, scale / 1.1):
        claim = expected_cells(weight(wrong), edges, reach)
        assert not fits(observed, claim), "a wrong scale must be rejected"
        assert power(exact, claim) > 1 - 1e-6, "and would be, whatever the key"


@pytest.mark.parametrize("fault", [0.04, 0.05])
def test_the_stated_power_is_the_true_one(fault: float) -> None:
    """40 samples of 20,000 at a scale that is off so little that about some are rejected: as many as `power` says."""
    sigma, n, repeats = 6.0, 20_000, 40
    edges = edges_of(sigma)
    truth, claim = (expected_cells(gaussian_weight(s), edges, 300) for s in (sigma, sigma * (1 + fault)))
    rejected = sum(
        not fits(observed_cells(draw(discrete_gaussian(sigma), n, name=f"repeat {i}"), edges), claim)
        for i in range(repeats)
    )
    expected = power(truth, claim, n)
    assert abs(rejected - repeats * expected) <= 5 * math.sqrt(repeats * max(expected * (1 - expected), 0.05))


@pytest.mark.parametrize(("family", "scale", "modulus"), [("gaussian", 1e5, 64), ("laplace", 1e5, 512)])
def test_composed_noise_has_no_lattice(family: str, scale: float, modulus: int) -> None:
    """A sum of multiples could favour some residues; the exact distribution has every one about as often."""
    make, weight = FAMILIES[family]
    distribution = make(scale)
    assert modulus in {abs(multiplier) for multiplier, _ in distribution.components}
    x = np.arange(-3_000_000, 3_000_001)
    exact = np.bincount(x % modulus, weight(scale)(x))
    values = draw(distribution)
    assert fits(np.bincount(values % modulus, minlength=modulus), exact / exact.sum())
    spoiled = np.where(values % modulus == 0, values + 1, values)[: SAMPLES // 2]
    assert not fits(np.bincount(spoiled % modulus, minlength=modulus), exact / exact.sum())


@pytest.mark.parametrize("scale", [0.05, 0.01, 1e-6])
def test_a_vanishing_scale_is_nearly_always_zero(scale: float) -> None:
    for distribution in (discrete_gaussian(scale), discrete_laplace(scale)):
        assert set(draw(distribution, 1000).tolist()) <= {-1, 0, 1}
    assert not draw(discrete_gaussian(0.01), 1000).any()


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0**41, math.nan, math.inf])
def test_scales_out_of_range_are_refused(scale: float) -> None:
    for make in (discrete_gaussian, discrete_laplace):
        with pytest.raises(ValueError, match="allowed"):
            make(scale)


# --- OpenDP as the oracle ---------------------------------------------------------------------------------------------


def opendp_noise(family: str, scale: float, n: int) -> NDArray[np.int64]:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T=int))
    if family == "gaussian":
        measurement = dp.m.make_gaussian(domain, dp.l2_distance(T=float), scale=scale)
    else:
        measurement = dp.m.make_laplace(domain, dp.l1_distance(T=int), scale=scale)
    return np.array(measurement([0] * n), dtype=np.int64)


@pytest.mark.parametrize(("family", "scale"), [("gaussian", 3.0), ("gaussian", 5000.0), ("laplace", 3.0)])
def test_noise_is_like_opendp(family: str, scale: float) -> None:
    """Two-sample test, 50,000 values of each."""
    n = 50_000
    distribution = FAMILIES[family][0](scale)
    edges = edges_of(distribution.stddev)
    ours = draw(distribution, n)
    assert same_distribution(ours, opendp_noise(family, scale, n), edges)
    assert not same_distribution(ours, opendp_noise(family, scale * 1.1, n), edges), "a wrong scale must be rejected"


# --- tables against exact arithmetic ----------------------------------------------------------------------------------


def exact_probabilities(table: Table) -> dict[int, Fraction]:
    """The table's own distribution, as rational numbers."""
    thresholds = [(int(high) << 64) | int(low) for high, low in zip(table.high, table.low, strict=True)]
    steps = [upper - lower for lower, upper in pairwise([0, *thresholds, 1 << 128])]
    assert all(step >= 0 for step in steps)
    return {table.first + index: Fraction(step, 1 << 128) for index, step in enumerate(steps)}


def total_variation(
    probabilities: dict[int, Fraction], weight: Callable[[int], mpmath.mpf], total: mpmath.mpf
) -> mpmath.mpf:
    """`sum |p - q| / 2` over all integers, q = weight / total: what lies outside the table is what q lacks inside."""
    inside = {x: weight(x) / total for x in probabilities}
    missing = 1 - mpmath.fsum(inside.values())
    off = mpmath.fsum(abs(mpmath.mpf(p.numerator) / p.denominator - inside[x]) for x, p in probabilities.items())
    return (off + missing) / 2


def gaussian_exact(variance: Fraction) -> tuple[Callable[[int], mpmath.mpf], mpmath.mpf]:
    def weight(x: int) -> mpmath.mpf:
        return mpmath.exp(-mpmath.mpf(x * x) * variance.denominator / (2 * variance.numerator))

    total, x = mpmath.mpf(1), 1
    while (term := weight(x)) > mpmath.mpf(10) ** -110:
        total, x = total + 2 * term, x + 1
    return weight, total


@pytest.mark.parametrize("sigma", [0.07, 0.5, 1.0, 3.0, 28.0])
def test_gaussian_tables_keep_their_distance(sigma: float) -> None:
    table = gaussian_table(sigma)
    probabilities = exact_probabilities(table)
    with mpmath.workdps(120):
        exact = gaussian_exact(Fraction(sigma) ** 2)
        assert total_variation(probabilities, *exact) <= table.distance <= 2.0**-115
        spoiled = {
            **probabilities,
            0: probabilities[0] + Fraction(1, 2**110),
            1: probabilities[1] - Fraction(1, 2**110),
        }
        assert total_variation(spoiled, *exact) > table.distance, "a cell off by 2^-110 must show"


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_laplace_and_geometric_tables_keep_their_distance(scale: float) -> None:
    with mpmath.workdps(120):
        ratio = mpmath.exp(-1 / mpmath.mpf(scale))
        for table, total in (
            (laplace_table(scale), (1 + ratio) / (1 - ratio)),
            (geometric_table(scale), 1 / (1 - ratio)),
            (geometric_table(scale, 8), (1 - ratio**8) / (1 - ratio)),
        ):
            distance = total_variation(exact_probabilities(table), lambda x: ratio ** abs(x), total)
            assert distance <= table.distance


def convolved(distribution: Distribution) -> dict[int, Fraction]:
    """The exact distribution of a weighted sum of independent table draws."""
    result, scale = {0: 1}, 1
    for multiplier, table in distribution.components:
        cells = {x: int(p * (1 << 128)) for x, p in exact_probabilities(table).items()}
        following: dict[int, int] = {}
        for x, p in result.items():
            for y, q in cells.items():
                if product := p * q:
                    following[x + multiplier * y] = following.get(x + multiplier * y, 0) + product
        result, scale = following, scale << 128
    return {x: Fraction(p, scale) for x, p in result.items()}


def test_composition_keeps_its_distance_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    """The composed sampler with tables of at most 64, convolved exactly: the smoothing argument, checked to 2^-120."""
    monkeypatch.setattr(sampler, "_LARGEST_TABLE", 64)
    sigma = 100.0
    distribution = discrete_gaussian(sigma)
    (fine_weight, fine_table), (coarse_weight, coarse_table) = distribution.components
    assert (fine_weight, coarse_weight) == (1, 4)
    coarse = math.sqrt(sigma**2 - 10.0**2) / 4
    assert (len(fine_table.high), len(coarse_table.high)) == (
        len(gaussian_table(10.0).high),
        len(gaussian_table(coarse).high),
    )
    # Floats put the variance off by some 1e-16 of itself, which calibration's margin of 1e-12 covers.
    variance = 16 * Fraction(coarse) ** 2 + 10**2
    assert abs(variance / Fraction(sigma) ** 2 - 1) < Fraction(1, 10**15)
    with mpmath.workdps(120):
        distance = total_variation(convolved(distribution), *gaussian_exact(variance))
        assert distance <= distribution.distance <= 2.0**-115


def test_composition_keeps_its_distance_laplace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_LARGEST_LAPLACE_TABLE", 4)
    distribution = discrete_laplace(9.0)
    assert [multiplier for multiplier, _ in distribution.components] == [8, 1, -8, -1]
    with mpmath.workdps(120):
        ratio = mpmath.exp(-1 / mpmath.mpf(9))
        exact = (lambda x: ratio ** abs(x)), (1 + ratio) / (1 - ratio)
        assert total_variation(convolved(distribution), *exact) <= distribution.distance <= 2.0**-115


@pytest.mark.parametrize("sigma", [0.5, 3.0, 28.0])
def test_tails_are_exact(sigma: float) -> None:
    table = gaussian_table(sigma)
    for least in (-1000, -2, 0, 1, 2, math.ceil(3 * sigma), math.ceil(6 * sigma)):
        exact, bound = gaussian_tail(sigma, least), tail_at_least(table, least)
        with mpmath.workdps(60):
            assert abs(mpmath.mpf(bound.numerator) / bound.denominator - exact) < 1e-30
        upper = sampler.gaussian_tail_probability(discrete_gaussian(sigma), least)
        assert exact <= upper <= exact * (1 + 1e-12) + 1e-30
    assert tail_at_least(table, table.first + len(table.high) + 1) == 0


def test_composed_tails_are_never_too_small() -> None:
    """The continuous bound at `least - 1` is above the exact tail, and by no more than one step's worth."""
    sigma = 5000.0
    x = np.arange(-75_000, 75_001)
    weights = gaussian_weight(sigma)(x)
    for least in (-3000, 0, 1, 5000, 20_000, 30_000):
        exact = weights[x >= least].sum() / weights.sum()
        bound = sampler.gaussian_tail_probability(discrete_gaussian(sigma), least)
        assert exact <= bound <= exact * (1 + 10 / sigma)


def test_ties_in_the_upper_half_are_decided_by_the_lower() -> None:
    """Words on, just below and just above every threshold fall on the right side of it."""
    table = gaussian_table(3.0)
    values = [(int(high) << 64) | int(low) for high, low in zip(table.high, table.low, strict=True)]
    words, expected = [], []
    for threshold in values:
        for word in (threshold - 1, threshold, threshold + 1):
            if 0 <= word < 1 << 128:
                words.append((word >> 64, word & (2**64 - 1)))
                expected.append(table.first + sum(value <= word for value in values))
    assert table.draw(np.array(words, dtype=np.uint64)).tolist() == expected


# --- keyed ------------------------------------------------------------------------------------------------------------


def test_noise_is_a_function_of_key_measurement_and_partition() -> None:
    distribution, blocks = discrete_gaussian(1e5), counter_blocks(1000)
    first = KeyedNoise(KEY).noise("users", distribution, blocks)
    again = KeyedNoise(ReleaseKey(bytes(range(32)))).noise("users", discrete_gaussian(1e5), blocks)
    assert first.tolist() == again.tolist()
    order = np.random.default_rng(1).permutation(1000)
    assert KeyedNoise(KEY).noise("users", distribution, blocks[order]).tolist() == first[order].tolist()
    parts = [KeyedNoise(KEY).noise("users", distribution, part) for part in np.array_split(blocks, 7)]
    assert np.concatenate(parts).tolist() == first.tolist()
    assert first.dtype == np.int64


def test_no_partition_no_noise() -> None:
    for source in (KeyedNoise(KEY), ZeroNoise()):
        assert source.noise("users", discrete_gaussian(3.0), counter_blocks(0)).shape == (0,)
    assert not ZeroNoise().noise("users", discrete_gaussian(3.0), counter_blocks(9)).any()


def test_other_keys_measurements_and_streams_give_independent_noise() -> None:
    distribution = discrete_gaussian(28.0)
    base = draw(distribution)
    assert uncorrelated(base, draw(distribution, key=ReleaseKey(bytes(32))))
    assert uncorrelated(base, draw(distribution, name="seconds"))
    assert uncorrelated(base[1:], base[:-1]), "neighboring counters must not show"
    words = KeyedNoise(KEY)._words("users", counter_blocks(SAMPLES))
    streams = [(words(stream)[:, 0] >> np.uint64(40)).astype(np.int64) for stream in (0, 1, 10)]
    assert all(uncorrelated(streams[0], other) for other in streams[1:])
    assert not uncorrelated(base, draw(distribution, name="seconds") + base // 20), "a twentieth of the same must show"


def test_names_and_streams_do_not_run_together() -> None:
    """`users` in stream 11 and `users|1` in stream 1 must not share a key, nor may purposes."""
    derived = {KEY.derive(purpose) for purpose in ("noise|users|1", "noise|users|11", "noise|users.rows|1", "salt")}
    assert len(derived) == 4
    assert KEY.salt("sample") == KEY.salt("sample") != ReleaseKey(bytes(32)).salt("sample")


def test_words_are_uniform() -> None:
    """Each of the 16 bytes takes its 256 values equally often; a byte that never is 255 is rejected."""
    words = KeyedNoise(KEY)._words("users", counter_blocks(SAMPLES))(0)
    data = words.astype(">u8").view(np.uint8).reshape(-1, 16)
    even = np.full(256, 1 / 256)
    for position in range(16):
        assert fits(np.bincount(data[:, position], minlength=256), even)
    assert not fits(np.bincount(np.minimum(data[:, 0], 254), minlength=256), even)


def test_a_key_never_shows_itself() -> None:
    secret = bytes(range(65, 97))
    key = ReleaseKey(secret)
    shown = f"{key!r} {key} {KeyedNoise(key)!r}"
    assert secret.decode() not in shown
    assert secret.hex() not in shown
    assert ReleaseKey.fresh() != ReleaseKey.fresh()
    assert len(ReleaseKey.fresh().secret) == 32
