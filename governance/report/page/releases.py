"""The releases: a table for each signal, newest first, and behind every row the evidence."""

from __future__ import annotations

from itertools import groupby

from governance.report.document import ReleaseContent, ReleaseRecord, ReleaseStatus, Report
from governance.report.page.evidence import evidence
from governance.report.page.markup import Markup, anchor, definition_list, element, join, scrolling
from governance.report.page.words import amount, count, digest, epsilon, fraction, window

__all__ = ["releases"]

_HEAD = ("window", "rows", "rho", "delta", "epsilon", "evidence")
_LABELS = {
    ReleaseStatus.VERIFIED: ("good", "✓ verified"),
    ReleaseStatus.CORRUPT: ("failure", "✕ does not match"),
    ReleaseStatus.UNCOMMITTED: ("failure", "✕ not committed"),
    ReleaseStatus.MISSING: ("failure", "✕ missing"),
}


def releases(report: Report, *, paper: bool = False) -> Markup:
    """All releases, grouped by signal and version.

    Args:
        report: what to show.
        paper: show the evidence of the newest release of each group, and of those that do not verify, only.
    """
    if not report.releases:
        return element(
            "p", "There is no release yet; ", element("code", "hedgerow run"), " makes the first.", class_="empty"
        )
    groups = groupby(report.releases, key=lambda release: release.group)
    return join(
        element(
            "p",
            "A release is published once and never changed. Open a row's evidence for bounds, noise, lineage and "
            f"hashes. Epsilon is told at delta {fraction(str(report.project.reporting_delta))}.",
            class_="intro",
        ),
        *(_group(name, tuple(members), paper=paper) for name, members in groups),
    )


def _group(name: str, members: tuple[ReleaseRecord, ...], *, paper: bool) -> Markup:
    content = next((release.content for release in members if release.content), None)
    return element(
        "article",
        _heading(name, content),
        scrolling(
            f"Releases of {name}",
            element(
                "table",
                element("caption", f"Releases of {name}, newest first", class_="unseen"),
                element(
                    "thead",
                    element(
                        "tr",
                        *(
                            element("th", title, scope="col", class_="number" if 0 < i < 5 else None)
                            for i, title in enumerate(_HEAD)
                        ),
                    ),
                ),
                *(
                    _rows(release, content, evident=not paper or i == 0 or release.status is not ReleaseStatus.VERIFIED)
                    for i, release in enumerate(members)
                ),
                class_="releases",
            ),
        ),
        class_="card",
    )


def _heading(name: str, content: ReleaseContent | None) -> Markup:
    if content is None:
        return element(
            "header",
            element("h3", name),
            element(
                "p", "No release of this signal can be read, so nothing is shown of its definition.", class_="quiet"
            ),
        )
    signal, guarantee = content.signal, content.guarantee
    free = guarantee.variant == "public inputs"
    return element(
        "header",
        element(
            "h3",
            signal.name,
            element("span", f"v{signal.version}", class_="version"),
            element("span", "costs nothing", class_="badge good") if free else None,
        ),
        element("p", signal.description),
        element("p", guarantee.protects, class_="protects"),
        definition_list(
            ("entity", signal.entity),
            ("purpose", signal.purpose),
            ("owner", signal.owner),
            ("paid by", "no account: public inputs" if free else content.ledger.account),
            ("definition", digest(signal.definition_sha256)),
        ),
    )


def _rows(release: ReleaseRecord, newest: ReleaseContent | None, *, evident: bool) -> Markup:
    """One release: its figures, and below them its evidence if it is to be shown."""
    content = release.content
    tone, label = _LABELS[release.status]
    link = f"#{anchor('release', release.release_id)}"
    name = window(content.window) if content else release.release_id.rpartition("/")[2]
    unknown = element("span", "–", title="not shown: there is no manifest that can be trusted")
    if content and not content.window.start:
        name = join("snapshot ", element("code", release.release_id.rpartition("/")[2]))
    cells = (
        count(content.rows) if content else unknown,
        amount(content.guarantee.rho) if content else unknown,
        amount(content.guarantee.delta) if content else unknown,
        epsilon(content.guarantee.epsilon) if content else unknown,
        element("span", label, class_=f"badge {tone}"),
    )
    same = content is not None and newest is not None and content.guarantee.protects == newest.guarantee.protects
    opened = release.status is not ReleaseStatus.VERIFIED
    return element(
        "tbody",
        element(
            "tr",
            element("th", element("a", name, href=link), scope="row"),
            *(
                element("td", cell, data_label=title, class_="number" if i < 4 else None)
                for i, (title, cell) in enumerate(zip(_HEAD[1:], cells, strict=True))
            ),
        ),
        element(
            "tr",
            element(
                "td",
                element(
                    "details",
                    element("summary", "Evidence", element("span", f" for {release.release_id}", class_="unseen")),
                    element("div", evidence(release, repeat_promise=not same), id=link[1:], class_="evidence"),
                    open=opened,
                ),
                colspan=len(_HEAD),
            ),
            class_="more",
        )
        if evident
        else None,
    )
