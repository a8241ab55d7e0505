"""`hedgerow init`: a small project that runs at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["create_project", "init"]

TEMPLATE = Path(__file__).with_name("project")


def init(
    directory: Annotated[Path, typer.Argument(help="A folder that does not exist yet, or an empty one.")],
) -> None:
    """Scaffold a project that runs: hedgerow.toml, one signal, a sample of events."""
    from rich.console import Console

    from examples.scaffold import command_name

    create_project(directory)
    console = Console(highlight=False)
    console.print(f"[green]ready[/green]  {directory}: hedgerow.toml, signals/topic_weekly.py, data/reads.parquet")
    console.print("next:")
    for command, words in (
        ("plan", "what the signal protects and costs; reads no data"),
        ("run", "release the newest week"),
        ("publish", "put it into the feature store; then hedgerow serve"),
        ("report", "what was released and what is left"),
    ):
        console.print(f"  {command_name()} {command} -p {directory}", f"[dim]  {words}[/dim]", soft_wrap=True)


def create_project(directory: Path) -> None:
    """Writes the starter project; the folder appears whole or not at all.

    Raises:
        ConfigError: the folder has content, or cannot be made.
    """
    from examples.scaffold import copy_tree, new_folder
    from examples.starter.sample import write_sample

    with new_folder(directory) as staged:
        copy_tree(TEMPLATE, staged)
        settings = staged / "hedgerow.toml"
        named = settings.read_text(encoding="utf-8").replace('name = "starter"', f'name = "{_name(directory)}"')
        settings.write_text(named, encoding="utf-8")
        write_sample(staged / "data" / "reads.parquet")


def _name(directory: Path) -> str:
    """The folder's name as a project's: letters, digits and underscores, not starting with a digit."""
    name = re.sub(r"[^a-z0-9_]+", "_", directory.expanduser().resolve().name.lower()).strip("_")
    return name if name.isidentifier() else f"project_{name}".rstrip("_")
