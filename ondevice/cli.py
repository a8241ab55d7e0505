"""`hedgerow device`: one person's device on the command line. The only module of the package that prints.

What it prints stays on this terminal; only `sync` uses the network, and it sends nothing about the person.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from governance.errors import ConfigError, DeviceCorrupt, NotPublished, PublicationCorrupt
from governance.options import Project
from governance.settings import PROJECT_FILE, load_settings

if TYPE_CHECKING:
    from ondevice.device import Device
    from ondevice.features import LocalFeatures

__all__ = ["app"]

_BAR_CELLS: Final = 20
_TAGS_SHOWN: Final = 12

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Store = Annotated[Path, typer.Option("--store", "-s", help="The device's folder.")]
_DEFAULT_STORE: Final = Path("device")


@app.command()
def init(
    store: Store = _DEFAULT_STORE,
    public_key: Annotated[
        str | None,
        typer.Option(help="The publisher's Ed25519 key: 64 hex digits, or a file. Absent: the project's own."),
    ] = None,
    project: Project = Path(),
    days: Annotated[int, typer.Option(min=1, max=3650, help="Events older than this are deleted.")] = 180,
    events: Annotated[int, typer.Option(min=1, max=10_000_000, help="At most so many events are kept.")] = 100_000,
) -> None:
    """Set a device up: an empty event store, and the one key whose catalogues it will take."""
    from ondevice.device import Device, DeviceSettings
    from ondevice.store import Retention

    key = _project_key(project) if public_key is None else _given_key(public_key)
    Device.create(store, DeviceSettings(public_key=key, retention=Retention(age=timedelta(days=days), events=events)))
    console = _console()
    console.print(_line("ready", f"{store}: only you can read it; events are kept {days} days, at most {events:,}"))
    console.print(_line("pinned", f"catalogues must be signed by {key.hex()[:16]}…"))


@app.command()
def sync(
    server: Annotated[str, typer.Option(help="HOST:PORT of 'hedgerow serve'.")],
    store: Store = _DEFAULT_STORE,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600.0, help="Seconds for the download.")] = 60.0,
) -> None:
    """Download the catalogue that every device downloads. The request is empty: it says nothing about you."""
    from ondevice.device import Device
    from ondevice.sync import sync as run

    console = _console()
    with Device(store) as device, console.status("downloading the catalogue"):
        accepted = run(device, server, timeout_seconds=timeout)
    catalogue = accepted.catalogue
    state = "new" if accepted.new else "unchanged"
    console.print(
        _line(
            f"catalogue {catalogue.sequence}",
            f"{state}, signature verified: {len(catalogue.ids):,} items, {len(catalogue.features)} released features, "
            f"as of {catalogue.created_at[:10]}",
        )
    )
    for release in catalogue.releases:
        console.print(Text(f"  from {_printable(release)}", style="dim"))


@app.command()
def record(
    item: Annotated[str, typer.Argument(help="The item's id, as in the catalogue.")],
    store: Store = _DEFAULT_STORE,
    value: Annotated[float, typer.Option(help="Strength of interest; negative is dislike.")] = 1.0,
    kind: Annotated[str, typer.Option(help="What happened, e.g. view, play, rate.")] = "view",
    at: Annotated[str | None, typer.Option(help="When, ISO 8601; without a zone it is UTC. Absent: now.")] = None,
    event_id: Annotated[str | None, typer.Option(help="Recording the same id again changes nothing.")] = None,
) -> None:
    """Record one event on this device."""
    from ondevice.device import Device

    when = _time(at)
    with Device(store) as device:
        recorded = device.record(item, value=value, kind=kind, at=when, event_id=event_id)
        title, kept, age = _title(device, item), device.count(), device.settings.retention.age
    if when is not None and when < datetime.now(UTC) - age:
        what = f"not kept, being older than {age.days} days"
    else:
        what = "recorded" if recorded.new else "known already"
    _console().print(_line(what, f"{title}; {_events(kept)} on this device"))


@app.command()
def features(store: Store = _DEFAULT_STORE) -> None:
    """Show what this device knows about you: counts by window, and affinities that fade."""
    from ondevice.device import Device

    console = _console()
    with Device(store) as device:
        found = device.features()
        console.print(_windows(device, found))
        if found.tags:
            console.print(_tags(found))
        elif device.ranker() is None:
            console.print(Text("tag affinities need a catalogue; run 'hedgerow device sync'", style="dim"))
        console.print(Text("computed on this device; nothing of it is sent", style="dim"))


@app.command()
def rank(
    store: Store = _DEFAULT_STORE,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many items.")] = 10,
    popularity: Annotated[
        str | None, typer.Option(help="view:feature that says how popular items are. Absent: found by name.")
    ] = None,
    seen: Annotated[bool, typer.Option("--seen", help="Also items you have met.")] = False,
) -> None:
    """Rank the catalogue for you, here."""
    from ondevice.device import Device

    with Device(store) as device:
        ranked = device.rank(k=k, popularity=popularity, include_seen=seen)
        kept, ranker = device.count(), device.ranker()
    table = _table("for you", "", "title", "item", "score", "why")
    for place, entry in enumerate(ranked, 1):
        table.add_row(str(place), _text(entry.title), _text(str(entry.item)), f"{entry.score:.3f}", _text(entry.reason))
    console = _console()
    console.print(table)
    assert ranker is not None
    console.print(
        Text(
            f"ranked on this device from {_events(kept)} and catalogue {ranker.catalogue.sequence}; nothing was sent",
            style="dim",
        )
    )


@app.command()
def forget(
    item: Annotated[str | None, typer.Argument(help="Only the events with this item. Absent: all events.")] = None,
    store: Store = _DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete events for good. The catalogue stays: it is the same for everyone."""
    from ondevice.device import Device

    if not yes:
        what = "all events" if item is None else "the events with this item"
        typer.confirm(f"Delete {what} on this device?", abort=True)
    try:
        with Device(store) as device:
            done = f"{_events(device.forget(item))} deleted and overwritten; {device.count():,} left"
    except DeviceCorrupt:
        if item is not None:
            raise
        Device.erase(store)
        done = "the event store was damaged; it was overwritten and a new one started"
    _console().print(_line("forgotten", done))


def _console() -> Console:
    return Console(highlight=False)


def _project_key(project: Path) -> bytes:
    if not (project / PROJECT_FILE).is_file():
        raise ConfigError(
            f"device init: no {PROJECT_FILE} in {project.resolve()} to take the key from; "
            "pass --public-key (the publisher's catalogue.pub, or its hex digits) or --project"
        )
    path = load_settings(project).catalogue_public_key_path
    if not path.is_file():
        raise NotPublished(f"{path}: not there yet; run 'hedgerow publish' first, or pass --public-key")
    return path.read_bytes()


def _given_key(text: str) -> bytes:
    if (path := Path(text).expanduser()).is_file():
        return path.read_bytes()
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError("device init: --public-key is neither a file nor 64 hex digits; correct it") from None


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError("device record: --at is not ISO 8601, e.g. 2026-03-01T12:00; correct it") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _title(device: Device, item: str) -> str:
    """An item's title for the person; recording must not fail because a catalogue is damaged."""
    try:
        ranker = device.ranker()
    except PublicationCorrupt:
        ranker = None
    if ranker is None:
        return f"item {item}"
    return ranker.title_of(item) or (f"item {item}" if item in ranker else f"item {item} (not in the catalogue)")


def _windows(device: Device, found: LocalFeatures) -> Table:
    table = _table("your events", "window", "events", "items", "most")
    for window in found.windows:
        most = ", ".join(f"{_title(device, item)} × {count}" for item, count in window.by_item[:3])
        table.add_row(f"{window.length.days} d", f"{window.events:,}", f"{window.items:,}", _text(most))
    return table


def _tags(found: LocalFeatures) -> Table:
    table = _table(f"tag affinities, half-life {found.half_life.days} days", "tag", "affinity", "")
    shown = found.tags[:_TAGS_SHOWN]
    largest = max(abs(tag.score) for tag in shown) or 1.0
    for tag in shown:
        bar = Text("█" * round(_BAR_CELLS * abs(tag.score) / largest), style="green" if tag.score >= 0 else "red")
        table.add_row(_text(tag.name), f"{tag.score:.2f}", bar)
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, title_justify="left", title_style="bold")
    for heading in headings:
        number = heading in ("events", "items", "score", "affinity", "")
        table.add_column(heading, overflow="fold", justify="right" if number and heading else "left")
    return table


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


def _line(head: str, rest: str) -> Text:
    return Text.assemble((head, "bold green"), "  ", _printable(rest))


def _text(value: str) -> Text:
    return Text(_printable(value))


def _printable(value: Any) -> str:
    """Text of a catalogue or a person without control characters, which a terminal would obey."""
    return "".join(character for character in str(value) if character.isprintable())
