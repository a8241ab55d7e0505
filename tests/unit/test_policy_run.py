"""A run and a plan that the policy refuses: nothing is read, and the ledger keeps what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from examples.starter.cli import create_project
from governance.errors import PolicyRefused
from governance.ledger import EntryKind, open_ledger
from governance.policy import Action, decide, load_policy
from governance.settings import Settings, load_settings
from pipelines.cli import plan
from pipelines.plan import plan_signal
from pipelines.policy import decide_definition, request_of_plan
from pipelines.project import load_project
from pipelines.run import run

EMBEDDING = """
from pipelines import ContentEmbedding, PublicTable, Purpose

TOPICS = ContentEmbedding(
    name="topic_vectors", version=1, owner="you", purpose=Purpose.RETRIEVAL, description="words",
    source=PublicTable(name="topics", table="data/topics.parquet"), key="topic", title="email",
)
"""


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    create_project(tmp_path / "starter")
    signal = tmp_path / "starter" / "signals" / "topic_weekly.py"
    text = signal.read_text(encoding="utf-8")
    assert "ZCDP(rho=0.1)" in text
    signal.write_text(text.replace("ZCDP(rho=0.1)", "ZCDP(rho=0.3)"), encoding="utf-8")
    return load_settings(tmp_path / "starter")


def refused(settings: Settings) -> list[tuple[str | None, str, list[str]]]:
    with open_ledger(settings) as ledger:
        entries = ledger.entries()
    assert {entry.kind for entry in entries} <= {EntryKind.OPEN, EntryKind.REFUSED}, "nothing was reserved"
    return [(e.account, e.subject, e.detail["rules"]) for e in entries if e.kind is EntryKind.REFUSED]


def test_a_refused_run_reads_nothing_and_is_recorded(project: Settings) -> None:
    (project.root / "data" / "reads.parquet").unlink()
    with pytest.raises(PolicyRefused, match=r"topic_weekly/v1/2025-10-27: policy refuses to run: EPS-PERSON-1: "):
        run(project)
    assert refused(project) == [("reads/user_id", "topic_weekly/v1/2025-10-27", ["EPS-PERSON-1"])]


def test_vectors_are_judged_too_and_one_refusal_stops_the_whole_run(project: Settings) -> None:
    (project.signals_dir / "topic_vectors.py").write_text(EMBEDDING, encoding="utf-8")
    with pytest.raises(PolicyRefused) as caught:
        run(project)
    assert caught.value.rules == ("EPS-PERSON-1", "COLUMNS-1", "META-1")
    assert [subject for _, subject, _ in refused(project)] == ["topic_weekly/v1/2025-10-27", "topic_vectors v1"]
    assert not project.releases_dir.exists()


def test_a_plan_shows_what_the_policy_refuses_and_writes_nothing(project: Settings) -> None:
    app = typer.Typer()
    app.command()(plan)
    told = CliRunner().invoke(app, ["-p", str(project.root)])
    assert told.exit_code == 1
    assert "refused  topic_weekly v1  EPS-PERSON-1: the release's epsilon is " in told.output
    as_json = CliRunner().invoke(app, ["-p", str(project.root), "--json"])
    assert as_json.exit_code == 1
    (decision,) = json.loads(as_json.output)["policy"]
    assert (decision["action"], decision["allowed"]) == ("plan", False)
    assert not project.state_dir.exists()


def test_refused_plans_are_recorded_once_where_there_is_a_ledger(project: Settings) -> None:
    app = typer.Typer()
    app.command()(plan)
    open_ledger(project).close()
    for _ in range(2):
        assert CliRunner().invoke(app, ["-p", str(project.root)]).exit_code == 1
    assert refused(project) == [(None, "topic_weekly v1", ["EPS-PERSON-1"])]


def test_the_same_rules_at_every_stage(project: Settings) -> None:
    """A decision at plan and at run time differs in nothing but the action and what it is about."""
    policy = load_policy(project)
    (signal,) = load_project(project).signals
    planned = decide_definition(signal, project, policy)
    ran = decide(policy, request_of_plan(plan_signal(signal, project), Action.RUN, "topic_weekly/v1/x"))
    assert planned.refusals == ran.refusals
