"""What the policy refuses is not published, whoever asks, and the ledger says so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from featurestore.committed import committed_releases
from governance.ledger import EntryKind, Ledger, open_ledger
from governance.settings import Settings
from tests.support.releases import make_project, make_release, make_vector_release

RULES = """
rules:
  - {id: EPS-1, kind: max_epsilon_per_release, epsilon: 0.7, where: {units: [user_id]}, reason: one week is one week}
  - {id: KEEP-1, kind: retention, days: 60, reason: stale after two months}
"""


@pytest.fixture
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Ledger]]:
    settings = make_project(
        tmp_path_factory.mktemp("shop"), extra="\n[calendar]\nfirst_day = 2025-09-01\nlast_day = 2025-11-30\n"
    )
    with open_ledger(settings) as ledger:
        for signal, rho, month in (("mild", "0.01", 11), ("loud", "0.1", 11), ("old", "0.01", 9)):
            make_release(
                settings, ledger, signal=signal, keys={"genre": "string"}, features={"n": "int64"},
                rows={"genre": ["a"], "n": [1]}, rho=rho, window_start=datetime(2025, month, 3, tzinfo=UTC),
            )  # fmt: skip
        make_vector_release(settings, ledger, ids=[1], vectors=[[1.0, 0.0]])
        yield settings, ledger


def names(settings: Settings, ledger: Ledger, told: list[str] | None = None) -> list[str]:
    progress = (lambda _: None) if told is None else told.append
    return [manifest.signal.name for manifest in committed_releases(settings, ledger, progress)]


def test_without_a_policy_everything_committed_is_published(shop: tuple[Settings, Ledger]) -> None:
    settings, ledger = shop
    assert names(settings, ledger) == ["item_content", "loud", "mild", "old"]


def test_refused_releases_are_passed_over_named_and_recorded_once(shop: tuple[Settings, Ledger]) -> None:
    settings, ledger = shop
    settings.policy_dir.mkdir()
    (settings.policy_dir / "rules.yaml").write_text(RULES, encoding="utf-8")
    told: list[str] = []
    assert names(settings, ledger, told) == ["item_content", "mild"]
    assert told == [
        "loud/v1/2025-11-03: the policy refuses to publish it (EPS-1), passed over",
        "old/v1/2025-09-03: the policy refuses to publish it (KEEP-1), passed over",
    ]
    assert names(settings, ledger) == ["item_content", "mild"]
    refused = [entry for entry in ledger.entries() if entry.kind is EntryKind.REFUSED]
    assert [(entry.subject, entry.detail["rules"]) for entry in refused] == [
        ("loud/v1/2025-11-03", ["EPS-1"]),
        ("old/v1/2025-09-03", ["KEEP-1"]),
    ]
    assert refused[0].detail["reason"].startswith("policy refuses to publish: EPS-1: the release's epsilon is ")
