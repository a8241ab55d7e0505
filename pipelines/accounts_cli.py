"""`hedgerow accounts`: what every account has lost, and what a plan fixed in advance would be told."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from governance.options import AsJson, Project
from governance.settings import load_settings

if TYPE_CHECKING:
    from governance.accounting import AccountView, LossView
    from governance.settings import Settings
    from pipelines.fixed_plan import FixedPlan

__all__ = ["accounts"]


def accounts(
    project: Project = Path(),
    json: AsJson = False,
) -> None:
    """Show what every account has lost over its lifetime, by period, by window and by release."""
    from governance.accounting import account_views
    from governance.ledger import open_ledger

    settings = load_settings(project)
    with open_ledger(settings) as ledger:
        entries = ledger.entries()
    views = account_views(entries, settings.reporting_delta)
    plans = {view.account: _plan(settings, view) for view in views}
    if json:
        document = [{**view.to_json(), "fixed_plan": plans[view.account].to_json()} for view in views]
        typer.echo(json_module.dumps({"accounts": document}, sort_keys=True))
    else:
        for view in views:
            _show(view, plans[view.account])


def _plan(settings: Settings, view: AccountView) -> FixedPlan:
    """The account's releases that are on disk, as a fixed plan."""
    from governance.release import ReleaseStore
    from pipelines.fixed_plan import fixed_plan

    store = ReleaseStore(settings.releases_dir)
    present = [store.load(part.name) for part in view.releases if store.exists(part.name)]
    return fixed_plan((m for m in present if m.ledger.account == view.account), settings.reporting_delta)


def _show(view: AccountView, plan: FixedPlan) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from governance.accounting import FILTER_CLAIM
    from pipelines.fixed_plan import PLAN_CLAIM

    console = Console()
    title = Text(view.account, "bold")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "rho", "delta", f"epsilon at {view.lifetime.epsilon_delta:g}", "runs"):
        table.add_column(name, justify="right" if name else "left")
    cap = "cap" if view.renews_days is None else f"cap of each {view.renews_days} days"
    table.add_row(cap, *_numbers(view.cap), "")
    table.add_row("lifetime", *_numbers(view.lifetime), str(sum(part.runs for part in view.releases)))
    for heading, parts in (("period", view.periods), ("window", view.windows), ("release", view.releases)):
        for part in parts:
            table.add_row(Text(f"{heading} {part.name}"), *_numbers(part.spent), str(part.runs))
    console.print(table)
    console.print(f"epsilon of the lifetime: {FILTER_CLAIM}", style="dim")
    epsilon = "not known" if plan.epsilon is None else f"{plan.epsilon:.6g}"
    console.print(
        f"fixed plan: epsilon {epsilon} at {plan.epsilon_delta:g} ({plan.releases} releases, {plan.kinds} kinds)"
    )
    console.print(f"            {PLAN_CLAIM}", style="dim")


def _numbers(view: LossView) -> tuple[str, str, str]:
    amounts = view.loss.to_json()
    return amounts["rho"], amounts["delta"], "infinite" if view.epsilon is None else f"{view.epsilon:.6g}"
