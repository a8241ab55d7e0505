"""Contribution bounds on Spark: from files of events to exact sums over bounded contributions, for each partition.

Sensitivity. Every step is a function of one unit's own rows, of public facts and of two salts: rows are made one by one
(rows.py), cut within (unit, partition), partitions within the unit (kernel.py). So taking one unit away takes away
exactly its own bounded rows and changes nobody else's, whatever the order of the data. This holds for any value of the
salts: they need not be secret, and serve only to make the sample random. It needs all rows of a unit in one place.

Two ways bring them there.

    unsorted    tasks read row groups, split rows by a hash of their unit into buckets and send each bucket as a few
                large Arrow blobs; after one exchange each bucket is bounded by itself
    clustered   `hedgerow ingest` has laid events out in buckets by person: each task reads whole buckets, checks that
                every person is in the bucket where they belong, and bounds them; nothing is exchanged

What comes out is small (one row for each key and task) and exact. It stays in Spark's shuffle files; the driver learns
whether there was a problem, how many units came too late, and how many rows of sums there are, so that few are not
spread over many tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.calibration import Calibration
from pipelines.definitions import AdaptiveWeights, ClipNorm, PrivateSelection, Signal, UnitKind, WeightedUnits
from pipelines.engine.exchange import Item, exchanged, forget, numbered
from pipelines.engine.first_round import Found
from pipelines.engine.inputs import SignalInputs, row_plan
from pipelines.engine.kernel import Bounds, Salts, Sum
from pipelines.engine.layout import Layout, wrong_bucket
from pipelines.engine.rows import RowPlan
from pipelines.engine.scan import buckets_of, parts_of, tasks_of
from pipelines.engine.tasks import Bound, Clustered, Sent, Split, Told
from pipelines.recipes import Recipe
from pipelines.windows import Span

if TYPE_CHECKING:
    from pyspark import RDD, SparkContext

__all__ = ["ExactSums", "bound", "bounds_of"]

_ROWS_PER_BUCKET = 1_000_000
_ROWS_PER_PARTITION = 8_000_000
_MOST_BUCKETS = 4096


def bounds_of(
    signal: Signal,
    recipe: Recipe,
    calibration: Calibration,
    salts: Salts,
    *,
    first: bool = False,
    found: Found | None = None,
) -> Bounds:
    """What the kernel needs to know.

    Args:
        signal: the definition.
        recipe: its measurements.
        calibration: their scales.
        salts: of the run.
        first: whether this is the first of two rounds of selection, which sums weights alone.
        found: the keys of the first round, in the second.
    """
    mechanisms = calibration.summed
    if first and recipe.first is not None:
        mechanisms = (calibration.mechanism(recipe.first),)
    by = signal.partitions.by if isinstance(signal.partitions, PrivateSelection) else None
    positions = {code: index for index, code in enumerate(recipe.codes)}
    return Bounds(
        units=len(signal.privacy_unit.columns) + (signal.privacy_unit.per is not None),
        keys=len(signal.entity.keys),
        bits=tuple(code.bits for code in recipe.codes),
        sums=tuple(
            Sum.of(mechanism.measure, -1 if mechanism.measure.code is None else positions[mechanism.measure.code])
            for mechanism in mechanisms
        ),
        max_partitions=signal.bounds.max_partitions,
        max_rows=None if isinstance(signal.bounds, ClipNorm) else signal.bounds.max_rows_per_partition,
        max_weighted=by.max_keys if isinstance(by, WeightedUnits | AdaptiveWeights) else 0,
        norm=signal.bounds.l2 if isinstance(signal.bounds, ClipNorm) else 0.0,
        salts=salts,
        found=found,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactSums:
    """Exact sums over bounded contributions, lazily; computed once, and kept until they are forgotten.

    Attributes:
        items: `Told` in the last partition; in all others packed tables of `__k0 ..` (the entity's keys, in order) and
            `__m0 ..` (int64, or lists of int64): for each key one row from each task that met it, all in one partition.
        plan: how rows are made.
        partitions: how many partitions have sums.
        spark: where tasks run.
    """

    items: RDD[Item]
    plan: RowPlan
    partitions: int
    spark: SparkContext

    def computed(self) -> Told:
        """Computes them, and refuses if there was a problem.

        Returns:
            How many units had rows that came too late: exact, so noise has to be added before anybody sees it. And how
            many rows of sums there are.

        Raises:
            InputError: null, not finite, or of a wrong length; nothing was drawn.
            LayoutCorrupt: somebody is in a bucket where they do not belong, so bounds could fail; nothing was drawn.
        """
        told = [item for _, item in self.spark.runJob(self.items, list, [self.partitions])]
        found = [one.problem for one in told if one.problem >= 0]
        if found:
            raise self.plan.problems[min(found)].error()
        misplaced = [one.misplaced for one in told if one.misplaced >= 0]
        if misplaced:
            raise wrong_bucket(min(misplaced))
        return Told(late_units=sum(one.late_units for one in told), sums=sum(one.sums for one in told))

    def forget(self) -> None:
        """Gives back the space that they take."""
        forget(self.items)


def bound(
    signal: Signal,
    recipe: Recipe,
    calibration: Calibration,
    inputs: SignalInputs,
    span: Span,
    salts: Salts,
    spark: SparkContext,
    *,
    partitions: int,
    scratch: Path | None = None,
    first: bool = False,
    found: Found | None = None,
) -> ExactSums:
    """Bounds every unit's contribution and sums what is left, lazily.

    Args:
        signal: the definition.
        recipe: its measurements.
        calibration: their noise, of which only the scales of `ClipNorm` are used.
        inputs: the tables.
        span: the window.
        salts: of the run.
        spark: where tasks run.
        partitions: that the sums are spread over.
        scratch: a folder that all workers share and the caller removes when the result is no longer needed: blobs then
            pass through files in it instead of Spark's own exchange, which copies them through the JVM. None: the
            exchange.
        first: whether this is the first of two rounds of selection.
        found: the keys of the first round, in the second.
    """
    plan = row_plan(signal, recipe, inputs, span)
    bounds = bounds_of(signal, recipe, calibration, salts, first=first, found=found)
    parallelism = spark.defaultParallelism
    sent = Sent(keys=bounds.key_names, partitions=partitions, wide=any(one.wide for one in bounds.sums))
    layout = inputs.events.layout
    if layout is not None and _fits(layout, signal):
        whole = buckets_of(inputs.events, layout, plan, parallelism)
        items = numbered(spark, len(whole), Clustered(tasks=whole, plan=plan, bounds=bounds, layout=layout, sent=sent))
    else:
        parts = parts_of(inputs.events.files, plan)
        reading = tasks_of(parts, 2 * parallelism)
        rows = sum(part.rows for part in parts)
        buckets = min(_MOST_BUCKETS, max(2, -(-rows // _ROWS_PER_BUCKET)))
        groups = min(buckets, max(2 * parallelism, -(-rows // _ROWS_PER_PARTITION)))
        folder = None if scratch is None else str(scratch)
        read = Split(tasks=reading, plan=plan, buckets=buckets, partitions=groups, scratch=folder)
        items = exchanged(numbered(spark, len(reading), read), groups).mapPartitions(Bound(bounds=bounds, sent=sent))
    return ExactSums(items=exchanged(items, partitions + 1), plan=plan, partitions=partitions, spark=spark)


def _fits(layout: Layout, signal: Signal) -> bool:
    """Whether a layout by person keeps this signal's units whole: a person, or a person's day."""
    unit = signal.privacy_unit
    return unit.kind is UnitKind.PERSON and layout.person == signal.source.person and layout.person in unit.columns
