"""`hedgerow demo`: the whole platform once, from raw events to a reviewer's report."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from governance.errors import ConfigError

if TYPE_CHECKING:
    from examples.demo.story import DeviceList, Served, Suggestions
    from examples.demo.teller import Teller
    from examples.demo.workspace import Generated, GivenFiles, Workspace
    from governance.ledger import Balance
    from pipelines.plan import SignalPlan
    from pipelines.results import RunResult

__all__ = ["demo"]

DEFAULT_SEED = 20251101


def demo(
    events: Annotated[Path | None, typer.Option(help="Raw events, parquet; absent: a seeded sample.")] = None,
    items: Annotated[Path | None, typer.Option(help="The catalogue of items, parquet; together with --events.")] = None,
    out: Annotated[Path, typer.Option(help="The project's folder; a rerun with the same input continues.")] = Path(
        "demo-output"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object last; words go to stderr.")] = False,
    windows: Annotated[int, typer.Option(min=1, help="Release the newest N complete windows.")] = 4,
    seed: Annotated[int | None, typer.Option(min=0, help=f"Of the sample; absent: {DEFAULT_SEED}.")] = None,
    mapping: Annotated[
        str | None, typer.Option(help="Which dataset of examples/demo/datasets.toml the files are; absent: by columns.")
    ] = None,
) -> None:
    """Watch the whole platform work: private signals, gRPC, recommendations, a device, the report.

    Without --events it makes a sample: 20,000 people, 2,000 films, 200,000 events in six weeks.
    """
    from rich.console import Console

    from examples.demo.teller import Teller
    from examples.demo.workspace import open_workspace

    source = _source(events, items, seed, mapping)
    console = Console(stderr=json, highlight=False)
    teller = Teller(console)
    with teller.act("prepare", "1  Prepare: raw events become a project"):
        workspace = open_workspace(out, source, windows)
    state = "continues in" if workspace.resumed else "in"
    console.print(f"{workspace.dataset.description}; {state} {out}")
    document = _tell(teller, workspace, out, windows)
    if json:
        typer.echo(json_module.dumps(document, ensure_ascii=False))


def _source(events: Path | None, items: Path | None, seed: int | None, mapping: str | None) -> Generated | GivenFiles:
    from examples.demo.workspace import Generated, GivenFiles

    if (events is None) != (items is None):
        raise ConfigError("demo: found one of --events and --items; give both, or neither for the seeded sample")
    if events is None or items is None:
        if mapping is not None:
            raise ConfigError("demo: --mapping says what given files are; give --events and --items too")
        return Generated(seed=DEFAULT_SEED if seed is None else seed)
    if seed is not None:
        raise ConfigError("demo: --seed is for the seeded sample; leave it out with --events")
    return GivenFiles(events=events, items=items, mapping=mapping)


def _tell(teller: Teller, workspace: Workspace, shown: Path, windows: int) -> dict[str, Any]:
    """Plays the acts after the first, and returns what `--json` prints.

    Args:
        teller: where to tell them.
        workspace: the project.
        shown: its folder as the person wrote it.
        windows: how many.
    """
    from examples.demo import show
    from governance.ledger import open_ledger
    from governance.report import build, report_key, write
    from serving.publish import publish

    settings, console = workspace.settings, teller.console
    plans = _plan(teller, workspace, windows)
    results = _release(teller, workspace, plans, windows)
    with (
        teller.act("publish", "4  Publish: newest releases go into the feature store"),
        open_ledger(settings) as ledger,
    ):
        publication = publish(settings, ledger)
    views = ", ".join(view.name for view in publication.views)
    console.print(f"publication {publication.sequence}: {views}; item vectors and a signed catalogue for devices")
    suggestions, devices, served = _serve(teller, workspace)

    with teller.act("report", "8  Report: what was released and what it cost"), open_ledger(settings) as ledger:
        report = build(settings, ledger)
        files = write(report, settings.report_dir, key=report_key(settings))
        balances = tuple(ledger.balance(account) for account in settings.accounts)
    console.print(f"{len(report.releases)} releases, {report.verified} verified, {len(report.failures)} failures")
    console.print(files.problem or "report.json is signed; report.html and report.pdf show it and carry its hash")
    console.print()
    console.print(
        show.closing(
            dataset=workspace.dataset,
            plans=plans,
            results=results,
            balances=balances,
            reporting_delta=settings.reporting_delta,
            report=shown / files.html.relative_to(settings.root),
            project=shown,
        )
    )
    return {
        "dataset": workspace.dataset.name,
        "releases": [_release_json(result) for result in results],
        "accounts": [_account_json(balance) for balance in balances],
        "served": {"features": served.features, "vectors": served.vectors, "neighbors": served.neighbors},
        "recommendations": _recommendations_json(suggestions, devices),
        "report": str(files.html),
        "seconds": {**teller.seconds, "total": round(sum(teller.seconds.values()), 3)},
    }


def _plan(teller: Teller, workspace: Workspace, windows: int) -> tuple[SignalPlan, ...]:
    from examples.demo import show
    from pipelines.plan import plan_signal
    from pipelines.project import load_project

    with teller.act("plan", "2  Plan: what it will protect and cost, before any data is read"):
        project = load_project(workspace.settings)
        plans = tuple(plan_signal(signal, workspace.settings) for signal in project.signals)
    teller.console.print(show.plan_table(plans, project.embeddings, windows))
    return plans


def _release(teller: Teller, workspace: Workspace, plans: Sequence[SignalPlan], windows: int) -> tuple[RunResult, ...]:
    from examples.demo import show
    from pipelines.run import run
    from pipelines.windows import Newest

    total = len(plans) * windows + 1
    with teller.releases("run", f"3  Run: {windows} windows of each signal, bounded, summed, noised", total) as bar:
        results = run(workspace.settings, windows=Newest(windows), progress=bar)
    teller.console.print(show.release_table(results))
    found = sum(result.manifest.signal.name == plans[0].signal.name for result in results)
    if found < windows:
        teller.console.print(f"The record has only {found} complete windows of the {windows} that were asked for.")
    return results


def _serve(teller: Teller, workspace: Workspace) -> tuple[Suggestions, tuple[DeviceList, ...], Served]:
    from examples.demo import show
    from examples.demo.story import CountingClient, audience, on_device, suggest, trends
    from serving.server import start_server

    settings, dataset, console = workspace.settings, workspace.dataset, teller.console
    with teller.act("serve", "5  Serve: features, vectors and snapshots over gRPC"):
        server = start_server(settings, port=0)
        client = CountingClient(server.address)
    with server, client:
        console.print(f"listening on {server.address}")
        with teller.act("recommend", "6  Recommend: a model asks for features and vectors"):
            public = audience(settings)
            activity = trends(client, dataset)
            suggestions = suggest(client, dataset, public)
        console.print(show.trend_lines(activity, dataset))
        console.print(show.lists(suggestions))
        with teller.act("device", "7  Device: ranks by what only it knows"):
            devices = tuple(
                on_device(settings, server.address, person, place, public)
                for place, person in enumerate(suggestions.people)
            )
        console.print(show.device_lists(suggestions, devices))
    return suggestions, devices, client.served


def _release_json(result: RunResult) -> dict[str, Any]:
    manifest = result.manifest
    guarantee = manifest.guarantee
    return {
        "name": manifest.signal.name,
        "version": manifest.signal.version,
        "window": {"start": manifest.window.start, "end": manifest.window.end},
        "rows": manifest.rows,
        "rho": float(guarantee.rho),
        "delta": float(guarantee.delta),
        "epsilon": guarantee.epsilon,
        "protects": guarantee.protects,
    }


def _account_json(balance: Balance) -> dict[str, Any]:
    """Exact decimals as texts, as everywhere."""
    return {
        "name": balance.account,
        "cap": balance.cap.to_json(),
        "spent": balance.spent.to_json(),
        "remaining": balance.remaining.to_json(),
    }


def _recommendations_json(suggestions: Suggestions, devices: Sequence[DeviceList]) -> list[dict[str, Any]]:
    return [
        {
            "user": person.name.removeprefix("user "),
            "personalised": list(person.personalised),
            "popular": list(suggestions.popular),
            "device": list(device.titles),
        }
        for person, device in zip(suggestions.people, devices, strict=True)
    ]
