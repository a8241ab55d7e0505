"""The ledger against a naive model, under any order of calls."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from governance.errors import BudgetExceeded, LedgerError
from governance.ledger import EntryKind, Ledger
from governance.privacy import PrivacyLoss
from governance.settings import Account
from governance.verify.verification import verify
from tests.support.strategies import amounts

ACCOUNTS = (
    Account(dataset="events", unit="user_id", cap=PrivacyLoss.of(3, "1e-6")),
    Account(dataset="events", unit="user_id/day", cap=PrivacyLoss.of("0.3", 2)),
)
RUNS = st.sampled_from(["r0", "r1", "r2", "r3", "r4"])
LOSSES = st.builds(
    PrivacyLoss, amounts | st.just(Decimal("0.1")), st.sampled_from([Decimal(0), Decimal("4e-7")]) | amounts
)


@dataclass
class Known:
    """What the model remembers of a run."""

    account: Account | None
    subject: str
    loss: PrivacyLoss
    states: list[EntryKind] = field(default_factory=list)
    manifest: str = ""


class LedgerAgainstModel(RuleBasedStateMachine):
    """Every call answers as the model says, and balances always add up, below the caps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.ledger = self.open()
        self.runs: dict[str, Known] = {}
        self.refusals = 0

    def open(self) -> Ledger:
        """The same ledger again, in SQLite; PostgreSQL's tests open another."""
        return Ledger(self.folder / "ledger.db")

    def teardown(self) -> None:
        try:
            if self.ledger.head() is not None:
                self.verify()
        finally:
            self.ledger.close()
            shutil.rmtree(self.folder)

    def verify(self) -> None:
        """The verifier, which shares no arithmetic with the ledger, comes to the model's exact sums."""
        result = verify(self.ledger.source(), key=self.ledger.public_key(), head_files=self.ledger.head_files)
        assert result.findings == ()
        assert result.books.refused == self.refusals
        for account in ACCOUNTS:
            derived = result.books.accounts.get(account.name)
            spent = self.totals(account, EntryKind.DRAW, EntryKind.COMMIT)
            held = self.totals(account, EntryKind.RESERVE)
            found = (derived.lifetime.spent, derived.lifetime.held) if derived is not None else ((0, 0), (0, 0))
            assert [tuple(map(Fraction, amount)) for amount in found] == [spent, held]

    def totals(self, account: Account, *states: EntryKind) -> tuple[Fraction, Fraction]:
        """Rho and delta of the account's runs that are now in one of these states."""
        mine = [run.loss for run in self.runs.values() if run.account == account and run.states[-1] in states]
        return sum((Fraction(loss.rho) for loss in mine), Fraction()), sum(
            (Fraction(loss.delta) for loss in mine), Fraction()
        )

    @rule(run_id=RUNS, account=st.sampled_from(ACCOUNTS), subject=st.sampled_from(["a/v1/x", "b/v1/x"]), loss=LOSSES)
    def reserve(self, run_id: str, account: Account, subject: str, loss: PrivacyLoss) -> None:
        known = self.runs.get(run_id)
        if known is not None:
            same = (known.account, known.subject, known.loss) == (account, subject, loss)
            if same and EntryKind.RESERVE in known.states and EntryKind.RELEASE not in known.states:
                before = len(self.ledger.entries())
                self.ledger.reserve(run_id, account, subject, loss)
                assert len(self.ledger.entries()) == before
            else:
                with pytest.raises(LedgerError, match=f"run {run_id}"):
                    self.ledger.reserve(run_id, account, subject, loss)
            return
        rho, delta = self.totals(account, EntryKind.RESERVE, EntryKind.DRAW, EntryKind.COMMIT)
        fits = rho + Fraction(loss.rho) <= Fraction(account.cap.rho) and delta + Fraction(loss.delta) <= Fraction(
            account.cap.delta
        )
        if fits:
            self.ledger.reserve(run_id, account, subject, loss)
            self.runs[run_id] = Known(account, subject, loss, [EntryKind.RESERVE])
        else:
            with pytest.raises(BudgetExceeded) as caught:
                self.ledger.reserve(run_id, account, subject, loss)
            assert caught.value.requested > caught.value.remaining
            self.refusals += 1

    @rule(run_id=RUNS)
    def reserve_again(self, run_id: str) -> None:
        known = self.runs.get(run_id)
        if known is not None and known.account is not None:
            self.reserve(run_id, known.account, known.subject, known.loss)

    def advance(self, run_id: str, kind: EntryKind, after: EntryKind, manifest: str = "") -> None:
        def call() -> int:
            if kind is EntryKind.DRAW:
                return self.ledger.draw(run_id)
            return (
                self.ledger.commit(run_id, manifest) if kind is EntryKind.COMMIT else self.ledger.release(run_id, "x")
            )

        known = self.runs.get(run_id)
        private = known is not None and known.account is not None
        if known is not None and private and kind in known.states and known.manifest == (manifest or known.manifest):
            before = len(self.ledger.entries())
            call()
            assert len(self.ledger.entries()) == before, "idempotent"
        elif known is not None and known.states[-1] is after:
            call()
            known.states.append(kind)
            known.manifest = manifest
        else:
            with pytest.raises(LedgerError, match=f"run {run_id}"):
                call()

    @rule(run_id=RUNS)
    def reserve_after_giving_back(self, run_id: str) -> None:
        self.release(run_id)
        self.reserve_again(run_id)

    @rule(run_id=RUNS)
    def draw(self, run_id: str) -> None:
        self.advance(run_id, EntryKind.DRAW, EntryKind.RESERVE)

    @rule(run_id=RUNS, manifest=st.sampled_from(["m1", "m2"]))
    def commit(self, run_id: str, manifest: str) -> None:
        self.advance(run_id, EntryKind.COMMIT, EntryKind.DRAW, manifest)

    @rule(run_id=RUNS)
    def release(self, run_id: str) -> None:
        self.advance(run_id, EntryKind.RELEASE, EntryKind.RESERVE)

    @rule(run_id=RUNS, manifest=st.sampled_from(["m1", "m2"]))
    def commit_public(self, run_id: str, manifest: str) -> None:
        """A public release must not overwrite what a private run spent."""
        known = self.runs.get(run_id)
        public = {other.manifest for other in self.runs.values() if other.account is None}
        if known is None and public - {manifest}:
            with pytest.raises(LedgerError, match="another manifest"):
                self.ledger.commit_public(run_id, "items/v1/x", manifest)
        elif known is None:
            self.ledger.commit_public(run_id, "items/v1/x", manifest)
            self.runs[run_id] = Known(None, "items/v1/x", PrivacyLoss.zero(), [EntryKind.COMMIT], manifest)
        elif known.account is None and known.manifest == manifest:
            self.ledger.commit_public(run_id, "items/v1/x", manifest)
        else:
            with pytest.raises(LedgerError, match=f"run {run_id}"):
                self.ledger.commit_public(run_id, "items/v1/x", manifest)

    @rule()
    def refuse(self) -> None:
        self.ledger.refuse(None, "c/v1", "not lawful")
        self.refusals += 1

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = self.open()

    @invariant()
    def balances_are_the_models(self) -> None:
        for account in ACCOUNTS:
            balance = self.ledger.balance(account)
            spent, held = (
                self.totals(account, EntryKind.DRAW, EntryKind.COMMIT),
                self.totals(account, EntryKind.RESERVE),
            )
            assert (Fraction(balance.spent.rho), Fraction(balance.spent.delta)) == spent
            assert (Fraction(balance.held.rho), Fraction(balance.held.delta)) == held
            assert balance.remaining.rho >= 0
            assert balance.remaining.delta >= 0
            assert balance.remaining + balance.spent + balance.held == account.cap

    @invariant()
    def runs_are_the_models(self) -> None:
        states = {run.run_id: (run.state, run.loss, run.subject) for run in self.ledger.runs()}
        assert states == {name: (run.states[-1], run.loss, run.subject) for name, run in self.runs.items()}
        kinds = [entry.kind for entry in self.ledger.entries()]
        assert kinds.count(EntryKind.REFUSED) == self.refusals
        assert kinds.count(EntryKind.OPEN) <= len(ACCOUNTS)


LedgerAgainstModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLedgerAgainstModel = LedgerAgainstModel.TestCase
