"""The ledger in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

import hedgerow
from governance.errors import LedgerCorrupt, LedgerError
from governance.ledger import Ledger, open_ledger
from governance.settings import load_settings
from tests.property.test_ledger import LedgerAgainstModel
from tests.support.ledger_conformance import ACCOUNT, SMALL, LedgerConformance, open_at, verified
from tests.support.postgres import fresh_schema, postgres_server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres_server() as url:
        yield url


class TestPostgres(LedgerConformance):
    @pytest.fixture
    def address(self, server: str) -> str:
        return fresh_schema(server)


@pytest.mark.parametrize("statement", ["UPDATE entries SET body = '{}'", "DELETE FROM entries", "TRUNCATE entries"])
def test_the_database_itself_keeps_entries(server: str, tmp_path: Path, statement: str) -> None:
    address = fresh_schema(server)
    with open_at(address, tmp_path) as ledger, psycopg.connect(address) as raw:
        ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL)
        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            raw.execute(statement.encode())


def test_what_a_superuser_edits_shows(server: str, tmp_path: Path) -> None:
    address = fresh_schema(server)
    with open_at(address, tmp_path) as ledger:
        ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL)
        with psycopg.connect(address, autocommit=True) as raw:
            raw.execute("ALTER TABLE entries DISABLE TRIGGER ALL")
            raw.execute("UPDATE entries SET body = replace(body, '0.1', '0.0') WHERE sequence = 2")
        with pytest.raises(LedgerCorrupt, match="entry 2: It does not match the hash"):
            ledger.entries()
        assert {"entry_edited", "schema_changed"} <= {finding.problem for finding in verified(ledger).findings}


def test_tables_that_are_not_a_ledgers(server: str, tmp_path: Path) -> None:
    address = fresh_schema(server)
    with psycopg.connect(address, autocommit=True) as raw:
        raw.execute("CREATE TABLE entries (x integer)")
    with pytest.raises(LedgerCorrupt, match="its table 'entries' is not a ledger of this version"):
        open_at(address, tmp_path)


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="the ledger's database cannot be used") as caught:
        open_at("postgresql://hedgerow:secret@127.0.0.1:1/postgres", tmp_path)
    assert "secret" not in str(caught.value)


def test_a_broken_connection_is_a_typed_error(server: str, tmp_path: Path) -> None:
    address = fresh_schema(server)
    with open_at(address, tmp_path) as ledger:
        ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL)
        with psycopg.connect(server, autocommit=True) as raw:
            raw.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'hedgerow-ledger'"
            )
        with pytest.raises(LedgerError, match="cannot be used"):
            ledger.draw("r")


def test_settings_name_the_database(server: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    address = fresh_schema(server)
    (tmp_path / "hedgerow.toml").write_text(
        f'[project]\nname = "shop"\n\n[ledger]\nurl = "{address}"\nwitnesses = ["witness"]\n', encoding="utf-8"
    )
    (tmp_path / "witness").mkdir()
    with open_ledger(load_settings(tmp_path)) as ledger:
        ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL)
        assert [path.is_file() for path in ledger.head_files] == [True, True]
    assert not (tmp_path / "var" / "ledger.db").exists()
    for command in (("ledger", "verify"), ("ledger", "heads"), ("accounts",)):
        with pytest.raises(SystemExit) as leaving:
            hedgerow.main([*command, "-p", str(tmp_path), "--json"])
        assert not leaving.value.code
    (tmp_path / "witness" / "ledger-heads.jsonl").write_text("")
    with pytest.raises(SystemExit) as leaving:
        hedgerow.main(["ledger", "verify", "-p", str(tmp_path)])
    assert not leaving.value.code, "an empty witness is a notice"
    with psycopg.connect(address, autocommit=True) as raw:
        raw.execute("ALTER TABLE entries DISABLE TRIGGER ALL")
    with pytest.raises(SystemExit) as leaving:
        hedgerow.main(["ledger", "verify", "-p", str(tmp_path)])
    assert leaving.value.code == 1
    output = capfd.readouterr().out
    assert "head_unpublished" in output
    assert "schema_changed" in output
    assert "Trigger entries_keep is off" in output


def test_any_order_of_calls_against_the_model(server: str) -> None:
    """The state machine that SQLite passes, with fewer examples."""

    class OnPostgres(LedgerAgainstModel):
        def open(self) -> Ledger:
            if not hasattr(self, "address"):
                self.address = fresh_schema(server)
            return open_at(self.address, self.folder)

    few = settings(max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(OnPostgres, settings=few)
