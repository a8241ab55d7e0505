"""Reads the ledger's entries from an SQLite database or an export, and checks each by itself.

An export is one entry's canonical JSON a line: exactly the bytes that are the leaves of the Merkle tree. The database
is opened read-only and never changed.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from governance.verify.findings import Finding, Problem
from governance.verify.heads import canonical
from governance.verify.merkle import leaf_hash

__all__ = [
    "COLUMNS",
    "FIELDS",
    "SQLITE_SCHEMA",
    "CheckedEntry",
    "Row",
    "RowChecker",
    "Source",
    "columns_of",
    "read_export",
    "read_sqlite",
]

FIELDS = ("account", "at", "detail", "kind", "period", "run_id", "sequence", "state", "subject")
"""The fields of every entry."""

COLUMNS = ("sequence", "kind", "account", "period", "run_id", "subject", "body", "hash")
"""The columns of the table of entries. `account` and `period` are set where the entry states an account's balance."""

APPLICATION_ID = 0x68656467  # "hedg"
FORMAT = 2

SQLITE_SCHEMA: Mapping[str, str] = {
    "entries": """CREATE TABLE entries (
    sequence INTEGER PRIMARY KEY CHECK (sequence > 0),
    kind TEXT NOT NULL,
    account TEXT,
    period TEXT,
    run_id TEXT,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT""",
    "entries_by_account": "CREATE INDEX entries_by_account ON entries (account, sequence) WHERE account IS NOT NULL",
    "entries_by_period": (
        "CREATE INDEX entries_by_period ON entries (account, period, sequence) WHERE period IS NOT NULL"
    ),
    "entries_by_run": "CREATE INDEX entries_by_run ON entries (run_id, sequence) WHERE run_id IS NOT NULL",
    "entries_by_subject": "CREATE INDEX entries_by_subject ON entries (subject, sequence)",
    "head": """CREATE TABLE head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    frontier TEXT NOT NULL,
    signed TEXT NOT NULL
) STRICT""",
    "entries_keep_update": """CREATE TRIGGER entries_keep_update BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    "entries_keep_delete": """CREATE TRIGGER entries_keep_delete BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
}
"""Every object of the SQLite database, by name, as `sqlite_schema` holds its text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One stored entry, as found: nothing about its values is certain yet.

    Attributes:
        sequence: its place.
        body: the entry's canonical JSON.
        digest: the leaf hash stored beside it; None in an export.
        columns: kind, account, period, run_id and subject as stored for look-ups; None in an export.
    """

    sequence: object
    body: object
    digest: object = None
    columns: tuple[object, ...] | None = None


@dataclass(slots=True, kw_only=True)
class Source:
    """What was read.

    Attributes:
        name: the file's name, for messages.
        rows: every entry in order.
        signed_head: the head stored in the database; None in an export or an empty ledger.
        frontier: the tree's frontier stored beside it (`frontier_text`).
        findings: what was wrong with the container itself.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    signed_head: object = None
    frontier: object = None
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedEntry:
    """One row: its leaf hash, and its value with all of `FIELDS` if it has the form that the ledger writes."""

    leaf: bytes
    value: Mapping[str, Any] | None


def columns_of(value: Mapping[str, Any]) -> tuple[object, ...]:
    """What the look-up columns of an entry hold: kind, account, period, run_id, subject."""
    stated = value["state"] is not None
    return (
        value["kind"],
        value["account"] if stated else None,
        value["period"] if stated else None,
        value["run_id"],
        value["subject"],
    )


# --- reading -----------------------------------------------------------------------------------------------------


def read_export(path: Path) -> Source:
    """Reads an export: one canonical entry a line."""
    source = Source(name=path.name)
    try:
        data = path.read_bytes()
        lines = data.decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return _unreadable(source, error)
    if lines.pop():
        source.findings.append(
            Finding(problem=Problem.UNREADABLE, subject=path.name, message="The last line is cut off.")
        )
    source.rows = [Row(sequence=number, body=line) for number, line in enumerate(lines, start=1)]
    return source


def read_sqlite(path: Path) -> Source:
    """Reads a ledger's database, with its integrity and its schema checked."""
    source = Source(name=path.name)
    try:
        with closing(_open(path)) as database:
            database.text_factory = lambda raw: raw.decode("utf-8", errors="surrogateescape")
            database.execute("BEGIN")
            source.findings += _container(database, path.name)
            selected = database.execute(f"SELECT {', '.join(COLUMNS)} FROM entries NOT INDEXED ORDER BY sequence")  # noqa: S608 - constant names
            source.rows = [
                Row(sequence=row[0], body=row[6], digest=row[7], columns=tuple(row[1:6])) for row in selected
            ]
            head = database.execute("SELECT signed, frontier FROM head").fetchall()
            source.signed_head, source.frontier = head[0] if head else (None, None)
    except (OSError, sqlite3.Error, ValueError, OverflowError) as error:
        return _unreadable(source, error)
    return source


def _open(path: Path) -> sqlite3.Connection:
    """Opens read-only. Where the folder cannot be written and nothing waits in the log, as it stands on disk."""
    with path.open("rb"):
        pass
    address = path.resolve().as_uri()
    database = sqlite3.connect(f"{address}?mode=ro", uri=True, isolation_level=None, timeout=60)
    try:
        database.execute("SELECT 1 FROM sqlite_schema").fetchall()
    except sqlite3.OperationalError:
        log = path.with_name(path.name + "-wal")
        database.close()
        if log.exists() and log.stat().st_size:
            raise
        database = sqlite3.connect(f"{address}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return database


def _container(database: sqlite3.Connection, name: str) -> Iterator[Finding]:
    """What is wrong with the database as a database."""
    for (line,) in database.execute("PRAGMA integrity_check(20)").fetchall():
        if line != "ok":
            yield Finding(problem=Problem.DATABASE_DAMAGED, subject=name, message=f"SQLite says: {line}.")
    found = dict(database.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall())
    for missing in SQLITE_SCHEMA.keys() - found.keys():
        yield Finding(problem=Problem.SCHEMA_CHANGED, subject=name, message=f"{missing} is missing.")
    for added in found.keys() - SQLITE_SCHEMA.keys():
        yield Finding(problem=Problem.SCHEMA_CHANGED, subject=name, message=f"{added} is not the ledger's.")
    for changed in SQLITE_SCHEMA.keys() & found.keys():
        if found[changed] != SQLITE_SCHEMA[changed]:
            yield Finding(problem=Problem.SCHEMA_CHANGED, subject=name, message=f"{changed} is not as it was made.")
    for pragma, expected in (("application_id", APPLICATION_ID), ("user_version", FORMAT)):
        (value,) = database.execute(f"PRAGMA {pragma}").fetchone()
        if value != expected:
            yield Finding(problem=Problem.SCHEMA_CHANGED, subject=name, message=f"{pragma} is not the ledger's.")


def _unreadable(source: Source, error: Exception) -> Source:
    source.findings.append(
        Finding(problem=Problem.UNREADABLE, subject=source.name, message=f"It cannot be read as a ledger: {error}.")
    )
    return source


# --- checking ----------------------------------------------------------------------------------------------------


class RowChecker:
    """Checks rows one after the other; keeps their numbers only.

    Attributes:
        findings: what is wrong with entries by themselves.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._numbers = array("q")

    def check(self, row: Row) -> CheckedEntry:
        """The row's leaf, and its parsed value where it has the right form."""
        position = len(self._numbers) + 1
        text = row.body if isinstance(row.body, str) else None
        data = text.encode("utf-8", errors="surrogateescape") if text is not None else bytes(repr(row.body), "utf-8")
        leaf = leaf_hash(data)
        name = row.sequence if type(row.sequence) is int else position
        value, problem = _parse(data) if text is not None else (None, "it is not text")
        if problem:
            self._find(Problem.ENTRY_MALFORMED, name, f"The ledger cannot have written it: {problem}.")
        if row.digest is not None and row.digest != leaf.hex():
            self._find(Problem.ENTRY_EDITED, name, "It does not match the hash stored beside it.")
        if value is not None and row.columns is not None and row.columns != columns_of(value):
            self._find(Problem.INDEX_CHANGED, name, "The columns it is looked up by say something else.")
        self._numbers.append(value["sequence"] if value is not None else name)
        return CheckedEntry(leaf=leaf, value=value)

    def places(self) -> Iterator[Finding]:
        """After the last row: holes, repetitions and displacements among them."""
        return _places(self._numbers.tolist())

    def _find(self, problem: Problem, number: int, message: str) -> None:
        self.findings.append(_entry(problem, number, message))


def _places(numbers: list[int]) -> Iterator[Finding]:
    """Holes, repetitions and displacements in what should read 1, 2, 3, ..."""
    ordered = sorted(numbers)
    if numbers == list(range(1, len(numbers) + 1)):
        return
    for before, after in pairwise([0, *ordered]):
        if after > before + 1:
            which = str(after - 1) if after == before + 2 else f"{before + 1} to {after - 1}"
            yield _entry(Problem.ENTRY_DELETED, which, "It is gone from the middle of the ledger.")
    times = Counter(numbers)
    for place, (found, due) in enumerate(zip(numbers, ordered, strict=True), start=1):
        if times[found] > 1:
            yield _entry(Problem.ENTRIES_REORDERED, found, f"It stands at place {place}, and is there more than once.")
        elif found != due:
            yield _entry(Problem.ENTRIES_REORDERED, found, f"It stands at place {place}.")


def _entry(problem: Problem, number: object, message: str) -> Finding:
    return Finding(problem=problem, subject=f"entry {number}", message=message)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "account": (str, type(None)),
    "at": (str,),
    "detail": (dict,),
    "kind": (str,),
    "period": (str, type(None)),
    "run_id": (str, type(None)),
    "sequence": (int,),
    "state": (dict, type(None)),
    "subject": (str,),
}


def _parse(data: bytes) -> tuple[dict[str, Any] | None, str]:
    """The entry's value, or what is wrong with its form."""
    try:
        value = json.loads(data.decode("utf-8"))
        if not isinstance(value, dict) or value.keys() != _TYPES.keys():
            return None, "unknown or missing fields"
        if any(type(value[name]) not in types for name, types in _TYPES.items()):
            return None, "a field of a wrong type"
        if canonical(value) != data:
            return None, "it is not canonical JSON"
        if not 0 < value["sequence"] < 2**63:
            return None, "a number that no entry has"
    except (ValueError, RecursionError):
        return None, "it is not JSON"
    return value, ""
