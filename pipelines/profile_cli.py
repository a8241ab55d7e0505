"""The command `hedgerow profile`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from governance.files import write_atomic
from governance.ledger import open_ledger
from governance.options import AsJson, Project
from governance.settings import load_settings
from pipelines.cli import StatusProgress
from pipelines.windows import Newest, Starting

__all__ = ["profile"]


def profile(
    signal: Annotated[str, typer.Argument(help="The signal whose units are counted.")],
    rho: Annotated[
        float, typer.Option("--rho", help="What it may cost; its account is charged, once a window.")
    ] = 0.001,
    window: Annotated[
        datetime | None,
        typer.Option("--window", formats=["%Y-%m-%d"], help="Start day of a window; by default the newest."),
    ] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Release how many keys people have, under differential privacy, and write it down for the definition.

    `plan` weighs contribution bounds by it. It is a release as any other: policy, ledger, noise, manifest.
    """
    from governance.disclosure import record_lineage
    from pipelines.profile import profile as measure
    from pipelines.profile import snippet

    settings = load_settings(project)
    console = Console(stderr=as_json)
    with console.status("starting") as status:
        done = measure(
            settings,
            signal,
            rho=rho,
            windows=Newest(1) if window is None else Starting((window.date(),)),
            progress=StatusProgress(console, status),
        )
    target = settings.signals_dir / f"_{signal}_profile.py"
    write_atomic(target, snippet(done, signal).encode())
    with open_ledger(settings) as ledger:
        record_lineage(settings, ledger)
        [balance] = [one for one in ledger.balances() if one.account == done.result.manifest.ledger.account]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "release_id": done.result.release_id,
                    "outcome": str(done.result.outcome),
                    "profile": asdict(done.profile),
                    "counts": [{"partitions": step, "units": count} for step, count in done.counts],
                    "noise_stddev": done.noise_stddev,
                    "rho": float(done.result.manifest.guarantee.rho),
                    "written": str(target),
                }
            )
        )
        return
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("keys", justify="right")
    table.add_column(f"{done.result.manifest.guarantee.unit}s", justify="right")
    for step, count in done.counts:
        table.add_row(f"{step:,}+", f"{count:,}")
    console.print(table)
    console.print(f"noise: standard deviation {done.noise_stddev:.3g}; {done.result.release_id}")
    console.print(f"account {balance.account}: rho {float(balance.remaining.rho):g} of {float(balance.cap.rho):g} left")
    console.print(f"[dim]next: in the definition, from {target.stem} import PROFILE, and profile=PROFILE[/dim]")
