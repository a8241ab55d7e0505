"""What is published is read back: one conformance suite, run on every online store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pytest

from featurestore.column_types import row_field
from featurestore.freshness import microseconds
from featurestore.online import OnlineReader, open_reader
from featurestore.online.database import PackedDatabase
from featurestore.online.reader import online_columns
from featurestore.online.redis_client import RedisAddress
from featurestore.online.redis_rows import PackedRedis
from featurestore.publication import Publication, PublishedView
from featurestore.publish import publish_views
from featurestore.reading import PublishedReader, open_published_reader
from featurestore.released import view_schema
from featurestore.rows import Column, FeatureColumns, Runs, Texts, key_bytes, pack
from featurestore.snapshots.published import remove_unused_snapshots
from governance.errors import (
    ConfigError,
    NotPublished,
    PublicationCorrupt,
    ReleaseCorrupt,
    RequestInvalid,
    StoreUnreachable,
)
from governance.ledger import Ledger
from governance.settings import OnlineStoreType, Settings
from tests.support import releases
from tests.support.redis import held_port, redis_server
from tests.support.releases import make_project, make_release

FIRST, SECOND = datetime(2025, 11, 3, tzinfo=UTC), datetime(2025, 11, 10, tzinfo=UTC)
WEEK = timedelta(days=7)
NOW = SECOND + WEEK + timedelta(hours=1)


@pytest.fixture(scope="module")
def redis_address() -> Iterator[str]:
    with redis_server() as address:
        yield address


def redis_project(root: Path, address: str) -> Settings:
    options = f'\n[online_store]\ntype = "redis"\nconnection_string = "{address}"\n'
    return make_project(root, name=f"shop_{uuid4().hex[:8]}", extra=options)


def publish(settings: Settings, *, now: datetime = NOW) -> dict[str, PublishedView]:
    with Ledger(settings.ledger_path) as ledger:
        views, _ = publish_views(settings, ledger, lambda _: None, clock=lambda: now)
    return {view.name: view for view in views}


def release(settings: Settings, signal: str, keys: dict[str, str], **columns: Any) -> None:
    """A release of `signal` whose features are the columns that are not keys: (type, values) each."""
    start = columns.pop("start", SECOND)
    ttl = columns.pop("ttl", timedelta(days=28))
    with Ledger(settings.ledger_path) as ledger:
        make_release(
            settings,
            ledger,
            signal=signal,
            keys=keys,
            features={name: kind for name, (kind, _) in columns.items() if name not in keys},
            rows={name: values for name, (_, values) in columns.items()},
            window_start=start,
            window_length=WEEK,
            ttl=ttl,
            rho="0.001",
        )


def check_look_up(view: PublishedView, answer: FeatureColumns, found: Runs | FeatureColumns) -> None:
    """`look_up` gives what `get` does, and as runs where all is of one release and no text."""
    types = {field.name: field.type for field in view.features}
    fields = [row_field(name, types[name]) for name in answer.names]
    fixed = all(field.kind.dtype is not None for field in fields)
    own = set(answer.release_indexes[answer.found].tolist())
    if not fixed or len(own) > 1 or -1 in own or not len(answer):
        assert not isinstance(found, Runs)
    if isinstance(found, Runs):
        assert (found.gaps is None) == (bool(answer.found.all()) and not answer.nulls.any())
    again = found.as_columns(fields) if isinstance(found, Runs) else found
    assert again.names == answer.names
    for name, column in again.values.items():
        wanted = answer.values[name]
        if isinstance(column, Texts):
            assert isinstance(wanted, Texts)
            assert column.tolist() == wanted.tolist()
        else:
            assert not isinstance(wanted, Texts)
            assert column.dtype == wanted.dtype
            np.testing.assert_array_equal(column, wanted)
    np.testing.assert_array_equal(again.nulls, answer.nulls)
    np.testing.assert_array_equal(again.found, answer.found)
    np.testing.assert_array_equal(again.event_times, answer.event_times)
    ids = [[one.releases[i] if i >= 0 else None for i in one.release_indexes.tolist()] for one in (answer, again)]
    assert ids[0] == ids[1]


class ReaderConformance:
    """Everything that answers does so alike. Subclasses give a `settings` fixture."""

    @staticmethod
    def open(settings: Settings, view: PublishedView) -> OnlineReader:  # noqa: ARG004
        return open_reader(settings, clock=lambda: NOW)

    @pytest.fixture
    def reader(self, settings: Settings) -> Iterator[OnlineReader]:
        """Opens at first use, because there is nothing to open before something is published."""
        opened: list[OnlineReader] = []
        opener = self.open

        class Late:
            def _opened(self, view: PublishedView) -> OnlineReader:
                if not opened:
                    opened.append(opener(settings, view))
                return opened[0]

            def get(self, view: PublishedView, features: Sequence[str], keys: Any) -> Any:
                answer = self._opened(view).get(view, features, keys)
                check_look_up(view, answer, self.look_up(view, tuple(features), keys))
                return answer

            def look_up(self, view: PublishedView, features: tuple[str, ...], keys: Any) -> Any:
                return self._opened(view).look_up(view, features, keys)

            def read(self, view: PublishedView, features: Sequence[str], keys: Any) -> Any:
                self.get(view, features, keys)
                return self._opened(view).read(view, features, keys)

            def close(self) -> None:
                for reader in opened:
                    reader.close()

        late = Late()
        yield late
        late.close()

    def test_every_type_with_nulls_and_missing_rows(self, settings: Settings, reader: OnlineReader) -> None:
        release(
            settings,
            "mixed",
            {"item_id": "int64"},
            item_id=("int64", [1, -2, 1 << 62]),
            count=("int64", [1 << 60, None, -5]),
            mean=("float64", [None, 0.1, float("inf")]),
            label=("string", ["ä", None, ""]),
            day=("date", [date(2025, 1, 2), None, date(1969, 12, 31)]),
        )
        view = publish(settings)["mixed_v1"]

        answer = reader.read(view, ["mean", "count", "label", "day"], {"item_id": [1 << 62, 7, 1, -2, 1]})

        assert answer.found.tolist() == [True, False, True, True, True]
        event_time = np.datetime64("2025-11-17", "us")
        assert answer.event_times.dtype == np.dtype("M8[us]")
        assert answer.event_times[answer.found].tolist() == [event_time.item()] * 4
        assert np.isnat(answer.event_times[1])
        assert view.release_at(answer.event_times[0].item()) == "mixed/v1/2025-11-10"
        assert answer.values["count"].dtype == np.int64
        assert answer.values["count"].tolist() == [-5, 0, 1 << 60, 0, 1 << 60]
        assert answer.nulls["count"].tolist() == [False, True, False, True, False]
        assert answer.values["mean"].dtype == np.float64
        np.testing.assert_array_equal(answer.values["mean"], [np.inf, np.nan, np.nan, 0.1, np.nan])
        assert answer.nulls["mean"].tolist() == [False, True, True, False, True]
        assert answer.values["label"].tolist() == ["", "", "ä", "", "ä"]
        assert answer.nulls["label"].tolist() == [False, True, False, True, False]
        assert answer.values["day"].dtype == np.dtype("M8[D]")
        assert answer.values["day"][[0, 2]].tolist() == [date(1969, 12, 31), date(2025, 1, 2)]
        assert answer.nulls["day"].tolist() == [False, True, False, True, False]
        assert np.isnat(answer.values["day"][[1, 3]]).all()

    def test_keys_and_features_that_feast_has_no_type_for(
        self, settings: Settings, reader: OnlineReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(releases._ARROW, "bool", pa.bool_())
        release(
            settings,
            "bands",
            {"price": "float64", "sale": "bool"},
            price=("float64", [0.1, 0.1, -0.0]),
            sale=("bool", [True, False, True]),
            popular=("bool", [True, None, False]),
        )
        view = publish(settings)["bands_v1"]
        keys = {"price": [0.1, 0.1, 0.0, 0.2], "sale": np.array([True, False, True, True])}
        answer = reader.read(view, ["popular"], keys)
        assert answer.found.tolist() == [True, True, True, False]
        assert answer.values["popular"].dtype == np.bool_
        assert answer.values["popular"].tolist() == [True, False, False, False]
        assert answer.nulls["popular"].tolist() == [False, True, False, True]

    def test_types_beyond_those_that_releases_have_today(
        self, settings: Settings, reader: OnlineReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        instants = [datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), None, datetime(2025, 1, 2, tzinfo=UTC)]
        more = {"float32": pa.float32(), "timestamp": pa.timestamp("us", "UTC"), "bytes": pa.binary()}
        for name, kind in {**more, "vector<float32>[2]": pa.list_(pa.float32(), 2)}.items():
            monkeypatch.setitem(releases._ARROW, name, kind)
        release(
            settings,
            "more",
            {"item_id": "int64"},
            item_id=("int64", [1, 2, 3]),
            narrow=("float32", [0.5, None, float("-inf")]),
            instant=("timestamp", instants),
            raw=("bytes", [b"\x00\xff", None, b""]),
            place=("vector<float32>[2]", [[1.0, 2.0], None, [-0.5, 0.25]]),
        )
        view = publish(settings)["more_v1"]
        answer = reader.get(view, ["place", "raw", "narrow", "instant"], {"item_id": np.array([3, 9, 2, 1])})
        assert answer.names == ("place", "raw", "narrow", "instant")
        assert answer.found.tolist() == [True, False, True, True]
        assert answer.nulls.tolist() == [[False, True, True, False]] * 4
        nan = float("nan")
        assert answer.values["place"].dtype == np.dtype("<f4")
        np.testing.assert_array_equal(answer.values["place"], [[-0.5, 0.25], [nan, nan], [nan, nan], [1, 2]])
        assert answer.values["raw"].tolist() == [b"", b"", b"", b"\x00\xff"]
        assert answer.values["narrow"].dtype == np.dtype("<f4")
        np.testing.assert_array_equal(answer.values["narrow"], [-np.inf, nan, nan, 0.5])
        assert answer.values["instant"].tolist() == [1_735_776_000_000_000, 0, 0, -1]
        assert answer.releases == ("more/v1/2025-11-10",)
        assert answer.release_indexes.tolist() == [0, -1, 0, 0]

    def test_a_release_with_a_null_key_is_refused(self, settings: Settings) -> None:
        release(settings, "pop", {"item": "string"}, item=("string", ["a", None]), users=("int64", [1, 2]))
        with pytest.raises(ReleaseCorrupt, match="key 'item' has nulls"):
            publish(settings)

    def test_several_keys_of_several_types(self, settings: Settings, reader: OnlineReader) -> None:
        release(
            settings,
            "affinity",
            {"user_id": "int64", "genre": "string", "day": "date"},
            user_id=("int64", [1, 1, 2]),
            genre=("string", ["rock", "jazz", "rock"]),
            day=("date", [date(2025, 11, 3), date(2025, 11, 4), date(2025, 11, 3)]),
            score=("float64", [0.1, 0.2, 0.3]),
        )
        view = publish(settings)["affinity_v1"]
        answer = reader.read(
            view,
            ["score"],
            {
                "day": np.array(["2025-11-03", "2025-11-04", "2025-11-03", "2025-11-03"], "M8[D]"),
                "genre": np.array(["rock", "jazz", "rock", "jazz"]),
                "user_id": np.array([2, 1, 1, 1]),
            },
        )
        assert answer.found.tolist() == [True, True, True, False]
        assert answer.values["score"][:3].tolist() == [0.3, 0.2, 0.1]

    def test_the_newest_release_alone_answers(self, settings: Settings, reader: OnlineReader) -> None:
        keys = {"item": "string"}
        release(settings, "pop", keys, start=FIRST, item=("string", ["a", "b"]), users=("int64", [1, 2]))
        publish(settings)
        release(settings, "pop", keys, start=SECOND, item=("string", ["b", "c"]), users=("int64", [20, 30]))
        view = publish(settings)["pop_v1"]
        answer = reader.get(view, ["users"], {"item": ["a", "b", "c"]})
        assert answer.values["users"].tolist() == [0, 20, 30]
        assert answer.found.tolist() == [False, True, True]
        assert [answer.releases[i] for i in answer.release_indexes.tolist() if i >= 0] == ["pop/v1/2025-11-10"] * 2
        assert answer.release_indexes[0] == -1

    def test_where_pushes_are_taken_older_rows_stay(self, settings: Settings, reader: OnlineReader) -> None:
        taking = replace(settings, online_store=replace(settings.online_store, pushed=("pop",)))
        keys = {"item": "string"}
        release(taking, "pop", keys, start=FIRST, item=("string", ["a", "b"]), users=("int64", [1, 2]))
        publish(taking)
        release(taking, "pop", keys, start=SECOND, item=("string", ["b", "c"]), users=("int64", [20, 30]))
        view = publish(taking)["pop_v1"]
        assert view.takes_pushes
        answer = reader.get(view, ["users"], {"item": ["a", "b", "c"]})
        assert answer.values["users"].tolist() == [1, 20, 30]
        releases = [answer.releases[i] for i in answer.release_indexes.tolist()]
        assert releases == ["pop/v1/2025-11-03", "pop/v1/2025-11-10", "pop/v1/2025-11-10"]

    def test_only_the_newest_release_is_materialised(self, settings: Settings, reader: OnlineReader) -> None:
        keys = {"item": "string"}
        release(settings, "pop", keys, start=FIRST, item=("string", ["a"]), users=("int64", [1]))
        release(settings, "pop", keys, start=SECOND, item=("string", ["b"]), users=("int64", [20]))
        view = publish(settings)["pop_v1"]
        assert len(view.releases) == 2
        assert reader.read(view, ["users"], {"item": ["a", "b"]}).found.tolist() == [False, True]

    def test_rows_older_than_the_ttl_are_not_found(self, settings: Settings, reader: OnlineReader) -> None:
        keys, week = {"item": "string"}, WEEK
        release(settings, "pop", keys, start=FIRST, ttl=week, item=("string", ["a", "b"]), users=("int64", [1, 2]))
        release(settings, "still", keys, start=FIRST, ttl=timedelta(0), item=("string", ["a"]), users=("int64", [4]))
        publish(settings, now=FIRST + WEEK)
        release(settings, "pop", keys, start=SECOND, ttl=week, item=("string", ["b"]), users=("int64", [20]))
        views = publish(settings)
        answer = reader.read(views["pop_v1"], ["users"], {"item": ["a", "b"]})
        assert answer.found.tolist() == [False, True]
        assert answer.nulls["users"].tolist() == [True, False]
        assert answer.values["users"].tolist() == [0, 20]
        assert np.isnat(answer.event_times[0])
        assert reader.read(views["still_v1"], ["users"], {"item": ["a"]}).values["users"].tolist() == [4]

    def test_the_ttl_counts_at_the_time_of_reading(self, settings: Settings) -> None:
        release(settings, "pop", {"item": "string"}, ttl=WEEK, item=("string", ["a"]), users=("int64", [1]))
        view = publish(settings)["pop_v1"]
        moments = [SECOND + 2 * WEEK, SECOND + 2 * WEEK + timedelta(microseconds=1)]
        reader = open_reader(settings, clock=lambda: moments[0])
        assert reader.read(view, ["users"], {"item": ["a"]}).found.all()
        moments.pop(0)
        assert not reader.read(view, ["users"], {"item": ["a"]}).found.any()
        reader.close()

    def test_a_release_without_rows(self, settings: Settings, reader: OnlineReader) -> None:
        release(settings, "rare", {"item": "string"}, item=("string", []), users=("int64", []))
        view = publish(settings)["rare_v1"]
        answer = reader.read(view, ["users"], {"item": ["a", "b"]})
        assert not answer.found.any()
        assert answer.nulls["users"].all()

    def test_no_keys_and_no_features(self, settings: Settings, reader: OnlineReader) -> None:
        release(settings, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [1]))
        view = publish(settings)["pop_v1"]
        assert len(reader.read(view, ["users"], {"item": []}).found) == 0
        assert reader.read(view, ["users"], {"item": np.array([], "U1")}).values["users"].dtype == np.int64
        answer = reader.read(view, [], {"item": ["b", "a"]})
        assert answer.values == {}
        assert answer.found.tolist() == [False, True]

    def test_a_second_version_is_another_view(self, settings: Settings, reader: OnlineReader) -> None:
        with Ledger(settings.ledger_path) as ledger:
            for version in (1, 2):
                make_release(
                    settings,
                    ledger,
                    signal="pop",
                    version=version,
                    keys={"item": "string"},
                    features={"users": "int64" if version == 1 else "float64"},
                    rows={"item": ["a"], "users": [version]},
                    window_start=SECOND,
                )
        views = publish(settings)
        for version in (1, 2):
            answer = reader.read(views[f"pop_v{version}"], ["users"], {"item": ["a"]})
            assert answer.values["users"].tolist() == [version]

    def test_publishing_again_changes_nothing(self, settings: Settings, reader: OnlineReader) -> None:
        release(settings, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [1]))
        first = publish(settings)
        assert publish(settings) == first
        assert reader.read(first["pop_v1"], ["users"], {"item": ["a"]}).values["users"].tolist() == [1]

    def test_many_threads_and_many_keys(self, settings: Settings, reader: OnlineReader) -> None:
        count = 2_500
        release(
            settings,
            "pop",
            {"item_id": "int64"},
            item_id=("int64", range(count)),
            users=("int64", [3 * i for i in range(count)]),
        )
        view = publish(settings)["pop_v1"]

        def check(seed: int) -> bool:
            ids = np.random.default_rng(seed).integers(0, count, 1_200)
            answer = reader.read(view, ["users"], {"item_id": ids})
            return bool(answer.found.all() and (answer.values["users"] == 3 * ids).all())

        check(0)
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(check, range(24)))

    def test_requests_that_the_view_cannot_answer(self, settings: Settings, reader: OnlineReader) -> None:
        release(settings, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [1]))
        view = publish(settings)["pop_v1"]
        with pytest.raises(RequestInvalid, match="no feature visits; it has: users"):
            reader.read(view, ["visits"], {"item": ["a"]})
        with pytest.raises(RequestInvalid, match="needed: item"):
            reader.read(view, ["users"], {"user": ["a"]})
        with pytest.raises(RequestInvalid, match="not string"):
            reader.read(view, ["users"], {"item": [1]})


class TestPackedSqlite(ReaderConformance):
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return make_project(tmp_path)

    def test_nothing_published(self, settings: Settings) -> None:
        with pytest.raises(NotPublished, match="hedgerow publish"):
            open_reader(settings)

    def test_another_file_is_no_store(self, settings: Settings) -> None:
        release(settings, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [1]))
        view = publish(settings)["pop_v1"]
        for name in ("online.db-wal", "online.db-shm"):
            (settings.feature_repo_dir / name).unlink(missing_ok=True)
        (settings.feature_repo_dir / "online.db").write_bytes(b"not a database, but long enough to look at" * 100)
        reader = open_reader(settings, clock=lambda: NOW)
        with pytest.raises(StoreUnreachable, match="remove it and run"):
            reader.read(view, ["users"], {"item": ["a"]})
        reader.close()

    def test_a_closed_reader_says_so(self, settings: Settings) -> None:
        release(settings, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [1]))
        view = publish(settings)["pop_v1"]
        reader = open_reader(settings, clock=lambda: NOW)
        reader.close()
        with pytest.raises(StoreUnreachable):
            reader.read(view, ["users"], {"item": ["a"]})

    def test_rows_past_the_ttl_are_removed(self, settings: Settings) -> None:
        keys = {"item": "string"}
        release(settings, "pop", keys, start=FIRST, ttl=WEEK, item=("string", ["a"]), users=("int64", [1]))
        publish(settings, now=FIRST + WEEK)
        release(settings, "pop", keys, start=SECOND, ttl=WEEK, item=("string", ["b"]), users=("int64", [1]))
        view = publish(settings)["pop_v1"]
        early = open_reader(settings, clock=lambda: FIRST + WEEK)
        assert early.read(view, ["users"], {"item": ["a", "b"]}).found.tolist() == [False, True]
        early.close()


class TestSnapshots(ReaderConformance):
    """From the mapped files of a publication, while the online store is not even opened."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return make_project(tmp_path)

    @staticmethod
    def open(settings: Settings, view: PublishedView) -> OnlineReader:
        if not view.takes_pushes:
            (settings.feature_repo_dir / "online.db").unlink(missing_ok=True)
        return EachPublication(settings)


class EachPublication:
    """Opens a publication of the one view that is asked for, and follows it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reader: PublishedReader | None = None

    def _following(self, view: PublishedView) -> PublishedReader:
        publication = publication_of(self._settings, view)
        if self._reader is None:
            self._reader = open_published_reader(self._settings, publication, clock=lambda: NOW)
        else:
            self._reader = self._reader.following(self._settings, publication)
        return self._reader

    def get(self, view: PublishedView, features: Sequence[str], keys: Any) -> Any:
        return self._following(view).get(view, features, keys)

    def look_up(self, view: PublishedView, features: tuple[str, ...], keys: Any) -> Any:
        return self._following(view).look_up(view, features, keys)

    def read(self, view: PublishedView, features: Sequence[str], keys: Any) -> Any:
        return online_columns(view, self.get(view, features, keys))

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def publication_of(settings: Settings, *views: PublishedView) -> Publication:
    return Publication(
        sequence=1,
        created_at="2025-11-17T00:00:00+00:00",
        project=settings.name,
        views=views,
        services=(),
        spaces=(),
        catalogue=None,
    )


class TestPublications:
    """What the files of snapshots may go through."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return make_project(tmp_path)

    def test_a_broken_snapshot_is_refused_and_the_last_good_one_answers(self, settings: Settings) -> None:
        keys = {"item": "string"}
        release(settings, "pop", keys, start=FIRST, item=("string", ["a"]), users=("int64", [1]))
        first = publish(settings)["pop_v1"]
        reader = open_published_reader(settings, publication_of(settings, first), clock=lambda: NOW)
        release(settings, "pop", keys, start=SECOND, item=("string", ["a"]), users=("int64", [2]))
        second = publish(settings)["pop_v1"]
        assert first.snapshot is not None
        assert second.snapshot is not None
        assert first.snapshot.file != second.snapshot.file
        path = settings.serving_dir / second.snapshot.file
        whole = path.read_bytes()
        for broken in (whole[: len(whole) // 2], whole[:-1], whole[:200] + b"?" + whole[201:], b""):
            path.write_bytes(broken)
            with pytest.raises(PublicationCorrupt, match="the snapshot is refused"):
                reader.following(settings, publication_of(settings, second))
        path.write_bytes((settings.serving_dir / first.snapshot.file).read_bytes())
        with pytest.raises(PublicationCorrupt, match="not the one that was published"):
            reader.following(settings, publication_of(settings, second))
        path.unlink()
        with pytest.raises(NotPublished, match="hedgerow publish"):
            reader.following(settings, publication_of(settings, second))
        assert reader.get(first, ["users"], {"item": ["a"]}).values["users"].tolist() == [1]
        assert publish(settings)["pop_v1"] == second  # writes it anew
        following = reader.following(settings, publication_of(settings, second))
        assert following.get(second, ["users"], {"item": ["a"]}).values["users"].tolist() == [2]
        assert reader.get(first, ["users"], {"item": ["a"]}).values["users"].tolist() == [1]

    def test_a_snapshot_of_another_view_or_outside_is_refused(self, settings: Settings) -> None:
        keys = {"item": "string"}
        release(settings, "pop", keys, item=("string", ["a"]), users=("int64", [1]))
        release(settings, "new", keys, item=("string", ["a"]), users=("int64", [2]))
        views = publish(settings)
        swapped = replace(views["pop_v1"], snapshot=views["new_v1"].snapshot)
        with pytest.raises(PublicationCorrupt, match="holds another view"):
            open_published_reader(settings, publication_of(settings, swapped))
        about = views["pop_v1"].snapshot
        assert about is not None
        for outside in ("../../hedgerow.toml", "/etc/passwd"):
            lost = replace(views["pop_v1"], snapshot=replace(about, file=outside))
            with pytest.raises(PublicationCorrupt, match="a path outside"):
                open_published_reader(settings, publication_of(settings, lost))

    def test_files_that_no_publication_names_go_and_open_ones_stay_readable(self, settings: Settings) -> None:
        keys = {"item": "string"}
        release(settings, "pop", keys, start=FIRST, item=("string", ["a"]), users=("int64", [1]))
        first = publish(settings)["pop_v1"]
        reader = open_published_reader(settings, publication_of(settings, first), clock=lambda: NOW)
        release(settings, "pop", keys, start=SECOND, item=("string", ["a"]), users=("int64", [2]))
        second = publish(settings)["pop_v1"]
        (settings.serving_dir / "snapshots" / "pop_v1" / ".half.tmp").write_bytes(b"")
        remove_unused_snapshots(settings, (publication_of(settings, second), None))
        left = [path for path in (settings.serving_dir / "snapshots").rglob("*") if path.is_file()]
        assert second.snapshot is not None
        assert left == [settings.serving_dir / second.snapshot.file]
        assert reader.get(first, ["users"], {"item": ["a"]}).values["users"].tolist() == [1]

    def test_every_answer_is_of_one_release_while_publications_swap(self, settings: Settings) -> None:
        keys, count = {"item_id": "int64"}, 500
        for start, value in ((FIRST, 1), (SECOND, 2)):
            columns = {f"c{i}": ("int64", [value] * count) for i in range(3)}
            release(settings, "pop", keys, start=start, item_id=("int64", range(count)), **columns)
            publications = publish(settings)["pop_v1"]
            if value == 1:
                first = publications
        second = publications
        held = [(first, open_published_reader(settings, publication_of(settings, first), clock=lambda: NOW))]
        ended, seen = Event(), set[str]()

        def swap() -> None:
            until = time.monotonic() + 60
            turn = 0
            try:
                while turn < 60 or (len(seen) < 2 and time.monotonic() < until):
                    view = (second, first)[turn % 2]
                    held[0] = (view, held[0][1].following(settings, publication_of(settings, view)))
                    turn += 1
            finally:
                ended.set()

        def ask(seed: int) -> None:
            generator = np.random.default_rng(seed)
            while not ended.is_set():
                view, reader = held[0]
                answer = reader.get(view, ["c0", "c1", "c2"], {"item_id": generator.integers(0, count, 200)})
                (release_id,) = {answer.releases[i] for i in answer.release_indexes.tolist()}
                values = {value for name in answer.names for value in answer.values[name].tolist()}
                assert values == {1 if release_id == "pop/v1/2025-11-03" else 2}
                seen.add(release_id)

        with ThreadPoolExecutor(4) as pool:
            for future in [*(pool.submit(ask, seed) for seed in range(3)), pool.submit(swap)]:
                future.result()
        assert seen == {"pop/v1/2025-11-03", "pop/v1/2025-11-10"}


@pytest.mark.parametrize("store", ["sqlite", "redis"])
class TestViewsThatTakePushes:
    """Publishing writes the next release's rows before it is in force: no answer of the one in force holds any."""

    @pytest.fixture
    def settings(self, store: str, tmp_path: Path, redis_address: str) -> Settings:
        made = make_project(tmp_path) if store == "sqlite" else redis_project(tmp_path, redis_address)
        return replace(made, online_store=replace(made.online_store, pushed=("pop",)))

    @staticmethod
    def push(settings: Settings, view: PublishedView, at: datetime, item: str, users: int) -> None:
        """As Feast's push writes a row: it names no release."""
        schema = view_schema(view)
        columns = {
            "users": Column(values=np.array([users]), nulls=np.zeros(1, bool)),
            "title": Column(values=Texts.encoded(["pushed"]), nulls=np.zeros(1, bool)),
        }
        rows = pack(schema, columns, event_times=np.array([microseconds(at)]))
        keys, table = key_bytes({"item": Texts.encoded([item])}), f"{settings.name}_{view.name}"
        store: PackedDatabase | PackedRedis
        if settings.online_store.type is OnlineStoreType.SQLITE:
            store = PackedDatabase(settings.feature_repo_dir / "online.db")
        else:
            store = PackedRedis(RedisAddress.of(settings))
        store.write(table, schema, keys, rows)
        store.close()

    @staticmethod
    def released(settings: Settings, start: datetime, rows: dict[str, int]) -> PublishedView:
        titles = ("string", [f"{item} of {start:%d}" for item in rows])
        users = ("int64", list(rows.values()))
        release(
            settings, "pop", {"item": "string"}, start=start, item=("string", list(rows)), users=users, title=titles
        )
        return publish(settings)["pop_v1"]

    def test_none_of_the_next_release(self, settings: Settings) -> None:
        first = self.released(settings, FIRST, {"a": 1, "b": 2, "both": 3})
        self.push(settings, first, NOW, "a", 100)
        self.push(settings, first, SECOND, "both", 300)  # before the second release, which replaces it
        reader = open_published_reader(settings, publication_of(settings, first), clock=lambda: NOW)
        second = self.released(settings, SECOND, {"a": 10, "b": 20, "both": 30, "c": 40})
        asked = {"item": ["a", "b", "both", "c", "none"]}
        for _ in range(2):  # the second time, also as those who look up again do
            answer = reader.get(first, ["title", "users"], asked)
            again = reader.look_up(first, ("users",), asked)
            own = [answer.releases[i] if i >= 0 else None for i in answer.release_indexes.tolist()]
            assert answer.found.tolist() == [True, True, True, False, False]
            assert answer.values["users"].tolist() == [100, 2, 3, 0, 0]
            assert isinstance(answer.values["title"], Texts)
            assert answer.values["title"].strings() == ["pushed", "b of 03", "both of 03", "", ""]
            assert own == [None, "pop/v1/2025-11-03", "pop/v1/2025-11-03", None, None]
            assert isinstance(again, FeatureColumns)
            assert again.values["users"].tolist() == [100, 2, 3, 0, 0]
        following = reader.following(settings, publication_of(settings, second))
        answer = following.get(second, ["users"], asked)
        assert answer.values["users"].tolist() == [100, 20, 30, 40, 0]
        assert {answer.releases[i] for i in answer.release_indexes.tolist() if i >= 0} == {"pop/v1/2025-11-10"}
        reader.close()

    def test_without_its_snapshot_a_release_that_is_not_named_is_not_found(self, settings: Settings) -> None:
        first = self.released(settings, FIRST, {"a": 1})
        self.released(settings, SECOND, {"a": 10})
        reader = open_reader(settings, clock=lambda: NOW)
        assert not reader.get(first, ["users"], {"item": ["a"]}).found.any()
        reader.close()

    def test_no_answer_is_of_two_releases_while_one_is_written(self, settings: Settings) -> None:
        items = [f"i{n}" for n in range(6_000)]
        first = self.released(settings, FIRST, dict.fromkeys(items, 1))
        reader = open_published_reader(settings, publication_of(settings, first), clock=lambda: NOW)
        ended = Event()

        def ask(seed: int) -> int:
            generator, asked = np.random.default_rng(seed), 0
            while not ended.is_set() or not asked:
                answer = reader.look_up(first, ("users",), {"item": generator.choice(items, 200).tolist()})
                columns = answer.as_columns([row_field("users", "int64")]) if isinstance(answer, Runs) else answer
                assert set(columns.values["users"].tolist()) == {1}
                (named,) = {columns.releases[i] for i in columns.release_indexes.tolist()}
                assert named == "pop/v1/2025-11-03"
                asked += 1
            return asked

        with ThreadPoolExecutor(3) as pool:
            asked = [pool.submit(ask, seed) for seed in range(2)]
            try:
                self.released(settings, SECOND, dict.fromkeys(items, 2))
            finally:
                ended.set()
            assert all(future.result() for future in asked)
        reader.close()


class TestRedis(ReaderConformance):
    @pytest.fixture
    def settings(self, tmp_path: Path, redis_address: str) -> Settings:
        return redis_project(tmp_path, redis_address)

    def test_the_configuration_is_for_the_owner_only(self, settings: Settings) -> None:
        release(settings, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [1]))
        publish(settings)
        assert (settings.feature_repo_dir / "feature_store.yaml").stat().st_mode & 0o077 == 0

    def test_projects_share_a_redis_without_meeting(
        self, settings: Settings, tmp_path: Path, redis_address: str
    ) -> None:
        other = redis_project(tmp_path / "other", redis_address)
        for project, users in ((settings, 1), (other, 2)):
            release(project, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [users]))
            publish(project)
        for project, users in ((settings, 1), (other, 2)):
            reader = open_reader(project, clock=lambda: NOW)
            (view,) = publish(project).values()
            assert reader.read(view, ["users"], {"item": ["a"]}).values["users"].tolist() == [users]
            reader.close()


class TestUnreachableRedis:
    def test_publishing_writes_nothing(self, tmp_path: Path) -> None:
        with held_port() as port:
            address = f"127.0.0.1:{port}"
            settings = redis_project(tmp_path, f"{address},password=secret")
            release(settings, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [1]))
            with pytest.raises(StoreUnreachable, match=rf"redis at {address} does not answer") as caught:
                publish(settings)
        assert "secret" not in str(caught.value)
        assert not settings.feature_repo_dir.exists()

    def test_opening(self, tmp_path: Path) -> None:
        with held_port() as port, pytest.raises(StoreUnreachable, match="does not answer"):
            open_reader(redis_project(tmp_path, f"127.0.0.1:{port}"))

    @pytest.mark.parametrize("address", ["localhost", "", "a:1,b:2,password=secret", "a:port", "a:1,pasword=secret"])
    def test_a_connection_string_of_another_form(self, tmp_path: Path, address: str) -> None:
        with pytest.raises(ConfigError, match="connection_string") as caught:
            open_reader(redis_project(tmp_path, address))
        assert "secret" not in str(caught.value)

    def test_a_redis_that_goes_away_and_comes_back(self, tmp_path: Path) -> None:
        with held_port() as port:
            settings = redis_project(tmp_path, f"127.0.0.1:{port}")
            release(settings, "pop", {"item": "string"}, item=("string", ["a"]), users=("int64", [1]))
            with redis_server(port):
                view = publish(settings)["pop_v1"]
                reader = open_reader(settings, clock=lambda: NOW)
                assert reader.read(view, ["users"], {"item": ["a"]}).found.all()
            with pytest.raises(StoreUnreachable):
                reader.read(view, ["users"], {"item": ["a"]})
            with redis_server(port):
                assert not reader.read(view, ["users"], {"item": ["a"]}).found.any()
                publish(settings)
                assert reader.read(view, ["users"], {"item": ["a"]}).found.all()
            reader.close()
