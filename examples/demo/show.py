"""What the demo shows on a terminal: tables and words, and never an id of a person or a raw value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from examples.demo.layout import Columns, Records
from examples.demo.mapping import Dataset
from examples.demo.story import DeviceList, Suggestions, Trend
from examples.scaffold import command_name
from governance.ledger import Balance
from governance.privacy import PrivacyLoss
from pipelines.definitions import ContentEmbedding, UnitKind
from pipelines.plan import SignalPlan
from pipelines.recipes import OutputKind
from pipelines.results import Outcome, RunResult

__all__ = ["closing", "device_lists", "lists", "plan_table", "release_table", "trend_lines"]

MUCH = 5.0  # an epsilon that a person should be told is large


def plan_table(plans: Sequence[SignalPlan], embeddings: Sequence[ContentEmbedding], windows: int) -> RenderableType:
    """What each signal protects, how noisy it will be and what it costs."""
    rows = [
        (
            plan.signal.name,
            "event" if plan.signal.privacy_unit.kind is UnitKind.EVENT else "person",
            "\n".join(_noise(plan)),
            "public" if plan.threshold is None else f"private ≥{plan.threshold_text}",
            _up(plan.calibration.epsilon),
            f"{float(plan.loss.rho) * windows:g}",
        )
        for plan in plans
    ]
    rows += [(embedding.name, "nobody", "none", "public", "0", "0") for embedding in embeddings]
    headings = ("signal", "hides a", "noise (stddev)", "keys", "epsilon,\n1 window", f"rho, {windows}\nwindows")
    note = (
        "A public key is always shown, a private one only from so many people on, noise included. "
        "A mean's noise is given for 100 people. Nothing was read yet."
    )
    return Group(Records(headings=headings, rows=tuple(rows), numeric=2), Text(note, style="dim"))


def _noise(plan: SignalPlan) -> list[str]:
    """Each column's noise; a mean's depends on how many people are behind it."""
    lines = []
    for output in plan.recipe.outputs:
        noise = plan.calibration.stddev(output)
        mean = output.kind is OutputKind.MEAN
        lines.append(f"{output.name} ±{noise / 100:.2g}" if mean else f"{output.name} ±{noise:.3g}")
    return lines


def release_table(results: Sequence[RunResult]) -> RenderableType:
    """One line for each signal: windows, rows in each."""
    rows = []
    for name in dict.fromkeys(result.manifest.signal.name for result in results):
        mine = [result for result in results if result.manifest.signal.name == name]
        starts = [result.manifest.window.start[:10] for result in mine if result.manifest.window.start]
        span = f"{len(mine)} since {starts[0]}" if starts else "the catalogue"
        rows.append((name, span, ", ".join(f"{result.manifest.rows:,}" for result in mine)))
    table = Records(headings=("released", "windows", "rows in each"), rows=tuple(rows))
    there = sum(result.outcome is Outcome.PRESENT for result in results)
    note = f"{there} of these {len(results)} releases were there already and cost nothing again."
    return Group(table, Text(note)) if there else table


def trend_lines(trends: Sequence[Trend], dataset: Dataset) -> RenderableType:
    """The newest window's activity, as anybody may see it."""
    period = dataset.window.period.removesuffix("ly")
    grid = Table.grid(padding=(0, 2))
    for trend in trends:
        people = f"{trend.users:,} ± {trend.users_noise:.0f} people"
        grid.add_row(f"{trend.platform}:", people, f"{trend.events:,} ± {trend.events_noise:.0f} events")
    heading = Text(f"The newest {period}, as released (± one standard deviation of the noise):")
    return Group(heading, Padding(grid, (0, 0, 0, 2)))


def lists(suggestions: Suggestions) -> RenderableType:
    """Beside one another: what everyone gets, and what each of the three gets."""
    people = suggestions.people
    tastes = [" and ".join(person.tastes) or "none that shows" for person in people]
    mine = [(person.name, f"released taste: {taste}") for person, taste in zip(people, tastes, strict=True)]
    return Columns(
        headings=(("everyone", "without regard to taste"), *mine),
        lists=(suggestions.popular, *(person.personalised for person in people)),
    )


def device_lists(suggestions: Suggestions, devices: Sequence[DeviceList]) -> RenderableType:
    """What each of the three sees on a device of their own."""
    headings = tuple(
        (f"{person.name}'s device", f"just chose {device.events} × {device.genre}")
        for person, device in zip(suggestions.people, devices, strict=True)
    )
    words = Text("Each device fetched the catalogue that every device fetches; what it saw and ranked stays on it.")
    return Group(Columns(headings=headings, lists=tuple(device.titles for device in devices)), words)


def closing(
    *,
    dataset: Dataset,
    plans: Sequence[SignalPlan],
    results: Sequence[RunResult],
    balances: Sequence[Balance],
    reporting_delta: float,
    report: Path,
    project: Path,
) -> RenderableType:
    """The summary in plain words: what was protected, what it cost, what remains, what to try next."""
    period = dataset.window.period.removesuffix("ly")
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("protected", _protected(plans, period))
    for line in _nothing_shown(plans, results):
        facts.add_row("", line)
    for balance in balances:
        facts.add_row("cost", _cost(balance, plans, reporting_delta))
    facts.add_row("remains", _remains(balances, plans, period))
    facts.add_row("report", str(report))
    facts.add_row("next", _next(project, plans, results))
    return Panel(facts, title="In plain words", title_align="left", padding=(1, 2))


def _protected(plans: Sequence[SignalPlan], period: str) -> str:
    people = [plan for plan in plans if plan.signal.privacy_unit.kind is UnitKind.PERSON]
    events = [plan for plan in plans if plan.signal.privacy_unit.kind is UnitKind.EVENT]
    return (
        f"The releases {_names(people)} hide whether any one person was in a {period}'s data, and all they did in it. "
        f"{_names(events)} has a row about each account, so it promises less: it hides any single event, not a "
        "person's activity as a whole. What the three devices saw was never sent."
    )


def _names(plans: Sequence[SignalPlan]) -> str:
    names = [plan.signal.name for plan in plans]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _nothing_shown(plans: Sequence[SignalPlan], results: Sequence[RunResult]) -> list[str]:
    """Says plainly where private selection showed nothing."""
    lines = []
    for plan in plans:
        mine = [result for result in results if result.manifest.signal.name == plan.signal.name]
        if plan.threshold is not None and mine and not any(result.manifest.rows for result in mine):
            lines.append(
                f"{plan.signal.name} released no row: no {plan.signal.entity.name} reached "
                f"{plan.threshold_text} people in a window, noise included, and fewer would give them away. "
                "The lists rest on tastes and content alone."
            )
    return lines


def _cost(balance: Balance, plans: Sequence[SignalPlan], delta: float) -> str:
    """An account's spending in rho, in epsilon and in odds.

    An account adds up all windows, as a person may be in each of them. One event lies in one window only.
    """
    mine = [plan for plan in plans if plan.account.name == balance.account]
    unit, spent, whom = "person", balance.spent, "over all windows"
    if any(plan.signal.privacy_unit.kind is UnitKind.EVENT for plan in mine):
        unit, whom = "event", "in the one window that it lies in"
        spent = sum((plan.loss for plan in mine), PrivacyLoss.zero()) if balance.spent.rho else balance.spent
    epsilon = spent.epsilon(delta)
    odds = math.exp(min(epsilon, 700))
    times = f"{math.ceil(odds * 10) / 10:,.1f}" if epsilon < 3 else f"{math.ceil(odds):,}"  # both rounded up
    share = float(balance.spent.rho / balance.cap.rho) if balance.cap.rho else 0.0
    note = " That is much: the fewer the people, the more it takes to see anything." if epsilon > MUCH else ""
    return (
        f"account {balance.account}: rho {float(balance.spent.rho):g} of {float(balance.cap.rho):g} ({share:.0%}). For "
        f"one {unit}, {whom}: epsilon {_up(epsilon)} at delta {delta:g}, so anything seen is at most {times} times as "
        f"likely with that {unit} in the data as without.{note}"
    )


def _up(epsilon: float) -> str:
    """Two decimals, rounded up: a promise must not sound stronger than it is."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}" if math.isfinite(epsilon) else "without bound"


def _remains(balances: Sequence[Balance], plans: Sequence[SignalPlan], period: str) -> str:
    """How many more windows of everything the accounts can pay."""
    remaining = {balance.account: balance.remaining.rho for balance in balances}
    price = dict.fromkeys(remaining, 0 * next(iter(remaining.values())))
    for plan in plans:
        if plan.account.name in price:
            price[plan.account.name] += plan.loss.rho
    more = min(int(remaining[name] / cost) for name, cost in price.items() if cost)
    if more == 0:
        return f"enough for no further {period} of every signal: the next full run is refused before it reads anything"
    return f"enough for {more} more {period}{'s' if more > 1 else ''} of every signal"


def _next(project: Path, plans: Sequence[SignalPlan], results: Sequence[RunResult]) -> Text:
    """Commands on lines of their own, so that they can be copied."""
    first = plans[0].signal.name
    hedgerow = command_name()
    done = sum(result.manifest.signal.name == first for result in results)
    steps = (
        (f"{hedgerow} plan -p {project}", "every number behind the plan above"),
        (f"{hedgerow} serve -p {project}", "the server that was asked here"),
        (f"{hedgerow} run -p {project} --windows {done + 2}", "refused: over budget"),
        (f"ls {project}/signals", "the definitions: change one, raise its version, run"),
    )
    lines = [Text.assemble((command, "bold"), "\n  ", (words, "dim")) for command, words in steps]
    return Text("\n").join(lines)
