"""What closes a report: refused requests, how to verify it without trusting it, and the terms it uses."""

from __future__ import annotations

from governance.report.document import Refusal, Report
from governance.report.page.markup import Markup, definition_list, element, join, scrolling, table
from governance.report.page.words import amount, count, digest, moment, plural

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
        "contributed to it, by a noisy count or weight against a threshold.",
    ),
    (
        "Ledger",
        "The append-only record of budgets. Its entries are the leaves of a Merkle tree whose root is signed after "
        "each of them, so an edit shows. A run reserves before it reads, draws before the first noise, and commits "
        "when it has published.",
    ),
)


def refusals(report: Report) -> Markup:
    """Every refused request, newest first."""
    if not report.refusals:
        return element("p", "No request was refused.", class_="empty")
    return join(
        element(
            "p",
            "These requests were refused before anything was read; they cost nothing. Refused reads are recorded once "
            "for each caller, purpose and view, however often they were tried.",
            class_="intro",
        ),
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
            join(element("strong", ", ".join(r.rules), class_="rule"), " ", r.reason) if r.rules else r.reason,
            f"no. {count(r.sequence)}",
        )
        for r in refused
    ]
    return table("Refused requests", ("when", "release", "account", "asked", "left then", "reason", "entry"), rows)


def verification(report: Report, sha256: str) -> Markup:
    """Commands that recompute hashes, signatures and proofs, with what they must print."""
    listed, ledger = _sums(report), report.ledger
    return join(
        element(
            "p",
            "This page shows what ",
            element("code", "report.json"),
            " says. The first two blocks need only ",
            element("code", "sha256sum"),
            " and ",
            element("code", "openssl"),
            "; the third needs one folder of hedgerow, which uses Python's standard library and ",
            element("code", "cryptography"),
            ". Trust the public key and the witness, not this page.",
            class_="intro",
        ),
        element(
            "div",
            element("h3", "This report"),
            _command(
                "Hash and signature of report.json",
                f"echo '{sha256}  report.json' | sha256sum --check\n"
                "openssl pkeyutl -verify -rawin -in report.json -sigfile report.sig -pubin -inkey ledger.pub",
            ),
            element(
                "p",
                "The second line needs report.sig, which is written where the ledger's private key is at hand, and the "
                "ledger's public key. Take the key from a place that those who run the platform cannot change; its "
                "SHA-256 must be ",
                digest(ledger.key, whole=True) if ledger.key else "told before the ledger's first entry",
                ".",
            ),
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
            _ledger(report),
            class_="card",
        ),
    )


def _ledger(report: Report) -> Markup:
    """What the signed head proves, and how to check everything against it."""
    ledger = report.ledger
    if not ledger.entries:
        return element("p", "The ledger has no entries.", class_="empty")
    state = report.project.releases_dir.removesuffix("releases")
    return join(
        element(
            "p",
            "Every balance, cap, entry, root, signature and manifest is derived again from the entries, and held "
            "against the published heads. Name every witness's file of heads: one that the platform cannot rewrite is "
            "what shows a rewritten history.",
        ),
        _command(
            "Verify the whole ledger",
            f"python -m governance.verify ledger {_quoted(state + 'ledger.db')} --key ledger.pub "
            f"--heads {_quoted(state + 'ledger-heads.jsonl')} --releases {_quoted(state + 'releases')}",
        ),
        definition_list(
            ("entries under this head", count(ledger.entries)),
            ("signed at", moment(ledger.at, seconds=True)),
            ("root of the Merkle tree", digest(ledger.root, whole=True)),
            ("signature", digest(ledger.signature, whole=True)),
        ),
        _proofs(report),
    )


def _proofs(report: Report) -> Markup | None:
    """Inclusion proofs: that each COMMIT entry is one of those under the head."""
    rows = [
        (
            release.release_id,
            count(next(entry.sequence for entry in reversed(release.entries) if entry.kind == "COMMIT")),
            next(
                element("code", entry.hash, class_="hash")
                for entry in reversed(release.entries)
                if entry.kind == "COMMIT"
            ),
            join(*(element("code", step, class_="hash step-hash") for step in release.inclusion)) or "the root itself",
        )
        for release in report.releases
        if release.inclusion is not None
    ]
    if not rows:
        return None
    return element(
        "details",
        element("summary", f"Inclusion proofs of {plural(len(rows), 'release')} (RFC 6962)"),
        element(
            "p",
            "Hash the entry's leaf with each step in turn, on the side that its number says, and the root above comes "
            "out: the release is in the ledger that was signed.",
            class_="quiet",
        ),
        table("Inclusion proofs", ("release", "COMMIT entry", "leaf", "path to the root"), rows),
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
