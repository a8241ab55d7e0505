"""The command line: lazy commands, one-line errors, exit codes."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import typer

import hedgerow
from governance.errors import InputMissing

HEAVY = ("pyspark", "torch", "feast", "faiss", "grpc", "pandas", "numpy", "pyarrow", "opendp", "great_expectations")


def run_cli(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, as wide as no message is."""
    return subprocess.run(
        [sys.executable, "-m", "hedgerow", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"},
    )


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module whose members a test mounts as commands of its own."""
    module = ModuleType("mounted_for_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def mount(monkeypatch: pytest.MonkeyPatch, module: ModuleType, target: object, extra: str | None = None) -> None:
    module.target = target  # type: ignore[attr-defined]
    command = hedgerow.Command(
        name="try", module=module.__name__, attribute="target", help="A command of the test.", extra=extra
    )
    monkeypatch.setattr(hedgerow, "COMMANDS", (*hedgerow.COMMANDS, command))


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as leaving:
        hedgerow.main(arguments)
    return leaving.value.code


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    script = (
        "import sys, hedgerow\n"
        "try: hedgerow.main(['--help'])\n"
        "except SystemExit as leaving: assert leaving.code == 0, leaving.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])\n"
        "print('PACKAGES', [c.module for c in hedgerow.COMMANDS if c.module in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout
    assert "PACKAGES []" in done.stdout
    for command in hedgerow.COMMANDS:
        assert f" {command.name} " in done.stdout


def test_the_whole_line_of_help_fits_a_terminal_of_80_columns() -> None:
    assert [command.name for command in hedgerow.COMMANDS if len(command.help) > 66] == []


def test_version() -> None:
    done = run_cli("--version")
    assert (done.returncode, done.stdout) == (0, "hedgerow 0.1.0\n")


def test_an_unknown_command_is_a_usage_error() -> None:
    done = run_cli("plna")
    assert done.returncode == 2
    assert "No such command 'plna'" in done.stderr
    assert "Traceback" not in done.stderr


def test_doctor_is_a_command_of_its_own() -> None:
    done = run_cli("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok       Python " in done.stdout


def test_a_function_gets_its_options_and_loses_the_sections_of_its_docstring(
    monkeypatch: pytest.MonkeyPatch, mounted: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def greet(name: str, loud: Annotated[bool, typer.Option(help="Shout.")] = False) -> None:
        """Greets someone.

        Args:
            name: whom; a programmer reads this.
        """
        typer.echo(f"hello {name.upper() if loud else name}")

    mount(monkeypatch, mounted, greet)
    assert exit_code("try", "bee", "--loud") == 0
    assert capsys.readouterr().out == "hello BEE\n"
    assert exit_code("try", "--help") == 0
    shown = capsys.readouterr().out
    assert "Greets someone." in shown
    assert "a programmer reads this" not in shown


def test_a_typer_of_subcommands_is_mounted_under_its_name(
    monkeypatch: pytest.MonkeyPatch, mounted: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    group = typer.Typer()
    group.command("one")(lambda: typer.echo("first"))
    group.command("two")(lambda: typer.echo("second"))
    mount(monkeypatch, mounted, group)
    assert exit_code("try", "two") == 0
    assert capsys.readouterr().out == "second\n"


def test_a_hedgerow_error_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, mounted: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise InputMissing("plays.parquet: [no] such file; " + "a long message is not folded " * 8)

    mount(monkeypatch, mounted, fail)
    assert exit_code("try") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: plays.parquet: [no] such file; ")
    assert shown.count("\n") == 1


def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, mounted: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'pyspark'", name="pyspark.sql")

    mount(monkeypatch, mounted, fail, extra="pipelines")
    assert exit_code("try") == 2
    assert capsys.readouterr().err == (
        "error: hedgerow try needs pyspark, which is not installed; pip install 'hedgerow[pipelines]'\n"
    )


def test_a_missing_package_of_our_own_is_a_bug_and_not_hidden(
    monkeypatch: pytest.MonkeyPatch, mounted: ModuleType
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'serving.gone'", name="serving.gone")

    mount(monkeypatch, mounted, fail, extra="serving")
    with pytest.raises(ModuleNotFoundError):
        hedgerow.main(["try"])


def test_a_command_without_its_module_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = hedgerow.Command(name="gone", module="pipelines.gone", attribute="gone", help="Not there.")
    monkeypatch.setattr(hedgerow, "COMMANDS", (gone,))
    assert exit_code("gone") == 2
    assert "no command 'gone' (module pipelines.gone is missing)" in capsys.readouterr().err


def test_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, mounted: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device", "/out/report.json")

    mount(monkeypatch, mounted, fail)
    assert exit_code("try") == 2
    assert capsys.readouterr().err == "error: /out/report.json: No space left on device\n"


def test_an_interrupt_is_one_line_and_exit_code_130(tmp_path: Path) -> None:
    script = (
        "import sys, time, types, hedgerow\n"
        "module = types.ModuleType('slow')\n"
        "def slow() -> None:\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        "module.slow = slow\n"
        "sys.modules['slow'] = module\n"
        "hedgerow.COMMANDS = (hedgerow.Command(name='slow', module='slow', attribute='slow', help='Sleeps.'),)\n"
        "hedgerow.main(['slow'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown == "interrupted; run the same command again to continue\n"


@pytest.mark.parametrize("command", hedgerow.COMMANDS, ids=lambda command: command.name)
def test_every_command_is_there_and_explains_itself(command: hedgerow.Command) -> None:
    done = run_cli(command.name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: hedgerow " + command.name in done.stdout


def test_exported_names_exist() -> None:
    assert all(hasattr(hedgerow, name) for name in hedgerow.__all__)
    assert inspect.isfunction(hedgerow.main)
