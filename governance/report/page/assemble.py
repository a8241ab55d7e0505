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
from governance.report.page.markup import Markup, element, join
from governance.report.page.overview import overview
from governance.report.page.releases import releases
from governance.report.page.words import digest, moment

__all__ = ["render"]


@dataclass(frozen=True, slots=True)
class _Section:
    """A part of the page. `name` is its anchor."""

    name: str
    title: str
    body: Callable[[Report, str], Markup]


_SECTIONS = (
    _Section("summary", "Summary", lambda report, _: overview(report)),
    _Section("accounts", "Accounts", lambda report, _: accounts(report)),
    _Section("releases", "Releases", lambda report, _: releases(report)),
    _Section("refused", "Refused requests", lambda report, _: refusals(report)),
    _Section("verify", "Verify it yourself", verification),
    _Section("glossary", "Glossary", lambda _, __: glossary()),
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


def _section(section: _Section, report: Report, sha256: str) -> Markup:
    heading = element("h2", section.title, id=f"{section.name}-title")
    return element(
        "section",
        heading,
        section.body(report, sha256),
        id=section.name,
        aria_labelledby=f"{section.name}-title",
    )


def _contents() -> Markup:
    links = [element("li", element("a", section.title, href=f"#{section.name}")) for section in _SECTIONS]
    return element("ul", *links)


def _template(name: str) -> str:
    return resources.files("governance.report").joinpath("templates", name).read_text(encoding="utf-8")
