"""The sections in their order, put into the frame with the style."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from string import Template

from governance.report.document import Report
from governance.report.page.accounts import accounts
from governance.report.page.closing import glossary, refusals, verification
from governance.report.page.governing import access, policy, quality
from governance.report.page.guarantees import guarantees
from governance.report.page.markup import Markup, element, join
from governance.report.page.overview import overview
from governance.report.page.picture import lineage_picture
from governance.report.page.processing import minimisation, processing
from governance.report.page.releases import releases
from governance.report.page.words import digest, moment

__all__ = ["render", "render_paper"]


@dataclass(frozen=True, slots=True)
class _Section:
    """A part of the page. `name` is its anchor; the body gets report, hash, and whether it is for paper."""

    name: str
    title: str
    body: Callable[[Report, str, bool], Markup]


_SECTIONS = (
    _Section("summary", "Summary", lambda report, *_: overview(report)),
    _Section("processing", "Processing record", lambda report, *_: processing(report)),
    _Section("accounts", "Accounts and budget", lambda report, *_: accounts(report)),
    _Section("guarantees", "Guarantees", lambda report, *_: guarantees(report)),
    _Section("releases", "Releases", lambda report, _, paper: releases(report, paper=paper)),
    _Section("minimisation", "Minimisation and retention", lambda report, *_: minimisation(report)),
    _Section("lineage", "Lineage", lambda report, *_: lineage_picture(report)),
    _Section("quality", "Quality", lambda report, *_: quality(report)),
    _Section("access", "Access", lambda report, *_: access(report)),
    _Section("refused", "Refused requests", lambda report, *_: refusals(report)),
    _Section("policy", "Policy decisions", lambda report, *_: policy(report)),
    _Section("verify", "Verify it yourself", lambda report, sha256, _: verification(report, sha256)),
    _Section("glossary", "Glossary", lambda *_: glossary()),
)


def render(report: Report, sha256: str) -> str:
    """The whole page.

    Args:
        report: what to show.
        sha256: of the canonical `report.json` that goes along.
    """
    style = _template("style.css")
    frame = Template(_template("page.html"))
    return frame.substitute(
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        title=join(f"{report.project.name}: privacy report"),
        project=join(report.project.name),
        description=element("p", report.project.description, class_="lead") if report.project.description else "",
        generated=moment(report.generated_at),
        sha256=digest(sha256, whole=True),
        contents=_contents(),
        sections=join(*(_section(section, report, sha256) for section in _SECTIONS)),
    )


def render_paper(report: Report, sha256: str) -> str:
    """The same content, laid out for paper: every section, and evidence of the newest and the open releases."""
    frame = Template(_template("paper.html"))
    return frame.substitute(
        style=_template("paper.css"),
        title=join(f"{report.project.name}: privacy report"),
        project=join(report.project.name),
        description=element("p", report.project.description, class_="lead") if report.project.description else "",
        generated=moment(report.generated_at),
        created=join(report.generated_at),
        sha256=digest(sha256, whole=True),
        plain_sha256=join(sha256),
        sections=join(*(_section(section, report, sha256, paper=True) for section in _SECTIONS)),
    )


def _section(section: _Section, report: Report, sha256: str, *, paper: bool = False) -> Markup:
    heading = element("h2", section.title, id=f"{section.name}-title")
    return element(
        "section",
        heading,
        section.body(report, sha256, paper),
        id=section.name,
        aria_labelledby=f"{section.name}-title",
    )


def _contents() -> Markup:
    links = [element("li", element("a", section.title, href=f"#{section.name}")) for section in _SECTIONS]
    return element("ul", *links)


def _template(name: str) -> str:
    return resources.files("governance.report").joinpath("templates", name).read_text(encoding="utf-8")
