"""Runs signals: reserve → check → draw → write → publish → commit, one release for each window.

    reserve   every window's loss, all or none, before any data is read; of more than 100 windows, 100 at a time, when
              the accounts can carry them all
    check     the input's columns, types, nulls and numbers; a refusal gives the reservations back
    draw      recorded before Spark starts to write noisy bytes: from here the loss is spent
    write     bound, aggregate, add noise and select, into a staging folder
    publish   manifest, fsync, one rename
    commit    the manifest's hash goes into the ledger

A crash between any two steps is settled by `governance.recovery` at the next run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from governance.balances import shortage
from governance.canonical import sha256_file
from governance.files import exclusive_lock, remove_tree
from governance.ledger import EntryKind, Ledger, Request, open_ledger
from governance.privacy import PrivacyLoss
from governance.recovery import check_known, recover, release_lock_path, settle
from governance.release import (
    DataFile,
    InputFingerprint,
    LedgerReference,
    Manifest,
    ReleaseStore,
    WindowReference,
)
from governance.settings import Account, Settings
from pipelines.definitions import ContentEmbedding, Definition, Signal
from pipelines.engine.failures import no_data_in_errors
from pipelines.engine.tables import fingerprint_key
from pipelines.manifests import code_versions, guarantee_of, released_columns, signal_reference
from pipelines.noise import KeyedNoise, NoiseSource, ReleaseKey
from pipelines.parents import parents_first, parents_of, released_domains
from pipelines.plan import SignalPlan, plan_signal
from pipelines.policy import enforce_run
from pipelines.project import check_tables, load_project
from pipelines.results import Outcome, Progress, Quiet, RunResult, Stage, check_same_version, unchanged
from pipelines.windows import Newest, Span, WindowChoice, choose_windows

if TYPE_CHECKING:
    from pipelines.engine.inputs import SignalInputs
    from pipelines.engine.post_processing import Step

__all__ = ["Outcome", "Progress", "RunResult", "Stage", "run"]


_AT_ONCE = 100
"""Windows that are reserved together. Each holds its lock, which is an open file: a process may have few of those."""


def _now() -> datetime:
    return datetime.now(UTC)


def run(
    settings: Settings,
    *,
    names: tuple[str, ...] = (),
    definitions: tuple[Definition, ...] = (),
    windows: WindowChoice | None = None,
    progress: Progress | None = None,
    noise: Callable[[ReleaseKey], NoiseSource] = KeyedNoise,
    clock: Callable[[], datetime] = _now,
    prepare: Callable[[Span], None] | None = None,
) -> tuple[RunResult, ...]:
    """Releases what is missing of the chosen windows; releases that are there are left as they are.

    Args:
        settings: the project.
        names: definitions to run; empty: all.
        definitions: to run instead of any of the project's.
        windows: which complete windows of each signal; None: the newest one.
        progress: told of every stage.
        noise: makes the noise source from a release's key; tests pass one of zero scale.
        clock: gives the current aware UTC time.
        prepare: writes the input of a window that is released, where that is itself made of private data: called when
            the loss is reserved, before the input is opened.

    Returns:
        One result for each window of each definition, in order.

    Raises:
        PolicyRefused: the project's policy refuses some of it; nothing was read, the refusals are in the ledger.
        BudgetExceeded: some account cannot carry all the missing windows; nothing was read, nothing stays reserved.
        HedgerowError: what the definitions, the input or the engine say; losses not drawn are given back.
    """
    if definitions:
        check_tables(settings, definitions)
    chosen = definitions or load_project(settings).select(names)
    store = ReleaseStore(settings.releases_dir)
    results: list[RunResult] = []
    with open_ledger(settings, clock=clock) as ledger:
        recover(settings, ledger)
        check_known(settings, ledger)
        runner = _Runner(
            settings=settings,
            store=store,
            ledger=ledger,
            progress=progress or Quiet(),
            noise=noise,
            clock=clock,
            prepare=prepare,
        )
        tasks: list[_Task] = []
        for signal in parents_first(tuple(d for d in chosen if isinstance(d, Signal))):
            plan = plan_signal(signal, settings)
            check_same_version(store, signal)
            for span in choose_windows(
                signal.window, windows or Newest(1), settings.calendar, clock().date(), signal.identity
            ):
                task = _Task(plan=plan, span=span, run_id=uuid4().hex)
                with runner.settled(task) as present:
                    if present is None:
                        tasks.append(task)
                    else:
                        results.append(present)
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
    run_id: str

    @property
    def release_id(self) -> str:
        """Its name."""
        return f"{self.plan.signal.name}/v{self.plan.signal.version}/{self.span.label}"

    @property
    def request(self) -> Request:
        """What the ledger is asked to set aside."""
        return Request(
            run_id=self.run_id,
            account=self.plan.account,
            subject=self.release_id,
            loss=self.plan.loss,
            period=self.plan.account.period(self.span.start, self.span.end),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A signal's input after the checks, shared by its windows; `public` names its public tables."""

    inputs: SignalInputs
    steps: tuple[Step, ...]
    quality: tuple[Mapping[str, Any], ...]
    public: tuple[InputFingerprint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner:
    """What every step needs."""

    settings: Settings
    store: ReleaseStore
    ledger: Ledger
    progress: Progress
    noise: Callable[[ReleaseKey], NoiseSource]
    clock: Callable[[], datetime]
    prepare: Callable[[Span], None] | None

    @contextmanager
    def settled(self, task: _Task) -> Iterator[RunResult | None]:
        """Holds a release's lock, with nothing unfinished left of it; gives the release if it is there.

        Raises:
            RunInProgress: another process works on it.
            DefinitionError, ReleaseCorrupt: what is there is not what the definition and the ledger say.
        """
        release_id = task.release_id
        with exclusive_lock(release_lock_path(self.settings, release_id), release_id):
            settle(self.settings, self.ledger, release_id)
            if self.store.exists(release_id):
                manifest = unchanged(self.store, self.ledger, task.plan.signal, release_id)
                yield RunResult(release_id=release_id, outcome=Outcome.PRESENT, manifest=manifest)
            else:
                yield None

    def run(self, tasks: list[_Task]) -> list[RunResult]:
        """Makes every release, or gives back what it did not draw."""
        results: list[RunResult] = []
        try:
            if len(tasks) > _AT_ONCE:
                self._refuse_too_much(tasks)
            for first in range(0, len(tasks), _AT_ONCE):
                with ExitStack() as locks:
                    missing = []
                    for task in tasks[first : first + _AT_ONCE]:
                        present = locks.enter_context(self.settled(task))
                        if present is None:
                            missing.append(task)
                        else:  # another process made it while we were busy
                            results.append(present)
                    results.extend(self._make(missing))
            return results
        finally:
            # Whatever stopped us, a loss that was not drawn is given back; after a kill, recovery does the same.
            mine = {task.run_id for task in tasks}
            for known in self.ledger.runs():
                if known.run_id in mine and known.state is EntryKind.RESERVE:
                    self.ledger.release(known.run_id, "the run stopped before any noise was drawn")

    def _refuse_too_much(self, tasks: list[_Task]) -> None:
        """Refuses many windows as a whole before the first of them is made, if the accounts cannot carry them all.

        Raises:
            BudgetExceeded: nothing was read.
        """
        requests = tuple(task.request for task in tasks)
        totals: dict[tuple[Account, str | None], PrivacyLoss] = {}
        for request in requests:
            of = request.account, request.period
            totals[of] = totals.get(of, PrivacyLoss.zero()) + request.loss
        if any(shortage(total, self.ledger.balance(*of).remaining) for of, total in totals.items()):
            self.ledger.reserve_all(requests)  # says no, and records that it was asked

    def _make(self, tasks: list[_Task]) -> list[RunResult]:
        """Reserves for all, then makes one after the other. Their locks are held."""
        for task in tasks:
            self.progress.stage(task.release_id, Stage.RESERVE)
        reserved = self.ledger.reserve_all(tuple(task.request for task in tasks))
        made = []
        checked: dict[tuple[str, tuple[str, ...]], _Checked] = {}
        for task, entry in zip(tasks, reserved, strict=True):
            self.progress.stage(task.release_id, Stage.CHECK)
            if self.prepare is not None:
                self.prepare(task.span)
            parents = parents_of(task.plan.signal, task.span, self.store)
            of = task.plan.signal.name, tuple(parent.release_id for parent in parents.values())
            if of not in checked:
                checked[of] = self._check(task.plan, parents)
            manifest = self._release(task, entry, checked[of])
            made.append(RunResult(release_id=task.release_id, outcome=Outcome.RELEASED, manifest=manifest))
        return made

    def _check(self, plan: SignalPlan, parents: Mapping[str, Manifest]) -> _Checked:
        """Opens a signal's input and checks its columns, types and footers, once for all its windows."""
        from pipelines.engine.inputs import CHECKS, check_footers, open_inputs
        from pipelines.engine.post_processing import Parent, steps_of
        from pipelines.fingerprints import public_fingerprints

        signal = plan.signal
        folders = {name: self.store.directory(manifest.release_id) for name, manifest in parents.items()}
        domains = {key: folders[f"{d.signal}/v{d.version}"] for key, d in released_domains(signal).items()}
        inputs = open_inputs(signal, plan.recipe, self.settings.root, domains)
        check_footers(signal, inputs)
        return _Checked(
            inputs=inputs,
            steps=steps_of(
                plan, {name: Parent(folder=folders[name], manifest=manifest) for name, manifest in parents.items()}
            ),
            quality=tuple({"check": check, "passed": True} for check in CHECKS),
            public=public_fingerprints(signal, inputs, parents),
        )

    def _release(self, task: _Task, reserve_entry: int, checked: _Checked) -> Manifest:
        """Bounds and sums, then draws, writes, publishes and commits one window."""
        from pipelines.engine.kernel import Salts
        from pipelines.engine.release import Engine
        from pipelines.engine.session import spark_context
        from pipelines.fingerprints import events_fingerprint

        staging = self.settings.staging_dir / task.run_id
        key = ReleaseKey.fresh()
        engine = Engine(
            plan=task.plan,
            inputs=checked.inputs,
            steps=checked.steps,
            span=task.span,
            partitions=self.settings.spark.shuffle_partitions,
            salts=Salts(rows=key.salt("rows"), partitions=key.salt("partitions")),
            found=staging / "found",
            scratch=staging / "scratch" if self.settings.spark.master.startswith("local") else None,
        )
        source, plan, spark = self.noise(key), task.plan, spark_context(self.settings.spark)
        try:
            with no_data_in_errors(task.release_id), engine.sums(spark) as sums:
                own = fingerprint_key(self.settings.keys_dir / "fingerprint.key")
                read = events_fingerprint(plan.signal, plan.recipe, checked.inputs, task.span, own, spark)
                # Nothing noisy exists so far, and what the sums are nobody has seen: refusals up to here cost nothing.
                self.progress.stage(task.release_id, Stage.DRAW)
                draw_entry = self.ledger.draw(task.run_id)
                self.progress.stage(task.release_id, Stage.WRITE)
                written = sums.write(source, staging / "written", files=self.settings.spark.release_files)
                late = sums.late(source)
            files, rows = _tidy(written, staging / "release")
            manifest = Manifest(
                release_id=task.release_id,
                signal=signal_reference(task.plan.signal),
                window=WindowReference(start=task.span.start.isoformat(), end=task.span.end.isoformat()),
                created_at=self.clock().isoformat(timespec="seconds"),
                keys=task.plan.signal.entity.keys,
                columns=released_columns(task.plan, engine.schema),
                rows=rows,
                guarantee=guarantee_of(task.plan, source),
                ledger=LedgerReference(
                    account=task.plan.account.name,
                    run_id=task.run_id,
                    reserve_entry=reserve_entry,
                    draw_entry=draw_entry,
                ),
                inputs=(read, *checked.public),
                quality=(*checked.quality, *late),
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


def _tidy(written: tuple[Path, ...], target: Path) -> tuple[tuple[DataFile, ...], int]:
    """Moves what was written, and nothing else that attempts of tasks may have left beside it; tells files and rows."""
    import pyarrow.parquet as pq

    target.mkdir(parents=True)
    files, rows = [], 0
    for source in written:
        path = source.replace(target / source.name)
        rows += pq.read_metadata(path).num_rows
        files.append(DataFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path)))
    return tuple(files), rows
