"""The first screen: whether the record holds together, what is open, and the key figures."""

from __future__ import annotations

from governance.report.document import Finding, ReleaseStatus, Report, Severity
from governance.report.page.markup import Markup, anchor, element, join
from governance.report.page.words import count, plural

__all__ = ["overview"]

_TITLES = {
    "release_corrupt": "A release does not match the record",
    "release_missing": "A committed release is gone",
    "release_uncommitted": "A release was never committed",
    "account_overspent": "An account is overspent",
    "cap_differs": "A cap was changed outside the ledger",
    "account_undeclared": "An account is no longer declared",
    "run_without_release": "Budget was spent without a release",
    "reservation_held": "A reservation is still held",
    "quality_failed": "A quality check failed",
    "policy_missing": "There is no policy",
    "record_missing": "There is no processing record",
    "policy_refuses": "The policy in force would refuse this",
    "policy_untested": "The policy's examples do not hold",
}


def overview(report: Report) -> Markup:
    """Verdict, key figures, then every finding: failures first."""
    return join(_verdict(report), _figures(report), _findings(report))


def _verdict(report: Report) -> Markup:
    failures, others = len(report.failures), len(report.findings) - len(report.failures)
    if failures:
        tone, mark = "failure", "✕"
        title = f"{plural(failures, 'open failure')}: the evidence does not hold everywhere"
    elif others:
        tone, mark = "attention", "!"
        title = f"No failures; {plural(others, 'point needs', 'points need')} attention"
    else:
        tone, mark = "good", "✓"
        title = "Nothing is open" if report.releases else "Nothing has been released yet"
    return element(
        "div",
        element("span", mark, class_="mark", aria_hidden="true"),
        element("div", element("p", title, class_="verdict-title"), element("p", _checked(report))),
        class_=f"verdict {tone}",
    )


def _checked(report: Report) -> str:
    """What the verdict rests on."""
    entries = f"The ledger's {plural(report.ledger.entries, 'entry', 'entries')} have the root that was signed."
    if not report.ledger.entries:
        entries = "The ledger has no entries."
    if not report.releases:
        return entries
    return (
        f"{entries} {count(report.verified)} of {plural(len(report.releases), 'release')} passed every check: "
        "manifest and files have the hashes that were committed, and the loss is the one that was reserved."
    )


def _figures(report: Report) -> Markup:
    drawn = sum(len(account.history) for account in report.accounts)
    free = sum(
        1
        for release in report.releases
        if release.status is ReleaseStatus.VERIFIED
        and release.content
        and release.content.guarantee.variant == "public inputs"
    )
    signals = len({release.group for release in report.releases})
    figures = (
        (count(len(report.releases)), "releases", f"of {plural(signals, 'signal')}"),
        (count(report.verified), "verified", "manifest, files and ledger agree"),
        (count(drawn), "paid for", f"draws from {plural(len(report.accounts), 'account')}"),
        (count(free), "free of cost", "public inputs only"),
        (count(len(report.refusals)), "refused", "nothing was read or spent"),
    )
    return element(
        "ul",
        *(
            element(
                "li",
                element("strong", number),
                element("span", name, class_="figure-name"),
                element("span", note, class_="figure-note"),
            )
            for number, name, note in figures
        ),
        class_="figures",
    )


def _findings(report: Report) -> Markup | None:
    if not report.findings:
        return None
    known = {release.release_id for release in report.releases}
    accounts = {account.name for account in report.accounts}
    return join(
        element("h3", "Open points"),
        element("ol", *(_finding(finding, known, accounts) for finding in report.findings), class_="findings"),
    )


def _finding(finding: Finding, releases: set[str], accounts: set[str]) -> Markup:
    subject: Markup | str = finding.subject
    if finding.subject in releases:
        subject = element("a", finding.subject, href=f"#{anchor('release', finding.subject)}")
    elif finding.subject in accounts:
        subject = element("a", finding.subject, href=f"#{anchor('account', finding.subject)}")
    tone = str(finding.severity)
    return element(
        "li",
        element("span", "failure" if finding.severity is Severity.FAILURE else "attention", class_=f"badge {tone}"),
        element(
            "div",
            element("p", element("strong", _TITLES.get(finding.kind, finding.kind)), ": ", subject),
            element("p", finding.message),
            element("p", finding.remedy, class_="remedy"),
        ),
        class_=tone,
    )
