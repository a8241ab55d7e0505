"""A seeded sample of behaviour: people with tastes who watch and rate invented films.

What makes it worth recommending on: popularity follows Zipf's law, some people watch far more than others, everyone has
one to three favourite genres that most of their plays come from and that they rate higher, and weeks have a rhythm
(evenings, weekends). The same arguments give the same files, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from examples.demo.titles import GENRES, invent_titles
from governance.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COHORTS", "LAST_DAY", "PLATFORMS", "WEEKS", "GeneratedFiles", "generate"]

COHORTS = ("DE", "FR", "GB", "NL", "SE", "US")
PLATFORMS = ("phone", "tv", "web")
WEEKS = 6
LAST_DAY = date(2025, 11, 2)  # a Sunday

_COHORT_SHARES = (0.21, 0.17, 0.18, 0.11, 0.09, 0.24)
_PLATFORM_SHARES = (0.46, 0.34, 0.20)
_GENRE_SHARES = (0.11, 0.10, 0.14, 0.08, 0.05, 0.16, 0.08, 0.07, 0.07, 0.08, 0.08, 0.03)
_DAY_WEIGHTS = (0.90, 0.85, 0.90, 0.95, 1.20, 1.60, 1.50)  # Monday to Sunday
_HOUR_WEIGHTS = (
    2,
    1,
    0.5,
    0.3,
    0.2,
    0.3,
    0.6,
    1.2,
    1.5,
    1.4,
    1.5,
    1.8,
    2.2,
    2.2,
    2,
    2,
    2.4,
    3.2,
    4.6,
    6.4,
    8,
    7.6,
    5.6,
    3.6,
)
_FAVOURITE_SHARE = 0.8
_WEEKLY_GROWTH = 1.03


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedFiles:
    """Where the sample lies.

    Attributes:
        events: `user_id, item_id, value, ts, cohort, platform`, in order of time.
        items: `item_id, title, year, genres`.
        users: `user_id`: everyone with an account, whether or not they watched anything.
    """

    events: Path
    items: Path
    users: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Films:
    genres: tuple[tuple[str, ...], ...]
    titles: tuple[str, ...]
    years: NDArray[np.int32]
    popularity: NDArray[np.float64]
    quality: NDArray[np.float64]
    has_genre: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _People:
    cohort: NDArray[np.int64]
    platform: NDArray[np.int64]
    activity: NDArray[np.float64]
    favourites: NDArray[np.int64]


def generate(
    directory: Path,
    *,
    seed: int = 20251101,
    users: int = 20_000,
    items: int = 2_000,
    events: int = 200_000,
    weeks: int = WEEKS,
) -> GeneratedFiles:
    """Writes `events.parquet`, `items.parquet` and `users.parquet`.

    Args:
        directory: where to; made if absent.
        seed: decides everything.
        users: people with an account.
        items: films.
        events: plays, each with a rating of 0.5 to 5 stars.
        weeks: length of the record, which ends with `LAST_DAY`.

    Raises:
        ConfigError: a number that is not positive.
    """
    for name, number in (("users", users), ("items", items), ("events", events), ("weeks", weeks)):
        if number < 1:
            raise ConfigError(f"{name}: found {number}, allowed: 1 or more")
    import pyarrow as pa

    # A stream of its own for each part: more events do not change the films.
    film_stream, people_stream, play_stream = np.random.default_rng(seed).spawn(3)
    films, people = _films(items, film_stream), _people(users, people_stream)
    directory.mkdir(parents=True, exist_ok=True)
    files = GeneratedFiles(
        events=directory / "events.parquet", items=directory / "items.parquet", users=directory / "users.parquet"
    )
    _write(_plays(films, people, events, weeks, play_stream), files.events)
    catalogue: dict[str, Any] = {
        "item_id": pa.array(np.arange(1, items + 1), pa.int64()),
        "title": pa.array(films.titles, pa.string()),
        "year": pa.array(films.years, pa.int32()),
        "genres": pa.array([list(kinds) for kinds in films.genres], pa.list_(pa.string())),
    }
    _write(pa.table(catalogue), files.items)
    _write(pa.table({"user_id": pa.array(np.arange(1, users + 1), pa.int64())}), files.users)
    return files


def _films(count: int, stream: np.random.Generator) -> _Films:
    """Films with one to three genres; the popularity of rank r is proportional to 1 / r^0.9."""
    how_many = stream.choice([1, 2, 3], size=count, p=[0.40, 0.42, 0.18])
    shares = np.log(np.array(_GENRE_SHARES) / np.sum(_GENRE_SHARES))
    # Gumbel keys: the k largest are a draw of k genres without replacement, by share.
    ranked = np.argsort(-(shares + stream.gumbel(size=(count, len(GENRES)))), axis=1)
    chosen = [tuple(GENRES[genre] for genre in row[:k]) for row, k in zip(ranked, how_many, strict=True)]
    has_genre = np.zeros((count, len(GENRES)), dtype=np.bool_)
    for place in range(3):
        rows = np.flatnonzero(how_many > place)
        has_genre[rows, ranked[rows, place]] = True
    return _Films(
        genres=tuple(chosen),
        titles=tuple(invent_titles(chosen, stream)),
        years=(2025 - np.minimum(stream.exponential(14, size=count), 75)).astype(np.int32),
        popularity=1 / stream.permutation(np.arange(1, count + 1)) ** 0.9,
        quality=stream.normal(3.1, 0.5, size=count),
        has_genre=has_genre,
    )


def _people(count: int, stream: np.random.Generator) -> _People:
    """People with a country, a usual platform, one to three favourite genres and an activity with a heavy tail."""
    cohort = stream.choice(len(COHORTS), size=count, p=_normal(_COHORT_SHARES))
    # Each country leans towards some genres, so that cohorts differ.
    leaning = np.log(_normal(_GENRE_SHARES)) + stream.normal(0, 0.5, size=(len(COHORTS), len(GENRES)))
    ranked = np.argsort(-(leaning[cohort] + stream.gumbel(size=(count, len(GENRES)))), axis=1)[:, :3]
    how_many = stream.choice([1, 2, 3], size=count, p=[0.35, 0.40, 0.25])
    column = np.minimum(np.arange(3), how_many[:, None] - 1)
    return _People(
        cohort=cohort,
        platform=stream.choice(len(PLATFORMS), size=count, p=_normal(_PLATFORM_SHARES)),
        activity=stream.lognormal(0, 1.1, size=count),
        favourites=np.take_along_axis(ranked, column, axis=1),
    )


def _plays(films: _Films, people: _People, count: int, weeks: int, stream: np.random.Generator) -> pa.Table:
    import pyarrow as pa

    user = stream.choice(len(people.activity), size=count, p=_normal(people.activity))
    favourite = people.favourites[user, stream.choice(3, size=count, p=[0.6, 0.25, 0.15])]
    anything = stream.choice(len(GENRES), size=count, p=_normal(_GENRE_SHARES))
    genre = np.where(stream.random(count) < _FAVOURITE_SHARE, favourite, anything)
    item = _films_of(genre, films, stream)

    matches = films.has_genre[item[:, None], people.favourites[user]].any(axis=1)
    stars = films.quality[item] + np.where(matches, 0.6, -0.3) + stream.normal(0, 0.7, size=count)
    elsewhere = stream.random(count) < 0.15
    platform = np.where(elsewhere, stream.integers(len(PLATFORMS), size=count), people.platform[user])
    seconds = _moments(count, weeks, stream)
    order = np.lexsort((item, user, seconds))
    table = pa.table(
        {
            "user_id": pa.array(user + 1, pa.int64()),
            "item_id": pa.array(item + 1, pa.int64()),
            "value": pa.array(np.clip(np.round(stars * 2) / 2, 0.5, 5.0), pa.float64()),
            "ts": pa.array(seconds, pa.int64()),
            "cohort": pa.array(np.array(COHORTS)[people.cohort[user]].tolist(), pa.string()),
            "platform": pa.array(np.array(PLATFORMS)[platform].tolist(), pa.string()),
        }
    )
    return table.take(order)


def _films_of(genre: NDArray[np.int64], films: _Films, stream: np.random.Generator) -> NDArray[np.int64]:
    """A film of each asked genre, by popularity; any film where the genre has none."""
    item = np.empty(len(genre), dtype=np.int64)
    uniform = stream.random(len(genre))
    for kind in range(len(GENRES)):
        rows = np.flatnonzero(genre == kind)
        candidates = np.flatnonzero(films.has_genre[:, kind])
        if not len(candidates):
            candidates = np.arange(len(films.popularity))
        cumulative = np.cumsum(_normal(films.popularity[candidates]))
        picked = np.minimum(np.searchsorted(cumulative, uniform[rows]), len(candidates) - 1)
        item[rows] = candidates[picked]
    return item


def _moments(count: int, weeks: int, stream: np.random.Generator) -> NDArray[np.int64]:
    """Unix seconds: a little more each week, more at weekends and in the evening."""
    first = LAST_DAY - timedelta(days=7 * weeks - 1)
    start = int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp())
    days = np.tile(np.array(_DAY_WEIGHTS), weeks) * np.repeat(_WEEKLY_GROWTH ** np.arange(weeks), 7)
    day = stream.choice(7 * weeks, size=count, p=_normal(days))
    hour = stream.choice(24, size=count, p=_normal(_HOUR_WEIGHTS))
    return np.asarray(start + day * 86_400 + hour * 3_600 + stream.integers(3_600, size=count), dtype=np.int64)


def _normal(weights: NDArray[np.float64] | tuple[float, ...]) -> NDArray[np.float64]:
    array = np.asarray(weights, dtype=np.float64)
    return np.asarray(array / array.sum())


def _write(table: pa.Table, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd")
