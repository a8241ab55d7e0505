"""hedgerow.toml: what it says, and what it may not say."""

from __future__ import annotations

import dataclasses
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from governance.errors import ConfigError
from governance.privacy import PrivacyLoss
from governance.settings import Account, OnlineStoreType, load_settings

WHOLE = """
[project]
name = "shop"
description = "A shop"
signals = "definitions"
state = "state"
reporting_delta = 1e-7

[calendar]
first_day = 2025-09-01
last_day = 2025-11-30

[[accounts]]
dataset = "events"
unit = "user_id"
rho = "1.0"
delta = 1e-6

[[accounts]]
dataset = "events"
unit = "user_id/day"
rho = 3
delta = 0

[spark]
master = "local[2]"
driver_memory = "3g"
shuffle_partitions = 4

[online_store]
type = "redis"
connection_string = "localhost:7000"

[serving]
host = "0.0.0.0"
port = 0
threads = 2
"""


def write(root: Path, text: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "hedgerow.toml").write_text(text, encoding="utf-8")
    return root


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path / "p", WHOLE))
    root = (tmp_path / "p").resolve()
    assert (settings.name, settings.description, settings.reporting_delta) == ("shop", "A shop", 1e-7)
    assert (settings.root, settings.signals_dir, settings.state_dir) == (root, root / "definitions", root / "state")
    assert (settings.calendar.first_day, settings.calendar.last_day) == (date(2025, 9, 1), date(2025, 11, 30))
    assert [account.name for account in settings.accounts] == ["events/user_id", "events/user_id/day"]
    assert [account.cap.rho for account in settings.accounts] == [Decimal(1), Decimal(3)]
    assert settings.accounts[0].cap.delta == Decimal("1e-6"), "a float counts as written"
    assert (settings.spark.master, settings.spark.driver_memory, settings.spark.shuffle_partitions) == (
        "local[2]",
        "3g",
        4,
    )
    assert (settings.online_store.type, settings.online_store.connection_string) == (
        OnlineStoreType.REDIS,
        "localhost:7000",
    )
    assert (settings.serving.host, settings.serving.port, settings.serving.threads) == ("0.0.0.0", 0, 2)
    assert settings.account("events", "user_id/day") == settings.accounts[1]
    assert settings.account("events", "event_id") is None
    folders = {
        settings.ledger_path,
        settings.releases_dir,
        settings.staging_dir,
        settings.locks_dir,
        settings.keys_dir,
        settings.feature_repo_dir,
        settings.serving_dir,
        settings.report_dir,
    }
    assert len(folders) == 8
    assert {path.parent for path in folders} == {settings.state_dir}


def test_a_name_is_enough(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, '[project]\nname = "p"'))
    assert settings.accounts == ()
    assert settings.calendar.first_day is None
    assert (settings.reporting_delta, settings.serving.port) == (1e-6, 7433)
    assert settings.online_store.type is OnlineStoreType.SQLITE
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.name = "other"  # type: ignore[misc]


PROJECT = '[project]\nname = "p"\n'
ACCOUNT = '[[accounts]]\ndataset = "e"\nunit = "u"\nrho = "1"\ndelta = "0"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file lacks 'project'; add it"),
        ("[project", "not valid TOML"),
        ('project = "p"', "the file project: found str, allowed: dict"),
        ("[project]", "[project] lacks 'name'; add it"),
        ("[project]\nname = 5", "[project] name: found int, allowed: str"),
        ('[project]\nname = "my shop"', "[project] name: found 'my shop', allowed: a Latin letter"),
        ('[project]\nname = "_p"', "[project] name: found '_p'"),
        ('[project]\nname = "p\\n"', "[project] name: found 'p\\n'"),
        (PROJECT + "colour = 1", "[project] has unknown keys: colour; remove or correct them"),
        (PROJECT + 'state = ""', "[project] state: empty"),
        (PROJECT + 'signals = " "', "[project] signals: empty"),
        (PROJECT + 'reporting_delta = "1"', "[project] reporting_delta: found 1.0, allowed: between 0 and 1"),
        (PROJECT + "reporting_delta = 0", "[project] reporting_delta: found 0.0, allowed: between 0 and 1"),
        (
            PROJECT + 'reporting_delta = "tiny"',
            '[project] reporting_delta: not a number; write e.g. reporting_delta = "1.0"',
        ),
        (PROJECT + 'reporting_delta = "1e-999999"', "allowed: 0, or 1e-100 to 1e100"),
        (PROJECT + "[colours]", "the file has unknown keys: colours"),
        (PROJECT + "[spark]\ncores = 2", "[spark] has unknown keys: cores"),
        (
            PROJECT + "[spark]\nshuffle_partitions = 0",
            "[spark] shuffle_partitions: found 0, allowed: a whole number from 1",
        ),
        (
            PROJECT + "[spark]\nrelease_files = 0",
            "[spark] release_files: found 0, allowed: a whole number from 1 to 100000",
        ),
        (PROJECT + "[spark]\nrelease_files = -1", "[spark] release_files: found -1"),
        (PROJECT + "[spark]\nshuffle_partitions = true", "[spark] shuffle_partitions: found bool, allowed: int"),
        (PROJECT + "[spark]\nshuffle_partitions = 2.0", "[spark] shuffle_partitions: found float, allowed: int"),
        ('spark = "local"\n' + PROJECT, "the file spark: found str, allowed: dict"),
        (PROJECT + "[calendar]\nfirst_day = '2025-01-01'", "[calendar] first_day: found str, allowed: date"),
        (
            PROJECT + "[calendar]\nfirst_day = 2025-01-01T00:00:00Z",
            "[calendar] first_day: found datetime, allowed: date",
        ),
        (
            PROJECT + "[calendar]\nfirst_day = 2025-01-02\nlast_day = 2025-01-01",
            "[calendar] last_day: found 2025-01-01, allowed: 2025-01-02 (first_day) or later",
        ),
        (PROJECT + '[online_store]\ntype = "mysql"', "[online_store] type: found 'mysql', allowed: sqlite, redis"),
        (PROJECT + "[serving]\nport = 65536", "[serving] port: found 65536, allowed: a whole number from 0 to 65535"),
        (PROJECT + "[serving]\nport = -1", "[serving] port: found -1"),
        (PROJECT + '[serving]\nport = "7433"', "[serving] port: found str, allowed: int"),
        (PROJECT + "[serving]\nthreads = 0", "[serving] threads: found 0"),
        (PROJECT + "[accounts]\nrho = 1", "accounts: found dict, allowed: list"),
        ("accounts = [1]\n" + PROJECT, "[accounts] must be a table, found int"),
        (PROJECT + '[[accounts]]\nunit = "u"\nrho = 1\ndelta = 0', "[accounts] lacks 'dataset'"),
        (PROJECT + '[[accounts]]\ndataset = "e"\nunit = ""\nrho = 1\ndelta = 0', "[accounts] unit: empty"),
        (PROJECT + ACCOUNT + "epsilon = 1", "[accounts] has unknown keys: epsilon"),
        (PROJECT + ACCOUNT.replace('"1"', '"-1"'), "[accounts] rho: found -1, allowed: at least 0"),
        (PROJECT + ACCOUNT.replace('"1"', '"NaN"'), "[accounts] rho: found NaN, allowed: at least 0"),
        (PROJECT + ACCOUNT.replace('"1"', '"sNaN"'), "[accounts] rho: found sNaN, allowed: at least 0"),
        (PROJECT + ACCOUNT.replace('"1"', "inf"), "[accounts] rho: found Infinity, allowed: at least 0"),
        (PROJECT + ACCOUNT.replace('"1"', "true"), "[accounts] rho: found bool, allowed: str or int or float"),
        (PROJECT + ACCOUNT.replace('"1"', '"one"'), '[accounts] rho: not a number; write e.g. rho = "1.0"'),
        (PROJECT + ACCOUNT.replace('"1"', '"1e200"'), "[accounts] rho: found 1e+200, allowed: 0, or 1e-100 to 1e100"),
        (PROJECT + ACCOUNT.replace('"1"', f'"0.{"1" * 101}"'), "with at most 100 digits"),
        (PROJECT + ACCOUNT + ACCOUNT, "two [[accounts]] for the same dataset and unit; keep one"),
    ],
)
def test_what_may_not_be_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert message in str(caught.value)
    assert "hedgerow.toml" in str(caught.value)


def test_places_without_a_readable_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no hedgerow.toml here; run 'hedgerow init DIR' or pass --project DIR"):
        load_settings(tmp_path)
    with pytest.raises(ConfigError, match=r"no hedgerow.toml here"):
        load_settings(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"cannot be read \(Not a directory\)"):
        load_settings(tmp_path / "file")
    (tmp_path / "hedgerow.toml").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_settings(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        load_settings(Path("~nobody-of-that-name/x"))


@pytest.mark.parametrize("content", [b"\xff\xfe[project]", b"\x00", b"a = " + b"[" * 5000])
def test_bytes_that_are_no_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "hedgerow.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(tmp_path)


def test_names_of_accounts() -> None:
    assert Account(dataset="e", unit="u/day", cap=PrivacyLoss.zero()).name == "e/u/day"
