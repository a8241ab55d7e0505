"""How many partitions units have, measured under differential privacy: a `ContributionProfile` that nobody guesses.

A profile is an ordinary release of a signal that is derived from another one: units by how many of its keys they have.

    1  a table with one row for each unit of the window: the unit, and the step of `STEPS` that its number of partitions
       is in. A row is a function of that unit's own events and of public facts.
    2  a signal over that table: the number of rows at each step, public keys, one partition and one row a unit. It is
       run as any other (pipelines.run): policy, reserve, draw, keyed noise, publish, commit; the table of step 1 is
       written once the loss is reserved.
    3  shares of the released numbers: post-processing.

Guarantee. Let D and D' be neighbors that differ by one unit's events, added or removed. The tables of step 1 then
differ by that unit's row alone, so they are neighbors for the signal of step 2, whose counts differ by 1 at one step:
Euclidean sensitivity 1, and rho-zCDP with discrete Gaussian noise of variance `1 / (2 rho)` (Canonne, Kamath, Steinke
2020, Theorem 4). Where a unit's events are replaced, one row is replaced: two counts differ by 1, the sensitivity is
`sqrt(2)`, and the signal has the same relation, so its noise allows for that.

The table lies below the project's state, readable by its owner alone, only while the release is made. Nothing that the
signal's bounds say is read, so the profile is the same whichever bounds are being thought of.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance.errors import ConfigError, DefinitionError, ReleaseCorrupt
from governance.files import exclusive_lock, remove_tree
from governance.release import Manifest, ReleaseStore
from governance.settings import Settings
from pipelines.compiled import definition_sha256
from pipelines.definitions import (
    ZCDP,
    ContributionProfile,
    CountDistinct,
    Entity,
    EventSource,
    KeepRandom,
    PublicPartitions,
    Purpose,
    Signal,
)
from pipelines.engine.failures import no_data_in_errors
from pipelines.engine.rows import RowPlan, rows_of
from pipelines.engine.scan import Part, parts_of, read_parts, tasks_of
from pipelines.noise import KeyedNoise, NoiseSource, ReleaseKey
from pipelines.parents import parents_of, released_domains
from pipelines.recipes import recipe_of
from pipelines.results import Progress, RunResult
from pipelines.run import run
from pipelines.windows import Newest, Span, WindowChoice, choose_windows

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["STEPS", "Profiled", "profile", "profile_of", "profile_signal", "snippet"]

STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Numbers of partitions at which a new step begins; the last one has no end."""

_STEP, _UNITS, _TIME = "partitions", "units", "seen_at"
_CERTAIN = 3.0
"""Standard deviations of its noise that a count must reach to be told: a phantom among heavy units would weigh much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """A profile and the release that it was read from.

    Attributes:
        profile: for the definition.
        counts: (step, noisy number of units), as released.
        noise_stddev: of each.
        result: the run.
    """

    profile: ContributionProfile
    counts: tuple[tuple[int, int], ...]
    noise_stddev: float
    result: RunResult


def profile(
    settings: Settings,
    name: str,
    *,
    rho: float,
    windows: WindowChoice | None = None,
    progress: Progress | None = None,
    noise: Callable[[ReleaseKey], NoiseSource] = KeyedNoise,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Profiled:
    """Releases how many partitions the units of a signal have in one window; a release that is there is read again.

    Args:
        settings: the project.
        name: of the signal.
        rho: what it may cost: its account is charged.
        windows: one window; None: the newest.
        progress: told of every stage.
        noise: makes the noise source from a release's key; tests pass others.
        clock: gives the current aware UTC time.

    Raises:
        BudgetExceeded, PolicyRefused: as `pipelines.run.run`; nothing was read.
        ConfigError: several windows, or none.
        DefinitionError: the name is not a signal's, or there are too few units for this rho.
        HedgerowError: what the input or the engine say.
    """
    from pipelines.project import load_project

    [signal] = load_project(settings).select((name,))
    if not isinstance(signal, Signal):
        raise DefinitionError(signal.identity, "profile: it reads no events, so there is nothing to profile")
    chosen = choose_windows(signal.window, windows or Newest(1), settings.calendar, clock().date(), signal.identity)
    if len(chosen) > 1:
        raise ConfigError(f"{signal.identity}: profile: found {len(chosen)} windows, allowed: one; leave --window out")
    folder = settings.state_dir / "profiles" / signal.name
    store = ReleaseStore(settings.releases_dir)
    derived = _versioned(profile_signal(signal, rho, _told(folder, settings.root)), store)
    with exclusive_lock(settings.state_dir / "profiles" / f"{signal.name}.lock", f"the profile of {signal.name}"):
        try:
            [result] = run(
                settings,
                definitions=(derived,),
                windows=windows,
                progress=progress,
                noise=noise,
                clock=clock,
                prepare=lambda span: _write_units(signal, settings, store, span, folder),
            )
        finally:
            remove_tree(folder)
    counts, stddev = _released(store, result.manifest)
    found = profile_of(counts, stddev, f"{result.release_id}, rho {rho:g}")
    if found is None:
        raise DefinitionError(
            signal.identity,
            f"profile: no number of units stands out of noise of {stddev:.3g}; use a larger --rho or a longer window",
        )
    return Profiled(profile=found, counts=counts, noise_stddev=stddev, result=result)


def profile_signal(signal: Signal, rho: float, table: str) -> Signal:
    """The derived signal: units at each step, over the table with one row a unit.

    Args:
        signal: whose units.
        rho: what a release of it costs.
        table: with one row a unit.

    Raises:
        DefinitionError: a unit's column has the name of one that the table adds.
    """
    taken = {_STEP, _TIME} & {signal.source.person, *signal.privacy_unit.columns}
    if taken:
        raise DefinitionError(signal.identity, f"profile: the unit's column {taken.pop()!r} needs another name")
    steps = STEPS[: bisect_right(STEPS, _most_partitions(signal))]
    return Signal(
        name=f"{signal.name}_profile",
        version=1,
        owner=signal.owner,
        purpose=Purpose.ANALYTICS,
        description=f"{signal.privacy_unit.label}s by how many {signal.entity.name}s they have: {signal.description}",
        source=EventSource(name=signal.source.name, table=table, timestamp=_TIME, person=signal.source.person),
        privacy_unit=signal.privacy_unit,
        entity=Entity("contribution", _STEP),
        aggregates={_UNITS: CountDistinct()},
        window=signal.window,
        bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1),
        partitions=PublicPartitions({_STEP: steps}),
        budget_per_release=ZCDP(rho),
        ttl=signal.ttl,
    )


def _most_partitions(signal: Signal) -> int:
    """As many as a unit can have, as far as that is public."""
    if not isinstance(signal.partitions, PublicPartitions):
        return STEPS[-1]
    domains = [d for d in signal.partitions.domains.values() if isinstance(d, tuple)]
    return math.prod(map(len, domains)) if len(domains) == len(signal.entity.keys) else STEPS[-1]


def profile_of(counts: tuple[tuple[int, int], ...], noise_stddev: float, origin: str) -> ContributionProfile | None:
    """Shares of units from noisy counts; None if none stands out of the noise.

    A step is told by the middle of the numbers that it stands for, the last one by where it begins.
    """
    sure = [(step, count) for step, count in counts if count >= _CERTAIN * noise_stddev and count > 0]
    total = sum(count for _, count in sure)
    if not sure:
        return None
    steps = [step for step, _ in counts]
    ends = dict(zip(steps, [*steps[1:], steps[-1] + 1], strict=True))
    shares = [((step + ends[step] - 1) // 2, count / total) for step, count in sure]
    return ContributionProfile(
        partitions=tuple((number, max(float(f"{share:.4f}"), 0.0001)) for number, share in shares), origin=origin
    )


def snippet(profiled: Profiled, signal_name: str) -> str:
    """A Python file that a definition can import its profile from."""
    pairs = "".join(f"        ({number}, {share}),\n" for number, share in profiled.profile.partitions)
    return (
        f'"""How many partitions units of {signal_name} have, as released under differential privacy."""\n\n'
        "from pipelines import ContributionProfile\n\n"
        "PROFILE = ContributionProfile(\n"
        f"    partitions=(\n{pairs}    ),\n"
        f"    origin={json.dumps(profiled.profile.origin)},\n"
        ")\n"
    )


def _versioned(derived: Signal, store: ReleaseStore) -> Signal:
    """The version that released the same definition before, or the next one: a changed signal or rho is another."""
    versions = {
        m.signal.version: m.signal.definition_sha256 for m in store.manifests() if m.signal.name == derived.name
    }
    for version, sha256 in sorted(versions.items()):
        if definition_sha256(known := replace(derived, version=version)) == sha256:
            return known
    return replace(derived, version=max(versions, default=0) + 1)


def _told(folder: Path, root: Path) -> str:
    """A path as definitions tell it: relative to the project where it lies in it."""
    return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)


def _released(store: ReleaseStore, manifest: Manifest) -> tuple[tuple[tuple[int, int], ...], float]:
    """(step, noisy units), in order, and the noise's standard deviation.

    Raises:
        ReleaseCorrupt: its files are not what its manifest says.
    """
    import pyarrow.parquet as pq

    store.verify_files(manifest)
    rows = [row for file in store.data_files(manifest) for row in pq.read_table(file).to_pylist()]
    told = next((column.noise_stddev for column in manifest.features if column.name == _UNITS), None)
    if told is None:
        raise ReleaseCorrupt(f"{manifest.release_id}: it is no profile; remove it, or name the signal otherwise")
    return tuple(sorted((row[_STEP], row[_UNITS]) for row in rows)), told


# --- one row for each unit --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Which unit has which key, each once for each task that met it; or a problem."""

    tasks: tuple[tuple[Part, ...], ...]
    plan: RowPlan
    names: tuple[str, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in batches:
            for task in batch.column(0).to_numpy().tolist():
                for made in rows_of(read_parts(self.tasks[task], self.plan), self.plan):
                    rows = made.rows
                    if made.problem >= 0:
                        empty = [pa.nulls(1, rows.schema.field(name).type) for name in self.names]
                        problem = pa.array([made.problem], pa.int32())
                        yield pa.RecordBatch.from_arrays([*empty, problem], names=[*self.names, "problem"])
                        return
                    distinct = rows.select(list(self.names)).group_by(list(self.names), use_threads=False).aggregate([])
                    distinct = distinct.append_column("problem", pa.nulls(distinct.num_rows, pa.int32()))
                    yield from distinct.combine_chunks().to_batches()


def _write_units(signal: Signal, settings: Settings, store: ReleaseStore, span: Span, folder: Path) -> None:
    """Writes the table of units of one window.

    Raises:
        InputError: nulls, wrong types; nothing was drawn.
    """
    from pipelines.engine.inputs import check_footers, open_inputs, row_plan
    from pipelines.engine.session import spark_session

    # Which keys a unit has does not depend on what is measured of them.
    bare = replace(signal, aggregates={_UNITS: CountDistinct()}, weights={}, post_processing=(), profile=None)
    recipe = recipe_of(bare)
    parents = parents_of(bare, span, store)
    folders = {
        key: store.directory(parents[f"{domain.signal}/v{domain.version}"].release_id)
        for key, domain in released_domains(bare).items()
    }
    inputs = open_inputs(bare, recipe, settings.root, folders)
    check_footers(bare, inputs)
    plan = row_plan(bare, recipe, inputs, span)
    spark = spark_session(settings.spark)
    kinds = {"integer": "bigint", "text": "string", "date": "date"}
    columns = {f"__u{i}": kinds[inputs.events.kind(name)] for i, name in enumerate(signal.privacy_unit.columns)}
    if signal.privacy_unit.per is not None:
        columns[f"__u{len(columns)}"] = "bigint"
    units = tuple(columns)
    columns |= {f"__k{i}": kinds[inputs.key_kinds[key]] for i, key in enumerate(signal.entity.keys)}
    tasks = tasks_of(parts_of(inputs.events.files, plan), 2 * spark.sparkContext.defaultParallelism)
    stage = _Pairs(tasks=tasks, plan=plan, names=tuple(columns))
    schema = ", ".join(f"{name} {kind}" for name, kind in [*columns.items(), ("problem", "int")])
    remove_tree(folder)
    folder.mkdir(parents=True, mode=0o700)
    with no_data_in_errors(signal.identity):
        pairs = spark.range(0, len(tasks), 1, max(1, len(tasks))).mapInArrow(stage, schema).persist()
        try:
            problems = [row[0] for row in pairs.where("problem is not null").select("problem").distinct().collect()]
            if problems:
                raise plan.problems[min(problems)].error()
            _units_table(pairs, units, signal, span, spark).write.mode("append").parquet(str(folder))
        finally:
            pairs.unpersist()


def _units_table(
    pairs: DataFrame, units: tuple[str, ...], signal: Signal, span: Span, spark: SparkSession
) -> DataFrame:
    """A row for each unit; and one before the window, so that the table of an empty window has its columns too."""
    from pyspark.sql import functions as F

    keys = [name for name in pairs.columns if name.startswith("__k")]
    counted = pairs.where("problem is null").groupBy(*units).agg(F.countDistinct(*keys).alias("n"))
    start, per = int(span.start.timestamp()), signal.privacy_unit.per
    moment: Any = F.lit(start)
    if per is not None:
        moment = F.greatest(F.col(units[-1]) * int(per.total_seconds()), moment)
    step: Any = F.lit(STEPS[0])
    for edge in STEPS[1:]:
        step = F.when(F.col("n") >= edge, edge).otherwise(step)
    named = dict(zip(signal.privacy_unit.columns, units, strict=False))
    if signal.source.person not in named:
        counted = counted.withColumn("__person", F.lit(0))  # of a unit that names no person
        named[signal.source.person] = "__person"
    types = dict(counted.dtypes)
    table = counted.select(
        *(F.col(own).alias(name) for name, own in named.items()),
        moment.cast("bigint").alias(_TIME),
        step.cast("bigint").alias(_STEP),
    )
    zero = {"bigint": 0, "int": 0, "string": "", "date": date(1970, 1, 1)}
    before = spark.range(1).select(
        *(F.lit(zero[types[own]]).cast(types[own]).alias(name) for name, own in named.items()),
        F.lit(start - 1).cast("bigint").alias(_TIME),
        F.lit(STEPS[0]).cast("bigint").alias(_STEP),
    )
    return table.unionByName(before)
