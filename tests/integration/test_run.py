"""Runs through the ledger: refusals before reading, releases left alone, changed definitions."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from governance.canonical import canonical_bytes
from governance.errors import BudgetExceeded, DefinitionError, InputMissing, NullValue, ReleaseCorrupt, RunInProgress
from governance.files import exclusive_lock
from governance.ledger import EntryKind, Ledger
from governance.recovery import release_lock_path
from governance.release import KEYED_SAMPLER, ReleaseStore
from governance.settings import Settings, load_settings
from pipelines.noise import ZeroNoise
from pipelines.results import Outcome
from pipelines.run import run
from pipelines.windows import Newest, Starting
from tests.e2e.test_crash import PROJECT, SIGNAL
from tests.support.projects import make_events, with_cap, write_definition, write_tables


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    (tmp_path / "hedgerow.toml").write_text(PROJECT, encoding="utf-8")
    write_definition(tmp_path, SIGNAL)
    write_tables(tmp_path, make_events())
    return load_settings(tmp_path)


def test_run_releases_what_is_missing_and_nothing_twice(project: Settings) -> None:
    first = run(project, windows=Newest(2))
    assert [(r.release_id, r.outcome) for r in first] == [
        ("weekly/v1/2025-11-10", Outcome.RELEASED),
        ("weekly/v1/2025-11-17", Outcome.RELEASED),
    ]
    files = {p: p.read_bytes() for p in project.releases_dir.rglob("*") if p.is_file()}
    again = run(project, windows=Newest(3))
    assert [r.outcome for r in again] == [Outcome.RELEASED, Outcome.PRESENT, Outcome.PRESENT]
    assert all(path.read_bytes() == data for path, data in files.items())
    with Ledger(project.ledger_path) as ledger:
        assert ledger.balances()[0].spent.rho == Decimal("0.75")
        states = [(run.subject, run.state) for run in ledger.runs()]
        assert all(state is EntryKind.COMMIT for _, state in states)
        kinds = [str(entry.kind) for entry in ledger.entries()]
    assert kinds == ["OPEN", "RESERVE", "RESERVE", "DRAW", "COMMIT", "DRAW", "COMMIT", "RESERVE", "DRAW", "COMMIT"]


def test_the_manifest_says_what_happened(project: Settings) -> None:
    [result] = run(project, windows=Starting((date(2025, 11, 10),)))
    manifest = ReleaseStore(project.releases_dir).load(result.release_id)
    assert manifest == result.manifest
    assert manifest.guarantee.sampler == KEYED_SAMPLER
    assert (manifest.rows, manifest.keys) == (12, ("item_id",))
    assert manifest.window.start == "2025-11-10T00:00:00+00:00"
    [mechanism] = manifest.guarantee.measurements
    assert mechanism.l0 == 3
    assert mechanism.noise_stddev == pytest.approx((3 / (2 * 0.25)) ** 0.5)
    [events] = manifest.inputs
    assert events.access == "private"
    assert events.fingerprint.startswith("hmac-sha256:")
    text = manifest.to_bytes().decode()
    assert str(len(make_events()["ts"])) not in text, "the number of private rows is not told"
    with Ledger(project.ledger_path) as ledger:
        [known] = ledger.runs()
        assert known.manifest_sha256 == manifest.sha256


def test_over_budget_is_refused_before_anything_is_read(project: Settings) -> None:
    """The input is not even there; the refusal comes first, and nothing stays reserved."""
    (project.root / "data/events.parquet").unlink()
    poor = with_cap(project, "0.6")
    with pytest.raises(BudgetExceeded) as caught:
        run(poor, windows=Newest(3))
    assert caught.value.requested == Decimal("0.75")
    assert caught.value.remaining == Decimal("0.6")
    with Ledger(poor.ledger_path) as ledger:
        assert ledger.balances()[0].remaining.rho == Decimal("0.6")
        assert [str(entry.kind) for entry in ledger.entries()] == ["OPEN", "REFUSED"]
    assert not project.releases_dir.exists()


def test_a_refused_input_gives_the_reservation_back(project: Settings) -> None:
    events = make_events()
    events["user_id"][7] = None
    write_tables(project.root, events)
    with pytest.raises(NullValue) as caught:
        run(project)
    assert caught.value.column == "user_id"
    (project.root / "data/events.parquet").unlink()
    with pytest.raises(InputMissing):
        run(project)
    with Ledger(project.ledger_path) as ledger:
        balance = ledger.balances()[0]
        assert (balance.held.rho, balance.spent.rho) == (0, 0)
    assert ReleaseStore(project.releases_dir).ids() == ()


def test_a_changed_definition_needs_a_new_version(project: Settings) -> None:
    run(project)
    write_definition(project.root, SIGNAL.replace("ZCDP(0.25)", "ZCDP(0.2)"))
    with pytest.raises(DefinitionError, match="raise version"):
        run(project)
    write_definition(project.root, SIGNAL.replace("ZCDP(0.25)", "ZCDP(0.2)").replace("version=1", "version=2"))
    [result] = run(project)
    assert result.release_id == "weekly/v2/2025-11-17"


def test_an_edited_manifest_is_noticed(project: Settings) -> None:
    [result] = run(project)
    path = project.releases_dir / result.release_id / "manifest.json"
    document = json.loads(path.read_bytes())
    document["guarantee"]["rho"] = "0.001"
    path.write_bytes(canonical_bytes(document))
    with pytest.raises(ReleaseCorrupt, match="not the one that the ledger committed"):
        run(project)


def test_two_runs_of_one_window_do_not_meet(project: Settings) -> None:
    with (
        exclusive_lock(release_lock_path(project, "weekly/v1/2025-11-17"), "other"),
        pytest.raises(RunInProgress),
    ):
        run(project)


def test_a_test_sampler_marks_the_release(project: Settings) -> None:
    [result] = run(project, noise=lambda _: ZeroNoise())
    assert result.manifest.guarantee.sampler == "none: test of zero scale"


def test_a_cap_that_changes_under_the_ledger_is_refused(project: Settings) -> None:
    run(project)
    richer = replace(with_cap(project, "5"))
    write_definition(project.root, SIGNAL.replace("version=1", "version=2"))
    with pytest.raises(Exception, match="restore the old cap"):
        run(richer)
