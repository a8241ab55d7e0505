"""Recipes: which sums stand behind which columns, and how far one unit can move them."""

from __future__ import annotations

import math

import pytest

from pipelines import Count, CountDistinct, Interval, KeepRandom, Mean, PublicPartitions, Sum
from pipelines.definitions import Aggregate
from pipelines.measurements import Measure, MeasureKind, OutputKind, recipe_of
from tests.support.projects import a_signal

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
        ({"s": Sum("v", SECONDS), "m": Mean("v", SECONDS)}, MANY, False, {"s": S, "m.centred_sum": C, "m.rows": R}),
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


def test_outputs_keep_the_definitions_order() -> None:
    signal = a_signal(
        aggregates={"m": Mean("v", SECONDS), "n": Count(), "s": Sum("v", SECONDS), "u": CountDistinct()}, bounds=MANY
    )
    recipe = recipe_of(signal)
    shown = [(output.name, output.kind, output.measure, output.count) for output in recipe.outputs]
    assert shown == [
        ("m", OutputKind.MEAN, "m.centred_sum", "n"),
        ("n", OutputKind.INTEGER, "n", None),
        ("s", OutputKind.SCALED, "s", None),
        ("u", OutputKind.INTEGER, "u", None),
    ]
    assert recipe.units == "u"
    assert recipe.measure("s").grid_step == SECONDS.grid_step
    assert recipe.measure("m.centred_sum").centre == 2400
    assert recipe.outputs[2].description == "Sum of v clamped to [0, 600], noisy"
    with pytest.raises(StopIteration):
        recipe.measure("nothing")
