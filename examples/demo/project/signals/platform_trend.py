"""How many people were active on each platform in a window, and how active they were."""

from _dataset import EVENTS, EVENTS_PER_PLATFORM, PLATFORMS, PLATFORMS_PER_PERSON, TREND_RHO, TTL, WINDOW

from pipelines import (
    ZCDP,
    Count,
    CountDistinct,
    Entity,
    KeepRandom,
    PrivacyUnit,
    PublicPartitions,
    Purpose,
    Signal,
)

PLATFORM_TREND = Signal(
    name="platform_trend",
    version=1,
    owner="reco-platform",
    purpose=Purpose.TRENDS,
    description="Active people and their events on a platform.",
    source=EVENTS,
    privacy_unit=PrivacyUnit("user_id"),  # add/remove one person
    entity=Entity("platform", "platform"),
    aggregates={"users": CountDistinct(), "events": Count()},
    window=WINDOW,
    bounds=KeepRandom(max_partitions=PLATFORMS_PER_PERSON, max_rows_per_partition=EVENTS_PER_PLATFORM),
    partitions=PublicPartitions({"platform": PLATFORMS}),
    budget_per_release=ZCDP(rho=TREND_RHO),
    ttl=TTL,
)
