from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from examples.demo import generator
from examples.demo.generator import COHORTS, LAST_DAY, PLATFORMS, WEEKS, GeneratedFiles, generate
from examples.demo.mapping import load_datasets
from examples.demo.titles import GENRES
from governance.canonical import sha256_file
from governance.errors import ConfigError

DAY = 86_400


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> GeneratedFiles:
    return generate(tmp_path_factory.mktemp("sample"), seed=5, users=3_000, items=400, events=60_000)


@pytest.fixture(scope="module")
def events(files: GeneratedFiles) -> dict[str, np.ndarray]:
    table = pq.read_table(files.events)
    return {name: np.array(table.column(name).to_pylist()) for name in table.column_names}


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    def hashes(folder: str, seed: int) -> list[str]:
        made = generate(tmp_path / folder, seed=seed, users=50, items=20, events=300)
        return [sha256_file(path) for path in (made.events, made.items, made.users)]

    assert hashes("a", 1) == hashes("b", 1)
    assert hashes("a", 1)[0] != hashes("c", 2)[0]


def test_more_events_do_not_change_the_films(tmp_path: Path) -> None:
    few = generate(tmp_path / "few", users=50, items=20, events=300)
    many = generate(tmp_path / "many", users=50, items=20, events=900)
    assert sha256_file(few.items) == sha256_file(many.items)


def test_shape_is_that_of_the_real_sets(files: GeneratedFiles) -> None:
    events, items = pq.read_schema(files.events), pq.read_schema(files.items)
    assert [(field.name, str(field.type)) for field in events] == [
        ("user_id", "int64"),
        ("item_id", "int64"),
        ("value", "double"),
        ("ts", "int64"),
        ("cohort", "string"),
        ("platform", "string"),
    ]
    assert [(field.name, str(field.type)) for field in items] == [
        ("item_id", "int64"),
        ("title", "string"),
        ("year", "int32"),
        ("genres", "list<element: string>"),
    ]
    assert pq.read_table(files.users).num_rows == 3_000


def test_values_lie_where_the_mapping_says(events: dict[str, np.ndarray]) -> None:
    assert set(np.unique(events["value"] * 2)) <= set(range(1, 11))
    assert set(events["cohort"]) == set(COHORTS)
    assert set(events["platform"]) == set(PLATFORMS)
    assert (np.diff(events["ts"]) >= 0).all()
    days = (events["ts"] // DAY).astype("datetime64[D]")
    assert days.max() == np.datetime64(LAST_DAY)
    assert days.min() == np.datetime64(LAST_DAY) - np.timedelta64(7 * WEEKS - 1)


def test_popularity_follows_zipf_and_activity_has_a_heavy_tail(events: dict[str, np.ndarray]) -> None:
    popularity = np.sort(np.bincount(events["item_id"]))[::-1]
    assert popularity[:40].sum() > 0.4 * popularity.sum()  # a tenth of the films, of 400
    activity = np.sort(np.bincount(events["user_id"]))[::-1]
    assert activity[:300].sum() > 0.3 * activity.sum()  # a tenth of the people


def test_weeks_have_a_rhythm(events: dict[str, np.ndarray]) -> None:
    weekday = (events["ts"] // DAY + 3) % 7  # 1970-01-01 was a Thursday; 0 is Monday
    by_day = np.bincount(weekday, minlength=7)
    assert by_day[5] > 1.3 * by_day[1]
    hour = np.bincount(events["ts"] // 3_600 % 24, minlength=24)
    assert hour[20] > 5 * hour[4]


def test_people_have_tastes_and_rate_them_higher(files: GeneratedFiles, events: dict[str, np.ndarray]) -> None:
    rows: list[Any] = pq.read_table(files.items).to_pylist()
    has = np.zeros((len(rows) + 1, len(GENRES)), dtype=bool)
    for row in rows:
        has[row["item_id"], [GENRES.index(genre) for genre in row["genres"]]] = True
    counts = np.zeros((3_001, len(GENRES)))
    np.add.at(counts, events["user_id"], has[events["item_id"]])
    active = counts.sum(axis=1) >= 30
    share = counts[active] / counts[active].sum(axis=1, keepdims=True)
    everyone = counts.sum(axis=0) / counts.sum()
    assert np.mean(share.max(axis=1)) > 1.5 * everyone.max()
    favourite = counts.argmax(axis=1)
    matches = has[events["item_id"], favourite[events["user_id"]]]
    assert events["value"][matches].mean() > events["value"][~matches].mean() + 0.2


def test_titles_are_all_different_and_speak_of_their_genres(files: GeneratedFiles) -> None:
    rows: list[Any] = pq.read_table(files.items).to_pylist()
    assert len({row["title"] for row in rows}) == len(rows)
    westerns = [row["title"] for row in rows if row["genres"] == ["Western"]]
    words = {"Sheriff", "Saddle", "Canyon", "Stagecoach", "Ranch", "Gunslinger", "Prairie", "Saloon", "Rider"}
    words |= {"Frontier", "Mustang", "Gallows"}
    assert westerns
    assert all(words & set(title.split()) for title in westerns)


def test_more_films_than_names_are_still_told_apart(tmp_path: Path) -> None:
    files = generate(tmp_path, users=5, items=20_000, events=10)
    titles: Any = pq.read_table(files.items).column("title").to_pylist()
    assert len(set(titles)) == 20_000


def test_the_smallest_sample_works(tmp_path: Path) -> None:
    files = generate(tmp_path, users=1, items=1, events=1, weeks=1)
    assert pq.read_table(files.events).num_rows == 1


@pytest.mark.parametrize("name", ["users", "items", "events", "weeks"])
def test_nothing_to_generate_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        generate(tmp_path, **{name: 0})
    assert not list(tmp_path.iterdir())


def test_mapping_states_the_generators_facts() -> None:
    dataset = load_datasets()[0]
    assert dataset.name == "generated"
    assert dataset.domains.cohorts == COHORTS
    assert dataset.domains.platforms == PLATFORMS
    assert dataset.calendar.last_day == LAST_DAY
    assert (dataset.calendar.last_day - dataset.calendar.first_day).days + 1 == 7 * WEEKS
    assert dataset.calendar.first_day.weekday() == 0
    shares = (generator._COHORT_SHARES, generator._PLATFORM_SHARES, generator._GENRE_SHARES)
    assert [len(several) for several in shares] == [len(COHORTS), len(PLATFORMS), len(GENRES)]
