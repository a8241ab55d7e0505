"""The demo's last acts, as functions that print nothing: recommend over gRPC, and rank on a device.

Nothing here reads the raw events. It reads public tables (catalogue, list of accounts) and what the server answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from examples.demo.mapping import Dataset
from examples.demo.recommender import Recommender
from featurestore.catalogue import public_key_bytes, signing_key
from governance.settings import Settings
from ondevice.device import Device, DeviceSettings
from ondevice.events import Event
from ondevice.sync import sync
from serving.client import Client, Embeddings, FeatureTable, Neighbors

__all__ = [
    "CountingClient",
    "DeviceList",
    "Person",
    "Served",
    "Suggestions",
    "Trend",
    "audience",
    "on_device",
    "suggest",
    "trends",
]

PEOPLE = 3
ACCOUNTS_CONSIDERED = 500
EVENTS_ON_DEVICE = 8
MOST_ITEMS = 10_000  # rows of one request


@dataclass(slots=True)
class Served:
    """What came over gRPC: feature values, vectors and neighbors."""

    features: int = 0
    vectors: int = 0
    neighbors: int = 0


class CountingClient(Client):
    """A client that counts what it is served."""

    def __init__(self, target: str) -> None:
        super().__init__(target, timeout_seconds=30)
        self.served = Served()

    def get_features(
        self,
        *,
        entities: Mapping[str, ArrayLike],
        features: Sequence[str] | None = None,
        service: str | None = None,
    ) -> FeatureTable:
        """See `Client.get_features`."""
        table = super().get_features(entities=entities, features=features, service=service)
        self.served.features += sum(int((~nulls).sum()) for nulls in table.nulls.values())
        return table

    def get_embeddings(self, space: str, ids: ArrayLike) -> Embeddings:
        """See `Client.get_embeddings`."""
        embeddings = super().get_embeddings(space, ids)
        self.served.vectors += int(embeddings.found.sum())
        return embeddings

    def search(self, space: str, **options: Any) -> Neighbors:
        """See `Client.search`."""
        neighbors = super().search(space, **options)
        self.served.neighbors += int(neighbors.counts.sum())
        return neighbors


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """The public catalogue: item → title, item → genres."""

    titles: Mapping[int, str]
    genres: Mapping[int, tuple[str, ...]]

    @classmethod
    def read(cls, settings: Settings) -> Catalogue:
        """Reads the project's public table of items."""
        import pyarrow.parquet as pq

        rows: list[Any] = pq.read_table(settings.root / "data" / "items.parquet").slice(0, MOST_ITEMS).to_pylist()
        return cls(
            titles={row["item_id"]: row["title"] or f"item {row['item_id']}" for row in rows},
            genres={row["item_id"]: tuple(row["genre"]) for row in rows},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One of the three whom the demo recommends to.

    Attributes:
        name: an ordinal; ids are not shown.
        tastes: genres that the released affinity says they choose more than others do.
        personalised: titles, best first.
    """

    name: str
    tastes: tuple[str, ...]
    personalised: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestions:
    """Recommendations over gRPC.

    Attributes:
        people: up to three.
        popular: the list that everyone gets.
        released_items: how many items the ranking knows the popularity of.
    """

    people: tuple[Person, ...]
    popular: tuple[str, ...]
    released_items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """One platform's released counts and the standard deviations of their noise."""

    platform: str
    users: int
    events: int
    users_noise: float
    events_noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceList:
    """What a device ranks for its owner.

    Attributes:
        genre: what its owner just chose.
        events: how many events it has; nobody else has them.
        titles: best first.
    """

    genre: str
    events: int
    titles: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """What the recommender sees: the catalogue and the accounts that are considered, by the public list's order."""

    catalogue: Catalogue
    accounts: tuple[int, ...] = field(repr=False)


def audience(settings: Settings) -> Audience:
    """Reads the public tables."""
    import pyarrow.parquet as pq

    accounts: Any = pq.read_table(settings.root / "data" / "users.parquet").column("user_id")
    return Audience(
        catalogue=Catalogue.read(settings), accounts=tuple(accounts.slice(0, ACCOUNTS_CONSIDERED).to_pylist())
    )


def trends(client: Client, dataset: Dataset) -> tuple[Trend, ...]:
    """The newest released activity by platform."""
    platforms = dataset.domains.platforms
    users, events = "platform_trend_v1:users", "platform_trend_v1:events"
    table = client.get_features(features=[users, events], entities={"platform": list(platforms)})
    return tuple(
        Trend(
            platform=platform,
            users=int(table[users][row]),
            events=int(table[events][row]),
            users_noise=table.noise_stddev[users],
            events_noise=table.noise_stddev[events],
        )
        for row, platform in enumerate(platforms)
    )


def suggest(client: Client, dataset: Dataset, public: Audience) -> Suggestions:
    """Recommends to three accounts, and to everyone alike.

    The three are found by a public rule in what is served: of the accounts considered, those with the strongest
    released taste, each for another genre.
    """
    titles = public.catalogue.titles
    recommender = Recommender(client, public.catalogue.genres, public.accounts, f"item_{dataset.window.period}_v1")
    people = tuple(
        Person(
            name=f"user {'ABC'[place]}",
            tastes=_tastes(recommender, row),
            personalised=_titled(recommender.personalised(recommender.accounts[row]), titles),
        )
        for place, row in enumerate(_strongest(recommender.taste - recommender.taste.mean(axis=0)))
    )
    return Suggestions(
        people=people,
        popular=_titled(recommender.popular(), titles),
        released_items=sum(liked > 0 for liked in recommender.liked.values()),
    )


def _titled(items: Sequence[int], titles: Mapping[int, str]) -> tuple[str, ...]:
    return tuple(titles.get(item, f"item {item}") for item in items)


def _strongest(lift: np.ndarray) -> list[int]:
    """Rows whose taste differs most from everyone's, for different genres as far as there are that many."""
    best, favourite = lift.max(axis=1), lift.argmax(axis=1)
    ranked = np.argsort(-best, kind="stable").tolist()
    first = {int(favourite[row]): row for row in reversed(ranked)}
    different = sorted(first.values(), key=ranked.index)
    return [*different, *(row for row in ranked if row not in different)][:PEOPLE]


def _tastes(recommender: Recommender, row: int) -> tuple[str, ...]:
    lift = recommender.taste[row] - recommender.taste.mean(axis=0)
    return tuple(recommender.names[index] for index in np.argsort(-lift, kind="stable")[:2] if lift[index] > 0)


def on_device(settings: Settings, address: str, person: Person, place: int, public: Audience) -> DeviceList:
    """A device of this person's: downloads the catalogue like every device, and ranks by events that stay on it.

    The events are invented here, as if the person had just turned to another genre than the one that the releases know.

    Args:
        settings: the project; its folder `devices` holds the device's.
        address: the server's.
        person: whose device.
        place: 0, 1 or 2.
        public: the catalogue.
    """
    genres = sorted({genre for several in public.catalogue.genres.values() for genre in several})
    known = genres.index(person.tastes[0]) if person.tastes else place
    genre = genres[(known + 1) % len(genres)]
    candidates = [item for item, several in public.catalogue.genres.items() if genre in several]
    chosen = np.random.default_rng(place).permutation(candidates)[:EVENTS_ON_DEVICE].tolist()
    folder = settings.root / "devices" / person.name.replace(" ", "-")
    if not folder.is_dir():
        Device.create(folder, DeviceSettings(public_key=public_key_bytes(signing_key(settings))))
    now = datetime.now(UTC)
    with Device(folder) as device:
        sync(device, address)
        device.forget()  # a rerun starts the evening anew
        device.record_all(
            tuple(
                Event(
                    event_id=f"evening-{hour}", item=str(item), kind="view", value=1.0, at=now - timedelta(hours=hour)
                )
                for hour, item in enumerate(chosen)
            )
        )
        ranked = device.rank(k=5)
        return DeviceList(
            genre=genre,
            events=device.count(),
            titles=tuple(entry.title or f"item {entry.item}" for entry in ranked),
        )
