"""Entries in PostgreSQL: one schema of one database, append-only by trigger, one writer at a time by a table lock."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from governance.errors import EnvironmentProblem, LedgerCorrupt, LedgerError
from governance.storage.store import EntryStore

if TYPE_CHECKING:
    import psycopg

__all__ = ["PostgresStore"]

_FORMAT = "hedgerow ledger, format 2"
_MAKING = 0x68656467  # the advisory lock under which tables are made
_TRIGGERS = ("entries_keep", "entries_keep_all")
_PASSWORD = re.compile(r"(?<=:)[^:@/]*(?=@)")
_TABLES = f"""
CREATE TABLE entries (
    sequence bigint PRIMARY KEY CHECK (sequence > 0),
    kind text NOT NULL,
    account text,
    period text,
    run_id text,
    subject text NOT NULL,
    body text NOT NULL,
    hash text NOT NULL
);
CREATE INDEX entries_by_account ON entries (account, sequence) WHERE account IS NOT NULL;
CREATE INDEX entries_by_period ON entries (account, period, sequence) WHERE period IS NOT NULL;
CREATE INDEX entries_by_run ON entries (run_id, sequence) WHERE run_id IS NOT NULL;
CREATE INDEX entries_by_subject ON entries (subject, sequence);
CREATE TABLE head (
    one integer PRIMARY KEY CHECK (one = 1),
    frontier text NOT NULL,
    signed text NOT NULL
);
CREATE FUNCTION entries_keep() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION ''the ledger is append-only''; END';
CREATE TRIGGER entries_keep BEFORE UPDATE OR DELETE ON entries FOR EACH ROW EXECUTE FUNCTION entries_keep();
CREATE TRIGGER entries_keep_all BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION entries_keep();
COMMENT ON TABLE entries IS '{_FORMAT}';
"""


class PostgresStore(EntryStore):
    """Tables `entries` and `head` in the first schema of the connection's search path.

    Args:
        url: `postgresql://user@host:port/database`; `?options=-csearch_path%3Dname` chooses a schema. A password is
            better kept in PGPASSFILE or the server's own authentication than in the URL.

    Raises:
        EnvironmentProblem: psycopg is not installed.
        LedgerError: the server does not answer or refuses.
        LedgerCorrupt: the tables there are not a ledger's.
    """

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise EnvironmentProblem(
                "a ledger in PostgreSQL needs psycopg, which is not installed; pip install 'hedgerow[postgres]'"
            ) from None
        self._psycopg = psycopg
        self.name = _PASSWORD.sub("***", url)
        with self._errors():
            self._database: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(
                url, autocommit=True, connect_timeout=20, application_name="hedgerow-ledger"
            )
            try:
                self._make_tables()
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Closes the connection."""
        self._database.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer at a time: the table lock lets readers pass, and is taken before anything is read."""
        with self._errors(), self._database.transaction():
            self._database.execute("SET LOCAL synchronous_commit = on")
            self._database.execute("LOCK TABLE entries IN EXCLUSIVE MODE")
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One moment of the database."""
        with self._errors(), self._database.transaction():
            self._database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield

    def altered(self) -> tuple[str, ...]:
        """Triggers that were dropped or disabled."""
        rows = self._query(
            "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'entries'::regclass AND NOT tgisinternal"
        )
        enabled = {str(name): str(state) for name, state in rows}
        return tuple(f"trigger {name} is off" for name in _TRIGGERS if enabled.get(name) != "O")

    def _query(self, statement: str, parameters: Sequence[object] = ()) -> Iterator[tuple[object, ...]]:
        cursor = self._database.execute(statement.replace("?", "%s").encode(), parameters)
        yield from cursor if cursor.description is not None else ()

    def _make_tables(self) -> None:
        if self._format() == _FORMAT:
            return
        with self._database.transaction():
            self._database.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
            found = self._format()
            if found == _FORMAT:
                return
            if found is not None:
                raise LedgerCorrupt(
                    f"{self.name}: its table 'entries' is not a ledger of this version; name another schema"
                )
            self._database.execute(_TABLES.encode())

    def _format(self) -> str | None:
        """The comment on the table of entries; empty if it has none, None if there is no such table.

        It is a plain query: `to_regclass` may answer from a cache of before this session waited for its lock.
        """
        row = self._database.execute(
            "SELECT coalesce(obj_description(c.oid, 'pg_class'), '') FROM pg_class c "
            "WHERE c.relname = 'entries' AND c.relnamespace = current_schema()::regnamespace"
        ).fetchone()
        return None if row is None else str(row[0])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.errors.UndefinedTable as error:
            raise LedgerCorrupt(f"{self.name}: not a ledger database ({_first_line(error)}); restore it") from None
        except self._psycopg.Error as error:
            raise LedgerError(f"{self.name}: the ledger's database cannot be used: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """PostgreSQL's message without its details, which repeat values."""
    return (str(error).splitlines() or [type(error).__name__])[0]
