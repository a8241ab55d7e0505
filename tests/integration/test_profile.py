"""`hedgerow profile`: one row a unit, whatever its events; paid for once; written down for the definition."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hedgerow
from governance.errors import BudgetExceeded, ConfigError, DefinitionError, NullValue
from governance.ledger import Ledger, Request
from governance.privacy import PrivacyLoss
from governance.release import ReleaseStore
from governance.settings import Settings, load_settings
from pipelines import (
    KeepRandom,
    PrivacyUnit,
    PrivateSelection,
    PublicJoin,
    PublicPartitions,
    Relation,
    Signal,
    UnitKind,
)
from pipelines import profile as module
from pipelines.bounding_choice import compare_bounds
from pipelines.noise import KeyedNoise, ReleaseKey, ZeroNoise
from pipelines.plan import plan_signal
from pipelines.profile import STEPS, profile, profile_of, profile_signal
from pipelines.project import load_project
from pipelines.results import Outcome
from pipelines.run import run
from pipelines.windows import Newest, Starting
from tests.e2e.test_crash import PROJECT, SIGNAL
from tests.support.projects import (
    ITEMS,
    SPAN,
    START,
    a_signal,
    engine_settings,
    make_events,
    rows_of,
    write_definition,
    write_tables,
)

SIGNALS = {
    "a person, public keys": a_signal(partitions=PublicPartitions({"item_id": tuple(range(9))})),
    "a person's day, private keys": a_signal(privacy_unit=PrivacyUnit("user_id", per=timedelta(days=1))),
    "one event, joined genres": a_signal(
        privacy_unit=PrivacyUnit("event_id", kind=UnitKind.EVENT),
        joins=(PublicJoin(table=ITEMS, on="item_id", columns=("genre",), explode="genre"),),
        entity=replace(a_signal().entity, name="genre", keys=("genre",)),
        bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1),
        partitions=PrivateSelection(delta=1e-9),
    ),
    "a person that is replaced": a_signal(privacy_unit=PrivacyUnit("user_id", relation=Relation.REPLACE_ONE)),
}
GENRES = {item: ["drama", "crime", "comedy"][: item % 4] for item in range(12)}


def plain_profile(signal: Signal, rows: list[dict[str, Any]]) -> Counter[int]:
    """Step → units, in plain Python."""
    keys: dict[Any, set[Any]] = {}
    for row in rows:
        unit = tuple(row[column] for column in signal.privacy_unit.columns)
        if signal.privacy_unit.per is not None:
            unit = (*unit, row["ts"] // 86400)
        if SPAN.start.timestamp() <= row["ts"] < SPAN.end.timestamp():
            of_row: list[Any] = GENRES[row["item_id"]] if signal.joins else [row["item_id"]]
            if isinstance(signal.partitions, PublicPartitions):
                of_row = [key for key in of_row if key < 9]
            keys.setdefault(unit, set()).update(of_row)
    return Counter(max(step for step in STEPS if step <= len(found)) for found in keys.values() if found)


def table_of(signal: Signal, root: Path, rows: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """The rows of the table with one row a unit, those before the window left out."""
    write_tables(root, {name: [row[name] for row in rows] for name in rows[0]})
    settings = engine_settings(root)
    folder = root / "units"
    module._write_units(signal, settings, ReleaseStore(settings.releases_dir), SPAN, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    columns = [*signal.privacy_unit.columns, "seen_at", "partitions"]
    table = pa.concat_tables([pq.read_table(file) for file in folder.glob("*.parquet")]).select(columns)
    found = Counter(zip(*(table.column(name).to_pylist() for name in columns), strict=True))
    inside = {row: n for row, n in found.items() if row[-2] >= SPAN.start.timestamp()}
    assert sum(found.values()) == sum(inside.values()) + 1, "and one row before the window"
    return Counter(inside)


@pytest.mark.parametrize("name", list(SIGNALS)[:3])
def test_a_unit_is_one_row_and_changes_no_other(name: str, tmp_path: Path) -> None:
    """The proof's premise: without a unit's events its row is missing, and all others stay. And rows are right."""
    signal, rows = SIGNALS[name], rows_of(make_events(seed=4))
    everybody = table_of(signal, tmp_path, rows)
    units = Counter(row[:-2] if signal.privacy_unit.per is None else (*row[:-2], row[-2] // 86400) for row in everybody)
    assert max(units.values()) == 1
    steps = Counter(row[-1] for row in everybody.elements())
    assert steps == plain_profile(signal, rows)
    assert len(steps) >= 2
    unit = signal.privacy_unit
    one = next(row for row in rows if row["ts"] < SPAN.end.timestamp() and GENRES[row["item_id"]])

    def same(row: dict[str, Any]) -> bool:
        day = unit.per is None or row["ts"] // 86400 == one["ts"] // 86400
        return day and all(row[column] == one[column] for column in unit.columns)

    others = table_of(signal, tmp_path / "without", [row for row in rows if not same(row)])
    assert not others - everybody
    [(missing, count)] = (everybody - others).items()
    assert count == 1
    assert missing[: len(unit.columns)] == tuple(one[column] for column in unit.columns)


def test_the_derived_signal_counts_units_once_under_the_same_unit_and_relation() -> None:
    for signal in SIGNALS.values():
        derived = profile_signal(signal, 0.01, "var/units")
        plan = plan_signal(derived, engine_settings(Path("nowhere")))
        [mechanism] = plan.calibration.mechanisms
        replaced = signal.privacy_unit.relation is Relation.REPLACE_ONE
        assert mechanism.measure.l2 == pytest.approx(2**0.5 if replaced else 1.0)
        assert mechanism.distribution.scale >= mechanism.measure.l2 / (2 * 0.01) ** 0.5
        assert derived.privacy_unit == signal.privacy_unit
        assert plan.account == plan_signal(signal, engine_settings(Path("nowhere"))).account
        assert float(plan.loss.rho) == 0.01


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    (tmp_path / "hedgerow.toml").write_text(PROJECT, encoding="utf-8")
    write_definition(tmp_path, SIGNAL)
    write_tables(tmp_path, make_events(events=9000, users=600))
    return load_settings(tmp_path)


def spent(settings: Settings) -> Decimal:
    with Ledger(settings.ledger_path) as ledger:
        [balance] = ledger.balances()
        assert not balance.held.rho
        return balance.spent.rho


def test_a_profile_is_paid_for_once_and_read_again_free_of_charge(project: Settings) -> None:
    first = profile(project, "weekly", rho=0.05)
    assert first.result.outcome is Outcome.RELEASED
    assert spent(project) == Decimal("0.05")
    exact = plain_newest(project)
    assert dict(first.counts) != dict.fromkeys(dict(first.counts), 0) | exact, "with noise"
    assert all(abs(count - exact[step]) < 7 * first.noise_stddev for step, count in first.counts)
    again = profile(project, "weekly", rho=0.05)
    assert again.result.outcome is Outcome.PRESENT
    assert (again.profile, again.counts) == (first.profile, first.counts)
    assert spent(project) == Decimal("0.05")
    assert not (project.state_dir / "profiles" / "weekly").exists(), "the table of units is gone"
    another = profile(project, "weekly", rho=0.06)
    assert another.result.release_id.startswith("weekly_profile/v2/")
    assert spent(project) == Decimal("0.11")


def plain_newest(project: Settings) -> Counter[int]:
    """The newest window's, whose events lie two weeks after those of `SPAN`."""
    rows = [row | {"ts": row["ts"] - 14 * 86400} for row in rows_of(make_events(events=9000, users=600))]
    [signal] = load_project(project).select(("weekly",))
    assert isinstance(signal, Signal)
    return plain_profile(replace(signal, partitions=PrivateSelection(delta=1e-9)), rows)


def test_without_noise_it_is_the_plain_profile(project: Settings) -> None:
    found = profile(project, "weekly", rho=0.05, noise=lambda _: ZeroNoise())
    exact = plain_newest(project)
    assert {step: count for step, count in found.counts if count} == exact
    told = {step: count for step, count in exact.items() if count >= 3 * found.noise_stddev}
    assert len(told) >= 3
    assert [share for _, share in found.profile.partitions] == pytest.approx(
        [told[step] / sum(told.values()) for step in sorted(told)], abs=1e-4
    )


def test_what_cannot_be_paid_for_or_used_reads_nothing_or_costs_nothing(
    project: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "_write_units", lambda *_: pytest.fail("events were read"))
        with pytest.raises(BudgetExceeded):
            profile(project, "weekly", rho=1.5)
    events = make_events(events=9000, users=600)
    late = max(range(len(events["ts"])), key=lambda i: events["ts"][i])
    events["user_id"][late] = None
    write_tables(project.root, events)
    with pytest.raises(NullValue, match="privacy unit"):
        profile(project, "weekly", rho=0.05)
    assert spent(project) == 0
    assert not (project.state_dir / "profiles" / "weekly").exists()
    assert not ReleaseStore(project.releases_dir).ids()


def test_events_are_read_once_the_loss_is_reserved(project: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    write, held = module._write_units, []

    def noting(*arguments: Any) -> None:
        with Ledger(project.ledger_path) as ledger:
            held.append(ledger.balances()[0].held.rho)
        write(*arguments)

    monkeypatch.setattr(module, "_write_units", noting)
    profile(project, "weekly", rho=0.05)
    assert held == [Decimal("0.05")]


def test_what_a_killed_profile_held_is_given_back_first(project: Settings) -> None:
    account = project.accounts[0]
    with Ledger(project.ledger_path) as ledger:
        subject, loss = "weekly_profile/v1/2025-11-17", PrivacyLoss.of("0.99", "0")
        ledger.reserve_all((Request(run_id="killed", account=account, subject=subject, loss=loss),))
    assert profile(project, "weekly", rho=0.05).result.outcome is Outcome.RELEASED
    assert spent(project) == Decimal("0.05")


def test_an_account_that_renews_pays_by_the_window_s_own_period(project: Settings) -> None:
    """That the newest period is used up is nothing to the one before; and it is said of the one that is."""
    weekly = PROJECT.replace('unit = "user_id"', 'unit = "user_id/week"\nrenews_days = 7').replace('"1.0"', '"0.05"')
    (project.root / "hedgerow.toml").write_text(weekly, encoding="utf-8")
    of_weeks = SIGNAL.replace("import timedelta", "import UTC, datetime, timedelta")
    of_weeks = of_weeks.replace("days=7))", "days=7), origin=datetime(2025, 11, 6, tzinfo=UTC))")
    write_definition(
        project.root, of_weeks.replace('PrivacyUnit("user_id")', 'PrivacyUnit("user_id", per=timedelta(days=7))')
    )
    settings = load_settings(project.root)
    for day in (13, 6):
        window = Starting((START.date().replace(day=day),))
        assert profile(settings, "weekly", rho=0.05, windows=window).result.outcome is Outcome.RELEASED
    with pytest.raises(BudgetExceeded):
        profile(settings, "weekly", rho=0.04, windows=window)


def test_a_window_without_events_is_released_as_any_other(project: Settings) -> None:
    """A refusal would tell that nobody was there."""
    events = make_events(events=200)
    events["ts"] = [int(START.timestamp()) + i for i in range(len(events["ts"]))]
    write_tables(project.root, events)
    key = ReleaseKey(bytes(range(32)))  # of noise in which no step stands out; it does in one of a hundred
    empty = Starting(((START + timedelta(days=7)).date(),))
    with pytest.raises(DefinitionError, match="stands out of noise"):
        profile(project, "weekly", rho=0.001, windows=empty, noise=lambda _: KeyedNoise(key))
    assert spent(project) == Decimal("0.001")
    assert ReleaseStore(project.releases_dir).ids() == ("weekly_profile/v1/2025-11-10",)


def test_the_command_writes_what_a_definition_can_import(project: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    [before] = run(project, windows=Starting(((START + timedelta(days=7)).date(),)))
    with pytest.raises(SystemExit) as left:
        hedgerow.main(["profile", "weekly", "--rho", "0.05", "--project", str(project.root), "--json"])
    assert not left.value.code
    told = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    body = SIGNAL.replace("from pipelines import *", "from _weekly_profile import PROFILE\n\nfrom pipelines import *")
    write_definition(project.root, body.replace("    ttl=", "    profile=PROFILE,\n    ttl="))
    [signal] = load_project(project).signals
    assert signal.profile is not None
    assert [list(pair) for pair in signal.profile.partitions] == told["profile"]["partitions"]
    assert told["release_id"] in signal.profile.origin
    present, new = run(project, windows=Newest(2))
    assert (present.outcome, new.outcome) == (Outcome.PRESENT, Outcome.RELEASED), "it is the same signal as before"
    assert new.manifest.signal.definition_sha256 == before.manifest.signal.definition_sha256
    choices = compare_bounds(plan_signal(signal, project), signal.profile)
    assert len(choices) == 3
    assert any(choice.bias > 0.1 for choice in choices), "most people have more than three items"


def test_phantom_units_are_not_told() -> None:
    counts = tuple(zip(STEPS, [400, 200, 30, 29, -5, *[3] * 15], strict=True))
    found = profile_of(counts, 10.0, "test")
    assert found is not None
    assert found.partitions == ((1, 0.6349), (2, 0.3175), (3, 0.0476))
    assert profile_of(((1, 29), (2, -3)), 10.0, "test") is None


def test_one_window_is_profiled_at_a_time(project: Settings) -> None:
    write_definition(project.root, SIGNAL.replace("Window(timedelta(days=7))", "Window(timedelta(hours=6))"))
    with pytest.raises(ConfigError, match="found 4 windows, allowed: one"):
        profile(project, "weekly", rho=0.05, windows=Starting((START.date(),)))
    assert not ReleaseStore(project.releases_dir).ids()


def test_a_profile_needs_a_signal_whose_columns_are_free(project: Settings) -> None:
    odd = a_signal(source=replace(a_signal().source, person="partitions"), privacy_unit=PrivacyUnit("partitions"))
    with pytest.raises(DefinitionError, match="'partitions' needs another name"):
        profile_signal(odd, 0.01, "var/units")
