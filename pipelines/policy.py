"""Definitions held against the project's policy, before anything runs."""

from __future__ import annotations

from typing import Literal

from governance.policy import Action, Decision, Policy, ReleaseRequest, decide
from governance.policy.facts import account_epsilon
from governance.settings import Settings
from pipelines.definitions import ContentEmbedding, Definition, Signal
from pipelines.plan import SignalPlan, plan_signal

__all__ = ["decide_definition", "request_of_embedding", "request_of_plan"]

_Action = Literal[Action.PLAN, Action.RUN]


def decide_definition(
    definition: Definition, settings: Settings, policy: Policy, action: _Action = Action.PLAN
) -> Decision:
    """What the policy says to one definition.

    Raises:
        AccountUnknown: hedgerow.toml has no account for it.
        DefinitionError: its budget cannot be met.
    """
    if isinstance(definition, Signal):
        return decide(policy, request_of_plan(plan_signal(definition, settings), settings, action))
    return decide(policy, request_of_embedding(definition, action))


def request_of_plan(
    plan: SignalPlan, settings: Settings, action: _Action, subject: str | None = None
) -> ReleaseRequest:
    """The facts that a policy decides by, as planned.

    Args:
        plan: of the signal.
        settings: says at which delta epsilon is told.
        action: what is about to be done.
        subject: the release's id; None: the definition.
    """
    signal, calibration = plan.signal, plan.calibration
    read = {
        signal.source.person,
        signal.source.timestamp,
        *signal.privacy_unit.columns,
        *signal.entity.keys,
        *(measure.column for measure in plan.recipe.measures if measure.column is not None),
        *(join.on for join in signal.joins),
    }
    return ReleaseRequest(
        action=action,
        subject=subject or signal.identity,
        signal=signal.name,
        owner=signal.owner,
        description=signal.description,
        purpose=str(signal.purpose),
        datasets=frozenset({signal.source.name}),
        columns=frozenset(read | {output.name for output in plan.recipe.outputs}),
        unit=signal.privacy_unit.label,
        epsilon=calibration.epsilon,
        account_epsilon=account_epsilon(plan.account, settings.reporting_delta),
        epsilon_delta=calibration.epsilon_delta,
        group_threshold=calibration.threshold,
        ttl=signal.ttl,
    )


def request_of_embedding(embedding: ContentEmbedding, action: _Action) -> ReleaseRequest:
    """The facts about vectors from public inputs: no dataset, no unit, no loss."""
    return ReleaseRequest(
        action=action,
        subject=embedding.identity,
        signal=embedding.name,
        owner=embedding.owner,
        description=embedding.description,
        purpose=str(embedding.purpose),
        columns=frozenset({embedding.key, *embedding.categories, *embedding.numeric}),
    )
