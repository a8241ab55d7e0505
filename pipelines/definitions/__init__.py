"""What a data engineer writes: frozen, validated definitions of sources, privacy units, bounds, budgets and signals.

Nothing here reads data or starts Spark. An unlawful definition cannot be constructed: the constructor raises
`DefinitionError` with what, found, allowed and how to fix it.

Reading guide
    sources      EventSource, PublicTable, PublicJoin, Entity, PrivacyUnit, Window
    aggregates   Count, CountDistinct, Sum, Mean, Variance, Histogram, Quantiles, TopK, VectorSum
    partitions   KeepRandom or ClipNorm; PublicPartitions or PrivateSelection
    post_processing  NonNegative, ConsistentWith, ShrinkTo
    budgets      ZCDP, ApproxDP, PureDP
    signals      Signal, which puts them together and checks that together they are lawful
    embeddings   ContentEmbedding, item vectors from public facts
"""

from pipelines.definitions.aggregates import (
    UNCERTAIN,
    Aggregate,
    Count,
    CountDistinct,
    Histogram,
    Interval,
    Mean,
    Quantiles,
    Sum,
    TopK,
    Variance,
    VectorSum,
    column_names,
    released_names,
)
from pipelines.definitions.budgets import ZCDP, ApproxDP, Budget, PureDP
from pipelines.definitions.embeddings import ContentEmbedding, Metric
from pipelines.definitions.partitions import (
    AdaptiveWeights,
    Bounding,
    ClipNorm,
    Domain,
    KeepRandom,
    Partitions,
    PrivateSelection,
    PublicColumn,
    PublicPartitions,
    ReleasedColumn,
    SelectionScheme,
    UnitCount,
    WeightedUnits,
)
from pipelines.definitions.post_processing import ConsistentWith, NonNegative, PostProcessing, ShrinkTo
from pipelines.definitions.profiles import ContributionProfile
from pipelines.definitions.signals import Purpose, Signal
from pipelines.definitions.sources import (
    Entity,
    EventSource,
    PrivacyUnit,
    PublicJoin,
    PublicTable,
    Relation,
    UnitKind,
    Window,
    span_text,
)

Definition = Signal | ContentEmbedding

__all__ = [
    "UNCERTAIN",
    "ZCDP",
    "AdaptiveWeights",
    "Aggregate",
    "ApproxDP",
    "Bounding",
    "Budget",
    "ClipNorm",
    "ConsistentWith",
    "ContentEmbedding",
    "ContributionProfile",
    "Count",
    "CountDistinct",
    "Definition",
    "Domain",
    "Entity",
    "EventSource",
    "Histogram",
    "Interval",
    "KeepRandom",
    "Mean",
    "Metric",
    "NonNegative",
    "Partitions",
    "PostProcessing",
    "PrivacyUnit",
    "PrivateSelection",
    "PublicColumn",
    "PublicJoin",
    "PublicPartitions",
    "PublicTable",
    "PureDP",
    "Purpose",
    "Quantiles",
    "Relation",
    "ReleasedColumn",
    "SelectionScheme",
    "ShrinkTo",
    "Signal",
    "Sum",
    "TopK",
    "UnitCount",
    "UnitKind",
    "Variance",
    "VectorSum",
    "WeightedUnits",
    "Window",
    "column_names",
    "released_names",
    "span_text",
]
