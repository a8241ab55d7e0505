"""Which releases may be published: the ledger's word, the policy's, and nothing made with test noise."""

from __future__ import annotations

from collections.abc import Callable

from featurestore.freshness import project_clock
from governance.errors import PublicationError, ReleaseCorrupt
from governance.ledger import EntryKind, Ledger
from governance.release import KEYED_SAMPLER, PUBLIC_SAMPLER, Manifest, ReleaseStore
from governance.settings import Settings

__all__ = ["check_publishable", "committed_releases"]


def committed_releases(
    settings: Settings, ledger: Ledger, progress: Callable[[str], None] = lambda _: None
) -> tuple[Manifest, ...]:
    """Manifests of the releases that the ledger has committed and the policy lets be published, by their ids.

    A release whose run has not committed (a run in progress, or one that crashed and waits for its rerun) is passed
    over and named to `progress`; so is one that the project's policy refuses, which the ledger records. Data
    files are not read; see `check_publishable`.

    Raises:
        ReleaseCorrupt: a manifest that is not the one the ledger committed to.
        LedgerCorrupt: the ledger's chain is broken.
    """
    runs = {run.run_id: run for run in ledger.runs()}
    committed = []
    for manifest in ReleaseStore(settings.releases_dir).manifests():
        run = runs.get(manifest.ledger.run_id)
        if run is None or run.state is not EntryKind.COMMIT:
            progress(f"{manifest.release_id}: not committed in the ledger, passed over")
            continue
        if run.subject != manifest.release_id or run.manifest_sha256 != manifest.sha256:
            raise ReleaseCorrupt(
                f"{manifest.release_id}: the manifest is not the one that the ledger committed to; "
                "restore the release from a backup; nothing was published"
            )
        committed.append(manifest)
    return _permitted(settings, ledger, tuple(committed), progress)


def _permitted(
    settings: Settings, ledger: Ledger, manifests: tuple[Manifest, ...], progress: Callable[[str], None]
) -> tuple[Manifest, ...]:
    """The releases that the project's policy lets be published, judged by what ran and by how old they are."""
    from governance.policy import decide, load_policy, record_refusals, request_of_manifest

    policy, now = load_policy(settings), project_clock(settings)()
    decisions = [decide(policy, request_of_manifest(settings, manifest, now=now)) for manifest in manifests]
    refused = [decision for decision in decisions if not decision.allowed]
    for decision in refused:
        progress(f"{decision.subject}: the policy refuses to publish it ({', '.join(decision.rules)}), passed over")
    record_refusals(ledger, refused)
    return tuple(m for m, decision in zip(manifests, decisions, strict=True) if decision.allowed)


def check_publishable(settings: Settings, manifest: Manifest) -> None:
    """Returns if this committed release may be published: real noise (or public inputs), files as the manifest says.

    Raises:
        PublicationError: it was made with a test sampler.
        ReleaseCorrupt: a data file is missing, was added or has changed.
    """
    if manifest.guarantee.sampler not in (KEYED_SAMPLER, PUBLIC_SAMPLER):
        raise PublicationError(
            f"{manifest.release_id}: made with the noise source {manifest.guarantee.sampler!r}, which protects nobody; "
            f"allowed: {KEYED_SAMPLER!r} or {PUBLIC_SAMPLER!r}; remove the release and run it again with real noise"
        )
    ReleaseStore(settings.releases_dir).verify_files(manifest)
