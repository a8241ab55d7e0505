from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import pytest

from governance.release import PUBLIC_SAMPLER, Guarantee, WindowReference
from governance.report.page import words

GUARANTEE = Guarantee(
    variant="zCDP",
    unit="user_id",
    relation="add_remove_one",
    protects="",
    bounds={},
    measurements=(),
    selection="public",
    threshold=None,
    selection_delta="0",
    sampler_delta="0",
    rho="0",
    delta="0",
    epsilon=0.0,
    epsilon_delta=1e-6,
    sampler=PUBLIC_SAMPLER,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("0", "0"),
        ("0.00875", "0.00875"),
        ("0.0001", "0.0001"),
        ("0.00001", "1 × 10⁻⁵"),
        ("1.0000000004e-8", "1 × 10⁻⁸"),
        ("123456", "123 500"),
        ("2000000", "2 × 10⁶"),
        ("-0.5", "−0.5"),
    ],
)
def test_fractions(value: str, shown: str) -> None:
    assert words.fraction(value).replace("\u202f", " ") == shown


def test_bounds_are_rounded_to_the_safe_side() -> None:
    assert words.fraction(0.90012, 3, ROUND_CEILING) == "0.901"
    assert words.fraction(Decimal("9.999"), 3, ROUND_CEILING) == "10"
    assert words.percent(0.4299, ROUND_FLOOR) == "42\u202f%"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 %"), (1, "100 %"), (0.00001, "under 0.1 %"), (0.999999, "over 99.9 %"), (0.08, "8.0 %"), (0.24, "24 %")],
)
def test_a_percentage_never_hides_a_spend(value: float, shown: str) -> None:
    assert words.percent(value).replace("\u202f", " ") == shown


@pytest.mark.parametrize(
    ("start", "end", "shown"),
    [
        ("2025-11-03T00:00:00+00:00", "2025-11-10T00:00:00+00:00", "3 – 9 Nov 2025"),
        ("2025-10-27T00:00:00+00:00", "2025-11-03T00:00:00+00:00", "27 Oct – 2 Nov 2025"),
        ("2025-12-29T00:00:00+00:00", "2026-01-05T00:00:00+00:00", "29 Dec 2025 – 4 Jan 2026"),
        ("2025-11-03T00:00:00+00:00", "2025-11-04T00:00:00+00:00", "3 Nov 2025"),
        ("2025-11-03T06:00:00+00:00", "2025-11-03T12:00:00+00:00", "3 Nov 2025 06:00 – 3 Nov 2025 12:00 UTC"),
        ("", "", "snapshot"),
    ],
)
def test_windows_name_their_last_day(start: str, end: str, shown: str) -> None:
    assert shown in words.window(WindowReference(start=start, end=end))


def test_times_that_are_none_are_shown_as_they_are() -> None:
    assert words.moment("<yesterday>") == "&lt;yesterday&gt;"
    assert "3 Nov 2025, 13:30 UTC" in words.moment("2025-11-03T14:30:00+01:00")


@pytest.mark.parametrize(
    ("bounds", "shown"),
    [
        ({}, ""),
        (
            {"kind": "keep_random", "max_partitions": 8, "max_rows_per_partition": 1},
            "at most 8 partitions per user_id, at most 1 row in each (keep random)",
        ),
        ({"kind": "clip_norm", "l2": 4}, "l2 4 (clip norm)"),
    ],
)
def test_bounds_in_words(bounds: dict[str, object], shown: str) -> None:
    assert words.bounds_in_words(replace(GUARANTEE, bounds=bounds)) == shown


def test_relations_in_words() -> None:
    assert words.relation_in_words(GUARANTEE) == "add or remove one user_id"
    assert words.relation_in_words(replace(GUARANTEE, relation="swap_two")) == "swap two user_id"
    assert words.relation_in_words(replace(GUARANTEE, unit="")) == "none: public inputs"
