"""Builds the records of processing, policy, guarantees and quality from what ran and what the project states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from governance.disclosure import Proof, disclosure_of
from governance.disclosure.collect import Committed, accounting_of
from governance.ledger import Balance
from governance.policy import Decision, Policy, decide, request_of_manifest
from governance.policy.examples import run_examples, unshown_rules
from governance.release import Manifest
from governance.report.document import Finding, Severity
from governance.report.records import (
    ActivityRecord,
    DatasetRecord,
    DecisionRecord,
    GuaranteeRecord,
    Objection,
    PolicyRecord,
    ProcessingRecord,
    QualityRecord,
    RuleRecord,
)
from governance.settings import Settings

__all__ = ["guarantees_of", "policy_findings", "policy_record", "processing_record", "quality_records"]


def _group(manifest: Manifest) -> str:
    return manifest.release_id.rpartition("/")[0]


def _grouped(releases: Sequence[Committed]) -> list[tuple[str, list[Committed]]]:
    """By signal and version; oldest first, a snapshot by when it was made."""
    ordered = sorted(releases, key=lambda r: (_group(r.manifest), r.manifest.window.end, r.manifest.created_at))
    return [(name, list(members)) for name, members in groupby(ordered, key=lambda r: _group(r.manifest))]


def processing_record(policy: Policy, releases: Sequence[Committed]) -> ProcessingRecord:
    """The record of processing: what people state, and what ran."""
    activities = tuple(_activity(name, members) for name, members in _grouped(releases))
    described = dict(policy.datasets)
    names = sorted({name for activity in activities for name in activity.datasets} | set(described))
    return ProcessingRecord(
        statement=policy.record.model_dump(mode="json", exclude_none=True) if policy.record else None,
        datasets=tuple(
            DatasetRecord(
                name=name,
                category=described[name].category if name in described else "",
                description=described[name].description if name in described else "",
                kept=described[name].kept if name in described else "",
            )
            for name in names
        ),
        activities=activities,
    )


def _activity(name: str, members: Sequence[Committed]) -> ActivityRecord:
    newest = members[-1].manifest
    signal, guarantee = newest.signal, newest.guarantee
    private = [source for source in newest.inputs if source.access != "public"]
    end, ttl = newest.window_end, signal.ttl_seconds
    return ActivityRecord(
        group=name,
        purpose=signal.purpose,
        owner=signal.owner,
        description=signal.description,
        datasets=tuple(dict.fromkeys(source.dataset for source in private)),
        unit=guarantee.unit,
        columns_read=tuple(dict.fromkeys(column for source in private for column in source.columns)),
        columns_released=tuple(column.name for column in newest.columns),
        bounds={key: value for key, value in guarantee.bounds.items() if key != "unit_is"},
        selection=guarantee.selection,
        ttl_seconds=ttl,
        releases=len(members),
        newest_window_end=newest.window.end,
        served_until=(end + timedelta(seconds=ttl)).isoformat() if end is not None and ttl else "",
    )


def policy_record(settings: Settings, policy: Policy, releases: Sequence[Committed], now: datetime) -> PolicyRecord:
    """The policy in force, and what it says now to every release that exists."""
    results = run_examples(policy)
    decisions = [decide(policy, request_of_manifest(settings, r.manifest, now=now)) for r in releases]
    return PolicyRecord(
        declared=policy.declared,
        sha256=policy.sha256,
        rules=tuple(_rule(rule.model_dump(mode="json", exclude_defaults=True)) for rule in policy.rules),
        decisions=tuple(_decision(decision) for decision in decisions),
        examples=len(results),
        examples_failed=tuple(result.example.say for result in results if not result.passed),
        rules_unshown=unshown_rules(policy, results),
    )


def _rule(written: Mapping[str, Any]) -> RuleRecord:
    says = {key: value for key, value in written.items() if key not in {"id", "kind", "reason"}}
    return RuleRecord(id=written["id"], kind=written["kind"], reason=written["reason"], says=says)


def _decision(decision: Decision) -> DecisionRecord:
    return DecisionRecord(
        subject=decision.subject,
        action=str(decision.action),
        allowed=decision.allowed,
        objections=tuple(Objection(rule=r.rule, found=r.found, reason=r.reason) for r in decision.refusals),
    )


def policy_findings(policy: PolicyRecord, processing: ProcessingRecord) -> list[Finding]:
    """What a reviewer should look at: no policy, no record, releases that the policy in force would refuse."""
    findings = []
    if not policy.declared:
        message = "The project has no policy: everything is allowed that the ledger can pay for, to every reader."
        findings.append(_attention("policy_missing", "policy", message, "Write one; 'hedgerow init' shows how."))
    if processing.statement is None:
        message = "Nobody has stated who is responsible, on which legal basis, and who decided on these releases."
        findings.append(_attention("record_missing", "policy", message, "Add 'record:' to a file below policy/."))
    for decision in policy.decisions:
        if not decision.allowed:
            told = "; ".join(f"{o.rule}: {o.found}" for o in decision.objections)
            remedy = "Stop publishing it, or change the rule with those who answer for the policy."
            findings.append(
                _attention("policy_refuses", decision.subject, f"The policy in force refuses it: {told}.", remedy)
            )
    if policy.examples_failed or policy.rules_unshown:
        message = (
            f"{len(policy.examples_failed)} of the policy's examples are decided otherwise than meant; "
            f"{len(policy.rules_unshown)} rules are shown by no example."
        )
        findings.append(_attention("policy_untested", "policy", message, "Run 'hedgerow policy test'."))
    return findings


def _attention(kind: str, subject: str, message: str, remedy: str) -> Finding:
    return Finding(severity=Severity.ATTENTION, kind=kind, subject=subject, message=message, remedy=remedy)


def guarantees_of(
    settings: Settings,
    policy: Policy,
    releases: Sequence[Committed],
    proofs: Mapping[int, Proof],
    balances: Sequence[Balance],
) -> tuple[GuaranteeRecord, ...]:
    """Each signal's newest release, disclosed."""
    by_name = {balance.account: balance for balance in balances}
    records = []
    for name, members in _grouped(releases):
        newest = members[-1]
        disclosure = disclosure_of(
            newest.manifest,
            committed_at=newest.commit.at,
            policy=policy,
            reporting_delta=settings.reporting_delta,
            accounting=accounting_of(settings, newest.manifest, by_name, releases),
            proof=proofs[newest.commit.sequence],
        )
        document: dict[str, Any] = disclosure.to_json()
        records.append(GuaranteeRecord(group=name, release_id=newest.manifest.release_id, disclosure=document))
    return tuple(records)


def quality_records(releases: Sequence[Committed]) -> tuple[QualityRecord, ...]:
    """Every check of every signal, over its releases."""
    records = []
    for name, members in _grouped(releases):
        results = [result for member in members for result in member.manifest.quality]
        for check in dict.fromkeys(str(result["check"]) for result in results):
            outcomes = [bool(result["passed"]) for result in results if result["check"] == check]
            records.append(
                QualityRecord(group=name, check=check, passed=sum(outcomes), failed=len(outcomes) - sum(outcomes))
            )
    return tuple(records)
