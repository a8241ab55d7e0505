"""Many windows at once: few locks at a time, refused as a whole, and what another process made is left alone."""

from __future__ import annotations

import resource
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from governance.errors import BudgetExceeded, RunInProgress
from governance.files import exclusive_lock
from governance.ledger import Ledger
from governance.recovery import release_lock_path
from governance.release import ReleaseStore
from governance.settings import Settings, load_settings
from pipelines.results import Outcome, Stage
from pipelines.run import run
from pipelines.windows import Newest
from tests.e2e.test_crash import PROJECT, SIGNAL
from tests.support.projects import make_events, with_cap, write_definition, write_tables

DAILY = SIGNAL.replace("Window(timedelta(days=7))", "Window(timedelta(days=1))")


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    (tmp_path / "hedgerow.toml").write_text(PROJECT.replace("first_day = 2025-11-03", ""), encoding="utf-8")
    write_definition(tmp_path, DAILY.replace("ZCDP(0.25)", "ZCDP(0.125)"))
    write_tables(tmp_path, make_events())
    return load_settings(tmp_path)


def kinds(settings: Settings) -> list[str]:
    with Ledger(settings.ledger_path) as ledger:
        return [str(entry.kind) for entry in ledger.entries()]


def test_more_windows_than_a_process_may_open_files(project: Settings) -> None:
    """Here the account cannot carry them: told so, rather than that there are too many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 200, hard))
    try:
        with pytest.raises(BudgetExceeded, match="and 399 more") as caught:
            run(project, windows=Newest(400))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.requested == 50
    assert kinds(project) == ["OPEN", "REFUSED"]


class Watching:
    """Notes which of the windows' locks are held whenever noise is about to be drawn."""

    def __init__(self, settings: Settings, days: int) -> None:
        newest = date(2025, 11, 23)
        self.names = [f"weekly/v1/{newest - timedelta(days=back)}" for back in range(days)]
        self.settings, self.held = settings, list[list[str]]()

    def stage(self, subject: str, stage: Stage) -> None:
        if stage is Stage.DRAW:
            self.held.append(sorted(name for name in self.names if self._is_held(name)))
            assert subject in self.held[-1]

    def _is_held(self, name: str) -> bool:
        try:
            with exclusive_lock(release_lock_path(self.settings, name), name):
                return False
        except RunInProgress:
            return True


def test_windows_are_reserved_and_locked_some_at_a_time(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.run._AT_ONCE", 2)
    poor = replace(with_cap(project, "0.5"), state_dir=project.root / "poor")
    with pytest.raises(BudgetExceeded):
        run(poor, windows=Newest(5))
    assert not ReleaseStore(poor.releases_dir).ids(), "four could be paid for; it is all of them or none"

    run(project)
    watching = Watching(project, 4)
    results = run(project, windows=Newest(4), progress=watching)
    assert [one.outcome for one in results] == [Outcome.RELEASED] * 3 + [Outcome.PRESENT]
    # The one that was there is not locked, and the last one only when the others are done.
    days = [f"weekly/v1/2025-11-{day}" for day in (20, 21, 22)]
    assert watching.held == [days[:2], days[:2], days[2:]]
    one, two = ["RESERVE", "DRAW", "COMMIT"], ["RESERVE", "RESERVE", "DRAW", "COMMIT", "DRAW", "COMMIT"]
    assert kinds(project) == ["OPEN", *one, *two, *one]


def test_a_window_that_another_process_makes_in_between_is_left_alone(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.run._AT_ONCE", 1)

    class Meanwhile:
        done = False

        def stage(self, subject: str, stage: Stage) -> None:
            if stage is Stage.PUBLISH and not self.done:
                assert subject.endswith("2025-11-22")
                self.done = True
                [other] = run(project)
                assert other.release_id.endswith("2025-11-23")
                assert other.outcome is Outcome.RELEASED

    results = run(project, windows=Newest(2), progress=Meanwhile())
    assert [one.outcome for one in results] == [Outcome.RELEASED, Outcome.PRESENT]
    with Ledger(project.ledger_path) as ledger:
        [balance] = ledger.balances()
        assert balance.spent.rho == Decimal("0.25")
        assert not balance.held.rho
