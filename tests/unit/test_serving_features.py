"""GetFeatures as a function: selection, key columns, masks, event times and releases, without a socket or a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from featurestore.online import OnlineColumns
from featurestore.online.reader import online_columns
from featurestore.publication import FeatureField, KeyField, PublishedRelease, PublishedService, PublishedView
from featurestore.rows import FeatureColumns, Texts
from governance.errors import AccessDenied, NotServed, RequestInvalid
from serving.columns import get_column, set_column, text_array, unbitmap
from serving.features import get_features as get_features_bytes
from serving.features import stream_features
from serving.limits import MAX_FEATURES, MAX_ROWS
from serving.problems import FieldProblem, TooLarge, UnknownName
from serving.state import Published
from serving.v1 import features_pb2
from serving.wire import delimited, first_field, packed, uint

OLD, NEW = datetime(2025, 11, 3, tzinfo=UTC), datetime(2025, 11, 10, tzinfo=UTC)
Rows = Mapping[tuple[Any, ...], tuple[datetime, Mapping[str, Any]]]


class TableReader:
    """An online reader over a dict: (view, key) → event time and values."""

    def __init__(self, tables: Mapping[str, Rows]) -> None:
        self.tables = tables

    def get(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Any]) -> FeatureColumns:
        assert list(keys) == [key.name for key in view.keys]
        wanted = list(zip(*(np.asarray(keys[key.name]).tolist() for key in view.keys), strict=True))
        rows = [self.tables[view.name].get(key) for key in wanted]
        ends = [datetime.fromisoformat(release.event_time) for release in view.releases]
        values: dict[str, Any] = {}
        nulls = np.ones((len(features), len(rows)), bool)
        for at, name in enumerate(features):
            field = view.feature(name)
            assert field is not None
            cells = [row[1][name] if row else None for row in rows]
            nulls[at] = [cell is None for cell in cells]
            values[name] = column(field.type, cells)
        return FeatureColumns(
            names=tuple(features),
            values=values,
            nulls=nulls,
            found=np.array([row is not None for row in rows], bool),
            event_times=np.array([micros(row[0]) if row else 0 for row in rows], np.int64),
            releases=tuple(release.release_id for release in view.releases),
            release_indexes=np.array([ends.index(row[0]) if row and row[0] in ends else -1 for row in rows], np.int32),
        )

    look_up = get

    def read(self, view: PublishedView, features: Sequence[str], keys: Mapping[str, Any]) -> OnlineColumns:
        return online_columns(view, self.get(view, features, keys))

    def close(self) -> None:
        """Nothing to give back."""


def micros(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def column(kind: str, cells: Sequence[Any]) -> Any:
    """Cells as `FeatureColumns.values` holds them; None is the empty value."""
    if kind in ("string", "bytes"):
        return Texts.of([b"" if c is None else c.encode() if isinstance(c, str) else c for c in cells])
    if kind.startswith("vector"):
        return np.array([[np.nan] * 3 if c is None else c for c in cells], "<f4").reshape(-1, 3)
    dtype = {"int64": "<i8", "float64": "<f8", "float32": "<f4", "bool": "?", "date": "<i4", "timestamp": "<i8"}[kind]
    empty = np.nan if "f" in dtype else 0
    return np.array([empty if c is None else c for c in cells], dtype)


def view(name: str, keys: dict[str, str], features: dict[str, str]) -> PublishedView:
    return PublishedView(
        name=name,
        signal=name.removesuffix("_v1"),
        version=1,
        entity="_".join(keys),
        keys=tuple(KeyField(name=key, type=kind) for key, kind in keys.items()),
        features=tuple(
            FeatureField(name=f, type=kind, description=f, noise_stddev=2.5 if kind == "int64" else None)
            for f, kind in features.items()
        ),
        ttl_seconds=0,
        purpose="ranking",
        releases=tuple(
            PublishedRelease(release_id=f"{name}/{end:%Y-%m-%d}", event_time=end.isoformat(), sha256="0" * 64)
            for end in (OLD, NEW)
        ),
    )


@pytest.fixture
def published() -> Published:
    items = view("item_v1", {"item_id": "int64"}, {"users": "int64", "mean": "float64", "day": "date", "top": "string"})
    genres = view("genre_v1", {"genre": "string", "item_id": "int64"}, {"hot": "bool"})
    day = 20_397  # 2025-11-05
    reader = TableReader(
        {
            "item_v1": {
                (1,): (NEW, {"users": 10, "mean": 0.5, "day": day, "top": "żółw"}),
                (2,): (OLD, {"users": 20, "mean": None, "day": None, "top": None}),
                (9,): (datetime(2025, 11, 11, tzinfo=UTC), {"users": 90, "mean": 9.0, "day": day, "top": ""}),
            },
            "genre_v1": {("jazz", 1): (NEW, {"hot": True}), ("rock", 3): (NEW, {"hot": False})},
        }
    )
    service = PublishedService(name="ranking_item", features=("item_v1:mean", "item_v1:users"))
    return Published(
        sequence=5,
        views={"item_v1": items, "genre_v1": genres},
        services={"ranking_item": service},
        spaces={},
        catalogue=None,
        reader=reader,
    )


def get_features(published: Published, message: features_pb2.GetFeaturesRequest) -> features_pb2.GetFeaturesResponse:
    """The answer as a message, and a check that it is written as protobuf itself would write it."""
    asked: list[tuple[tuple[str, ...], int]] = []
    raw = get_features_bytes(published, message, lambda resources, rows: asked.append((resources, rows)))
    answer = features_pb2.GetFeaturesResponse.FromString(raw)
    assert answer.SerializeToString() == raw
    assert asked == [(tuple(view.view for view in answer.views), answer.rows)]
    for _ in range(2):
        assert raw == get_features_bytes(
            published, message.SerializeToString(), lambda resources, rows: asked.append((resources, rows))
        )
    assert asked == asked[:1] * 3
    return answer


def request(
    references: Sequence[str] | None = None, service: str | None = None, **keys: tuple[str, Sequence[Any]]
) -> features_pb2.GetFeaturesRequest:
    message = features_pb2.GetFeaturesRequest()
    if service is not None:
        message.feature_service = service
    if references is not None:
        message.features.SetInParent()
        message.features.references.extend(references)
    for name, (kind, values) in keys.items():
        array = text_array(values) if kind == "string" else np.asarray(values)
        set_column(message.keys.add(name=name), kind, array)
    return message


def test_values_masks_times_and_releases_in_the_order_asked(published: Published) -> None:
    references = ["item_v1:top", "item_v1:users", "genre_v1:hot", "item_v1:mean", "item_v1:day"]
    answer = get_features(
        published,
        request(references, item_id=("int64", [2, 1, 3, 1]), genre=("string", ["rock", "jazz", "rock", "rock"])),
    )
    assert answer.rows == 4
    assert answer.publication == 5
    assert [column.reference for column in answer.columns] == references
    columns = {column.reference: get_column(column)[1].tolist() for column in answer.columns}
    valid = {column.reference: unbitmap(column.validity, 4).tolist() for column in answer.columns}
    assert columns["item_v1:users"] == [20, 10, 0, 10]
    assert valid["item_v1:users"] == [True, True, False, True]
    assert valid["item_v1:mean"] == valid["item_v1:day"] == [False, True, False, True]
    assert columns["item_v1:top"] == ["", "żółw", "", "żółw"]
    assert columns["genre_v1:hot"] == [False, True, False, False]
    assert valid["genre_v1:hot"] == [False, True, True, False]
    assert answer.columns[1].noise_stddev == 2.5
    assert not answer.columns[0].HasField("noise_stddev")

    item, genre = answer.views
    assert (item.view, genre.view) == ("item_v1", "genre_v1")
    assert unbitmap(item.found, 4).tolist() == [True, True, False, True]
    names = [answer.releases[i] if i >= 0 else None for i in item.release_indexes]
    assert names == ["item_v1/2025-11-03", "item_v1/2025-11-10", None, "item_v1/2025-11-10"]
    assert list(item.event_times) == [OLD.timestamp() * 1e6, NEW.timestamp() * 1e6, 0, NEW.timestamp() * 1e6]
    assert [answer.releases[i] if i >= 0 else None for i in genre.release_indexes] == [
        None,
        "genre_v1/2025-11-10",
        "genre_v1/2025-11-10",
        None,
    ]


def test_a_service_is_its_features_in_order(published: Published) -> None:
    answer = get_features(published, request(service="ranking_item", item_id=("int64", [1])))
    assert [column.reference for column in answer.columns] == ["item_v1:mean", "item_v1:users"]


def test_no_rows_is_an_empty_answer(published: Published) -> None:
    answer = get_features(published, request(["item_v1:users"], item_id=("int64", np.empty(0, np.int64))))
    assert answer.rows == 0
    assert get_column(answer.columns[0])[1].shape == (0,)


def test_a_row_of_no_known_release_is_served_unnamed(published: Published) -> None:
    answer = get_features(published, request(["item_v1:users"], item_id=("int64", [9, 1])))
    assert list(answer.views[0].release_indexes) == [-1, 0]
    assert list(answer.releases) == ["item_v1/2025-11-10"]


ONE = ("int64", [1])
TEXT = ("string", ["a"])


@pytest.mark.parametrize(
    ("message", "field", "text"),
    [
        (request(item_id=ONE), "selection", "found none"),
        (request([], item_id=ONE), "features.references", "no feature"),
        (request(["item_v1:users"] * 2, item_id=ONE), "features.references", "named twice"),
        (request(["users"], item_id=ONE), "features.references", "'view:feature'"),
        (request(["item_v1:users"]), "keys", "missing: item_id"),
        (request(["genre_v1:hot"], item_id=ONE), "keys", "missing: genre; these features need: genre (string), item"),
        (request(["item_v1:users"], item=ONE), "keys[0].name", "found a key 'item'; these features need: item_id"),
        (request(["item_v1:users"], item_id=ONE, genre=("string", ["x"])), "keys[1].name", "'genre'"),
        (request(["item_v1:users"], item_id=("string", ["secret-id"])), "keys[0].values", "found string"),
        (request(["item_v1:users"], item_id=("float64", [1.0])), "keys[0].values", "allowed: int64"),
        (
            request(["genre_v1:hot"], genre=("string", ["a", "b"]), item_id=ONE),
            "keys",
            "unequal length: genre has 2, item_id has 1",
        ),
    ],
)
def test_bad_requests_name_the_field(published: Published, message: Any, field: str, text: str) -> None:
    with pytest.raises(FieldProblem) as caught:
        get_features(published, message)
    assert caught.value.field == field
    assert text in str(caught.value)
    assert "secret-id" not in str(caught.value)
    assert not isinstance(caught.value, TooLarge)


def test_a_doubled_or_empty_key_column_is_refused(published: Published) -> None:
    message = request(["item_v1:users"], item_id=ONE)
    message.keys.add(name="item_id").int64s.values.append(1)
    with pytest.raises(RequestInvalid, match="given twice"):
        get_features(published, message)
    message = request(["item_v1:users"])
    message.keys.add(name="item_id")
    with pytest.raises(RequestInvalid, match="found no values, allowed: int64"):
        get_features(published, message)


def test_too_many_rows_and_features_are_refused(published: Published) -> None:
    many = np.zeros(MAX_ROWS + 1, np.int64)
    with pytest.raises(TooLarge, match="found 10,001 entities, allowed 10,000"):
        get_features(published, request(["item_v1:users"], item_id=("int64", many)))
    with pytest.raises(TooLarge, match="features"):
        get_features(published, request([f"item_v1:f{i}" for i in range(MAX_FEATURES + 1)], item_id=ONE))


LISTED, NAMED = "features.references", "feature_service"


@pytest.mark.parametrize(
    ("message", "field", "text"),
    [
        (request(["items_v1:users"], item_id=ONE), LISTED, "no view 'items_v1'; published: genre_v1, item_v1"),
        (
            request(["item_v1:likes"], item_id=ONE),
            LISTED,
            "view item_v1 has no feature 'likes'; it has: day, mean, top, users",
        ),
        (request(service="ads_item", item_id=ONE), NAMED, "no feature service 'ads_item'; published: ranking_item"),
        (request(service="bob@example.org", item_id=ONE), NAMED, "no feature service of that name; published: ranking"),
    ],
)
def test_unknown_names_are_not_served(published: Published, message: Any, field: str, text: str) -> None:
    with pytest.raises(UnknownName) as caught:
        get_features(published, message)
    assert caught.value.field == field
    told = caught.value.told(lambda _: True)
    assert told.startswith(text)
    assert "bob" not in told
    assert str(caught.value) in text, "without permission no other name is told"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (request(["items_v1:users"], item_id=ONE), "no view 'items_v1'; published: genre_v1"),
        (request(service="ads_item", item_id=ONE), "published: none that this caller may read"),
    ],
)
def test_of_other_names_a_caller_is_told_what_it_may_read(published: Published, message: Any, text: str) -> None:
    with pytest.raises(UnknownName) as caught:
        get_features(published, message)
    told = caught.value.told(lambda resources: resources == ("genre_v1",))
    assert text in told
    assert "item_v1," not in told


def test_of_many_names_only_the_first_are_told() -> None:
    names = {f"view_{i:03}": (f"view_{i:03}",) for i in range(500)}
    told = UnknownName("space", "no view 'x'", names).told(lambda _: True)
    assert told.endswith("view_018, view_019, ...")
    assert len(told) < 1_000
    odd = UnknownName("space", "no view 'x'", names).told(lambda what: int(what[0][-3:]) % 2 == 1)
    assert odd.startswith("no view 'x'; published: view_001, view_003")


def test_nothing_of_a_view_is_told_before_it_is_permitted(published: Published) -> None:
    """What is wrong with the keys names the keys and their types."""

    def never(_resources: tuple[str, ...], _rows: int) -> None:
        raise AccessDenied("no")

    for bad in (
        request(["item_v1:users"], item=ONE),
        request(["item_v1:users"]),
        request(["item_v1:users"], item_id=TEXT),
    ):
        with pytest.raises(AccessDenied):
            get_features_bytes(published, bad, never)
        stream = features_pb2.StreamFeaturesRequest(request=bad)
        with pytest.raises(AccessDenied):
            next(stream_features(published, stream, never))


def test_as_many_rows_are_noted_as_were_asked_for(published: Published) -> None:
    noted: list[int] = []
    for kind, values in (("int64", [1] * 3), ("string", ["a"] * 4), ("float64", [0.5] * 5), ("date", [1] * 6)):
        with suppress(RequestInvalid):
            get_features_bytes(
                published, request(["item_v1:users"], item_id=(kind, values)), lambda _, rows: noted.append(rows)
            )
    assert noted == [3, 4, 5, 6]


TYPES = {
    "int64": [1, -2],
    "float64": [0.5, -1e300],
    "float32": [0.25, 7.0],
    "bool": [True, False],
    "date": [20_000, -1],
    "timestamp": [1_700_000_000_000_001, -5],
    "string": ["żółw", "x" * 200],
    "bytes": [b"\xff\x00", b""],
    "vector<float32>[3]": [[1.0, 2.0, 3.0], [-1.0, 0.0, 0.5]],
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows", [[1, 2], [2, 1, 2] * 100, [1, 3, 2], [3]])
def test_every_type_is_written_as_protobuf_writes_it(kind: str, rows: list[int]) -> None:
    own = view("t_v1", {"id": "int64"}, {"value": kind, "other": "float64"})
    cells = TYPES[kind]
    table = {(i + 1,): (NEW, {"value": cells[i], "other": float(i)}) for i in range(2)}
    state = Published(
        sequence=1, views={"t_v1": own}, services={}, spaces={}, catalogue=None, reader=TableReader({"t_v1": table})
    )
    for _ in range(3):  # the first answer teaches the constant bytes of the others
        answer = get_features(state, request(["t_v1:value", "t_v1:other"], id=("int64", rows)))
        found = get_column(answer.columns[0])[1]
        valid = unbitmap(answer.columns[0].validity, len(rows)).tolist()
        assert valid == [row != 3 for row in rows]
        wanted = column(kind, [None if row == 3 else cells[row - 1] for row in rows])
        if isinstance(wanted, Texts):
            assert found.tolist() == (wanted.strings() if kind == "string" else wanted.tolist())
        else:
            assert np.array_equal(found.astype(wanted.dtype), wanted, equal_nan=wanted.dtype.kind == "f")


def test_bytes_that_are_written_in_another_way_are_parsed(published: Published) -> None:
    """What is not as usual is found out, whatever was planned before: fields moved, split, unknown, doubled or cut."""
    usual = request(["item_v1:users"], item_id=("int64", [1, 2, 9]))
    wanted = get_features(published, usual)
    raw = usual.SerializeToString()
    end = first_field(raw)
    selection, keys = raw[:end], raw[end:]
    name = delimited(1, b"item_id")
    halves = packed(1, np.array([1], "<i8")), packed(1, np.array([2, 9], "<i8"))
    single = b"".join(b"\x09" + value.to_bytes(8, "little") for value in (1, 2, 9))
    unusual = (
        keys + selection,
        raw + uint(99, 7),
        selection + delimited(99, b"x") + keys,
        selection + delimited(3, name + delimited(2, halves[0] + halves[1])),
        selection + delimited(3, name + delimited(2, halves[0]) + delimited(2, halves[1])),
        selection + delimited(3, delimited(2, halves[0] + halves[1]) + name),
        selection + delimited(3, name + delimited(2, single)),
        delimited(1, b"no such service") + raw,
        raw[:1] + bytes((raw[1] | 0x80, 0)) + raw[2:],
    )
    for one in unusual:
        answer = get_features_bytes(published, one, lambda *_: None)
        assert answer == wanted.SerializeToString()
    for cut in range(len(raw)):
        with pytest.raises((RequestInvalid, NotServed)):
            get_features_bytes(published, raw[:cut], lambda *_: None)
    for at in range(len(raw)):  # one bit of another value is another question, never another answer
        for bit in range(8):
            changed = raw[:at] + bytes((raw[at] ^ 1 << bit,)) + raw[at + 1 :]
            assert outcome(published, changed) == outcome(published, changed, parsed=True)


def outcome(published: Published, data: bytes, *, parsed: bool = False) -> bytes | str:
    """The answer to a request, or what is wrong with it."""
    try:
        asked = features_pb2.GetFeaturesRequest.FromString(data) if parsed else data
        return get_features_bytes(published, asked, lambda *_: None)
    except DecodeError:
        return "no message"
    except FieldProblem as error:
        return "no message" if error.field == "request" else str(error)
    except NotServed as error:
        return str(error)


def test_no_more_rows_pass_as_bytes(published: Published) -> None:
    for rows in (MAX_ROWS, MAX_ROWS + 1, MAX_ROWS):
        raw = request(["item_v1:users"], item_id=("int64", np.ones(rows, np.int64))).SerializeToString()
        if rows > MAX_ROWS:
            with pytest.raises(TooLarge, match="found 10,001 entities, allowed 10,000"):
                get_features_bytes(published, raw, lambda *_: None)
        else:
            answer = features_pb2.GetFeaturesResponse.FromString(get_features_bytes(published, raw, lambda *_: None))
            assert answer.rows == rows


def test_cached_bytes_never_hide_a_gap_or_another_release(published: Published) -> None:
    """Answers of as many rows, one after another: whole, with a null, not found, of another release."""
    for ids in ([1, 1], [1, 1], [1, 2], [1, 1], [1, 3], [2, 2], [9, 9], [1, 1]):
        answer = get_features(published, request(["item_v1:users", "item_v1:mean"], item_id=("int64", ids)))
        users = get_column(answer.columns[0])[1].tolist()
        assert users == [{1: 10, 2: 20, 3: 0, 9: 90}[i] for i in ids]
        assert unbitmap(answer.columns[1].validity, 2).tolist() == [i in (1, 9) for i in ids]
        names = [answer.releases[i] if i >= 0 else None for i in answer.views[0].release_indexes]
        assert names == [{1: "item_v1/2025-11-10", 2: "item_v1/2025-11-03"}.get(i) for i in ids]
