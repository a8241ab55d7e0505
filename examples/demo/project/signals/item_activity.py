"""How many people chose an item in a window, and how they valued it."""

from _dataset import EVENTS, ITEM_RHO, ITEMS_PER_PERSON, PERIOD, TTL, VALUE, VALUE_MEANING, WINDOW

from pipelines import (
    ZCDP,
    Count,
    Entity,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PrivateSelection,
    Purpose,
    Signal,
)

ITEM_ACTIVITY = Signal(
    name=f"item_{PERIOD}",
    version=1,
    owner="reco-platform",
    purpose=Purpose.RANKING,
    description=f"People who chose an item, and their mean {VALUE_MEANING}.",
    source=EVENTS,
    privacy_unit=PrivacyUnit("user_id"),  # add/remove one person
    entity=Entity("item", "item_id"),
    aggregates={"users": Count(), "mean_value": Mean("value", VALUE)},
    window=WINDOW,
    bounds=KeepRandom(max_partitions=ITEMS_PER_PERSON, max_rows_per_partition=1),
    partitions=PrivateSelection(delta=1e-8),  # an item that few people chose does not show at all
    budget_per_release=ZCDP(rho=ITEM_RHO),
    ttl=TTL,
)
