"""The kinds of rule. Each is one frozen class: what it says in the project's YAML, and what it refuses or permits.

| kind | refuses |
|---|---|
| `max_epsilon_per_release` | a release whose epsilon is larger, or told at a larger delta |
| `max_epsilon_per_account` | a release paid by an account whose cap allows a larger epsilon |
| `min_group_size` | a release that could show a group of fewer units |
| `allowed_purposes` | a purpose that is not listed for a category of data |
| `forbidden_columns` | reading or releasing a column whose name matches |
| `retention` | values that may be served, or are published, longer than so many days after their window |
| `required_metadata` | a definition without owner or description, or of an owner who is not listed |

| kind | permits |
|---|---|
| `may_read` | these callers, for these purposes, these views; what no such rule permits is refused |

Every restriction is monotone in its numbers and lists: a lower maximum, a higher minimum, a shorter list of what is
allowed or a longer one of what is forbidden never permits more.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from governance.policy.requests import ReadRequest, ReleaseRequest

__all__ = [
    "AllowedPurposes",
    "ForbiddenColumns",
    "MaxEpsilonPerAccount",
    "MaxEpsilonPerRelease",
    "MayRead",
    "MinGroupSize",
    "RequiredMetadata",
    "Restriction",
    "Retention",
    "Rule",
    "Scope",
    "Text",
]

Text = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]
RuleId = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Z][A-Z0-9]*(-[A-Z0-9]+)+$")]
Reason = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=10)]
Patterns = Annotated[tuple[Text, ...], Field(min_length=1)]
_EVERYTHING = ("*",)


class Model(BaseModel):
    """A frozen value from YAML; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Scope(Model):
    """Which releases a restriction is about; patterns as of a shell, each list matching any of its members."""

    datasets: Patterns = _EVERYTHING
    units: Patterns = _EVERYTHING
    signals: Patterns = _EVERYTHING

    def covers(self, request: ReleaseRequest) -> bool:
        """Whether a rule with this scope has a say; a release that reads no private data has the dataset `""`."""
        return (
            any(_matches(name, self.datasets) for name in request.datasets or ("",))
            and _matches(request.unit, self.units)
            and _matches(request.signal, self.signals)
        )


class _Rule(Model):
    """What every rule has: an id that never changes its meaning, and why the rule is there."""

    id: RuleId
    reason: Reason


class Restriction(_Rule):
    """A rule that can refuse a release."""

    where: Scope = Scope()

    def refuses(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        """Why it refuses, or None.

        Args:
            request: the release.
            category: dataset → category of data.
        """
        return self._objection(request, category) if self.where.covers(request) else None

    def _objection(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        raise NotImplementedError


class MaxEpsilonPerRelease(Restriction):
    """No single release may teach more."""

    kind: Literal["max_epsilon_per_release"]
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-6

    def _objection(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        del category
        return _over("the release's", request.epsilon, request, self.epsilon, self.delta)


class MaxEpsilonPerAccount(Restriction):
    """No account may allow more: its cap is what counts, spent or not; of one that renews, the cap of one period."""

    kind: Literal["max_epsilon_per_account"]
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-6

    def _objection(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        del category
        return _over("the account cap's", request.account_epsilon, request, self.epsilon, self.delta)


class MinGroupSize(Restriction):
    """No group of fewer units may show; `public_keys` says whether keys that are known beforehand may all be shown."""

    kind: Literal["min_group_size"]
    units: Annotated[int, Field(ge=1, strict=True)]
    public_keys: Annotated[bool, Field(strict=True)] = True

    def _objection(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        del category
        if not request.datasets:
            return None
        if request.group_threshold is None:
            return None if self.public_keys else "its keys are public, and groups of any size are released"
        if request.group_threshold >= self.units:
            return None
        return f"it releases groups from {request.group_threshold} noisy units on, allowed: from {self.units}"


class AllowedPurposes(Restriction):
    """A category of data is for these purposes only."""

    kind: Literal["allowed_purposes"]
    category: Text
    purposes: tuple[Text, ...]

    def _objection(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        mine = any(category.get(name) == self.category for name in request.datasets)
        if not mine or request.purpose in self.purposes:
            return None
        allowed = ", ".join(self.purposes) or "none"
        return f"purpose {request.purpose!r} is not one for {self.category} data, allowed: {allowed}"


class ForbiddenColumns(Restriction):
    """Columns that are neither read nor released, whatever the noise. Case does not matter."""

    kind: Literal["forbidden_columns"]
    columns: Patterns

    def _objection(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        del category
        lowered = tuple(pattern.lower() for pattern in self.columns)
        found = sorted(name for name in request.columns if _matches(name.lower(), lowered))
        return f"it uses the forbidden column {', '.join(found)}" if found else None


class Retention(Restriction):
    """Values are served, and releases published, only so long after the end of their window."""

    kind: Literal["retention"]
    days: Annotated[int, Field(ge=0, strict=True)]

    def _objection(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        del category
        limit = timedelta(days=self.days)
        if request.ttl > limit:
            return f"its values may be served for {_days(request.ttl)}, allowed: {self.days} days"
        if request.age is not None and request.age > limit:
            return f"its window ended {_days(request.age)} ago, allowed: {self.days} days"
        return None


class RequiredMetadata(Restriction):
    """A definition says who answers for it and what it is."""

    kind: Literal["required_metadata"]
    owners: Patterns = _EVERYTHING
    description_characters: Annotated[int, Field(ge=1, strict=True)] = 1

    def _objection(self, request: ReleaseRequest, category: dict[str, str]) -> str | None:
        del category
        if not request.owner.strip():
            return "it has no owner"
        if not _matches(request.owner, self.owners):
            return f"its owner {request.owner!r} is not one of {', '.join(self.owners)}"
        length = len(request.description.strip())
        if length < self.description_characters:
            return f"its description has {length} characters, allowed: at least {self.description_characters}"
        return None


class MayRead(_Rule):
    """These callers may read these views for these purposes."""

    kind: Literal["may_read"]
    callers: Patterns
    purposes: Patterns
    views: Patterns

    def permits(self, request: ReadRequest) -> bool:
        """Whether this rule is enough to permit the read. A caller without a name is nobody's."""
        return bool(request.caller) and (
            _matches(request.caller, self.callers)
            and _matches(request.purpose, self.purposes)
            and _matches(request.view, self.views)
        )


Rule = Annotated[
    MaxEpsilonPerRelease
    | MaxEpsilonPerAccount
    | MinGroupSize
    | AllowedPurposes
    | ForbiddenColumns
    | Retention
    | RequiredMetadata
    | MayRead,
    Field(discriminator="kind"),
]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _over(whose: str, epsilon: float, request: ReleaseRequest, limit: float, delta: float) -> str | None:
    """An epsilon told at a larger delta promises less, so it is not compared but refused."""
    if not request.datasets:
        return None
    if request.epsilon_delta > delta:
        return f"{whose} epsilon is told at delta {request.epsilon_delta:g}, allowed: at {delta:g} or less"
    if epsilon <= limit:
        return None
    return f"{whose} epsilon is {epsilon:.4g}, allowed: {limit:g} at delta {delta:g}"


def _days(span: timedelta) -> str:
    return f"{span / timedelta(days=1):.4g} days"
