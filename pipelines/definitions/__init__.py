"""What a data engineer writes: frozen, validated definitions of sources, privacy units, bounds, budgets and signals.

Nothing here reads data or starts Spark. An unlawful definition cannot be constructed: the constructor raises
`DefinitionError` with what, found, allowed and how to fix it.

Reading guide
    sources      EventSource, PublicTable, PublicJoin, Entity, PrivacyUnit, Window
    aggregates   Count, CountDistinct, Sum, Mean over an Interval
    partitions   KeepRandom; PublicPartitions or PrivateSelection
    budgets      ZCDP, ApproxDP, PureDP
    signals      Signal, which puts them together and checks that together they are lawful
    embeddings   ContentEmbedding, item vectors from public facts
"""

from pipelines.definitions.aggregates import Aggregate, Count, CountDistinct, Interval, Mean, Sum
from pipelines.definitions.budgets import ZCDP, ApproxDP, Budget, PureDP
from pipelines.definitions.embeddings import ContentEmbedding, Metric
from pipelines.definitions.partitions import KeepRandom, Partitions, PrivateSelection, PublicColumn, PublicPartitions
from pipelines.definitions.signals import Purpose, Signal
from pipelines.definitions.sources import (
    Entity,
    EventSource,
    PrivacyUnit,
    PublicJoin,
    PublicTable,
    UnitKind,
    Window,
    span_text,
)

Definition = Signal | ContentEmbedding

__all__ = [
    "ZCDP",
    "Aggregate",
    "ApproxDP",
    "Budget",
    "ContentEmbedding",
    "Count",
    "CountDistinct",
    "Definition",
    "Entity",
    "EventSource",
    "Interval",
    "KeepRandom",
    "Mean",
    "Metric",
    "Partitions",
    "PrivacyUnit",
    "PrivateSelection",
    "PublicColumn",
    "PublicJoin",
    "PublicPartitions",
    "PublicTable",
    "PureDP",
    "Purpose",
    "Signal",
    "Sum",
    "UnitKind",
    "Window",
    "span_text",
]
