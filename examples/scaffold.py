"""What the demo and the starter share: new folders that appear whole or not at all, and how to call us again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from governance.errors import ConfigError
from governance.files import publish_directory, remove_tree

__all__ = ["command_name", "copy_tree", "new_folder"]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Gives a folder to fill, which becomes `target` when the block ends and vanishes if it raises.

    Args:
        target: a folder that does not exist, or is empty.

    Raises:
        ConfigError: the target is a file, has content, or cannot be made.
    """
    target = target.expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: is a file; name a folder that does not exist yet, or an empty one")
    if target.is_dir() and any(target.iterdir()):
        raise ConfigError(f"{target}: the folder is not empty; name one that does not exist yet, or an empty one")
    staged = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    try:
        staged.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{target}: cannot be made ({error.strerror}); choose a folder you may write to") from None
    try:
        yield staged
        try:
            if target.is_dir():
                target.rmdir()
            publish_directory(staged, target)
        except OSError:
            raise ConfigError(f"{target}: somebody else wrote there meanwhile; choose another folder") from None
    finally:
        remove_tree(staged)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a template's files, without what Python leaves beside them."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


def command_name() -> str:
    """How to call this command line again: `hedgerow` where the shell finds it, else the path it was started by."""
    started = Path(sys.argv[0])
    if shutil.which("hedgerow") or started.name != "hedgerow":
        return "hedgerow"
    here = Path.cwd()
    return str(started.relative_to(here) if started.is_absolute() and started.is_relative_to(here) else started)
