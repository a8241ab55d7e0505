"""One release on Spark: bound and sum, look for problems, then noise. What `run` and the benchmarks call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance.errors import EngineError
from pipelines.engine.bounding import bound, raise_problem
from pipelines.engine.first_round import FirstRound, Found
from pipelines.engine.inputs import SignalInputs
from pipelines.engine.kernel import Salts
from pipelines.engine.noisy import add_noise, noisy_late
from pipelines.engine.post_processing import Step, post_process
from pipelines.noise import NoiseSource
from pipelines.plan import SignalPlan
from pipelines.windows import Span

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Engine", "Sums"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Exact sums, computed and cached in Spark; nobody has seen them."""

    engine: Engine
    frame: DataFrame
    spark: SparkSession
    late_units: int

    def noisy(self, source: NoiseSource, *, files: int = 1) -> DataFrame:
        """The released table, lazily; computing it again gives the same bytes."""
        plan = self.engine.plan
        found = None if plan.recipe.first is None else self._first_round(source)
        frame = self.frame if found is None else self.engine.bounded(self.spark, found=found)
        released = add_noise(
            frame, plan.signal, plan.recipe, plan.calibration, source, self.engine.inputs, self.spark, found
        )
        keys = plan.signal.entity.keys
        # Which row lands in which file, and where, is a function of the released rows alone: they are exchanged once
        # more after selection. Else Spark would split files by exact sizes before it, unselected keys included.
        return post_process(released, self.engine.steps).repartition(files, *keys).sortWithinPartitions(*keys)

    def _first_round(self, source: NoiseSource) -> Found:
        """Finds keys by the first round's weights; they are output, so the second round may read them."""
        from pyspark.sql import functions as F

        plan, folder = self.engine.plan, self.engine.found
        if folder is None or plan.recipe.first is None or plan.calibration.first_threshold is None:
            raise EngineError(f"{plan.signal.identity}: two rounds of selection need a folder for the first one's keys")
        mechanism = plan.calibration.mechanism(plan.recipe.first)
        keys = [f"__k{i}" for i in range(len(plan.signal.entity.keys))]
        stage = FirstRound(
            source=source,
            measurement=plan.recipe.first,
            sigma=mechanism.distribution.scale,
            threshold=plan.calibration.first_threshold,
            keys=len(keys),
        )
        kinds = dict(self.frame.dtypes)
        weights = self.frame.where(F.col("__k0").isNotNull()).select(*keys, "__m0").repartition(*keys)
        weights.mapInArrow(stage, ", ".join(f"{key} {kinds[key]}" for key in keys)).write.parquet(str(folder))
        return Found(str(folder))

    def late(self, source: NoiseSource) -> tuple[dict[str, Any], ...]:
        """What the manifest says of events that came too late: a noisy number of units."""
        told = noisy_late(self.late_units, self.engine.plan.recipe, self.engine.plan.calibration, source)
        return ({"check": "events that came too late were left out", "passed": True, **told},) if told else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One window of one signal.

    Attributes:
        plan: the signal, its noise and its loss.
        inputs: its tables.
        span: the window.
        salts: of this run.
        steps: post-processing, with the parents' releases that it reads.
        scratch: a folder for blobs, if all workers share this machine; removed by the caller. None: Spark's exchange.
        found: a folder for the keys that a first round of selection finds; not there yet, and shared by all workers.
    """

    plan: SignalPlan
    inputs: SignalInputs
    span: Span
    salts: Salts
    scratch: Path | None = None
    found: Path | None = None
    steps: tuple[Step, ...] = ()

    def bounded(self, spark: SparkSession, *, first: bool = False, found: Found | None = None) -> DataFrame:
        """Exact sums over bounded contributions, lazily (`bounding.bound`)."""
        plan, scratch = self.plan, self.scratch
        if scratch is not None:
            scratch = scratch / ("first" if first else "blobs")
            scratch.mkdir(parents=True)
        return bound(
            plan.signal,
            plan.recipe,
            plan.calibration,
            self.inputs,
            self.span,
            self.salts,
            spark,
            scratch,
            first=first,
            found=found,
        )

    @contextmanager
    def sums(self, spark: SparkSession) -> Iterator[Sums]:
        """Reads, checks, bounds and sums; gives the memory back at the end.

        Raises:
            InputError: nulls, numbers that are not finite, vectors of a wrong length; nothing was drawn.
        """
        signal, recipe = self.plan.signal, self.plan.recipe
        # With two rounds of selection the second reads the data again, once the first has drawn its noise.
        frame = self.bounded(spark, first=recipe.first is not None).persist()
        try:
            late = raise_problem(frame, signal, recipe, self.inputs, self.span)
            yield Sums(engine=self, frame=frame, spark=spark, late_units=late)
        finally:
            frame.unpersist()
