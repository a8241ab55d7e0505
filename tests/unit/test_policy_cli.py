"""`hedgerow policy check` and `test`, as a data engineer's CI runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from examples.starter.cli import create_project
from governance.errors import ConfigError
from pipelines.policy_cli import app


@pytest.fixture
def project(tmp_path: Path) -> Path:
    create_project(tmp_path / "starter")
    return tmp_path / "starter"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_project_within_its_policy_passes(project: Path) -> None:
    result = CliRunner().invoke(app, ["check", "-p", str(project)])
    assert result.exit_code == 0
    assert "allowed  topic_weekly v1" in result.output
    assert not (project / "var").exists(), "checking writes nothing"


def test_a_refused_definition_fails_the_build_and_names_the_rule(project: Path) -> None:
    edit(project / "signals" / "topic_weekly.py", "ZCDP(rho=0.1)", "ZCDP(rho=0.3)")
    edit(project / "signals" / "topic_weekly.py", "Purpose.RANKING", "Purpose.ANALYTICS")
    result = CliRunner().invoke(app, ["check", "-p", str(project), "--json"])
    assert result.exit_code == 1
    value = json.loads(result.output)
    assert (value["passed"], value["refused"]) == (False, 1)
    decision = value["decisions"][0]
    assert (decision["subject"], decision["allowed"], decision["action"]) == ("topic_weekly v1", False, "plan")
    assert [refusal["rule"] for refusal in decision["refusals"]] == ["EPS-PERSON-1", "PURPOSE-1"]
    told = CliRunner().invoke(app, ["check", "-p", str(project)])
    assert told.exit_code == 1
    assert "REFUSED  topic_weekly v1" in told.output
    assert "PURPOSE-1: purpose 'analytics' is not one for behaviour data" in told.output


def test_a_forbidden_column_is_found_in_the_definition(project: Path) -> None:
    edit(project / "signals" / "topic_weekly.py", 'Mean("minutes"', 'Mean("email_minutes"')
    result = CliRunner().invoke(app, ["check", "-p", str(project), "--json"])
    assert json.loads(result.output)["decisions"][0]["refusals"][0]["rule"] == "COLUMNS-1"


def test_the_policys_own_examples_pass(project: Path) -> None:
    result = CliRunner().invoke(app, ["test", "-p", str(project), "--json"])
    assert result.exit_code == 0
    value = json.loads(result.output)
    assert value["passed"]
    assert value["rules_without_example"] == []


def test_a_rule_that_was_loosened_fails_its_example(project: Path) -> None:
    edit(project / "policy" / "rules.yaml", "epsilon: 2.5", "epsilon: 25")
    result = CliRunner().invoke(app, ["test", "-p", str(project)])
    assert result.exit_code == 1
    assert "FAILED  One release may not teach too much: allowed" in result.output
    assert "meant: refused by EPS-PERSON-1" in result.output
    assert "FAILED  EPS-PERSON-1: no example shows it at work" in result.output


def test_without_a_policy_there_is_nothing_to_check(project: Path) -> None:
    for path in (project / "policy").iterdir():
        path.unlink()
    (project / "policy").rmdir()
    for command in ("check", "test"):
        result = CliRunner().invoke(app, [command, "-p", str(project)])
        assert isinstance(result.exception, ConfigError)
        assert "there is no policy" in str(result.exception)
