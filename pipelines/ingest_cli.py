"""The command `hedgerow ingest`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from governance.errors import ConfigError
from governance.options import AsJson, Project

__all__ = ["ingest"]


def ingest(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Parquet files, or folders of them.")],
    into: Annotated[Path | None, typer.Option("--into", help="The table's folder; made on first use.")] = None,
    person: Annotated[str | None, typer.Option("--person", help="The column that identifies the person.")] = None,
    time: Annotated[str | None, typer.Option("--time", help="The column with the event time.")] = None,
    signal: Annotated[
        str | None, typer.Option("--signal", help="Take table, person and time from this signal's source.")
    ] = None,
    buckets: Annotated[
        int | None, typer.Option("--buckets", help="How many, for a new table; by default one a million rows.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; by default one a core.")] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Lay events out by person, so that releases of them need no exchange of rows.

    Files that were ingested before are passed over; what is new is appended, whole or not at all.
    """
    from pipelines.ingest import ingest as ingest_files

    into, person, time = _target(into, person, time, signal, project)
    console = Console(stderr=as_json)
    with console.status("starting") as status:
        done = ingest_files(
            tuple(sources),
            into,
            person=person,
            time=time,
            buckets=buckets,
            workers=workers,
            progress=lambda what, part: status.update(f"{what}: {part:.0%}"),
        )
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "table": str(done.table),
                    "batch": done.batch,
                    "new": list(done.new),
                    "known": list(done.known),
                    "buckets": done.buckets,
                }
            )
        )
        return
    known = f", {len(done.known)} known already" if done.known else ""
    if done.batch is None:
        console.print(f"nothing new for {done.table}{known}")
        return
    console.print(f"[green]ingested[/green]  {len(done.new)} new files into {done.table}{known}")


def _target(
    into: Path | None, person: str | None, time: str | None, signal: str | None, project: Path
) -> tuple[Path, str, str]:
    """The table, the person column and the time column, from the options or from a signal.

    Raises:
        ConfigError: some are missing.
    """
    if signal is not None:
        from governance.settings import load_settings
        from pipelines.definitions import Signal
        from pipelines.project import load_project

        settings = load_settings(project)
        (definition,) = load_project(settings).select((signal,))
        if not isinstance(definition, Signal):
            raise ConfigError(f"--signal: {signal} reads no events; name a signal with an event source")
        source = definition.source
        into, person, time = into or settings.root / source.table, person or source.person, time or source.timestamp
    if into is None or person is None or time is None:
        raise ConfigError("ingest: allowed: --into, --person and --time, or --signal, whose source says them")
    return into, person, time
