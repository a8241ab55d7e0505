"""Reads the ledger and the releases, checks them against each other, and makes the report of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from governance.canonical import sha256_hex
from governance.disclosure import Proof
from governance.disclosure.collect import Committed, proof_of, renewal_of
from governance.errors import ReleaseCorrupt
from governance.ledger import Balance, Entry, EntryKind, Ledger, Run
from governance.policy import load_policy
from governance.privacy import PrivacyLoss
from governance.release import MANIFEST_NAME, Manifest, ReleaseStore
from governance.report.checks import (
    Evidence,
    account_findings,
    check_release,
    release_findings,
    run_findings,
    status_of,
)
from governance.report.context import (
    guarantees_of,
    policy_findings,
    policy_record,
    processing_record,
    quality_records,
)
from governance.report.document import (
    AccountRecord,
    CapChangeRecord,
    Check,
    Epsilons,
    Finding,
    LedgerEntry,
    LedgerRecord,
    ProjectRecord,
    Refusal,
    ReleaseContent,
    ReleaseRecord,
    ReleaseStatus,
    Report,
    Severity,
    SignalRecord,
    Spend,
)
from governance.settings import Settings
from governance.verify.heads import TreeHead

__all__ = ["build"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def build(settings: Settings, ledger: Ledger, clock: Callable[[], datetime] = _utc_now) -> Report:
    """Builds the report of a project.

    Every release on disk or in the ledger is verified: its manifest against the ledger's COMMIT entry, its data files
    against the manifest, its loss against the run's reservation. What does not hold becomes a finding; it does not stop
    the report.

    Args:
        settings: the project.
        ledger: its ledger.
        clock: gives the current aware UTC time.

    Raises:
        LedgerCorrupt: the ledger's own entries do not chain; nothing could be reported from it.
    """
    books, policy, now = _read(ledger), load_policy(settings), clock().astimezone(UTC)
    evidence = [_gather(settings, books, release_id) for release_id in sorted(_release_ids(settings, books))]
    releases = _in_order(tuple(_release(found, books) for found in evidence))
    trusted = _trusted(evidence, releases)
    processing = processing_record(policy, trusted)
    decided = policy_record(settings, policy, trusted, now)
    findings = (
        release_findings(releases)
        + account_findings(books.balances, settings.accounts)
        + run_findings(books.runs, releases)
        + policy_findings(decided, processing)
    )
    return Report(
        project=ProjectRecord(
            name=settings.name,
            description=settings.description,
            reporting_delta=settings.reporting_delta,
            releases_dir=_relative(str(settings.releases_dir), settings.root),
        ),
        generated_at=now.isoformat(timespec="seconds"),
        ledger=_ledger(books),
        findings=_failures_first(findings),
        accounts=_accounts(settings, books),
        releases=releases,
        refusals=tuple(_refusal(entry) for entry in reversed(books.entries) if entry.kind is EntryKind.REFUSED),
        processing=processing,
        guarantees=guarantees_of(settings, policy, trusted, books.proofs, books.balances),
        quality=quality_records(trusted),
        policy=decided,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Books:
    """The ledger as it stood at one moment, with a proof of every COMMIT entry under the head of that moment."""

    entries: tuple[Entry, ...]
    balances: tuple[Balance, ...]
    runs: tuple[Run, ...]
    head: TreeHead | None
    proofs: Mapping[int, Proof]

    def of_run(self, run_id: str | None) -> tuple[Entry, ...]:
        """The entries of one run."""
        return tuple(entry for entry in self.entries if run_id is not None and entry.run_id == run_id)


def _read(ledger: Ledger) -> _Books:
    """Entries, balances, runs and proofs that agree, also while other processes append."""
    while True:
        entries, head = ledger.entries(), ledger.head()
        commits = [entry.sequence for entry in entries if entry.kind is EntryKind.COMMIT]
        proofs = {number: proof_of(document) for number, document in ledger.inclusion_proofs(commits).items()}
        books = _Books(entries=entries, balances=ledger.balances(), runs=ledger.runs(), head=head, proofs=proofs)
        if ledger.head() == head and (head.size if head else 0) == len(entries):
            return books


def _ledger(books: _Books) -> LedgerRecord:
    head = books.head
    if head is None:
        return LedgerRecord(entries=0, root="", at="", key="", signature="")
    return LedgerRecord(entries=head.size, root=head.root, at=head.at, key=head.key, signature=head.signature)


def _trusted(evidence: Sequence[Evidence], releases: Sequence[ReleaseRecord]) -> tuple[Committed, ...]:
    """The releases whose every check passed: what they say of themselves may be repeated."""
    verified = {release.release_id for release in releases if release.status is ReleaseStatus.VERIFIED}
    trusted = []
    for found in evidence:
        if found.release_id in verified and found.manifest is not None and found.commit is not None:
            started = next((e.at for e in found.entries if e.kind is EntryKind.RESERVE), found.commit.at)
            trusted.append(Committed(manifest=found.manifest, started_at=started, commit=found.commit))
    return tuple(trusted)


# --- releases --------------------------------------------------------------------------------------------------


def _release_ids(settings: Settings, books: _Books) -> set[str]:
    """What is on disk, and what the ledger committed."""
    committed = {entry.subject for entry in books.entries if entry.kind is EntryKind.COMMIT}
    return committed | set(ReleaseStore(settings.releases_dir).ids())


def _gather(settings: Settings, books: _Books, release_id: str) -> Evidence:
    store = ReleaseStore(settings.releases_dir)
    path = store.directory(release_id) / MANIFEST_NAME
    data, unreadable = None, ""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        pass
    except OSError as error:
        unreadable = f"manifest.json cannot be read: {error.strerror}."
    about = [entry for entry in books.entries if entry.subject == release_id and entry.run_id is not None]
    commit = next((entry for entry in reversed(about) if entry.kind is EntryKind.COMMIT), None)
    run_id = commit.run_id if commit else about[-1].run_id if about else None
    digest = sha256_hex(data) if data is not None else None
    manifest = None
    if commit and data is not None and digest == commit.detail["manifest_sha256"]:
        try:
            manifest = Manifest.from_bytes(data, str(path))
        except ReleaseCorrupt as error:
            unreadable = f"{_relative(str(error), settings.root).partition('; restore')[0]}."
    return Evidence(
        release_id=release_id,
        commit=commit,
        entries=books.of_run(run_id),
        run=next((run for run in books.runs if run.run_id == run_id), None),
        found_sha256=digest,
        unreadable=unreadable,
        manifest=manifest,
        files_problem=_files_problem(store, manifest, settings.root) if manifest else "",
    )


def _files_problem(store: ReleaseStore, manifest: Manifest, root: Path) -> str:
    try:
        store.verify_files(manifest)
    except ReleaseCorrupt as error:
        return f"{_relative(str(error), root).partition('; restore')[0]}."
    except OSError as error:
        return f"A data file cannot be read: {error.strerror}."
    return ""


def _release(evidence: Evidence, books: _Books) -> ReleaseRecord:
    checks = check_release(evidence)
    proof = books.proofs.get(evidence.commit.sequence) if evidence.commit else None
    return ReleaseRecord(
        release_id=evidence.release_id,
        status=status_of(evidence, checks),
        committed_sha256=evidence.committed_sha256,
        found_sha256=evidence.found_sha256,
        content=_content(evidence.manifest) if evidence.manifest else None,
        entries=tuple(
            LedgerEntry(sequence=entry.sequence, kind=str(entry.kind), at=entry.at, hash=entry.hash)
            for entry in evidence.entries
        ),
        inclusion=proof.inclusion if proof else None,
        checks=checks,
    )


def _content(manifest: Manifest) -> ReleaseContent:
    signal = manifest.signal
    return ReleaseContent(
        signal=SignalRecord(
            name=signal.name,
            version=signal.version,
            owner=signal.owner,
            purpose=signal.purpose,
            description=signal.description,
            kind=signal.kind,
            entity=signal.entity,
            definition_sha256=signal.definition_sha256,
        ),
        window=manifest.window,
        created_at=manifest.created_at,
        rows=manifest.rows,
        columns=manifest.columns,
        guarantee=manifest.guarantee,
        ledger=manifest.ledger,
        inputs=manifest.inputs,
        quality=tuple(
            Check(name=f"quality_{number}", statement=str(result["check"]), passed=bool(result["passed"]), found="")
            for number, result in enumerate(manifest.quality, start=1)
        ),
        code=manifest.code,
        files=manifest.files,
    )


def _in_order(releases: tuple[ReleaseRecord, ...]) -> tuple[ReleaseRecord, ...]:
    """By signal and version; within them the newest first, which a release id's last part tells."""
    newest_first = sorted(releases, key=lambda release: release.release_id, reverse=True)
    return tuple(sorted(newest_first, key=lambda release: release.group))


# --- accounts --------------------------------------------------------------------------------------------------


def _accounts(settings: Settings, books: _Books) -> tuple[AccountRecord, ...]:
    declared = {account.name: account for account in settings.accounts}
    opened = {entry.account: entry.at for entry in books.entries if entry.kind is EntryKind.OPEN}
    zero = PrivacyLoss.zero()
    unused = [
        Balance(account=account.name, cap=account.cap, spent=zero, held=zero)
        for account in settings.accounts
        if account.name not in opened
    ]
    records = []
    for balance in (*books.balances, *unused):
        account = declared.get(balance.account)
        dataset, _, unit = balance.account.partition("/")
        history = _history(balance.account, books)
        records.append(
            AccountRecord(
                name=balance.account,
                dataset=account.dataset if account else dataset,
                unit=account.unit if account else unit,
                declared=account is not None,
                opened_at=opened.get(balance.account),
                cap=balance.cap,
                spent=balance.spent,
                held=balance.held,
                remaining=balance.remaining,
                epsilon=Epsilons(
                    cap=_epsilon(balance.cap, settings.reporting_delta),
                    spent=_epsilon(balance.spent, settings.reporting_delta),
                    remaining=_epsilon(balance.remaining, settings.reporting_delta),
                ),
                fits_again=_fits(history[-1].loss, balance.remaining) if history else None,
                period=balance.period,
                renewal=renewal_of(account),
                lifetime_spent=balance.lifetime_spent,
                history=history,
                cap_changes=_cap_changes(balance.account, books),
            )
        )
    return tuple(records)


def _history(account: str, books: _Books) -> tuple[Spend, ...]:
    losses = {run.run_id: run.loss for run in books.runs if run.account == account}
    spent, history = PrivacyLoss.zero(), []
    for entry in books.entries:
        if entry.kind is EntryKind.DRAW and entry.run_id in losses:
            loss = losses[entry.run_id]
            spent = spent + loss
            history.append(Spend(sequence=entry.sequence, at=entry.at, subject=entry.subject, loss=loss, spent=spent))
    return tuple(history)


def _cap_changes(account: str, books: _Books) -> tuple[CapChangeRecord, ...]:
    return tuple(
        CapChangeRecord(
            sequence=entry.sequence,
            at=entry.at,
            role=str(entry.detail["role"]),
            justification=str(entry.detail["justification"]),
            before=PrivacyLoss.from_json(entry.detail["cap_before"]),
            after=PrivacyLoss.from_json(entry.detail["cap"]),
        )
        for entry in books.entries
        if entry.kind is EntryKind.CAP_CHANGE and entry.account == account
    )


def _epsilon(loss: PrivacyLoss, delta: float) -> float | None:
    """Epsilon rounded up to six decimals; None where it is infinite or the amount is negative."""
    if loss.rho < 0 or loss.delta < 0:
        return None
    epsilon = loss.epsilon(delta)
    return None if math.isinf(epsilon) else math.ceil(epsilon * 1e6) / 1e6


def _fits(loss: PrivacyLoss, remaining: PrivacyLoss) -> int | None:
    """How often a loss still fits into what remains."""
    pairs = ((remaining.rho, loss.rho), (remaining.delta, loss.delta))
    # Fractions: a quotient of decimals is refused when it has more digits than the context holds.
    times = [int(Fraction(max(Decimal(0), left)) / Fraction(cost)) for left, cost in pairs if cost > 0]
    return min(times) if times else None


# --- the rest --------------------------------------------------------------------------------------------------


def _refusal(entry: Entry) -> Refusal:
    detail = entry.detail
    return Refusal(
        sequence=entry.sequence,
        at=entry.at,
        account=entry.account,
        subject=entry.subject,
        asked=PrivacyLoss.from_json(detail["loss"]) if "loss" in detail else None,
        remaining=PrivacyLoss.from_json(detail["remaining"]) if "remaining" in detail else None,
        reason=str(detail.get("reason", "")),
        rules=tuple(str(rule) for rule in detail.get("rules", ())),
    )


def _failures_first(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: finding.severity is not Severity.FAILURE))


def _relative(text: str, root: Path) -> str:
    """Paths below the project's folder, told relative to it: where the project lies is nobody's business."""
    return text.replace(f"{root}/", "")
