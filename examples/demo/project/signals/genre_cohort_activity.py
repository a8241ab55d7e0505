"""How many people of each cohort chose something of each genre in a window."""

from _dataset import CELLS_PER_PERSON, EVENTS, GENRE_COHORT_KEYS, GENRE_COHORT_RHO, ITEMS, PERIOD, TTL, WINDOW

from pipelines import ZCDP, Count, Entity, KeepRandom, PrivacyUnit, PublicJoin, Purpose, Signal

GENRE_COHORT_ACTIVITY = Signal(
    name=f"genre_cohort_{PERIOD}",
    version=1,
    owner="reco-platform",
    purpose=Purpose.TRENDS,
    description="People of a cohort who chose something of a genre.",
    source=EVENTS,
    joins=(PublicJoin(table=ITEMS, on="item_id", columns=("genre",), explode="genre"),),  # one row for each genre
    privacy_unit=PrivacyUnit("user_id"),  # add/remove one person
    entity=Entity("genre_cohort", ("genre", "cohort")),
    aggregates={"users": Count()},
    window=WINDOW,
    bounds=KeepRandom(max_partitions=CELLS_PER_PERSON, max_rows_per_partition=1),
    partitions=GENRE_COHORT_KEYS,
    budget_per_release=ZCDP(rho=GENRE_COHORT_RHO),
    ttl=TTL,
)
