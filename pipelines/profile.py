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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

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
from pipelines.engine.scan import parts_of, tasks_of
from pipelines.noise import KeyedNoise, NoiseSource, ReleaseKey
from pipelines.parents import parents_of, released_domains
from pipelines.recipes import recipe_of
from pipelines.results import Progress, RunResult
from pipelines.run import run
from pipelines.unit_rows import STEP, STEPS, TIME, UnitRows
from pipelines.windows import Newest, Span, WindowChoice, choose_windows

__all__ = ["STEPS", "Profiled", "profile", "profile_of", "profile_signal", "snippet"]

_UNITS = "units"
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
    taken = {STEP, TIME} & {signal.source.person, *signal.privacy_unit.columns}
    if taken:
        raise DefinitionError(signal.identity, f"profile: the unit's column {taken.pop()!r} needs another name")
    steps = STEPS[: bisect_right(STEPS, _most_partitions(signal))]
    return Signal(
        name=f"{signal.name}_profile",
        version=1,
        owner=signal.owner,
        purpose=Purpose.ANALYTICS,
        description=f"{signal.privacy_unit.label}s by how many {signal.entity.name}s they have: {signal.description}",
        source=EventSource(name=signal.source.name, table=table, timestamp=TIME, person=signal.source.person),
        privacy_unit=signal.privacy_unit,
        entity=Entity("contribution", STEP),
        aggregates={_UNITS: CountDistinct()},
        window=signal.window,
        bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1),
        partitions=PublicPartitions({STEP: steps}),
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
    return tuple(sorted((row[STEP], row[_UNITS]) for row in rows)), told


def _write_units(signal: Signal, settings: Settings, store: ReleaseStore, span: Span, folder: Path) -> None:
    """Writes the table of units of one window.

    Raises:
        InputError: nulls, wrong types; nothing was drawn.
    """
    import pyarrow.parquet as pq

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
    tasks = tasks_of(parts_of(inputs.events.files, plan), 2 * spark.sparkContext.defaultParallelism)
    unit_kinds = tuple(inputs.events.kind(name) for name in signal.privacy_unit.columns)
    made = replace(UnitRows.of(signal, plan, unit_kinds, tuple(inputs.key_kinds.values())), tasks=tasks)
    remove_tree(folder)
    folder.mkdir(parents=True, mode=0o700)
    pq.write_table(made.before(), folder / "before.parquet")
    with no_data_in_errors(signal.identity):
        numbers = spark.range(0, len(tasks), 1, max(1, len(tasks)))
        pairs = numbers.mapInArrow(made.read, _schema({**made.kinds, "problem": "int"})).persist()
        try:
            problems = [row[0] for row in pairs.where("problem is not null").select("problem").distinct().collect()]
            if problems:
                raise plan.problems[min(problems)].error()
            of_units = pairs.drop("problem").repartition(*made.units).mapInArrow(made.count, _schema(made.columns))
            of_units.write.mode("append").parquet(str(folder))
        finally:
            pairs.unpersist()


def _schema(columns: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}` {kind}" for name, kind in columns.items())
