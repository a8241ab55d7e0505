"""One release on Spark: bound and sum, look for problems, then noise. What `run` and the benchmarks call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance.errors import EngineError
from pipelines.engine.bounding import ExactSums, bound
from pipelines.engine.first_round import FirstRound, Found
from pipelines.engine.inputs import SignalInputs
from pipelines.engine.kernel import Salts
from pipelines.engine.noisy import Noising, noisy_late
from pipelines.engine.post_processing import Step
from pipelines.engine.tasks import Told
from pipelines.engine.writing import Writing, key_schema, released_schema, write_found
from pipelines.noise import NoiseSource
from pipelines.plan import SignalPlan
from pipelines.windows import Span

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import SparkContext

__all__ = ["Engine", "Sums"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Exact sums, computed and kept by Spark; nobody has seen them.

    Attributes:
        engine: whose.
        exact: where they are.
        told: what their tasks told.
    """

    engine: Engine
    exact: ExactSums
    told: Told

    def write(self, source: NoiseSource, folder: Path, *, files: int = 1) -> tuple[Path, ...]:
        """Writes the released table: the entity's keys and the signal's outputs; doing it again gives the same bytes.

        With public partitions every public key gets a row, noise alone where nobody is. With private selection rows
        below the threshold are left out.

        Args:
            source: where the noise comes from.
            folder: for the files; not there yet, and shared by all workers.
            files: how many, at most: those that would have no row are left out.

        Returns:
            The files, in order; one without rows if there are none.
        """
        import pyarrow.parquet as pq

        engine = self.engine
        plan, inputs = engine.plan, engine.inputs
        with ExitStack() as used:
            exact, told = self.exact, self.told
            if plan.recipe.first is not None:
                found = self._first_round(source)
                exact = used.enter_context(engine.bounded(self.exact.spark, found=found))
                told = exact.computed()
            noising = Noising.of(plan.signal, plan.recipe, plan.calibration, source)
            writing = Writing.of(plan, inputs, exact, noising, engine.steps, folder, files)
            written = writing.write(exact, told.sums + inputs.public_keys(plan.signal))
        if not written:
            written = (folder / "part-00000.parquet",)
            pq.write_table(engine.schema.empty_table(), written[0])
        return written

    def _first_round(self, source: NoiseSource) -> Found:
        """Finds keys by the first round's weights; they are output, so the second round may read them."""
        plan, folder = self.engine.plan, self.engine.found
        threshold = None if plan.calibration.selecting is None else plan.calibration.selecting.first_threshold
        if folder is None or plan.recipe.first is None or threshold is None:
            raise EngineError(f"{plan.signal.identity}: two rounds of selection need a folder for the first one's keys")
        mechanism = plan.calibration.mechanism(plan.recipe.first)
        keys = tuple(f"__k{i}" for i in range(len(plan.signal.entity.keys)))
        stage = FirstRound(
            source=source,
            measurement=plan.recipe.first,
            sigma=mechanism.distribution.scale,
            threshold=threshold,
            keys=len(keys),
        )
        write_found(self.exact, stage, folder, key_schema(self.engine.inputs, keys))
        return Found(str(folder))

    def late(self, source: NoiseSource) -> tuple[dict[str, Any], ...]:
        """What the manifest says of events that came too late: a noisy number of units."""
        told = noisy_late(self.told.late_units, self.engine.plan.recipe, self.engine.plan.calibration, source)
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
        partitions: that exact sums are spread over, for as many tasks where there are many.
        found: a folder for the keys that a first round of selection finds; not there yet, and shared by all workers.
    """

    plan: SignalPlan
    inputs: SignalInputs
    span: Span
    salts: Salts
    scratch: Path | None = None
    found: Path | None = None
    steps: tuple[Step, ...] = ()
    partitions: int = 8

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the released columns."""
        return released_schema(self.plan, self.inputs, self.steps)

    @contextmanager
    def bounded(self, spark: SparkContext, *, first: bool = False, found: Found | None = None) -> Iterator[ExactSums]:
        """Exact sums over bounded contributions, lazily (`bounding.bound`); forgets them at the end."""
        plan, scratch = self.plan, self.scratch
        if scratch is not None:
            scratch = scratch / ("first" if first else "blobs")
            scratch.mkdir(parents=True, mode=0o700)  # raw rows will lie there
        exact = bound(
            plan.signal,
            plan.recipe,
            plan.calibration,
            self.inputs,
            self.span,
            self.salts,
            spark,
            partitions=self.partitions,
            scratch=scratch,
            first=first,
            found=found,
        )
        try:
            yield exact
        finally:
            exact.forget()

    @contextmanager
    def sums(self, spark: SparkContext) -> Iterator[Sums]:
        """Reads, checks, bounds and sums; forgets the sums at the end.

        Raises:
            InputError: nulls, numbers that are not finite, vectors of a wrong length; nothing was drawn.
        """
        # With two rounds of selection the second reads the data again, once the first has drawn its noise.
        with self.bounded(spark, first=self.plan.recipe.first is not None) as exact:
            yield Sums(engine=self, exact=exact, told=exact.computed())
