"""What closes a report: refused requests, how to verify it without trusting it, and the terms it uses."""

from __future__ import annotations

from governance.report.document import Refusal, Report
from governance.report.page.markup import Markup, element, join, scrolling, table
from governance.report.page.words import amount, count, digest, moment

__all__ = ["glossary", "refusals", "verification"]

_TERMS = (
    (
        "Release",
        "One immutable, published output of a signal: data files and a manifest that says how they were made. "
        "Models read releases, never the events behind them.",
    ),
    (
        "Privacy unit",
        "What is protected: one person (all events of a user), one person's day, or one event. "
        "The neighboring relation says what may differ between two datasets that must look alike, such as "
        "one user more or less.",
    ),
    (
        "Epsilon",
        "A bound on how much a release can teach anyone about one privacy unit. Near 0 almost nothing; each added 1 "
        "lets the odds of any guess about it grow by a factor of up to 2.72.",
    ),
    (
        "Delta",
        "The small probability with which the bound epsilon need not hold. "
        "A delta of 1\u202f×\u202f10⁻⁶ is one in a million.",
    ),
    (
        "Rho",
        "The loss in zero-concentrated differential privacy (zCDP). Unlike epsilon it adds up exactly over releases, "
        "so budgets are kept in it.",
    ),
    (
        "Contribution bounds",
        "How much one privacy unit may change before noise is added: how many partitions (L0), how much in each "
        "(Linf), and over all of them together (L2). The noise is scaled to hide that much.",
    ),
    (
        "Noise sd",
        "The standard deviation of the random noise in a number. Two times in three the noise is smaller than this, "
        "19 times in 20 smaller than twice this.",
    ),
    (
        "Partition selection",
        "Deciding which keys may appear at all. With private selection a key appears only where enough units "
        "contributed to it, by a noisy count against a threshold.",
    ),
    (
        "Ledger",
        "The append-only record of budgets. Each entry carries the hash of the one before, so an edit in the middle "
        "shows. A run reserves before it reads, draws before the first noise, and commits when it has published.",
    ),
)


def refusals(report: Report) -> Markup:
    """Every refused request, newest first."""
    if not report.refusals:
        return element("p", "No request was refused.", class_="empty")
    return join(
        element("p", "These runs were refused before any data was read; they cost nothing.", class_="intro"),
        element("div", _refusal_table(report.refusals), class_="card refused"),
    )


def _refusal_table(refused: tuple[Refusal, ...]) -> Markup:
    rows = [
        (
            moment(r.at),
            r.subject,
            r.account or "none",
            join("rho ", amount(r.asked.rho), element("br"), "delta ", amount(r.asked.delta)) if r.asked else "–",
            join("rho ", amount(r.remaining.rho), element("br"), "delta ", amount(r.remaining.delta))
            if r.remaining
            else "–",
            r.reason,
            f"no. {count(r.sequence)}",
        )
        for r in refused
    ]
    return table("Refused requests", ("when", "release", "account", "asked", "left then", "reason", "entry"), rows)


def verification(report: Report, sha256: str) -> Markup:
    """Commands that recompute the hashes, with what they must print."""
    listed = _sums(report)
    return join(
        element(
            "p",
            "This page shows what ",
            element("code", "report.json"),
            " says. The commands below need only ",
            element("code", "sha256sum"),
            ", and nothing of hedgerow.",
            class_="intro",
        ),
        element(
            "div",
            element("h3", "This report"),
            _command("Hash of report.json", f"echo '{sha256}  report.json' | sha256sum --check"),
            element("h3", "Releases"),
            element(
                "p",
                "Run in the project's folder. Manifest hashes are those in the ledger's COMMIT entries, "
                "file hashes those in the manifests; a line that is not OK names a file that changed.",
            ),
            _command(
                "Hashes of manifests and data files",
                f"(cd {_quoted(report.project.releases_dir)} && sha256sum --check) <<'END'\n{listed}END",
            )
            if listed
            else element("p", "There is nothing to verify yet.", class_="empty"),
            element("h3", "Ledger"),
            element(
                "p",
                "The hash of the last entry covers every entry before it. Note it down: a later ledger in which this "
                "entry has another hash, or is absent, was rewritten.",
            ),
            element("p", f"entry {count(report.ledger.entries)}: ", digest(report.ledger.head, whole=True))
            if report.ledger.entries
            else element("p", "The ledger has no entries.", class_="empty"),
            class_="card",
        ),
    )


def _sums(report: Report) -> str:
    """Lines for `sha256sum --check`, of all that was committed. Names that would need quoting there are left out."""
    lines = []
    for release in report.releases:
        if release.committed_sha256 is None:
            continue
        lines.append((release.committed_sha256, f"{release.release_id}/manifest.json"))
        if release.content:
            lines += [(file.sha256, f"{release.release_id}/{file.name}") for file in release.content.files]
    return "".join(f"{sha}  {name}\n" for sha, name in lines if name.isprintable() and "\\" not in name)


def _quoted(path: str) -> str:
    """A path as one word of a shell command."""
    return "'" + path.replace("'", "'\\''") + "'"


def _command(label: str, text: str) -> Markup:
    return scrolling(label, element("pre", element("code", text)))


def glossary() -> Markup:
    """The terms, for someone who is not a specialist."""
    return element(
        "dl",
        *(element("div", element("dt", term), element("dd", meaning)) for term, meaning in _TERMS),
        class_="glossary",
    )
