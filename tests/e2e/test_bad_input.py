"""What goes wrong for a person: each case is one clear message, exit code 2, no traceback, and nothing half-written."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hedgerow
from governance.ledger import Ledger
from governance.settings import load_settings
from tests.e2e.test_crash import PROJECT, SIGNAL
from tests.support.projects import make_events, write_definition, write_tables
from tests.support.releases import make_release

WITH_VALUES = SIGNAL.replace('{"users": Count()}', '{"users": Count(), "total": Sum("value", Interval(0, 5))}')
EVENTS = "data/events.parquet"
SECRET = "a-private-value"


def edit(column: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Path], None]:
    """Rewrites one column of the events."""

    def apply(root: Path) -> None:
        events = make_events()
        events[column] = change(events[column])
        write_tables(root, events)

    return apply


def setting_one(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda column: [*column[:9], value, *column[10:]]


def without(column: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        events = make_events()
        del events[column]
        write_tables(root, events)

    return apply


def empty(root: Path) -> None:
    table = pq.read_table(root / EVENTS)
    pq.write_table(table.slice(0, 0), root / EVENTS)


def replace_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        text = (root / name).read_text(encoding="utf-8")
        assert old in text
        (root / name).write_text(text.replace(old, new), encoding="utf-8")

    return apply


def append_text(name: str, text: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        with (root / name).open("a", encoding="utf-8") as stream:
            stream.write(text)

    return apply


def with_release(then: Callable[[Path], None]) -> Callable[[Path], None]:
    """A project that has published something, and then `then` happens to it."""

    def apply(root: Path) -> None:
        settings = load_settings(root)
        with Ledger(settings.ledger_path) as ledger:
            make_release(
                settings,
                ledger,
                signal="other",
                keys={"item_id": "int64"},
                features={"users": "int64"},
                rows={"item_id": [1, 2], "users": [30, 40]},
                window_start=datetime(2025, 11, 3, tzinfo=UTC),
            )
        then(root)

    return apply


def overwritten(name: str, data: bytes) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / name).write_bytes(data)

    return apply


def broken_manifest(root: Path) -> None:
    (root / "var/releases/other/v1/2025-11-03/manifest.json").write_text('{"schema": "hedgerow', encoding="utf-8")


def edited_rows(root: Path) -> None:
    path = root / "var/releases/other/v1/2025-11-03/part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "users", pa.array([3000, 40])), path)


def edited_ledger(root: Path) -> None:
    import sqlite3

    database = sqlite3.connect(root / "var/ledger.db")
    database.executescript("DROP TRIGGER entries_keep_update; UPDATE entries SET body = replace(body, '1.0', '9.0');")
    database.execute("UPDATE entries SET body = replace(body, 'RESERVE', 'RELEASE') WHERE sequence = 2")
    database.commit()
    database.close()


def nothing(root: Path) -> None:
    """Leaves the project as it is."""


@contextmanager
def busy_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is done to a good project, the command, and what its message must say."""

    given: Callable[[Path], None]
    command: tuple[str, ...] = ("run",)
    says: tuple[str, ...]


CASES = {
    "no project": Case(
        given=lambda root: (root / "hedgerow.toml").unlink(),
        command=("plan",),
        says=("no hedgerow.toml", "hedgerow init"),
    ),
    "project not TOML": Case(
        given=append_text("hedgerow.toml", "\n= 3"), command=("plan",), says=("hedgerow.toml", "not valid TOML")
    ),
    "unknown setting": Case(
        given=append_text("hedgerow.toml", "\n[serving]\nprot = 1"), command=("plan",), says=("unknown keys: prot",)
    ),
    "no such account": Case(
        given=replace_text("hedgerow.toml", '"user_id"', '"event_id"'),
        says=("no account 'events/user_id'", "[[accounts]]"),
    ),
    "definition cannot be executed": Case(
        given=append_text("signals/signal.py", "\nx = 1 / 0\n"),
        command=("plan",),
        says=("signal.py", "line", "ZeroDiv"),
    ),
    "unlawful definition": Case(
        given=replace_text("signals/signal.py", 'Entity("item", ("item_id",))', 'Entity("user", ("user_id",))'),
        command=("plan",),
        says=("weekly v1", "domain"),
    ),
    "unknown signal": Case(given=nothing, command=("run", "monthly"), says=("no signal named 'monthly'", "weekly")),
    "unknown signal in a plan": Case(given=nothing, command=("plan", "monthly"), says=("no signal named 'monthly'",)),
    "not a day": Case(given=nothing, command=("run", "--window", "soon"), says=("--window", "'soon'", "2025-11-03")),
    "not a window's start": Case(
        given=nothing, command=("run", "--window", "2025-11-12"), says=("no window starts on 2025-11-12", "2025-11-10")
    ),
    "over budget": Case(
        given=replace_text("hedgerow.toml", 'rho = "1.0"', 'rho = "0.3"'),
        command=("run", "--windows", "2"),
        says=("and 1 more: requested rho=0.5, remaining 0.3 ", "events/user_id", "no data was read"),
    ),
    "missing file": Case(given=lambda root: (root / EVENTS).unlink(), says=(EVENTS, "no such file")),
    "not parquet": Case(given=overwritten(EVENTS, SECRET.encode()), says=(EVENTS, "parquet")),
    "missing column": Case(given=without("item_id"), says=("'item_id' is missing", "found: user_id, value, ts")),
    "unit ids of a wrong type": Case(
        given=edit("user_id", lambda column: [v / 2 for v in column]), says=("'user_id'", "double", "strings")
    ),
    "times of a wrong type": Case(
        given=edit("ts", lambda column: [str(v) for v in column]), says=("'ts'", "timestamps")
    ),
    "values of a wrong type": Case(
        given=edit("value", lambda column: [SECRET for _ in column]), says=("'value'", "string", "numbers")
    ),
    "null unit id": Case(given=edit("user_id", setting_one(None)), says=("'user_id' (privacy unit) has nulls",)),
    "null key": Case(given=edit("item_id", setting_one(None)), says=("'item_id' (key) has nulls",)),
    "null time": Case(given=edit("ts", setting_one(None)), says=("'ts' (event time) has nulls",)),
    "null value": Case(given=edit("value", setting_one(None)), says=("'value' (value) has nulls",)),
    "NaN": Case(given=edit("value", setting_one(float("nan"))), says=("'value'", "NaN or infinite")),
    "infinity": Case(given=edit("value", setting_one(float("inf"))), says=("'value'", "NaN or infinite")),
    "no rows": Case(given=empty, says=(EVENTS, "no rows")),
    "broken manifest": Case(
        given=with_release(broken_manifest), command=("publish",), says=("manifest.json", "restore the release")
    ),
    "edited release": Case(
        given=with_release(edited_rows), command=("publish",), says=("part-00000.parquet", "differs")
    ),
    "edited ledger": Case(
        given=with_release(edited_ledger), command=("report",), says=("ledger.db", "entry", "hedgerow ledger verify")
    ),
    "ledger is something else": Case(
        given=with_release(overwritten("var/ledger.db", b"x" * 4096)),
        says=("ledger.db", "not a ledger"),
    ),
    "Redis does not answer": Case(
        given=with_release(
            append_text("hedgerow.toml", '\n[online_store]\ntype = "redis"\nconnection_string = "127.0.0.1:1"\n')
        ),
        command=("publish",),
        says=("redis at 127.0.0.1:1 does not answer", "connection_string"),
    ),
    "busy port": Case(given=with_release(nothing), command=("serve", "--port", "BUSY"), says=("is in use", "--port")),
    "serving nothing": Case(given=nothing, command=("serve", "--port", "0"), says=("hedgerow publish",)),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    (tmp_path / "hedgerow.toml").write_text(PROJECT, encoding="utf-8")
    write_definition(tmp_path, WITH_VALUES)
    write_tables(tmp_path, make_events())
    case.given(tmp_path)
    if name == "busy port":
        hedgerow_call("publish", "-p", str(tmp_path))
        capfd.readouterr()
    before = written(tmp_path)

    with busy_port() if "BUSY" in case.command else nullcontext(0) as port:
        command = [str(port) if word == "BUSY" else word for word in case.command]
        code = hedgerow_call(*command, "-p", str(tmp_path))

    output = capfd.readouterr()
    message = " ".join(output.err.split())
    assert code == 2, output.err
    assert message.count("error: ") == 1, output.err
    for words in case.says:
        assert words in message, message
    assert "Traceback" not in output.err + output.out
    assert SECRET not in output.err + output.out
    assert written(tmp_path) == before, "nothing new was published or left half-written"
    assert reserved(tmp_path) == 0


def hedgerow_call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as leaving:
        hedgerow.main(list(arguments))
    return int(leaving.value.code or 0)


def written(root: Path) -> dict[str, bytes]:
    """What was published or staged."""
    kept = ("releases", "staging", "serving")
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in kept
        for path in sorted((root / "var" / folder).rglob("*"))
        if path.is_file()
    }


def reserved(root: Path) -> int:
    """Reservations that are still held."""
    try:
        settings = load_settings(root)
        if not settings.ledger_path.is_file():
            return 0
        with Ledger(settings.ledger_path) as ledger:
            return sum(known.state == "RESERVE" for known in ledger.runs())
    except Exception:  # noqa: BLE001 - a project or ledger that the case has broken holds nothing to look at
        return 0
