"""The engine against an independent computation, on real Spark, with noise of zero scale."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark import SparkContext

from governance.errors import NonFiniteValue, NullValue, VectorLength
from governance.settings import Settings
from pipelines import (
    ZCDP,
    AdaptiveWeights,
    ApproxDP,
    ClipNorm,
    ConsistentWith,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    NonNegative,
    PrivacyUnit,
    PrivateSelection,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    PureDP,
    Quantiles,
    Relation,
    Signal,
    Sum,
    TopK,
    UnitKind,
    Variance,
    VectorSum,
    WeightedUnits,
    Window,
)
from pipelines.engine import writing
from pipelines.engine.inputs import check_footers, open_inputs
from pipelines.engine.kernel import Salts
from pipelines.engine.kernel import Sum as KernelSum
from pipelines.engine.noisy import Noising
from pipelines.engine.outputs import tree_levels
from pipelines.engine.post_processing import Step
from pipelines.engine.release import Engine, Sums
from pipelines.engine.session import spark_context
from pipelines.engine.sums import merged_sums
from pipelines.ingest import ingest
from pipelines.noise import KeyedNoise, ReleaseKey, ZeroNoise
from pipelines.plan import plan_signal
from tests.support.bounded import bounded_sums, exploded, late_units
from tests.support.kernel import in_python
from tests.support.plain_outputs import released_row
from tests.support.projects import (
    EVENTS,
    ITEMS,
    SPAN,
    USERS,
    WEEK,
    a_signal,
    engine_settings,
    make_events,
    rows_of,
    write_tables,
)
from tests.support.written import released_table, summed_table

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
    "lists of a single coordinate, public keys": a_signal(
        aggregates={
            "bins": Histogram("value", (0, 5)),
            "best": TopK("tag", ("é",), 1),
        },
        partitions=PublicPartitions({"item_id": (0, 1, 2, 77)}),
    ),
    "lists of a single coordinate, private keys": a_signal(
        aggregates={"users": CountDistinct(), "bins": Histogram("value", (0, 5))},
    ),
    "every other aggregate, selected by weight, replace one": a_signal(
        aggregates={
            "bins": Histogram("value", (-1, 0, 2, 5)),
            "quantiles": Quantiles("value", VALUE, (0.25, 0.999)),
            "best": TopK("tag", ("a", "b", "é"), 2),
            "vectors": VectorSum("vector", 3, 1.5),
            "spread": Variance("value", Interval(-1, 5, step=0.01)),
            "recent": Count(half_life=timedelta(days=2)),
            "recent_total": Sum("value", VALUE, half_life=timedelta(days=2)),
        },
        privacy_unit=PrivacyUnit("user_id", relation=Relation.REPLACE_ONE),
        bounds=KeepRandom(max_partitions=2, max_rows_per_partition=3),
        partitions=PrivateSelection(delta=1e-7, by=WeightedUnits(max_keys=4)),
        budget_per_release=ZCDP(8.0),
    ),
    "scaled to a norm, public keys": a_signal(
        aggregates={
            "rows": Count(),
            "people": CountDistinct(),
            "total": Sum("value", VALUE),
            "bins": Histogram("value", (-1, 0, 2, 5)),
            "median": Quantiles("value", VALUE, bins=16),
            "vectors": VectorSum("vector", 3, 1.5),
            "spread": Variance("value", Interval(-1, 5, step=0.01)),
        },
        bounds=ClipNorm(l2=4.0, max_partitions=5),
        partitions=PublicPartitions({"item_id": tuple(range(14))}),
    ),
    "scaled to a norm, private keys, user-day": a_signal(
        aggregates={"rows": Count(), "mean": Mean("value", VALUE)},
        privacy_unit=PrivacyUnit("user_id", per=timedelta(days=1)),
        bounds=ClipNorm(l2=2.0, max_partitions=3),
        weights={"mean": 4.0},
    ),
    "scaled to a norm over any number of public keys": a_signal(
        aggregates={"rows": Count()},
        bounds=ClipNorm(l2=3.0),
        partitions=PublicPartitions({"item_id": tuple(range(14))}),
        budget_per_release=ZCDP(1.0),
    ),
    "a vector for each user, local": a_signal(
        aggregates={"taste": VectorSum("vector", 3, 1.5)},
        privacy_unit=PrivacyUnit("user_id", relation=Relation.REPLACE_ONE),
        entity=Entity("user", "user_id"),
        bounds=KeepRandom(max_partitions=1, max_rows_per_partition=4),
        partitions=PublicPartitions({"user_id": PublicColumn(table=USERS, column="user_id")}),
    ),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("engine")
    write_tables(root, make_events())
    return engine_settings(root)


@contextmanager
def sums(signal: Signal, settings: Settings, scratch: Path | None = None) -> Iterator[Sums]:
    """The engine's exact sums for the first week."""
    plan = plan_signal(signal, settings)
    inputs = open_inputs(signal, plan.recipe, settings.root)
    check_footers(signal, inputs)
    engine = Engine(plan=plan, inputs=inputs, span=SPAN, salts=SALTS, scratch=scratch)
    with engine.sums(spark_context(settings.spark)) as found:
        yield found


def released(signal: Signal, settings: Settings, source: Any, scratch: Path | None = None) -> list[dict[str, Any]]:
    """The engine's output for the first week, as rows."""
    with sums(signal, settings, scratch) as found:
        return rows_of(released_table(found, source).to_pydict())


def exact_of(found: Sums) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Exact sums by key and measurement; several tasks may have met a key."""
    labels = [f"__k{i}" for i in range(len(found.engine.plan.signal.entity.keys))]
    names = [mechanism.measure.name for mechanism in found.engine.plan.calibration.summed]
    return in_python(merged_sums(summed_table(found), tuple(labels)), names)


def truth(signal: Signal, settings: Settings, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the release should be, by the independent computation and the definition's words."""
    plan = plan_signal(signal, settings)
    if signal.joins:
        facts = {row["item_id"]: row for row in pq.read_table(settings.root / "data/items.parquet").to_pylist()}
        rows = exploded(rows, facts, "item_id", "genre")
    measures = [mechanism.measure for mechanism in plan.calibration.summed]
    exact = bounded_sums(rows, signal, SPAN, SALTS.rows, SALTS.partitions, lambda row: in_domain(row, signal), measures)
    if isinstance(signal.partitions, PublicPartitions):
        keys: list[tuple[Any, ...]] = [()]
        for key in signal.entity.keys:
            domain = signal.partitions.domains[key]
            values = range(60) if isinstance(domain, PublicColumn) else domain
            keys = [(*known, value) for known in keys for value in values]
        nothing = {m.name: (0,) * m.summed_width if KernelSum.of(m, 0).wide else 0 for m in measures}
        exact = {key: exact.get(key, nothing) for key in keys}
    expected = []
    for key, measured in exact.items():
        if plan.recipe.units is not None and measured[plan.recipe.units] < (plan.calibration.threshold or 0):
            continue
        own = dict(zip(signal.entity.keys, key, strict=True))
        expected.append(own | released_row(measured, plan.recipe, plan.calibration))
    return expected


def assert_same(signal: Signal, found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Equal keys, texts and integers; numbers to the last digits."""
    assert len(found) == len(expected)
    for one, two in zip(by_key(signal, found), by_key(signal, expected), strict=True):
        assert list(one) == list(two)
        for column, value in one.items():
            exact = isinstance(two[column], int | str | date)
            # Vectors are released as 32-bit numbers.
            tolerance = 1e-6 if isinstance(value, list) else 1e-11
            assert value == (two[column] if exact else pytest.approx(two[column], rel=tolerance, abs=tolerance)), column


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
    assert_same(signal, released(signal, settings, ZeroNoise()), expected)


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
    assert_same(signal, got, expected)
    assert {type(row["day"]) for row in got} == {date}


def test_naive_timestamps_are_utc(tmp_path: Path) -> None:
    events = make_events()
    events["ts"] = [datetime.fromtimestamp(t, UTC).replace(tzinfo=None) for t in events["ts"]]
    write_tables(tmp_path, events)
    settings = engine_settings(tmp_path)
    signal = SIGNALS["counts only, user-day"]
    expected = truth(signal, settings, rows_of(make_events()))
    assert_same(signal, released(signal, settings, ZeroNoise()), expected)


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
def test_neighbors_differ_by_at_most_the_claimed_sensitivity(name: str, tmp_path: Path) -> None:
    """L0, Linf, L1 and L2 for every measurement, through files, buckets and the exchange; tests/property has more."""
    signal = SIGNALS[name]
    events = make_events(seed=2)
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
        with sums(signal, settings) as found:
            measured.append(exact_of(found))
    joint = 0.0
    for mechanism in plan_signal(signal, settings).calibration.summed:
        measure = mechanism.measure
        zero = np.zeros((1, measure.summed_width), dtype=np.int64)
        changes = []
        for key in measured[0].keys() | measured[1].keys():
            before, after = (zero + np.array(found.get(key, {}).get(measure.name, 0)) for found in measured)
            change = before - after
            changes.append(tree_levels(change, measure.levels) if measure.levels else change)
        flat = np.concatenate(changes).astype(np.float64)
        norm = float(np.linalg.norm(flat))
        assert (flat != 0).any(axis=1).sum() <= measure.l0
        assert np.abs(flat).max() <= measure.linf
        assert norm <= measure.l2 * (1 + 1e-12)
        if measure.clipped:
            joint += (norm / measure.clip_scale) ** 2
        else:
            assert np.abs(flat).sum() <= measure.l1
    if isinstance(signal.bounds, ClipNorm):
        assert 0 < joint <= signal.bounds.l2**2 * (1 + 1e-9)


@pytest.mark.parametrize("name", ["one event, joined genres, public users and genres", *list(SIGNALS)[-5:-2]])
def test_noise_in_a_release_has_the_scale_that_the_plan_says(name: str, settings: Settings) -> None:
    """What Spark releases is what one process makes of the same sums; over 60 keyed runs of that, noise has the stated
    variance. |z| above 5.5 has probability below 4e-8 for each measurement, and a scale of 1.1 would be seen."""
    signal = replace(SIGNALS[name], budget_per_release=ZCDP(0.02))
    if not isinstance(signal.partitions, PublicPartitions):
        signal = replace(signal, partitions=PublicPartitions({"item_id": tuple(range(60))}))
    plan = plan_signal(signal, settings)
    with sums(signal, settings) as found:
        spark = rows_of(released_table(found, KeyedNoise(KEY)).to_pydict())
        exact = rows_of(released_table(found, ZeroNoise()).to_pydict())
        summed = summed_table(found)
    keys = [f"__k{i}" for i in range(len(signal.entity.keys))]
    public = pa.table({key: [row[name] for row in exact] for key, name in zip(keys, signal.entity.keys, strict=True)})
    both = pa.concat_tables([summed, public], promote_options="default")

    def noisy(key: ReleaseKey) -> list[dict[str, Any]]:
        noising = Noising.of(signal, plan.recipe, plan.calibration, KeyedNoise(key))
        return by_key(signal, rows_of(noising.table(both).to_pydict()))

    assert noisy(KEY) == by_key(signal, spark)
    runs = [noisy(ReleaseKey(bytes([seed]) * 32)) for seed in range(60)]
    for output in plan.recipe.outputs:
        if not output.linear:
            continue
        known = np.array([row[output.name] for row in by_key(signal, exact)], dtype=np.float64)
        draws = np.array([[row[output.name] for row in run] for run in runs], dtype=np.float64) - known
        squares = (draws / plan.calibration.stddev(output)) ** 2
        deviation = np.sqrt(2 / squares.size)
        assert abs(squares.mean() - 1) / deviation < 5.5
        if squares.size > 3000:
            assert abs(squares.mean() / 1.21 - 1) / deviation > 5.5, "a scale that is 1.1 times too large must show"


def test_absent_public_keys_get_noise_and_other_keys_never_appear(settings: Settings) -> None:
    signal = SIGNALS["public keys, pure DP"]
    rows = {row["item_id"]: row for row in released(signal, settings, KeyedNoise(KEY))}
    assert set(rows) == {0, 1, 2, 77}
    noises = {released(signal, settings, KeyedNoise(ReleaseKey(bytes([i]) * 32)))[-1]["users"] for i in range(6)}
    assert len(noises) > 1, "a key that nobody has is noisy too"


def spark_files(spark: SparkContext) -> list[Path]:
    """Every file that Spark keeps: its block managers', and what Python handed to it."""
    [told] = spark.parallelize([0], 1).map(lambda _: os.environ["SPARK_LOCAL_DIRS"]).collect()
    local = [Path(folder) for folder in told.split(",")]
    folders = [*local, Path(spark._temp_dir)]
    return [file for folder in folders for file in folder.rglob("*") if file.is_file()]


def read(path: Path) -> bytes:
    """What a file of Spark's holds, if it is still there: Spark removes files whenever it likes."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return b""


def test_neither_the_secret_nor_exact_sums_stay_on_disk(settings: Settings, tmp_path: Path) -> None:
    """Spark writes the code of large tasks to disk: that of the noise stays small, however many public keys there are.
    Exchanged sums are gone when the release is written."""
    spark = spark_context(settings.spark)
    signal = a_signal(partitions=PublicPartitions({"item_id": tuple(range(250_000))}))
    with sums(signal, settings) as found:
        exchanged = [file for file in spark_files(spark) if file.name.startswith("shuffle_")]
        [file] = found.write(KeyedNoise(KEY), tmp_path / "out")
        assert not any(KEY.secret in read(path) for path in spark_files(spark))
    assert exchanged
    assert "secret" not in repr(KeyedNoise(KEY))
    table = pq.read_table(file)
    assert table.column_names == ["item_id", "users"]
    assert table.column("item_id").to_pylist() == list(range(250_000))
    until = time.monotonic() + 60
    while any(path.exists() for path in exchanged):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("sums_in_one_task", [200_000, 0])
def test_no_part_of_a_definition_sends_the_secret_to_disk(
    sums_in_one_task: int, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long candidates travel beside the key, not with it; and the release is what one process makes of them."""
    monkeypatch.setattr(writing, "_SUMS_IN_ONE_TASK", sums_in_one_task)
    candidates = ("a", "b", "é", "other", *(f"{i:05d}{'x' * 300}" for i in range(4092)))
    signal = a_signal(
        aggregates={"best": TopK("tag", candidates, 2)}, partitions=PublicPartitions({"item_id": (0, 1, 77)})
    )
    assert len("".join(candidates)) > 2**20, "more than Spark keeps out of files"
    with sums(signal, settings) as found:
        files = found.write(KeyedNoise(KEY), tmp_path / "out")
        assert not any(KEY.secret in read(path) for path in spark_files(spark_context(settings.spark)))
    assert sorted(pq.read_table(files[0]).column("item_id").to_pylist()) == [0, 1, 77]


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


def test_rows_are_exchanged_once_and_events_by_person_not_at_all(settings: Settings, tmp_path: Path) -> None:
    """The shape is part of the design: rows as blobs once, sums once, and nothing that Spark would plan or sort."""
    name = "several rows with values"
    write_tables(tmp_path, make_events())
    ingest((tmp_path / "data/events.parquet",), tmp_path / "laid", person="user_id", time="ts", buckets=3, workers=1)
    laid = replace(SIGNALS[name], source=replace(EVENTS, table=str(tmp_path / "laid")))
    for signal, exchanges in ((SIGNALS[name], 2), (laid, 1)):
        with sums(signal, settings) as found:
            described = found.exact.items._jrdd.rdd().toDebugString()
        assert described.count("ShuffledRDD") == exchanges
        assert "SQL" not in described


def test_scratch_files_change_nothing_and_go_with_the_sums(settings: Settings, tmp_path: Path) -> None:
    """Blobs through files of a folder, or through Spark's own exchange: the same release."""
    signal = SIGNALS["several rows with values"]
    folder = tmp_path / "scratch"
    by_files = released(signal, settings, KeyedNoise(KEY), folder)
    assert any(folder.rglob("*-*")), "it was used"
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*-*")} == {0o600}, "raw rows are the owner's alone"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o700}
    assert by_key(signal, by_files) == by_key(signal, released(signal, settings, KeyedNoise(KEY)))


@pytest.mark.parametrize("sums_in_one_task", [200_000, 0])
def test_the_files_tell_nothing_of_keys_that_were_not_selected(
    sums_in_one_task: int, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand keys of one user each, none of which may show, and another number of tasks: the release's files stay
    the same, byte for byte."""
    signal = replace(SIGNALS["counts only, user-day"], post_processing=(NonNegative(),))
    written = []
    for extra in (0, 10_000):
        if extra:
            monkeypatch.setattr(writing, "_SUMS_IN_ONE_TASK", sums_in_one_task)
        events = make_events()
        for i in range(extra):
            for name, value in (
                ("user_id", 10_000 + i),
                ("item_id", 1000 + i),
                ("value", 1.0),
                ("event_id", 9_000 + i),
                ("tag", "a"),
                ("vector", [0.0, 0.0, 0.0]),
            ):
                events[name].append(value)
            events["ts"].append(int(SPAN.start.timestamp()) + i % 600_000)
        root = tmp_path / str(extra)
        write_tables(root, events)
        elsewhere = engine_settings(root)
        with sums(signal, elsewhere) as found:
            files = found.write(KeyedNoise(KEY), root / "out", files=2)
        written.append([path.read_bytes() for path in files])
    assert len(written[0]) == 2
    assert written[0] == written[1]


@pytest.mark.parametrize("exactly", [True, False])
def test_steps_see_all_children_of_a_parent_however_many_tasks_there_are(
    exactly: bool, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = SIGNALS["one event, joined genres, public users and genres"]
    plan = plan_signal(signal, settings)
    parents = {"genre": ["drama", "crime", "romance"], "events": [900, 500, 1]}
    pq.write_table(pa.table(parents), tmp_path / "parent.parquet")
    step = Step(
        step=ConsistentWith(signal="genres", version=1, columns=("events",), exactly=exactly),
        columns=("events",),
        keys=("genre",),
        files=(str(tmp_path / "parent.parquet"),),
        stddevs={"events": 3.0},
        parent_stddevs={"events": 2.0},
    )
    engine = Engine(
        plan=plan, inputs=open_inputs(signal, plan.recipe, settings.root), span=SPAN, salts=SALTS, steps=(step,)
    )
    written = []
    for sums_in_one_task in (200_000, 0):
        monkeypatch.setattr(writing, "_SUMS_IN_ONE_TASK", sums_in_one_task)
        with engine.sums(spark_context(settings.spark)) as found:
            files = found.write(KeyedNoise(KEY), tmp_path / str(sums_in_one_task), files=3)
        written.append({file.name: file.read_bytes() for file in files})
    assert len(written[0]) == 3
    assert written[0] == written[1]
    table = pa.concat_tables([pq.read_table(file) for file in files])
    plain = {(row["user_id"], row["genre"]): row["events"] for row in released(signal, settings, KeyedNoise(KEY))}
    for genre, total in zip(*parents.values(), strict=True):
        rows = [row for row in table.to_pylist() if row["genre"] == genre]
        missing = total - sum(plain[row["user_id"], genre] for row in rows)
        share = missing / len(rows) if exactly else missing * 9 / (4 + len(rows) * 9)
        for row in rows:
            assert row["events"] == pytest.approx(plain[row["user_id"], genre] + share, abs=1e-6)


def test_the_second_round_of_selection_adds_to_what_the_first_one_found(settings: Settings, tmp_path: Path) -> None:
    """Without noise: what reaches the first threshold, or reaches the second by the mean of both rounds' weights."""
    signal = a_signal(
        bounds=KeepRandom(max_partitions=12, max_rows_per_partition=1),
        partitions=PrivateSelection(delta=1e-7, by=AdaptiveWeights(max_keys=12, first=0.1)),
        budget_per_release=ZCDP(2.0),
    )
    plan = plan_signal(signal, settings)
    inputs = open_inputs(signal, plan.recipe, settings.root)
    engine = Engine(plan=plan, inputs=inputs, span=SPAN, salts=SALTS, found=tmp_path / "found")
    with engine.sums(spark_context(settings.spark)) as sums_:
        got = {row["item_id"] for row in released_table(sums_, ZeroNoise()).to_pylist()}
    selecting = plan.calibration.selecting
    assert selecting is not None
    assert selecting.first_threshold is not None
    start, end = SPAN.start.timestamp(), SPAN.end.timestamp()
    edges = {(row["user_id"], row["item_id"]) for row in rows_of(make_events()) if start <= row["ts"] < end}

    def weights(left: set[tuple[int, int]]) -> dict[int, float]:
        degrees = Counter(user for user, _ in left)
        weights: dict[int, float] = defaultdict(float)
        for user, item in left:
            weights[item] += degrees[user] ** -0.5
        return weights

    everywhere = weights(edges)
    early = {item for item, weight in everywhere.items() if weight * 2**20 >= selecting.first_threshold}
    rest = weights({edge for edge in edges if edge[1] not in early})
    part, other = (one / sum(selecting.parts) for one in selecting.parts)
    mean = {item: part * everywhere[item] + other * weight for item, weight in rest.items()}
    late = {item for item, weight in mean.items() if weight * 2**20 >= selecting.threshold}
    by_file = {
        key for file in (tmp_path / "found").glob("*.parquet") for key in pq.read_table(file)["__k0"].to_pylist()
    }
    assert by_file == early
    assert got == early | late
    assert early
    assert late
    assert len(got) < len({item for _, item in edges})


def test_keys_of_invalid_text_have_noise_of_their_own(settings: Settings) -> None:
    """Two keys that differ only in bytes that are no UTF-8 must not share a draw: their difference would be exact."""
    signal = a_signal(aggregates={"users": Count()}, budget_per_release=ZCDP(0.001))
    plan = plan_signal(signal, settings)
    texts = pa.array([b"A" + bytes([byte]) for byte in range(0x80, 0xC0)], pa.binary())
    exact = pa.table({"__k0": pa.Array.from_buffers(pa.string(), 64, texts.buffers()), "__m0": [100_000] * 64})
    noisy = Noising.of(signal, plan.recipe, plan.calibration, KeyedNoise(KEY)).table(exact)
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
    assert_same(signal, released(signal, settings, ZeroNoise()), expected)


def test_bounds_are_not_spent_on_keys_outside_the_public_domain(settings: Settings) -> None:
    signal = a_signal(
        partitions=PublicPartitions({"item_id": (0,)}), bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1)
    )
    [row] = released(signal, settings, ZeroNoise())
    people = {r["user_id"] for r in rows_of(make_events()) if r["item_id"] == 0 and r["ts"] < SPAN.end.timestamp()}
    assert row["users"] == len(people)


def test_late_events_are_left_out_and_their_units_counted_with_noise(tmp_path: Path) -> None:
    """A window counts what arrived by its end and its allowed lateness, to the second."""
    events = make_events()
    wait = np.random.default_rng(4).integers(0, 3 * 86400, len(events["ts"])).tolist()
    events["seen"] = [t + w for t, w in zip(events["ts"], wait, strict=True)]
    deadline = int((SPAN.end + timedelta(hours=6)).timestamp())
    for index, seen in ((0, deadline), (1, deadline + 1)):
        events["ts"][index], events["seen"][index] = int(SPAN.start.timestamp()), seen
    write_tables(tmp_path, events)
    settings = engine_settings(tmp_path)
    signal = a_signal(
        source=replace(EVENTS, arrival="seen"),
        window=Window(WEEK, allowed_lateness=timedelta(hours=6)),
        aggregates={"rows": Count(), "mean": Mean("value", VALUE)},
        bounds=KeepRandom(max_partitions=5, max_rows_per_partition=9),
    )
    rows = rows_of(events)
    everything = replace(signal, source=EventSource(**{**source_fields(signal), "arrival": None}))
    assert truth(signal, settings, rows) != truth(everything, settings, rows), "there are late rows"
    with sums(signal, settings) as found:
        assert_same(signal, rows_of(released_table(found, ZeroNoise()).to_pydict()), truth(signal, settings, rows))
        [told] = found.late(ZeroNoise())
        [hidden] = found.late(KeyedNoise(KEY))
    assert told["late_units"] == late_units(rows, signal, SPAN) > 0
    assert told["noise_stddev"] == hidden["noise_stddev"] > 0
    assert {found.late(KeyedNoise(ReleaseKey(bytes([i]) * 32)))[0]["late_units"] for i in range(9)} != {
        told["late_units"]
    }


def source_fields(signal: Signal) -> dict[str, Any]:
    return {name: getattr(signal.source, name) for name in ("name", "table", "timestamp", "person", "arrival")}


REFUSED = {
    "null key": ("item_id", None, NullValue),
    "null unit": ("user_id", None, NullValue),
    "null time": ("ts", None, NullValue),
    "null value": ("value", None, NullValue),
    "NaN": ("value", float("nan"), NonFiniteValue),
    "infinity": ("value", float("-inf"), NonFiniteValue),
    "short vector": ("vector", [1.0, 2.0], VectorLength),
    "long vector": ("vector", [1.0, 2.0, 3.0, 4.0], VectorLength),
    "null vector": ("vector", None, NullValue),
    "null within a vector": ("vector", [1.0, None, 3.0], NonFiniteValue),
    "NaN within a vector": ("vector", [1.0, float("nan"), 3.0], NonFiniteValue),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_before_noise(name: str, tmp_path: Path) -> None:
    """One bad row in the window: a typed error that names the column and no value."""
    column, value, error = REFUSED[name]
    events = make_events()
    events[column][next(rows_where(events, inside=True))] = value
    write_tables(tmp_path, events)
    with pytest.raises(error) as caught, sums(WITH_VECTORS, engine_settings(tmp_path)):
        pass
    assert repr(column) in str(caught.value)


def test_what_lies_outside_of_the_window_is_no_matter(tmp_path: Path) -> None:
    """All of that in rows of other weeks, the event time aside, without which nobody knows the week."""
    events = make_events()
    expected = truth(WITH_VECTORS, engine_settings(tmp_path), rows_of(events))
    for at, (column, value, _) in zip(rows_where(events, inside=False), REFUSED.values(), strict=False):
        if column != "ts":
            events[column][at] = value
    write_tables(tmp_path, events)
    assert_same(WITH_VECTORS, released(WITH_VECTORS, engine_settings(tmp_path), ZeroNoise()), expected)


WITH_VECTORS = a_signal(aggregates={"total": Sum("value", VALUE), "taste": VectorSum("vector", 3, 1.0)})


def rows_where(events: dict[str, list[Any]], *, inside: bool) -> Iterator[int]:
    """Rows in the window, or after it."""
    return (i for i, moment in enumerate(events["ts"]) if (moment < SPAN.end.timestamp()) is inside)
