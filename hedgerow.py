"""The command line: one name for every package's commands.

Commands are mounted lazily from `COMMANDS`. Only the package whose command was asked for is imported, so
`hedgerow --help` answers at once and a device or client installation never touches Spark.

A command is either a function with typer annotations or a `typer.Typer` of sub-commands, found by module and name. What
goes wrong ends here:

    HedgerowError            error: <message>                          exit 2
    a missing package        error: <the extra to install>             exit 2
    disk full, no permission error: <path and reason>                  exit 2
    Ctrl-C                   interrupted; run the same command again   exit 130

Anything else is a bug and shows its traceback, without the values of variables.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from governance.errors import EnvironmentProblem, HedgerowError

__all__ = ["COMMANDS", "Command", "main"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Where a command lives.

    Attributes:
        name: what a person types.
        module: the module that is imported when the command is used.
        attribute: the function or `typer.Typer` in it.
        help: one line for the list of commands.
        extra: the extra of the distribution that brings what the command imports; None if the base is enough.
    """

    name: str
    module: str
    attribute: str
    help: str
    extra: str | None = None


COMMANDS = (
    Command(name="demo", module="examples.demo.cli", attribute="demo", extra="pipelines,serving,device",
            help="Watch the whole platform work, from raw events to a report."),
    Command(name="init", module="examples.starter.cli", attribute="init", extra="pipelines",
            help="Scaffold a project that runs."),
    Command(name="plan", module="pipelines.cli", attribute="plan", extra="pipelines",
            help="Explain what signals protect and cost; reads no data."),
    Command(name="policy", module="pipelines.policy_cli", attribute="app", extra="pipelines",
            help="Hold definitions against the policy; test the policy itself."),
    Command(name="ingest", module="pipelines.ingest_cli", attribute="ingest", extra="pipelines",
            help="Lay events out by person: releases then exchange no rows."),
    Command(name="profile", module="pipelines.profile_cli", attribute="profile", extra="pipelines",
            help="Release how many keys people have, for `plan` to weigh bounds by."),
    Command(name="run", module="pipelines.cli", attribute="run", extra="pipelines",
            help="Release signals: bound, aggregate, add noise, publish atomically."),
    Command(name="publish", module="serving.cli", attribute="publish", extra="serving",
            help="Put the newest releases into the feature store."),
    Command(name="vectors", module="serving.vectors_cli", attribute="app", extra="serving",
            help="Take vectors out of embedding spaces."),
    Command(name="dataset", module="pipelines.datasets_cli", attribute="app", extra="pipelines",
            help="Build training sets: labels with what was known at their time."),
    Command(name="serve", module="serving.cli", attribute="serve", extra="serving",
            help="Serve features, vectors and snapshots over gRPC."),
    Command(name="device", module="ondevice.cli", attribute="app", extra="device",
            help="Keep events, compute features and rank on a device."),
    Command(name="ledger", module="governance.ledger_cli", attribute="app",
            help="Verify the ledger, prove entries, change caps."),
    Command(name="accounts", module="pipelines.accounts_cli", attribute="accounts", extra="pipelines",
            help="Show what accounts have lost: lifetime, windows, releases."),
    Command(name="disclosure", module="governance.cli", attribute="disclosure", extra="governance",
            help="Write each release's disclosure, lineage and registry entry."),
    Command(name="report", module="governance.cli", attribute="report", extra="governance",
            help="Write the report of what was released, spent and refused."),
    Command(name="doctor", module="governance.doctor", attribute="run",
            help="Check Python, Java, disk and optional tools."),
)  # fmt: skip

_OWN_PACKAGES = frozenset({"examples", "featurestore", "governance", "ondevice", "pipelines", "serving"})
_DOCSTRING_SECTION = re.compile(r"^(Args|Returns|Raises|Attributes|Yields):", re.MULTILINE)
_SYSTEM_FAILURES = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT})
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits; the console script.

    Args:
        arguments: what follows the program's name; None for this process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    chosen = _chosen(given)
    try:
        _application(chosen)(args=given, prog_name="hedgerow")
    except HedgerowError as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        _fail(str(_missing_package(chosen, error)))
    except OSError as error:
        if error.errno not in _SYSTEM_FAILURES:
            raise
        _fail(f"{error.filename or 'writing'}: {error.strerror}")
    except SystemExit as leaving:
        if leaving.code == _INTERRUPTED:
            typer.echo("interrupted; run the same command again to continue", err=True)
        raise


def _chosen(arguments: Sequence[str]) -> Command | None:
    """The command that is asked for: options before it take no values, so it is the first word without a dash."""
    word = next((argument for argument in arguments if not argument.startswith("-")), None)
    return next((command for command in COMMANDS if command.name == word), None)


def _application(chosen: Command | None) -> typer.Typer:
    """The typer application: the chosen command for real, every other as a name with one line of help."""
    application = typer.Typer(
        name="hedgerow",
        help="Privacy-preserving features for recommendation: plan, release, serve, and prove what was spent.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_global_options)
    for command in COMMANDS:
        if command is chosen:
            _mount(application, command)
        else:
            application.command(command.name, help=command.help)(_not_loaded)
    return application


def _mount(application: typer.Typer, command: Command) -> None:
    target = _load(command)
    if isinstance(target, typer.Typer):
        application.add_typer(target, name=command.name, help=command.help)
    else:
        application.command(command.name, help=_long_help(target, command.help))(target)


def _load(command: Command) -> Callable[..., Any] | typer.Typer:
    found: Callable[..., Any] | typer.Typer = getattr(importlib.import_module(command.module), command.attribute)
    return found


def _long_help(function: Callable[..., Any], fallback: str) -> str:
    """A docstring's prose, without the sections that are for programmers."""
    prose = _DOCSTRING_SECTION.split(inspect.getdoc(function) or fallback, maxsplit=1)[0]
    return prose.strip()


def _missing_package(chosen: Command | None, error: ModuleNotFoundError) -> HedgerowError:
    """What to install, for an import that failed.

    Raises:
        ModuleNotFoundError: the same error, when no extra would help: then it is a bug.
    """
    missing = (error.name or "").partition(".")[0]
    if chosen is None or not missing:
        raise error
    if error.name == chosen.module or chosen.module.startswith(f"{error.name}."):
        return EnvironmentProblem(
            f"this installation has no command {chosen.name!r} (module {chosen.module} is missing); reinstall hedgerow"
        )
    if missing in _OWN_PACKAGES or chosen.extra is None:
        raise error
    return EnvironmentProblem(
        f"hedgerow {chosen.name} needs {missing}, which is not installed; pip install 'hedgerow[{chosen.extra}]'"
    )


def _show_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"hedgerow {metadata.version('hedgerow')}")
        raise typer.Exit


def _global_options(
    version: bool = typer.Option(False, "--version", help="Show the version and exit.", callback=_show_version),
) -> None:
    """Takes what goes before the command; `version` has done its work by then."""


def _not_loaded() -> None:
    """Stands for a command that this call does not use."""


def _fail(message: str) -> None:
    """One line on stderr, and exit code 2."""
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble(("error:", "bold red"), " ", message)
    Console(stderr=True, highlight=False, soft_wrap=True).print(line)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
