"""The one decision function. Pure: the same policy and request give the same decision, with rule ids and reasons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from governance.policy.requests import Action, ReadRequest, ReleaseRequest, Request
from governance.policy.rules import AllowedPurposes, MayRead, Restriction

if TYPE_CHECKING:
    from governance.policy.document import Policy

__all__ = ["NO_CATEGORY", "NO_PERMISSION", "Decision", "Refusal", "decide"]

NO_CATEGORY = "HEDGEROW-CATEGORY"
"""Refuses datasets that the policy puts into no category, where it decides by category."""
NO_PERMISSION = "HEDGEROW-READ"
"""Refuses reads that no `may_read` rule permits."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.:/-]{0,63}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """One rule's objection.

    Attributes:
        rule: its id.
        found: what it objects to: found and allowed.
        reason: why the rule is there, in the policy's words.
    """

    rule: str
    found: str
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.found} ({self.reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the policy says to a request.

    Attributes:
        action: what was asked for.
        subject: of what.
        allowed: whether it may happen.
        refusals: every rule that objects, in the policy's order; empty if allowed.
        permitted_by: for a read, the rules that permit it.
        policy_sha256: which policy said so.
    """

    action: Action
    subject: str
    allowed: bool
    refusals: tuple[Refusal, ...]
    permitted_by: tuple[str, ...]
    policy_sha256: str

    @property
    def rules(self) -> tuple[str, ...]:
        """The ids behind it: those that refuse, or those that permit a read."""
        return tuple(refusal.rule for refusal in self.refusals) or self.permitted_by

    @property
    def explanation(self) -> str:
        """All refusals in one line; empty if allowed."""
        return "; ".join(str(refusal) for refusal in self.refusals)

    def to_json(self) -> dict[str, object]:
        """For `--json` and logs."""
        return {
            "action": str(self.action),
            "subject": self.subject,
            "allowed": self.allowed,
            "refusals": [{"rule": r.rule, "found": r.found, "reason": r.reason} for r in self.refusals],
            "permitted_by": list(self.permitted_by),
            "policy_sha256": self.policy_sha256,
        }


def decide(policy: Policy, request: Request) -> Decision:
    """Decides one request. Reads nothing and changes nothing.

    A release is allowed if no restriction objects. A read is allowed if some `may_read` rule permits it. A project
    without a policy (`Policy.declared` is false) allows both.

    Monotone: another restriction, a stricter number or list, or one permission less never allows more.
    """
    permitted_by: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    if isinstance(request, ReadRequest):
        permitted_by = tuple(r.id for r in policy.rules if isinstance(r, MayRead) and r.permits(request))
        if policy.declared and not permitted_by:
            refusals = (_no_permission(request),)
    else:
        refusals = tuple(_objections(policy, request))
    return Decision(
        action=request.action,
        subject=request.subject,
        allowed=not refusals,
        refusals=refusals,
        permitted_by=permitted_by,
        policy_sha256=policy.sha256,
    )


def _objections(policy: Policy, request: ReleaseRequest) -> list[Refusal]:
    category = policy.category_of
    restrictions = [rule for rule in policy.rules if isinstance(rule, Restriction)]
    refusals = [
        Refusal(rule.id, found, rule.reason)
        for rule in restrictions
        if (found := rule.refuses(request, category)) is not None
    ]
    unsorted = sorted(name for name in request.datasets if name not in category)
    if unsorted and any(isinstance(rule, AllowedPurposes) for rule in restrictions):
        found = f"the policy puts dataset {', '.join(unsorted)} into no category; add it to categories"
        refusals.append(Refusal(NO_CATEGORY, found, "purposes are allowed by category of data"))
    return refusals


def _no_permission(request: ReadRequest) -> Refusal:
    who = _named(request.caller) if request.caller else "a caller without a name"
    why = _named(request.purpose) if request.purpose else "no stated purpose"
    found = f"no rule lets {who} read {_named(request.view)} for {why}"
    return Refusal(NO_PERMISSION, found, "what no may_read rule permits is refused")


def _named(text: str) -> str:
    """A name as the caller gave it, if it is one: what else a caller sends is not for ledgers and logs."""
    return text if _NAME.fullmatch(text) else "(not a name)"
