"""From raw events to differentially private releases.

Reading guide
    definitions    what a data engineer writes
    compiled       definitions as canonical JSON
    project        the definitions of a project folder
    measurements   the noisy sums behind a signal, and their sensitivities
    recipes        which sums a signal needs, and the columns that are released of them
    accounting     what noise proves in (epsilon, delta), tightly
    calibration    from a budget to noise scales and loss
    thresholds     which keys a private selection releases
    plan           what a release would cost, before anything is read
    curves, bounding_choice   what `plan` draws and advises
    profile, unit_rows   how many partitions units have, released for `plan` to weigh bounds by
    parents        signals that read what others released
    windows        which spans of time to release
    noise/         the one place where randomness comes from
    engine/        Spark: read, check, bound, aggregate, add noise, select
    content        item vectors from public facts
    fingerprints   what a manifest says was read
    ingest         events laid out by person, so that releases of them exchange no rows
    run            reserve → draw → publish → commit, and recovery
    datasets       training sets on Spark: what `featurestore.datasets` does in memory
    cli            plan, run; profile, ingest, policy, accounts and dataset have files of their own

The definitions are importable from here; nothing on this page imports Spark.
"""

from pipelines.definitions import (
    ZCDP,
    AdaptiveWeights,
    ApproxDP,
    ClipNorm,
    ConsistentWith,
    ContentEmbedding,
    ContributionProfile,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    Metric,
    NonNegative,
    PrivacyUnit,
    PrivateSelection,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    PublicTable,
    PureDP,
    Purpose,
    Quantiles,
    Relation,
    ReleasedColumn,
    ShrinkTo,
    Signal,
    Sum,
    TopK,
    UnitCount,
    UnitKind,
    Variance,
    VectorSum,
    WeightedUnits,
    Window,
)

__all__ = [
    "ZCDP",
    "AdaptiveWeights",
    "ApproxDP",
    "ClipNorm",
    "ConsistentWith",
    "ContentEmbedding",
    "ContributionProfile",
    "Count",
    "CountDistinct",
    "Entity",
    "EventSource",
    "Histogram",
    "Interval",
    "KeepRandom",
    "Mean",
    "Metric",
    "NonNegative",
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
]
