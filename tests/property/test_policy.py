"""Policy decisions are monotone: a stricter rule, another restriction or one permission less never allows more."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from hypothesis import event, given
from hypothesis import strategies as st

from governance.policy import Action, Policy, ReadRequest, ReleaseRequest, Request, decide
from governance.policy.record import Dataset
from governance.policy.rules import (
    AllowedPurposes,
    ForbiddenColumns,
    MaxEpsilonPerAccount,
    MaxEpsilonPerRelease,
    MayRead,
    MinGroupSize,
    RequiredMetadata,
    Restriction,
    Retention,
    Scope,
)
from tests.support.strategies import examples

REASON = "because it is so"
NAMES = ("a", "ab", "b", "c_email")
names = st.sampled_from(NAMES)
patterns = st.lists(st.sampled_from((*NAMES, "*", "a*", "*email*")), min_size=1, max_size=3).map(tuple)
numbers = st.sampled_from((0.0, 0.5, 1.0, 2.0, 10.0))
deltas = st.sampled_from((1e-9, 1e-6, 1e-3))
days = st.integers(0, 5)

scopes = st.builds(Scope, datasets=patterns, units=patterns, signals=patterns)


def rule_ids(draw: st.DrawFn) -> str:
    return f"R-{draw(st.integers(0, 10**9))}"


@st.composite
def restrictions(draw: st.DrawFn) -> Restriction:
    common = {"id": rule_ids(draw), "reason": REASON, "where": draw(scopes)}
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return MaxEpsilonPerRelease(kind="max_epsilon_per_release", epsilon=draw(numbers), delta=draw(deltas), **common)
    if kind == 1:
        return MaxEpsilonPerAccount(kind="max_epsilon_per_account", epsilon=draw(numbers), delta=draw(deltas), **common)
    if kind == 2:
        return MinGroupSize(
            kind="min_group_size", units=draw(st.integers(1, 5)), public_keys=draw(st.booleans()), **common
        )
    if kind == 3:
        return AllowedPurposes(
            kind="allowed_purposes", category=draw(names), purposes=draw(st.lists(names).map(tuple)), **common
        )
    if kind == 4:
        return ForbiddenColumns(kind="forbidden_columns", columns=draw(patterns), **common)
    if kind == 5:
        return Retention(kind="retention", days=draw(days), **common)
    return RequiredMetadata(
        kind="required_metadata", owners=draw(patterns), description_characters=draw(st.integers(1, 4)), **common
    )


@st.composite
def permissions(draw: st.DrawFn) -> MayRead:
    return MayRead(
        kind="may_read", id=rule_ids(draw), reason=REASON,
        callers=draw(patterns), purposes=draw(patterns), views=draw(patterns),
    )  # fmt: skip


datasets = st.dictionaries(names, names.map(lambda c: Dataset(category=c, description="x", kept="y")), max_size=4).map(
    lambda found: tuple(sorted(found.items()))
)

policies = st.builds(
    lambda rules, found: Policy(rules=tuple(rules), datasets=found),
    st.lists(st.one_of(restrictions(), permissions()), max_size=5),
    datasets,
)

requests: st.SearchStrategy[Request] = st.one_of(
    st.builds(
        ReleaseRequest,
        action=st.sampled_from((Action.PLAN, Action.RUN, Action.PUBLISH)),
        subject=st.just("s/v1/x"),
        signal=names,
        owner=st.one_of(names, st.just("")),
        description=st.text(max_size=5),
        purpose=names,
        datasets=st.frozensets(names, max_size=2),
        columns=st.frozensets(names, max_size=3),
        unit=names,
        epsilon=numbers,
        account_epsilon=numbers,
        epsilon_delta=deltas,
        group_threshold=st.one_of(st.none(), st.integers(1, 6)),
        ttl=days.map(lambda n: timedelta(days=n)),
        age=st.one_of(st.none(), days.map(lambda n: timedelta(days=n))),
    ),
    st.builds(ReadRequest, caller=st.one_of(names, st.just("")), purpose=names, view=names),
)


def tightened(rule: Restriction, draw: st.DrawFn) -> Restriction:
    """A rule that is at least as strict: of a wider scope, and in its own numbers and lists."""
    wider = Scope(
        datasets=(*rule.where.datasets, *draw(patterns)),
        units=(*rule.where.units, *draw(patterns)),
        signals=(*rule.where.signals, *draw(patterns)),
    )
    change: dict[str, object] = {"where": wider if draw(st.booleans()) else rule.where}
    share = draw(st.sampled_from((0.0, 0.5, 1.0)))
    if isinstance(rule, MaxEpsilonPerRelease | MaxEpsilonPerAccount):
        change |= {"epsilon": rule.epsilon * share, "delta": min(rule.delta, draw(deltas))}
    elif isinstance(rule, MinGroupSize):
        change |= {
            "units": rule.units + draw(st.integers(0, 3)),
            "public_keys": rule.public_keys and draw(st.booleans()),
        }
    elif isinstance(rule, AllowedPurposes):
        change |= {"purposes": tuple(p for p in rule.purposes if draw(st.booleans()))}
    elif isinstance(rule, ForbiddenColumns):
        change |= {"columns": (*rule.columns, *draw(patterns))}
    elif isinstance(rule, Retention):
        change |= {"days": int(rule.days * share)}
    elif isinstance(rule, RequiredMetadata):
        kept = tuple(owner for owner in rule.owners if draw(st.booleans())) or rule.owners
        change |= {"owners": kept, "description_characters": rule.description_characters + draw(st.integers(0, 2))}
    return rule.model_copy(update=change)


@st.composite
def policy_and_stricter(draw: st.DrawFn) -> tuple[Policy, Policy]:
    policy = draw(policies)
    rules = []
    for rule in policy.rules:
        if isinstance(rule, MayRead):
            if draw(st.booleans()):
                rules.append(rule)
        else:
            assert isinstance(rule, Restriction)
            rules.append(tightened(rule, draw) if draw(st.booleans()) else rule)
    rules += draw(st.lists(restrictions(), max_size=2))
    return policy, replace(policy, rules=tuple(rules))


@examples(400)
@given(pair=policy_and_stricter(), request=requests)
def test_a_stricter_policy_never_allows_more(pair: tuple[Policy, Policy], request: Request) -> None:
    policy, stricter = pair
    before, after = decide(policy, request), decide(stricter, request)
    event(f"{before.allowed} -> {after.allowed}")
    assert before.allowed or not after.allowed


@examples(200)
@given(policy=policies, request=requests)
def test_having_a_policy_never_allows_more_than_having_none(policy: Policy, request: Request) -> None:
    assert decide(Policy.none(), request).allowed
    decision = decide(policy, request)
    assert decision == decide(policy, request)
    assert decision.allowed is not bool(decision.refusals)


@examples(200)
@given(policy=policies, request=requests, data=st.data())
def test_a_worse_request_is_never_allowed_where_a_better_one_is_not(
    policy: Policy, request: Request, data: st.DataObject
) -> None:
    if isinstance(request, ReadRequest):
        return
    worse = replace(
        request,
        epsilon=request.epsilon + data.draw(numbers),
        account_epsilon=request.account_epsilon + data.draw(numbers),
        columns=request.columns | data.draw(st.frozensets(names)),
        ttl=request.ttl + timedelta(days=data.draw(days)),
        group_threshold=request.group_threshold and max(1, request.group_threshold - data.draw(days)),
    )
    assert decide(policy, request).allowed or not decide(policy, worse).allowed


def test_the_property_notices_a_rule_that_loosens() -> None:
    """The check itself can fail: a looser limit does allow more."""
    strict = MaxEpsilonPerRelease(kind="max_epsilon_per_release", id="R-1", reason=REASON, epsilon=1)
    loose = strict.model_copy(update={"epsilon": 2.0})
    request = ReleaseRequest(
        action=Action.RUN, subject="s", signal="s", owner="o", description="d", purpose="p",
        datasets=frozenset({"a"}), epsilon=1.5, epsilon_delta=1e-9,
    )  # fmt: skip
    assert decide(Policy(rules=(loose,)), request).allowed
    assert not decide(Policy(rules=(strict,)), request).allowed
