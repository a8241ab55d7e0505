"""Replays entries by the ledger's rules and compares what every entry states with what they add up to.

    RESERVE ──▶ DRAW ──▶ COMMIT
       └──▶ RELEASE

Amounts are exact decimals; an operation that would round is an error, never a rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Clamped, Context, Decimal, Inexact, InvalidOperation, Overflow, Subnormal
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from governance.verify.findings import Finding, Problem
from governance.verify.heads import CAP_CONTEXT, canonical, signed_by

__all__ = ["AccountState", "Amount", "Replay", "RunState", "cap_statement", "replay"]

_EXACT = Context(prec=4000, traps=[Inexact, InvalidOperation, Overflow, Subnormal, Clamped])
_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,600})(\.[0-9]{0,1200}[1-9])?")
_HASH = re.compile(r"[0-9a-f]{64}")

_DETAIL: Mapping[str, tuple[frozenset[str], ...]] = {
    "OPEN": (frozenset({"cap", "renews"}),),
    "RESERVE": (frozenset({"loss"}),),
    "DRAW": (frozenset(),),
    "COMMIT": (frozenset({"manifest_sha256"}), frozenset({"manifest_sha256", "loss"})),
    "RELEASE": (frozenset({"reason"}),),
    "CAP-CHANGE": (frozenset({"cap", "cap_before", "justification", "public_key", "replaces", "role", "signature"}),),
}


class Amount(NamedTuple):
    """A loss, a cap or a balance."""

    rho: Decimal
    delta: Decimal

    def plus(self, other: Amount) -> Amount:
        """The exact sum."""
        return Amount(_EXACT.add(self.rho, other.rho), _EXACT.add(self.delta, other.delta))

    def minus(self, other: Amount) -> Amount:
        """The exact difference."""
        return Amount(_EXACT.subtract(self.rho, other.rho), _EXACT.subtract(self.delta, other.delta))

    def within(self, other: Amount) -> bool:
        """Whether neither number is larger."""
        return self.rho <= other.rho and self.delta <= other.delta

    def to_json(self) -> dict[str, str]:
        """Exact decimal texts."""
        return {"rho": _text(self.rho), "delta": _text(self.delta)}

    @classmethod
    def read(cls, value: object) -> Amount:
        """From `{"rho": text, "delta": text}`.

        Raises:
            ValueError: another form.
        """
        if not isinstance(value, dict) or value.keys() != {"rho", "delta"}:
            raise ValueError("an amount has rho and delta")
        rho, delta = value["rho"], value["delta"]
        if not (
            isinstance(rho, str) and isinstance(delta, str) and _AMOUNT.fullmatch(rho) and _AMOUNT.fullmatch(delta)
        ):
            raise ValueError("an amount is a plain decimal")
        return cls(Decimal(rho), Decimal(delta))


_ZERO = Amount(Decimal(0), Decimal(0))


def _text(value: Decimal) -> str:
    text = format(value, "f")
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


@dataclass(slots=True, kw_only=True)
class _Sums:
    """What a cap is held against: an account's runs, or those of one of its periods."""

    spent: Amount = _ZERO
    held: Amount = _ZERO


@dataclass(slots=True, kw_only=True)
class AccountState:
    """An account, as the entries so far make it.

    Attributes:
        cap: in force now.
        cap_entry: the entry that set it.
        renews: length of its periods in days, or None.
        lifetime: over everything.
        periods: by period, where the account renews.
    """

    cap: Amount
    cap_entry: int
    renews: int | None
    lifetime: _Sums = field(default_factory=_Sums)
    periods: dict[str, _Sums] = field(default_factory=dict)

    def sums(self, period: str | None) -> _Sums:
        """What the cap is held against."""
        return self.lifetime if period is None else self.periods.setdefault(period, _Sums())

    def book(
        self, period: str | None, *, spent: Amount = _ZERO, held: Amount = _ZERO, given_back: Amount = _ZERO
    ) -> None:
        """Adds to what is spent and held, and takes from what is held."""
        for sums in (self.lifetime,) if period is None else (self.lifetime, self.sums(period)):
            sums.spent = sums.spent.plus(spent)
            sums.held = sums.held.plus(held).minus(given_back)

    def stated(self, period: str | None) -> dict[str, Any]:
        """The state that an entry about this account must carry."""
        sums = self.sums(period)
        lifetime = None
        if self.renews is not None:
            lifetime = {"held": self.lifetime.held.to_json(), "spent": self.lifetime.spent.to_json()}
        return {
            "cap": self.cap.to_json(),
            "cap_entry": self.cap_entry,
            "held": sums.held.to_json(),
            "lifetime": lifetime,
            "renews": self.renews,
            "spent": sums.spent.to_json(),
        }


@dataclass(slots=True, kw_only=True)
class RunState:
    """A run, as the entries so far make it."""

    account: str | None
    period: str | None
    subject: str
    loss: Amount
    entries: dict[str, int]
    manifest_sha256: str | None = None

    @property
    def last(self) -> str:
        """The kind of its newest entry."""
        return next(reversed(self.entries))


@dataclass(slots=True, kw_only=True)
class Replay:
    """What the entries add up to."""

    accounts: dict[str, AccountState] = field(default_factory=dict)
    runs: dict[str, RunState] = field(default_factory=dict)
    cap_changes: list[Mapping[str, Any]] = field(default_factory=list)
    refused: int = 0
    findings: list[Finding] = field(default_factory=list)


def cap_statement(account: str, detail: Mapping[str, Any]) -> bytes:
    """What a role signs: the account, both caps, the entry whose cap is replaced (so it holds once), and why."""
    names = ("cap", "cap_before", "justification", "replaces", "role")
    return CAP_CONTEXT + canonical({"account": account, **{name: detail[name] for name in names}})


def replay(entries: Iterable[Mapping[str, Any]], roles: Mapping[str, str] | None = None) -> Replay:
    """Replays entries in order.

    Args:
        entries: parsed entries, each with all fields.
        roles: the public key (hex) of each role that may change caps; None: only a consistent use of keys is checked.
    """
    books = Replay()
    keys: dict[str, str] = dict(roles) if roles is not None else {}
    steps: Mapping[str, Callable[[Replay, Mapping[str, Any]], Iterator[Finding]]] = {
        "OPEN": _open,
        "RESERVE": _reserve,
        "DRAW": _draw,
        "COMMIT": _commit,
        "RELEASE": _release,
        "REFUSED": _refused,
        "CAP-CHANGE": lambda books, entry: _cap_change(books, entry, keys, fixed=roles is not None),
    }
    for entry in entries:
        step = steps.get(entry["kind"])
        try:
            if step is None:
                raise ValueError(f"no entry is of kind {entry['kind']!r}")
            allowed = _DETAIL.get(entry["kind"])
            if allowed is not None and frozenset(entry["detail"]) not in allowed:
                raise ValueError("its detail has unknown or missing fields")
            books.findings.extend(step(books, entry))
            books.findings.extend(_balance(books, entry))
        except (ValueError, ArithmeticError) as error:
            books.findings.append(
                _found(Problem.ENTRY_MALFORMED, entry, f"The ledger cannot have written it: {error}.")
            )
    return books


def _found(problem: Problem, entry: Mapping[str, Any], message: str) -> Finding:
    return Finding(problem=problem, subject=f"entry {entry['sequence']}", message=message)


def _balance(books: Replay, entry: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the entry states the balance that the entries add up to."""
    name, stated = entry["account"], entry["state"]
    expects = name is not None and entry["kind"] != "REFUSED"
    account = books.accounts.get(name) if expects else None
    if account is None:
        if stated is not None or expects:
            yield _found(Problem.BALANCE_WRONG, entry, "It states a balance where there is none, or lacks one.")
        return
    period = entry["period"] if entry["kind"] not in ("OPEN", "CAP-CHANGE") else None
    due = account.stated(period)
    if stated == due:
        return
    wrong = [name for name in due if not isinstance(stated, dict) or stated.get(name) != due[name]]
    problem = Problem.CAP_CHANGED if {"cap", "cap_entry"} & set(wrong) else Problem.BALANCE_WRONG
    what = ", ".join(wrong) or "fields"
    yield _found(problem, entry, f"What it states of account {name} differs from what the entries add up to: {what}.")


def _open(books: Replay, entry: Mapping[str, Any]) -> Iterator[Finding]:
    name, detail = entry["account"], entry["detail"]
    if name is None or entry["subject"] != name or entry["run_id"] is not None or entry["period"] is not None:
        raise ValueError("an OPEN is about one account")
    renews = detail["renews"]
    if renews is not None and (type(renews) is not int or renews < 1):
        raise ValueError("an account renews every so many days")
    cap = Amount.read(detail["cap"])
    if name in books.accounts:
        yield _found(Problem.CAP_CHANGED, entry, f"It opens account {name} a second time.")
        return
    books.accounts[name] = AccountState(cap=cap, cap_entry=entry["sequence"], renews=renews)


def _reserve(books: Replay, entry: Mapping[str, Any]) -> Iterator[Finding]:
    run_id, name, period = _run_id(entry), entry["account"], entry["period"]
    loss = Amount.read(entry["detail"]["loss"])
    if run_id in books.runs:
        yield _found(Problem.RUN_REUSED, entry, "Its run id is in use already.")
        return
    account = books.accounts.get(name)
    if account is None:
        yield _found(Problem.STEP_OUT_OF_ORDER, entry, f"Account {name} is not open.")
        return
    if (period is None) != (account.renews is None):
        raise ValueError("an account that renews is booked by period, another is not")
    sums = account.sums(period)
    if not sums.spent.plus(sums.held).plus(loss).within(account.cap):
        yield _found(Problem.OVERSPENT, entry, f"It was granted and does not fit under the cap of account {name}.")
    account.book(period, held=loss)
    books.runs[run_id] = RunState(
        account=name, period=period, subject=entry["subject"], loss=loss, entries={"RESERVE": entry["sequence"]}
    )


def _next(books: Replay, entry: Mapping[str, Any], after: str) -> tuple[RunState | None, Finding | None]:
    """The run that an entry moves on, or why it cannot."""
    run = books.runs.get(_run_id(entry))
    kind = entry["kind"]
    if run is None:
        return None, _found(Problem.STEP_OUT_OF_ORDER, entry, f"{kind} of a run that never reserved.")
    if run.last != after:
        return None, _found(Problem.STEP_OUT_OF_ORDER, entry, f"{kind} needs {after} before it, found {run.last}.")
    if (run.account, run.period, run.subject) != (entry["account"], entry["period"], entry["subject"]):
        return None, _found(Problem.RUN_REUSED, entry, "Account, period or release differ from those it reserved.")
    run.entries[kind] = entry["sequence"]
    return run, None


def _draw(books: Replay, entry: Mapping[str, Any]) -> Iterator[Finding]:
    run, problem = _next(books, entry, "RESERVE")
    if run is None or run.account is None:
        yield from (problem,) if problem else ()
        return
    books.accounts[run.account].book(run.period, spent=run.loss, given_back=run.loss)


def _release(books: Replay, entry: Mapping[str, Any]) -> Iterator[Finding]:
    run, problem = _next(books, entry, "RESERVE")
    if run is None or run.account is None:
        yield from (problem,) if problem else ()
        return
    books.accounts[run.account].book(run.period, given_back=run.loss)


def _commit(books: Replay, entry: Mapping[str, Any]) -> Iterator[Finding]:
    detail, run_id = entry["detail"], _run_id(entry)
    if not isinstance(detail["manifest_sha256"], str):
        raise ValueError("a COMMIT names a manifest's hash")
    if entry["account"] is None:
        if "loss" not in detail or Amount.read(detail["loss"]) != _ZERO:
            raise ValueError("a release that touches no account costs nothing")
        if run_id in books.runs:
            yield _found(Problem.RUN_REUSED, entry, "Its run id is in use already.")
            return
        books.runs[run_id] = RunState(
            account=None,
            period=None,
            subject=entry["subject"],
            loss=_ZERO,
            entries={"COMMIT": entry["sequence"]},
            manifest_sha256=detail["manifest_sha256"],
        )
        return
    if "loss" in detail:
        raise ValueError("a COMMIT of a reserved run states no loss of its own")
    run, problem = _next(books, entry, "DRAW")
    if run is None:
        yield from (problem,) if problem else ()
        return
    run.manifest_sha256 = detail["manifest_sha256"]


def _refused(books: Replay, entry: Mapping[str, Any]) -> Iterator[Finding]:
    if entry["run_id"] is not None or not isinstance(entry["detail"].get("reason"), str):
        raise ValueError("a REFUSED entry has a reason and no run")
    books.refused += 1
    yield from ()


def _cap_change(books: Replay, entry: Mapping[str, Any], keys: dict[str, str], *, fixed: bool) -> Iterator[Finding]:
    name, detail = entry["account"], entry["detail"]
    account = books.accounts.get(name)
    if account is None:
        yield _found(Problem.STEP_OUT_OF_ORDER, entry, f"Account {name} is not open.")
        return
    role, public_key = detail["role"], detail["public_key"]
    texts = (role, public_key, detail["justification"], detail["signature"])
    if not all(isinstance(text, str) and text for text in texts) or not _HASH.fullmatch(public_key):
        raise ValueError("a cap change names role, key, justification and signature")
    cap, before = Amount.read(detail["cap"]), Amount.read(detail["cap_before"])
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    if not signed_by(key, detail["signature"], cap_statement(name, detail)):
        yield _found(Problem.CAP_CHANGE_FORGED, entry, f"The key of role {role} did not sign it.")
    elif fixed and role not in keys:
        yield _found(Problem.CAP_CHANGE_FORGED, entry, f"No role {role} is known that may change caps.")
    elif keys.setdefault(role, public_key) != public_key:
        yield _found(Problem.CAP_CHANGE_FORGED, entry, f"It is signed by another key than role {role} has.")
    if before != account.cap or detail["replaces"] != account.cap_entry:
        yield _found(Problem.CAP_CHANGED, entry, f"It replaces another cap than account {name} had.")
    for sums in account.periods.values() if account.renews is not None else (account.lifetime,):
        if not sums.spent.plus(sums.held).within(cap):
            yield _found(Problem.CAP_CHANGED, entry, "The new cap is below what was spent and held.")
            break
    account.cap, account.cap_entry = cap, entry["sequence"]
    books.cap_changes.append(
        {
            "entry": entry["sequence"],
            "at": entry["at"],
            "account": name,
            "cap": detail["cap"],
            "cap_before": detail["cap_before"],
            "role": role,
            "public_key": public_key,
            "justification": detail["justification"],
        }
    )


def _run_id(entry: Mapping[str, Any]) -> str:
    run_id = entry["run_id"]
    if not isinstance(run_id, str):
        raise ValueError("it has no run id")
    return run_id
