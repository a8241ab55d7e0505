"""Packed rows in one SQLite file: a table per view, `entity_key → (event_time, packed row)`.

WAL, so that reading goes on while a publication writes; one transaction per batch, `synchronous=FULL`. A row never
replaces one with a later event time, so writing again, or late, changes nothing for the worse. Table names are quoted
by `_quoted`, the one place where a statement takes text; values are always parameters.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from featurestore.rows import PackedRows, RowSchema, Texts
from governance.errors import NotPublished, PublicationCorrupt, StoreUnreachable

__all__ = ["PackedDatabase"]

_LOOKUPS_PER_QUERY: Final = 1024
_MAPPED_BYTES: Final = 1 << 40
"""Of a file that is only read: all connections and processes share its pages. SQLite has a limit of its own, 2 GiB."""
_SCHEMAS: Final = "CREATE TABLE IF NOT EXISTS schemas (tag INTEGER PRIMARY KEY, fields TEXT NOT NULL) STRICT"


class PackedDatabase:
    """One database file. Safe to use from many threads (a connection each) and many processes.

    Args:
        path: the file.
        read_only: open it for reading; it must exist.

    Raises:
        NotPublished: `read_only` and there is no such file.
        StoreUnreachable: it cannot be opened.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self._read_only = read_only
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] = []
        self._closed = False
        self._schemas: dict[int, RowSchema] = {}
        if read_only and not path.is_file():
            raise NotPublished(f"{path}: the online store is not there yet; run 'hedgerow publish'")
        with self._errors():
            self._connection()

    def close(self) -> None:
        """Closes the connections of all threads."""
        with self._lock:
            self._closed = True
            for connection in self._open:
                connection.close()
            self._open.clear()

    def __del__(self) -> None:
        """Feast never closes its stores, so the last reference does."""
        if hasattr(self, "_open"):
            self.close()

    # --- tables ------------------------------------------------------------------------------------------------

    def create(self, table: str) -> None:
        """Makes a view's table; one that is there stays."""
        with self._errors():
            self._connection().execute(
                f"CREATE TABLE IF NOT EXISTS {_quoted(table)} "
                "(entity_key BLOB PRIMARY KEY, event_time INTEGER NOT NULL, packed BLOB NOT NULL) STRICT, WITHOUT ROWID"
            )

    def drop(self, table: str) -> None:
        """Removes a view's table and its rows; absence is fine."""
        with self._errors():
            self._connection().execute(f"DROP TABLE IF EXISTS {_quoted(table)}")

    # --- rows --------------------------------------------------------------------------------------------------

    def write(
        self,
        table: str,
        schema: RowSchema,
        keys: Texts,
        rows: PackedRows,
        *,
        older_go: int | None = None,
    ) -> None:
        """Writes n rows in one transaction; a row with a later event time stays as it is.

        Args:
            table: the view's table; made if absent.
            schema: what the rows were packed with.
            keys: n entity keys.
            rows: n packed rows.
            older_go: in the same transaction, rows of any key with an earlier event time are removed; None: they stay.
        """
        self.create(table)
        fields = json.dumps(schema.to_json())
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO schemas (tag, fields) VALUES (?, ?) ON CONFLICT DO NOTHING", (schema.tag, fields)
            )
            (kept,) = connection.execute("SELECT fields FROM schemas WHERE tag = ?", (schema.tag,)).fetchone()
            if kept != fields:
                raise PublicationCorrupt(f"{self._path}: two row schemas share a tag; rename a feature of {table}")
            connection.executemany(
                f"INSERT INTO {_quoted(table)} (entity_key, event_time, packed) VALUES (?, ?, ?) "  # noqa: S608
                "ON CONFLICT DO UPDATE SET event_time = excluded.event_time, packed = excluded.packed "
                "WHERE excluded.event_time >= event_time",
                zip(keys.tolist(), rows.event_times.tolist(), rows.tolist(), strict=True),
            )
            if older_go is not None:
                connection.execute(f"DELETE FROM {_quoted(table)} WHERE event_time < ?", (older_go,))  # noqa: S608

    def read(self, table: str, keys: Texts) -> list[bytes | None]:
        """The packed rows of n keys, None where there is none, as they were at one moment.

        A table that nothing made has no rows.
        """
        found: dict[bytes, bytes] = {}
        asked = keys.tolist()
        wanted = list(dict.fromkeys(asked))
        parts = [wanted[start : start + _LOOKUPS_PER_QUERY] for start in range(0, len(wanted), _LOOKUPS_PER_QUERY)]
        with self._errors(), self._one_moment(len(parts)) as connection:
            for part in parts:
                found.update(_found(connection, table, part))
        return list(map(found.get, asked))

    def delete(self, table: str, keys: Texts) -> None:
        """Removes the rows of these keys."""
        self.create(table)
        with self._transaction() as connection:
            statement = f"DELETE FROM {_quoted(table)} WHERE entity_key = ?"  # noqa: S608
            connection.executemany(statement, zip(keys.tolist(), strict=True))

    def schema(self, tag: int) -> RowSchema:
        """The schema that a row's tag names.

        Raises:
            PublicationCorrupt: no such schema.
        """
        if tag not in self._schemas:
            with self._errors():
                row = self._connection().execute("SELECT fields FROM schemas WHERE tag = ?", (tag,)).fetchone()
            if row is None:
                raise PublicationCorrupt(f"{self._path}: rows of an unknown schema; remove the file and publish again")
            self._schemas[tag] = RowSchema.from_json(json.loads(row[0]))
        return self._schemas[tag]

    # --- inside ------------------------------------------------------------------------------------------------

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            with self._lock:
                if self._closed:
                    connection.close()
                    raise sqlite3.OperationalError("closed")
                self._open.append(connection)
            self._local.connection = connection
        return connection

    def _connect(self) -> sqlite3.Connection:
        if not self._read_only:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        address = f"{self._path.absolute().as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
        connection = sqlite3.connect(address, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
        if self._read_only:
            connection.execute(f"PRAGMA mmap_size={_MAPPED_BYTES}")
        else:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(_SCHEMAS)
        return connection

    @contextmanager
    def _one_moment(self, queries: int) -> Iterator[sqlite3.Connection]:
        """All of the queries see the database as it is at one moment; one alone does anyway."""
        connection = self._connection()
        if queries > 1:
            connection.execute("BEGIN")
        try:
            yield connection
        finally:
            if queries > 1:
                connection.execute("COMMIT")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if self._read_only and not os.access(self._path.parent, os.W_OK):
                raise StoreUnreachable(
                    f"{self._path}: the online store cannot be read ({error}), because its folder cannot be written: "
                    "SQLite keeps '-wal' and '-shm' beside the file for its readers too; allow writing to that folder "
                    "only, or use Redis for views that take pushes"
                ) from None
            raise StoreUnreachable(
                f"{self._path}: the online store cannot be used ({error}); free the disk or the file, "
                "or remove it and run 'hedgerow publish' to fill it anew"
            ) from None


def _found(connection: sqlite3.Connection, table: str, keys: list[bytes]) -> dict[bytes, bytes]:
    """The packed rows of up to `_LOOKUPS_PER_QUERY` distinct keys, by key; of a table that nothing made, none.

    They come as two texts of hexadecimal digits. As rows of a result, each would be a step in which the interpreter's
    lock is given up and waited for again, which costs more than finding the row where several threads read.
    """
    places = 1 << (len(keys) - 1).bit_length()  # few statements to prepare, whatever the number of keys
    statement = (
        "SELECT group_concat(hex(entity_key), ' '), group_concat(hex(packed), ' ') "  # noqa: S608
        f"FROM {_quoted(table)} WHERE entity_key IN ({','.join('?' * places)})"
    )
    try:
        ((found, packed),) = connection.execute(statement, keys + keys[:1] * (places - len(keys)))
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return {}
    if found is None:
        return {}
    return dict(zip(map(bytes.fromhex, found.split(" ")), map(bytes.fromhex, packed.split(" ")), strict=True))


def _quoted(table: str) -> str:
    return '"packed:' + table.replace('"', '""') + '"'
