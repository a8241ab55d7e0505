"""Policy, access and quality: which rules are in force, what they say to what was released, and who may read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from governance.report.document import Report
from governance.report.page.markup import Markup, anchor, element, join, table
from governance.report.page.words import count, digest, plural
from governance.report.records import DecisionRecord

__all__ = ["access", "policy", "quality"]

_READ = "may_read"


def policy(report: Report) -> Markup:
    """Rules, and their decisions about every release that exists."""
    record = report.policy
    if not record.declared:
        return element("p", "This project has no policy. This is an open point.", class_="empty")
    rows = [
        (rule.id, rule.kind.replace("_", " "), _says(rule.says), rule.reason)
        for rule in record.rules
        if rule.kind != _READ
    ]
    refused = [decision for decision in record.decisions if not decision.allowed]
    tested = (
        f"The policy's {plural(record.examples, 'example')} are decided as meant."
        if not record.examples_failed
        else f"{plural(len(record.examples_failed), 'example is', 'examples are')} not decided as meant."
    )
    return join(
        element(
            "p",
            "The same rules are asked when a release is planned, run and published, and when it is read. Policy ",
            digest(record.sha256),
            f". {tested}",
            class_="intro",
        ),
        element(
            "div",
            element("h3", "Rules in force"),
            table("Rules", ("rule", "kind", "says", "because"), rows, prose=True),
            class_="card",
        ),
        element(
            "div",
            element("h3", "Decisions about what was released"),
            element(
                "p",
                f"Of {plural(len(record.decisions), 'trusted release')}, the policy in force would publish "
                f"{count(len(record.decisions) - len(refused))} today and refuse {count(len(refused))}.",
            ),
            table(
                "Refused by the policy in force", ("release", "rule", "found", "because"), _refused(refused), prose=True
            )
            if refused
            else None,
            class_="card",
        ),
    )


def _refused(refused: list[DecisionRecord]) -> list[tuple[Markup | str, ...]]:
    return [
        (
            element("a", decision.subject, href=f"#{anchor('release', decision.subject)}"),
            objection.rule,
            objection.found,
            objection.reason,
        )
        for decision in refused
        for objection in decision.objections
    ]


def _says(says: Mapping[str, Any]) -> str:
    return "; ".join(f"{key.replace('_', ' ')} {_text(value)}" for key, value in says.items()) or "–"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    return str(value)


def access(report: Report) -> Markup:
    """Who may read which releases for which purpose, and who was turned away."""
    record = report.policy
    if not record.declared:
        return element("p", "There is no policy, so no rule limits who reads.", class_="empty")
    rows = [
        (rule.id, _text(rule.says["callers"]), _text(rule.says["purposes"]), _text(rule.says["views"]), rule.reason)
        for rule in record.rules
        if rule.kind == _READ
    ]
    turned_away = sum("HEDGEROW-READ" in refusal.rules for refusal in report.refusals)
    return join(
        element(
            "p",
            "Readers get releases only: noisy tables, vectors, the catalogue. What no rule permits is refused. ",
            f"{plural(turned_away, 'kind of read was', 'kinds of read were')} refused; see Refused requests.",
            class_="intro",
        ),
        element(
            "div",
            table("Who may read", ("rule", "callers", "purposes", "views", "because"), rows, prose=True)
            if rows
            else element("p", "No rule permits any read.", class_="empty"),
            class_="card",
        ),
    )


def quality(report: Report) -> Markup:
    """Checks of inputs and releases: whether they held, never what was found in the data."""
    if not report.quality:
        return element("p", "No release tells of checks.", class_="empty")
    rows = [
        (
            record.group,
            record.check,
            element(
                "span",
                f"{count(record.failed)} failed" if record.failed else "held",
                class_=f"badge {'failure' if record.failed else 'good'}",
            ),
            count(record.passed + record.failed),
        )
        for record in report.quality
    ]
    return join(
        element(
            "p",
            "A run stops at an input that fails, so what was released passed. Values and counts of rows are not told.",
            class_="intro",
        ),
        element(
            "div",
            table("Checks", ("signal", "check", "result", "releases"), rows, numbers=frozenset({3}), prose=True),
            class_="card",
        ),
    )
