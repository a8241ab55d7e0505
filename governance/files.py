"""Writes that either happen whole or not at all, and locks between processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from governance.errors import RunInProgress

__all__ = ["exclusive_lock", "publish_directory", "remove_tree", "sync_directory", "sync_tree", "write_atomic"]


def sync_directory(path: Path) -> None:
    """Makes a directory's entries (creations, renames) durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Makes every file and directory under `root` durable, leaves first."""
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            descriptor = os.open(Path(directory, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(directory))


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` by a file holding `data`: a reader sees the old content or the new one, whole.

    Raises:
        OSError: the disk refuses; the old content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def publish_directory(staged: Path, target: Path) -> None:
    """Moves a finished directory to its published name in one rename, durably.

    Raises:
        FileExistsError: the target is there already; nothing was moved.
    """
    if target.exists():
        raise FileExistsError(target)
    sync_tree(staged)
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in made:
        sync_directory(parent.parent)
    staged.rename(target)
    sync_directory(target.parent)
    sync_directory(staged.parent)


def remove_tree(path: Path) -> None:
    """Removes a directory and what is in it; absence is fine."""
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def exclusive_lock(path: Path, subject: str) -> Iterator[None]:
    """Holds an advisory lock that dies with the process.

    Raises:
        RunInProgress: another living process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInProgress(
                f"{subject}: another process is working on it now; wait until it ends and run again"
            ) from None
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)
