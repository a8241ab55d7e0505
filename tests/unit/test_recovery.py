"""After a crash: each row of the recovery table, and what recovery must leave alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from governance.errors import ReleaseCorrupt
from governance.files import exclusive_lock
from governance.ledger import EntryKind, Ledger, Run
from governance.privacy import PrivacyLoss
from governance.recovery import recover, release_lock_path
from governance.release import MANIFEST_NAME, Manifest, ReleaseStore
from governance.settings import Account, Settings
from tests.support.releases import make_project, make_release

RELEASE = "genre_weekly/v1/2025-11-03"
LOSS = PrivacyLoss.of("0.01", "1e-9")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path / "project")


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as opened:
        yield opened


def account(settings: Settings) -> Account:
    found = settings.account("events", "user_id")
    assert found is not None
    return found


def reserved(settings: Settings, ledger: Ledger, run_id: str = "r1") -> Path:
    """A run that reserved and staged something; its staging folder."""
    ledger.reserve(run_id, account(settings), RELEASE, LOSS)
    staging = settings.staging_dir / run_id
    (staging / "release").mkdir(parents=True)
    (staging / "release" / "part-00000.parquet").write_bytes(b"half")
    return staging


def published(settings: Settings, ledger: Ledger, *, commit: bool) -> Manifest:
    return make_release(
        settings,
        ledger,
        signal="genre_weekly",
        keys={"genre": "string"},
        features={"users": "int64"},
        rows={"genre": ["jazz"], "users": [120]},
        commit=commit,
    )


def states(ledger: Ledger) -> dict[str, EntryKind]:
    return {run.run_id: run.state for run in ledger.runs()}


def test_reserved_and_staged_is_given_back(settings: Settings, ledger: Ledger) -> None:
    staging = reserved(settings, ledger)
    assert recover(settings, ledger) == (f"{RELEASE}: an unfinished run's reservation was given back",)
    assert states(ledger) == {"r1": EntryKind.RELEASE}
    assert not staging.exists()
    assert ledger.balance(account(settings)).remaining == account(settings).cap
    assert recover(settings, ledger) == ()


def test_reserved_beside_a_release_of_another_run_is_given_back(settings: Settings, ledger: Ledger) -> None:
    done = published(settings, ledger, commit=True)
    reserved(settings, ledger)
    recover(settings, ledger)
    assert states(ledger) == {done.ledger.run_id: EntryKind.COMMIT, "r1": EntryKind.RELEASE}
    assert ReleaseStore(settings.releases_dir).load(RELEASE) == done


def test_drawn_and_published_is_committed(settings: Settings, ledger: Ledger) -> None:
    manifest = published(settings, ledger, commit=False)
    assert recover(settings, ledger) == (f"{RELEASE}: published whole before a crash; now committed",)
    (run,) = ledger.runs()
    assert (run.state, run.manifest_sha256) == (EntryKind.COMMIT, manifest.sha256)
    assert recover(settings, ledger) == ()


def test_drawn_and_never_published_stays_spent(settings: Settings, ledger: Ledger) -> None:
    staging = reserved(settings, ledger)
    ledger.draw("r1")
    assert recover(settings, ledger) == (f"{RELEASE}: noise was drawn and never published; its loss stays spent",)
    assert not staging.exists()
    assert states(ledger) == {"r1": EntryKind.DRAW}
    assert ledger.balance(account(settings)).spent == LOSS
    assert recover(settings, ledger) == (), "settled once and for all"


def test_drawn_and_replaced_by_a_later_run_stays_spent(settings: Settings, ledger: Ledger) -> None:
    """The release on disk is the second run's: it must not be committed for the first, nor be reported each time."""
    reserved(settings, ledger)
    ledger.draw("r1")
    second = published(settings, ledger, commit=True)
    assert len(recover(settings, ledger)) == 1
    assert states(ledger) == {"r1": EntryKind.DRAW, second.ledger.run_id: EntryKind.COMMIT}
    assert ledger.balance(account(settings)).spent == LOSS + LOSS
    assert recover(settings, ledger) == ()


@pytest.mark.parametrize("drawn", [False, True])
def test_a_living_run_is_left_alone(settings: Settings, ledger: Ledger, drawn: bool) -> None:
    staging = reserved(settings, ledger)
    if drawn:
        ledger.draw("r1")
    before = ledger.entries()
    with exclusive_lock(release_lock_path(settings, RELEASE), RELEASE):
        assert recover(settings, ledger) == ()
    assert ledger.entries() == before
    assert staging.exists()
    assert len(recover(settings, ledger)) == 1, "and is settled when it has died"


@pytest.mark.parametrize("spoil", ["part-00000.parquet", MANIFEST_NAME])
def test_a_published_release_that_does_not_verify_is_not_committed(
    settings: Settings, ledger: Ledger, spoil: str
) -> None:
    published(settings, ledger, commit=False)
    (settings.releases_dir / RELEASE / spoil).write_bytes(b"spoiled")
    for _ in range(2):
        with pytest.raises(ReleaseCorrupt, match=spoil):
            recover(settings, ledger)
    assert set(states(ledger).values()) == {EntryKind.DRAW}
    assert ledger.balance(account(settings)).spent == LOSS


def test_finished_runs_are_not_touched(settings: Settings, ledger: Ledger) -> None:
    published(settings, ledger, commit=True)
    reserved(settings, ledger, "r2")
    ledger.release("r2", "input missing")
    (settings.releases_dir / RELEASE / MANIFEST_NAME).write_bytes(b"spoiled")
    before = ledger.entries()
    assert recover(settings, ledger) == ()
    assert ledger.entries() == before


def test_many_runs_at_once(settings: Settings, ledger: Ledger) -> None:
    for run_id in ("a", "b", "c"):
        reserved(settings, ledger, run_id)
    ledger.draw("b")
    assert len(recover(settings, ledger)) == 3
    assert states(ledger) == {"a": EntryKind.RELEASE, "b": EntryKind.DRAW, "c": EntryKind.RELEASE}
    assert list(settings.staging_dir.iterdir()) == []


class StaleLedger(Ledger):
    """Answers `runs` once as it was before another process settled the run."""

    stale: tuple[Run, ...] | None = None

    def runs(self) -> tuple[Run, ...]:
        answer, self.stale = self.stale, None
        return super().runs() if answer is None else answer


def test_a_run_settled_meanwhile_is_not_settled_again(settings: Settings) -> None:
    with StaleLedger(settings.ledger_path) as ledger:
        reserved(settings, ledger)
        before = ledger.runs()
        ledger.draw("r1")
        ledger.commit("r1", "m")
        ledger.stale = before
        assert recover(settings, ledger) == ()
        assert states(ledger) == {"r1": EntryKind.COMMIT}


def test_locks_of_different_releases_are_different(settings: Settings) -> None:
    paths = {release_lock_path(settings, name) for name in ("a/v1/x", "a/v1/y", "a/v11/x", "b/v1/x")}
    assert len(paths) == 4
    assert {path.parent for path in paths} == {settings.locks_dir}
