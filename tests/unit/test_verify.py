"""Verification: every attack by name, every byte, and without the platform."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.balances import EntryKind
from governance.heads import HEADS_FILE, HeadFiles
from governance.keys import public_key_hex
from governance.ledger import Ledger
from governance.privacy import PrivacyLoss
from governance.verify.entries import read_sqlite
from governance.verify.findings import Problem, Severity
from governance.verify.heads import TreeHead, head_lines
from governance.verify.replay import cap_statement
from governance.verify.verification import verify
from tests.support.tampering import Scene, entry_fields, forged_head, make_scene

ROOT = Path(__file__).parents[2]
ACCOUNT = "events/user_id"
TENTH = {"rho": "0.1", "delta": "0"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def scene(original: Scene, tmp_path: Path) -> Scene:
    return original.copy(tmp_path / "project")


def problems(scene: Scene) -> set[str]:
    return {str(finding.problem) for finding in scene.verify().findings}


def test_an_honest_ledger_holds(scene: Scene) -> None:
    result = scene.verify()
    assert (result.findings, result.holds) == ((), True)
    assert (result.entries, result.releases, result.books.refused) == (14, 4, 1)
    account = result.to_json()["accounts"][ACCOUNT]
    assert (account["cap"]["rho"], account["spent"]["rho"], account["held"]["rho"]) == ("0.9", "0.3", "0.1")
    assert result.to_json()["cap_changes"][0]["justification"] == "The season ends earlier."


# --- attacks: what somebody does, and what it is called ------------------------------------------------------------


def sql(*statements: str) -> Callable[[Scene], None]:
    def attack(scene: Scene) -> None:
        with scene.raw() as database:
            for statement in statements:
                assert database.execute(statement).rowcount != 0, statement

    return attack


def rewritten(sequence: int, change: Callable[[dict[str, Any]], object]) -> Callable[[Scene], None]:
    return lambda scene: scene.rewrite(sequence, change)


def lower_loss(value: dict[str, Any]) -> None:
    value["detail"]["loss"]["rho"] = "0.001"


def deleted_and_renumbered(scene: Scene) -> None:
    """The careful way: numbers, bodies, hashes and columns all fit each other."""
    with scene.raw() as database:
        database.execute("DELETE FROM entries WHERE sequence = 12")
        database.execute("UPDATE entries SET sequence = 12 WHERE sequence = 13")
        database.execute("UPDATE entries SET sequence = 13 WHERE sequence = 14")
    for sequence in (12, 13):
        scene.rewrite(sequence, lambda value, sequence=sequence: value.update(sequence=sequence))


def restored_backup(scene: Scene) -> None:
    """The database as it was two entries ago, whole and rightly signed; the own file of heads as well."""
    lines = scene.heads.read_text().splitlines(keepends=True)
    younger = [line for line in lines if json.loads(line)["size"] <= 12]
    with scene.raw() as database:
        database.execute("DELETE FROM entries WHERE sequence > 12")
        head, frontier = younger[-1].strip(), frontier_of(scene, 12)
        database.execute("UPDATE head SET signed = ?, frontier = ?", (head, frontier))
    scene.heads.write_text("".join(younger))


def frontier_of(scene: Scene, size: int) -> str:
    from governance.verify.merkle import Frontier

    with closing(sqlite3.connect(scene.database)) as database:
        rows = database.execute("SELECT hash FROM entries ORDER BY sequence").fetchall()
    frontier = Frontier()
    for (digest,) in rows[:size]:
        frontier = frontier.append(bytes.fromhex(digest))
    return frontier.text


def continued_from_a_backup(scene: Scene) -> None:
    """A second history, signed by the ledger's own key; only the witness remembers the first."""
    restored_backup(scene)
    with Ledger(scene.database, heads=HeadFiles(scene.settings.state_dir)) as ledger:
        for name in ("a", "b", "c"):
            ledger.refuse(None, name, "no")


def head_by_a_stranger(scene: Scene) -> None:
    head = forged_head(scene, Ed25519PrivateKey.generate(), size=15, root="0" * 64)
    with scene.heads.open("a") as stream:
        stream.write(head.to_line() + "\n")


def head_of_another_ledger(scene: Scene) -> None:
    stranger = Ed25519PrivateKey.generate()
    head = forged_head(scene, stranger, key="ab" * 32)
    with scene.heads.open("a") as stream:
        stream.write(head.to_line() + "\n")


def two_heads_of_one_size(scene: Scene) -> None:
    head = forged_head(scene, scene.key, root="12" * 32)
    with (scene.witness / HEADS_FILE).open("a") as stream:
        stream.write(head.to_line() + "\n")


def unsigned_entry(scene: Scene) -> None:
    """Appended to the table by hand, after the last signed head."""
    value = {**entry_fields(scene, 12), "sequence": 15}
    from governance.verify.heads import canonical
    from governance.verify.merkle import leaf_hash

    body = canonical(value)
    with scene.raw() as database:
        database.execute(
            "INSERT INTO entries VALUES (15, 'REFUSED', NULL, NULL, NULL, ?, ?, ?)",
            (value["subject"], body.decode(), leaf_hash(body).hex()),
        )


def trigger_removed(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.database)) as database:
        database.execute("DROP TRIGGER entries_keep_delete")


def damaged_page(scene: Scene) -> None:
    """One letter in the page of an index."""
    with closing(sqlite3.connect(scene.database)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'entries_by_run'").fetchone()
    data = bytearray(scene.database.read_bytes())
    place = data.index(b"held", 4096 * (page - 1))
    data[place : place + 4] = b"holt"
    scene.database.write_bytes(bytes(data))


def replaced_stored_head(scene: Scene) -> None:
    head = forged_head(scene, scene.key, root="34" * 32)
    sql(f"UPDATE head SET signed = '{head.to_line()}'")(scene)


def added_file(scene: Scene) -> None:
    (scene.release() / "part-00001.parquet").write_bytes(b"")


def grant_over_the_cap(scene: Scene) -> None:
    with scene.insider() as book:
        state = book.account(ACCOUNT)
        assert state is not None
        loss = PrivacyLoss.of(3, 0)
        book.append(
            EntryKind.RESERVE,
            account=ACCOUNT,
            run_id="greedy",
            subject="s/v1/x",
            detail={"loss": loss.to_json()},
            state=state.hold(loss),
        )


def insider(kind: EntryKind, *, stated: dict[str, Any] | None = None, **fields: Any) -> Callable[[Scene], None]:
    """An entry that breaks the rules, in a genuinely signed tree."""

    def attack(scene: Scene) -> None:
        state = scene.state(**(stated or {}))
        with scene.insider() as book:
            book.append(kind, account=ACCOUNT, state=state, **{"subject": "s/v1/x", "detail": {}, **fields})

    return attack


def unsigned_cap_change(scene: Scene) -> None:
    """The ledger's operator raises a cap in the officer's name."""
    operator = Ed25519PrivateKey.generate()
    detail = {
        "cap": {"rho": "100", "delta": "0.000001"},
        "cap_before": {"rho": "0.9", "delta": "0.000001"},
        "justification": "We need more.",
        "public_key": public_key_hex(operator.public_key()),
        "replaces": 13,
        "role": "officer",
    }
    detail["signature"] = operator.sign(cap_statement(ACCOUNT, detail)).hex()
    state = scene.state(cap=PrivacyLoss.of(100, "1e-6"), cap_entry=15)
    with scene.insider() as book:
        book.append(EntryKind.CAP_CHANGE, account=ACCOUNT, subject=ACCOUNT, detail=detail, state=state)


def never_committed(scene: Scene) -> None:
    shutil.copytree(scene.release(), scene.release().with_name("2026-01-05"))


def manifest_with_less_noise(scene: Scene) -> None:
    path = scene.release() / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"noise_stddev":3.5', b'"noise_stddev":9.5'))


def committed_contradiction(scene: Scene) -> None:
    """An insider publishes and commits a manifest that states another loss than was reserved."""
    import hashlib

    folder = scene.release().with_name("2025-11-24")
    shutil.copytree(scene.release(), folder)
    path = folder / "manifest.json"
    data = path.read_bytes().replace(b"2025-11-03", b"2025-11-24")
    path.write_bytes(data)
    with scene.open() as ledger:
        ledger.draw("held")
        ledger.commit("held", hashlib.sha256(data).hexdigest())


def changed_file(scene: Scene) -> None:
    path = scene.release() / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def lost_head(scene: Scene) -> None:
    lines = scene.heads.read_text().splitlines(keepends=True)
    scene.heads.write_text("".join(lines[:-1]))


ATTACKS: dict[str, tuple[Callable[[Scene], object], set[Problem]]] = {
    "edit a body": (
        sql("UPDATE entries SET body = replace(body, '0.1', '0.0') WHERE sequence = 5"),
        {Problem.ENTRY_EDITED},
    ),
    "edit a body with its hash": (rewritten(5, lower_loss), {Problem.ENTRY_EDITED, Problem.BALANCE_WRONG}),
    "edit a stored hash": (
        sql(
            "UPDATE entries SET hash = (CASE substr(hash, 1, 1) WHEN '0' THEN '1' ELSE '0' END) || substr(hash, 2) "
            "WHERE sequence = 5"
        ),
        {Problem.ENTRY_EDITED},
    ),
    "delete in the middle": (sql("DELETE FROM entries WHERE sequence = 5"), {Problem.ENTRY_DELETED}),
    "delete and renumber": (
        sql("DELETE FROM entries WHERE sequence = 13", "UPDATE entries SET sequence = 13 WHERE sequence = 14"),
        {Problem.ENTRY_DELETED, Problem.LEDGER_TRUNCATED},
    ),
    "delete, renumber and rewrite": (deleted_and_renumbered, {Problem.ENTRY_EDITED, Problem.LEDGER_TRUNCATED}),
    "swap two entries": (
        sql(
            "UPDATE entries SET sequence = 99 WHERE sequence = 5",
            "UPDATE entries SET sequence = 5 WHERE sequence = 8",
            "UPDATE entries SET sequence = 8 WHERE sequence = 99",
        ),
        {Problem.ENTRIES_REORDERED, Problem.ENTRY_EDITED},
    ),
    "cut off the newest": (sql("DELETE FROM entries WHERE sequence > 12"), {Problem.LEDGER_TRUNCATED}),
    "restore an old backup": (restored_backup, {Problem.LEDGER_TRUNCATED}),
    "go on from an old backup": (continued_from_a_backup, {Problem.FORK}),
    "raise the opened cap": (
        rewritten(1, lambda value: value["detail"]["cap"].update(rho="9")),
        {Problem.ENTRY_EDITED, Problem.CAP_CHANGED},
    ),
    "open the account again": (
        insider(EntryKind.OPEN, subject=ACCOUNT, detail={"cap": {"rho": "9", "delta": "1"}, "renews": None}),
        {Problem.CAP_CHANGED},
    ),
    "state another cap": (
        insider(EntryKind.DRAW, run_id="held", subject="genre_weekly/v1/2025-11-24", stated={"cap_entry": 1}),
        {Problem.CAP_CHANGED},
    ),
    "raise a cap without the role": (unsigned_cap_change, {Problem.CAP_CHANGE_FORGED}),
    "sign a head with another key": (head_by_a_stranger, {Problem.HEAD_FORGED}),
    "put in another ledger's head": (head_of_another_ledger, {Problem.HEAD_FOREIGN}),
    "replace the head in the database": (replaced_stored_head, {Problem.FORK}),
    "delete the head in the database": (sql("DELETE FROM head"), {Problem.HEAD_FORGED}),
    "sign two trees of one size": (two_heads_of_one_size, {Problem.FORK}),
    "append without a signature": (unsigned_entry, {Problem.ENTRIES_UNSIGNED}),
    "lead a look-up astray": (
        sql("UPDATE entries SET run_id = 'x' WHERE sequence = 9"),
        {Problem.INDEX_CHANGED},
    ),
    "write no JSON": (sql("UPDATE entries SET body = '{' WHERE sequence = 9"), {Problem.ENTRY_MALFORMED}),
    "write JSON in another form": (
        sql("UPDATE entries SET body = replace(body, ':', ': ') WHERE sequence = 9"),
        {Problem.ENTRY_MALFORMED, Problem.ENTRY_EDITED},
    ),
    "remove a trigger": (trigger_removed, {Problem.SCHEMA_CHANGED}),
    "damage a page": (damaged_page, {Problem.DATABASE_DAMAGED}),
    "replace the file": (lambda scene: scene.database.write_bytes(b"x" * 5000), {Problem.UNREADABLE}),
    "grant over the cap": (grant_over_the_cap, {Problem.OVERSPENT}),
    "commit what never drew": (
        insider(
            EntryKind.COMMIT,
            run_id="held",
            subject="genre_weekly/v1/2025-11-24",
            detail={"manifest_sha256": "00" * 32},
        ),
        {Problem.STEP_OUT_OF_ORDER},
    ),
    "draw what never reserved": (insider(EntryKind.DRAW, run_id="new"), {Problem.STEP_OUT_OF_ORDER}),
    "use a run id twice": (
        insider(EntryKind.RESERVE, run_id="held", detail={"loss": TENTH}),
        {Problem.RUN_REUSED},
    ),
    "book less than the loss": (
        insider(EntryKind.RESERVE, run_id="new", detail={"loss": TENTH}),
        {Problem.BALANCE_WRONG},
    ),
    "leave a release uncommitted": (never_committed, {Problem.RELEASE_UNCOMMITTED}),
    "lose a release": (lambda scene: shutil.rmtree(scene.release()), {Problem.RELEASE_MISSING}),
    "edit a manifest": (manifest_with_less_noise, {Problem.MANIFEST_CHANGED}),
    "remove a manifest": (lambda scene: (scene.release() / "manifest.json").unlink(), {Problem.MANIFEST_CHANGED}),
    "commit a manifest with another loss": (committed_contradiction, {Problem.MANIFEST_CONTRADICTS}),
    "edit a parquet file": (changed_file, {Problem.FILE_CHANGED}),
    "remove a parquet file": (lambda scene: (scene.release() / "part-00000.parquet").unlink(), {Problem.FILE_MISSING}),
    "add a parquet file": (added_file, {Problem.FILE_ADDED}),
    "remove a published head": (lost_head, {Problem.HEAD_UNPUBLISHED}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_named(scene: Scene, name: str) -> None:
    attack, expected = ATTACKS[name]
    attack(scene)
    result = scene.verify()
    found = {finding.problem for finding in result.findings}
    assert expected <= found, result.findings
    failures = {finding.problem for finding in result.findings if finding.severity is Severity.FAILURE}
    assert result.holds is not bool(failures)
    assert bool(failures) or expected == {Problem.HEAD_UNPUBLISHED}


def test_every_problem_has_an_attack_that_shows_it() -> None:
    shown = set().union(*(expected for _, expected in ATTACKS.values()))
    assert shown == set(Problem) - {Problem.PROOF_WRONG}  # proofs: tests/support/ledger_conformance.py


def test_a_finding_names_the_place(scene: Scene) -> None:
    scene.rewrite(8, lower_loss)
    subjects = {str(finding.problem): finding.subject for finding in reversed(scene.verify().findings)}
    assert subjects["entry_edited"] == "entry 8"
    assert subjects["balance_wrong"] == "entry 8"


def test_a_head_file_that_goes_back_is_named(scene: Scene) -> None:
    lines = scene.heads.read_text().splitlines(keepends=True)
    scene.heads.write_text("".join([*lines, lines[2]]))
    [finding] = scene.verify().findings
    assert (finding.problem, finding.subject.endswith(f":{len(lines) + 1}")) == (Problem.FORK, True)


def test_roles_the_reviewer_knows_are_held_against_the_ledger(scene: Scene) -> None:
    stranger = replace(scene, officer=Ed25519PrivateKey.generate())
    assert problems(stranger) == {"cap_change_forged"}


def test_a_crash_between_record_and_publication_is_a_notice(scene: Scene) -> None:
    """The database has a signed head that no file has yet."""
    for path in (scene.heads, scene.witness / HEADS_FILE):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    result = scene.verify()
    assert result.holds
    assert {finding.problem for finding in result.findings} == {Problem.HEAD_UNPUBLISHED}


def test_amounts_that_would_round_are_told(scene: Scene) -> None:
    """The verifier's own arithmetic is exact: a spend of 1e-400 is not forgotten."""
    tiny = PrivacyLoss(Decimal("1e-400"), Decimal(0))
    with scene.insider() as book:
        state = book.account(ACCOUNT)
        assert state is not None
        book.append(
            EntryKind.RESERVE,
            account=ACCOUNT,
            run_id="tiny",
            subject="s/v1/x",
            detail={"loss": tiny.to_json()},
            state=state.hold(tiny),
        )
    assert scene.verify().findings == ()
    with scene.insider() as book:
        state = book.account(ACCOUNT)
        assert state is not None
        forgotten = {"loss": PrivacyLoss(Decimal("1e-900"), Decimal(0)).to_json()}
        book.append(
            EntryKind.RESERVE, account=ACCOUNT, run_id="forgotten", subject="s/v1/y", detail=forgotten, state=state
        )
    assert problems(scene) == {"balance_wrong"}


# --- every byte ------------------------------------------------------------------------------------------------------

SAMPLES = 600


def test_every_changed_byte_is_detected_or_harmless(original: Scene, tmp_path: Path) -> None:
    """600 single-byte changes over database, heads and releases: told, or what the files say is what it was."""
    scene = original.copy(tmp_path / "project")
    assert not scene.database.with_name("ledger.db-wal").exists(), "the database is whole in one file"
    releases = [path for path in sorted(scene.settings.releases_dir.rglob("*")) if path.is_file()]
    logical = {path: _logical(path) for path in (scene.database, scene.heads, *releases)}
    generator = np.random.default_rng(20251103)
    harmless = 0
    for number in range(SAMPLES):
        # Half of the changes go to the database, the rest evenly to the heads and each file of a release.
        others = (scene.heads, *releases)
        path = scene.database if number % 2 else others[int(generator.integers(len(others)))]
        data = path.read_bytes()
        place, flip = int(generator.integers(len(data))), int(generator.integers(1, 256))
        path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        result = scene.verify()
        if not result.findings:
            assert path == scene.database, f"{path.name}: byte {place} changed unseen"
            assert _logical(path) == logical[path], f"byte {place} changed what the ledger says, unseen"
            harmless += 1
        path.write_bytes(data)
    assert scene.verify().findings == ()
    assert 0 < harmless < SAMPLES / 2, "free space of database pages is harmless; the rest is not"


def test_every_changed_byte_of_the_write_ahead_log_is_detected_or_harmless(tmp_path: Path) -> None:
    """The same where the newest entries are still in the log: a damaged frame cuts the ledger short, and that shows."""
    scene = make_scene(tmp_path)
    with scene.open() as ledger:
        ledger.refuse(None, "s", "in the log")
        files = {path.name: path.read_bytes() for path in scene.database.parent.glob("ledger.db*")}
        log, logical = files["ledger.db-wal"], _logical(scene.database)
    assert len(log) > 4096
    generator = np.random.default_rng(20251104)
    harmless = 0
    for number in range(120):
        folder = tmp_path / f"copy{number}"
        folder.mkdir()
        place, flip = int(generator.integers(len(log))), int(generator.integers(1, 256))
        (folder / "ledger.db").write_bytes(files["ledger.db"])
        (folder / "ledger.db-wal").write_bytes(log[:place] + bytes([log[place] ^ flip]) + log[place + 1 :])
        result = verify(
            read_sqlite(folder / "ledger.db"),
            key=scene.key.public_key(),
            head_files=[scene.heads],
            roles=scene.roles,
        )
        if not result.findings:
            assert _logical(folder / "ledger.db") == logical
            harmless += 1
    assert harmless < 60


def _logical(path: Path) -> object:
    """What a file says, free of how it is laid out."""
    if path.suffix == ".db":
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            tables = [
                database.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
                for name in ("entries", "head", "sqlite_schema")
            ]
            indexed = [
                database.execute(f"SELECT sequence FROM entries INDEXED BY {name} ORDER BY {order}").fetchall()
                for name, order in (("entries_by_subject", "subject, sequence"),)
            ]
        return tables, indexed
    return head_lines(path.read_bytes()) if path.suffix == ".jsonl" else path.read_bytes()


# --- without the platform ---------------------------------------------------------------------------------------------

ALONE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from governance.verify.cli import main
code = main(sys.argv[1:])
allowed = {"governance", "cryptography", "_cffi_backend", "__main__", "_rust"}
foreign = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - allowed
ours = {name for name in sys.modules if name.startswith("governance.") and not name.startswith("governance.verify")}
assert not ours, ours
print(sorted(foreign), file=sys.stderr)
sys.exit(code)
"""


def alone(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the copied verifier in a folder that holds nothing else, with no way to the checkout."""
    copied = folder / "copied"
    if not copied.exists():
        shutil.copytree(
            ROOT / "governance" / "verify",
            copied / "governance" / "verify",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(copied), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=60,
    )


def test_the_verifier_runs_copied_out_of_the_platform(scene: Scene, tmp_path: Path) -> None:
    command = ("ledger", scene.database, "--key", scene.witness / "ledger.pub", "--heads", scene.heads)
    command += ("--heads", scene.witness / HEADS_FILE, "--releases", scene.settings.releases_dir)
    done = alone(tmp_path, *command, "--json", "--role", f"officer={scene.roles['officer']}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["holds"] is True
    # What an environment's own start-up hooks import into every process of it, and cryptography's binding.
    foreign = set(json.loads(done.stderr.replace("'", '"')))
    assert all(name.startswith(("__editable__", "_distutils_hack", "_openssl", "_virtualenv")) for name in foreign), (
        foreign
    )

    changed_file(scene)
    done = alone(tmp_path, *command, "--json")
    assert done.returncode == 1
    assert [finding["problem"] for finding in json.loads(done.stdout)["findings"]] == ["file_changed"]
    done = alone(tmp_path, *command)
    assert done.returncode == 1
    assert "file_changed: genre_weekly/v1/2025-11-03: part-00000.parquet is not the file" in done.stdout
    assert "DOES NOT HOLD: 14 entries" in done.stdout


def test_an_export_is_verified_like_the_database(scene: Scene, tmp_path: Path) -> None:
    export = tmp_path / "entries.jsonl"
    with closing(sqlite3.connect(scene.database)) as database:
        lines = [body for (body,) in database.execute("SELECT body FROM entries ORDER BY sequence")]
    command = ("ledger", export, "--key", scene.witness / "ledger.pub", "--heads", scene.heads)
    for kept, code in ((lines, 0), (lines[:-1], 1), ([*lines[:3], *lines[4:]], 1), ([*lines, lines[11]], 1)):
        export.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        assert alone(tmp_path, *command).returncode == code
    export.write_text("".join(line + "\n" for line in lines)[:-1], encoding="utf-8")
    assert alone(tmp_path, *command).returncode == 1, "the last line is cut off"


def test_a_wrong_call_is_told(scene: Scene, tmp_path: Path) -> None:
    key = ("--key", scene.witness / "ledger.pub")
    for arguments, message in (
        (("ledger", tmp_path / "none.db", *key, "--heads", scene.heads), "no such file"),
        (("ledger", scene.database, *key), "name at least one file of published heads"),
        (("ledger", scene.database, "--key", scene.heads, "--heads", scene.heads), "error:"),
        (("proof", tmp_path / "none.json", *key), "No such file"),
    ):
        done = alone(tmp_path, *arguments)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_a_database_on_a_medium_that_cannot_be_written(scene: Scene) -> None:
    folder = scene.database.parent
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert read_sqlite(scene.database).findings == []
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name: after[name] for name in before} == before, "verification changes nothing"
    result = verify(read_sqlite(folder / "none.db"), key=scene.key.public_key(), head_files=[folder / "none.jsonl"])
    assert {finding.problem for finding in result.findings} == {Problem.UNREADABLE}


def test_heads_are_what_they_say() -> None:
    key = Ed25519PrivateKey.generate()
    head = TreeHead(size=3, root="ab" * 32, at="2026-01-05T10:00:00.000+00:00", key="cd" * 32)
    signed = replace(head, signature=key.sign(head.signed_bytes()).hex())
    assert TreeHead.from_line(signed.to_line()) == signed
    assert signed.is_signed_by(key.public_key())
    assert not replace(signed, size=4).is_signed_by(key.public_key())
    for line in ("", "[]", "{}", signed.to_line() + " ", signed.to_line().replace('"size":3', '"size":"3"')):
        with pytest.raises(ValueError, match=r".*"):
            TreeHead.from_line(line)
