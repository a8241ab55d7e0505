"""Each signal's guarantee: in plain language, in numbers, and by the questions of NIST SP 800-226."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from governance.report.document import Report
from governance.report.page.markup import Markup, definition_list, element, join, table
from governance.report.page.words import epsilon, fraction
from governance.report.records import GuaranteeRecord

__all__ = ["guarantees"]

_STATUS = {
    "addressed": ("good", "addressed"),
    "partly": ("attention", "partly"),
    "not_addressed": ("failure", "not addressed"),
    "not_applicable": ("plain", "does not apply"),
}


def guarantees(report: Report) -> Markup:
    """One card a signal."""
    if not report.guarantees:
        return element("p", "No release could be trusted, so nothing is told of guarantees.", class_="empty")
    return join(
        element(
            "p",
            "What each signal promises, from its newest release. The questions are those of NIST SP 800-226, "
            "Guidelines for Evaluating Differential Privacy Guarantees.",
            class_="intro",
        ),
        *(_card(record) for record in report.guarantees),
        element("article", element("h3", "Trust model"), *_trust(report.guarantees), class_="card"),
        element("article", element("h3", "Hazards"), _hazards(report.guarantees), class_="card hazards"),
    )


def _card(record: GuaranteeRecord) -> Markup:
    told = record.disclosure
    guarantee, unit = told["guarantee"], told["unit"]
    return element(
        "article",
        element("header", element("h3", record.group), element("p", f"as of {record.release_id}", class_="quiet")),
        element("p", guarantee["plain_language"], class_="protects"),
        _block("Parameters", _parameters(guarantee)),
        _block(
            "Privacy unit",
            definition_list(
                ("unit", unit["name"]),
                ("relation", unit["relation"].replace("_", " ").lower()),
                ("contribution bounds", _values(unit["contribution_bounds"])),
                ("window", unit.get("window")),
                ("people with several units", unit.get("people_with_several_units")),
                ("data domain", guarantee["data_domain"]),
                ("not protected", "; ".join(guarantee["unprotected_quantities"])),
            ),
        ),
        _block("Composition", _composition(told["accounting"])),
        _block("Mechanism", _mechanism(told["mechanism"])),
        class_="card guarantee",
    )


def _block(title: str, body: Markup) -> Markup:
    return element("div", element("h4", title), body, class_="block")


def _parameters(guarantee: Mapping[str, Any]) -> Markup:
    numbers = guarantee["parameters"]
    lifetime = guarantee.get("lifetime")
    return definition_list(
        ("variant", guarantee["variant"]),
        ("epsilon of one release", epsilon(numbers.get("epsilon"))),
        ("at delta", fraction(numbers["delta"]) if "delta" in numbers else None),
        ("rho of one release", fraction(numbers["rho"]) if "rho" in numbers else None),
        ("account", lifetime["account"] if lifetime else None),
        ("epsilon of all that the account has spent", epsilon(lifetime["epsilon_spent"]) if lifetime else None),
        ("epsilon of all that its cap allows", epsilon(lifetime["epsilon_cap"]) if lifetime else None),
    )


def _trust(records: Sequence[GuaranteeRecord]) -> list[Markup]:
    """Who must be trusted: told once for all signals of which it is the same."""
    parts = []
    for groups, trust in _shared(records, lambda record: record.disclosure["trust"]):
        whose = _whose(groups, records)
        rows = [(actor["actor"], actor["sees"], actor["trusted_for"]) for actor in trust["actors"]]
        facts = definition_list(
            ("of", whose),
            ("model", trust["model"]),
            ("access", trust.get("access")),
            ("collusion", trust.get("collusion_assumption")),
        )
        parts += [
            facts,
            table(f"Who is trusted for what: {whose}", ("who", "sees", "is trusted for"), rows, prose=True),
        ]
    return parts


def _composition(accounting: Mapping[str, Any]) -> Markup:
    return definition_list(
        ("releases", f"{accounting['release_type'].lower()}, {accounting['source'].lower()} data"),
        ("composition", accounting["composition"]),
        ("filter", accounting["filter"]),
        ("reported by", accounting["reported_by"]),
        ("cap", _values(accounting["budget_cap"])),
        ("renewal", accounting["renewal"]),
        ("after the noise, at no cost", accounting["post_processing"]),
    )


def _mechanism(mechanism: Mapping[str, Any]) -> Markup:
    return definition_list(
        ("mechanism", mechanism["name"]),
        ("library", f"{mechanism['library']} {mechanism['version']}"),
        ("random numbers", mechanism.get("rng")),
        (
            "noise (standard deviation)",
            ", ".join(f"{name} {fraction(noise['stddev'])}" for name, noise in mechanism["noise"].items()) or "none",
        ),
    )


def _hazards(records: Sequence[GuaranteeRecord]) -> Markup:
    """The fourteen, each with the test that shows what is said; an answer that is the same for several is told once."""
    rows = []
    for name in records[0].disclosure["hazards"]:
        answers = [
            (groups, hazard)
            for groups, hazard in _shared(records, _hazard(name))
            if hazard["status"] != "not_applicable" or len(groups) == len(records)
        ]
        for groups, hazard in answers:
            told = join(
                hazard["evidence"],
                element("div", _whose(groups, records), class_="quiet") if len(answers) > 1 else None,
                element("code", hazard["test"], class_="test") if "test" in hazard else None,
            )
            rows.append((name.replace("_", " "), _status(hazard["status"]), told))
    return join(
        element(
            "p",
            "Ways in which differential privacy fails in practice. Signals for which one does not apply are left out.",
            class_="quiet",
        ),
        table("Fourteen hazards", ("hazard", "status", "evidence, and the test that shows it"), rows, prose=True),
    )


def _hazard(name: str) -> Callable[[GuaranteeRecord], Mapping[str, Any]]:
    return lambda record: record.disclosure["hazards"][name]


def _shared(
    records: Sequence[GuaranteeRecord], read: Callable[[GuaranteeRecord], Mapping[str, Any]]
) -> list[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Values that several signals share, each with the signals that do."""
    found: list[tuple[list[str], Mapping[str, Any]]] = []
    for record in records:
        value = read(record)
        same = next((groups for groups, known in found if known == value), None)
        if same is None:
            found.append(([record.group], value))
        else:
            same.append(record.group)
    return [(tuple(groups), value) for groups, value in found]


def _whose(groups: Sequence[str], records: Sequence[GuaranteeRecord]) -> str:
    return "every signal" if len(groups) == len(records) else ", ".join(groups)


def _status(status: str) -> Markup:
    tone, label = _STATUS[status]
    return element("span", label, class_=f"badge {tone}")


def _values(values: Mapping[str, Any]) -> str | None:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(values.items())) or None
