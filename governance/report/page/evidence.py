"""The evidence of one release: checks, guarantee, bounds, noise, selection, lineage, ledger entries, quality, code."""

from __future__ import annotations

from governance.canonical import decimal_text
from governance.privacy import PrivacyLoss
from governance.report.document import Check, ReleaseContent, ReleaseRecord
from governance.report.page.markup import Markup, definition_list, element, join, table
from governance.report.page.words import (
    amount,
    bounds_in_words,
    count,
    digest,
    epsilon,
    fraction,
    moment,
    plural,
    relation_in_words,
    size,
    threshold_in_words,
)

__all__ = ["evidence"]


def evidence(release: ReleaseRecord, *, repeat_promise: bool) -> Markup:
    """Everything known about one release.

    Args:
        release: which.
        repeat_promise: whether the sentence on what is protected differs from the signal's newest and is shown here.
    """
    content = release.content
    parts: list[Markup | None] = [_block("What was checked", _checks(release.checks))]
    if content is not None:
        parts += [
            element("p", content.guarantee.protects, class_="protects") if repeat_promise else None,
            _block("Guarantee", _guarantee(content)),
            _block("Noise", _measurements(release, content)) if content.guarantee.measurements else None,
            _block("Columns", _columns(release, content)),
            _block("Lineage", _lineage(release, content)),
        ]
    parts += [
        _block("Ledger entries", _entries(release)) if release.entries else None,
        _block("Quality", _checks(content.quality)) if content and content.quality else None,
        _block("Made by", _made_by(content)) if content else None,
    ]
    return join(*parts)


def _block(title: str, body: Markup) -> Markup:
    return element("div", element("h4", title), body, class_="block")


def _checks(checks: tuple[Check, ...]) -> Markup:
    return element(
        "ul",
        *(
            element(
                "li",
                element("span", "✓ " if check.passed else "✕ ", aria_hidden="true"),
                element("span", "passed: " if check.passed else "failed: ", class_="unseen"),
                check.statement,
                element("span", f" {check.found}", class_="found") if check.found else None,
                class_="good" if check.passed else "failure",
            )
            for check in checks
        ),
        class_="checks",
    )


def _guarantee(content: ReleaseContent) -> Markup:
    promise = content.guarantee
    if promise.variant == "public inputs":
        return definition_list(
            ("variant", promise.variant), ("cost", "none: no account is touched"), ("rows", count(content.rows))
        )
    at = f" at delta {fraction(str(promise.epsilon_delta))}"
    selection = "public partitions: every key is there, whether or not anyone contributed"
    if promise.selection == "private":
        threshold = f"{threshold_in_words(promise)} or more" if promise.threshold is not None else "enough"
        selection = f"private: a key is released where its {promise.selected_by} is {threshold}"
    return definition_list(
        ("variant", promise.variant),
        ("neighboring relation", relation_in_words(promise)),
        ("rho", amount(promise.rho)),
        ("delta", amount(promise.delta)),
        ("epsilon", join(epsilon(promise.epsilon), at)),
        ("contribution bounds", bounds_in_words(promise)),
        ("partition selection", selection),
        ("delta of selection", amount(promise.selection_delta)),
        ("delta of the sampler", amount(promise.sampler_delta)),
        ("noise source", promise.sampler),
        ("after the noise, at no cost", "; ".join(promise.post_processing)),
    )


def _measurements(release: ReleaseRecord, content: ReleaseContent) -> Markup:
    rows = [
        (
            m.name,
            m.mechanism,
            count(m.l0),
            count(m.linf),
            fraction(m.l2),
            fraction(m.grid_step),
            fraction(m.noise_stddev),
            amount(m.rho),
        )
        for m in content.guarantee.measurements
    ]
    head = ("sum", "mechanism", "L0", "Linf", "L2", "grid step", "noise sd", "rho")
    note = element(
        "p",
        "Linf and L2 count grid steps; grid step and noise sd are in the sum's own unit.",
        class_="quiet",
    )
    return join(table(f"Noisy sums behind {release.release_id}", head, rows, numbers=frozenset(range(2, 8))), note)


def _columns(release: ReleaseRecord, content: ReleaseContent) -> Markup:
    rows = [
        (
            column.name,
            column.role,
            column.type,
            column.description,
            "–" if column.noise_stddev is None else fraction(column.noise_stddev),
        )
        for column in content.columns
    ]
    head = ("column", "role", "type", "meaning", "noise sd")
    return table(f"Columns of {release.release_id}, {plural(content.rows, 'row')}", head, rows, numbers=frozenset({4}))


def _lineage(release: ReleaseRecord, content: ReleaseContent) -> Markup:
    """Inputs, definition, release: three steps, side by side or one below the other."""
    sources = [
        element(
            "li",
            element("strong", source.dataset),
            element("span", source.access, class_=f"badge {'plain' if source.access == 'private' else 'good'}"),
            element("div", element("code", source.table)),
            element("div", "columns ", ", ".join(source.columns), class_="quiet"),
            element("div", digest(source.fingerprint)),
        )
        for source in content.inputs
    ]
    signal = content.signal
    definition = element(
        "li",
        element("strong", f"{signal.name} v{signal.version}"),
        element("div", signal.kind.replace("_", " "), class_="quiet"),
        element("div", digest(signal.definition_sha256)),
    )
    published = [
        element(
            "li",
            element("strong", file.name),
            element("div", size(file.bytes), class_="quiet"),
            element("div", digest(file.sha256)),
        )
        for file in content.files
    ]
    manifest = element("li", element("strong", "manifest.json"), element("div", digest(release.found_sha256)))
    steps = (("read", sources), ("computed by", [definition]), ("published", [manifest, *published]))
    return element(
        "ol",
        *(element("li", element("span", name, class_="step"), element("ul", *items)) for name, items in steps),
        class_="lineage",
    )


def _entries(release: ReleaseRecord) -> Markup:
    rows = [
        (f"{entry.kind} no. {count(entry.sequence)}", moment(entry.at, seconds=True), digest(entry.hash))
        for entry in release.entries
    ]
    return table(f"Ledger entries of {release.release_id}", ("entry", "at", "hash"), rows)


def _made_by(content: ReleaseContent) -> Markup:
    loss = PrivacyLoss.of(content.guarantee.rho, content.guarantee.delta)
    return definition_list(
        ("created", moment(content.created_at)),
        ("run", element("code", content.ledger.run_id, class_="hash")),
        ("exact loss", f"rho {decimal_text(loss.rho)}, delta {decimal_text(loss.delta)}"),
        *((name, version) for name, version in sorted(content.code.items())),
    )
