from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.caps import change_cap, propose_cap
from governance.errors import LedgerCorrupt
from governance.ledger import Balance, Ledger
from governance.privacy import PrivacyLoss
from governance.release import Manifest
from governance.report import Report, build
from governance.report.checks import account_findings
from governance.report.document import ReleaseStatus, Severity
from governance.report.page import render
from governance.settings import Account, load_settings
from governance.verify.merkle import verify_inclusion
from tests.support.releases import make_project, make_release, make_vector_release
from tests.support.report_fixture import NOW, SIGNALS, Shop, make_empty_shop, make_open_shop, make_shop

TREND = SIGNALS[2]
MONDAY = datetime(2025, 11, 24, tzinfo=UTC)
RELEASE = "overall_trend/v1/2025-11-24"


def report_of(shop: Shop) -> Report:
    return build(shop.settings, shop.ledger, lambda: NOW)


def kinds(report: Report) -> list[tuple[str, str]]:
    return [(finding.kind, finding.subject) for finding in report.findings]


def test_a_sound_project_has_nothing_open(tmp_path: Path) -> None:
    report = report_of(make_shop(tmp_path, weeks=2))
    assert report.findings == ()
    assert [release.status for release in report.releases] == [ReleaseStatus.VERIFIED] * 11
    assert {len(release.checks) for release in report.releases} == {6}
    assert all(release.committed_sha256 == release.found_sha256 for release in report.releases)


def test_releases_are_grouped_by_signal_newest_first(tmp_path: Path) -> None:
    ids = [release.release_id for release in report_of(make_shop(tmp_path, weeks=2)).releases]
    assert ids[:2] == ["genre_weekly_users/v1/2025-11-03", "genre_weekly_users/v1/2025-10-27"]
    assert [name.split("/")[0] for name in ids] == sorted(name.split("/")[0] for name in ids)


def test_accounts_add_up(tmp_path: Path) -> None:
    accounts = {account.name: account for account in report_of(make_open_shop(tmp_path)).accounts}
    users = accounts["plays/user_id"]
    assert users.spent == PrivacyLoss(Decimal("0.125"), Decimal("4.0000000016E-8"))
    assert users.held == PrivacyLoss(Decimal("0.02"), Decimal("1E-8"))
    assert users.remaining.rho == Decimal("0.105")
    assert users.history[-1].spent == users.spent
    assert sum(spend.loss.rho for spend in users.history) == users.spent.rho
    assert users.fits_again == 52
    assert users.epsilon.spent is not None
    assert users.epsilon.spent >= users.spent.epsilon(1e-6)


def test_an_account_that_was_never_used_is_shown_whole(tmp_path: Path) -> None:
    report = report_of(make_empty_shop(tmp_path))
    assert [(a.name, a.opened_at, a.remaining == a.cap, a.fits_again) for a in report.accounts] == [
        ("plays/user_id", None, True, None),
        ("plays/event_id", None, True, None),
        ("support_tickets/user_id/day", None, True, None),
    ]
    assert (report.releases, report.findings, report.refusals, report.ledger.root) == ((), (), (), "")


def test_a_delta_that_is_used_up_has_no_finite_epsilon(tmp_path: Path) -> None:
    settings = make_project(tmp_path)  # its caps' delta equals the reporting delta
    with Ledger(settings.ledger_path) as ledger:
        account = build(settings, ledger).accounts[0]
    assert account.epsilon.cap is None
    assert account.epsilon.spent == 0


def test_refusals_are_told_newest_first(tmp_path: Path) -> None:
    refused = report_of(make_shop(tmp_path, weeks=1)).refusals
    assert [(r.subject, r.asked is None) for r in refused] == [
        ("user_sessions/v1/2025-11-17", True),
        ("item_weekly/v1/2025-10-27", False),
    ]
    asked, left = refused[1].asked, refused[1].remaining
    assert asked is not None
    assert left is not None
    assert asked.rho > left.rho
    assert refused[1].reason == "rho over the account's cap"


def test_failures_come_before_what_needs_attention(tmp_path: Path) -> None:
    report = report_of(make_open_shop(tmp_path))
    assert kinds(report) == [
        ("release_corrupt", "genre_weekly_users/v1/2025-11-10"),
        ("release_corrupt", "ticket_topics/v1/2025-11-03"),
        ("run_without_release", "overall_trend/v1/2025-11-24"),
        ("reservation_held", "item_weekly/v1/2025-11-24"),
    ]
    assert [finding.severity for finding in report.findings[1:3]] == [Severity.FAILURE, Severity.ATTENTION]


def edit_manifest(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"rows":1,', b'"rows":2,'))


def pad_manifest(directory: Path) -> None:
    path = directory / "manifest.json"
    path.write_bytes(path.read_bytes() + b"\n")


def break_manifest(directory: Path) -> None:
    (directory / "manifest.json").write_bytes(b"[" * 100_000)


def hide_manifest(directory: Path) -> None:
    (directory / "manifest.json").unlink()
    (directory / "manifest.json").mkdir()


def edit_data(directory: Path) -> None:
    (directory / "part-00000.parquet").write_bytes(b"PAR1")


def lose_data(directory: Path) -> None:
    (directory / "part-00000.parquet").unlink()


def add_data(directory: Path) -> None:
    (directory / "part-00001.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("spoil", "check", "shown"),
    [
        (edit_manifest, "manifest", False),
        (pad_manifest, "manifest", False),
        (break_manifest, "manifest", False),
        (hide_manifest, "manifest", False),
        (edit_data, "files", True),
        (lose_data, "files", True),
        (add_data, "files", True),
    ],
)
def test_a_changed_release_is_a_failure(tmp_path: Path, spoil: Callable[[Path], None], check: str, shown: bool) -> None:
    shop = make_empty_shop(tmp_path)
    shop.release(TREND, MONDAY)
    spoil(shop.release_directory(RELEASE))
    report = report_of(shop)
    (release,) = report.releases
    assert kinds(report) == [("release_corrupt", RELEASE)]
    assert [c.name for c in release.checks if not c.passed] == [check]
    assert (release.content is not None) is shown, "an altered manifest must not be believed"
    assert str(tmp_path) not in report.to_bytes().decode()


def claim_less(manifest: Manifest) -> Manifest:
    return replace(manifest, guarantee=replace(manifest.guarantee, epsilon=0.01))


def claim_a_lower_loss(manifest: Manifest) -> Manifest:
    return replace(manifest, guarantee=replace(manifest.guarantee, rho="0.001", epsilon=10.0))


def claim_another_run(manifest: Manifest) -> Manifest:
    return replace(manifest, ledger=replace(manifest.ledger, run_id="0" * 32))


def use_a_test_sampler(manifest: Manifest) -> Manifest:
    return replace(manifest, guarantee=replace(manifest.guarantee, sampler="zero noise"))


def pretend_public(manifest: Manifest) -> Manifest:
    return replace(manifest, guarantee=replace(manifest.guarantee, variant="public inputs"))


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (claim_less, "epsilon"),
        (claim_a_lower_loss, "ledger"),
        (claim_another_run, "ledger"),
        (use_a_test_sampler, "sampler"),
        (pretend_public, "public"),
    ],
)
def test_a_committed_manifest_that_contradicts_the_ledger_is_a_failure(
    tmp_path: Path, change: Callable[[Manifest], Manifest], check: str
) -> None:
    shop = make_empty_shop(tmp_path)
    shop.release(TREND, MONDAY, change=change)
    report = report_of(shop)
    assert [c.name for c in report.releases[0].checks if not c.passed] == [check]
    assert kinds(report) == [("release_corrupt", RELEASE)]


def test_a_failed_quality_check_needs_attention(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path)
    failed = {"check": "event times lie in the window", "passed": False}
    shop.release(TREND, MONDAY, change=lambda manifest: replace(manifest, quality=(failed,)))
    report = report_of(shop)
    assert report.releases[0].status is ReleaseStatus.VERIFIED
    assert kinds(report) == [("quality_failed", RELEASE)]


def test_a_lost_release_is_a_failure(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path)
    shop.release(TREND, MONDAY)
    shutil.rmtree(shop.release_directory(RELEASE))
    report = report_of(shop)
    assert kinds(report) == [("release_missing", RELEASE)]
    assert report.releases[0].status is ReleaseStatus.MISSING


def test_a_release_without_commit_is_a_failure_told_once(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path)
    shop.release(TREND, MONDAY, commit=False)
    report = report_of(shop)
    assert kinds(report) == [("release_uncommitted", RELEASE)]
    assert report.releases[0].content is None
    assert [entry.kind for entry in report.releases[0].entries] == ["RESERVE", "DRAW"]


def test_a_release_that_the_ledger_never_heard_of_is_a_failure(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path)
    shop.release(TREND, MONDAY)
    shutil.copytree(shop.release_directory(RELEASE), shop.release_directory("overall_trend/v1/2025-12-01"))
    report = report_of(shop)
    assert kinds(report) == [("release_uncommitted", "overall_trend/v1/2025-12-01")]
    assert "The ledger has no entry about it." in report.findings[0].message


def test_a_loss_stays_told_after_another_run_committed_the_release(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path)
    account = shop.settings.accounts[0]
    run_id = shop.run_id()
    shop.ledger.reserve(run_id, account, RELEASE, PrivacyLoss.of("0.002", "0"))
    shop.ledger.draw(run_id)
    shop.release(TREND, MONDAY)
    report = report_of(shop)
    assert kinds(report) == [("run_without_release", RELEASE)]
    assert "another run committed" in report.findings[0].remedy
    assert report.accounts[0].spent.rho == Decimal("0.004")


def test_a_cap_changed_in_the_settings_is_a_failure(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path)
    shop.release(TREND, MONDAY)
    path = tmp_path / "hedgerow.toml"
    path.write_text(path.read_text().replace('rho = "0.25"', 'rho = "25"'))
    report = build(load_settings(tmp_path), shop.ledger, lambda: NOW)
    assert kinds(report) == [("cap_differs", "plays/user_id")]
    assert report.accounts[0].cap.rho == Decimal("0.25")


def test_an_overspent_and_an_undeclared_account_are_told() -> None:
    cap, spent = PrivacyLoss.of("1", "1e-6"), PrivacyLoss.of("1.5", "0")
    balances = [Balance(account=name, cap=cap, spent=spent, held=PrivacyLoss.zero()) for name in ("a/user", "b/user")]
    findings = account_findings(balances, [Account(dataset="a", unit="user", cap=cap)])
    assert [(f.kind, f.subject) for f in findings] == [
        ("account_overspent", "a/user"),
        ("account_overspent", "b/user"),
        ("account_undeclared", "b/user"),
    ]


def test_an_edited_ledger_ends_the_report(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, weeks=1)
    with sqlite3.connect(shop.settings.ledger_path) as database:
        database.execute("DROP TRIGGER entries_keep_update")
        database.execute("UPDATE entries SET body = replace(body, '0.02', '0.01') WHERE sequence = 3")
        database.execute("UPDATE entries SET body = replace(body, '0.00875', '0.00075') WHERE sequence = 3")
    with pytest.raises(LedgerCorrupt, match="entry 3"):
        report_of(shop)


def test_the_definition_itself_is_not_copied(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path)
    definition = {"name": "overall_trend", "partitions": {"kind": "public", "keys": ["a-public-key"]}}
    shop.release(TREND, MONDAY, change=lambda m: replace(m, signal=replace(m.signal, definition=definition)))
    text = report_of(shop).to_bytes().decode()
    assert "a-public-key" not in text
    assert "privacy_unit" not in text


def test_releases_with_real_parquet_verify(tmp_path: Path) -> None:
    settings = make_project(tmp_path)
    with Ledger(settings.ledger_path) as ledger:
        make_release(
            settings,
            ledger,
            signal="item_weekly",
            keys={"item_id": "int64"},
            features={"users": "int64"},
            rows={"item_id": [1, 2], "users": [30, 40]},
        )
        make_vector_release(settings, ledger, ids=[1, 2], vectors=[[1.0, 0.0], [0.0, 1.0]])
        report = build(settings, ledger)
    assert report.failures == ()
    assert [finding.kind for finding in report.findings] == ["policy_missing", "record_missing"]
    assert report.verified == 2


def with_policy(shop: Shop, old: str, new: str) -> None:
    path = shop.settings.policy_dir / "policy.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_policy_in_force_is_asked_about_what_was_released(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, weeks=1)
    assert all(decision.allowed for decision in report_of(shop).policy.decisions)
    with_policy(shop, "epsilon: 4,", "epsilon: 0.7,")
    report = report_of(shop)
    refused = {decision.subject for decision in report.policy.decisions if not decision.allowed}
    assert "item_weekly/v1/2025-10-27" in refused
    assert {f.subject for f in report.findings if f.kind == "policy_refuses"} == refused
    assert report.failures == ()


def test_a_policy_whose_examples_fail_is_told(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, weeks=1)
    with_policy(shop, "purposes: [ranking], reason: as people", "purposes: [ranking, ads], reason: as people")
    report = report_of(shop)
    assert report.policy.examples_failed == ("not for ads",)
    assert report.policy.rules_unshown == ("PURPOSE-1",)
    assert [finding.kind for finding in report.findings] == ["policy_untested"]


def test_the_processing_record_joins_what_people_state_with_what_ran(tmp_path: Path) -> None:
    record = report_of(make_shop(tmp_path, weeks=2)).processing
    assert record.statement is not None
    assert record.statement["controller"]["name"] == "Listening Shop Ltd"
    assert [dataset.name for dataset in record.datasets] == ["plays", "support_tickets"]
    item = next(activity for activity in record.activities if activity.group == "item_weekly/v1")
    assert (item.releases, item.unit, item.datasets) == (2, "user_id", ("plays",))
    assert item.columns_read == ("user_id", "played_at", "genre", "seconds_played")
    assert item.served_until > item.newest_window_end
    vectors = next(activity for activity in record.activities if activity.group == "item_content/v1")
    assert (vectors.datasets, vectors.columns_read, vectors.served_until) == ((), (), "")


def test_what_cannot_be_trusted_is_not_repeated(tmp_path: Path) -> None:
    report = report_of(make_open_shop(tmp_path))
    trusted = {release.release_id for release in report.releases if release.status is ReleaseStatus.VERIFIED}
    assert {decision.subject for decision in report.policy.decisions} == trusted
    assert {record.release_id for record in report.guarantees} <= trusted


def test_every_commit_is_proved_under_the_head(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, weeks=1)
    report = report_of(shop)
    root = bytes.fromhex(report.ledger.root)
    for release in report.releases:
        commit = next(entry for entry in release.entries if entry.kind == "COMMIT")
        assert release.inclusion is not None
        path = [bytes.fromhex(step) for step in release.inclusion]
        leaf = bytes.fromhex(commit.hash)
        assert verify_inclusion(leaf, commit.sequence - 1, report.ledger.entries, path, root)
        assert not verify_inclusion(leaf, commit.sequence, report.ledger.entries, path, root)


def test_a_changed_cap_is_told_with_who_signed_it_and_why(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, weeks=1)
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    public = key.public_key().public_bytes_raw().hex()
    account = shop.settings.accounts[0]
    raised = replace(account, cap=PrivacyLoss.of("0.3", "5e-7"))
    proposed = propose_cap(shop.ledger, raised, role="dpo", public_key=public, justification="one more season")
    change_cap(shop.ledger, proposed.signed(key), {"dpo": public})
    report = report_of(shop)
    told = next(record for record in report.accounts if record.name == account.name)
    (change,) = told.cap_changes
    assert (change.role, change.justification) == ("dpo", "one more season")
    assert (change.before, change.after, told.cap) == (account.cap, raised.cap, raised.cap)
    assert "one more season" in render(report, report.sha256)


@pytest.mark.parametrize(("factor", "status"), [(1.0, ReleaseStatus.VERIFIED), (0.999, ReleaseStatus.CORRUPT)])
def test_an_epsilon_may_be_tight_and_not_a_hair_below(tmp_path: Path, factor: float, status: ReleaseStatus) -> None:
    from pipelines.accounting import gaussian_epsilon

    exact = gaussian_epsilon((2 * float(TREND.rho)) ** 0.5, 1e-6)
    shop = make_empty_shop(tmp_path)
    shop.release(TREND, MONDAY, change=lambda m: replace(m, guarantee=replace(m.guarantee, epsilon=exact * factor)))
    (release,) = report_of(shop).releases
    assert release.status is status
