"""After a crash: what unfinished runs left behind is completed or given back, never forgotten.

| found in the ledger | found on disk | done |
|---|---|---|
| RESERVE | anything | RELEASE: no noise was drawn; staging removed |
| DRAW | the whole release of that run | COMMIT: the rename happened, the entry was lost |
| DRAW | no release of that run | nothing: the loss stays spent; staging removed |

A tree head that a crash kept from being published is published first.

A run whose process lives holds its release's lock and is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from governance.errors import LedgerCorrupt, RunInProgress
from governance.files import exclusive_lock, remove_tree
from governance.ledger import EntryKind, Ledger, Run
from governance.release import PUBLIC_SAMPLER, Manifest, ReleaseStore
from governance.settings import Settings

__all__ = ["check_known", "recover", "release_lock_path", "settle"]


def release_lock_path(settings: Settings, release_id: str) -> Path:
    """The lock that a process holds while it works on a release."""
    return settings.locks_dir / (release_id.replace("/", "~") + ".lock")


def recover(settings: Settings, ledger: Ledger) -> tuple[str, ...]:
    """Settles every run that is neither finished nor alive.

    Returns:
        What was done, one sentence each.

    Raises:
        ReleaseCorrupt: a drawn run's release is on disk and does not verify.
    """
    done: list[str] = []
    ledger.publish_head()
    for run in ledger.runs():
        if run.state not in (EntryKind.RESERVE, EntryKind.DRAW):
            continue
        if run.state is EntryKind.DRAW and not _to_do(settings, run):
            continue
        try:
            with exclusive_lock(release_lock_path(settings, run.subject), run.subject):
                done.extend(_settle(settings, ledger, run))
        except RunInProgress:
            continue
    return tuple(done)


def settle(settings: Settings, ledger: Ledger, release_id: str) -> None:
    """Settles the unfinished runs of one release. The caller holds its lock, so none of them is alive.

    Raises:
        ReleaseCorrupt: a drawn run's release is on disk and does not verify.
    """
    for run in ledger.runs_of_release(release_id):
        if run.state in (EntryKind.RESERVE, EntryKind.DRAW):
            for _ in _settle(settings, ledger, run):
                pass


def check_known(settings: Settings, ledger: Ledger) -> None:
    """Refuses to go on beside releases that the ledger does not know: it was restored from an older copy, or cut.

    Raises:
        LedgerCorrupt: spends have been forgotten; anything released now could pass the cap unseen.
    """
    known = {run.subject for run in ledger.runs() if run.state in (EntryKind.DRAW, EntryKind.COMMIT)}
    store = ReleaseStore(settings.releases_dir)
    for release_id in store.ids():
        if release_id not in known and store.load(release_id).guarantee.sampler != PUBLIC_SAMPLER:
            raise LedgerCorrupt(
                f"{ledger.name}: release {release_id} is on disk, but the ledger does not know it; the "
                "ledger is "
                "older than the releases (an old backup, or cut short), and going on would forget what they cost; "
                "restore the newest ledger"
            )


def _to_do(settings: Settings, run: Run) -> bool:
    """Whether a drawn run left something on disk; a loss that stays spent is settled once and for all."""
    return (settings.staging_dir / run.run_id).exists() or _released(settings, run) is not None


def _released(settings: Settings, run: Run) -> Manifest | None:
    """The release that this very run published; None where there is none, or a later run made it."""
    store = ReleaseStore(settings.releases_dir)
    if not store.exists(run.subject):
        return None
    manifest = store.load(run.subject)
    return manifest if manifest.ledger.run_id == run.run_id else None


def _settle(settings: Settings, ledger: Ledger, run: Run) -> Iterator[str]:
    """Settles one run under its lock, by its state as it is now; yields what was done."""
    known = ledger.run(run.run_id)
    state = run.state if known is None else known.state
    try:
        if state is EntryKind.RESERVE:
            ledger.release(run.run_id, "the run ended before any noise was drawn")
            yield f"{run.subject}: an unfinished run's reservation was given back"
        elif state is EntryKind.DRAW:
            manifest = _released(settings, run)
            if manifest is None:
                yield f"{run.subject}: noise was drawn and never published; its loss stays spent"
            else:
                ReleaseStore(settings.releases_dir).verify_files(manifest)
                ledger.commit(run.run_id, manifest.sha256)
                yield f"{run.subject}: published whole before a crash; now committed"
    finally:
        remove_tree(settings.staging_dir / run.run_id)
