"""Recipes: which sums stand behind which columns, and how far one unit can move them."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from pipelines import (
    Count,
    CountDistinct,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PublicPartitions,
    Quantiles,
    Relation,
    Sum,
    TopK,
    Variance,
    VectorSum,
)
from pipelines.definitions import Aggregate
from pipelines.measurements import Measure, MeasureKind
from pipelines.recipes import OutputKind, recipe_of
from tests.support.projects import a_signal

DAY = timedelta(days=1)
SECONDS = Interval(0, 600)
PUBLIC = PublicPartitions({"item_id": (1, 2)})
MANY = KeepRandom(max_partitions=4, max_rows_per_partition=5)
ONE = KeepRandom(max_partitions=4, max_rows_per_partition=1)


def kinds(aggregates: dict[str, Aggregate], bounds: KeepRandom, *, private: bool) -> dict[str, MeasureKind]:
    signal = a_signal(aggregates=aggregates, bounds=bounds, **({} if private else {"partitions": PUBLIC}))
    return {measure.name: measure.kind for measure in recipe_of(signal).measures}


U, R, S, C = MeasureKind.UNITS, MeasureKind.ROWS, MeasureKind.SUM, MeasureKind.CENTRED_SUM


@pytest.mark.parametrize(
    ("aggregates", "bounds", "private", "expected"),
    [
        ({"n": Count()}, MANY, False, {"n": R}),
        ({"n": Count()}, ONE, False, {"n": U}),
        ({"n": Count()}, MANY, True, {"n": R, "selection.units": U}),
        ({"n": Count()}, ONE, True, {"n": U}),
        ({"u": CountDistinct(), "n": Count()}, MANY, True, {"u": U, "n": R}),
        ({"u": CountDistinct(), "n": Count()}, ONE, True, {"u": U}),
        ({"m": Mean("v", SECONDS)}, MANY, False, {"m.centred_sum": C, "m.rows": R}),
        ({"m": Mean("v", SECONDS), "n": Count()}, MANY, False, {"n": R, "m.centred_sum": C}),
        ({"m": Mean("v", SECONDS)}, ONE, True, {"m.centred_sum": C, "m.rows": U}),
        ({"a": Mean("v", SECONDS), "b": Mean("v", SECONDS)}, MANY, False, {"a.centred_sum": C, "a.rows": R}),
        (
            {"a": Mean("v", SECONDS), "b": Mean("v", Interval(0, 60))},
            MANY,
            False,
            {"a.centred_sum": C, "a.rows": R, "b.centred_sum": C},
        ),
        ({"s": Sum("v", SECONDS), "m": Mean("v", SECONDS)}, MANY, False, {"m.centred_sum": C, "m.rows": R}),
        ({"n": Count(), "s": Sum("v", SECONDS)}, MANY, False, {"n": R, "s.centred_sum": C}),
        ({"n": Count(), "s": Sum("v", SECONDS)}, ONE, True, {"n": U, "s.centred_sum": C}),
        ({"u": CountDistinct(), "s": Sum("v", SECONDS)}, MANY, False, {"u": U, "s": S}),
        ({"n": Count(), "s": Sum("v", Interval(-5, 5))}, MANY, False, {"n": R, "s": S}),
        ({"n": Count(), "s": Sum("v", SECONDS, half_life=DAY)}, MANY, False, {"n": R, "s": S}),
        ({"n": Count(), "d": Count(half_life=DAY)}, MANY, False, {"n": R, "d": S}),
        ({"d": Count(half_life=DAY), "e": Count(half_life=2 * DAY)}, MANY, False, {"d": S, "e": S}),
        (
            {"v": Variance("v", SECONDS), "m": Mean("v", SECONDS)},
            MANY,
            False,
            {"v.centred_sum": C, "v.rows": R, "v.centred_squares": MeasureKind.CENTRED_SQUARES},
        ),
        ({"h": Histogram("v", (0, 1, 2))}, MANY, False, {"h": MeasureKind.BINS}),
        ({"t": TopK("w", ("a", "b"), 1)}, MANY, False, {"t": MeasureKind.BINS}),
        ({"q": Quantiles("v", SECONDS), "r": Quantiles("v", SECONDS, (0.9,))}, MANY, False, {"q": MeasureKind.TREE}),
        ({"x": VectorSum("w", 8, 1.0)}, MANY, True, {"x": MeasureKind.VECTOR, "selection.units": U}),
        ({"s": Sum("v", SECONDS), "t": Sum("v", SECONDS)}, MANY, False, {"s": S}),
        ({"s": Sum("v", SECONDS), "t": Sum("w", SECONDS)}, MANY, False, {"s": S, "t": S}),
        ({"s": Sum("v", SECONDS)}, MANY, True, {"s": S, "selection.units": U}),
    ],
)
def test_what_is_measured(
    aggregates: dict[str, Aggregate], bounds: KeepRandom, private: bool, expected: dict[str, MeasureKind]
) -> None:
    assert kinds(aggregates, bounds, private=private) == expected


def measure_of(aggregate: Aggregate, bounds: KeepRandom = MANY) -> Measure:
    return recipe_of(a_signal(aggregates={"x": aggregate}, bounds=bounds, partitions=PUBLIC)).measures[0]


@pytest.mark.parametrize(
    ("aggregate", "linf"),
    [
        (Count(), 5),
        (CountDistinct(), 1),
        (Sum("v", Interval(0, 600, step=1)), 3000),
        (Sum("v", Interval(-600, 10, step=1)), 3000),
        (Sum("v", Interval(-600, -500, step=1)), 3000),
        (Sum("v", Interval(100, 600, step=1)), 3000),
        (Mean("v", Interval(0, 600, step=1)), 1500),
        (Mean("v", Interval(-600, -500, step=1)), 250),
        (Mean("v", Interval(0, 5, step=1)), 15),  # the centre is 2: the upper bound is 3 away
        (Mean("v", Interval(0, 1, step=1)), 5),
    ],
)
def test_sensitivities(aggregate: Aggregate, linf: int) -> None:
    measure = measure_of(aggregate)
    assert (measure.l0, measure.linf, measure.l1) == (4, linf, 4 * linf)
    assert measure.l2 == pytest.approx(2 * linf)
    assert math.isclose(measure_of(aggregate, KeepRandom(max_partitions=3, max_rows_per_partition=5)).l2, 3**0.5 * linf)


@pytest.mark.parametrize(
    ("aggregate", "relation", "linf", "l1", "l2"),
    [
        # Replacing: what was there goes and what is new comes, in other partitions or in the same ones.
        (Count(), Relation.REPLACE_ONE, 5, 40, math.sqrt(8) * 5),
        (CountDistinct(), Relation.REPLACE_ONE, 1, 8, math.sqrt(8)),
        (Sum("v", Interval(-10, 10, step=1)), Relation.REPLACE_ONE, 100, 400, 2 * 100),
        (Sum("v", Interval(0, 10, step=1)), Relation.REPLACE_ONE, 50, 400, math.sqrt(8) * 50),
        (Sum("v", Interval(90, 100, step=1)), Relation.REPLACE_ONE, 500, 4000, math.sqrt(8) * 500),
        (Mean("v", Interval(0, 10, step=1)), Relation.REPLACE_ONE, 50, 200, 2 * 50),
        # Each row lies in one bin, or in one node of each of a tree's levels.
        (Histogram("v", (0, 1, 2, 3)), Relation.ADD_REMOVE_ONE, 5, 20, 2 * 5),
        (Histogram("v", (0, 1, 2, 3)), Relation.REPLACE_ONE, 5, 40, 2 * math.sqrt(2) * 5),
        (Quantiles("v", Interval(0, 1), bins=256), Relation.ADD_REMOVE_ONE, 5, 40, 2 * math.sqrt(2) * 5),
        (Quantiles("v", Interval(0, 1), bins=4096), Relation.REPLACE_ONE, 5, 120, 2 * math.sqrt(6) * 5),
        (Count(half_life=DAY), Relation.ADD_REMOVE_ONE, 5 * 4096, 20 * 4096, 2 * 5 * 4096),
        (Sum("v", Interval(5, 10, step=1), half_life=DAY), Relation.ADD_REMOVE_ONE, 50, 200, 2 * 50),
        (VectorSum("w", 4, 1.0), Relation.ADD_REMOVE_ONE, 5 * 2**15, 4 * 2 * 5 * 2**15, 2 * 5 * 2**15),
        (VectorSum("w", 4, 1.0), Relation.REPLACE_ONE, 10 * 2**15, 8 * 2 * 5 * 2**15, 2 * 10 * 2**15),
    ],
)
def test_sensitivities_by_relation(aggregate: Aggregate, relation: Relation, linf: int, l1: int, l2: float) -> None:
    """L0 = 4 and m = 5; worked out by hand."""
    signal = a_signal(
        aggregates={"x": aggregate},
        bounds=MANY,
        partitions=PUBLIC,
        privacy_unit=PrivacyUnit("user_id", relation=relation),
    )
    measure = recipe_of(signal).measures[0]
    assert measure.l0 == (8 if relation is Relation.REPLACE_ONE else 4)
    assert (measure.linf, measure.l1) == (linf, l1)
    assert measure.l2 == pytest.approx(l2, rel=1e-12)


def test_released_columns_have_half_widths_where_noise_depends_on_the_row() -> None:
    aggregates = {
        "m": Mean("v", SECONDS),
        "q": Quantiles("v", SECONDS, (0.5, 0.999)),
        "s": Variance("v", SECONDS),
        "t": TopK("w", (7, 8), 2),
        "x": VectorSum("w2", 3, 1.0),
        "h": Histogram("v", (0, 1, 2)),
        "n": Count(),
    }
    columns = [(c.name, c.type) for c in recipe_of(a_signal(aggregates=aggregates, bounds=MANY)).columns]
    assert columns == [
        ("m", "float64"),
        ("m_half_width", "float64"),
        ("q_p50", "float64"),
        ("q_p50_half_width", "float64"),
        ("q_p99_9", "float64"),
        ("q_p99_9_half_width", "float64"),
        ("s", "float64"),
        ("s_half_width", "float64"),
        ("t_1", "int64"),
        ("t_2", "int64"),
        ("x", "vector"),
        ("h_0", "int64"),
        ("h_1", "int64"),
        ("n", "int64"),
    ]


def test_outputs_keep_the_definitions_order() -> None:
    signal = a_signal(
        aggregates={"m": Mean("v", SECONDS), "n": Count(), "s": Sum("v", SECONDS), "u": CountDistinct()}, bounds=MANY
    )
    recipe = recipe_of(signal)
    shown = [(output.name, output.kind, output.measure, output.count) for output in recipe.outputs]
    assert shown == [
        ("m", OutputKind.MEAN, "m.centred_sum", "n"),
        ("n", OutputKind.INTEGER, "n", None),
        ("s", OutputKind.SCALED, "m.centred_sum", None),
        ("u", OutputKind.INTEGER, "u", None),
    ]
    assert recipe.units == "u"
    assert recipe.measure("m.centred_sum").grid_step == SECONDS.grid_step
    assert recipe.measure("m.centred_sum").centre == 2400
    assert [(t.measure, t.coefficient) for t in recipe.outputs[2].terms] == [("m.centred_sum", 0.125), ("n", 300.0)]
    assert recipe.outputs[2].description == "Sum of v clamped to [0, 600], noisy"
    with pytest.raises(StopIteration):
        recipe.measure("nothing")
