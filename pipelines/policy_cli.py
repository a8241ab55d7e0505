"""`hedgerow policy`: a project's rules, in the data engineer's own CI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from governance.errors import ConfigError
from governance.options import AsJson, Project
from governance.policy import Decision, Policy, load_policy
from governance.settings import load_settings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)


@app.command()
def check(
    signals: Annotated[list[str] | None, typer.Argument(metavar="[SIGNAL]...", help="Which; by default all.")] = None,
    project: Project = Path(),
    as_json: AsJson = False,
) -> None:
    """Hold every definition against the policy: exit 1 if a rule refuses one.

    Reads no data and spends nothing, so it fits the CI of a repository of definitions.
    """
    from pipelines.policy import decide_definition
    from pipelines.project import load_project

    settings = load_settings(project)
    policy = _declared(load_policy(settings), settings.policy_dir)
    chosen = load_project(settings).select(tuple(signals or ()))
    decisions = tuple(decide_definition(definition, settings, policy) for definition in chosen)
    refused = sum(not decision.allowed for decision in decisions)
    if as_json:
        document = {
            "policy_sha256": policy.sha256,
            "passed": not refused,
            "refused": refused,
            "decisions": [decision.to_json() for decision in decisions],
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        _show_decisions(decisions, policy)
    raise typer.Exit(1 if refused else 0)


@app.command("test")
def run_tests(project: Project = Path(), as_json: AsJson = False) -> None:
    """Run the policy's own examples: exit 1 if one is decided otherwise, or if no example shows a rule at work."""
    from governance.policy.examples import run_examples, unshown_rules

    settings = load_settings(project)
    policy = _declared(load_policy(settings), settings.policy_dir)
    results = run_examples(policy)
    unshown = unshown_rules(policy, results)
    failed = [result for result in results if not result.passed]
    passed = not failed and not unshown
    if as_json:
        document = {
            "policy_sha256": policy.sha256,
            "passed": passed,
            "examples": [
                {
                    "say": result.example.say,
                    "passed": result.passed,
                    "expected": "allowed" if result.example.allowed else list(result.example.refused_by),
                    "decision": result.decision.to_json(),
                }
                for result in results
            ],
            "rules_without_example": list(unshown),
        }
        typer.echo(json.dumps(document, indent=2))
    else:
        for result in results:
            typer.echo(f"{'ok    ' if result.passed else 'FAILED'}  {result.example.say}: {result.found}")
            if not result.passed:
                meant = "allowed" if result.example.allowed else f"refused by {', '.join(result.example.refused_by)}"
                typer.echo(f"        meant: {meant}")
        for rule in unshown:
            typer.echo(f"FAILED  {rule}: no example shows it at work; add one under examples")
        typer.echo(f"{len(results)} examples, {len(failed)} failed; {len(unshown)} rules without example")
    raise typer.Exit(0 if passed else 1)


def _declared(policy: Policy, folder: Path) -> Policy:
    if not policy.declared:
        raise ConfigError(
            f"{folder}: no such folder, so there is no policy; 'hedgerow init DIR' writes one to start from"
        )
    return policy


def _show_decisions(decisions: tuple[Decision, ...], policy: Policy) -> None:
    for decision in decisions:
        typer.echo(f"{'allowed' if decision.allowed else 'REFUSED'}  {decision.subject}")
        for refusal in decision.refusals:
            typer.echo(f"         {refusal.rule}: {refusal.found}")
            typer.echo(f"         {' ' * len(refusal.rule)}  {refusal.reason}")
    refused = sum(not decision.allowed for decision in decisions)
    typer.echo(
        f"{len(decisions)} definitions, {refused} refused, by {len(policy.rules)} rules (policy {policy.sha256[:12]})"
    )
