"""What every ledger does, whatever stores it: inherited by the tests of each store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.caps import CapChange, change_cap, propose_cap
from governance.errors import BudgetExceeded, ConfigError, LedgerCorrupt, LedgerError
from governance.heads import HEADS_FILE, HeadFiles
from governance.keys import public_key_hex
from governance.ledger import EntryKind, Ledger, Request
from governance.privacy import PrivacyLoss
from governance.settings import Account
from governance.storage.postgres import PostgresStore
from governance.verify.heads import TreeHead
from governance.verify.proofs import check_proof
from governance.verify.verification import Verification, verify

ROOT = Path(__file__).parents[2]
NOW = datetime(2025, 11, 3, 12, tzinfo=UTC)
ACCOUNT = Account(dataset="events", unit="user_id", cap=PrivacyLoss.of("1", "1e-6"))
SMALL = PrivacyLoss.of("0.1", "1e-7")


def ask(run_id: str, rho: str, account: Account = ACCOUNT, subject: str = "s/v1/x") -> Request:
    return Request(run_id=run_id, account=account, subject=subject, loss=PrivacyLoss.of(rho, 0))


def open_at(address: str, state: Path, **options: Any) -> Ledger:
    """Opens the ledger at a path or a PostgreSQL URL, with heads and key in `state`."""
    heads = options.pop("heads", HeadFiles(state))
    target = PostgresStore(address) if address.startswith("postgresql://") else Path(address)
    return Ledger(target, heads=heads, key_path=state / "keys" / "ledger.ed25519", **options)


def verified(ledger: Ledger, **options: Any) -> Verification:
    """What the verifier says of a ledger."""
    return verify(ledger.source(), key=ledger.public_key(), head_files=ledger.head_files, **options)


def signed(ledger: Ledger, account: Account, key: Ed25519PrivateKey, role: str = "officer") -> CapChange:
    """A cap change that a role has signed."""
    public_key = public_key_hex(key.public_key())
    change = propose_cap(ledger, account, role=role, public_key=public_key, justification="A new season of data.")
    return change.signed(key)


RACE = """
import sys
from pathlib import Path
from governance.errors import BudgetExceeded
from governance.privacy import PrivacyLoss
from tests.support.ledger_conformance import ACCOUNT, open_at

address, state, me = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
sys.stdin.readline()
held = 0
with open_at(address, state) as ledger:
    for k in range(50):
        try:
            ledger.reserve(f"{me}-{k}", ACCOUNT, f"s/v1/{me}-{k}", PrivacyLoss.of("0.01", "1e-8"))
            held += 1
        except BudgetExceeded:
            pass
print(held)
"""

MONTHLY = Account(dataset="events", unit="user_id/30 days", cap=PrivacyLoss.of("0.3", "1e-6"), renews_days=30)


class LedgerConformance:
    """The behaviour that all stores share. A subclass gives `address`: a path, or a PostgreSQL URL."""

    @pytest.fixture
    def address(self, tmp_path: Path) -> str:
        """Where the test's ledger is."""
        raise NotImplementedError

    @pytest.fixture
    def state(self, tmp_path: Path) -> Path:
        """Where its heads and its key are."""
        return tmp_path / "var"

    @pytest.fixture
    def ledger(self, address: str, state: Path) -> Iterator[Ledger]:
        with open_at(address, state, clock=lambda: NOW) as opened:
            yield opened

    def test_a_tenth_fits_exactly_ten_times(self, ledger: Ledger) -> None:
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

    def test_delta_is_a_cap_of_its_own(self, ledger: Ledger) -> None:
        with pytest.raises(BudgetExceeded) as caught:
            ledger.reserve("r", ACCOUNT, "s/v1/x", PrivacyLoss.of(0, "1.0000000000000000000000000000000001e-6"))
        assert caught.value.quantity == "delta"
        assert ledger.balance(ACCOUNT).held == PrivacyLoss.zero()

    def test_a_spend_far_below_the_cap_is_not_forgotten(self, ledger: Ledger) -> None:
        """28 digits would round 1e-6 - 1e-40 to 1e-6 again, and let the whole cap be spent once more."""
        ledger.reserve("r1", ACCOUNT, "s/v1/x", PrivacyLoss.of(0, "1e-40"))
        with pytest.raises(BudgetExceeded):
            ledger.reserve("r2", ACCOUNT, "s/v1/y", PrivacyLoss.of(0, "1e-6"))

    def test_reserving_twice_is_reserving_once(self, ledger: Ledger) -> None:
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

    def test_steps_are_idempotent_and_in_order(self, ledger: Ledger) -> None:
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

    def test_what_is_given_back_can_be_spent_but_not_drawn(self, ledger: Ledger) -> None:
        ledger.reserve("r1", ACCOUNT, "s/v1/x", ACCOUNT.cap)
        ledger.release("r1", "input missing")
        assert ledger.release("r1", "again") == 3
        with pytest.raises(LedgerError, match="DRAW needs RESERVE before it, found RELEASE"):
            ledger.draw("r1")
        with pytest.raises(LedgerError, match="its reservation was given back; use a new run id"):
            ledger.reserve("r1", ACCOUNT, "s/v1/x", ACCOUNT.cap)
        ledger.reserve("r2", ACCOUNT, "s/v1/x", ACCOUNT.cap)

    def test_several_reservations_are_all_granted_or_none(self, ledger: Ledger) -> None:
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

    def test_one_run_id_in_several_requests_is_one_reservation_or_an_error(self, ledger: Ledger) -> None:
        """Were the second one believed, the first loss would be forgotten."""
        assert ledger.reserve_all((ask("a", "0.3"), ask("a", "0.3"))) == (2, 2)
        with pytest.raises(LedgerError, match="run b: asked for twice with different content"):
            ledger.reserve_all((ask("b", "0.7"), ask("b", "0.1")))
        assert ledger.balance(ACCOUNT).held.rho == Decimal("0.3")

    def test_a_public_release_cannot_take_a_private_runs_place(self, ledger: Ledger) -> None:
        """It would set that run's loss to zero."""
        ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL)
        ledger.draw("r")
        with pytest.raises(LedgerError, match="run r: recorded before with another content"):
            ledger.commit_public("r", "items/v1/x", "m")
        assert ledger.balance(ACCOUNT).spent == SMALL
        assert ledger.commit_public("p", "items/v1/x", "m") == ledger.commit_public("p", "items/v1/x", "m")

    @pytest.mark.parametrize("rho", ["-0.1", "NaN", "sNaN", "Infinity"])
    def test_a_loss_that_is_no_amount(self, ledger: Ledger, rho: str) -> None:
        for loss in (PrivacyLoss(Decimal(rho), Decimal(0)), PrivacyLoss(Decimal(0), Decimal(rho))):
            with pytest.raises(LedgerError, match="allowed: finite and not negative"):
                ledger.reserve("r", ACCOUNT, "s/v1/x", loss)
        assert ledger.entries() == ()

    def test_a_changed_cap_is_refused(self, ledger: Ledger) -> None:
        ledger.open_account(ACCOUNT)
        ledger.open_account(Account(dataset="events", unit="user_id", cap=PrivacyLoss.of("1.00", "0.0000010")))
        for rho in ("2", "0.5"):
            with pytest.raises(ConfigError, match=r"hedgerow.toml says rho=\S+, delta=0.000001.*opened it with rho=1,"):
                ledger.reserve(
                    "r", Account(dataset="events", unit="user_id", cap=PrivacyLoss.of(rho, "0.000001")), "s", SMALL
                )

    def test_an_unused_account_has_spent_nothing(self, ledger: Ledger) -> None:
        assert ledger.balance(ACCOUNT).remaining == ACCOUNT.cap
        assert ledger.balances() == ()
        ledger.open_account(ACCOUNT)
        (balance,) = ledger.balances()
        assert (balance.account, balance.cap) == ("events/user_id", ACCOUNT.cap)

    # --- processes ---------------------------------------------------------------------------------------------

    def test_eight_processes_race_400_reservations_for_100_places(self, address: str, state: Path) -> None:
        """They open the ledger for the first time at once: exactly 100 are granted."""
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", RACE, address, str(state), f"p{k}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            for k in range(8)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [0] * 8, results
        with open_at(address, state) as ledger:
            kinds = [entry.kind for entry in ledger.entries()]
            assert sum(int(out) for out, _ in results) == kinds.count(EntryKind.RESERVE) == 100
            assert kinds.count(EntryKind.REFUSED) == 300
            assert kinds.count(EntryKind.OPEN) == 1
            assert ledger.balance(ACCOUNT).remaining == PrivacyLoss.zero()
            assert verified(ledger).findings == ()

    def test_several_instances_share_one_ledger(self, address: str, state: Path, ledger: Ledger) -> None:
        with open_at(address, state) as other:
            ledger.reserve("a", ACCOUNT, "s/v1/x", SMALL)
            other.reserve("b", ACCOUNT, "s/v1/y", SMALL)
            ledger.draw("b")
            other.draw("a")
            assert ledger.balances() == other.balances()
            assert (ledger.run("a"), ledger.runs_of_release("s/v1/y")) == (other.runs()[0], (other.runs()[1],))
            assert ledger.run("c") is None

    def test_an_error_in_the_middle_leaves_nothing(self, ledger: Ledger) -> None:
        ledger.reserve("a", ACCOUNT, "s/v1/x", SMALL)
        before, head = ledger.entries(), ledger.head()
        with pytest.raises(LedgerError, match="allowed: up to 1000 printable characters"):
            ledger.reserve_all((ask("b", "0.1"), ask("c", "0.1", subject="two\nlines")))
        with pytest.raises(LedgerError, match="allowed: Unicode"):
            ledger.refuse(None, "s", "\ud800")
        assert (ledger.entries(), ledger.head()) == (before, head)

    def test_any_text_comes_back(self, ledger: Ledger) -> None:
        reason = "NUL \0, quotes ' \" \\, % ? ä 漢 \U0001f600\n"
        ledger.refuse("gone/user", "sübject %s ?", reason, rules=("r1", "r2"))
        (entry,) = ledger.entries()
        assert (entry.subject, entry.account, entry.state) == ("sübject %s ?", "gone/user", None)
        assert entry.detail == {"reason": reason, "rules": ["r1", "r2"]}
        assert verified(ledger).findings == ()

    # --- caps --------------------------------------------------------------------------------------------------

    def test_a_role_raises_and_lowers_a_cap(self, ledger: Ledger) -> None:
        officer = Ed25519PrivateKey.generate()
        roles = {"officer": public_key_hex(officer.public_key())}
        ledger.reserve("a", ACCOUNT, "s/v1/x", ACCOUNT.cap)
        higher = replace(ACCOUNT, cap=PrivacyLoss.of("1.5", "2e-6"))
        detail = signed(ledger, higher, officer)
        entry = change_cap(ledger, detail, roles)
        assert change_cap(ledger, detail, roles) == entry, "idempotent"
        assert ledger.balance(higher).remaining == PrivacyLoss.of("0.5", "1e-6")
        ledger.reserve("b", higher, "s/v1/y", PrivacyLoss.of("0.2", 0))
        with pytest.raises(ConfigError, match=r"opened it with rho=1\.5.*cap-change events/user_id"):
            ledger.reserve("c", ACCOUNT, "s/v1/z", SMALL)
        lower = replace(ACCOUNT, cap=PrivacyLoss.of("1.2", "1e-6"))
        change_cap(ledger, signed(ledger, lower, officer), roles)
        assert ledger.balance(lower).remaining == PrivacyLoss.zero()
        too_low = replace(ACCOUNT, cap=PrivacyLoss.of("1.1", "1e-6"))
        with pytest.raises(LedgerError, match=r"allowed: at least rho=1\.2, delta=0\.000001"):
            change_cap(ledger, signed(ledger, too_low, officer), roles)
        result = verified(ledger, roles=roles)
        assert result.findings == ()
        assert [change["role"] for change in result.books.cap_changes] == ["officer", "officer"]

    def test_a_cap_change_that_is_not_lawful(self, ledger: Ledger) -> None:
        officer, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        roles = {"officer": public_key_hex(officer.public_key())}
        higher = replace(ACCOUNT, cap=PrivacyLoss.of("2", "1e-6"))
        with pytest.raises(LedgerError, match="not open yet"):
            signed(ledger, higher, officer)
        ledger.open_account(ACCOUNT)
        with pytest.raises(LedgerError, match=r"its cap is rho=1, delta=0\.000001 already"):
            signed(ledger, ACCOUNT, officer)
        detail = signed(ledger, higher, officer)
        cases = (
            (signed(ledger, higher, other), "may not change caps"),
            (signed(ledger, higher, officer, role="intern"), "may not change caps"),
            (replace(detail, cap=PrivacyLoss.of(3, "1e-6")), "did not sign"),
            (replace(detail, justification="another"), "did not sign"),
            (replace(detail, signature="00"), "did not sign"),
            (replace(detail, justification=" "), "needs a justification"),
        )
        before = ledger.entries()
        for wrong, message in cases:
            with pytest.raises(LedgerError, match=message):
                change_cap(ledger, wrong, roles)
        assert ledger.entries() == before
        change_cap(ledger, detail, roles)
        back = signed(ledger, ACCOUNT, officer)
        change_cap(ledger, back, roles)
        with pytest.raises(LedgerError, match="changed meanwhile"):
            change_cap(ledger, detail, roles)  # signed once, holds once

    # --- renewal -----------------------------------------------------------------------------------------------

    def test_an_account_renews_and_states_the_lifetime_loss(self, ledger: Ledger) -> None:
        for month in ("2025-09-29", "2025-10-29"):
            for k in range(3):
                run_id = f"{month}-{k}"
                ledger.reserve(run_id, MONTHLY, f"s/v1/{run_id}", SMALL, month)
                ledger.draw(run_id)
            with pytest.raises(BudgetExceeded) as caught:
                ledger.reserve(f"{month}-x", MONTHLY, "s/v1/x", SMALL, month)
            assert caught.value.remaining == 0
        ledger.reserve("held", MONTHLY, "s/v1/h", SMALL, "2025-11-28")
        balance = ledger.balance(MONTHLY, "2025-11-28")
        assert (balance.spent, balance.held) == (PrivacyLoss.zero(), SMALL)
        assert balance.lifetime_spent == PrivacyLoss.of("0.6", "6e-7")
        assert (ledger.balance(MONTHLY), ledger.balances()) == (balance, (balance,))
        ledger.release("held", "stopped")
        result = verified(ledger)
        assert result.findings == ()
        account = result.to_json()["accounts"][MONTHLY.name]
        assert account["lifetime"] == {
            "spent": {"rho": "0.6", "delta": "0.0000006"},
            "held": {"rho": "0", "delta": "0"},
        }
        assert account["periods"]["2025-10-29"]["spent"] == {"rho": "0.3", "delta": "0.0000003"}

    def test_a_period_where_none_belongs(self, ledger: Ledger) -> None:
        with pytest.raises(LedgerError, match="allowed: none, for it does not renew"):
            ledger.reserve("r", ACCOUNT, "s/v1/x", SMALL, "2025-11-28")
        with pytest.raises(LedgerError, match="allowed: the one that the release's window lies in"):
            ledger.reserve("r", MONTHLY, "s/v1/x", SMALL)
        ledger.open_account(MONTHLY)
        with pytest.raises(ConfigError, match="how an account renews never changes"):
            ledger.open_account(replace(MONTHLY, renews_days=None))

    def test_a_cap_below_what_one_period_spent_is_refused(self, ledger: Ledger) -> None:
        officer = Ed25519PrivateKey.generate()
        roles = {"officer": public_key_hex(officer.public_key())}
        ledger.reserve("a", MONTHLY, "s/v1/a", PrivacyLoss.of("0.2", 0), "2025-09-29")
        ledger.reserve("b", MONTHLY, "s/v1/b", SMALL, "2025-10-29")
        for rho, fits in (("0.15", False), ("0.2", True)):
            account = replace(MONTHLY, cap=PrivacyLoss.of(rho, "1e-6"))
            detail = signed(ledger, account, officer)
            if fits:
                change_cap(ledger, detail, roles)
            else:
                with pytest.raises(LedgerError, match=r"at least rho=0\.2"):
                    change_cap(ledger, detail, roles)
        assert verified(ledger, roles=roles).findings == ()

    # --- heads and proofs --------------------------------------------------------------------------------------

    def test_every_transaction_publishes_one_head(self, ledger: Ledger, state: Path) -> None:
        ledger.reserve_all((ask("a", "0.1"), ask("b", "0.1")))
        ledger.reserve_all((ask("a", "0.1"), ask("b", "0.1")))
        ledger.draw("a")
        lines = (state / HEADS_FILE).read_text().splitlines()
        assert [TreeHead.from_line(line).size for line in lines] == [3, 4]
        assert TreeHead.from_line(lines[-1]) == ledger.head()

    def test_proofs_hold_and_wrong_ones_do_not(self, ledger: Ledger) -> None:
        old = None
        for k in range(5):
            ledger.refuse(None, f"s{k}", "no")
            old = old or ledger.head()
        assert old is not None
        key = ledger.public_key()
        for sequence, proof in ledger.inclusion_proofs(range(1, 6)).items():
            assert check_proof(proof, key) == ()
            entry = {**proof["entry"], "subject": "another"}
            assert check_proof({**proof, "entry": entry}, key)[0].subject == f"entry {sequence}"
            assert check_proof({**proof, "head": {**proof["head"], "size": 9}}, key)
            assert check_proof(proof, Ed25519PrivateKey.generate().public_key())
        proof = ledger.consistency_proof(old)
        assert check_proof(proof, key) == ()
        assert check_proof({**proof, "path": proof["path"][:-1]}, key)
        for wrong in ({}, {"schema": proof["schema"]}, {**proof, "schema": "x"}, {**proof, "path": 3}):
            assert check_proof(wrong, key)
        with pytest.raises(LedgerError, match="found entry 6, allowed: 1 to 5"):
            ledger.inclusion_proofs([6])

    def test_a_database_older_than_its_published_heads_is_refused(
        self, ledger: Ledger, state: Path, tmp_path: Path
    ) -> None:
        """What an old backup looks like, or a database whose newest entries were cut off."""
        ledger.reserve("a", ACCOUNT, "s/v1/x", SMALL)
        ahead = tmp_path / "ahead"
        with Ledger(tmp_path / "copy.db", heads=HeadFiles(ahead), key_path=state / "keys" / "ledger.ed25519") as copy:
            for k in range(3):
                copy.refuse(None, f"s{k}", "no")
        (state / HEADS_FILE).write_bytes((ahead / HEADS_FILE).read_bytes())
        for call in (ledger.entries, ledger.runs, lambda: ledger.draw("a"), ledger.publish_head):
            with pytest.raises(LedgerCorrupt, match=r"has 2 entries, but the head published in .* covers 3"):
                call()

    def test_another_history_of_the_same_length_is_refused(self, ledger: Ledger, state: Path, tmp_path: Path) -> None:
        ledger.refuse(None, "s", "no")
        with Ledger(
            tmp_path / "copy.db", heads=HeadFiles(tmp_path / "o"), key_path=state / "keys" / "ledger.ed25519"
        ) as copy:
            copy.refuse(None, "s", "another")
        (state / HEADS_FILE).write_bytes((tmp_path / "o" / HEADS_FILE).read_bytes())
        with pytest.raises(LedgerCorrupt, match="is another history than the one published"):
            ledger.refuse(None, "s", "no")

    def test_witnesses_get_every_head_and_must_be_there(self, address: str, state: Path, tmp_path: Path) -> None:
        witness = tmp_path / "witness"
        heads = HeadFiles(state, (witness,))
        with open_at(address, state, heads=heads) as ledger:
            with pytest.raises(ConfigError, match="no such witness folder, so nothing was recorded"):
                ledger.refuse(None, "s", "no")
            assert ledger.head() is None
            witness.mkdir()
            ledger.refuse(None, "s", "no")
            assert (witness / HEADS_FILE).read_bytes() == (state / HEADS_FILE).read_bytes()
            assert (witness / "ledger.pub").read_bytes() == (state / "ledger.pub").read_bytes()
            (witness / HEADS_FILE).unlink()
            ledger.refuse(None, "s", "no")
            assert verified(ledger).findings == ()
            stranger = Ledger(tmp_path / "stranger" / "ledger.db", heads=HeadFiles(tmp_path / "stranger", (witness,)))
            with stranger, pytest.raises(LedgerCorrupt, match="covers 2"):
                stranger.refuse(None, "s", "no")

    def test_a_head_that_a_crash_kept_back_is_published_next(self, ledger: Ledger, state: Path) -> None:
        ledger.refuse(None, "s", "one")
        ledger.refuse(None, "s", "two")
        path = state / HEADS_FILE
        whole = path.read_bytes()
        for kept in (len(whole) - 1, whole.index(b"\n") + 1, whole.index(b"\n") + 40):
            path.write_bytes(whole[:kept])
            ledger.publish_head()
            assert path.read_bytes() == whole

    def test_a_full_witness_is_told_and_made_good(self, address: str, state: Path, tmp_path: Path) -> None:
        """The entries are recorded by then: the caller learns it, and the next operation publishes their head."""
        witness = tmp_path / "witness"
        witness.mkdir()
        (witness / HEADS_FILE).symlink_to("/dev/full")
        with open_at(address, state, heads=HeadFiles(state, (witness,))) as ledger:
            with pytest.raises(LedgerError, match=r"cannot be published .*the entries are recorded"):
                ledger.refuse(None, "s", "no")
            assert len(ledger.entries()) == 1
            (witness / HEADS_FILE).unlink()
            ledger.publish_head()
            assert (witness / HEADS_FILE).read_bytes() == (state / HEADS_FILE).read_bytes()
            (witness / HEADS_FILE).write_text("no head\n")
            with pytest.raises(LedgerCorrupt, match="its last line is not a tree head"):
                ledger.refuse(None, "s", "no")
            assert len(ledger.source().rows) == 1

    def test_a_lost_signing_key_is_not_replaced(self, ledger: Ledger, address: str, state: Path) -> None:
        ledger.refuse(None, "s", "no")
        (state / "keys" / "ledger.ed25519").unlink()
        with open_at(address, state) as other:
            with pytest.raises(ConfigError, match="signing key is missing, so nothing was recorded"):
                other.refuse(None, "s", "no")
            assert len(other.entries()) == 1, "reading needs the public half only"
            (state / "ledger.pub").unlink()
            with pytest.raises(ConfigError, match="public key is missing"):
                other.__class__(other._store, heads=HeadFiles(state), key_path=state / "x").entries()
