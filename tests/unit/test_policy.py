"""Policy: what is read from YAML, what is decided, and what is recorded of a refusal."""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from governance.errors import ConfigError, EnvironmentProblem, LedgerError, PolicyRefused
from governance.ledger import EntryKind, Ledger
from governance.policy import (
    Action,
    Decision,
    Policy,
    ReadRequest,
    RefusalRecorder,
    ReleaseRequest,
    decide,
    enforce,
    load_policy,
    record_refusals,
    request_of_manifest,
)
from governance.policy.decisions import NO_CATEGORY, NO_PERMISSION
from governance.policy.examples import run_examples, unshown_rules
from governance.settings import load_settings
from tests.support.releases import make_project, make_release, make_vector_release

RULES = """
datasets:
  events: {category: behaviour, description: What people did, kept: 13 months}
rules:
  - {id: EPS-1, kind: max_epsilon_per_release, epsilon: 1.0, where: {units: [user_id]}, reason: one week is one week}
  - {id: ACC-1, kind: max_epsilon_per_account, epsilon: 10, reason: all that is ever told}
  - {id: GROUP-1, kind: min_group_size, units: 20, reason: nobody in a handful}
  - {id: WHY-1, kind: allowed_purposes, category: behaviour, purposes: [ranking], reason: as people were told}
  - {id: COL-1, kind: forbidden_columns, columns: ["*email*"], reason: not needed for anything}
  - {id: KEEP-1, kind: retention, days: 30, reason: stale after a month}
  - {id: META-1, kind: required_metadata, owners: [team-*], description_characters: 10, reason: somebody answers}
  - {id: READ-1, kind: may_read, callers: [recommender], purposes: [ranking], views: ["genre_*"], reason: made for it}
"""

FINE = ReleaseRequest(
    action=Action.RUN,
    subject="genres/v1/2025-11-03",
    signal="genres",
    owner="team-reco",
    description="Listeners of each genre.",
    purpose="ranking",
    datasets=frozenset({"events"}),
    columns=frozenset({"user_id", "genre"}),
    unit="user_id",
    epsilon=0.9,
    account_epsilon=9.0,
    epsilon_delta=1e-6,
    group_threshold=20,
    ttl=timedelta(days=30),
    age=timedelta(days=30),
)


def policy_of(folder: Path, *texts: str) -> Policy:
    settings = make_project(folder)
    settings.policy_dir.mkdir()
    for number, text in enumerate(texts):
        (settings.policy_dir / f"{number}.yaml").write_text(text, encoding="utf-8")
    return load_policy(settings)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return policy_of(tmp_path / "project", RULES)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, None),
        ({"epsilon": 1.0}, None),
        ({"epsilon": 1.0000001}, "EPS-1"),
        ({"epsilon": math.inf}, "EPS-1"),
        ({"epsilon": 5.0, "unit": "event_id"}, None),
        ({"account_epsilon": 11.0}, "ACC-1"),
        ({"group_threshold": 19}, "GROUP-1"),
        ({"group_threshold": None}, None),
        ({"purpose": "trends"}, "WHY-1"),
        ({"columns": frozenset({"user_id", "EMail_hash"})}, "COL-1"),
        ({"ttl": timedelta(days=31)}, "KEEP-1"),
        ({"age": timedelta(days=31)}, "KEEP-1"),
        ({"age": None}, None),
        ({"owner": "somebody"}, "META-1"),
        ({"owner": " "}, "META-1"),
        ({"description": "   short   "}, "META-1"),
        ({"datasets": frozenset({"tickets"})}, NO_CATEGORY),
        ({"datasets": frozenset(), "unit": "", "epsilon": 0.0, "group_threshold": None}, None),
    ],
)
def test_each_rule_refuses_what_it_is_about(policy: Policy, change: dict[str, Any], rule: str | None) -> None:
    decision = decide(policy, replace(FINE, **change))
    assert decision.allowed is (rule is None)
    assert decision.rules == (() if rule is None else (rule,))
    assert decision.policy_sha256 == policy.sha256


def test_an_epsilon_told_at_a_larger_delta_is_not_compared(policy: Policy) -> None:
    decision = decide(policy, replace(FINE, epsilon=0.1, epsilon_delta=1e-3))
    assert decision.rules == ("EPS-1", "ACC-1")
    assert "told at delta 0.001, allowed: at 1e-06 or less" in decision.explanation


def test_every_objection_is_told_with_rule_finding_and_reason(policy: Policy) -> None:
    decision = decide(policy, replace(FINE, epsilon=2, purpose="ads"))
    assert decision.explanation == (
        "EPS-1: the release's epsilon is 2, allowed: 1 at delta 1e-06 (one week is one week); "
        "WHY-1: purpose 'ads' is not one for behaviour data, allowed: ranking (as people were told)"
    )
    assert decision.to_json()["refusals"] == [
        {"rule": r.rule, "found": r.found, "reason": r.reason} for r in decision.refusals
    ]


@pytest.mark.parametrize(
    ("caller", "purpose", "view", "allowed"),
    [
        ("recommender", "ranking", "genre_weekly_v1", True),
        ("recommender", "ads", "genre_weekly_v1", False),
        ("recommender", "ranking", "user_affinity_v1", False),
        ("intruder", "ranking", "genre_weekly_v1", False),
        ("", "ranking", "genre_weekly_v1", False),
    ],
)
def test_reads_need_a_permission(policy: Policy, caller: str, purpose: str, view: str, allowed: bool) -> None:
    decision = decide(policy, ReadRequest(caller=caller, purpose=purpose, view=view))
    assert decision.allowed is allowed
    assert decision.rules == (("READ-1",) if allowed else (NO_PERMISSION,))


def test_what_a_caller_sends_is_not_repeated_unless_it_is_a_name(policy: Policy) -> None:
    decision = decide(policy, ReadRequest(caller="recommender", purpose="user 4711's\nnewest", view="x" * 500))
    assert "4711" not in decision.explanation
    assert "xxx" not in decision.explanation


def test_a_project_without_policy_allows_and_says_so(tmp_path: Path) -> None:
    policy = load_policy(make_project(tmp_path / "project"))
    assert not policy.declared
    assert decide(policy, replace(FINE, epsilon=math.inf)).allowed
    assert decide(policy, ReadRequest(caller="", purpose="", view="anything")).allowed


def test_files_are_merged_and_the_hash_covers_what_decides(tmp_path: Path) -> None:
    whole = policy_of(tmp_path / "a", RULES)
    head, _, tail = RULES.partition("rules:\n")
    split = policy_of(tmp_path / "b", head, "rules:\n" + tail)
    assert split.sha256 == whole.sha256
    example = 'examples: [{say: x, when: {action: run}, refused_by: ["META-1"]}]'
    assert policy_of(tmp_path / "c", RULES, example).sha256 == whole.sha256
    assert policy_of(tmp_path / "d", RULES.replace("epsilon: 1.0", "epsilon: 1.1")).sha256 != whole.sha256


RULE = "{id: A-1, kind: min_group_size, units: 5, reason: long enough}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no table"),
        ("rules: [", "not valid YAML: line 1"),
        ("rules: []\nrules: []", "'rules' is given twice"),
        ("rules:\n  - {id: A-1, id: A-2, kind: retention, days: 1, reason: long enough}", "'id' is given twice"),
        (f"rules: [&a {RULE}, *a]", "anchors and aliases are not taken"),
        (f"rules: [{RULE}, {RULE}]", None),
        ("rools: []", "rools: Extra inputs are not permitted"),
        ("rules: [{id: A-1, kind: other, reason: long enough}]", "rule A-1"),
        ("rules: [{id: a1, kind: retention, days: 1, reason: long enough}]", "rule a1: retention.id"),
        ("rules: [{id: A-1, kind: retention, days: -1, reason: long enough}]", "rule A-1: retention.days"),
        ("rules: [{id: A-1, kind: retention, days: yes, reason: long enough}]", "rule A-1: retention.days"),
        ("rules: [{id: A-1, kind: retention, days: 1}]", "rule A-1: retention.reason: Field required"),
        ("rules: [{id: A-1, kind: retention, days: 1, reason: short}]", "rule A-1: retention.reason"),
        ("rules: [{kind: retention, days: 1, reason: long enough}]", "rule number 1: retention.id"),
        ("rules: [{id: A-1, kind: forbidden_columns, columns: [], reason: long enough}]", "columns"),
        ("rules: [{id: A-1, kind: forbidden_columns, columns: [no], reason: long enough}]", "columns.0"),
        (
            "rules: [{id: A-1, kind: max_epsilon_per_release, epsilon: .inf, reason: long enough}]",
            "rule A-1: max_epsilon_per_release.epsilon",
        ),
        (
            "rules: [{id: A-1, kind: max_epsilon_per_release, epsilon: -1, reason: long enough}]",
            "rule A-1: max_epsilon_per_release.epsilon",
        ),
        ("examples: [{say: x, when: {action: run}}]", "say either"),
        ("examples: [{say: x, when: {action: run}, allowed: true, refused_by: [A-1]}]", "say either"),
        ("record: {controller: {name: x, contact: y}}", "record.legal_basis: Field required"),
        ("{1: 2}", "Keys should be strings"),
        ("- a", "holds no table"),
        ("\x00", "not valid YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_place(tmp_path: Path, text: str, told: str | None) -> None:
    if told is None:
        with pytest.raises(ConfigError, match="rule id 'A-1' is given twice"):
            policy_of(tmp_path / "p", text)
        return
    with pytest.raises(ConfigError) as caught:
        policy_of(tmp_path / "p", text)
    assert told in str(caught.value)
    assert "0.yaml" in str(caught.value)


def test_a_rule_id_is_given_once_over_all_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1\.yaml: rule id 'A-1' is given twice, before in 0\.yaml"):
        policy_of(tmp_path / "p", f"rules: [{RULE}]", f"rules: [{RULE}]")


def test_a_folder_without_files_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \*.yaml in it"):
        policy_of(tmp_path / "p")


def test_examples_say_what_is_meant_and_show_every_rule(tmp_path: Path) -> None:
    examples = """
examples:
  - say: right
    when: {action: run, datasets: [events], owner: team-a, purpose: ranking, epsilon: 2}
    refused_by: [EPS-1]
  - say: wrong rule
    when: {action: run, datasets: [events], owner: team-a, purpose: ranking, epsilon: 2}
    refused_by: [ACC-1]
  - say: not all rules
    when: {action: run, datasets: [events], owner: me, purpose: ranking, epsilon: 2}
    refused_by: [EPS-1]
  - {say: not allowed, when: {action: read, caller: x, purpose: y, view: z}, allowed: true}
"""
    policy = policy_of(tmp_path / "p", RULES, examples)
    results = run_examples(policy)
    assert [(result.example.say, result.passed) for result in results] == [
        ("right", True),
        ("wrong rule", False),
        ("not all rules", False),
        ("not allowed", False),
    ]
    assert unshown_rules(policy, results) == ("ACC-1", "GROUP-1", "WHY-1", "COL-1", "KEEP-1", "META-1", "READ-1")


def test_a_manifest_is_decided_by_what_ran(tmp_path: Path, policy: Policy) -> None:
    settings = make_project(tmp_path / "shop")
    with Ledger(settings.ledger_path) as ledger:
        manifest = make_release(
            settings, ledger, signal="genres", keys={"genre": "string"}, features={"n": "int64"},
            rows={"genre": ["a"], "n": [1]}, rho="0.1",
        )  # fmt: skip
        vectors = make_vector_release(settings, ledger, ids=[1], vectors=[[1.0, 0.0]])
    now = datetime(2025, 12, 25, tzinfo=UTC)
    request = request_of_manifest(settings, manifest, now=now)
    assert (request.datasets, request.unit, request.group_threshold) == ({"events"}, "user_id", 12)
    assert request.columns == {"user_id", "genre", "n"}
    assert request.age == timedelta(days=45)
    assert request.epsilon == manifest.guarantee.epsilon
    assert decide(policy, request).rules == ("EPS-1", "ACC-1", "GROUP-1", "KEEP-1", "META-1")
    public = request_of_manifest(settings, vectors, now=now)
    assert (public.datasets, public.unit, public.epsilon, public.account_epsilon) == (frozenset(), "", 0.0, 0.0)
    assert decide(policy, public).rules == ("META-1",)


def test_a_release_of_an_account_that_is_gone_is_refused(tmp_path: Path, policy: Policy) -> None:
    settings = make_project(tmp_path / "shop")
    with Ledger(settings.ledger_path) as ledger:
        manifest = make_release(
            settings, ledger, signal="genres", keys={"genre": "string"}, features={"n": "int64"},
            rows={"genre": ["a"], "n": [1]}, rho="0.001",
        )  # fmt: skip
    assert "ACC-1" in decide(policy, request_of_manifest(replace(settings, accounts=()), manifest)).rules


def test_refusals_are_recorded_and_raised_together(tmp_path: Path, policy: Policy) -> None:
    settings = make_project(tmp_path / "shop")
    good = decide(policy, FINE)
    bad = decide(policy, replace(FINE, epsilon=3))
    worse = decide(policy, replace(FINE, subject="b/v1/x", purpose="ads"))
    with Ledger(settings.ledger_path) as ledger:
        enforce(ledger, [(good, None)])
        assert ledger.entries() == ()
        with pytest.raises(PolicyRefused) as caught:
            enforce(ledger, [(good, None), (bad, "events/user_id"), (worse, None)])
        entries = ledger.entries()
    assert caught.value.rules == ("EPS-1", "WHY-1")
    assert str(caught.value).startswith("genres/v1/2025-11-03: policy refuses to run: EPS-1: ")
    assert [(e.kind, e.account, e.subject) for e in entries] == [
        (EntryKind.REFUSED, "events/user_id", FINE.subject),
        (EntryKind.REFUSED, None, "b/v1/x"),
    ]
    assert [entry.detail["rules"] for entry in entries] == [["EPS-1"], ["WHY-1"]]
    assert entries[0].detail["reason"].startswith("policy refuses to run: EPS-1: the release's epsilon is 3, allowed")


def test_refused_reads_are_recorded_once_each_and_not_without_end(policy: Policy) -> None:
    written: list[Decision] = []
    recorder = RefusalRecorder(lambda: nullcontext(lambda decision, _again: written.append(decision)), most=2)

    def ask(view: str, caller: str = "intruder") -> bool:
        return recorder(decide(policy, ReadRequest(caller=caller, purpose="ranking", view=view)))

    assert [ask("a"), ask("a"), ask("genre_x", "recommender"), ask("b"), ask("c")] == [True, False, False, True, False]
    recorder.close(seconds=60)
    recorder.close(seconds=60)
    assert ask("d") is False
    assert [decision.subject for decision in written] == ["a", "b"]


def test_refused_reads_reach_the_ledger_from_many_threads(tmp_path: Path, policy: Policy) -> None:
    settings = make_project(tmp_path / "shop")
    nowhere = RefusalRecorder.to_ledger(settings)
    nowhere(decide(policy, ReadRequest(caller="x", purpose="ads", view="before")))
    nowhere.close()
    assert not settings.ledger_path.exists(), "a server makes no ledger"
    Ledger(settings.ledger_path).close()
    recorder = RefusalRecorder.to_ledger(settings)
    decisions = [decide(policy, ReadRequest(caller="x", purpose="ads", view=f"view_{n % 4}")) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(recorder, decisions)) == 4
    recorder.close(seconds=60)
    with Ledger(settings.ledger_path) as ledger:
        entries = ledger.entries()
    assert sorted(entry.subject for entry in entries) == ["view_0", "view_1", "view_2", "view_3"]
    assert {tuple(entry.detail["rules"]) for entry in entries} == {(NO_PERMISSION,)}


@pytest.mark.parametrize(
    "error",
    [LedgerError("the disk is full"), ConfigError("no key"), EnvironmentProblem("no psycopg"), OSError(13, "x")],
)
def test_a_ledger_that_cannot_be_written_changes_no_decision(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Whoever is refused learns nothing of it, and the entry is written once it can be."""
    monkeypatch.setattr("governance.policy.refusals._RETRY_SECONDS", (0.01, 0.01))
    tried: list[bool] = []
    written = threading.Event()

    def record(_decision: Decision, again: bool) -> None:
        tried.append(again)
        if len(tried) < 3:
            raise error
        written.set()

    recorder = RefusalRecorder(lambda: nullcontext(record))
    decision = decide(policy, ReadRequest(caller="x", purpose="ads", view="v"))
    assert recorder(decision) is True
    assert recorder(decision) is False
    assert written.wait(60)
    recorder.close(seconds=60)
    assert tried == [False, True, True], "what was tried before may have been written"
    assert caplog.text.count("could not be recorded; it stays refused and is tried again") == 1


def test_whoever_is_refused_does_not_wait_for_the_ledger(tmp_path: Path, policy: Policy) -> None:
    """Another process holds the ledger: the refusal is taken at once, and written when the ledger is free."""
    settings = make_project(tmp_path / "shop")
    with Ledger(settings.ledger_path) as ledger:
        record_refusals(ledger, [decide(policy, ReadRequest(caller="x", purpose="ads", view="first"))])
    recorder = RefusalRecorder.to_ledger(settings)
    with closing(sqlite3.connect(settings.ledger_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert recorder(decide(policy, ReadRequest(caller="x", purpose="ads", view="second"))) is True
        recorder.close(seconds=0.2)  # nor does the end of the server
        other.execute("ROLLBACK")
    for _ in range(1_000):
        with Ledger(settings.ledger_path) as ledger:
            if (subjects := [entry.subject for entry in ledger.entries()]) == ["first", "second"]:
                break
        time.sleep(0.01)
    assert subjects == ["first", "second"]


def test_what_was_written_after_all_is_not_written_again(tmp_path: Path, policy: Policy) -> None:
    """The entry is in the ledger, but publishing its head failed: the next try finds it there."""
    settings = make_project(tmp_path / "shop")
    Ledger(settings.ledger_path).close()
    decision = decide(policy, ReadRequest(caller="x", purpose="ads", view="v"))
    with Ledger(settings.ledger_path) as ledger:
        record_refusals(ledger, [decision])
    with RefusalRecorder.to_ledger(settings)._opened() as record:
        record(decision, True)
        with Ledger(settings.ledger_path) as ledger:
            assert len(ledger.entries()) == 1
        record(decision, False)
    with Ledger(settings.ledger_path) as ledger:
        assert len(ledger.entries()) == 2


@pytest.mark.parametrize("project", ["demo", "starter"])
def test_the_examples_policies_pass_their_own_examples(project: str) -> None:
    settings = load_settings(Path(__file__).parents[2] / "examples" / project / "project")
    policy = load_policy(settings)
    results = run_examples(policy)
    assert [result.example.say for result in results if not result.passed] == []
    assert unshown_rules(policy, results) == ()
    assert policy.record is not None
