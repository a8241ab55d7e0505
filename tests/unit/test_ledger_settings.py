"""What hedgerow.toml says of the ledger: where it is, who witnesses it, what renews, and who may change caps."""

from __future__ import annotations

from pathlib import Path

import pytest

from governance.errors import ConfigError
from governance.ledger import open_ledger
from governance.settings import LedgerPlace, Role, Settings, load_settings

KEY = "ab" * 32
HEAD = '[project]\nname = "shop"\n\n'
ACCOUNT = '[[accounts]]\ndataset = "events"\nunit = "{unit}"\nrho = "1"\ndelta = "0"\nrenews_days = {days}\n'
ROLE = '[[roles]]\nname = "officer"\npublic_key = "{key}"\n'


def load(root: Path, text: str) -> Settings:
    (root / "hedgerow.toml").write_text(HEAD + text, encoding="utf-8")
    return load_settings(root)


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        '[ledger]\nurl = "postgresql://db/privacy"\nwitnesses = ["/mnt/witness", "near"]\n\n'
        + ACCOUNT.format(unit="user_id/30 days", days=30)
        + ROLE.format(key=KEY.upper()),
    )
    assert settings.ledger == LedgerPlace(
        url="postgresql://db/privacy", witnesses=(Path("/mnt/witness"), tmp_path.resolve() / "near")
    )
    assert settings.roles == (Role(name="officer", public_key=KEY),)
    assert settings.accounts[0].renews_days == 30


def test_what_is_left_out(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert (settings.ledger, settings.roles) == (LedgerPlace(), ())
    with open_ledger(settings) as ledger:
        ledger.refuse(None, "s", "no")
        assert ledger.name == str(settings.ledger_path)
        assert ledger.head_files == (settings.state_dir / "ledger-heads.jsonl",)
    assert (settings.keys_dir / "ledger.ed25519").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("unit", "days"), [("user_id/day", 1), ("user_id/week", 7), ("a+b/31 days", 31)])
def test_units_that_renew(tmp_path: Path, unit: str, days: int) -> None:
    assert load(tmp_path, ACCOUNT.format(unit=unit, days=days)).accounts[0].renews_days == days


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[ledger]\nurl = "mysql://db"\n', r"\[ledger\] url: allowed: postgresql://"),
        ("[ledger]\nurl = 3\n", r"\[ledger\] url: found int"),
        ('[ledger]\nwitnesses = "/mnt"\n', r"\[ledger\] witnesses: found str, allowed: list"),
        ("[ledger]\nwitnesses = [3]\n", r"\[ledger\] witnesses: allowed: a list of folders"),
        ("[ledger]\npath = 'x'\n", r"\[ledger\] has unknown keys: path"),
        (ACCOUNT.format(unit="user_id", days=30), "renews_days: found 30 for unit 'user_id', allowed: the length of"),
        (ACCOUNT.format(unit="user_id/week", days=30), "renews_days: found 30 for unit 'user_id/week'"),
        (ACCOUNT.format(unit="user_id/0 days", days=0), "renews_days: found 0"),
        (ROLE.format(key="ab"), r"public_key: allowed: 64 hex digits"),
        (ROLE.format(key=KEY) * 2, r"two \[\[roles\]\] of the same name"),
        (ROLE.format(key=KEY) + "more = 1\n", "has unknown keys: more"),
    ],
)
def test_what_may_not_be_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)
