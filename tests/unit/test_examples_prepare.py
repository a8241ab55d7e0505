from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.demo.mapping import Dataset, load_datasets, recognise
from examples.demo.prepare import column_names, event_ids, prepare
from governance.errors import (
    ColumnMissing,
    ColumnTypeError,
    ConfigError,
    EmptyInput,
    HedgerowError,
    InputError,
    InputMissing,
    NonFiniteValue,
    NullValue,
)

DATASETS = {dataset.name: dataset for dataset in load_datasets()}
GENERATED, MOVIES, RETAIL = DATASETS["generated"], DATASETS["ml-latest-small"], DATASETS["uci-online-retail"]
EVENTS: dict[str, Any] = {
    "user_id": [1, 1, 2, 2],
    "item_id": [10, 20, 10, 30],
    "value": [4.0, 3.5, 5.0, 1.0],
    "ts": [1_760_000_000, 1_760_000_001, 1_760_000_002, 1_760_000_003],
    "cohort": ["DE", "DE", "US", "US"],
    "platform": ["tv", "web", "tv", "phone"],
}
ITEMS: dict[str, Any] = {
    "item_id": [10, 20],
    "title": ["Night Train", None],
    "year": pa.array([1999, None], pa.int32()),
    "genres": [["Drama", "Crime"], []],
}
SHOP_EVENTS: dict[str, Any] = {
    "user_id": [12346, 12347, 12347, 12347, 12347],
    "item_id": [1, 1, 2, 3, 1],
    "value": [6.0, -2.0, 1.0, 4.0, 3.0],
    "ts": [1_291_191_960] * 5,
    "unit_price": [1.0] * 5,
    "is_cancellation": [False, False, False, False, True],
    "country": ["France", "France", "EIRE", "EIRE", "EIRE"],
}
SHOP_ITEMS: dict[str, Any] = {
    "item_id": [1, 2, 3],
    "description": ["RED BOWL", "POSTAGE", None],
    "median_unit_price": [0.99, 18.0, 4.0],
    "is_product": [True, False, True],
}


def write(folder: Path, events: dict[str, Any], items: dict[str, Any]) -> tuple[Path, Path]:
    pq.write_table(pa.table(events), folder / "events.parquet")
    pq.write_table(pa.table(items), folder / "items.parquet")
    pq.write_table(pa.table({"user_id": [1, 2, 3]}), folder / "users.parquet")
    return folder / "events.parquet", folder / "items.parquet"


def prepared(folder: Path, dataset: Dataset, events: dict[str, Any], items: dict[str, Any]) -> dict[str, list[Any]]:
    prepare(dataset, *write(folder, events, items), folder / "data")
    return {path.stem: pq.read_table(path).to_pylist() for path in (folder / "data").iterdir()}


def test_tables_of_the_generated_shape(tmp_path: Path) -> None:
    found = prepared(tmp_path, GENERATED, EVENTS, ITEMS)
    assert [(row["user_id"], row["item_id"], row["value"]) for row in found["events"]] == [
        (1, 10, 4.0),
        (1, 20, 3.5),
        (2, 10, 5.0),
    ]  # item 30 is not in the catalogue
    assert found["events"][0]["ts"] == datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)
    assert found["events"][0]["cohort"] == "DE"
    assert found["items"] == [
        {"item_id": 10, "title": "Night Train", "year": 1999, "genre": ["Drama", "Crime"]},
        {"item_id": 20, "title": None, "year": None, "genre": []},
    ]
    assert found["users"] == [{"user_id": 1}, {"user_id": 2}, {"user_id": 3}]
    assert found["genres"] == [{"genre": "Crime"}, {"genre": "Drama"}]


def test_column_types_are_what_the_signals_read(tmp_path: Path) -> None:
    prepared(tmp_path, GENERATED, EVENTS, ITEMS)
    schema = pq.read_schema(tmp_path / "data" / "events.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("user_id", "int64"),
        ("item_id", "int64"),
        ("value", "double"),
        ("ts", "timestamp[us, tz=UTC]"),
        ("event_id", "int64"),
        ("cohort", "string"),
        ("platform", "string"),
    ]


def test_without_cohort_and_platform_everyone_is_in_all(tmp_path: Path) -> None:
    events = {name: EVENTS[name] for name in ("user_id", "item_id", "value", "ts")}
    found = prepared(tmp_path, MOVIES, events, ITEMS)
    assert {(row["cohort"], row["platform"]) for row in found["events"]} == {("all", "all")}
    assert [row["user_id"] for row in found["users"]] == list(range(1, 611))


def test_shop_keeps_sales_of_products_and_bands_stand_in_for_genres(tmp_path: Path) -> None:
    found = prepared(tmp_path, RETAIL, SHOP_EVENTS, SHOP_ITEMS)
    assert [(row["user_id"], row["item_id"], row["cohort"]) for row in found["events"]] == [
        (12346, 1, "France"),
        (12347, 3, "EIRE"),
    ]
    assert [(row["title"], row["genre"], row["year"]) for row in found["items"]] == [
        ("RED BOWL", ["below £1"], None),
        (None, ["£4 to £8"], None),
    ]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns", tz="UTC"), pa.timestamp("ms", tz="UTC")])
def test_times_may_be_timestamps(tmp_path: Path, kind: pa.DataType) -> None:
    events = {**EVENTS, "ts": pa.array(EVENTS["ts"], pa.timestamp("s")).cast(kind)}
    found = prepared(tmp_path, GENERATED, events, ITEMS)
    assert found["events"][0]["ts"] == datetime(2025, 10, 9, 8, 53, 20, tzinfo=UTC)


def test_equal_events_have_ids_of_their_own(tmp_path: Path) -> None:
    events = {name: [*values, values[0]] for name, values in EVENTS.items()}
    ids = [row["event_id"] for row in prepared(tmp_path, GENERATED, events, ITEMS)["events"]]
    assert len(set(ids)) == len(ids) == 4


def test_event_ids_do_not_depend_on_what_else_a_text_column_holds() -> None:
    both = pa.table({"user_id": [1, 2], "cohort": ["DE", "US"]})
    assert event_ids(both)[1] == event_ids(both.slice(1))[0]


def test_event_ids_of_no_events() -> None:
    assert event_ids(pa.table({"user_id": pa.array([], pa.int64())})).shape == (0,)


BAD: list[tuple[str, dict[str, Any], dict[str, Any], type[InputError], str]] = [
    ("user null", {"user_id": [1, None, 2, 2]}, {}, NullValue, "user_id"),
    ("item null", {"item_id": [10, None, 10, 10]}, {}, NullValue, "item_id"),
    ("value null", {"value": [1.0, None, 1.0, 1.0]}, {}, NullValue, "value"),
    ("value NaN", {"value": [1.0, float("nan"), 1.0, 1.0]}, {}, NonFiniteValue, "value"),
    ("value infinite", {"value": [1.0, float("-inf"), 1.0, 1.0]}, {}, NonFiniteValue, "value"),
    ("value text", {"value": ["1"] * 4}, {}, ColumnTypeError, "a number"),
    ("user text", {"user_id": ["1"] * 4}, {}, ColumnTypeError, "a whole number"),
    ("time null", {"ts": [1, None, 1, 1]}, {}, NullValue, "ts"),
    ("time in milliseconds", {"ts": [1_760_000_000_000] * 4}, {}, InputError, "Unix seconds"),
    ("time text", {"ts": ["2025-01-01"] * 4}, {}, ColumnTypeError, "whole number"),
    ("cohort null", {"cohort": ["DE", None, "US", "US"]}, {}, NullValue, "cohort"),
    ("cohort number", {"cohort": [1, 2, 3, 4]}, {}, ColumnTypeError, "string"),
    ("no events", {name: pa.array([], pa.int64()) for name in EVENTS}, {}, EmptyInput, "no rows"),
    ("nothing of the catalogue", {"item_id": [7, 7, 7, 7]}, {}, InputError, "belong together"),
    ("item twice", {}, {"item_id": [10, 10]}, InputError, "more than once"),
    ("catalogue id null", {}, {"item_id": [10, None]}, NullValue, "item_id"),
    ("title number", {}, {"title": [1, 2]}, ColumnTypeError, "string"),
    ("year text", {}, {"year": ["a", "b"]}, ColumnTypeError, "whole number"),
    ("genres text", {}, {"genres": ["a", "b"]}, ColumnTypeError, "list of strings"),
    ("no genre", {}, {"genres": pa.array([[], []], pa.list_(pa.string()))}, InputError, "no item has a genre"),
    ("no items", {}, {name: pa.array([], pa.int64()) for name in ITEMS}, EmptyInput, "no rows"),
]


@pytest.mark.parametrize(
    ("events", "items", "error", "told"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_bad_input_is_a_typed_error(
    tmp_path: Path, events: dict[str, Any], items: dict[str, Any], error: type[InputError], told: str
) -> None:
    with pytest.raises(InputError) as caught:
        prepared(tmp_path, GENERATED, {**EVENTS, **events}, {**ITEMS, **items})
    assert type(caught.value) is error
    assert told in str(caught.value)


def test_missing_and_damaged_files_and_columns(tmp_path: Path) -> None:
    events, items = write(tmp_path, EVENTS, ITEMS)
    with pytest.raises(InputMissing):
        prepare(GENERATED, tmp_path / "nothing.parquet", items, tmp_path / "data")
    with pytest.raises(InputMissing):
        column_names(tmp_path / "nothing.parquet")
    with pytest.raises(ColumnMissing) as caught:
        prepare(RETAIL, events, items, tmp_path / "data")
    assert caught.value.table == "items.parquet"
    (tmp_path / "users.parquet").unlink()
    with pytest.raises(InputMissing, match=r"users\.parquet"):
        prepare(GENERATED, events, items, tmp_path / "data")
    events.write_bytes(events.read_bytes()[:200])
    with pytest.raises(InputMissing):
        prepare(GENERATED, events, items, tmp_path / "data")


def test_files_are_recognised_by_their_columns_or_by_name() -> None:
    assert recognise(tuple(EVENTS), tuple(ITEMS)).name == "generated"
    assert recognise(tuple(SHOP_EVENTS), tuple(SHOP_ITEMS)).name == "uci-online-retail"
    movies = ("user_id", "item_id", "value", "ts")
    assert recognise(movies, (*ITEMS, "imdb_id", "tmdb_id")).name == "ml-latest-small"
    assert recognise((), (), "generated").name == "generated"


def test_unknown_files_are_told_what_is_needed() -> None:
    with pytest.raises(InputError) as caught:
        recognise(("user_id", "item_id"), tuple(ITEMS))
    for name in DATASETS:
        assert name in str(caught.value)
    assert "is_cancellation" in str(caught.value)
    with pytest.raises(ConfigError, match="generated"):
        recognise((), (), "nonsense")


def test_messages_hold_no_row_value(tmp_path: Path) -> None:
    secret = 987_654_321
    events = {**EVENTS, "user_id": [secret] * 4, "value": [float("inf")] * 4}
    with pytest.raises(HedgerowError) as caught:
        prepared(tmp_path, GENERATED, events, ITEMS)
    assert str(secret) not in str(caught.value)
