"""What a signal's tables must be, settled before any private row is read; and rows made of all that is let through."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.errors import ColumnTypeError, DefinitionError, InputError, NullValue
from pipelines import (
    Count,
    Entity,
    Interval,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    Signal,
    Sum,
    TopK,
    VectorSum,
    Window,
)
from pipelines.engine.inputs import check_footers, open_inputs, row_plan
from pipelines.engine.rows import Made, rows_of
from pipelines.engine.scan import parts_of, read_parts
from pipelines.engine.writing import PublicKeys, key_schema
from pipelines.recipes import recipe_of
from tests.support.projects import EVENTS, ITEMS, SPAN, START, a_signal

T0, END = int(START.timestamp()), int(SPAN.end.timestamp())
PUBLIC_ITEMS = PublicPartitions({"item_id": PublicColumn(table=ITEMS, column="item_id")})
GENRES = (PublicJoin(table=ITEMS, on="item_id", columns=("genre",), explode="genre"),)
PRICES = (PublicJoin(table=ITEMS, on="item_id", columns=("price", "title")),)


def write(root: Path, name: str, columns: dict[str, Any], **options: Any) -> None:
    (root / "data").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), root / "data" / f"{name}.parquet", **options)


def events(root: Path, **columns: Any) -> None:
    """Some events, one for each item 1, 2, 3 unless told otherwise."""
    n = len(next(iter(columns.values()), [1, 2, 3]))
    given = {"user_id": list(range(n)), "item_id": list(range(1, n + 1)), "ts": [T0] * n}
    write(root, "events", {**given, **columns}, row_group_size=2)


def made(root: Path, signal: Signal) -> list[Made]:
    """What tasks make of a signal's events."""
    recipe = recipe_of(signal)
    inputs = open_inputs(signal, recipe, root)
    check_footers(signal, inputs)
    plan = row_plan(signal, recipe, inputs, SPAN)
    return list(rows_of(read_parts(parts_of(inputs.events.files, plan), plan), plan))


def column(root: Path, signal: Signal, name: str = "__k0") -> list[Any]:
    """A column of the rows made."""
    found = made(root, signal)
    assert [one.problem for one in found] == [-1] * len(found)
    return [value for one in found for value in one.rows.column(name).to_pylist()]


def public_keys(root: Path, signal: Signal) -> list[Any]:
    """The public keys that a release has rows for."""
    recipe = recipe_of(signal)
    inputs = open_inputs(signal, recipe, root)
    keys = PublicKeys.of(row_plan(signal, recipe, inputs, SPAN).domains, key_schema(inputs, ("__k0",)))
    assert keys is not None
    values: list[Any] = keys.table(None, 1).column("__k0").to_pylist()
    return values


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("narrow", [pa.int8(), pa.int16(), pa.uint8(), pa.int64()])
def test_public_keys_that_a_narrow_column_cannot_hold(tmp_path: Path, narrow: pa.DataType) -> None:
    """They are released with noise alone, as any key that nobody has."""
    events(tmp_path, item_id=pa.array([1, 2, 100], narrow))
    given = a_signal(partitions=PublicPartitions({"item_id": (2, 100, 70_000, -70_000)}))
    assert column(tmp_path, given) == [2, 100]
    assert public_keys(tmp_path, given) == [2, 100, 70_000, -70_000]
    write(tmp_path, "items", {"item_id": pa.array([2, 2**40, 2], pa.int64())})
    listed = a_signal(partitions=PUBLIC_ITEMS)
    assert column(tmp_path, listed) == [2]
    assert public_keys(tmp_path, listed) == [2, 2**40]


@pytest.mark.parametrize(
    ("values", "private", "public"),
    [
        (["a", "é"], pa.string(), pa.large_string()),
        (["a", "é"], pa.large_string(), pa.string()),
        ([date(2025, 1, 1), date(2025, 1, 2)], pa.date32(), pa.date64()),
        ([date(2025, 1, 1), date(2025, 1, 2)], pa.date64(), pa.date32()),
    ],
)
def test_kinds_are_compared_rather_than_types(tmp_path: Path, values: Any, private: Any, public: Any) -> None:
    events(tmp_path, item_id=pa.array(values, private))
    write(tmp_path, "items", {"item_id": pa.array(values[1:], public)})
    assert column(tmp_path, a_signal(partitions=PUBLIC_ITEMS)) == values[1:]


@pytest.mark.parametrize("public", [pa.int64(), pa.int8(), pa.uint32()])
@pytest.mark.parametrize("private", [pa.int32(), pa.int8(), pa.int64()])
def test_joins_of_whole_numbers_of_any_width(tmp_path: Path, private: pa.DataType, public: pa.DataType) -> None:
    most = {pa.int64(): 2**40, pa.int8(): 127, pa.uint32(): 2**32 - 1}
    events(tmp_path, item_id=pa.array([1, 2, most.get(private, 9)], private))
    write(tmp_path, "items", {"item_id": pa.array([2, most[public]], public), "genre": [["b"], ["z"]]})
    signal = a_signal(entity=Entity("genre", "genre"), joins=GENRES)
    both = [1, 2, most.get(private, 9)]
    assert column(tmp_path, signal) == [genre for item, genre in ((2, "b"), (most[public], "z")) if item in both]


@pytest.mark.parametrize("of", [("a", "b"), (1, 2)])
@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.string(), pa.large_string(), pa.date32()])
def test_candidates_are_of_the_columns_kind(tmp_path: Path, of: tuple[Any, ...], kind: pa.DataType) -> None:
    values = {pa.date32(): [date(2025, 1, 1)] * 3}.get(kind) or (
        ["a", "b", "c"] if "string" in str(kind) else [1, 2, 3]
    )
    events(tmp_path, tag=pa.array(values, kind))
    signal = a_signal(aggregates={"t": TopK("tag", of, 1)})
    if type(of[0]) is type(values[0]):
        assert column(tmp_path, signal, "__v0") == [0, 1, 2]
        far = a_signal(aggregates={"t": TopK("tag", (70_000, 2), 1)}) if of == (1, 2) else signal
        assert column(tmp_path, far, "__v0")[1] == 1
    else:
        with pytest.raises(DefinitionError, match=r"item_weekly v1: aggregates: the candidates of 'tag' are of "):
            made(tmp_path, signal)


@pytest.mark.parametrize(
    ("vectors", "fits"),
    [
        (pa.array([[1.0], [2.0], [3.0]]), True),
        (pa.array([[1], [2], [3]], pa.large_list(pa.int8())), True),
        (pa.array([["1"], ["2"], ["3"]]), False),
        (pa.array([[True], [False], [True]]), False),
        (pa.array([[[1.0]], [[2.0]], [[3.0]]]), False),
        (pa.array([1.0, 2.0, 3.0]), False),
    ],
)
def test_vectors_are_lists_of_numbers(tmp_path: Path, vectors: Any, fits: bool) -> None:
    events(tmp_path, vector=vectors)
    signal = a_signal(aggregates={"v": VectorSum("vector", 1, 9.0)})
    if fits:
        assert len(column(tmp_path, signal, "__v0")) == 3
    else:
        with pytest.raises(ColumnTypeError, match="allowed: lists of numbers"):
            made(tmp_path, signal)


# --- nulls ------------------------------------------------------------------------------------------------------------

SUMMED = a_signal(aggregates={"total": Sum("value", Interval(0, 1))})


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("moment", [T0 - 1, END, END + 14 * 86_400])
@pytest.mark.parametrize("name", ["user_id", "item_id", "value"])
def test_nulls_outside_of_the_window_are_no_matter(tmp_path: Path, name: str, moment: int, statistics: bool) -> None:
    """In a row group of their own, or in one with rows of the window."""
    for at in (1, 2):
        columns: dict[str, Any] = {"user_id": [1, 2, 3], "item_id": [1, 2, 3], "ts": [T0] * 3, "value": [0.5] * 3}
        columns["ts"][at], columns[name][at] = moment, None
        write(tmp_path, "events", columns, row_group_size=2, write_statistics=statistics)
        assert len(column(tmp_path, SUMMED)) == 2
        columns["ts"][at] = T0
        write(tmp_path, "events", columns, row_group_size=2, write_statistics=statistics)
        assert made(tmp_path, SUMMED)[-1].problem >= 0, "within it they are"


def test_an_event_without_a_time_stops_every_window(tmp_path: Path) -> None:
    events(tmp_path, ts=[T0, T0, None])
    with pytest.raises(NullValue, match=r"column 'ts' \(event time\) has nulls"):
        made(tmp_path, a_signal())


def test_what_came_too_late_may_have_no_key(tmp_path: Path) -> None:
    late = a_signal(source=replace(EVENTS, arrival="seen"), window=Window(timedelta(days=7)))
    events(tmp_path, item_id=[1, None], seen=[T0, END + 1], ts=[T0, T0])
    assert column(tmp_path, late) == [1]


CATALOGUE: dict[str, Any] = {
    "item_id": pa.array([1, 2, 3]),
    "genre": [["a"], [], ["b", "c"]],
    "price": [0.5, 1.0, 0.25],
    "title": ["x", "y", "z"],
}
NULLS = {
    "a join key": ("item_id", [1, None, 3], {"joins": GENRES, "entity": Entity("genre", "genre")}),
    "a list": ("genre", [["a"], None, ["b"]], {"joins": GENRES, "entity": Entity("genre", "genre")}),
    "within a list": ("genre", [["a"], [], ["b", None]], {"joins": GENRES, "entity": Entity("genre", "genre")}),
    "a list that only multiplies": ("genre", [["a"], [None], []], {"joins": GENRES}),
    "a key": ("title", ["x", None, "z"], {"joins": PRICES, "entity": Entity("title", "title")}),
    "a value": ("price", [1.0, None, 0.5], {"joins": PRICES, "aggregates": {"p": Sum("price", Interval(0, 1))}}),
    "a public key": ("item_id", [1, None, 3], {"partitions": PUBLIC_ITEMS}),
}


@pytest.mark.parametrize("item", [1, 2, 9])
@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("name", NULLS)
def test_nulls_of_public_tables_are_refused_whoever_meets_them(
    tmp_path: Path, name: str, statistics: bool, item: int
) -> None:
    """They are dropped by no join and are no key; and whether they are refused does not depend on private events."""
    of, values, changes = NULLS[name]
    signal = a_signal(**changes)
    events(tmp_path, item_id=[item])
    write(tmp_path, "items", CATALOGUE, write_statistics=statistics)
    assert all(one.problem == -1 for one in made(tmp_path, signal))
    filled = pa.array(values, CATALOGUE["item_id"].type) if of == "item_id" else values
    write(tmp_path, "items", {**CATALOGUE, of: filled}, write_statistics=statistics)
    with pytest.raises(NullValue, match="drop or fill those rows upstream") as caught:
        open_inputs(signal, recipe_of(signal), tmp_path)
    assert (caught.value.table, caught.value.column) == (ITEMS.table, of)


def test_facts_that_nothing_uses_may_be_missing(tmp_path: Path) -> None:
    events(tmp_path)
    write(tmp_path, "items", {**CATALOGUE, "price": [None, None, 1.0], "other": [None, 1, 2]})
    assert column(tmp_path, a_signal(entity=Entity("title", "title"), joins=PRICES)) == ["x", "y", "z"]


def test_an_item_without_genres_is_in_none(tmp_path: Path) -> None:
    """An empty list is no null: it says that there is nothing."""
    events(tmp_path)
    write(tmp_path, "items", CATALOGUE)
    signal = a_signal(entity=Entity("genre", "genre"), joins=GENRES, aggregates={"n": Count()})
    assert column(tmp_path, signal) == ["a", "b", "c"]


def test_a_public_table_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    events(tmp_path)
    write(tmp_path, "items", CATALOGUE, write_statistics=False)
    path = tmp_path / "data/items.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 3) + data[4 + len(data) // 3 :])
    with pytest.raises(InputError, match="cannot be read as parquet"):
        open_inputs(a_signal(partitions=PUBLIC_ITEMS), recipe_of(a_signal()), tmp_path)
