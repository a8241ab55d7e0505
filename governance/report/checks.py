"""What is checked of each release, and what a report lists as open. Pure functions over what was read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from governance.ledger import Balance, Entry, EntryKind, Run
from governance.privacy import PrivacyLoss
from governance.release import KEYED_SAMPLER, PUBLIC_SAMPLER, Manifest
from governance.report.document import Check, Finding, ReleaseRecord, ReleaseStatus, Severity
from governance.settings import Account

__all__ = ["Evidence", "account_findings", "check_release", "release_findings", "run_findings", "status_of"]

_PUBLIC = "public inputs"
_EPSILON_SLACK = 1e-6
_BISECTIONS = 100
_MOST_RHO = 100.0  # epsilon stays far below what overflows an exponential


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What ledger and disk hold about one release.

    Attributes:
        release_id: which release.
        commit: the newest COMMIT entry about it; None if it was never committed.
        entries: all entries of the committing run, or of the last run if none committed.
        run: that run; None if the ledger never heard of the release.
        found_sha256: SHA-256 of manifest.json; None if absent.
        unreadable: why manifest.json could not be read; empty if it could.
        manifest: parsed only if its bytes are those that were committed, so an altered one is never interpreted.
        files_problem: what is wrong with the data files; empty if nothing, or if there is no trusted manifest.
    """

    release_id: str
    commit: Entry | None
    entries: tuple[Entry, ...]
    run: Run | None
    found_sha256: str | None
    unreadable: str
    manifest: Manifest | None
    files_problem: str

    @property
    def committed_sha256(self) -> str | None:
        """The manifest hash that the ledger committed."""
        return str(self.commit.detail["manifest_sha256"]) if self.commit else None


def check_release(evidence: Evidence) -> tuple[Check, ...]:
    """Every check that the evidence allows, the decisive ones first."""
    checks = [
        _check("committed", "The ledger has a COMMIT entry for this release.", _committed(evidence)),
        _check("manifest", "manifest.json has the SHA-256 that the ledger committed.", _manifest(evidence)),
    ]
    manifest = evidence.manifest
    if manifest is not None:
        checks += [
            _check("files", "Every data file has the size and SHA-256 in the manifest.", evidence.files_problem),
            _check("ledger", "Run, account, entries and loss are those in the ledger.", _ledger(evidence, manifest)),
            _check("epsilon", "Epsilon is no less than noise of this rho and delta allows.", _epsilon(manifest)),
            _noise_check(manifest),
        ]
    return tuple(checks)


def status_of(evidence: Evidence, checks: Iterable[Check]) -> ReleaseStatus:
    """What the checks add up to."""
    if evidence.commit is None:
        return ReleaseStatus.UNCOMMITTED
    if evidence.found_sha256 is None and not evidence.unreadable:
        return ReleaseStatus.MISSING
    return ReleaseStatus.VERIFIED if all(check.passed for check in checks) else ReleaseStatus.CORRUPT


def _check(name: str, statement: str, found: str) -> Check:
    return Check(name=name, statement=statement, passed=not found, found=found)


def _committed(evidence: Evidence) -> str:
    if evidence.commit is not None:
        return ""
    state = evidence.run.state if evidence.run else None
    return f"The last entry about it is {state}." if state else "The ledger has no entry about it."


def _manifest(evidence: Evidence) -> str:
    if evidence.unreadable:
        return evidence.unreadable
    if evidence.found_sha256 is None:
        return "manifest.json is not there."
    if evidence.commit is None:
        return f"The ledger committed none; the file on disk has {evidence.found_sha256}."
    if evidence.found_sha256 != evidence.committed_sha256:
        return f"The file on disk has {evidence.found_sha256}; what it says is not shown here."
    return "" if evidence.manifest else "The committed bytes are not a manifest that this version can read."


def _ledger(evidence: Evidence, manifest: Manifest) -> str:
    """The manifest's own account of its ledger entries, held against the ledger."""
    reference, run = manifest.ledger, evidence.run
    sequences = {entry.kind: entry.sequence for entry in evidence.entries}
    loss = PrivacyLoss.of(manifest.guarantee.rho, manifest.guarantee.delta)
    differing = [
        name
        for name, same in (
            ("release id", manifest.release_id == evidence.release_id),
            ("run", run is not None and reference.run_id == run.run_id),
            ("account", run is not None and reference.account == run.account),
            ("RESERVE entry", reference.reserve_entry == sequences.get(EntryKind.RESERVE)),
            ("DRAW entry", reference.draw_entry == sequences.get(EntryKind.DRAW)),
            ("loss", run is not None and loss == run.loss),
        )
        if not same
    ]
    return f"Manifest and ledger differ in: {', '.join(differing)}." if differing else ""


def _epsilon(manifest: Manifest) -> str:
    """A claimed epsilon below what the noise gives at its very best understates the loss.

    Noise of total rho hides a shift of `mu = sqrt(2 rho)` standard deviations, for which the Gaussian's exact epsilon
    is the least that can be claimed; discreteness and selection only add to it.
    """
    guarantee = manifest.guarantee
    if guarantee.variant == "pure DP":
        return ""
    loss = PrivacyLoss.of(guarantee.rho, guarantee.delta)
    least = _gaussian_epsilon(float(loss.rho), guarantee.epsilon_delta)
    if loss.delta > guarantee.epsilon_delta:
        least = math.inf
    claimed = math.inf if guarantee.epsilon is None else guarantee.epsilon
    if claimed >= least * (1 - _EPSILON_SLACK):
        return ""
    return f"The manifest says {claimed:.6g}; noise of this rho and delta gives {least:.6g} at least."


def _gaussian_epsilon(rho: float, delta: float) -> float:
    """The Gaussian mechanism's exact epsilon (Balle and Wang 2018, Theorem 8), rounded down; 0 beyond any sense."""
    if not 0 < rho < _MOST_RHO:
        return 0.0
    mu = math.sqrt(2 * rho)

    def delta_of(epsilon: float) -> float:
        inside, outside = (epsilon / mu - mu / 2) / math.sqrt(2), (epsilon / mu + mu / 2) / math.sqrt(2)
        return 0.5 * (math.erfc(inside) - math.exp(epsilon) * math.erfc(outside))

    low, high = 0.0, rho + 2 * math.sqrt(rho * math.log(1 / delta))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > delta else (low, middle)
    return low


def _noise_check(manifest: Manifest) -> Check:
    guarantee = manifest.guarantee
    if guarantee.variant == _PUBLIC:
        private = sorted(source.dataset for source in manifest.inputs if source.access != "public")
        found = f"Private inputs were read: {', '.join(private)}." if private else ""
        if guarantee.sampler != PUBLIC_SAMPLER or PrivacyLoss.of(guarantee.rho, guarantee.delta) != PrivacyLoss.zero():
            found = found or "The release names a noise source or a cost, which public inputs do not have."
        return _check("public", "Only public inputs were read.", found)
    found = "" if guarantee.sampler == KEYED_SAMPLER else f"The noise source was: {guarantee.sampler}."
    return _check("sampler", "The noise came from the keyed sampler, not from a test.", found)


# --- findings --------------------------------------------------------------------------------------------------

_RELEASE_FINDINGS = {
    ReleaseStatus.CORRUPT: ("release_corrupt", "Restore the release from a backup, and find out who changed it."),
    ReleaseStatus.MISSING: (
        "release_missing",
        "Restore the release from a backup; what it cost stays spent either way.",
    ),
    ReleaseStatus.UNCOMMITTED: (
        "release_uncommitted",
        "Do not use it. If no run is in progress, run 'hedgerow run' again, which finishes or replaces it.",
    ),
}


def release_findings(releases: Iterable[ReleaseRecord]) -> list[Finding]:
    """Releases whose evidence does not hold, and failed quality checks."""
    findings = []
    for release in releases:
        if release.status is not ReleaseStatus.VERIFIED:
            kind, remedy = _RELEASE_FINDINGS[release.status]
            failed = " ".join(check.found for check in release.checks if not check.passed)
            findings.append(_failure(kind, release.release_id, failed, remedy))
        for check in release.content.quality if release.content else ():
            if not check.passed:
                message = f"A quality check failed: {check.statement}."
                remedy = "Decide whether models may use this release."
                findings.append(_attention("quality_failed", release.release_id, message, remedy))
    return findings


def run_findings(runs: Sequence[Run], releases: Iterable[ReleaseRecord]) -> list[Finding]:
    """Runs that hold or have spent budget without a committed release to show for it."""
    uncommitted = {release.release_id for release in releases if release.status is ReleaseStatus.UNCOMMITTED}
    committed = {run.subject for run in runs if run.state is EntryKind.COMMIT}
    last = {run.subject: run.run_id for run in runs}
    findings = []
    for run in runs:
        cost = f"rho={run.loss.rho:.6g}, delta={run.loss.delta:.6g} of account {run.account}"
        if run.state is EntryKind.RESERVE:
            message = f"A run reserved {cost} and has neither drawn nor given it back."
            remedy = "A run in progress holds one too. If none is, run 'hedgerow run' again, which settles it."
            findings.append(_attention("reservation_held", run.subject, message, remedy))
        elif run.state is EntryKind.DRAW and not (run.subject in uncommitted and last[run.subject] == run.run_id):
            message = f"A run drew noise and never committed a release; {cost} stays spent."
            remedy = "A run in progress looks so too. If none is, run 'hedgerow run' again; the loss is not given back."
            if run.subject in committed:
                remedy = "Nothing is left to do: another run committed this release, and the loss is not given back."
            findings.append(_attention("run_without_release", run.subject, message, remedy))
    return findings


def account_findings(balances: Iterable[Balance], declared: Iterable[Account]) -> list[Finding]:
    """Accounts whose caps in ledger and hedgerow.toml differ, or that are overspent."""
    caps = {account.name: account.cap for account in declared}
    findings = []
    for balance in balances:
        if balance.remaining.rho < 0 or balance.remaining.delta < 0:
            message = "More is spent and held than the cap allows."
            remedy = "Stop releasing from this account and find out how its entries came about."
            findings.append(_failure("account_overspent", balance.account, message, remedy))
        if balance.account not in caps:
            message = "The ledger has this account; hedgerow.toml does not declare it any more."
            remedy = "Declare it again, so that its cap is stated where people look."
            findings.append(_attention("account_undeclared", balance.account, message, remedy))
        elif caps[balance.account] != balance.cap:
            opened, stated = balance.cap.to_json(), caps[balance.account].to_json()
            message = (
                f"The ledger opened it with rho={opened['rho']}, delta={opened['delta']}; "
                f"hedgerow.toml says rho={stated['rho']}, delta={stated['delta']}."
            )
            findings.append(_failure("cap_differs", balance.account, message, "Restore the old cap in hedgerow.toml."))
    return findings


def _failure(kind: str, subject: str, message: str, remedy: str) -> Finding:
    return Finding(severity=Severity.FAILURE, kind=kind, subject=subject, message=message, remedy=remedy)


def _attention(kind: str, subject: str, message: str, remedy: str) -> Finding:
    return Finding(severity=Severity.ATTENTION, kind=kind, subject=subject, message=message, remedy=remedy)
