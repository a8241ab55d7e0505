"""`hedgerow publish` and `hedgerow serve`. The only module of the package that prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from governance.options import Project
from governance.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.table import Table

    from featurestore.publication import Publication

__all__ = ["publish", "serve"]


def publish(project: Project = Path()) -> None:
    """Publish the newest releases: feature store, vector spaces, device catalogue."""
    from rich.console import Console

    from governance.ledger import open_ledger
    from serving.publish import publish as publish_all

    settings = load_settings(project)
    console = Console(highlight=False)
    with console.status("publishing") as status, open_ledger(settings) as ledger:
        publication = publish_all(settings, ledger, status.update)
    console.print(_table(settings, publication))
    for line in _other_lines(publication):
        console.print(line, markup=False, soft_wrap=True)


def serve(
    project: Project = Path(),
    host: Annotated[str | None, typer.Option(help="Address to listen on; the configuration's if absent.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one; the configuration's if absent.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="How to serve: TLS, callers, limits, processes; absent: open to all.")
    ] = None,
) -> None:
    """Serve what is published over gRPC until SIGTERM or Ctrl-C; running calls are let end."""
    import signal
    import threading
    from dataclasses import replace

    from serving.config import demo_config, load_config
    from serving.logs import log_to_stderr

    settings = load_settings(project)
    how = demo_config(settings) if config is None else load_config(config)
    own = how.listen
    how = replace(
        how,
        listen=replace(own, host=own.host if host is None else host, port=own.port if port is None else port),
    )
    log_to_stderr(how.logs.format)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())

    def ready(address: str, publication: int) -> None:
        typer.echo(f"serving on {address} (project {settings.name}, publication {publication})")

    if how.listen.processes > 1:
        from serving.supervisor import serve_processes

        serve_processes(settings, how, ready=ready, ended=ended)
        return
    from serving.server import start_server

    with start_server(settings, config=how) as server:
        server.serve_metrics(how.metrics)
        ready(server.address, server.publication)
        ended.wait()


def _table(settings: Settings, publication: Publication) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=f"publication {publication.sequence} of {settings.name}", box=box.SIMPLE, title_justify="left")
    for heading in ("view", "keys", "features", "newest release"):
        table.add_column(heading, overflow="fold")
    for view in publication.views:
        keys, features = (", ".join(field.name for field in fields) for fields in (view.keys, view.features))
        table.add_row(view.name, keys, features, view.releases[-1].release_id.rpartition("/")[2])
    return table


def _other_lines(publication: Publication) -> list[str]:
    lines = [
        f"service    {service.name}: {_count(len(service.features), 'feature')}" for service in publication.services
    ]
    lines += [
        f"space      {space.name}: {space.dimension} dimensions, {space.metric}, from {space.release_id}"
        for space in publication.spaces
    ]
    if (catalogue := publication.catalogue) is not None:
        releases = _count(len(catalogue.releases), "release")
        lines.append(f"catalogue  number {catalogue.sequence}: {catalogue.bytes:,} bytes from {releases}, signed")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
