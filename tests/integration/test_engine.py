"""The engine against an independent computation, on real Spark, with noise of zero scale."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame

from governance.settings import Settings
from pipelines import (
    ZCDP,
    ApproxDP,
    Count,
    CountDistinct,
    Entity,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PrivateSelection,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    PureDP,
    Signal,
    Sum,
    UnitKind,
)
from pipelines.engine.aggregate import sum_partitions
from pipelines.engine.bounding import Salts, bound
from pipelines.engine.inputs import open_inputs, read_events
from pipelines.engine.noisy import add_noise
from pipelines.engine.session import spark_session
from pipelines.measurements import OutputKind
from pipelines.noise import KeyedNoise, ReleaseKey, ZeroNoise
from pipelines.plan import plan_signal
from tests.support.bounded import bounded_sums, exploded
from tests.support.projects import (
    ITEMS,
    SPAN,
    USERS,
    a_signal,
    engine_settings,
    make_events,
    rows_of,
    write_tables,
)

KEY = ReleaseKey(bytes(range(32)))
SALTS = Salts(rows=KEY.salt("rows"), partitions=KEY.salt("partitions"))
VALUE = Interval(-1, 5)
GENRES = PublicJoin(table=ITEMS, on="item_id", columns=("genre",), explode="genre")

SIGNALS = {
    "one row, private keys, every aggregate": a_signal(
        aggregates={"users": Count(), "mean": Mean("value", VALUE), "total": Sum("value", VALUE)},
    ),
    "several rows with values": a_signal(
        aggregates={
            "rows": Count(),
            "people": CountDistinct(),
            "total": Sum("value", VALUE),
            "mean": Mean("value", VALUE),
        },
        bounds=KeepRandom(max_partitions=2, max_rows_per_partition=3),
    ),
    "counts only, user-day": a_signal(
        aggregates={"rows": Count()},
        privacy_unit=PrivacyUnit("user_id", per=timedelta(days=1)),
        bounds=KeepRandom(max_partitions=1, max_rows_per_partition=2),
        budget_per_release=ApproxDP(epsilon=8.0, delta=1e-6),
    ),
    "one event, joined genres, public users and genres": a_signal(
        aggregates={"events": Count(), "total": Sum("value", VALUE)},
        privacy_unit=PrivacyUnit("event_id", kind=UnitKind.EVENT),
        entity=Entity("user_genre", ("user_id", "genre")),
        joins=(GENRES,),
        bounds=KeepRandom(max_partitions=2, max_rows_per_partition=1),
        partitions=PublicPartitions(
            {"user_id": PublicColumn(table=USERS, column="user_id"), "genre": ("drama", "crime", "romance")}
        ),
    ),
    "public keys, pure DP": a_signal(
        aggregates={"users": Count(), "mean": Mean("value", Interval(0, 5, step=0.01))},
        partitions=PublicPartitions({"item_id": (0, 1, 2, 77)}),
        budget_per_release=PureDP(epsilon=4.0),
    ),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("engine")
    write_tables(root, make_events())
    return engine_settings(root)


def released(signal: Signal, settings: Settings, source: Any) -> list[dict[str, Any]]:
    """The engine's output for the first week, as rows."""
    plan = plan_signal(signal, settings)
    return rows_of(
        add_noise(sums(signal, settings), signal, plan.recipe, plan.calibration, source).toArrow().to_pydict()
    )


def sums(signal: Signal, settings: Settings) -> DataFrame:
    plan = plan_signal(signal, settings)
    spark = spark_session(settings.spark)
    inputs = open_inputs(signal, plan.recipe, settings.root)
    events = read_events(signal, inputs, SPAN, spark)
    bounded = bound(events, signal, plan.recipe, inputs, SALTS)
    return sum_partitions(bounded, signal, plan.recipe, inputs, spark)


def truth(signal: Signal, settings: Settings, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the release should be, by the independent computation and the definition's words."""
    plan = plan_signal(signal, settings)
    if signal.joins:
        facts = {row["item_id"]: row for row in pq.read_table(settings.root / "data/items.parquet").to_pylist()}
        rows = exploded(rows, facts, "item_id", "genre")
    exact = bounded_sums(rows, signal, SPAN, SALTS.rows, SALTS.partitions, lambda row: in_domain(row, signal))
    if isinstance(signal.partitions, PublicPartitions):
        keys: list[tuple[Any, ...]] = [()]
        for key in signal.entity.keys:
            domain = signal.partitions.domains[key]
            values = range(60) if isinstance(domain, PublicColumn) else domain
            keys = [(*known, value) for known in keys for value in values]
        exact = {key: exact.get(key, {m.name: 0 for m in plan.recipe.measures}) for key in keys}
    expected = []
    for key, measured in exact.items():
        if plan.recipe.units is not None and measured[plan.recipe.units] < (plan.calibration.threshold or 0):
            continue
        row = dict(zip(signal.entity.keys, key, strict=True))
        for output in plan.recipe.outputs:
            measure = plan.recipe.measure(output.measure)
            value: float = measured[output.measure]
            if output.kind is OutputKind.SCALED:
                value = value * measure.grid_step
            if output.kind is OutputKind.MEAN:
                assert output.count is not None
                assert measure.interval is not None
                value = (value / max(measured[output.count], 1) + measure.centre) * measure.grid_step
                value = min(max(value, measure.interval.lower), measure.interval.upper)
            row[output.name] = value
        expected.append(row)
    return expected


def in_domain(row: dict[str, Any], signal: Signal) -> bool:
    """Whether a row's key is one that may be released."""
    if not isinstance(signal.partitions, PublicPartitions):
        return True
    domains = signal.partitions.domains.items()
    return all(isinstance(domain, PublicColumn) or row[key] in domain for key, domain in domains)


def by_key(signal: Signal, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: tuple(row[key] for key in signal.entity.keys))


@pytest.mark.parametrize("name", SIGNALS)
def test_zero_noise_equals_the_plain_bounded_aggregation(name: str, settings: Settings) -> None:
    signal = SIGNALS[name]
    expected = truth(signal, settings, rows_of(make_events()))
    assert len(expected) >= 3, "a comparison of nothing proves nothing"
    assert by_key(signal, released(signal, settings, ZeroNoise())) == by_key(signal, expected)


def test_bounds_bind_in_these_data(settings: Settings) -> None:
    """The comparison above covers sampling: without bounds the sums would be larger."""
    loose = KeepRandom(max_partitions=1000, max_rows_per_partition=1000)
    for signal in (SIGNALS["several rows with values"], SIGNALS["counts only, user-day"]):
        rows = rows_of(make_events())
        unbounded = a_signal(
            aggregates=signal.aggregates, privacy_unit=signal.privacy_unit, bounds=loose, partitions=signal.partitions
        )
        bounded_rows = sum(s["rows"] for s in bounded_sums(rows, signal, SPAN, 1, 2).values())
        assert bounded_rows < sum(s["rows"] for s in bounded_sums(rows, unbounded, SPAN, 1, 2).values())


def test_strings_dates_and_timestamps(tmp_path: Path) -> None:
    events = make_events(text=True)
    events["day"] = [datetime.fromtimestamp(t, UTC).date() for t in events["ts"]]
    events["ts"] = [datetime.fromtimestamp(t, UTC) for t in events["ts"]]
    write_tables(tmp_path, events)
    settings = engine_settings(tmp_path)
    signal = a_signal(
        entity=Entity("item_day", ("item_id", "day")),
        aggregates={"users": Count(), "mean": Mean("value", VALUE)},
        budget_per_release=ZCDP(20.0),
        partitions=PrivateSelection(delta=1e-7),
        bounds=KeepRandom(max_partitions=6, max_rows_per_partition=2),
    )
    expected = truth(signal, settings, rows_of(events))
    assert len(expected) >= 3
    got = released(signal, settings, ZeroNoise())
    assert by_key(signal, got) == by_key(signal, expected)
    assert {type(row["day"]) for row in got} == {date}


def test_naive_timestamps_are_utc(tmp_path: Path) -> None:
    events = make_events()
    events["ts"] = [datetime.fromtimestamp(t, UTC).replace(tzinfo=None) for t in events["ts"]]
    write_tables(tmp_path, events)
    settings = engine_settings(tmp_path)
    signal = SIGNALS["counts only, user-day"]
    expected = truth(signal, settings, rows_of(make_events()))
    assert by_key(signal, released(signal, settings, ZeroNoise())) == by_key(signal, expected)


def test_order_and_files_change_nothing_not_even_the_noise(settings: Settings, tmp_path: Path) -> None:
    """Sampling and noise are functions of the rows themselves: shuffled and split over files, they are the same."""
    events = make_events()
    order = np.random.default_rng(9).permutation(len(events["ts"])).tolist()
    write_tables(tmp_path, {name: [column[i] for i in order] for name, column in events.items()}, files=5)
    elsewhere = engine_settings(tmp_path)
    for name in ("several rows with values", "one event, joined genres, public users and genres"):
        signal = SIGNALS[name]
        one = by_key(signal, released(signal, settings, KeyedNoise(KEY)))
        two = by_key(signal, released(signal, elsewhere, KeyedNoise(KEY)))
        assert one == two
        assert one != by_key(signal, released(signal, settings, KeyedNoise(ReleaseKey(bytes(32)))))


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("seed", [1, 2])
def test_neighbors_differ_by_at_most_the_claimed_sensitivity(name: str, seed: int, tmp_path: Path) -> None:
    """L0, Linf and L2 for every measurement, and the difference is exactly the removed unit's own contribution."""
    signal = SIGNALS[name]
    events = make_events(seed=seed)
    rows = rows_of(events)
    unit = signal.privacy_unit
    one = rows[5]

    def same(row: dict[str, Any]) -> bool:
        if any(row[column] != one[column] for column in unit.columns):
            return False
        return unit.per is None or row["ts"] // 86400 == one["ts"] // 86400

    kept = [row for row in rows if not same(row)]
    assert 0 < len(rows) - len(kept) < len(rows)
    measured = []
    for label, table in (("with", rows), ("without", kept)):
        root = tmp_path / label
        write_tables(root, {column: [row[column] for row in table] for column in events})
        settings = engine_settings(root)
        keys = [f"__k{i}" for i in range(len(signal.entity.keys))]
        found = sums(signal, settings).toArrow().to_pylist()
        measured.append({tuple(row[key] for key in keys): row for row in found})
    recipe = plan_signal(signal, settings).recipe
    for i, measure in enumerate(recipe.measures):
        column = f"__m{i}"
        differences = [
            measured[0].get(key, {}).get(column, 0) - measured[1].get(key, {}).get(column, 0)
            for key in measured[0].keys() | measured[1].keys()
        ]
        changed = [d for d in differences if d]
        assert len(changed) <= measure.l0
        assert max(map(abs, changed), default=0) <= measure.linf
        assert sum(map(abs, changed)) <= measure.l1
        assert sum(d * d for d in changed) <= measure.l2**2 * (1 + 1e-12)


def test_noise_in_a_release_has_the_scale_that_the_plan_says(settings: Settings) -> None:
    """180 public partitions × 2 measurements, 40 keys: 7,200 draws each. |z| of the variance above 5.5 has
    probability below 4e-8; a scale of 1.1 would give a z of about 12."""
    signal = replace(SIGNALS["one event, joined genres, public users and genres"], budget_per_release=ZCDP(0.05))
    plan = plan_signal(signal, settings)
    exact = {(r["user_id"], r["genre"]): r for r in released(signal, settings, ZeroNoise())}
    exact_sums = sums(signal, settings).persist()
    draws: dict[str, list[float]] = {"events": [], "total": []}
    for seed in range(40):
        source = KeyedNoise(ReleaseKey(bytes([seed]) * 32))
        noisy = add_noise(exact_sums, signal, plan.recipe, plan.calibration, source)
        for row in noisy.toArrow().to_pylist():
            for column, values in draws.items():
                values.append(row[column] - exact[row["user_id"], row["genre"]][column])
    exact_sums.unpersist()
    for column, values in draws.items():
        stddev = plan.calibration.mechanism(column).noise_stddev
        squares = np.asarray(values) ** 2 / stddev**2
        deviation = np.sqrt(2 / len(squares))
        assert abs(squares.mean() - 1) / deviation < 5.5
        assert abs(squares.mean() / 1.21 - 1) / deviation > 5.5, "the test must see a scale that is 1.1 times too large"


def test_absent_public_keys_get_noise_and_other_keys_never_appear(settings: Settings) -> None:
    signal = SIGNALS["public keys, pure DP"]
    rows = {row["item_id"]: row for row in released(signal, settings, KeyedNoise(KEY))}
    assert set(rows) == {0, 1, 2, 77}
    noises = {released(signal, settings, KeyedNoise(ReleaseKey(bytes([i]) * 32)))[-1]["users"] for i in range(6)}
    assert len(noises) > 1, "a key that nobody has is noisy too"


def test_the_secret_and_exact_sums_are_not_in_the_plan_or_on_disk(settings: Settings, tmp_path: Path) -> None:
    signal = SIGNALS["one row, private keys, every aggregate"]
    plan = plan_signal(signal, settings)
    frame = add_noise(sums(signal, settings), signal, plan.recipe, plan.calibration, KeyedNoise(KEY))
    described = frame._jdf.queryExecution().toString()
    assert KEY.secret.hex() not in described
    assert repr(KEY.secret) not in described
    assert "secret" not in repr(KeyedNoise(KEY))
    frame.write.parquet(str(tmp_path / "out"))
    names = pq.read_schema(next((tmp_path / "out").glob("*.parquet"))).names
    assert names == ["item_id", "users", "mean", "total"]


def test_empty_window_gives_an_empty_private_release_and_a_full_public_one(tmp_path: Path) -> None:
    events = make_events(days=1)
    events["ts"] = [t + 14 * 86400 for t in events["ts"]]
    write_tables(tmp_path, events)
    settings = engine_settings(tmp_path)
    assert released(SIGNALS["several rows with values"], settings, KeyedNoise(KEY)) == []
    assert len(released(SIGNALS["public keys, pure DP"], settings, KeyedNoise(KEY))) == 4


def test_a_join_that_multiplies_rows_is_bounded_after_it(tmp_path: Path) -> None:
    """An item listed twice in the catalogue doubles events; a unit still changes at most L0 partitions by Linf each."""
    write_tables(tmp_path, make_events())
    table = pq.read_table(tmp_path / "data/items.parquet")
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "data/items.parquet")
    settings = engine_settings(tmp_path)
    signal = SIGNALS["one event, joined genres, public users and genres"]
    events = sum(row["events"] for row in released(signal, settings, ZeroNoise()))
    in_week = sum(SPAN.start.timestamp() <= t < SPAN.end.timestamp() for t in make_events()["ts"])
    assert 0 < events <= signal.bounds.max_partitions * in_week


def test_rows_are_exchanged_once_as_blobs_and_sums_once_by_key(settings: Settings) -> None:
    """The plan's shape is part of the design: no row-by-row shuffle of events, no sort in Spark."""
    for name in ("one row, private keys, every aggregate", "several rows with values", "counts only, user-day"):
        text = sums(SIGNALS[name], settings)._jdf.queryExecution().executedPlan().toString()
        assert text.count("Exchange ") == 2, name
        assert text.count("Exchange hashpartitioning") == 1, name
        assert "Sort" not in text, name


def test_the_files_tell_nothing_of_keys_that_were_not_selected(settings: Settings, tmp_path: Path) -> None:
    """Ten thousand keys of one user each, none of which may show: the release's files stay the same, byte for byte."""
    signal = SIGNALS["counts only, user-day"]
    plan = plan_signal(signal, settings)
    written = []
    for extra in (0, 10_000):
        events = make_events()
        for i in range(extra):
            for name, value in (
                ("user_id", 10_000 + i),
                ("item_id", 1000 + i),
                ("value", 1.0),
                ("event_id", 9_000 + i),
            ):
                events[name].append(value)
            events["ts"].append(int(SPAN.start.timestamp()) + i % 600_000)
        root = tmp_path / str(extra)
        write_tables(root, events)
        elsewhere = engine_settings(root)
        frame = add_noise(sums(signal, elsewhere), signal, plan.recipe, plan.calibration, KeyedNoise(KEY))
        frame.write.parquet(str(root / "out"))
        written.append([path.read_bytes() for path in sorted((root / "out").glob("*.parquet"))])
    assert len(written[0]) == 1
    assert written[0] == written[1]


def test_keys_of_invalid_text_have_noise_of_their_own(settings: Settings) -> None:
    """Two keys that differ only in bytes that are no UTF-8 must not share a draw: their difference would be exact."""
    signal = a_signal(aggregates={"users": Count()}, budget_per_release=ZCDP(0.001))
    plan = plan_signal(signal, settings)
    spark = spark_session(settings.spark)
    keys = ", ".join(f"('A' || cast(X'{byte:02X}' as string))" for byte in range(0x80, 0xC0))
    exact = spark.sql(f"select col1 as __k0, 100000L as __m0 from values {keys}")
    noisy = add_noise(exact, signal, plan.recipe, plan.calibration, KeyedNoise(KEY)).select("users").toArrow()
    assert noisy.num_rows == 64
    assert len(set(noisy.column("users").to_pylist())) > 35, "64 draws of such width hit some 47 values"


def test_odd_paths_and_nanoseconds(tmp_path: Path) -> None:
    """A folder with pattern characters is read as it is called, and pandas' nanosecond times are event times."""
    root = tmp_path / "a[12]{b}*"
    decoy = tmp_path / "a1{b}*"
    events = make_events()
    seconds = list(events["ts"])
    events["ts"] = pa.array([t * 1_000_000_000 + 999_999_999 for t in seconds], pa.timestamp("ns", "UTC"))  # type: ignore[assignment]
    write_tables(root, events)
    write_tables(decoy, make_events(seed=99))
    settings = engine_settings(root)
    signal = SIGNALS["counts only, user-day"]
    expected = truth(signal, settings, rows_of({**events, "ts": seconds}))
    assert len(expected) >= 3
    assert by_key(signal, released(signal, settings, ZeroNoise())) == by_key(signal, expected)


def test_bounds_are_not_spent_on_keys_outside_the_public_domain(settings: Settings) -> None:
    signal = a_signal(
        partitions=PublicPartitions({"item_id": (0,)}), bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1)
    )
    [row] = released(signal, settings, ZeroNoise())
    people = {r["user_id"] for r in rows_of(make_events()) if r["item_id"] == 0 and r["ts"] < SPAN.end.timestamp()}
    assert row["users"] == len(people)
