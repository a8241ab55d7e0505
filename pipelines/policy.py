"""Definitions held against the project's policy, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from governance.ledger import Ledger
from governance.policy import Action, Decision, Policy, ReleaseRequest, decide, enforce, load_policy
from governance.policy.facts import account_epsilon
from governance.settings import Settings
from pipelines.compiled import compile_definition
from pipelines.definitions import ContentEmbedding, Definition, Signal
from pipelines.plan import SignalPlan, plan_signal

__all__ = ["decide_definition", "enforce_run", "request_of_embedding", "request_of_plan"]

_Action = Literal[Action.PLAN, Action.RUN]
_NAMES_COLUMNS = frozenset(
    {"categories", "column", "columns", "explode", "key", "keys", "numeric", "on", "person", "timestamp", "title"}
)
"""Keys of a compiled definition whose values are names of columns."""


def decide_definition(
    definition: Definition, settings: Settings, policy: Policy, action: _Action = Action.PLAN
) -> Decision:
    """What the policy says to one definition.

    Raises:
        AccountUnknown: hedgerow.toml has no account for it.
        DefinitionError: its budget cannot be met.
    """
    if isinstance(definition, Signal):
        return decide(policy, request_of_plan(plan_signal(definition, settings), action))
    return decide(policy, request_of_embedding(definition, action))


def enforce_run(
    settings: Settings, ledger: Ledger, planned: Iterable[tuple[SignalPlan, str]], definitions: Iterable[Definition]
) -> None:
    """Lets a run go on if the policy allows all of it.

    Args:
        settings: the project.
        ledger: records what is refused.
        planned: each release that is about to be made, with its id.
        definitions: of which embeddings are judged as they stand.

    Raises:
        PolicyRefused: some release is refused; each refusal is in the ledger, nothing was read.
    """
    policy = load_policy(settings)
    decisions: list[tuple[Decision, str | None]] = [
        (decide(policy, request_of_plan(plan, Action.RUN, release_id)), plan.account.name)
        for plan, release_id in planned
    ]
    decisions += [
        (decide(policy, request_of_embedding(one, Action.RUN)), None)
        for one in definitions
        if isinstance(one, ContentEmbedding)
    ]
    enforce(ledger, decisions)


def request_of_plan(plan: SignalPlan, action: _Action, subject: str | None = None) -> ReleaseRequest:
    """The facts that a policy decides by, as planned.

    Args:
        plan: of the signal.
        action: what is about to be done.
        subject: the release's id; None: the definition.
    """
    signal, calibration = plan.signal, plan.calibration
    return ReleaseRequest(
        action=action,
        subject=subject or signal.identity,
        signal=signal.name,
        owner=signal.owner,
        description=signal.description,
        purpose=str(signal.purpose),
        datasets=frozenset({signal.source.name}),
        columns=frozenset({*_columns(compile_definition(signal)), *signal.aggregates}),
        unit=signal.privacy_unit.label,
        epsilon=calibration.epsilon,
        account_epsilon=account_epsilon(plan.account, calibration.epsilon_delta),
        epsilon_delta=calibration.epsilon_delta,
        # In whole units, of which each adds 1 at most.
        group_threshold=None if plan.threshold is None else math.floor(plan.threshold),
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
        columns=frozenset(_columns(compile_definition(embedding))),
    )


def _columns(compiled: Mapping[str, Any]) -> Iterator[str]:
    """Every column that a definition names, wherever it names it."""
    for key, value in compiled.items():
        if key in _NAMES_COLUMNS:
            yield from (value,) if isinstance(value, str) else (name for name in value or () if isinstance(name, str))
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, Mapping):
                yield from _columns(item)
