"""Reserving: what a request must be, what an account can carry, and the entries that say so. Inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence

from governance.balances import AccountState, EntryKind, Request, shortage
from governance.errors import BudgetExceeded, ConfigError, LedgerError
from governance.privacy import PrivacyLoss
from governance.recording import Recorder
from governance.settings import Account

__all__ = ["check_request", "hold", "known_reservation", "open_in", "refusal_of"]


def open_in(book: Recorder, account: Account) -> None:
    """Opens an account, or returns if it is open with the same cap.

    Raises:
        ConfigError: it is open with another cap, or renews differently.
    """
    state = book.account(account.name)
    if state is None:
        detail = {"cap": account.cap.to_json(), "renews": account.renews_days}
        opened = AccountState.opened(account.cap, book.next_sequence, account.renews_days)
        book.append(EntryKind.OPEN, account=account.name, subject=account.name, detail=detail, state=opened)
        return
    if state.renews != account.renews_days:
        raise ConfigError(
            f"account {account.name}: hedgerow.toml says renews_days={account.renews_days}, but the ledger opened it "
            f"with {state.renews}; restore the old value: how an account renews never changes"
        )
    if state.cap != account.cap:
        raise ConfigError(
            f"account {account.name}: hedgerow.toml says rho={account.cap.rho}, delta={account.cap.delta}, "
            f"but the ledger opened it with rho={state.cap.rho}, delta={state.cap.delta}; restore the old cap, or "
            f"let a role sign the change: hedgerow ledger cap-change {account.name}"
        )


def check_request(request: Request) -> None:
    """Returns if a request can be booked.

    Raises:
        LedgerError: its loss is no amount, or it names no period where the account renews, or one where it does not.
    """
    loss = request.loss
    if not all(amount.is_finite() and amount >= 0 for amount in (loss.rho, loss.delta)):
        raise LedgerError(
            f"{request.subject}: found rho={loss.rho}, delta={loss.delta}, allowed: finite and not negative; "
            "correct what computed the loss"
        )
    if (request.period is None) != (request.account.renews_days is None):
        allowed = "none, for it does not renew" if request.period else "the one that the release's window lies in"
        raise LedgerError(f"{request.subject}: period of account {request.account.name}: allowed: {allowed}")


def refusal_of(book: Recorder, requests: Sequence[Request]) -> BudgetExceeded | None:
    """The first account that cannot carry its share, after recording that it was asked to."""
    for name, period in dict.fromkeys((request.account.name, request.period) for request in requests):
        mine = [request for request in requests if (request.account.name, request.period) == (name, period)]
        total = sum((request.loss for request in mine), PrivacyLoss.zero())
        state = book.balance(name, period)
        remaining = state.remaining if state is not None else PrivacyLoss.zero()
        short = shortage(total, remaining)
        if short is not None:
            quantity, requested, left = short
            subject = mine[0].subject if len(mine) == 1 else f"{mine[0].subject} and {len(mine) - 1} more"
            detail = {
                "loss": total.to_json(),
                "remaining": remaining.to_json(),
                "reason": f"{quantity} over the account's cap",
            }
            book.append(EntryKind.REFUSED, account=name, period=period, subject=subject, detail=detail)
            return BudgetExceeded(name, subject, quantity, requested, left)
    return None


def hold(book: Recorder, request: Request) -> int:
    """Appends a RESERVE that fits."""
    name, period = request.account.name, request.period
    state = book.balance(name, period)
    if state is None:
        raise LedgerError(f"account {name}: not open")
    return book.append(
        EntryKind.RESERVE,
        account=name,
        period=period,
        run_id=request.run_id,
        subject=request.subject,
        detail={"loss": request.loss.to_json()},
        state=state.hold(request.loss),
    )


def known_reservation(book: Recorder, request: Request) -> int | None:
    """The entry that has recorded this very request, if any."""
    mine = book.of_run(request.run_id)
    if not mine:
        return None
    first = mine[0]
    found = (first.kind, first.account, first.period, first.subject, dict(first.detail))
    detail = {"loss": request.loss.to_json()}
    if found != (EntryKind.RESERVE, request.account.name, request.period, request.subject, detail):
        raise LedgerError(f"run {request.run_id}: recorded before with another content; use a new run id")
    if mine[-1].kind is EntryKind.RELEASE:
        raise LedgerError(f"run {request.run_id}: its reservation was given back; use a new run id")
    return first.sequence
