"""A policy's own examples: requests with the decision that the policy's authors mean, run by `hedgerow policy test`.

An example states only the facts that matter; the others are those of a harmless release. A refused example names
exactly the rules that refuse it. A rule that no example shows at work is reported: nobody has seen it do anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from governance.policy.requests import Action, ReadRequest, ReleaseRequest, Request
from governance.policy.rules import Model, Text

if TYPE_CHECKING:
    from governance.policy.decisions import Decision
    from governance.policy.document import Policy

__all__ = ["Example", "ExampleResult", "ReadFacts", "ReleaseFacts", "run_examples", "unshown_rules"]


class ReleaseFacts(Model):
    """The facts of a release, for an example. See `ReleaseRequest`."""

    action: Literal["plan", "run", "publish"]
    signal: Text = "example"
    owner: str = "example-owner"
    description: str = "An example that says at sufficient length what it is and what it is good for."
    purpose: str = ""
    datasets: tuple[Text, ...] = ()
    columns: tuple[Text, ...] = ()
    unit: str = "user_id"
    epsilon: Annotated[float, Field(ge=0)] = 0.0
    account_epsilon: Annotated[float, Field(ge=0)] = 0.0
    epsilon_delta: Annotated[float, Field(gt=0, lt=1)] = 1e-9
    group_threshold: int | None = None
    ttl_days: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    age_days: Annotated[float, Field(ge=0, le=1e6)] | None = None

    def request(self) -> Request:
        """The request it stands for."""
        return ReleaseRequest(
            action=_RELEASE_ACTIONS[self.action],
            subject=self.signal,
            signal=self.signal,
            owner=self.owner,
            description=self.description,
            purpose=self.purpose,
            datasets=frozenset(self.datasets),
            columns=frozenset(self.columns),
            unit=self.unit if self.datasets else "",
            epsilon=self.epsilon,
            account_epsilon=self.account_epsilon,
            epsilon_delta=self.epsilon_delta,
            group_threshold=self.group_threshold,
            ttl=timedelta(days=self.ttl_days),
            age=None if self.age_days is None else timedelta(days=self.age_days),
        )


class ReadFacts(Model):
    """The facts of a read, for an example."""

    action: Literal["read"]
    caller: str
    purpose: str
    view: str

    def request(self) -> Request:
        """The request it stands for."""
        return ReadRequest(caller=self.caller, purpose=self.purpose, view=self.view)


_RELEASE_ACTIONS: dict[str, Literal[Action.PLAN, Action.RUN, Action.PUBLISH]] = {
    "plan": Action.PLAN,
    "run": Action.RUN,
    "publish": Action.PUBLISH,
}


class Example(Model):
    """One request and the decision that is meant: `allowed: true`, or `refused_by` with exactly the refusing rules."""

    say: Text
    when: Annotated[ReleaseFacts | ReadFacts, Field(discriminator="action")]
    allowed: Literal[True] | None = None
    refused_by: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _one_outcome(self) -> Example:
        if bool(self.allowed) == bool(self.refused_by):
            raise ValueError("say either 'allowed: true' or 'refused_by: [RULE-ID, ...]'")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleResult:
    """An example and what the policy decides."""

    example: Example
    decision: Decision

    @property
    def passed(self) -> bool:
        """Whether the decision is the one that is meant."""
        if self.example.allowed:
            return self.decision.allowed
        return set(self.example.refused_by) == {refusal.rule for refusal in self.decision.refusals}

    @property
    def found(self) -> str:
        """What the policy decides, in a line."""
        return "allowed" if self.decision.allowed else f"refused by {', '.join(self.decision.rules)}"


def run_examples(policy: Policy) -> tuple[ExampleResult, ...]:
    """Decides every example."""
    from governance.policy.decisions import decide

    return tuple(
        ExampleResult(example=example, decision=decide(policy, example.when.request())) for example in policy.examples
    )


def unshown_rules(policy: Policy, results: tuple[ExampleResult, ...]) -> tuple[str, ...]:
    """Ids of rules that no example shows refusing (or, for reads, permitting) something."""
    shown = {rule for result in results if result.passed for rule in result.decision.rules}
    return tuple(rule.id for rule in policy.rules if rule.id not in shown)
