"""Changing an account's cap: proposed from hedgerow.toml, signed by a named role, recorded with its justification.

What the role signs names the entry whose cap it replaces, so a signature holds once and cannot be played again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from governance.balances import AccountState, EntryKind, shortage
from governance.errors import LedgerError
from governance.ledger import Ledger
from governance.privacy import PrivacyLoss
from governance.recording import Recorder
from governance.settings import Account
from governance.verify.replay import cap_statement

__all__ = ["CapChange", "change_cap", "propose_cap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapChange:
    """A cap change, signed or to be signed.

    Attributes:
        account: `dataset/unit`.
        cap: the new one.
        cap_before: the one it replaces.
        replaces: the entry that set that one.
        role: who signs.
        public_key: the role's, 32 bytes in hex.
        justification: why; everybody who reads the ledger sees it.
        signature: Ed25519 over `cap_statement`, hex; empty before it is signed.
    """

    account: str
    cap: PrivacyLoss
    cap_before: PrivacyLoss
    replaces: int
    role: str
    public_key: str
    justification: str
    signature: str = ""

    def to_detail(self) -> dict[str, Any]:
        """The detail of a CAP-CHANGE entry."""
        return {
            "cap": self.cap.to_json(),
            "cap_before": self.cap_before.to_json(),
            "justification": self.justification,
            "public_key": self.public_key,
            "replaces": self.replaces,
            "role": self.role,
            "signature": self.signature,
        }

    def signed(self, key: Ed25519PrivateKey) -> CapChange:
        """The change with the role's signature."""
        return replace(self, signature=key.sign(cap_statement(self.account, self.to_detail())).hex())

    @property
    def is_signed(self) -> bool:
        """Whether the named key made the signature."""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), cap_statement(self.account, self.to_detail()))
        except (InvalidSignature, ValueError):
            return False
        return True


def propose_cap(ledger: Ledger, account: Account, *, role: str, public_key: str, justification: str) -> CapChange:
    """A change of an account's cap to the one that `account` states, for a role to sign.

    Raises:
        LedgerError: the account is not open, or nothing would change.
    """
    state = ledger.account_state(account.name)
    if state is None:
        raise LedgerError(f"account {account.name}: not open yet; its first reservation opens it with its cap")
    if state.cap == account.cap:
        cap = account.cap.to_json()
        raise LedgerError(
            f"account {account.name}: its cap is rho={cap['rho']}, delta={cap['delta']} already; state the new one "
            "in hedgerow.toml first"
        )
    return CapChange(
        account=account.name,
        cap=account.cap,
        cap_before=state.cap,
        replaces=state.cap_entry,
        role=role,
        public_key=public_key,
        justification=justification,
    )


def change_cap(ledger: Ledger, change: CapChange, roles: Mapping[str, str]) -> int:
    """Records a signed cap change and returns its entry. Idempotent for the same signature.

    Args:
        ledger: where.
        change: signed.
        roles: the public key (hex) of each role that may change caps.

    Raises:
        LedgerError: the role may not, the signature is not its key's, the cap was changed meanwhile, or the new
            cap is below what is spent and held.
    """
    where = f"account {change.account}"
    if not change.justification.strip():
        raise LedgerError(f"{where}: a cap change needs a justification; say why it is needed")
    if roles.get(change.role) != change.public_key:
        allowed = ", ".join(sorted(roles)) or "none"
        raise LedgerError(
            f"{where}: role {change.role!r} with this key may not change caps; allowed: the keys that [[roles]] in "
            f"hedgerow.toml names ({allowed})"
        )
    if not change.is_signed:
        raise LedgerError(f"{where}: role {change.role!r} did not sign this cap change; sign it again")
    detail = change.to_detail()
    with ledger.recording() as book:
        state = book.account(change.account)
        if state is None:
            raise LedgerError(f"{where}: not open yet")
        if book.entry(state.cap_entry).detail == detail:
            return state.cap_entry
        if (change.replaces, change.cap_before) != (state.cap_entry, state.cap):
            raise LedgerError(f"{where}: its cap was changed meanwhile; propose and sign the change again")
        _check_enough(book, change, state)
        changed = replace(state, cap=change.cap, cap_entry=book.next_sequence)
        return book.append(
            EntryKind.CAP_CHANGE, account=change.account, subject=change.account, detail=detail, state=changed
        )


def _check_enough(book: Recorder, change: CapChange, state: AccountState) -> None:
    """Returns if the new cap covers what is spent and held, in each period of an account that renews."""
    for period in book.periods(change.account) if state.renews is not None else (None,):
        booked = book.balance(change.account, period) or state
        used = booked.spent + booked.held
        if shortage(used, change.cap) is not None:
            least = used.to_json()
            raise LedgerError(
                f"account {change.account}: the new cap is below what is spent and held; allowed: at least "
                f"rho={least['rho']}, delta={least['delta']}"
            )
