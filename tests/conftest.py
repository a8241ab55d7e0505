"""What every test shares."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from governance.doctor import find_chromium

NO_CHROMIUM = "no Chromium on PATH: tests of pages need one (Debian: apt-get install chromium)"


def pytest_configure(config: pytest.Config) -> None:
    """Properties: a machine that stands still for a second falsifies none, and `make test` always tries the same cases.

    Without `-m "not long"` each run tries others.
    """
    same = config.getoption("markexpr") == "not long"
    unhurried = settings(deadline=None, derandomize=same, suppress_health_check=[HealthCheck.too_slow])
    settings.register_profile("unhurried", unhurried)
    settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without Chromium, tests of pages count as long: `make test` leaves them out, `make test-all` fails saying why."""
    if find_chromium() is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker("long")


def pytest_report_header() -> str | None:
    """Says what the missing browser changes."""
    return None if find_chromium() else f"{NO_CHROMIUM}; only make test-all runs them"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium, for Playwright's `executable_path`. Mark tests that use it with `browser`."""
    path = find_chromium()
    if path is None:
        pytest.fail(NO_CHROMIUM)
    return path
