"""The accounts: cap, spent, held and left, in numbers, as bars, over time and in words."""

from __future__ import annotations

from collections.abc import Mapping

from governance.privacy import PrivacyLoss
from governance.report.document import AccountRecord, Report
from governance.report.page.chart import budget_bar, spend_chart, spend_table
from governance.report.page.markup import Markup, anchor, element, join, table
from governance.report.page.words import amount, count, epsilon, fraction, moment, percent, plural, remaining_in_words
from governance.report.page.words import share as share_of

__all__ = ["accounts"]


def accounts(report: Report) -> Markup:
    """One card an account, with a sentence on how to read them."""
    if not report.accounts:
        return element("p", "This project declares no account, so nothing private can be released.", class_="empty")
    return join(
        element(
            "p",
            "An account limits everything ever released about one privacy unit in one dataset. "
            "Rho and delta add up over releases; epsilon is derived from them for people to read.",
            class_="intro",
        ),
        *(_card(account, report) for account in report.accounts),
    )


def _card(account: AccountRecord, report: Report) -> Markup:
    delta = report.project.reporting_delta
    left = element(
        "div",
        element("p", _in_words(account, delta)),
        budget_bar("rho", spent=account.spent.rho, held=account.held.rho, cap=account.cap.rho),
        budget_bar("delta", spent=account.spent.delta, held=account.held.delta, cap=account.cap.delta),
        _amounts(account, delta),
    )
    right = spend_chart(account, report.generated_at) if account.history else None
    return element(
        "article",
        element(
            "header",
            element("h3", account.name),
            element(
                "p",
                f"privacy unit {account.unit} in dataset {account.dataset}, ",
                join("opened ", moment(account.opened_at)) if account.opened_at else "never used",
                class_="quiet",
            ),
        ),
        element("div", left, right, class_="account-body"),
        _by_signal(account) if account.history else None,
        element(
            "details",
            element("summary", f"Every draw ({count(len(account.history))})"),
            spend_table(account),
        )
        if account.history
        else None,
        _cap_changes(account) if account.cap_changes else None,
        class_="card",
        id=anchor("account", account.name),
    )


def _cap_changes(account: AccountRecord) -> Markup:
    """Who changed the cap, when, and why."""
    rows = [
        (
            moment(change.at),
            change.role,
            join("rho ", amount(change.before.rho), ", delta ", amount(change.before.delta)),
            join("rho ", amount(change.after.rho), ", delta ", amount(change.after.delta)),
            change.justification,
            f"no. {count(change.sequence)}",
        )
        for change in account.cap_changes
    ]
    head = ("when", "signed by", "cap before", "cap after", "because", "entry")
    return table(f"Changes of the cap of {account.name}", head, rows, prose=True)


def _amounts(account: AccountRecord, delta: float) -> Markup:
    no_epsilon = element("span", "–", title="held amounts are part of what may still be spent")
    rows = (
        ("cap", amount(account.cap.rho), amount(account.cap.delta), epsilon(account.epsilon.cap)),
        ("spent", amount(account.spent.rho), amount(account.spent.delta), epsilon(account.epsilon.spent)),
        ("held", amount(account.held.rho), amount(account.held.delta), no_epsilon),
        ("left", amount(account.remaining.rho), amount(account.remaining.delta), epsilon(account.epsilon.remaining)),
    )
    head = ("amount", "rho", "delta", "epsilon")
    caption = f"Amounts of {account.name}; epsilon at delta {fraction(str(delta))}"
    return table(caption, head, rows, numbers=frozenset({1, 2, 3}))


def _in_words(account: AccountRecord, delta: float) -> Markup:
    """What is spent and left, in sentences."""
    spent, left, told = account.epsilon.spent, account.epsilon.remaining, fraction(str(delta))
    sentences: list[str | Markup] = []
    if not account.history:
        sentences.append("Nothing is spent. ")
    elif spent is None:
        sentences.append(f"What is spent has no finite epsilon at delta {told}: its own delta uses all of that. ")
    else:
        sentences += [
            "Everything released from it together stays within epsilon ",
            element("strong", epsilon(spent)),
            f" at delta {told}. ",
        ]
    sentences.append(f"Left: {remaining_in_words(account.remaining, account.cap)}")
    if left is None:
        sentences.append(f"; with all its delta, no finite epsilon at delta {told}. ")
    else:
        sentences += ["; by itself epsilon ", epsilon(left), f" at delta {told}. "]
    if account.lifetime_spent is not None:
        sentences.append(
            f"The cap is for the period from {account.period or 'the first release'} on, and is renewed "
            f"{account.renewal}. Over its whole life rho {fraction(account.lifetime_spent.rho)} is spent. "
        )
    if account.fits_again is not None:
        times = plural(account.fits_again, "more time", "more times")
        sentences.append(f"The last release's loss fits {times}.")
    return join(*sentences)


def _by_signal(account: AccountRecord) -> Markup:
    """Where the budget went."""
    losses: dict[str, list[PrivacyLoss]] = {}
    for spend in account.history:
        losses.setdefault(spend.subject.rpartition("/")[0], []).append(spend.loss)
    totals: Mapping[str, PrivacyLoss] = {name: sum(parts[1:], start=parts[0]) for name, parts in losses.items()}
    ordered = sorted(totals, key=lambda name: (-totals[name].rho, name))
    rows = [
        (
            name,
            count(len(losses[name])),
            amount(totals[name].rho),
            percent(share_of(totals[name].rho, account.cap.rho)),
            amount(totals[name].delta),
            percent(share_of(totals[name].delta, account.cap.delta)),
        )
        for name in ordered
    ]
    head = ("signal", "draws", "rho", "of the cap", "delta", "of the cap")
    return table(f"Where the budget of {account.name} went", head, rows, numbers=frozenset({1, 2, 3, 4, 5}))
