"""Grids, sensitivities and compiled definitions, for any lawful definition."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from governance.canonical import canonical_bytes
from pipelines import ZCDP, Entity, Interval, KeepRandom, Mean, PrivateSelection, PublicPartitions, Sum
from pipelines.compiled import compile_definition, definition_bytes, definition_sha256
from pipelines.definitions import Aggregate
from pipelines.measurements import Measure, MeasureKind
from pipelines.recipes import OutputKind, recipe_of
from tests.support.projects import a_signal
from tests.support.strategies import aggregates, bounds, examples, intervals, names

ANY_AGGREGATES = st.dictionaries(names, aggregates, min_size=1, max_size=4)


@examples(400)
@given(intervals())
def test_the_grid_lies_in_the_interval(interval: Interval) -> None:
    step, (lowest, highest) = interval.grid_step, interval.grid
    slack = 2e-9 + 1e-6 * (max(abs(lowest), abs(highest)) > 2**20)
    assert step > 0
    assert lowest <= highest
    assert interval.lower / step - slack <= lowest
    assert highest <= interval.upper / step + slack
    assert (lowest - 1) * step < interval.lower + slack * step, "the next step down is outside"
    assert (highest + 1) * step > interval.upper - slack * step, "the next step up is outside"
    assert max(abs(lowest), abs(highest)) <= 2**30 + 1


@examples(400)
@given(intervals())
def test_the_default_grid_is_fine_enough(interval: Interval) -> None:
    interval = replace(interval, step=None)
    largest, width = max(abs(interval.lower), abs(interval.upper)), interval.upper - interval.lower
    assert largest / interval.grid_step >= 4096
    assert width / interval.grid_step >= 256
    assert math.frexp(interval.grid_step)[0] == 0.5, "a power of two"
    assert largest / 4096 < 2 * interval.grid_step or width / 256 < 2 * interval.grid_step, "the largest such"


def rounded(value: float, measure: Measure) -> int:
    """What the engine adds for one row: clamped, rounded half up, clamped to the grid, centred."""
    interval = measure.interval
    assert interval is not None
    lowest, highest = interval.grid
    clamped = min(max(value, interval.lower), interval.upper)
    return min(max(math.floor(clamped / interval.grid_step + 0.5), lowest), highest) - measure.centre


def contribution(measure: Measure, rows: list[float]) -> int:
    """What one unit's kept rows add to one partition."""
    if measure.kind is MeasureKind.UNITS:
        return 1
    if measure.kind is MeasureKind.ROWS:
        return len(rows)
    return sum(rounded(value, measure) for value in rows)


@examples(120)
@given(ANY_AGGREGATES, bounds, st.data())
def test_no_unit_changes_more_than_the_sensitivity(
    given_aggregates: dict[str, Aggregate], limits: KeepRandom, data: st.DataObject
) -> None:
    """Any bounded contribution vector has at most the claimed L0, L1, L2 and Linf norms; extreme rows reach Linf."""
    signal = a_signal(aggregates=given_aggregates, bounds=limits, entity=_entity_apart(given_aggregates))
    partitions = data.draw(st.integers(1, limits.max_partitions))
    for measure in recipe_of(signal).measures:
        interval = measure.interval
        ends = [] if interval is None else [interval.lower, interval.upper, 0.0]
        values = st.sampled_from([-math.inf, math.inf, 0.0, *ends]) | st.floats(allow_nan=False)
        unit = [
            contribution(measure, data.draw(st.lists(values, min_size=1, max_size=limits.max_rows_per_partition)))
            for _ in range(partitions)
        ]
        assert len(unit) <= measure.l0
        assert max(map(abs, unit)) <= measure.linf
        assert sum(map(abs, unit)) <= measure.l1
        assert sum(v * v for v in unit) <= measure.l0 * measure.linf**2
        assert math.isclose(measure.l2, math.sqrt(measure.l0) * measure.linf, rel_tol=1e-15)


def _entity_apart(taken: dict[str, Aggregate]) -> Entity:
    assume("item_id" not in taken)
    return Entity("item", ("item_id",))


@examples(200)
@given(intervals(), st.integers(1, 20))
def test_the_sensitivity_is_reached(interval: Interval, rows: int) -> None:
    """A claim far above what any unit can do would be noise for nothing."""
    signal = a_signal(
        aggregates={"sum": Sum("value", interval), "mean": Mean("value", interval)},
        bounds=KeepRandom(max_partitions=2, max_rows_per_partition=rows),
    )
    for measure in recipe_of(signal).measures:
        if measure.interval is not None:
            extremes = [abs(contribution(measure, [end] * rows)) for end in (-math.inf, math.inf)]
            assert measure.linf in (max(extremes), max(*extremes, rows))


@examples(200)
@given(ANY_AGGREGATES, bounds, st.booleans())
def test_recipes_share_what_is_the_same(
    given_aggregates: dict[str, Aggregate], limits: KeepRandom, private: bool
) -> None:
    signal = a_signal(
        aggregates=given_aggregates,
        bounds=limits,
        entity=_entity_apart(given_aggregates),
        partitions=PrivateSelection(delta=1e-9) if private else PublicPartitions({"item_id": (1, 2)}),
    )
    recipe = recipe_of(signal)
    assert [output.name for output in recipe.outputs] == list(given_aggregates)
    kinds = [(m.kind, m.column, m.interval) for m in recipe.measures]
    assert len(set(kinds)) == len(kinds), "nothing is measured twice"
    assert len({m.name for m in recipe.measures}) == len(recipe.measures), "each has a noise stream of its own"
    used = {name for output in recipe.outputs for name in (output.measure, output.count) if name} | {recipe.units}
    assert used - {None} == {m.name for m in recipe.measures}, "nothing is measured for nothing"
    assert (recipe.units is not None) == private
    if recipe.units is not None:
        assert recipe.measure(recipe.units).linf == 1
    if limits.max_rows_per_partition == 1:
        assert MeasureKind.ROWS not in {m.kind for m in recipe.measures}, "a row count is a unit count"
    for output in recipe.outputs:
        assert (output.count is not None) == (output.kind is OutputKind.MEAN)


@examples(150)
@given(ANY_AGGREGATES, bounds)
def test_compiled_definitions_are_canonical_and_repeatable(
    given_aggregates: dict[str, Aggregate], limits: KeepRandom
) -> None:
    entity = _entity_apart(given_aggregates)
    one, two = (a_signal(aggregates=dict(given_aggregates), bounds=limits, entity=entity) for _ in range(2))
    assert definition_bytes(one) == definition_bytes(two) == canonical_bytes(compile_definition(one))
    changed = (
        replace(one, version=2),
        replace(one, bounds=replace(limits, max_partitions=limits.max_partitions + 1)),
        replace(one, budget_per_release=ZCDP(0.011)),
        replace(one, ttl=one.ttl + timedelta(seconds=1)),
    )
    assert len({definition_sha256(signal) for signal in (one, *changed)}) == 5
