"""The ledger: refusals, idempotency, tampering, broken files, many processes."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from governance.errors import BudgetExceeded, ConfigError, LedgerCorrupt, LedgerError
from governance.ledger import EntryKind, Ledger, Request
from governance.privacy import PrivacyLoss
from governance.settings import Account
from governance.storage.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]
ACCOUNT = Account(dataset="events", unit="user_id", cap=PrivacyLoss.of("1", "1e-6"))
SMALL = PrivacyLoss.of("0.1", "1e-7")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    with Ledger(path, clock=lambda: datetime(2025, 11, 3, 12, tzinfo=UTC)) as opened:
        yield opened


def test_a_tenth_fits_exactly_ten_times(ledger: Ledger) -> None:
    for k in range(10):
        ledger.reserve(f"r{k}", ACCOUNT, "s/v1/x", SMALL)
    assert ledger.balance(ACCOUNT).remaining == PrivacyLoss.zero()
    with pytest.raises(BudgetExceeded) as caught:
        ledger.reserve("r10", ACCOUNT, "s/v1/x", PrivacyLoss.of("1e-30", 0))
    assert (caught.value.account, caught.value.quantity) == ("events/user_id", "rho")
    assert (caught.value.requested, caught.value.remaining) == (Decimal("1e-30"), 0)
    refused = ledger.entries()[-1]
    assert refused.kind is EntryKind.REFUSED
    assert refused.detail["remaining"] == {"rho": "0", "delta": "0"}


def test_delta_is_a_cap_of_its_own(ledger: Ledger) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        ledger.reserve("r", ACCOUNT, "s/v1/x", PrivacyLoss.of(0, "1.0000000000000000000000000000000001e-6"))
    assert caught.value.quantity == "delta"
    assert ledger.balance(ACCOUNT).held == PrivacyLoss.zero()


def test_a_spend_far_below_the_cap_is_not_forgotten(ledger: Ledger) -> None:
    """28 digits would round 1e-6 - 1e-40 to 1e-6 again, and let the whole cap be spent once more."""
    ledger.reserve("r1", ACCOUNT, "s/v1/x", PrivacyLoss.of(0, "1e-40"))
    with pytest.raises(BudgetExceeded):
        ledger.reserve("r2", ACCOUNT, "s/v1/y", PrivacyLoss.of(0, "1e-6"))


def test_reserving_twice_is_reserving_once(ledger: Ledger) -> None:
    first = ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL)
    assert ledger.reserve("r", ACCOUNT, "s/v1/x", PrivacyLoss.of("0.10", "1.0e-7")) == first
    for account, subject, loss in (
        (ACCOUNT, "s/v1/y", SMALL),
        (ACCOUNT, "s/v1/x", PrivacyLoss.of("0.2", "1e-7")),
        (Account(dataset="events", unit="event_id", cap=ACCOUNT.cap), "s/v1/x", SMALL),
    ):
        with pytest.raises(LedgerError, match="run r: recorded before with another content; use a new run id"):
            ledger.reserve("r", account, subject, loss)
    assert ledger.balance(ACCOUNT).held == SMALL


def test_steps_are_idempotent_and_in_order(ledger: Ledger) -> None:
    for step in (lambda: ledger.draw("r"), lambda: ledger.commit("r", "m"), lambda: ledger.release("r", "why")):
        with pytest.raises(LedgerError, match="run r: not in the ledger; reserve first"):
            step()
    ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL)
    with pytest.raises(LedgerError, match="COMMIT needs DRAW before it, found RESERVE"):
        ledger.commit("r", "m")
    assert ledger.draw("r") == ledger.draw("r")
    with pytest.raises(LedgerError, match="RELEASE needs RESERVE before it, found DRAW"):
        ledger.release("r", "too late")
    assert ledger.commit("r", "m") == ledger.commit("r", "m")
    with pytest.raises(LedgerError, match="COMMIT recorded before with another content"):
        ledger.commit("r", "other")
    assert [entry.kind for entry in ledger.entries()] == [
        EntryKind.OPEN,
        EntryKind.RESERVE,
        EntryKind.DRAW,
        EntryKind.COMMIT,
    ]


def test_what_is_given_back_can_be_spent_but_not_drawn(ledger: Ledger) -> None:
    ledger.reserve("r1", ACCOUNT, "s/v1/x", ACCOUNT.cap)
    ledger.release("r1", "input missing")
    assert ledger.release("r1", "again") == 3
    with pytest.raises(LedgerError, match="DRAW needs RESERVE before it, found RELEASE"):
        ledger.draw("r1")
    with pytest.raises(LedgerError, match="its reservation was given back; use a new run id"):
        ledger.reserve("r1", ACCOUNT, "s/v1/x", ACCOUNT.cap)
    ledger.reserve("r2", ACCOUNT, "s/v1/x", ACCOUNT.cap)


def ask(run_id: str, rho: str, account: Account = ACCOUNT, subject: str = "s/v1/x") -> Request:
    return Request(run_id=run_id, account=account, subject=subject, loss=PrivacyLoss.of(rho, 0))


def test_several_reservations_are_all_granted_or_none(ledger: Ledger) -> None:
    poor = Account(dataset="events", unit="event_id", cap=PrivacyLoss.of("0.1", 0))
    with pytest.raises(BudgetExceeded, match=r"s/v1/x and 1 more: requested rho=1\.1, remaining 1"):
        ledger.reserve_all((ask("a", "0.5"), ask("b", "0.6")))
    with pytest.raises(BudgetExceeded) as caught:
        ledger.reserve_all((ask("a", "0.5"), ask("c", "0.2", poor)))
    assert caught.value.account == "events/event_id"
    assert ledger.runs() == ()
    assert ledger.reserve_all((ask("a", "0.5"), ask("c", "0.1", poor), ask("b", "0.5"))) == (5, 6, 7)
    assert ledger.reserve_all((ask("b", "0.5"), ask("a", "0.5"))) == (7, 5)
    assert ledger.reserve_all(()) == ()
    assert [balance.remaining.rho for balance in ledger.balances()] == [0, 0]


def test_one_run_id_in_several_requests_is_one_reservation_or_an_error(ledger: Ledger) -> None:
    """Were the second one believed, the first loss would be forgotten."""
    assert ledger.reserve_all((ask("a", "0.3"), ask("a", "0.3"))) == (2, 2)
    with pytest.raises(LedgerError, match="run b: asked for twice with different content"):
        ledger.reserve_all((ask("b", "0.7"), ask("b", "0.1")))
    assert ledger.balance(ACCOUNT).held.rho == Decimal("0.3")


def test_a_public_release_cannot_take_a_private_runs_place(ledger: Ledger) -> None:
    """It would set that run's loss to zero."""
    ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL)
    ledger.draw("r")
    with pytest.raises(LedgerError, match="run r: recorded before with another content"):
        ledger.commit_public("r", "items/v1/x", "m")
    assert ledger.balance(ACCOUNT).spent == SMALL
    assert ledger.commit_public("p", "items/v1/x", "m") == ledger.commit_public("p", "items/v1/x", "m")


@pytest.mark.parametrize("rho", ["-0.1", "NaN", "sNaN", "Infinity"])
def test_a_loss_that_is_no_amount(ledger: Ledger, rho: str) -> None:
    for loss in (PrivacyLoss(Decimal(rho), Decimal(0)), PrivacyLoss(Decimal(0), Decimal(rho))):
        with pytest.raises(LedgerError, match="allowed: finite and not negative"):
            ledger.reserve("r", ACCOUNT, "s/v1/x", loss)
    assert ledger.entries() == ()


def test_a_changed_cap_is_refused(ledger: Ledger) -> None:
    ledger.open_account(ACCOUNT)
    ledger.open_account(Account(dataset="events", unit="user_id", cap=PrivacyLoss.of("1.00", "0.0000010")))
    for rho in ("2", "0.5"):
        with pytest.raises(ConfigError, match=r"hedgerow.toml says rho=\S+, delta=0.000001.*opened it with rho=1,"):
            ledger.reserve(
                "r", Account(dataset="events", unit="user_id", cap=PrivacyLoss.of(rho, "0.000001")), "s", SMALL
            )


def test_an_unused_account_has_spent_nothing(ledger: Ledger) -> None:
    assert ledger.balance(ACCOUNT).remaining == ACCOUNT.cap
    assert ledger.balances() == ()
    ledger.open_account(ACCOUNT)
    (balance,) = ledger.balances()
    assert (balance.account, balance.cap) == ("events/user_id", ACCOUNT.cap)


def test_a_failed_write_leaves_nothing(ledger: Ledger, path: Path) -> None:
    """A full disk: the transaction is undone, the error is typed, and the ledger works on when there is room again."""
    ledger.reserve("r1", ACCOUNT, "s/v1/x", SMALL)
    pages = _database(ledger).execute("PRAGMA page_count").fetchone()[0]
    _database(ledger).execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(LedgerError, match="full"):
        ledger.refuse(None, "s", "x" * 20_000)
    _database(ledger).execute("PRAGMA max_page_count=1000000")
    ledger.reserve("r2", ACCOUNT, "s/v1/y", SMALL)
    assert ledger.balance(ACCOUNT).held == PrivacyLoss.of("0.2", "2e-7")


# --- tampering --------------------------------------------------------------------------------------------------------


def fill(ledger: Ledger) -> None:
    for k in range(3):
        ledger.reserve(f"r{k}", ACCOUNT, f"s/v1/{k}", SMALL)
        ledger.draw(f"r{k}")
        ledger.commit(f"r{k}", "m")


def test_the_database_itself_keeps_entries(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    with closing(sqlite3.connect(path)) as raw:
        for statement in ("UPDATE entries SET body = '{}'", "DELETE FROM entries WHERE sequence = 2"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


EDIT = 'UPDATE entries SET body = replace(body, \'"rho":"0.1"\', \'"rho":"0.0"\') WHERE sequence = 2'


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        ([EDIT], "entry 2: It does not match the hash"),
        (["UPDATE entries SET hash = 'f' || substr(hash, 2) WHERE sequence = 3"], "entry 3: It does not match"),
        (["UPDATE entries SET body = 'null' WHERE sequence = 4"], "entry 4: The ledger cannot have written it"),
        (["UPDATE entries SET body = '{' WHERE sequence = 4"], "entry 4: The ledger cannot have written it"),
        (["UPDATE entries SET run_id = 'r2' WHERE sequence = 4"], "entry 4: The columns it is looked up by"),
        (["UPDATE entries SET account = NULL WHERE sequence = 10"], "entry 10: The columns it is looked up by"),
        (["DELETE FROM entries WHERE sequence = 1"], "entry 1: It is gone"),
        (["DELETE FROM entries WHERE sequence = 5"], "entry 5: It is gone"),
        (["DELETE FROM entries WHERE sequence = 10"], "its tree head does not fit"),
        (
            [
                "UPDATE entries SET sequence = 100 WHERE sequence = 2",
                "UPDATE entries SET sequence = 2 WHERE sequence = 5",
                "UPDATE entries SET sequence = 5 WHERE sequence = 100",
            ],
            "entry 5: It stands at place 2",
        ),
        (
            [
                "INSERT INTO entries SELECT 11, kind, account, period, run_id, subject, body, hash FROM entries "
                "WHERE sequence = 10"
            ],
            "entry 10: It stands at place 10, and is there more than once",
        ),
        (["DELETE FROM head"], "its tree head does not fit"),
        (["UPDATE head SET frontier = replace(frontier, '0', '1')"], "its tree head does not fit"),
        (['UPDATE head SET signed = replace(signed, \'"at":"2\', \'"at":"1\')'], "not signed by the ledger's key"),
        (["DROP TABLE entries", "CREATE TABLE entries (sequence INTEGER)"], "cannot be used"),
    ],
)
def test_tampering_shows(path: Path, statements: list[str], message: str) -> None:
    with Ledger(path, clock=lambda: datetime(2025, 11, 3, 12, tzinfo=UTC)) as ledger:
        fill(ledger)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER entries_keep_update")
        raw.execute("DROP TRIGGER entries_keep_delete")
        for statement in statements:
            assert raw.execute(statement).rowcount != 0
    with Ledger(path) as ledger:
        for call in (ledger.entries, ledger.balances, ledger.runs, lambda: ledger.inclusion_proofs([1])):
            with pytest.raises(LedgerError, match=message):
                call()


@pytest.mark.parametrize(
    "statement",
    [
        EDIT,
        "UPDATE entries SET body = CAST(body AS BLOB) WHERE sequence = 10",
        "UPDATE entries SET body = '7' WHERE sequence = 10",
        "UPDATE entries SET period = 'x' WHERE sequence = 10",
        "DELETE FROM entries WHERE sequence = 10",
        "DELETE FROM head",
    ],
)
def test_an_operation_refuses_what_it_reads_of_a_changed_record(path: Path, statement: str) -> None:
    """Whatever an operation builds on is checked: its run, its account's newest entry, the tree."""
    with Ledger(path) as ledger:
        fill(ledger)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER entries_keep_update")
        raw.execute("DROP TRIGGER entries_keep_delete")
        if "BLOB" in statement:  # STRICT refuses another type; an editor of the file would not ask
            with pytest.raises(sqlite3.IntegrityError, match="cannot store BLOB"):
                raw.execute(statement)
            return
        raw.execute(statement)
    with Ledger(path) as ledger:
        if statement == EDIT:
            with pytest.raises(LedgerCorrupt, match="entry 2 is not what was recorded"):
                ledger.draw("r0")
        else:
            with pytest.raises(LedgerCorrupt, match=r"not what was recorded|does not fit"):
                ledger.reserve("new", ACCOUNT, "s/v1/x", SMALL)


def _database(ledger: Ledger) -> sqlite3.Connection:
    """The connection of a ledger in SQLite."""
    assert isinstance(ledger._store, SqliteStore)
    return ledger._store._database


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to look at" * 40, b"SQLite format 3\0" + b"\1" * 200]
)
def test_a_file_that_is_no_ledger(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match="restore it from a backup"):
        Ledger(path)
    assert path.read_bytes() == content


def test_a_damaged_page(path: Path) -> None:
    with Ledger(path) as ledger:
        for k in range(100):
            ledger.refuse(None, f"s{k}", "x" * 500)
        _database(ledger).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    damaged = bytearray(path.read_bytes())
    for start in range(4096 * 2, len(damaged), 4096):
        damaged[start : start + 100] = b"\xff" * 100
    path.write_bytes(bytes(damaged))
    with Ledger(path) as ledger, pytest.raises(LedgerError, match=r"malformed|cannot be"):
        ledger.entries()


def test_a_place_where_no_ledger_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LedgerError, match="the ledger's folder cannot be made"):
        Ledger(tmp_path / "file" / "ledger.db")
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(LedgerError, match="unable to open"):
        Ledger(tmp_path / "ledger.db")


def test_entries_are_canonical_and_hold_the_time(ledger: Ledger, path: Path) -> None:
    fill(ledger)
    with closing(sqlite3.connect(path)) as raw:
        for (body,) in raw.execute("SELECT body FROM entries"):
            value = json.loads(body)
            assert body == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            assert value["at"] == "2025-11-03T12:00:00.000+00:00"


RACE = """
import sys
from pathlib import Path
from governance.errors import BudgetExceeded
from governance.ledger import Ledger
from governance.privacy import PrivacyLoss
from governance.settings import Account

path, me = Path(sys.argv[1]), sys.argv[2]
account = Account(dataset="events", unit="user_id", cap=PrivacyLoss.of("1", "1e-6"))
print("ready", flush=True)
sys.stdin.readline()
held = 0
with Ledger(path) as ledger:
    for k in range(10):
        try:
            ledger.reserve(f"{me}-{k}", account, f"s/v1/{me}-{k}", PrivacyLoss.of("0.1", "1e-7"))
            held += 1
        except BudgetExceeded:
            pass
print(held)
"""


def test_processes_share_one_budget(path: Path) -> None:
    """Four processes ask 40 times for 10 places, and open the ledger for the first time at once: exactly 10 get one."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(path), f"p{k}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for k in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, results
    with Ledger(path) as ledger:
        kinds = [entry.kind for entry in ledger.entries()]
        assert sum(int(out) for out, _ in results) == kinds.count(EntryKind.RESERVE) == 10
        assert kinds.count(EntryKind.REFUSED) == 30
        assert kinds.count(EntryKind.OPEN) == 1
        assert ledger.balance(ACCOUNT).remaining == PrivacyLoss.zero()
