"""What a report says beside releases and accounts: processing, policy, guarantees. Frozen records, like `document`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ActivityRecord",
    "DatasetRecord",
    "DecisionRecord",
    "GuaranteeRecord",
    "Objection",
    "PolicyRecord",
    "ProcessingRecord",
    "QualityRecord",
    "RuleRecord",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRecord:
    """A private dataset; `category`, `description` and `kept` are what the policy says, empty if it says nothing."""

    name: str
    category: str
    description: str
    kept: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityRecord:
    """One processing activity: a signal, as its newest trusted release says it ran.

    Attributes:
        group: `<signal>/v<version>`.
        purpose: what the signal may be used for.
        owner: who answers for it.
        description: one sentence.
        datasets: private datasets that it reads; empty: public inputs alone.
        unit: the privacy unit's label; empty: nobody's data.
        columns_read: of private datasets.
        columns_released: all columns of the release.
        bounds: contribution bounds, names and values.
        selection: `public` or `private` keys.
        ttl_seconds: how long after its window's end a value may be served; 0: it does not age.
        releases: how many there are.
        newest_window_end: ISO 8601 UTC; empty for a snapshot.
        served_until: when its newest values go stale; empty if they do not.
    """

    group: str
    purpose: str
    owner: str
    description: str
    datasets: tuple[str, ...]
    unit: str
    columns_read: tuple[str, ...]
    columns_released: tuple[str, ...]
    bounds: Mapping[str, Any]
    selection: str
    ttl_seconds: int
    releases: int
    newest_window_end: str
    served_until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessingRecord:
    """The record of processing (GDPR Art. 30).

    Attributes:
        statement: what people state (`governance.policy.record`), as JSON; None if nobody has.
        datasets: whose data.
        activities: for what.
    """

    statement: Mapping[str, Any] | None
    datasets: tuple[DatasetRecord, ...]
    activities: tuple[ActivityRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRecord:
    """One rule in force. `says` holds its own numbers and lists."""

    id: str
    kind: str
    reason: str
    says: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """A rule that refuses something."""

    rule: str
    found: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """What the policy in force says to a release that exists."""

    subject: str
    action: str
    allowed: bool
    objections: tuple[Objection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    """The policy in force.

    Attributes:
        declared: whether there is one.
        sha256: of what decides.
        rules: in its order.
        decisions: about every trusted release.
        examples: how many the policy has.
        examples_failed: what those say that are decided otherwise.
        rules_unshown: ids of rules that no example shows at work.
    """

    declared: bool
    sha256: str
    rules: tuple[RuleRecord, ...]
    decisions: tuple[DecisionRecord, ...]
    examples: int
    examples_failed: tuple[str, ...]
    rules_unshown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuaranteeRecord:
    """A signal's guarantee, as the disclosure of its newest trusted release tells it."""

    group: str
    release_id: str
    disclosure: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRecord:
    """One check of a signal's inputs or output, over all its trusted releases."""

    group: str
    check: str
    passed: int
    failed: int
