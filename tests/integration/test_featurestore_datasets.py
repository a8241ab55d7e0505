"""`hedgerow dataset`: training sets of released features, built and checked as a person does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from featurestore.datasets import (
    AnnotatedLabels,
    ConfidenceColumn,
    CountsFrom,
    DatasetSpec,
    InferredLabels,
    LabelTable,
    build_dataset,
    verify_dataset,
)
from featurestore.datasets.engine import DatasetEngine, InMemory
from featurestore.datasets.manifest import manifest_bytes
from governance.canonical import canonical_bytes, sha256_file
from governance.errors import (
    ColumnMissing,
    ColumnTypeError,
    DatasetError,
    InputMissing,
    NullValue,
    PublicationError,
    ReleaseCorrupt,
)
from governance.ledger import Ledger
from governance.release import ReleaseStore
from governance.settings import Settings, Spark
from pipelines.datasets import OnSpark
from pipelines.datasets_cli import app
from tests.support.releases import make_project, make_release

WEEKS = [datetime(2025, 11, 3, tzinfo=UTC) + timedelta(days=7 * i) for i in range(3)]
WEEK = timedelta(days=7)
ON_SPARK = OnSpark(spark=Spark(master="local[2]", driver_memory="1g", shuffle_partitions=3))


@pytest.fixture(params=["memory", "spark"])
def engine(request: pytest.FixtureRequest) -> DatasetEngine:
    """What joins: both do the same."""
    return InMemory() if request.param == "memory" else ON_SPARK


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path / "project")


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with Ledger(settings.ledger_path) as ledger:
        yield ledger


def release(settings: Settings, ledger: Ledger, week: int, rows: dict[int, Any], **options: Any) -> Any:
    return make_release(
        settings,
        ledger,
        signal="pop",
        keys={"item_id": "int64"},
        features={"plays": "int64", "mean": "float64", "day": "date", "tag": "string"},
        rows={
            "item_id": list(rows),
            "plays": list(rows.values()),
            "mean": [None if value is None else value / 2 for value in rows.values()],
            "day": [date(2025, 1, 1) for _ in rows],
            "tag": [f"t{value}" for value in rows.values()],
        },
        window_start=WEEKS[week],
        **{"ttl": timedelta(days=14), "rho": "0.001", **options},
    )


def labels(path: Path, rows: list[tuple[int | None, datetime]], **columns: Any) -> LabelTable:
    table = pa.table(
        {
            "item_id": pa.array([item for item, _ in rows], pa.int64()),
            "at": pa.array([time for _, time in rows], pa.timestamp("us", "UTC")),
            "clicked": pa.array([i % 2 for i in range(len(rows))], pa.int8()),
            **columns,
        }
    )
    pq.write_table(table, path)
    return LabelTable(path=path, timestamp="at", labels=("clicked",), source=AnnotatedLabels(annotator="team reco"))


def spec(table: LabelTable, *features: str, **options: Any) -> DatasetSpec:
    return DatasetSpec(name="clicks", labels=table, features=features or ("pop_v1:plays", "pop_v1:mean"), **options)


def rows_of(directory: Path) -> dict[str, list[Any]]:
    return pq.read_table(directory / "data.parquet").to_pydict()


def test_each_row_has_what_was_known_at_its_time(
    settings: Settings, ledger: Ledger, tmp_path: Path, engine: DatasetEngine
) -> None:
    first = release(settings, ledger, 0, {1: 10, 2: 20})
    second = release(settings, ledger, 1, {1: 11, 3: None})
    ends = [week + WEEK for week in WEEKS]
    hour, tick = timedelta(hours=1), timedelta(microseconds=1)
    asked = [
        (1, ends[0] - tick),  # nothing is known yet
        (1, ends[0]),
        (1, ends[1] - tick),
        (1, ends[1]),
        (2, ends[1] + hour),  # not in the second release: the first within its ttl
        (2, ends[0] + timedelta(days=14)),
        (2, ends[0] + timedelta(days=14) + tick),
        (3, ends[1] + hour),  # a null is a value that was released as null
        (4, ends[1] + hour),
        (None, ends[1] + hour),
        (1, ends[1]),  # the same entity and time as before: Feast's default join would lose it
        (1, ends[1]),
    ]
    table = labels(tmp_path / "labels.parquet", asked)
    built = build_dataset(settings, ledger, spec(table, "pop_v1:plays", "pop_v1:day", "pop_v1:tag"), engine=engine)

    found = rows_of(built.directory)
    one, two, none = first.release_id, second.release_id, None
    assert found["pop_v1__plays"] == [none, 10, 10, 11, 20, 20, none, none, none, none, 11, 11]
    assert found["pop_v1__release"] == [none, one, one, two, one, one, none, two, none, none, two, two]
    assert found["pop_v1__tag"][1] == "t10"
    assert found["pop_v1__day"][1] == date(2025, 1, 1)
    assert found["item_id"] == [item for item, _ in asked]
    assert found["clicked"] == [i % 2 for i in range(len(asked))]
    assert (built.rows, built.releases, built.is_new) == (len(asked), (one, two), True)
    assert verify_dataset(built.directory)["version"] == built.version

    parity = build_dataset(settings, ledger, spec(table, "pop_v1:plays", in_force=True), engine=engine)
    assert rows_of(parity.directory)["pop_v1__plays"] == [
        none, 10, 10, 11, none, none, none, none, none, none, 11, 11,
    ]  # fmt: skip


def test_the_manifest_tells_where_everything_comes_from(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    made = release(settings, ledger, 0, {1: 10})
    release(settings, ledger, 2, {1: 30})  # later than every label: neither read nor named
    table = labels(tmp_path / "labels.parquet", [(1, WEEKS[1] + timedelta(days=1))])
    built = build_dataset(settings, ledger, spec(table))
    raw = (built.directory / "manifest.json").read_bytes()
    manifest = json.loads(raw)
    assert raw == canonical_bytes(manifest)
    assert manifest["version"] == built.version
    assert manifest["labels"] == {
        "file": "labels.parquet",
        "sha256": sha256_file(table.path),
        "rows": 1,
        "timestamp": "at",
        "columns": ["clicked"],
        "source": {"kind": "annotated", "annotator": "team reco"},
    }
    assert manifest["views"] == [
        {
            "name": "pop_v1",
            "keys": ["item_id"],
            "ttl_seconds": 14 * 86_400,
            "releases": [
                {
                    "release_id": "pop/v1/2025-11-03",
                    "sha256": made.sha256,
                    "window_end": "2025-11-10T00:00:00+00:00",
                    "known_from": "2025-11-10T00:00:00+00:00",
                    "rows": 1,
                }
            ],
        }
    ]
    assert {column["name"]: column["role"] for column in manifest["columns"]} == {
        "item_id": "key",
        "at": "time",
        "clicked": "label",
        "pop_v1__plays": "feature",
        "pop_v1__mean": "feature",
        "pop_v1__release": "release",
    }
    data = built.directory / "data.parquet"
    assert manifest["files"] == [{"name": "data.parquet", "bytes": data.stat().st_size, "sha256": sha256_file(data)}]
    again = build_dataset(settings, ledger, spec(table))
    assert (again.version, again.directory, again.is_new) == (built.version, built.directory, False)
    assert not list((settings.state_dir / "datasets" / ".staging").iterdir())


def test_labels_that_a_model_gave_say_so(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    release(settings, ledger, 0, {1: 10})
    at = WEEKS[1] + timedelta(days=1)
    table = labels(tmp_path / "labels.parquet", [(1, at)], sure=pa.array([0.7]))
    for confidence, told in ((0.9, {"value": 0.9}), (ConfidenceColumn(name="sure"), {"column": "sure"})):
        source = InferredLabels(model="tagger 2.1", confidence=confidence)
        built = build_dataset(settings, ledger, spec(replace(table, source=source)))
        manifest = verify_dataset(built.directory)
        assert manifest["labels"]["source"] == {"kind": "inferred", "model": "tagger 2.1", "confidence": told}
    missing = InferredLabels(model="tagger 2.1", confidence=ConfidenceColumn(name="unsure"))
    with pytest.raises(ColumnMissing, match="'unsure'"):
        build_dataset(settings, ledger, spec(replace(table, source=missing)))
    with pytest.raises(DatasetError, match="from 0 to 1"):
        InferredLabels(model="m", confidence=1.5)


def test_values_count_from_when_they_were_published(
    settings: Settings, ledger: Ledger, tmp_path: Path, engine: DatasetEngine
) -> None:
    release(settings, ledger, 0, {1: 10}, ttl=timedelta(0))
    published = datetime(2025, 12, 1, tzinfo=UTC)  # as the releases of tests say
    tick = timedelta(microseconds=1)
    asked = [(1, WEEKS[1]), (1, published - tick), (1, published)]
    table = labels(tmp_path / "labels.parquet", asked)
    ends = build_dataset(settings, ledger, spec(table), engine=engine)
    made = build_dataset(settings, ledger, spec(table, counts_from=CountsFrom.PUBLISHED), engine=engine)
    assert rows_of(ends.directory)["pop_v1__plays"] == [10, 10, 10]
    assert rows_of(made.directory)["pop_v1__plays"] == [None, None, 10]


@hypothesis_settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.none() | st.integers(0, 6), st.integers(-2, 40)), max_size=30), st.booleans())
def test_as_many_rows_out_as_in(
    released: tuple[Settings, Ledger, Path], asked: list[tuple[int | None, int]], in_force: bool
) -> None:
    settings, ledger, folder = released
    times = [(item, WEEKS[0] + timedelta(days=days)) for item, days in asked]
    table = labels(folder / "labels.parquet", times)
    built = build_dataset(settings, ledger, spec(table, in_force=in_force))
    found = rows_of(built.directory)
    assert built.rows == len(asked)
    assert found["item_id"] == [item for item, _ in times]
    assert found["at"] == [time for _, time in times]
    expected = []
    for item, time in times:
        known = [week for week in range(3) if WEEKS[week] + WEEK <= time <= WEEKS[week] + WEEK + timedelta(days=14)]
        newest = max((week for week in range(3) if WEEKS[week] + WEEK <= time), default=-1)
        usable = [week for week in known if item in CONTENT[week] and (not in_force or week == newest)]
        expected.append(CONTENT[max(usable)][item] if usable else None)
    assert found["pop_v1__plays"] == expected
    verify_dataset(built.directory)


CONTENT: list[dict[Any, int]] = [{0: 1, 1: 2, 2: 3}, {1: 20, 2: 30, 5: 60}, {0: 100, 5: 600}]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, Ledger, Path]]:
    folder = tmp_path_factory.mktemp("released")
    settings = make_project(folder / "project")
    with Ledger(settings.ledger_path) as ledger:
        for week, rows in enumerate(CONTENT):
            release(settings, ledger, week, rows)
        yield settings, ledger, folder


def test_releases_that_are_not_committed_are_not_used(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    release(settings, ledger, 0, {1: 10})
    release(settings, ledger, 1, {1: 99}, commit=False)
    table = labels(tmp_path / "labels.parquet", [(1, WEEKS[2] + timedelta(days=1))])
    built = build_dataset(settings, ledger, spec(table))
    assert rows_of(built.directory)["pop_v1__plays"] == [10]


def test_a_release_that_was_changed_is_refused(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    made = release(settings, ledger, 0, {1: 10})
    path = ReleaseStore(settings.releases_dir).data_files(made)[0]
    path.write_bytes(path.read_bytes() + b"x")
    table = labels(tmp_path / "labels.parquet", [(1, WEEKS[2])])
    with pytest.raises((ReleaseCorrupt, PublicationError)):
        build_dataset(settings, ledger, spec(table))
    assert not list((settings.state_dir / "datasets").glob("clicks/*"))


def test_leakage_and_changes_are_found(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    release(settings, ledger, 0, {1: 10})
    release(settings, ledger, 1, {1: 11})
    times = [WEEKS[1] + timedelta(days=1), WEEKS[2] + timedelta(days=1)]
    built = build_dataset(settings, ledger, spec(labels(tmp_path / "labels.parquet", [(1, time) for time in times])))
    data, manifest = built.directory / "data.parquet", built.directory / "manifest.json"
    whole = data.read_bytes()

    data.write_bytes(whole + b"x")
    with pytest.raises(DatasetError, match="not what the manifest says"):
        verify_dataset(built.directory)
    data.write_bytes(whole)
    verify_dataset(built.directory)

    text = manifest.read_bytes()
    manifest.write_bytes(text.replace(b"team reco", b"team geco"))
    with pytest.raises(DatasetError, match="was changed after it was made"):
        verify_dataset(built.directory)

    # A forged set whose manifest fits: the first row has the value of the later release.
    table = pq.read_table(data)
    ids = pa.array(["pop/v1/2025-11-10"] * 2).dictionary_encode()
    pq.write_table(table.set_column(table.schema.get_field_index("pop_v1__release"), "pop_v1__release", ids), data)
    content = json.loads(text)
    del content["schema"], content["version"]
    content["files"][0] |= {"bytes": data.stat().st_size, "sha256": sha256_file(data)}
    manifest.write_bytes(manifest_bytes(content))
    with pytest.raises(DatasetError, match="not known at the time of their row"):
        verify_dataset(built.directory)
    manifest.unlink()
    with pytest.raises(DatasetError, match="not there"):
        verify_dataset(built.directory)


def test_label_tables_that_cannot_be_used(
    settings: Settings, ledger: Ledger, tmp_path: Path, engine: DatasetEngine
) -> None:
    release(settings, ledger, 0, {1: 10})
    path, time = tmp_path / "labels.parquet", WEEKS[1]
    table = labels(path, [(1, time)])
    with pytest.raises(InputMissing, match="neither parquet nor CSV"):
        build_dataset(settings, ledger, spec(replace(table, path=tmp_path / "nothing.parquet")), engine=engine)
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(InputMissing):
        build_dataset(settings, ledger, spec(replace(table, path=tmp_path / "text.parquet")), engine=engine)
    with pytest.raises(ColumnMissing, match="'when'"):
        build_dataset(settings, ledger, spec(replace(table, timestamp="when")), engine=engine)
    with pytest.raises(ColumnMissing, match="'liked'"):
        build_dataset(settings, ledger, spec(replace(table, labels=("liked",))))
    with pytest.raises(ColumnTypeError, match="'item_id'"):
        build_dataset(settings, ledger, spec(replace(table, timestamp="item_id")), engine=engine)
    pq.write_table(pa.table({"item_id": ["1"], "at": [time], "clicked": [1]}), path)
    with pytest.raises(ColumnTypeError, match="int64"):
        build_dataset(settings, ledger, spec(table), engine=engine)
    pq.write_table(pa.table({"at": [time], "clicked": [1]}), path)
    with pytest.raises(ColumnMissing, match="'item_id'"):
        build_dataset(settings, ledger, spec(table), engine=engine)
    pq.write_table(pa.table({"item_id": [1], "at": pa.array([None], pa.timestamp("us")), "clicked": [1]}), path)
    with pytest.raises(NullValue):
        build_dataset(settings, ledger, spec(table), engine=engine)
    labels(path, [(1, time)], pop_v1__plays=pa.array([1]))
    with pytest.raises(DatasetError, match="has a column 'pop_v1__plays' already"):
        build_dataset(settings, ledger, spec(table), engine=engine)


def test_features_and_names_that_there_are_none_of(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    release(settings, ledger, 0, {1: 10})
    table = labels(tmp_path / "labels.parquet", [(1, WEEKS[1])])
    with pytest.raises(DatasetError, match="no view 'new_v1'; released: pop_v1"):
        build_dataset(settings, ledger, spec(table, "new_v1:plays"))
    with pytest.raises(DatasetError, match="no feature 'visits'; it has: plays, mean, day, tag"):
        build_dataset(settings, ledger, spec(table, "pop_v1:visits"))
    for wrong in (["plays"], ["pop_v1:plays", "pop_v1:plays"], []):
        with pytest.raises(DatasetError):
            DatasetSpec(name="clicks", labels=table, features=tuple(wrong))
    for name in ("", "../up", "a b", "1st"):
        with pytest.raises(DatasetError, match="allowed"):
            DatasetSpec(name=name, labels=table, features=("pop_v1:plays",))
    with pytest.raises(DatasetError, match="no label column"):
        replace(table, labels=())


def test_times_and_keys_of_other_types(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    """Times without a zone are UTC, days are their first moment, and keys may be of any width."""
    make_release(
        settings,
        ledger,
        signal="daily",
        keys={"genre": "string", "day": "date"},
        features={"plays": "int64"},
        rows={"genre": ["jazz", "rock"], "day": [date(2025, 11, 3)] * 2, "plays": [1, 2]},
        window_start=WEEKS[0],
    )
    release(settings, ledger, 0, {1: 10})
    path = tmp_path / "labels.parquet"
    tables = [
        {"at": pa.array([date(2025, 11, 10), date(2025, 11, 9)], pa.date32())},
        {"at": pa.array([datetime(2025, 11, 10), datetime(2025, 11, 9)], pa.timestamp("ns"))},  # noqa: DTZ001
        {"at": pa.array([datetime(2025, 11, 10), datetime(2025, 11, 9)], pa.timestamp("s", "Asia/Tokyo"))},  # noqa: DTZ001
    ]
    for times in tables:
        table = pa.table(
            {
                **times,
                "item_id": pa.array([1, 1], pa.uint16()),
                "genre": pa.array(["rock", "rock"]).dictionary_encode(),
                "day": pa.array([date(2025, 11, 3)] * 2, pa.date32()),
                "clicked": [1, 0],
            }
        )
        pq.write_table(table, path)
        source = LabelTable(
            path=path, timestamp="at", labels=("clicked",), source=AnnotatedLabels(annotator="behaviour")
        )
        built = build_dataset(settings, ledger, spec(source, "pop_v1:plays", "daily_v1:plays"))
        found = rows_of(built.directory)
        assert found["pop_v1__plays"] == [10, None]
        assert found["daily_v1__plays"] == [2, None]


def test_from_the_command_line(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    release(settings, ledger, 0, {1: 10, 2: 20})
    pa.csv.write_csv(
        pa.table(
            {
                "item_id": [1, 2, 2],
                "event_timestamp": pa.array([WEEKS[1] + timedelta(hours=1)] * 3, pa.timestamp("s")),
                "clicked": [1, 0, 0],
            }
        ),
        tmp_path / "labels.csv",
    )
    arguments = ["build", "clicks", "-p", str(settings.root), "--labels", str(tmp_path / "labels.csv")]
    arguments += ["--label", "clicked", "--feature", "pop_v1:plays"]
    told = CliRunner().invoke(app, [*arguments, "--annotated-by", "behaviour"], catch_exceptions=False)
    assert told.exit_code == 0
    assert "3, as many as labels" in told.output
    assert "pop/v1/2025-11-03" in told.output
    (directory,) = (settings.state_dir / "datasets" / "clicks").iterdir()
    assert rows_of(directory)["pop_v1__plays"] == [10, 20, 20]
    on_spark = [*arguments, "--annotated-by", "behaviour", "--engine", "spark"]
    assert CliRunner().invoke(app, on_spark, catch_exceptions=False).exit_code == 0
    (other,) = set((settings.state_dir / "datasets" / "clicks").iterdir()) - {directory}
    assert rows_of(other) == rows_of(directory)
    checked = CliRunner().invoke(app, ["verify", str(directory)], catch_exceptions=False)
    assert "3 rows, whole, no leakage" in checked.output
    for wrong in (
        [],
        ["--annotated-by", "a", "--inferred-by", "b"],
        ["--inferred-by", "b"],
        ["--inferred-by", "b", "--confidence", "0.5", "--confidence-column", "c"],
        ["--annotated-by", "a", "--confidence", "0.5"],
    ):
        refused = CliRunner().invoke(app, [*arguments, *wrong])
        assert isinstance(refused.exception, DatasetError)
        assert "where do the labels come from" in str(refused.exception)


def test_no_row_order_is_changed_at_size(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    release(settings, ledger, 0, {int(i): int(i) for i in generator.permutation(2_000)})
    release(settings, ledger, 1, {int(i): int(i) + 100_000 for i in generator.permutation(1_500)})
    asked = [
        (int(item), WEEKS[1] + timedelta(hours=int(hours)))
        for item, hours in zip(generator.integers(0, 2_000, 50_000), generator.integers(0, 300, 50_000), strict=True)
    ]
    built = build_dataset(settings, ledger, spec(labels(tmp_path / "labels.parquet", asked)))
    expected = [item + (100_000 if time >= WEEKS[2] and item < 1_500 else 0) for item, time in asked]
    assert rows_of(built.directory)["pop_v1__plays"] == expected


@pytest.mark.parametrize("in_force", [False, True])
def test_many_files_are_joined_as_by_a_plain_loop(
    released: tuple[Settings, Ledger, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_force: bool
) -> None:
    """The same rows from both engines, in many chunks or one, and what a loop over releases finds for each."""
    monkeypatch.setattr("featurestore.datasets.labels._ROWS_IN_A_CHUNK", 800)
    settings, ledger, _ = released
    generator, folder = np.random.default_rng(11), tmp_path / "labels"
    folder.mkdir()
    asked: list[tuple[int | None, datetime]] = []
    for file, count in (("a", 2_000), ("b", 1), ("c", 900)):
        items = [None if item == 7 else item for item in generator.integers(0, 8, count).tolist()]
        hours = [timedelta(hours=hour) for hour in generator.integers(-48, 40 * 24, count).tolist()]
        rows = [(item, WEEKS[0] + hour) for item, hour in zip(items, hours, strict=True)]
        written = labels(tmp_path / "one.parquet", rows)
        pq.write_table(pq.read_table(written.path), folder / f"{file}.parquet", row_group_size=400)
        asked += rows
    wanted = spec(replace(written, path=folder), "pop_v1:plays", "pop_v1:mean", "pop_v1:tag", in_force=in_force)
    told: list[str] = []
    here = build_dataset(settings, ledger, wanted)
    there = build_dataset(settings, ledger, wanted, told.append, engine=ON_SPARK)

    expected = []
    for item, time in asked:
        known = [week for week in range(3) if WEEKS[week] + WEEK <= time]
        usable = known[-1:] if in_force else [week for week in known if item in CONTENT[week]]
        best = max((week for week in usable if time <= WEEKS[week] + WEEK + timedelta(days=14)), default=None)
        expected.append(None if best is None else CONTENT[best].get(item))
    assert rows_of(there.directory)["pop_v1__plays"] == expected
    assert rows_of(there.directory)["clicked"] == rows_of(here.directory)["clicked"]
    tables = [pq.read_table(built.directory / "data.parquet") for built in (here, there)]
    assert tables[0].schema == tables[1].schema
    assert tables[0].to_pydict() == tables[1].to_pydict()
    manifests = [verify_dataset(built.directory) for built in (here, there)]
    files = [[file["name"] for file in manifest.pop("files")] for manifest in manifests]
    assert files == [["data.parquet"], [f"data.parquet/part-{part:05}.parquet" for part in range(6)]]
    assert manifests[0].pop("version") != manifests[1].pop("version"), "files are part of it"
    assert manifests[0] == manifests[1]
    assert "joining on Spark" in told
    again = build_dataset(settings, ledger, wanted, engine=ON_SPARK)
    assert (again.version, again.is_new) == (there.version, False), "written the same again"

    (there.directory / "data.parquet" / "part-00099.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"does not name: data\.parquet/part-00099\.parquet"):
        verify_dataset(there.directory)


def test_files_of_labels_that_differ(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    release(settings, ledger, 0, {1: 10})
    folder = tmp_path / "labels"
    folder.mkdir()
    table = replace(labels(tmp_path / "one.parquet", [(1, WEEKS[1])]), path=folder)
    with pytest.raises(InputMissing, match="without parquet files"):
        build_dataset(settings, ledger, spec(table))
    labels(folder / "a.parquet", [(1, WEEKS[1])])
    labels(folder / "b.parquet", [(1, WEEKS[1])], more=pa.array([1]))
    with pytest.raises(DatasetError, match=r"b\.parquet: has other columns"):
        build_dataset(settings, ledger, spec(table))


def test_labels_without_rows(settings: Settings, ledger: Ledger, tmp_path: Path, engine: DatasetEngine) -> None:
    release(settings, ledger, 0, {1: 10})
    built = build_dataset(settings, ledger, spec(labels(tmp_path / "labels.parquet", [])), engine=engine)
    assert (built.rows, built.releases) == (0, ())
    assert rows_of(built.directory)["pop_v1__plays"] == []


def test_what_is_interrupted_leaves_nothing(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    class Interrupted(InMemory):
        def write(self, *given: Any) -> Any:
            super().write(*given)
            raise KeyboardInterrupt

    release(settings, ledger, 0, {1: 10})
    with pytest.raises(KeyboardInterrupt):
        build_dataset(
            settings, ledger, spec(labels(tmp_path / "labels.parquet", [(1, WEEKS[1])])), engine=Interrupted()
        )
    assert [path.name for path in (settings.state_dir / "datasets").rglob("*")] == [".staging"]
