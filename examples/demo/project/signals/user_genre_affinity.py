"""How often each person chose each genre in a window.

A row about a person cannot hide that person as a whole, so this signal promises less, and says so: it hides each single
event. Every account on the public list gets a row for every genre, with noise, whether or not they did anything.
"""

from _dataset import AFFINITY_RHO, EVENTS, GENRES, GENRES_PER_EVENT, ITEMS, TTL, USERS, WINDOW

from pipelines import (
    ZCDP,
    Count,
    Entity,
    KeepRandom,
    PrivacyUnit,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    Purpose,
    Signal,
    UnitKind,
)

USER_GENRE_AFFINITY = Signal(
    name="user_genre_affinity",
    version=1,
    owner="reco-platform",
    purpose=Purpose.RETRIEVAL,
    description="Events of a person with a genre.",
    source=EVENTS,
    joins=(PublicJoin(table=ITEMS, on="item_id", columns=("genre",), explode="genre"),),
    privacy_unit=PrivacyUnit("event_id", kind=UnitKind.EVENT),  # add/remove one event
    entity=Entity("user_genre", ("user_id", "genre")),
    aggregates={"events": Count()},
    window=WINDOW,
    bounds=KeepRandom(max_partitions=GENRES_PER_EVENT, max_rows_per_partition=1),
    partitions=PublicPartitions(
        {"user_id": PublicColumn(table=USERS, column="user_id"), "genre": PublicColumn(table=GENRES, column="genre")}
    ),
    budget_per_release=ZCDP(rho=AFFINITY_RHO),
    ttl=TTL,
)
