"""Input files → a project's data folder, in the shape that the template's signals read.

    events.parquet   user_id, item_id, value, ts (timestamp[us, UTC]), event_id, cohort, platform
    items.parquet    item_id, title, year, genre (list of strings)
    users.parquet    user_id: the public list of accounts
    genres.parquet   genre: the catalogue's genres

Only events of catalogue items are kept. All work is on columns; input of some ten million rows fits a laptop's memory.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from examples.demo.mapping import AccountRange, Dataset, EventColumns, ItemColumns
from governance.errors import (
    ColumnMissing,
    ColumnTypeError,
    EmptyInput,
    InputError,
    InputMissing,
    NonFiniteValue,
    NullValue,
)

__all__ = ["column_names", "event_ids", "prepare"]

EVERYONE = "all"
_LATEST_SECOND = 253_402_300_799  # the end of the year 9999


def column_names(path: Path) -> tuple[str, ...]:
    """Names of a parquet file's (or folder's) columns.

    Raises:
        InputMissing: not there, or not parquet.
    """
    return tuple(_open(path).schema.names)


def prepare(dataset: Dataset, events: Path, items: Path, data: Path) -> None:
    """Writes the four tables of a project's data folder.

    Args:
        dataset: what the files' columns mean.
        events: the raw events, parquet.
        items: the catalogue, parquet.
        data: an empty folder.

    Raises:
        InputError: the input is not as the mapping says; see its subclasses. `data` may then hold some of the tables.
    """
    catalogue = _catalogue(dataset.items, items)
    kept = _events(dataset.events, events, catalogue.column("item_id"))
    _write(kept, data / "events.parquet")
    _write(catalogue, data / "items.parquet")
    _write(pa.table({"user_id": _accounts(dataset, events)}), data / "users.parquet")
    lists: list[Any] = catalogue.column("genre").to_pylist()
    genres = {genre for genres in lists for genre in genres}
    if not genres:
        raise InputError(f"{items.name}: no item has a genre; the demo's signals need some, so give items genres")
    _write(pa.table({"genre": pa.array(sorted(genres), pa.string())}), data / "genres.parquet")


def event_ids(table: pa.Table) -> NDArray[np.int64]:
    """An id for each event that is a function of the event's own content alone.

    The id hashes all of a row's columns and, among exactly equal rows, an ordinal. It must not be a row number: taking
    one event out would then renumber the others, neighboring datasets would differ in every event after it, and a
    promise to hide one event would be void. With this id, taking a row out leaves the other rows' ids as they were
    (of equal rows it takes the last ordinal, and equal rows cannot be told apart).

    Args:
        table: columns of integers, floats, timestamps or strings, without nulls.

    Returns:
        Shape (n,). Two given rows share an id with a probability of about 2^-64.
    """
    words = [_words(table.column(name)) for name in table.column_names]
    order = np.lexsort(words)
    same = np.ones(max(len(order) - 1, 0), dtype=np.bool_)
    digest = np.zeros(table.num_rows, dtype=np.uint64)
    for position, word in enumerate(words, start=1):
        same &= word[order[1:]] == word[order[:-1]]
        digest = _mix(digest ^ _mix(word + np.uint64(position * 0x9E3779B97F4A7C15 % 2**64)))
    index = np.arange(len(order))
    run_start = np.maximum.accumulate(np.where(np.concatenate([[False], same]), 0, index)) if len(order) else index
    ordinal = np.empty(len(order), dtype=np.uint64)
    ordinal[order] = (index - run_start).astype(np.uint64)
    return _mix(digest ^ _mix(ordinal)).view(np.int64)


def _mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that spreads every bit over the whole word."""
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _words(column: pa.ChunkedArray[Any]) -> NDArray[np.uint64]:
    """A column as 64-bit words: equal values, equal words, whatever else is in the column."""
    if pa.types.is_string(column.type):
        coded: Any = pc.dictionary_encode(column).combine_chunks()
        texts = [hashlib.sha256(text.encode()).digest()[:8] for text in coded.dictionary.to_pylist()]
        return np.asarray(np.frombuffer(b"".join(texts), dtype="<u8")[coded.indices.to_numpy()])
    values = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()
    if values.dtype.kind == "f":
        values = values.astype(np.float64) + 0.0  # -0.0 and 0.0 are one value
    return np.ascontiguousarray(values).view(np.uint64)


# --- events ----------------------------------------------------------------------------------------------------------


def _events(columns: EventColumns, path: Path, catalogue: pa.ChunkedArray[Any]) -> pa.Table:
    table = _read(path, columns.required)
    shown = path.name
    seconds = _times(table, columns.time, shown)
    kept: dict[str, Any] = {
        "user_id": _whole(table, columns.user, shown, "privacy unit"),
        "item_id": _whole(table, columns.item, shown, "item"),
        "value": _numbers(table, columns.value, shown, "value"),
        "ts": seconds,
        "cohort": _texts(table, columns.cohort, shown),
        "platform": _texts(table, columns.platform, shown),
    }
    wanted: Any = pc.is_in(kept["item_id"], value_set=catalogue.combine_chunks())
    if columns.positive_value:
        wanted = pc.and_(wanted, pc.greater(kept["value"], pa.scalar(0.0)))
    if columns.drop_where is not None:
        wanted = pc.and_(wanted, pc.invert(_flags(table, columns.drop_where, shown)))
    events = pa.table(kept).filter(wanted)
    if events.num_rows == 0:
        raise InputError(
            f"{shown}: no event is left that the mapping keeps; check that --events and --items belong together"
        )
    return events.add_column(4, "event_id", pa.array(event_ids(events), pa.int64()))


def _times(table: pa.Table, name: str, shown: str) -> Any:
    column: Any = table.column(name)
    if pa.types.is_timestamp(column.type):
        _no_nulls(column, shown, name, "event time")
        return column.cast(pa.timestamp("us", tz="UTC"), safe=False)
    seconds = _whole(table, name, shown, "event time")
    bounds: Any = pc.min_max(seconds)
    if bounds["min"].as_py() < 0 or bounds["max"].as_py() > _LATEST_SECOND:
        raise InputError(f"{shown}: column {name!r} has values that are not Unix seconds; convert it upstream")
    return seconds.cast(pa.timestamp("s", tz="UTC")).cast(pa.timestamp("us", tz="UTC"))


def _texts(table: pa.Table, name: str | None, shown: str) -> Any:
    if name is None:
        return pa.repeat(EVERYONE, table.num_rows)
    column = _decoded(table, name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ColumnTypeError(shown, name, str(column.type), "string")
    _no_nulls(column, shown, name, "key")
    return column.cast(pa.string())


def _flags(table: pa.Table, name: str, shown: str) -> pa.ChunkedArray[Any]:
    column = table.column(name)
    if not pa.types.is_boolean(column.type):
        raise ColumnTypeError(shown, name, str(column.type), "bool")
    _no_nulls(column, shown, name, "filter")
    return column


# --- public tables ---------------------------------------------------------------------------------------------------


def _catalogue(columns: ItemColumns, path: Path) -> pa.Table:
    table = _read(path, columns.required)
    shown = path.name
    if columns.keep_where is not None:
        table = table.filter(_flags(table, columns.keep_where, shown))
    ids = _whole(table, columns.item, shown, "item id")
    if pc.count_distinct(ids).as_py() != len(ids):
        raise InputError(f"{shown}: column {columns.item!r} has the same id more than once; keep one row an item")
    title = _decoded(table, columns.title)
    if not (pa.types.is_string(title.type) or pa.types.is_large_string(title.type)):
        raise ColumnTypeError(shown, columns.title, str(title.type), "string")
    catalogue: dict[str, Any] = {
        "item_id": ids,
        "title": title.cast(pa.string()),
        "year": pa.nulls(len(ids), pa.int32()) if columns.year is None else _years(table, columns.year, shown),
        "genre": _genres(table, columns.genres, shown) if columns.genres else _price_bands(table, columns, shown),
    }
    return pa.table(catalogue)


def _years(table: pa.Table, name: str, shown: str) -> pa.ChunkedArray[Any]:
    column = table.column(name)
    if not pa.types.is_integer(column.type):
        raise ColumnTypeError(shown, name, str(column.type), "a whole number")
    return column.cast(pa.int32())


def _genres(table: pa.Table, name: str, shown: str) -> Any:
    column = table.column(name)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise ColumnTypeError(shown, name, str(column.type), "list of strings")
    if not pa.types.is_string(column.type.value_type):
        raise ColumnTypeError(shown, name, str(column.type), "list of strings")
    lists = [[genre for genre in genres or () if genre] for genres in column.to_pylist()]
    return pa.array(lists, pa.list_(pa.string()))


def _price_bands(table: pa.Table, columns: ItemColumns, shown: str) -> Any:
    """Each item's price band as its only genre; none where the price is unknown."""
    name, edges = columns.price or "", columns.price_edges
    labels = [f"below {columns.currency}{edges[0]:g}"]
    labels += [f"{columns.currency}{low:g} to {columns.currency}{high:g}" for low, high in pairwise(edges)]
    labels += [f"{columns.currency}{edges[-1]:g} and more"]
    column = table.column(name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ColumnTypeError(shown, name, str(column.type), "a number")
    prices = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    band = np.searchsorted(np.array(edges, dtype=np.float64), prices, side="right")
    lists = [[] if np.isnan(price) else [labels[index]] for price, index in zip(prices, band, strict=True)]
    return pa.array(lists, pa.list_(pa.string()))


def _accounts(dataset: Dataset, events: Path) -> Any:
    if isinstance(dataset.accounts, AccountRange):
        return pa.array(np.arange(dataset.accounts.first, dataset.accounts.last + 1), pa.int64())
    path = (events if events.is_dir() else events.parent) / dataset.accounts.file
    name = dataset.events.user
    return pc.unique(_whole(_read(path, (name,)), name, path.name, "account"))


# --- columns ---------------------------------------------------------------------------------------------------------


def _open(path: Path) -> ds.Dataset:
    try:
        return ds.dataset(path, format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise InputMissing(f"{path}: cannot be read as parquet ({type(error).__name__}); give a parquet file") from None


def _read(path: Path, columns: tuple[str, ...]) -> pa.Table:
    source = _open(path)
    found = tuple(source.schema.names)
    for column in columns:
        if column not in found:
            raise ColumnMissing(path.name, column, found)
    try:
        table = source.to_table(columns=list(dict.fromkeys(columns)))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputMissing(f"{path}: damaged parquet ({type(error).__name__}); write the file again") from None
    if table.num_rows == 0:
        raise EmptyInput(path.name)
    return table


def _decoded(table: pa.Table, name: str) -> Any:
    column = table.column(name)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _whole(table: pa.Table, name: str, shown: str, role: str) -> pa.ChunkedArray[Any]:
    column = table.column(name)
    if not pa.types.is_integer(column.type):
        raise ColumnTypeError(shown, name, str(column.type), "a whole number")
    _no_nulls(column, shown, name, role)
    return column.cast(pa.int64())


def _numbers(table: pa.Table, name: str, shown: str, role: str) -> pa.ChunkedArray[Any]:
    column = table.column(name)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise ColumnTypeError(shown, name, str(column.type), "a number")
    _no_nulls(column, shown, name, role)
    numbers = column.cast(pa.float64())
    if not pc.all(pc.is_finite(numbers)).as_py():
        raise NonFiniteValue(shown, name)
    return numbers


def _no_nulls(column: pa.ChunkedArray[Any], shown: str, name: str, role: str) -> None:
    if column.null_count:
        raise NullValue(shown, name, role)


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
