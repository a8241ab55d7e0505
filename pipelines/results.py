"""What a run tells: its stages as it goes, its results at the end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from governance.errors import DefinitionError, ReleaseCorrupt
from governance.ledger import EntryKind, Ledger
from governance.release import KEYED_SAMPLER, PUBLIC_SAMPLER, Manifest, ReleaseStore
from pipelines.compiled import releases_the_same
from pipelines.definitions import Definition

__all__ = ["Outcome", "Progress", "Quiet", "RunResult", "Stage", "check_same_version", "unchanged"]


class Stage(StrEnum):
    """Where a release is on its way."""

    RESERVE = "reserve"
    CHECK = "check"
    DRAW = "draw"
    WRITE = "write"
    PUBLISH = "publish"
    COMMIT = "commit"
    DONE = "done"


class Outcome(StrEnum):
    """What became of a window."""

    RELEASED = "released"
    PRESENT = "present"


class Progress(Protocol):
    """Told at the start of each stage."""

    def stage(self, subject: str, stage: Stage) -> None:
        """`subject` is a release id."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Progress that nobody watches."""

    def stage(self, subject: str, stage: Stage) -> None:
        """Does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One window of one definition.

    Attributes:
        release_id: its release.
        outcome: released now, or there already.
        manifest: of the release.
    """

    release_id: str
    outcome: Outcome
    manifest: Manifest


def check_same_version(store: ReleaseStore, definition: Definition) -> None:
    """Refuses a definition that differs from the one behind another release of its name and version.

    Raises:
        DefinitionError: it has changed and its version has not.
    """
    prefix = f"{definition.name}/v{definition.version}/"
    for release_id in store.ids():
        if release_id.startswith(prefix):
            _check_same(store.load(release_id), definition)
            return


def _check_same(manifest: Manifest, definition: Definition) -> None:
    if not releases_the_same(manifest.signal.definition, definition):
        raise DefinitionError(
            definition.identity,
            f"the definition differs from the one that made {manifest.release_id}; raise version to release the new "
            "one "
            "beside it",
        )


def unchanged(store: ReleaseStore, ledger: Ledger, definition: Definition, release_id: str) -> Manifest:
    """A release that is there, if the ledger knows it, its noise is real, and the definition is still the same.

    Raises:
        DefinitionError: the definition has changed and its version has not.
        ReleaseCorrupt: not what the ledger committed, or made by a test's noise source.
    """
    manifest = store.load(release_id)
    if manifest.guarantee.sampler not in (KEYED_SAMPLER, PUBLIC_SAMPLER):
        raise ReleaseCorrupt(
            f"{release_id}: its noise came from a test source ({manifest.guarantee.sampler}); remove the project's "
            "state "
            "and run it again"
        )
    _check_same(manifest, definition)
    known = ledger.run(manifest.ledger.run_id)
    if known is not None and known.state is EntryKind.COMMIT and known.manifest_sha256 == manifest.sha256:
        return manifest
    raise ReleaseCorrupt(
        f"{release_id}: its manifest is not the one that the ledger committed; restore the release from a backup"
    )
