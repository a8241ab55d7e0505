"""The report as data: frozen records whose canonical JSON is the object that is hashed and signed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any

from governance.canonical import Json, canonical_bytes, sha256_hex
from governance.privacy import PrivacyLoss
from governance.release import Column, DataFile, Guarantee, InputFingerprint, LedgerReference, WindowReference
from governance.report.records import GuaranteeRecord, PolicyRecord, ProcessingRecord, QualityRecord

__all__ = [
    "AccountRecord",
    "CapChangeRecord",
    "Check",
    "Epsilons",
    "Finding",
    "LedgerEntry",
    "LedgerRecord",
    "ProjectRecord",
    "Refusal",
    "ReleaseContent",
    "ReleaseRecord",
    "ReleaseStatus",
    "Report",
    "Severity",
    "SignalRecord",
    "Spend",
]

SCHEMA = "hedgerow.report/2"


class Severity(StrEnum):
    """How much a finding weighs."""

    FAILURE = "failure"
    """Evidence is absent or contradicts other evidence."""
    ATTENTION = "attention"
    """Consistent, but somebody should look: budget spent or held without a release, a failed quality check."""


class ReleaseStatus(StrEnum):
    """What the evidence says about a release."""

    VERIFIED = "verified"
    """Every check passed."""
    CORRUPT = "corrupt"
    """Committed, and something does not match: manifest, data file, or ledger entry."""
    UNCOMMITTED = "uncommitted"
    """On disk, but the ledger never committed it. It must not be used."""
    MISSING = "missing"
    """The ledger committed it, but it is not on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something open.

    Attributes:
        severity: failure or attention.
        kind: stable name, e.g. `"release_corrupt"`, `"run_without_release"`.
        subject: a release id or an account's name.
        message: what was found.
        remedy: what to do about it.
    """

    severity: Severity
    kind: str
    subject: str
    message: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of a release.

    Attributes:
        name: stable name, e.g. `"files"`.
        statement: what holds if it passed.
        passed: whether it did.
        found: what was found instead; empty if it passed.
    """

    name: str
    statement: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """One draw from an account, in the ledger's order.

    Attributes:
        sequence: the DRAW entry.
        at: ISO 8601 UTC.
        subject: the release's id.
        loss: what it cost.
        spent: what the account had spent after it.
    """

    sequence: int
    at: str
    subject: str
    loss: PrivacyLoss
    spent: PrivacyLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class Epsilons:
    """The account's amounts as epsilon at the reporting delta, rounded up; None where no finite epsilon exists."""

    cap: float | None
    spent: float | None
    remaining: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CapChangeRecord:
    """A change of an account's cap, signed by a named role.

    Attributes:
        sequence: the CAP-CHANGE entry.
        at: ISO 8601 UTC.
        role: who signed.
        justification: why.
        before: the cap until then.
        after: the cap from then on.
    """

    sequence: int
    at: str
    role: str
    justification: str
    before: PrivacyLoss
    after: PrivacyLoss


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRecord:
    """One privacy account.

    Attributes:
        name: `dataset/unit`.
        dataset: whose events.
        unit: the privacy unit's label.
        declared: hedgerow.toml still declares it.
        opened_at: ISO 8601 UTC; None if nothing was ever asked of it.
        cap: what may be spent in all.
        spent: drawn; it has happened.
        held: reserved, neither drawn nor given back.
        remaining: cap less spent and held.
        epsilon: the same as epsilon.
        fits_again: how often the last release's loss still fits; None before the first draw.
        period: first day of the period that spent and held are about; None for an account that never renews.
        renewal: whether and when the cap is renewed, in words.
        lifetime_spent: drawn over all periods; None where the account does not renew.
        history: every draw.
        cap_changes: every change of its cap, oldest first.
    """

    name: str
    dataset: str
    unit: str
    declared: bool
    opened_at: str | None
    cap: PrivacyLoss
    spent: PrivacyLoss
    held: PrivacyLoss
    remaining: PrivacyLoss
    epsilon: Epsilons
    fits_again: int | None
    period: str | None
    renewal: str
    lifetime_spent: PrivacyLoss | None
    history: tuple[Spend, ...]
    cap_changes: tuple[CapChangeRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalRecord:
    """Which definition made a release. The definition itself stays in the manifest; its hash stands for it here."""

    name: str
    version: int
    owner: str
    purpose: str
    description: str
    kind: str
    entity: str
    definition_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseContent:
    """What a release's manifest says, as far as a reviewer needs it. Fields as in `governance.release.Manifest`."""

    signal: SignalRecord
    window: WindowReference
    created_at: str
    rows: int
    columns: tuple[Column, ...]
    guarantee: Guarantee
    ledger: LedgerReference
    inputs: tuple[InputFingerprint, ...]
    quality: tuple[Check, ...]
    code: Mapping[str, str]
    files: tuple[DataFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One ledger entry about a release's run."""

    sequence: int
    kind: str
    at: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """One release and the evidence for it.

    Attributes:
        release_id: `<signal>/v<version>/<window>`.
        status: what the checks add up to.
        committed_sha256: the manifest's SHA-256 in the COMMIT entry; None without one.
        found_sha256: the SHA-256 of manifest.json on disk; None if absent.
        content: what the manifest says; None if it cannot be read.
        entries: the run's ledger entries.
        inclusion: RFC 6962 path, hex, from the COMMIT entry's leaf to the report's ledger head; None without a COMMIT.
        checks: every check that could be made.
    """

    release_id: str
    status: ReleaseStatus
    committed_sha256: str | None
    found_sha256: str | None
    content: ReleaseContent | None
    entries: tuple[LedgerEntry, ...]
    inclusion: tuple[str, ...] | None
    checks: tuple[Check, ...]

    @property
    def group(self) -> str:
        """`<signal>/v<version>`, which all releases of one definition share."""
        return self.release_id.rpartition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that was refused; nothing was read or spent.

    Attributes:
        sequence: the REFUSED entry.
        at: ISO 8601 UTC.
        account: which account was asked; None where none was.
        subject: the release's id.
        asked: the loss asked for; None for another reason than the budget.
        remaining: what the account had left then.
        reason: why.
        rules: ids of the policy's rules that refused; empty for another reason.
    """

    sequence: int
    at: str
    account: str | None
    subject: str
    asked: PrivacyLoss | None
    remaining: PrivacyLoss | None
    reason: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRecord:
    """The ledger's extent, and the signed tree head over all of it.

    Attributes:
        entries: how many.
        root: of the Merkle tree, hex; empty without entries.
        at: when the head was signed, ISO 8601 UTC.
        key: SHA-256 of the ledger's public key, hex.
        signature: Ed25519 over the head, hex.
    """

    entries: int
    root: str
    at: str
    key: str
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRecord:
    """Whose report this is. `releases_dir` is relative to the project's folder where it lies below it."""

    name: str
    description: str
    reporting_delta: float
    releases_dir: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a report states.

    Attributes:
        project: whose it is.
        generated_at: ISO 8601 UTC.
        ledger: its extent and head.
        findings: failures first, then what needs attention.
        accounts: in the order of opening, then those never used.
        releases: by signal and version, newest window first.
        refusals: newest first.
        processing: who processes whose data, for what.
        guarantees: of each signal, disclosed.
        quality: checks by signal.
        policy: rules in force, and what they say to the releases.
    """

    project: ProjectRecord
    generated_at: str
    ledger: LedgerRecord
    findings: tuple[Finding, ...]
    accounts: tuple[AccountRecord, ...]
    releases: tuple[ReleaseRecord, ...]
    refusals: tuple[Refusal, ...]
    processing: ProcessingRecord
    guarantees: tuple[GuaranteeRecord, ...]
    quality: tuple[QualityRecord, ...]
    policy: PolicyRecord
    schema: str = SCHEMA

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings that are failures."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.FAILURE)

    @property
    def verified(self) -> int:
        """How many releases passed every check."""
        return sum(release.status is ReleaseStatus.VERIFIED for release in self.releases)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_bytes(_plain(self))

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_hex(self.to_bytes())

    def to_json(self) -> dict[str, Any]:
        """The JSON value that `to_bytes` serialises."""
        value: dict[str, Any] = json.loads(self.to_bytes())
        return value


def _plain(value: Any) -> Json:
    """A record as JSON: losses as exact decimal texts, enums as their values, tuples as lists."""
    if isinstance(value, PrivacyLoss):
        return value.to_json()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, StrEnum):
        return str(value)
    scalar: Json = value
    return scalar
