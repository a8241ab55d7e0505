"""Where tables lie, and whether two of them have anything in common.

What is public must not come from what is private, and what is private has one account. Both are told by files, for a
table has as many paths as people care to write: one inside the other, by a link, from another folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from governance.errors import DefinitionError
from pipelines.definitions import EventSource, PublicTable

__all__ = ["Place", "private_as_public"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A table's place.

    Attributes:
        path: of its file or folder, links resolved; there may be nothing.
        files: every file there or below, links followed, by (device, inode).
    """

    path: Path
    files: frozenset[tuple[int, int]]

    @classmethod
    def of(cls, root: Path, table: str) -> Place:
        """Of a table that a project's definition names."""
        path = (root / table).resolve()
        return cls(path=path, files=frozenset(_files(path)))

    def shares(self, other: Place) -> bool:
        """Whether the tables have a file in common, or will: one lies in the other, or links of both lead to one."""
        inside = other.path.is_relative_to(self.path) or self.path.is_relative_to(other.path)
        return inside or not self.files.isdisjoint(other.files)


def private_as_public(subject: str, table: PublicTable, source: EventSource) -> DefinitionError:
    """The refusal to take private events for a public table."""
    return DefinitionError(
        subject,
        f"{table.table} is used as a public table, but it shares files with the private events {source.table}; "
        "public keys and facts must not come from private data: name a table that nobody's events are in",
    )


def _files(path: Path) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    seen: set[tuple[int, int]] = set()
    if path.is_file():
        found.add(_identity(path))
    for folder, folders, names in os.walk(path, followlinks=True):
        here = _identity(Path(folder))
        if here in seen:  # a link to a folder that it lies in
            folders.clear()
            continue
        seen.add(here)
        files = (Path(folder, name) for name in names)
        found |= {_identity(file) for file in files if file.is_file()}
    return found


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
