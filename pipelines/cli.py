"""The commands of a data engineer: `hedgerow plan` and `hedgerow run`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

from governance.errors import ConfigError
from governance.ledger import Balance, open_ledger
from governance.options import AsJson, Project
from governance.policy import Decision, load_policy, record_refusals
from governance.privacy import PrivacyLoss
from governance.settings import Account, Settings, load_settings
from pipelines.bounding_choice import compare_bounds
from pipelines.compiled import definition_sha256
from pipelines.curves import TYPICAL_GROUP, budget_curves, draw, group_curves
from pipelines.definitions import Bounding, ClipNorm, ContentEmbedding, CountDistinct, Signal
from pipelines.plan import GROUP_SIZES, SignalPlan, plan_signal
from pipelines.policy import decide_definition
from pipelines.project import load_project
from pipelines.results import Outcome, RunResult, Stage
from pipelines.windows import Newest, Starting, WindowChoice

__all__ = ["plan", "run"]


def plan(
    signals: Annotated[list[str] | None, typer.Argument(metavar="[SIGNAL]...", help="Which; by default all.")] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Explain what signals protect, how noisy they will be, what they cost, and what the policy says to them.

    Reads no data and spends nothing. Exits with 1 if the policy refuses one.
    """
    settings = load_settings(project)
    chosen = load_project(settings).select(tuple(signals or ()))
    policy = load_policy(settings)
    decisions = [decide_definition(definition, settings, policy) for definition in chosen]
    _record_refused(settings, decisions)
    plans = [plan_signal(definition, settings) for definition in chosen if isinstance(definition, Signal)]
    embeddings = [definition for definition in chosen if isinstance(definition, ContentEmbedding)]
    balances = balances_of(settings, tuple(one.account for one in plans))
    if as_json:
        document = {
            "signals": [one.to_json(balances[one.account.name]) | explained(one) for one in plans],
            "embeddings": [
                {
                    "name": one.name,
                    "version": one.version,
                    "definition_sha256": definition_sha256(one),
                    "dimensions": one.dimensions,
                    "protects": "Reads public facts alone: costs nothing.",
                    "rho": 0.0,
                    "delta": 0.0,
                    "epsilon": 0.0,
                }
                for one in embeddings
            ],
            "policy": [decision.to_json() for decision in decisions],
        }
        typer.echo(json.dumps(document, indent=2))
        raise typer.Exit(0 if all(decision.allowed for decision in decisions) else 1)
    console = Console()
    for one in plans:
        console.print(render_plan(one, balances[one.account.name]))
    for embedding in embeddings:
        console.print(Text.assemble((embedding.identity, "bold"), f"  {embedding.description}"))
        console.print(f"  {embedding.dimensions} dimensions from public facts alone: costs nothing\n")
    refusals = [(decision.subject, refusal) for decision in decisions for refusal in decision.refusals]
    for subject, refusal in refusals:
        console.print(Text.assemble(("refused  ", "bold red"), f"{subject}  {refusal}"), soft_wrap=True)
    raise typer.Exit(1 if refusals else 0)


def explained(one: SignalPlan) -> dict[str, object]:
    """What `plan` draws and advises, as JSON."""
    profile = one.signal.profile
    return {
        "curves": {
            name: [{"column": curve.column, "points": curve.points} for curve in curves]
            for name, curves in (("rho", budget_curves(one)), ("group_size", group_curves(one)))
        },
        "bounding": [
            {"bounds": asdict(c.bounds)}
            | {"column": c.column, "bias": c.bias, "noise": c.noise, "error": c.error, "given": c.given}
            for c in (compare_bounds(one, profile) if profile is not None else ())
        ],
    }


def _record_refused(settings: Settings, decisions: list[Decision]) -> None:
    """Refused plans go into the ledger, once each, where there is one; a project that never ran gets none by asking."""
    refused = [decision for decision in decisions if not decision.allowed]
    if refused and (settings.ledger.url is not None or settings.ledger_path.is_file()):
        with open_ledger(settings) as ledger:
            record_refusals(ledger, refused)


def balances_of(settings: Settings, accounts: tuple[Account, ...]) -> dict[str, Balance]:
    """Each account's balance; a project that never ran has no ledger, and none is made by asking."""
    unused = {
        account.name: Balance(account=account.name, cap=account.cap, spent=PrivacyLoss.zero(), held=PrivacyLoss.zero())
        for account in accounts
    }
    if settings.ledger.url is None and not settings.ledger_path.is_file():
        return unused
    with open_ledger(settings) as ledger:
        return {account.name: ledger.balance(account) for account in accounts}


def render_plan(one: SignalPlan, balance: Balance) -> Group:
    """A plan as a person reads it."""
    signal, calibration = one.signal, one.calibration
    remaining, left = balance.remaining, one.affordable(balance)
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("protects", one.protects)
    facts.add_row(
        "cost",
        f"rho {float(one.loss.rho):g} and delta {float(one.loss.delta):.3g} for each window: "
        f"epsilon {calibration.epsilon:.3g} at delta {calibration.epsilon_delta:g}",
    )
    facts.add_row(
        "account",
        f"{balance.account}: rho {float(remaining.rho):g} of {float(balance.cap.rho):g}, "
        f"delta {float(remaining.delta):.3g} of {float(balance.cap.delta):g} left; pays {left} more windows",
    )
    facts.add_row("bounds", _bounds_text(signal.bounds, signal))
    if calibration.threshold is None:
        facts.add_row("keys", "public: every key is released, with noise, whether or not anybody is in it")
    else:
        chances = ", ".join(f"{units:,}: {chance:.0%}" for units, chance in one.selected)
        unit = signal.privacy_unit.label
        enough = f"{one.threshold_text} noisy {unit}s on"
        if one.by_weight:
            enough = f"a noisy weight of {one.threshold_text} on; a {unit} with t of them adds 1/sqrt(t) to each"
        facts.add_row("keys", f"private: released from {enough} (chance by group size, {chances})")
    return Group(
        Text.assemble((signal.identity, "bold"), f"  {signal.description}"),
        Padding(facts, (0, 0, 0, 2)),
        Padding(_measurement_table(one), (0, 0, 0, 2)),
        Padding(_error_table(one), (0, 0, 0, 2)),
        *(Padding(part, (0, 0, 1, 2)) for part in _drawn(one)),
    )


def _drawn(one: SignalPlan) -> list[Text | Table]:
    """The curves, and how other bounds would do."""
    unit = one.signal.privacy_unit.label
    drawn: list[Text | Table] = []
    over_budget = draw(budget_curves(one), "rho of a release")
    if over_budget:
        drawn.append(Text(f"Relative error over budget ({TYPICAL_GROUP:,} {unit}s)\n{over_budget}", style="dim"))
        over_groups = draw(group_curves(one), f"{unit}s in the group")
        drawn.append(Text(f"Relative error over group size\n{over_groups}", style="dim"))
    profile = one.signal.profile
    if profile is not None:
        choices, each = compare_bounds(one, profile), profile.rows_per_partition
        of = f"{unit}s" if isinstance(one.signal.aggregates.get(choices[0].column), CountDistinct) else "rows"
        title = (
            f"Bounds by expected error of {choices[0].column} over {TYPICAL_GROUP:,} {of}, where a {unit} has "
            f"{each:,} row{'s' if each > 1 else ''} of a key ({profile.origin})"
        )
        table = Table(box=SIMPLE, pad_edge=False, title=title, title_justify="left", title_style="dim")
        for heading in ("bounds", "lost", "noise", "error", ""):
            table.add_column(heading, justify="left" if heading in ("bounds", "") else "right")
        for place, choice in enumerate(choices):
            said = " ".join(word for word, true in (("best", place == 0), ("given", choice.given)) if true)
            table.add_row(
                _short(choice.bounds), _percent(choice.bias), _percent(choice.noise), _percent(choice.error), said
            )
        drawn.append(table)
    return drawn


def _short(bounds: Bounding) -> str:
    if isinstance(bounds, ClipNorm):
        most = "" if bounds.max_partitions is None else f" of {bounds.max_partitions:,} kept"
        return f"ClipNorm(l2={bounds.l2:g}{most})"
    return f"KeepRandom({bounds.max_partitions} x {bounds.max_rows_per_partition})"


def _bounds_text(bounds: Bounding, signal: Signal) -> str:
    unit, keys = signal.privacy_unit.label, ", ".join(signal.entity.keys)
    if isinstance(bounds, ClipNorm):
        kept = "" if bounds.max_partitions is None else f"at most {bounds.max_partitions} ({keys}) of "
        return (
            f"{kept}all that each {unit} gives is scaled as one vector, to at most norm {bounds.l2:g} (1: a full row)"
        )
    rows = bounds.max_rows_per_partition
    return (
        f"each {unit} counts in at most {bounds.max_partitions} ({keys}), with at most {rows} "
        f"row{'s' if rows > 1 else ''} in each, kept at random"
    )


def _measurement_table(one: SignalPlan) -> Table:
    table = Table(box=SIMPLE, pad_edge=False, title="Noise", title_justify="left", title_style="dim")
    table.add_column("measurement", no_wrap=True)
    table.add_column("discrete", no_wrap=True)
    for heading in ("stddev", "L0", "Linf", "L2", "rho"):
        table.add_column(heading, justify="right", no_wrap=True)
    for mechanism in one.calibration.mechanisms:
        measure = mechanism.measure
        table.add_row(
            measure.name,
            mechanism.name.removeprefix("discrete "),
            f"{mechanism.noise_stddev:.4g}",
            f"{measure.l0:,}",
            f"{measure.linf * measure.grid_step:.4g}",
            f"{measure.l2 * measure.grid_step:.4g}",
            f"{mechanism.rho:.3g}",
        )
    return table


def _error_table(one: SignalPlan) -> Table:
    title = f"Relative error by group size ({one.signal.privacy_unit.label})"
    table = Table(box=SIMPLE, pad_edge=False, title=title, title_justify="left", title_style="dim")
    table.add_column("column", no_wrap=True)
    for units in GROUP_SIZES:
        table.add_column(f"{units:,}", justify="right", no_wrap=True)
    for output in one.recipe.outputs:
        errors = {error.units: error.relative for error in one.errors if error.column == output.name}
        table.add_row(output.name, *(_percent(errors[units]) for units in GROUP_SIZES))
    return table


def _percent(ratio: float) -> str:
    if ratio > 1:
        return "> 100 %"
    return f"{ratio:.1%}".replace("%", " %") if ratio >= 0.001 else "< 0.1 %"


class StatusProgress:
    """Shows the stage at hand on a terminal, and one line for each finished release anywhere."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status

    def stage(self, subject: str, stage: Stage) -> None:
        """See `pipelines.results.Progress`."""
        if stage is Stage.DONE:
            self._console.print(f"[green]released[/green]  {subject}")
        else:
            self._status.update(f"{subject}: {_STAGE_WORDS[stage]}")


_STAGE_WORDS = {
    Stage.RESERVE: "reserving its privacy loss",
    Stage.CHECK: "checking the input",
    Stage.DRAW: "recording the draw",
    Stage.WRITE: "bounding, summing, adding noise",
    Stage.PUBLISH: "publishing",
    Stage.COMMIT: "committing to the ledger",
}


def run(
    signals: Annotated[list[str] | None, typer.Argument(metavar="[SIGNAL]...", help="Which; by default all.")] = None,
    project: Project = Path(),
    window: Annotated[
        list[str] | None, typer.Option("--window", help="Start day of a window, e.g. 2025-11-03; repeatable.")
    ] = None,
    windows: Annotated[int, typer.Option("--windows", help="Release the newest N complete windows.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Release signals: bound, aggregate, add noise, select, publish atomically.

    What is there already is left as it is, and costs nothing again. Lineage is written beside the ledger.
    """
    from governance.disclosure import record_lineage
    from pipelines.run import run as run_signals

    settings = load_settings(project)
    choice: WindowChoice = Starting(tuple(_day(text) for text in window)) if window else Newest(windows)
    console = Console(stderr=as_json)
    with console.status("starting") as status:
        results = run_signals(
            settings, names=tuple(signals or ()), windows=choice, progress=StatusProgress(console, status)
        )
    with open_ledger(settings) as ledger:
        balances = ledger.balances()
        record_lineage(settings, ledger)
    if as_json:
        typer.echo(json.dumps(_run_json(results, balances)))
        return
    console.print(_result_table(results))
    for balance in balances:
        console.print(
            f"account {balance.account}: rho {float(balance.remaining.rho):g} of {float(balance.cap.rho):g} left, "
            f"delta {float(balance.remaining.delta):.3g} of {float(balance.cap.delta):g} left"
        )
    console.print("[dim]next: hedgerow publish, then hedgerow serve; hedgerow report shows what was spent[/dim]")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--window: found {text!r}, allowed: the first day of a window, e.g. 2025-11-03") from None


def _run_json(results: tuple[RunResult, ...], balances: tuple[Balance, ...]) -> dict[str, object]:
    return {
        "releases": [
            {
                "release_id": result.release_id,
                "outcome": str(result.outcome),
                "name": result.manifest.signal.name,
                "version": result.manifest.signal.version,
                "rows": result.manifest.rows,
                "rho": float(result.manifest.guarantee.rho),
                "delta": float(result.manifest.guarantee.delta),
                "epsilon": result.manifest.guarantee.epsilon,
                "protects": result.manifest.guarantee.protects,
            }
            for result in results
        ],
        "accounts": [
            {
                "name": balance.account,
                "cap": balance.cap.to_json(),
                "spent": balance.spent.to_json(),
                "remaining": balance.remaining.to_json(),
            }
            for balance in balances
        ],
    }


def _result_table(results: tuple[RunResult, ...]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("release", overflow="fold")
    for heading in ("rows", "rho", "epsilon"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for result in results:
        guarantee = result.manifest.guarantee
        table.add_row(
            result.release_id,
            f"{result.manifest.rows:,}",
            f"{float(guarantee.rho):g}",
            "∞" if guarantee.epsilon is None else f"{guarantee.epsilon:.3g}",
            "new" if result.outcome is Outcome.RELEASED else "there already",
        )
    return table
