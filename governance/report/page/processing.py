"""The processing record, minimisation and retention: whose data, for what, how little of it, how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from governance.report.document import Report
from governance.report.page.markup import Child, Markup, definition_list, element, join, table
from governance.report.page.words import moment, plural
from governance.report.records import ActivityRecord

__all__ = ["minimisation", "processing"]

_DAY = 86_400


def processing(report: Report) -> Markup:
    """The record of processing activities (GDPR Art. 30)."""
    record = report.processing
    return join(
        element(
            "p",
            "Names, legal basis and decisions are what people state; purposes, data and recipients come from what ran "
            "and from the rules in force.",
            class_="intro",
        ),
        element(
            "div",
            _statement(record.statement)
            if record.statement
            else element("p", "Nobody has stated who is responsible. This is an open point.", class_="empty"),
            class_="card",
        ),
        element("div", _activities(report), class_="card") if record.activities else None,
    )


def _statement(stated: Mapping[str, Any]) -> Markup:
    decision = stated["sign_off"]
    return join(
        element("h3", "Responsibility"),
        definition_list(
            ("controller", _contact(stated["controller"])),
            ("joint controllers", _several([_contact(one) for one in stated.get("joint_controllers", ())])),
            ("representative", _contact(stated["representative"]) if "representative" in stated else None),
            (
                "data protection officer",
                _contact(stated["data_protection_officer"]) if "data_protection_officer" in stated else None,
            ),
            ("legal basis", stated["legal_basis"]),
            ("categories of people", ", ".join(stated["data_subjects"])),
            ("recipients", ", ".join(stated["recipients"])),
            ("transfers to third countries", ", ".join(stated.get("transfers", ())) or "none stated"),
            ("region", stated["region"]),
            ("sector", stated["sector"]),
        ),
        element("h3", "Security measures"),
        element("ul", *(element("li", measure) for measure in stated["security_measures"]), class_="plain"),
        element("h3", "Decision"),
        definition_list(
            ("decided by", decision["decided_by"]),
            ("on", decision["date"]),
            ("to be reviewed by", decision.get("review_by")),
            ("impact assessment", decision.get("dpia")),
            ("because", decision["justification"]),
        ),
    )


def _contact(contact: Mapping[str, Any]) -> str:
    return f"{contact['name']}, {contact['contact']}"


def _several(items: Sequence[str]) -> str | None:
    return "; ".join(items) or None


def _activities(report: Report) -> Markup:
    record = report.processing
    category = {dataset.name: dataset.category or "no category" for dataset in record.datasets}
    rows = [
        (
            activity.group,
            join(
                activity.description,
                element("div", f"purpose {activity.purpose}, owner {activity.owner}", class_="quiet"),
            ),
            _list(f"{name} ({category[name]})" for name in activity.datasets) or "public inputs",
            activity.unit or "nobody",
        )
        for activity in record.activities
    ]
    return join(
        element("h3", "Activities"),
        table("Processing activities", ("signal", "what for", "personal data", "hides one"), rows, prose=True),
    )


def minimisation(report: Report) -> Markup:
    """How little is used of whom, and for how long."""
    record = report.processing
    if not record.activities:
        return element("p", "Nothing has been released, so nothing was read.", class_="empty")
    used = [
        (
            activity.group,
            _list(activity.columns_read) or "none: public inputs",
            _bounds(activity),
            _list(activity.columns_released),
            "public keys" if activity.selection == "public" else "only keys with enough people",
        )
        for activity in record.activities
    ]
    kept = [
        (
            activity.group,
            _days(activity.ttl_seconds),
            moment(activity.newest_window_end) if activity.newest_window_end else "snapshot",
            moment(activity.served_until) if activity.served_until else "does not age",
            plural(activity.releases, "release"),
        )
        for activity in record.activities
    ]
    raw = [
        (d.name, d.category or "none", d.description or "not stated", d.kept or "not stated") for d in record.datasets
    ]
    return join(
        element(
            "p",
            "Only the columns named here are read; of each privacy unit only so much counts; what is released is noisy "
            "and per group, never a row of raw data.",
            class_="intro",
        ),
        element(
            "div",
            element("h3", "Minimisation"),
            table(
                "Columns and contributions",
                ("signal", "reads", "keeps of each unit", "releases", "keys"),
                used,
                prose=True,
            ),
            class_="card",
        ),
        element(
            "div",
            element("h3", "Retention"),
            table(
                "Released values",
                ("signal", "served for", "newest window ends", "served until", "kept"),
                kept,
                prose=True,
            ),
            table("Raw data, as stated", ("dataset", "category", "what it is", "kept for"), raw, prose=True)
            if raw
            else None,
            class_="card",
        ),
    )


def _bounds(activity: ActivityRecord) -> str:
    if not activity.bounds:
        return "not needed"
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(activity.bounds.items()))


def _list(names: Any) -> Child:
    return ", ".join(names)


def _days(seconds: int) -> str:
    if not seconds:
        return "as long as it is there"
    return plural(seconds // _DAY, "day") if seconds % _DAY == 0 else f"{seconds / _DAY:.4g} days"
