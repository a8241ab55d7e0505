"""The command `hedgerow vectors`: taking vectors out of embedding spaces."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from governance.errors import InputMissing, PublicationError
from governance.options import Project
from governance.settings import load_settings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The vectors of published embedding spaces."""


@app.command()
def remove(
    space: Annotated[str, typer.Argument(help="A published space, e.g. item_vectors.")],
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Whose vectors go.")] = None,
    ids_from: Annotated[Path | None, typer.Option(help="A file of ids instead, one a line.")] = None,
    project: Project = Path(),
) -> None:
    """Take vectors out of a space, all its versions, from the next `hedgerow publish` on.

    The release that they are from, which never changes, is not touched; spaces, indexes and the device catalogue are
    built without them, now and later. Ids without a vector are fine.
    """
    from featurestore.publication import load_publication
    from serving.spaces import remove_vectors

    settings = load_settings(project)
    wanted = [*(ids or ()), *(_lines(ids_from) if ids_from else ())]
    if not wanted:
        raise PublicationError(f"{space}: no id is named; name some, or a file of them with --ids-from")
    known = next((one for one in load_publication(settings).spaces if one.name == space), None)
    whole = known is not None and known.key.type == "int64"
    count = remove_vectors(settings, space, _whole(space, wanted) if whole else wanted)
    typer.echo(f"{space}: {count} removed in all; run 'hedgerow publish' to put it in force")


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputMissing(f"{path}: cannot be read ({type(error).__name__}); name a file of ids, one a line") from None


def _whole(space: str, ids: Sequence[str]) -> list[int]:
    try:
        return [int(one) for one in ids]
    except ValueError:
        raise PublicationError(f"{space}: ids here are whole numbers, found others; nothing was removed") from None
