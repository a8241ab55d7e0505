"""Runs signals: reserve → check → draw → write → publish → commit, one release for each window.

    reserve   every window's loss, all or none, before any data is read
    check     the input's columns, types, nulls and numbers; a refusal gives the reservations back
    draw      recorded before Spark starts to write noisy bytes: from here the loss is spent
    write     bound, aggregate, add noise and select, into a staging folder
    publish   manifest, fsync, one rename
    commit    the manifest's hash goes into the ledger

A crash between any two steps is settled by `governance.recovery` at the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from governance.canonical import sha256_file
from governance.errors import EngineError
from governance.files import exclusive_lock, remove_tree
from governance.ledger import EntryKind, Ledger, Request
from governance.recovery import check_known, recover, release_lock_path, settle
from governance.release import (
    DataFile,
    InputFingerprint,
    LedgerReference,
    Manifest,
    ReleaseStore,
    WindowReference,
)
from governance.settings import Settings
from pipelines.definitions import ContentEmbedding, PublicColumn, PublicPartitions, Signal
from pipelines.engine.failures import no_data_in_errors
from pipelines.engine.tables import Table, fingerprint_key
from pipelines.manifests import code_versions, guarantee_of, released_columns, signal_reference
from pipelines.noise import KeyedNoise, NoiseSource, ReleaseKey
from pipelines.plan import SignalPlan, plan_signal
from pipelines.policy import enforce_run
from pipelines.project import load_project
from pipelines.results import Outcome, Progress, Quiet, RunResult, Stage, check_same_version, unchanged
from pipelines.windows import Newest, Span, WindowChoice, choose_windows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from pipelines.engine.inputs import SignalInputs

__all__ = ["Outcome", "Progress", "RunResult", "Stage", "run"]


def _now() -> datetime:
    return datetime.now(UTC)


def run(
    settings: Settings,
    *,
    names: tuple[str, ...] = (),
    windows: WindowChoice | None = None,
    progress: Progress | None = None,
    noise: Callable[[ReleaseKey], NoiseSource] = KeyedNoise,
    clock: Callable[[], datetime] = _now,
) -> tuple[RunResult, ...]:
    """Releases what is missing of the chosen windows; releases that are there are left as they are.

    Args:
        settings: the project.
        names: definitions to run; empty: all.
        windows: which complete windows of each signal; None: the newest one.
        progress: told of every stage.
        noise: makes the noise source from a release's key; tests pass one of zero scale.
        clock: gives the current aware UTC time.

    Returns:
        One result for each window of each definition, in order.

    Raises:
        PolicyRefused: the project's policy refuses some of it; nothing was read, the refusals are in the ledger.
        BudgetExceeded: some account cannot carry all the missing windows; nothing was read, nothing stays reserved.
        HedgerowError: what the definitions, the input or the engine say; losses not drawn are given back.
    """
    chosen = load_project(settings).select(names)
    store = ReleaseStore(settings.releases_dir)
    results: list[RunResult] = []
    with Ledger(settings.ledger_path, clock=clock) as ledger, ExitStack() as locks:
        recover(settings, ledger)
        check_known(settings, ledger)
        runner = _Runner(
            settings=settings, store=store, ledger=ledger, progress=progress or Quiet(), noise=noise, clock=clock
        )
        tasks: list[_Task] = []
        for signal in (definition for definition in chosen if isinstance(definition, Signal)):
            plan = plan_signal(signal, settings)
            check_same_version(store, signal)
            for span in choose_windows(
                signal.window, windows or Newest(1), settings.calendar, clock().date(), signal.identity
            ):
                release_id = f"{signal.name}/v{signal.version}/{span.label}"
                locks.enter_context(exclusive_lock(release_lock_path(settings, release_id), release_id))
                settle(settings, ledger, release_id)
                if store.exists(release_id):
                    manifest = unchanged(store, ledger, signal, release_id)
                    results.append(RunResult(release_id=release_id, outcome=Outcome.PRESENT, manifest=manifest))
                else:
                    tasks.append(_Task(plan=plan, span=span, release_id=release_id, run_id=uuid4().hex))
        enforce_run(settings, ledger, [(task.plan, task.release_id) for task in tasks], chosen)
        if tasks:
            results.extend(runner.run(tasks))
        for embedding in (definition for definition in chosen if isinstance(definition, ContentEmbedding)):
            from pipelines.vectors import release_vectors

            results.append(release_vectors(embedding, settings, store, ledger, runner.progress, clock))
    order = [definition.name for definition in chosen]
    return tuple(sorted(results, key=lambda r: (order.index(r.manifest.signal.name), r.release_id)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """One release to make."""

    plan: SignalPlan
    span: Span
    release_id: str
    run_id: str

    @property
    def request(self) -> Request:
        """What the ledger is asked to set aside."""
        return Request(run_id=self.run_id, account=self.plan.account, subject=self.release_id, loss=self.plan.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A signal's input after the checks, shared by its windows."""

    inputs: SignalInputs
    quality: tuple[Mapping[str, Any], ...]
    fingerprints: tuple[InputFingerprint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner:
    """What every step needs."""

    settings: Settings
    store: ReleaseStore
    ledger: Ledger
    progress: Progress
    noise: Callable[[ReleaseKey], NoiseSource]
    clock: Callable[[], datetime]

    def run(self, tasks: list[_Task]) -> list[RunResult]:
        """Makes every release, or gives back what it did not draw."""
        try:
            for task in tasks:
                self.progress.stage(task.release_id, Stage.RESERVE)
            reserved = self.ledger.reserve_all(tuple(task.request for task in tasks))
            made = []
            checked: dict[str, _Checked] = {}
            for task, entry in zip(tasks, reserved, strict=True):
                name = task.plan.signal.name
                self.progress.stage(task.release_id, Stage.CHECK)
                if name not in checked:
                    checked[name] = self._check(task.plan)
                manifest = self._release(task, entry, checked[name])
                made.append(RunResult(release_id=task.release_id, outcome=Outcome.RELEASED, manifest=manifest))
            return made
        finally:
            # Whatever stopped us, a loss that was not drawn is given back; after a kill, recovery does the same.
            mine = {task.run_id for task in tasks}
            for known in self.ledger.runs():
                if known.run_id in mine and known.state is EntryKind.RESERVE:
                    self.ledger.release(known.run_id, "the run stopped before any noise was drawn")

    def _check(self, plan: SignalPlan) -> _Checked:
        """Opens and checks a signal's input, once for all its windows."""
        from pipelines.engine.inputs import check_footers, check_rows, open_inputs
        from pipelines.engine.session import spark_session

        signal = plan.signal
        inputs = open_inputs(signal, plan.recipe, self.settings.root)
        check_footers(signal, inputs)
        spark = spark_session(self.settings.spark)
        with no_data_in_errors(signal.identity):
            checks = check_rows(signal, inputs, spark)
        return _Checked(
            inputs=inputs,
            quality=tuple({"check": check, "passed": True} for check in checks),
            fingerprints=_fingerprints(signal, inputs, fingerprint_key(self.settings.keys_dir / "fingerprint.key")),
        )

    def _release(self, task: _Task, reserve_entry: int, checked: _Checked) -> Manifest:
        """Draws, writes, publishes and commits one window."""
        source, released = self._released(task, checked.inputs)
        columns = released_columns(task.plan, dict(released.dtypes))
        staging = self.settings.staging_dir / task.run_id
        self.progress.stage(task.release_id, Stage.DRAW)
        draw_entry = self.ledger.draw(task.run_id)
        try:
            self.progress.stage(task.release_id, Stage.WRITE)
            with no_data_in_errors(task.release_id):
                released.write.parquet(str(staging / "spark"))
            files, rows = _tidy(staging)
            manifest = Manifest(
                release_id=task.release_id,
                signal=signal_reference(task.plan.signal),
                window=WindowReference(start=task.span.start.isoformat(), end=task.span.end.isoformat()),
                created_at=self.clock().isoformat(timespec="seconds"),
                keys=task.plan.signal.entity.keys,
                columns=columns,
                rows=rows,
                guarantee=guarantee_of(task.plan, source),
                ledger=LedgerReference(
                    account=task.plan.account.name,
                    run_id=task.run_id,
                    reserve_entry=reserve_entry,
                    draw_entry=draw_entry,
                ),
                inputs=checked.fingerprints,
                quality=checked.quality,
                code=code_versions(),
                files=files,
            )
            self.progress.stage(task.release_id, Stage.PUBLISH)
            self.store.publish(staging / "release", manifest)
            self.progress.stage(task.release_id, Stage.COMMIT)
            self.ledger.commit(task.run_id, manifest.sha256)
        finally:
            remove_tree(staging)
        self.progress.stage(task.release_id, Stage.DONE)
        return manifest

    def _released(self, task: _Task, inputs: SignalInputs) -> tuple[NoiseSource, DataFrame]:
        """The noisy table, not yet computed, and where its noise comes from."""
        from pipelines.engine.aggregate import sum_partitions
        from pipelines.engine.bounding import Salts, bound
        from pipelines.engine.inputs import read_events
        from pipelines.engine.noisy import add_noise
        from pipelines.engine.session import spark_session

        plan, signal = task.plan, task.plan.signal
        key = ReleaseKey.fresh()
        source = self.noise(key)
        spark = spark_session(self.settings.spark)
        with no_data_in_errors(task.release_id):
            events = read_events(signal, inputs, task.span, spark)
            salts = Salts(rows=key.salt("rows"), partitions=key.salt("partitions"))
            bounded = bound(events, signal, plan.recipe, inputs, salts)
            sums = sum_partitions(bounded, signal, plan.recipe, inputs, spark)
            files = self.settings.spark.release_files
            return source, add_noise(sums, signal, plan.recipe, plan.calibration, source, files=files)


def _fingerprints(signal: Signal, inputs: SignalInputs, key: bytes) -> tuple[InputFingerprint, ...]:
    def public(dataset: str, table: Table, columns: tuple[str, ...]) -> InputFingerprint:
        return InputFingerprint(
            dataset=dataset,
            table=table.name,
            access="public",
            fingerprint=table.public_fingerprint(),
            columns=columns,
        )

    prints = [
        InputFingerprint(
            dataset=signal.source.name,
            table=inputs.events.name,
            access="private",
            fingerprint=inputs.events.private_fingerprint(key),
            columns=inputs.event_columns,
        )
    ]
    for join, table in zip(signal.joins, inputs.joined, strict=True):
        prints.append(public(join.table.name, table, (join.on, *join.columns)))
    if isinstance(signal.partitions, PublicPartitions):
        for name, domain in signal.partitions.domains.items():
            if isinstance(domain, PublicColumn):
                prints.append(public(domain.table.name, inputs.domains[name], (domain.column,)))
    return tuple(prints)


def _tidy(staging: Path) -> tuple[tuple[DataFile, ...], int]:
    """Moves Spark's part files to plain names in `release/`, empty ones left out unless all are; counts the rows."""
    import pyarrow.parquet as pq

    target = staging / "release"
    target.mkdir(parents=True)
    parts = sorted((staging / "spark").glob("part-*.parquet"))
    rows = {part: pq.read_metadata(part).num_rows for part in parts}
    kept = [part for part in parts if rows[part]] or parts[:1]
    if not kept:
        raise EngineError("the engine wrote no file; check the free disk space and run again")
    files = []
    for index, part in enumerate(kept):
        path = part.rename(target / f"part-{index:05d}.parquet")
        files.append(DataFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path)))
    return tuple(files), sum(rows.values())
