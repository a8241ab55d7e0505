"""Packed rows and snapshots against plain Python: what goes in comes out, for every key, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.rows import (
    Column,
    FeatureColumns,
    Kind,
    PlaceTable,
    RowField,
    RowSchema,
    Runs,
    Texts,
    key_bytes,
    key_hashes,
    text_keys,
)
from featurestore.snapshots import Snapshot, open_snapshot, snapshot_bytes
from featurestore.snapshots import index as index_module
from featurestore.snapshots.index import HashIndex, TableIndex, build_index
from governance.canonical import canonical_bytes
from governance.errors import NotPublished, PublicationCorrupt, PublicationError

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
CLOSE = st.integers(-20, 20) | st.integers(-(1 << 63), 20 - (1 << 63))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
FLOAT32 = st.floats(width=32, allow_nan=False)
KINDS: dict[str, tuple[RowField, st.SearchStrategy[Any]]] = {
    "a": (RowField(name="a", kind=Kind.INT64), INT64),
    "b": (RowField(name="b", kind=Kind.FLOAT64), st.floats(allow_nan=False)),
    "c": (RowField(name="c", kind=Kind.FLOAT32), FLOAT32),
    "d": (RowField(name="d", kind=Kind.BOOL), st.booleans()),
    "e": (RowField(name="e", kind=Kind.STRING), TEXT.map(str.encode)),
    "f": (RowField(name="f", kind=Kind.BYTES), st.binary(max_size=5)),
    "g": (RowField(name="g", kind=Kind.DATE), st.integers(-(1 << 31), (1 << 31) - 1)),
    "h": (RowField(name="h", kind=Kind.TIMESTAMP), INT64),
    "i": (RowField(name="i", kind=Kind.FLOAT32, dimension=3), st.tuples(FLOAT32, FLOAT32, FLOAT32)),
    "j": (RowField(name="j", kind=Kind.INT32), st.integers(-(1 << 31), (1 << 31) - 1)),
    "k": (RowField(name="k", kind=Kind.FLOAT32), FLOAT32),
    "l": (RowField(name="l", kind=Kind.STRING), TEXT.map(str.encode)),
}
EVENT_TIME, RELEASE = 1_763_337_600_000_000, "v/v1/2025-11-10"


def column(field: RowField, values: list[Any]) -> Column:
    nulls = np.array([value is None for value in values], bool)
    if field.kind.dtype is None:
        return Column(values=Texts.of([b"x" if value is None else value for value in values]), nulls=nulls)
    empty: Any = (0.0,) * field.dimension if field.dimension else 0
    array = np.array([empty if value is None else value for value in values], field.kind.dtype)
    shape = (len(values), field.dimension) if field.dimension else (len(values),)
    return Column(values=array.reshape(shape), nulls=nulls)


def key_column(values: list[Any], kind: str) -> Any:
    return np.array(values, np.int64) if kind == "int64" else text_keys(values)


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, str], list[tuple[Any, ...]], dict[str, list[Any]]]:
    kinds = draw(st.lists(st.sampled_from(["int64", "string"]), min_size=1, max_size=3))
    integers = draw(st.sampled_from([INT64, CLOSE]))
    names = draw(st.lists(st.sampled_from(sorted(KINDS)), unique=True, max_size=12))
    values = st.tuples(*(integers if kind == "int64" else TEXT for kind in kinds))
    keys = draw(st.lists(values, unique=True, max_size=20))
    columns = {
        name: draw(st.lists(st.none() | KINDS[name][1], min_size=len(keys), max_size=len(keys))) for name in names
    }
    return {f"key{i}": kind for i, kind in enumerate(kinds)}, keys, columns


def built(kinds: dict[str, str], keys: list[tuple[Any, ...]], columns: dict[str, list[Any]]) -> bytes:
    fields = tuple(KINDS[name][0] for name in columns)
    return snapshot_bytes(
        "v",
        RowSchema(fields=fields),
        {name: key_column([key[i] for key in keys], kind) for i, (name, kind) in enumerate(kinds.items())},
        {field.name: column(field, columns[field.name]) for field in fields},
        release_id=RELEASE,
        event_time=EVENT_TIME,
    )


def opened(data: bytes) -> Snapshot:
    with TemporaryDirectory() as folder:
        path = Path(folder, "v.snapshot")
        path.write_bytes(data)
        return open_snapshot(path)  # readable without its file


def plain(values: Any, at: int) -> Any:
    if isinstance(values, Texts):
        return values.tolist()[at]
    return tuple(values[at].tolist()) if values.ndim == 2 else values[at].item()


def check_runs(snapshot: Snapshot, keys: Any, names: tuple[str, ...], answer: FeatureColumns) -> None:
    """Runs are given where no feature is a text, and say what columns do."""
    fields = [snapshot.schema.by_name[name] for name in names]
    runs = snapshot.look_up(keys, names, earliest=EVENT_TIME)
    assert not snapshot.look_up(keys, names, earliest=EVENT_TIME + 1).found.any()  # type: ignore[union-attr]
    fixed = all(field.kind.dtype is not None for field in fields)
    assert isinstance(runs, Runs) == bool(fixed and len(answer) and len(snapshot))
    if isinstance(runs, Runs):
        assert (runs.gaps is None) == (bool(answer.found.all()) and not answer.nulls.any())
    again = runs.as_columns(fields) if isinstance(runs, Runs) else runs
    for name in names:
        ours, theirs = answer.values[name], again.values[name]
        if isinstance(ours, Texts):
            assert isinstance(theirs, Texts)
            assert ours.tolist() == theirs.tolist()
        else:
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(answer.nulls, again.nulls)
    assert answer.event_times.tolist() == again.event_times.tolist()
    assert answer.release_indexes.tolist() == again.release_indexes.tolist()
    assert answer.found.tolist() == again.found.tolist()


def check(
    snapshot: Snapshot, kinds: dict[str, str], asked: list[Any], keys: list[Any], columns: dict[str, list[Any]]
) -> None:
    names = [name for name in columns if len(name) == 1]
    given_keys = {name: key_column([key[i] for key in asked], kind) for i, (name, kind) in enumerate(kinds.items())}
    answer = snapshot.get(given_keys, names)
    there = {key: row for row, key in enumerate(keys)}
    assert answer.found.tolist() == [key in there for key in asked]
    assert answer.event_times.tolist() == [EVENT_TIME if key in there else 0 for key in asked]
    assert answer.release_indexes.tolist() == [0 if key in there else -1 for key in asked]
    assert answer.releases == (RELEASE,)
    check_runs(snapshot, given_keys, tuple(names), answer)
    for name in names:
        for at, key in enumerate(asked):
            wanted = columns[name][there[key]] if key in there else None
            assert answer.null(name)[at] == (wanted is None)
            found = plain(answer.values[name], at)
            if wanted is not None:
                assert found == wanted
            else:  # empty, and the same whether null or not there
                assert found in (0, b"", (0.0,) * 3) or np.isnan(found).all()


@given(tables(), st.data())
def test_a_snapshot_answers_like_a_dictionary(table: Any, data: st.DataObject) -> None:
    kinds, keys, columns = table
    others = st.tuples(*(INT64 if kind == "int64" else TEXT for kind in kinds.values()))
    asked = data.draw(st.lists(st.sampled_from(keys) | others if keys else others, max_size=30))
    check(opened(built(kinds, keys, columns)), kinds, asked, keys, columns)


@given(tables(), st.data())
def test_keys_that_share_a_hash_stay_apart(table: Any, data: st.DataObject) -> None:
    """All hashes made equal: the worst that a hash can do costs time, never a wrong answer."""
    kinds, keys, columns = table
    if list(kinds.values()) == ["int64"]:
        return  # those hashes are a permutation and cannot be equal
    asked = data.draw(st.lists(st.sampled_from(keys), max_size=5)) if keys else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "key_hashes", lambda columns: np.full(len(columns[0]), 7, np.uint64))
        snapshot = opened(built(kinds, keys, columns))
        missing: tuple[Any, ...] = tuple(12345 if kind == "int64" else "nobody has this" for kind in kinds.values())
        check(snapshot, kinds, [*asked, missing], keys, columns)


@given(st.lists(INT64, unique=True))
def test_integers_never_share_a_hash(values: list[int]) -> None:
    assert len(set(key_hashes([np.array(values, np.int64)]).tolist())) == len(values)


@given(st.lists(st.tuples(INT64, TEXT)))
def test_key_bytes_are_those_of_single_values(keys: list[tuple[int, str]]) -> None:
    columns = {"b": np.array([a for a, _ in keys], np.int64), "a": text_keys([b for _, b in keys])}
    wanted = [
        b"s%b%bi%b" % (len(text.encode()).to_bytes(4, "big"), text.encode(), value.to_bytes(8, "big", signed=True))
        for value, text in keys
    ]
    assert key_bytes(columns).tolist() == wanted


@given(st.lists(st.binary(max_size=4)), st.lists(st.binary(max_size=4)))
def test_texts(left: list[bytes], right: list[bytes]) -> None:
    a, b = Texts.of(left), Texts.of(right)
    assert a.tolist() == left
    assert Texts.concatenate([a, b]).tolist() == left + right
    order = np.arange(len(left))[::-1]
    assert a.take(order).tolist() == left[::-1]
    assert Texts.concatenate([]).tolist() == []
    count = min(len(left), len(right))
    same = a.take(np.arange(count)).equals(b.take(np.arange(count)))
    assert same.tolist() == [x == y for x, y in zip(left, right, strict=False)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_texts_of_strings(values: list[str]) -> None:
    assert text_keys(values).strings() == values


@given(st.sets(CLOSE, min_size=1) | st.sets(INT64, min_size=1), st.lists(INT64 | CLOSE))
def test_integers_are_found_by_table_or_hash(keys: set[int], others: list[int]) -> None:
    column = np.array(sorted(keys, key=str), np.int64)
    index, order = build_index([column])
    close = max(keys) - min(keys) < 4 * len(keys)
    assert isinstance(index, TableIndex if close else HashIndex)
    rows = {key: row for row, key in enumerate(column[order].tolist())}
    asked = [*column.tolist(), *others]
    found = index.find([np.array(asked, np.int64)])
    assert found.tolist() == [rows.get(key, len(keys)) for key in asked]


@pytest.mark.parametrize(("at", "value"), [(0, 0), (1, 0), (2, 0), (3, 2), (4, -1), (4, 9), (5, 1), (6, 2), (None, 2)])
def test_a_table_that_contradicts_its_keys_is_refused(at: int | None, value: int) -> None:
    keys = np.array([12, 10, 14], np.int64)
    table = PlaceTable.of(keys)
    assert table is not None
    places = table.places
    assert places.tolist() == [3, 1, 3, 0, 3, 2, 3]
    PlaceTable.checked(keys, places)
    if at is None:
        places = places[:value]
    else:
        places[at] = value
    with pytest.raises(ValueError, match="a table of places"):
        PlaceTable.checked(keys, places)
    with pytest.raises(ValueError, match="a table of places"):
        PlaceTable.checked(keys[:0], places)


def test_a_key_that_occurs_twice_is_refused() -> None:
    for kinds, key in (({"key0": "int64"}, (5,)), ({"key0": "string", "key1": "int64"}, ("a", 5))):
        with pytest.raises(PublicationError, match="a key occurs twice"):
            built(kinds, [key, key], {})
    with pytest.raises(ValueError, match="twice"):
        build_index([text_keys(["a", "b", "a"])])


def test_the_same_input_gives_the_same_bytes() -> None:
    keys = [(i,) for i in range(100)]
    columns = {"b": [float(i) for i in range(100)], "e": [b"x"] * 100}
    assert built({"key0": "int64"}, keys, columns) == built({"key0": "int64"}, keys, columns)


@given(tables(), st.data())
def test_a_broken_file_is_refused(table: Any, data: st.DataObject) -> None:
    whole = built(*table)
    cut = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(0, len(whole) - 1))
    broken = [whole[:cut], whole + b"\0", whole[:flip] + bytes([whole[flip] ^ 1]) + whole[flip + 1 :]]
    for one in broken:
        with pytest.raises(PublicationCorrupt, match="refused"):
            opened(one)


def test_another_file_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.snapshot"
    with pytest.raises(NotPublished, match="hedgerow publish"):
        open_snapshot(path)
    path.write_bytes(built({"key0": "int64"}, [(1,)], {}))
    assert len(open_snapshot(path, sha256=open_snapshot(path).digest)) == 1
    with pytest.raises(PublicationCorrupt, match="not the one that was published"):
        open_snapshot(path, sha256="0" * 64)


def resealed(whole: bytes, **changes: Any) -> bytes:
    """A file whose header says something else, with a digest that fits: what only checks of the content can find."""
    length = int.from_bytes(whole[8:12], "little")
    start = -(-(16 + length) // 64) * 64
    header = {**json.loads(whole[16 : 16 + length]), **changes}
    text = canonical_bytes(header)
    body = whole[:8] + len(text).to_bytes(4, "little") + bytes(4) + text
    body += bytes(-len(body) % 64) + whole[start:-32]
    return body + hashlib.sha256(body).digest()


def test_a_file_that_lies_about_itself_is_refused() -> None:
    """Nothing is allocated by what a header says: sections are views of the file, and all sizes must agree."""
    keys = [("a", 1), ("b", 2), ("ü", 3)]
    whole = built({"key0": "string", "key1": "int64"}, keys, {"b": [1.0, 2.0, None], "e": [b"x", b"yy", None]})
    length = int.from_bytes(whole[8:12], "little")
    header = json.loads(whole[16 : 16 + length])
    assert resealed(whole) == whole
    sections = header["sections"]
    lies: list[dict[str, Any]] = [
        {"rows": 1 << 50},
        {"rows": 2},
        {"rows": -1},
        {"rows": True},
        {"bytes": 1 << 62},
        {"bytes": -64},
        {"keys": []},
        {"keys": [["key0", "float64"]]},
        {"keys": [*header["keys"], ["key2", "int64"]]},
        {"fields": [["b", "float64"], ["e", "string"], ["z", "string"]]},
        {"fields": [["b", "float64"], ["e", "string"], ["v", "float32", 60_000]]},
        {"fields": [["b", "no kind"]]},
        {"releases": [1]},
        {"view": None},
        {"sections": []},
        {"sections": [[name, start + 64, size] for name, start, size in sections]},
        {"sections": [[name, -64, size] for name, start, size in sections]},
        {"sections": [[name, start, 1 << 60] for name, start, size in sections]},
        {"sections": [["starts" if name == "hashes" else name, *rest] for name, *rest in sections]},
    ]
    for lie in lies:
        with pytest.raises(PublicationCorrupt, match="refused"):
            opened(resealed(whole, **lie))
    places = {name: (start, size) for name, start, size in sections}
    base = -(-(16 + length) // 64) * 64
    for name, at in (("starts", 4), ("tail.starts", 8), ("key.0.offsets", 8)):
        data = bytearray(whole[:-32])
        data[base + places[name][0] + at : base + places[name][0] + at + 4] = b"\xff" * 4
        with pytest.raises(PublicationCorrupt, match="refused"):
            opened(bytes(data) + hashlib.sha256(data).digest())


def test_processes_share_the_pages_of_a_snapshot(tmp_path: Path) -> None:
    """A mapping is of the file: none of its pages becomes this process's own, however much is read."""
    count = 20_000
    whole = built({"key0": "int64"}, [(i,) for i in range(count)], {"b": [float(i) for i in range(count)]})
    path = tmp_path / "v.snapshot"
    path.write_bytes(whole)
    snapshot = open_snapshot(path)
    assert snapshot.get({"key0": np.arange(count)}, ["b"]).found.all()
    mapped = Path("/proc/self/smaps").read_text().split(str(path))[1].split("VmFlags")[0]
    sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", mapped, re.MULTILINE))
    assert int(sizes["Rss"]) * 1024 >= len(whole) // 2
    assert int(sizes["Anonymous"]) == 0
