"""Runs through the ledger: refusals before reading, releases left alone, changed definitions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.canonical import canonical_bytes
from governance.errors import (
    BudgetExceeded,
    ColumnTypeError,
    DefinitionError,
    EngineError,
    InputMissing,
    LedgerCorrupt,
    NonFiniteValue,
    NullValue,
    ReleaseCorrupt,
    RunInProgress,
)
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
    [_, users] = manifest.columns
    assert users.noise_stddev == mechanism.noise_stddev
    assert users.half_width == 5, "1.96 standard deviations are 4.8; noise comes in whole steps"
    assert json.loads(manifest.to_bytes())["schema"] == "hedgerow.release/2"
    [events] = manifest.inputs
    assert events.access == "private"
    assert events.fingerprint.startswith("hmac-sha256:")
    text = manifest.to_bytes().decode()
    rows = len(make_events()["ts"])
    # By itself: within a hash or a time these digits come up in one of some hundred runs.
    assert not re.search(rf"(?<![0-9a-f]){rows}(?![0-9a-f])", text), "the number of private rows is not told"
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


def test_going_on_beside_releases_that_the_ledger_forgot_is_refused(project: Settings) -> None:
    """A ledger restored from an old copy, or cut short, would let the cap be passed unseen."""
    run(project)
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (project.state_dir / name).unlink(missing_ok=True)
    with pytest.raises(LedgerCorrupt, match="has 0 entries, but the head published in"):
        run(project, windows=Newest(2))
    for path in (*project.state_dir.glob("ledger.db*"), *project.state_dir.glob("ledger-heads*")):
        path.unlink()
    with pytest.raises(LedgerCorrupt, match="does not know it"):
        run(project, windows=Newest(2))
    assert len(ReleaseStore(project.releases_dir).ids()) == 1


def test_a_changed_definition_needs_a_new_version_for_another_window_too(project: Settings) -> None:
    run(project)
    write_definition(project.root, SIGNAL.replace("max_partitions=3", "max_partitions=5"))
    with pytest.raises(DefinitionError, match="raise version"):
        run(project, windows=Newest(2))


def test_a_lost_manifest_spends_nothing(project: Settings) -> None:
    [result] = run(project)
    (project.releases_dir / result.release_id / "manifest.json").unlink()
    with pytest.raises(ReleaseCorrupt, match="missing"):
        run(project)
    with Ledger(project.ledger_path) as ledger:
        assert ledger.balances()[0].spent.rho == Decimal("0.25")


def test_exact_sums_of_a_test_run_are_not_taken_for_a_release(project: Settings) -> None:
    run(project, noise=lambda _: ZeroNoise())
    with pytest.raises(ReleaseCorrupt, match="test source"):
        run(project)


TYPES = {
    "join of text to numbers": ("items", {"item_id": ["0", "1"], "genre": [["a"], ["b"]]}, "joins=(JOIN,),", "item_id"),
    "elements that cannot be keys": ("items", {"item_id": [0, 1], "genre": [[0.5], [1.5]]}, "joins=(JOIN,),", "genre"),
    "unsigned keys": ("events", {"item_id": pa.array([2**63 + 1] * 3150, pa.uint64())}, "", "item_id"),
}


@pytest.mark.parametrize("name", TYPES)
def test_types_that_cannot_work_are_refused_before_anything_is_spent(project: Settings, name: str) -> None:
    table, columns, joins, says = TYPES[name]
    if table == "items":
        pq.write_table(pa.table(columns), project.root / "data/items.parquet")
        body = SIGNAL.replace('Entity("item", ("item_id",))', 'Entity("genre", ("genre",))')
        body = body.replace('{"item_id": tuple(range(12))}', '{"genre": ("a", "b")}').replace(
            "window=", f"{joins} window="
        )
        join = 'PublicJoin(table=PublicTable(name="items", table="data/items.parquet"), on="item_id", '
        body = body.replace("WEEKLY =", f'JOIN = {join}columns=("genre",), explode="genre")\n\nWEEKLY =')
        write_definition(project.root, body)
    else:
        write_tables(project.root, {**make_events(), **columns})
    with pytest.raises(ColumnTypeError, match=says):
        run(project)
    with Ledger(project.ledger_path) as ledger:
        assert (ledger.balances()[0].spent.rho, ledger.balances()[0].held.rho) == (0, 0)


def test_files_of_different_types_are_refused(project: Settings) -> None:
    folder = project.root / "data/events.parquet"
    folder.unlink()
    folder.mkdir()
    events = make_events()
    pq.write_table(pa.table(events), folder / "a.parquet")
    pq.write_table(pa.table({**events, "item_id": [str(i) for i in events["item_id"]]}), folder / "b.parquet")
    with pytest.raises(ColumnTypeError, match="one type in every file"):
        run(project)


def test_private_tables_cannot_be_called_public(project: Settings) -> None:
    column = 'PublicColumn(table=PublicTable(name="keys", table="data/../data/events.parquet"), column="item_id")'
    write_definition(project.root, SIGNAL.replace("tuple(range(12))", column))
    with pytest.raises(DefinitionError, match="shares files with the private events"):
        run(project)


def test_one_table_has_one_name(project: Settings) -> None:
    again = SIGNAL.replace('name="events"', 'name="others"').replace('name="weekly"', 'name="weekly_too"')
    write_definition(project.root, again, "another")
    with pytest.raises(DefinitionError, match="accounts are kept by name"):
        run(project)


def test_no_value_reaches_the_terminal_when_spark_fails(project: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    """A query that fails on a value inside Spark: PySpark would log that value from Python."""
    from pipelines.engine.failures import no_data_in_errors
    from pipelines.engine.session import spark_session

    spark = spark_session(project.spark)
    with pytest.raises(EngineError) as caught, no_data_in_errors("weekly"):
        spark.sql("select cast(text as bigint) from values ('a-private-value') as t(text)").collect()
    shown = capfd.readouterr()
    assert "a-private-value" not in shown.out + shown.err + str(caught.value)
    assert "CAST_INVALID_INPUT" in str(caught.value)


def test_a_refusal_while_reading_gives_the_reservation_back(project: Settings) -> None:
    """A number that is not finite shows only in the rows: after the reservation, before any noise is drawn."""
    events = make_events()
    events["value"][7] = float("nan")
    events["ts"][7] = int(datetime(2025, 11, 18, tzinfo=UTC).timestamp())
    write_tables(project.root, events)
    write_definition(project.root, SIGNAL.replace("Count()}", 'Count(), "total": Sum("value", Interval(0, 5))}'))
    with pytest.raises(NonFiniteValue):
        run(project)
    with Ledger(project.ledger_path) as ledger:
        kinds = [str(entry.kind) for entry in ledger.entries()]
        balance = ledger.balances()[0]
    assert "DRAW" not in kinds
    assert (balance.held.rho, balance.spent.rho) == (0, 0)
    assert ReleaseStore(project.releases_dir).ids() == ()
    assert not any(project.staging_dir.iterdir()), "no scratch file stays"


def test_columns_tell_their_uncertainty(project: Settings) -> None:
    """A mean's depends on the row and is released beside it; a count's is the same everywhere."""
    write_definition(project.root, SIGNAL.replace("Count()}", 'Count(), "mean": Mean("value", Interval(0, 5))}'))
    [result] = run(project)
    columns = {column.name: column for column in result.manifest.columns}
    assert list(columns) == ["item_id", "users", "mean", "mean_half_width"]
    assert columns["mean_half_width"].role == "uncertainty"
    assert columns["mean"].half_width is None
    assert (columns["users"].half_width or 0) > 0
    table = pq.read_table(project.releases_dir / result.release_id / result.manifest.files[0].name)
    half = table.column("mean_half_width").to_numpy()
    assert ((half > 0) & (half <= 5)).all()
    assert len(set(half.tolist())) > 1
