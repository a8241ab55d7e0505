"""Who may read what, for what: the point where governance's one decision function is plugged in.

A call names its caller (from its certificate or token), its purpose (metadata `hedgerow-purpose`) and, once its
selection is resolved, the resources that it reads: views and spaces by name, or `catalogue`. An `Authorizer` says yes
or no and by which rule: the project's policy (`PolicyAuthorizer`), or one of two trivial ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from governance.errors import AccessDenied
from governance.policy import Decision, Policy, ReadRequest, decide

__all__ = [
    "ANONYMOUS",
    "CATALOGUE",
    "PURPOSE_METADATA",
    "Access",
    "Authorizer",
    "Caller",
    "Permit",
    "PolicyAuthorizer",
    "Verdict",
    "check",
    "deny",
    "open_to_all",
]

_REMEMBERED: Final = 10_000

PURPOSE_METADATA: Final = "hedgerow-purpose"
"""Metadata key in which a caller states what it reads for."""

CATALOGUE: Final = "catalogue"
"""The device catalogue, as access rules name it."""

Permit = Callable[[tuple[str, ...], int], None]
"""Told the resources and the number of rows before any are read; raises `AccessDenied` where they may not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls.

    Attributes:
        name: the certificate's or token's subject; empty where nobody was authenticated.
        roles: the token's, empty for certificates.
        purposes: what the token limits the caller to; None: the token does not say.
    """

    name: str
    roles: frozenset[str] = frozenset()
    purposes: frozenset[str] | None = None


ANONYMOUS: Final = Caller(name="")
"""A caller that nobody asked for a name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What is to be decided.

    Attributes:
        caller: who.
        purpose: for what, as the call states it; empty where it does not.
        method: `hedgerow.serving.v1.FeatureService/GetFeatures`, ...
        resources: what is read.
        tried: whether it is tried; False: only asked, so that a refusal is nothing to record.
    """

    caller: Caller
    purpose: str
    method: str
    resources: tuple[str, ...]
    tried: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was decided.

    Attributes:
        allowed: whether the call may go on.
        rule: id of the rule that decided, for audit and messages.
        reason: in words; never a value or an id of an entity.
    """

    allowed: bool
    rule: str
    reason: str = ""


class Authorizer(Protocol):
    """Decides. Pure for a given policy, safe to call from many threads, and fast: it is asked in every call."""

    def __call__(self, access: Access, /) -> Verdict:
        """Says whether this access is allowed."""
        ...


class PolicyAuthorizer:
    """Asks `governance.policy.decide` for every resource of a call, and remembers what it said.

    Args:
        policy: the project's; fixed for the life of this object.
        refused: told of each refusal, and not again as long as it is remembered; e.g. a `RefusalRecorder` that writes
            to the ledger. It must not wait: calls do not.
    """

    def __init__(self, policy: Policy, refused: Callable[[Decision], object] = lambda _: None) -> None:
        self._policy = policy
        self._refused = refused
        self._known: dict[tuple[str, str, tuple[str, ...]], Verdict] = {}
        self._untold: dict[tuple[str, str, tuple[str, ...]], Decision] = {}

    def __call__(self, access: Access, /) -> Verdict:
        """See `Authorizer`."""
        key = (access.caller.name, access.purpose, access.resources)
        verdict = self._known.get(key)
        if verdict is None:
            verdict, refusal = self._decided(access)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
                self._untold.clear()
            self._known[key] = verdict
            if refusal is not None:
                self._untold[key] = refusal
        if access.tried and not verdict.allowed and (untold := self._untold.pop(key, None)) is not None:
            self._refused(untold)
        return verdict

    def _decided(self, access: Access) -> tuple[Verdict, Decision | None]:
        rules: list[str] = []
        for resource in access.resources:
            decision = decide(
                self._policy, ReadRequest(caller=access.caller.name, purpose=access.purpose, view=resource)
            )
            if not decision.allowed:
                return Verdict(allowed=False, rule=", ".join(decision.rules), reason=decision.explanation), decision
            rules += decision.rules
        return Verdict(allowed=True, rule=", ".join(dict.fromkeys(rules))), None


def open_to_all(_access: Access, /) -> Verdict:
    """Allows everything: for a demonstration on loopback."""
    return Verdict(allowed=True, rule="open")


def deny(_access: Access, /) -> Verdict:
    """Allows nothing: what a production server does until it is given a policy."""
    return Verdict(allowed=False, rule="default-deny", reason="no policy is loaded")


def check(authorizer: Authorizer, access: Access) -> Verdict:
    """Asks the token's own limits, then the authorizer.

    Raises:
        AccessDenied: either says no.
    """
    purposes = access.caller.purposes
    if purposes is not None and access.purpose not in purposes:
        raise AccessDenied(
            f"caller {access.caller.name!r}: its token does not allow this purpose; "
            f"allowed: {', '.join(sorted(purposes)) or 'none'}; state it in metadata {PURPOSE_METADATA!r}"
        )
    verdict = authorizer(access)
    if not verdict.allowed:
        reason = f" ({verdict.reason})" if verdict.reason else ""
        raise AccessDenied(
            f"caller {access.caller.name or 'anonymous'!r}: rule {verdict.rule} does not allow this{reason}; "
            f"ask for it in the policy, or state the purpose in metadata {PURPOSE_METADATA!r}"
        )
    return verdict
