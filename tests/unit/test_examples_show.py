from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from examples.demo.layout import Columns, Records
from examples.demo.mapping import load_datasets
from examples.demo.show import closing, device_lists, lists, plan_table, trend_lines
from examples.demo.story import DeviceList, Person, Suggestions, Trend
from examples.demo.workspace import TEMPLATE
from governance.ledger import Balance
from governance.privacy import PrivacyLoss
from governance.settings import load_settings
from pipelines.plan import SignalPlan, plan_signal
from pipelines.project import load_project

WIDTHS = [46, 80, 140]
SETTINGS = load_settings(TEMPLATE)
GENERATED = load_datasets()[0]
SUGGESTIONS = Suggestions(
    people=(
        Person(name="user A", tastes=("Drama", "War"), personalised=("One [red]", "Two")),
        Person(name="user B", tastes=(), personalised=("Three",)),
    ),
    popular=("Four", "Five"),
    released_items=2,
)


def shown(renderable: RenderableType, width: int) -> str:
    console = Console(width=width, highlight=False, file=None, record=True, quiet=False, no_color=True)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def words(renderable: RenderableType, width: int) -> str:
    return " ".join(shown(renderable, width).replace("│", " ").split())


def plans() -> list[SignalPlan]:
    return [plan_signal(signal, SETTINGS) for signal in load_project(SETTINGS).signals]


def balances(spent: str) -> tuple[Balance, ...]:
    return tuple(
        Balance(account=account.name, cap=account.cap, spent=PrivacyLoss.of(spent, "0"), held=PrivacyLoss.zero())
        for account in SETTINGS.accounts
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_at_any_width(width: int) -> None:
    everything = (
        plan_table(plans(), load_project(SETTINGS).embeddings, 4),
        lists(SUGGESTIONS),
        device_lists(SUGGESTIONS, [DeviceList(genre="War", events=8, titles=("Six",))] * 2),
        trend_lines([Trend(platform="tv", users=-3, events=12_000, users_noise=14.1, events_noise=70.7)], GENERATED),
    )
    for renderable in everything:
        lines = shown(renderable, width).splitlines()
        assert all(len(line) <= width for line in lines)
        assert "…" not in "".join(lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_plan_tells_protection_noise_keys_and_price(width: int) -> None:
    text = words(plan_table(plans(), load_project(SETTINGS).embeddings, 4), width)
    for said in (
        "item_weekly",
        "person",
        "event",
        "nobody",
        "users ±7.34",
        "private ≥45",
        "1.38",
        "0.2",
        "item_content",
    ):
        assert said in text, said


@pytest.mark.parametrize("width", WIDTHS)
def test_titles_are_text_and_never_markup(width: int) -> None:
    assert "One [red]" in words(lists(SUGGESTIONS), width)
    assert "none that" in words(lists(SUGGESTIONS), width)


def test_layouts_of_nothing() -> None:
    for width in WIDTHS:
        shown(Records(headings=("a", "b"), rows=()), width)
        shown(Columns(headings=(), lists=()), width)


@pytest.mark.parametrize(
    ("spent", "said", "unsaid"),
    [
        ("0", ("enough for 4 more weeks", "epsilon 0.00", "1.0 times"), "That is much"),
        ("0.32", ("no further week", "89%", "epsilon 4.07", "59 times"), "That is much"),
        ("0.36", ("100%",), "negative"),
    ],
)
def test_closing_words_follow_the_account(spent: str, said: tuple[str, ...], unsaid: str) -> None:
    text = words(
        closing(
            dataset=GENERATED,
            plans=plans(),
            results=(),
            balances=balances(spent),
            reporting_delta=SETTINGS.reporting_delta,
            report=Path("out/report.html"),
            project=Path("out"),
        ),
        100,
    )
    for phrase in (*said, "out/report.html", "hides any single event", "hedgerow plan -p out"):
        assert phrase in text, phrase
    assert unsaid not in text


def test_a_weak_promise_is_called_one() -> None:
    spent = tuple(
        Balance(account=b.account, cap=PrivacyLoss.of("9", "1e-7"), spent=PrivacyLoss.of("1.2", "0"), held=b.held)
        for b in balances("0")
    )
    text = words(
        closing(
            dataset=GENERATED,
            plans=plans(),
            results=(),
            balances=spent,
            reporting_delta=1e-6,
            report=Path("r"),
            project=Path("p"),
        ),
        100,
    )
    assert text.count("That is much") == 1  # for the person; one event's own loss stays small
