"""The ledger's commands, called as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import hedgerow
from governance.files import write_atomic
from governance.heads import HEADS_FILE
from governance.ledger import Ledger
from governance.settings import load_settings
from tests.support.releases import make_project
from tests.support.tampering import Scene, make_scene


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def scene(original: Scene, tmp_path: Path) -> Scene:
    copied = original.copy(tmp_path / "project")
    text = (copied.settings.root / "hedgerow.toml").read_text()
    role = f'[[roles]]\nname = "officer"\npublic_key = "{copied.roles["officer"]}"\n'
    text += f'\n[ledger]\nwitnesses = ["witness"]\n\n{role}'
    write_atomic(copied.settings.root / "hedgerow.toml", text.encode())
    return copied


def call(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as leaving:
        hedgerow.main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return int(leaving.value.code or 0), out, " ".join(err.split())


def verified(capfd: pytest.CaptureFixture[str], scene: Scene, *more: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = call(capfd, "ledger", "verify", "-p", scene.settings.root, "--json", *more)
    document: dict[str, Any] = json.loads(out)
    return code, document


def test_verify(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    code, document = verified(capfd, scene)
    assert (code, document["holds"], document["entries"], document["releases"]) == (0, True, 14, 4)
    code, out, _ = call(capfd, "ledger", "verify", "-p", scene.settings.root)
    assert code == 0
    assert "the ledger holds" in out
    (scene.release() / "part-00000.parquet").write_bytes(b"x")
    code, document = verified(capfd, scene)
    assert (code, [finding["problem"] for finding in document["findings"]]) == (1, ["file_changed"])
    code, out, _ = call(capfd, "ledger", "verify", "-p", scene.settings.root)
    assert code == 1
    assert "file_changed  genre_weekly/v1/2025-11-03: part-00000.parquet is not the file" in out
    assert "the ledger does not hold" in out


def test_verify_with_what_a_reviewer_brought(scene: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Somebody replaced key and heads in the project; the reviewer's own copies tell."""
    key, heads = tmp_path / "reviewer.pub", tmp_path / "reviewer.jsonl"
    key.write_bytes((scene.witness / "ledger.pub").read_bytes())
    heads.write_bytes(scene.heads.read_bytes())
    for path in (scene.heads, scene.witness / HEADS_FILE):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert verified(capfd, scene, "--key", key, "--heads", heads)[0] == 0
    heads.write_text(heads.read_text().replace('"size":14', '"size":15'))
    code, document = verified(capfd, scene, "--key", key, "--heads", heads)
    assert (code, document["findings"][0]["problem"]) == (1, "head_forged")
    code, _, err = call(capfd, "ledger", "verify", "-p", scene.settings.root, "--key", heads)
    assert (code, "not a ledger's public key" in err) == (2, True)


def test_heads_and_proofs(scene: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from governance.verify.cli import main

    project, key = ("-p", scene.settings.root), ["--key", str(scene.witness / "ledger.pub")]
    code, out, _ = call(capfd, "ledger", "heads", *project, "--json")
    shown = json.loads(out)
    assert (code, shown["head"]["size"], len(shown["files"])) == (0, 14, 2)
    code, out, _ = call(capfd, "ledger", "heads", *project)
    assert "-----BEGIN PUBLIC KEY-----" in out

    old = tmp_path / "old.json"
    old.write_text(scene.heads.read_text().splitlines()[2])
    for what in ("3", "genre_weekly/v1/2025-11-10", old):
        proof = tmp_path / "proof.json"
        assert call(capfd, "ledger", "prove", what, *project, "--out", proof)[0] == 0
        assert main(["proof", str(proof), *key]) == 0
        proof.write_text(proof.read_text().replace('"size": 14', '"size": 13'))
        assert main(["proof", str(proof), *key]) == 1
    capfd.readouterr()
    code, out, _ = call(capfd, "ledger", "prove", "3", *project)
    assert json.loads(out)["entry"]["kind"] == "DRAW"
    for wrong, message in (
        ("99", "allowed: 1 to 14"),
        ("none/v1/x", "no such release"),
        (scene.heads, "not a tree head"),
    ):
        code, _, err = call(capfd, "ledger", "prove", wrong, *project)
        assert (code, message in err) == (2, True), err


def test_export(scene: Scene, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from governance.verify.cli import main

    out = tmp_path / "entries.jsonl"
    assert call(capfd, "ledger", "export", out, "-p", scene.settings.root)[0] == 0
    assert main(["ledger", str(out), "--key", str(scene.witness / "ledger.pub"), "--heads", str(scene.heads)]) == 0
    code, _, err = call(capfd, "ledger", "export", tmp_path / "entries.txt", "-p", scene.settings.root)
    assert (code, "ends in .jsonl" in err) == (2, True)


def test_a_role_changes_a_cap(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, key = tmp_path / "project", tmp_path / "officer.pem"
    settings = make_project(root)
    account = settings.account("events", "user_id")
    assert account is not None
    with Ledger(settings.ledger_path) as ledger:
        ledger.open_account(account)
    code, role, _ = call(capfd, "ledger", "role-key", key, "--name", "officer")
    assert (code, key.stat().st_mode & 0o777) == (0, 0o600)
    change = ("ledger", "cap-change", "events/user_id", "-p", root, "--role", "officer", "--key", key)
    change += ("--justification", "A new season.")
    toml = root / "hedgerow.toml"
    code, _, err = call(capfd, *change)
    assert (code, "its cap is rho=1" in err) == (2, True), err
    toml.write_text(toml.read_text().replace('rho = "1.0"', 'rho = "1.5"'))
    code, _, err = call(capfd, *change)
    assert (code, "may not change caps" in err) == (2, True), err
    toml.write_text(toml.read_text() + "\n" + role)
    code, out, _ = call(capfd, *change, "--json")
    assert (code, json.loads(out)["entry"]) == (0, 2)
    with Ledger(settings.ledger_path) as ledger:
        ledger.open_account(load_settings(root).accounts[0])
    assert call(capfd, "ledger", "verify", "-p", root)[0] == 0
    for wrong, message in (
        (("ledger", "cap-change", "no/account", *change[3:]), "it declares: events/user_id"),
        ((*change[:8], tmp_path / "none.pem", *change[9:]), "cannot be read"),
    ):
        code, _, err = call(capfd, *wrong)
        assert (code, message in err) == (2, True), err


def test_without_a_ledger(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_project(tmp_path / "project")
    for command, message in (
        ("verify", "there is no ledger yet"),
        ("heads", "no entries yet"),
        ("migrate", "not a ledger of the first format"),
    ):
        code, _, err = call(capfd, "ledger", command, "-p", tmp_path / "project")
        assert (code, message in err) == (2, True), err


def test_accounts(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capfd, "accounts", "-p", scene.settings.root, "--json")
    [account] = json.loads(out)["accounts"]
    assert (code, account["account"], account["cap"]["rho"]) == (0, "events/user_id", "0.9")
    assert (account["lifetime"]["rho"], account["held"]["rho"]) == ("0.3", "0.1")
    assert [part["name"] for part in account["windows"]] == ["2025-11-03", "2025-11-10", "2025-11-17"]
    assert [part["spent"]["rho"] for part in account["releases"]] == ["0.1"] * 3
    assert account["claim"].startswith("zCDP filter")
    plan = account["fixed_plan"]
    assert (plan["releases"], plan["kinds"], plan["claim"].startswith("PLD")) == (3, 1, True)
    code, out, _ = call(capfd, "accounts", "-p", scene.settings.root)
    assert "lifetime" in out
    assert "fixed plan: epsilon" in out
