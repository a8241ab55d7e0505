"""How many people read about a topic in a week, and for how long.

A definition says everything: where events come from, whose presence is hidden, how much of one person may count, and
what a week of it costs. Change anything that matters and raise `version`.
"""

from datetime import timedelta

from pipelines import (
    ZCDP,
    Count,
    Entity,
    EventSource,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PublicPartitions,
    Purpose,
    Signal,
    Window,
)

READS = EventSource(name="reads", table="data/reads.parquet", timestamp="read_at", person="user_id")
TOPICS = ("arts", "cities", "food", "health", "nature", "science", "sport", "travel")

TOPIC_WEEKLY = Signal(
    name="topic_weekly",
    version=1,
    owner="you",
    purpose=Purpose.RANKING,
    description="People who read about a topic, and the mean minutes they read.",
    source=READS,
    privacy_unit=PrivacyUnit("user_id"),  # add/remove one person
    entity=Entity("topic", "topic"),
    aggregates={"readers": Count(), "mean_minutes": Mean("minutes", Interval(0, 30))},
    window=Window(timedelta(days=7)),  # from Monday to Monday, UTC
    bounds=KeepRandom(max_partitions=3, max_rows_per_partition=1),  # a person counts in at most three topics a week
    partitions=PublicPartitions({"topic": TOPICS}),  # known beforehand: each gets a row, with noise, read or not
    budget_per_release=ZCDP(rho=0.1),
    ttl=timedelta(days=3650),  # the sample is a closed record; a live one goes stale in weeks
)
