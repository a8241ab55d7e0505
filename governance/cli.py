"""Commands of the governance layer: `hedgerow report` and `hedgerow disclosure`."""

from __future__ import annotations

import json as json_module
from decimal import ROUND_CEILING, ROUND_FLOOR
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from governance.ledger import open_ledger
from governance.options import AsJson, Project
from governance.settings import load_settings

if TYPE_CHECKING:
    from governance.report import Report, ReportFiles

__all__ = ["disclosure", "report"]


def report(
    project: Project = Path(),
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; by default below the state folder.")
    ] = None,
    pdf: Annotated[bool, typer.Option("--pdf/--no-pdf", help="Also write it as PDF.")] = True,
    json: AsJson = False,
) -> None:
    """Write the report: what was released, what it cost, and whether the record holds together.

    report.json is the object of record, signed where the ledger's key is at hand; report.html and report.pdf show it.
    """
    from governance.report import build, report_key, write

    settings = load_settings(project)
    with open_ledger(settings) as ledger:
        built = build(settings, ledger)
    files = write(built, out if out is not None else settings.report_dir, key=report_key(settings), paper=pdf)
    if json:
        typer.echo(json_module.dumps(_summary(built, files)))
    else:
        _show(built, files)


def disclosure(
    project: Project = Path(),
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write; by default below the state folder.")
    ] = None,
    emit: Annotated[
        bool, typer.Option("--emit", help="Also send the lineage where OpenLineage's own configuration says.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write a disclosure, lineage and a registry entry for every committed release.

    Exits with 1 if a release that the ledger committed is gone or was changed.
    """
    from governance.disclosure import disclose, write_disclosures
    from governance.policy import load_policy

    settings = load_settings(project)
    policy = load_policy(settings)
    with open_ledger(settings) as ledger:
        disclosed, left_out = disclose(settings, ledger, policy)
    files = write_disclosures(disclosed, out if out is not None else settings.state_dir / "disclosure")
    if emit:
        from openlineage.client import OpenLineageClient

        from governance.lineage import emit as send

        send((event for item in disclosed for event in item.events), OpenLineageClient())
    if json:
        written = zip(disclosed, files.disclosures, files.registry, strict=True)
        document = {
            "releases": len(disclosed),
            "left_out": list(left_out),
            "lineage": str(files.lineage),
            "files": [
                {"release_id": item.manifest.release_id, "disclosure": str(path), "registry": str(entry)}
                for item, path, entry in written
            ],
        }
        typer.echo(json_module.dumps(document))
    else:
        for path in files.disclosures:
            typer.echo(f"disclosure  {path}")
        typer.echo(f"lineage     {files.lineage}")
        for reason in left_out:
            typer.echo(f"left out    {reason}")
    raise typer.Exit(1 if left_out else 0)


def _summary(report: Report, files: ReportFiles) -> dict[str, object]:
    return {
        "report": str(files.html),
        "json": str(files.json),
        "pdf": str(files.pdf) if files.pdf else None,
        "signature": str(files.signature) if files.signature else None,
        "sha256": files.sha256,
        "releases": len(report.releases),
        "verified": report.verified,
        "failures": len(report.failures),
        "findings": [
            {"severity": str(f.severity), "kind": f.kind, "subject": f.subject, "message": f.message}
            for f in report.findings
        ],
        "accounts": [
            {
                "account": account.name,
                "cap": account.cap.to_json(),
                "spent": account.spent.to_json(),
                "held": account.held.to_json(),
                "remaining": account.remaining.to_json(),
                "epsilon_spent": account.epsilon.spent,
            }
            for account in report.accounts
        ],
        "refused": len(report.refusals),
    }


def _show(report: Report, files: ReportFiles) -> None:
    """A short summary for a person: budgets, what is open, where the report lies."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from governance.report.document import Severity
    from governance.report.page.words import fraction, percent, plural, share

    console = Console()
    table = Table(
        title="What the accounts have left", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for name in ("account", "rho spent", "of", "left", "delta left", "epsilon spent"):
        table.add_column(name, justify="left" if name == "account" else "right")
    for account in report.accounts:
        spent = account.epsilon.spent
        table.add_row(
            Text(account.name),
            fraction(account.spent.rho),
            fraction(account.cap.rho),
            percent(share(account.remaining.rho, account.cap.rho), ROUND_FLOOR),
            percent(share(account.remaining.delta, account.cap.delta), ROUND_FLOOR),
            "none" if spent is None else fraction(spent, 4, ROUND_CEILING),
        )
    if report.accounts:
        console.print(table)
        console.print()
    console.print(
        f"{plural(len(report.releases), 'release')}, {report.verified} verified; "
        f"{plural(len(report.refusals), 'refused request')}"
    )
    for finding in report.findings:
        style = "bold red" if finding.severity is Severity.FAILURE else "yellow"
        console.print(Text.assemble((str(finding.severity), style), f"  {finding.subject}: {finding.message}"))
    console.print(Text.assemble(("report  ", "bold"), str(files.html)), soft_wrap=True)
    console.print(Text.assemble(("json    ", "bold"), str(files.json)), soft_wrap=True)
    console.print(
        Text.assemble(("pdf     ", "bold"), str(files.pdf or files.problem or "not asked for")), soft_wrap=True
    )
    console.print(
        Text.assemble(("signed  ", "bold"), str(files.signature or "no: the key is not here")), soft_wrap=True
    )
    console.print(Text.assemble(("sha256  ", "bold"), files.sha256), soft_wrap=True)
