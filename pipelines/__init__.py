"""From raw events to differentially private releases.

Reading guide
    definitions    what a data engineer writes
    compiled       definitions as canonical JSON
    project        the definitions of a project folder
    measurements   the noisy sums behind a signal, and their sensitivities
    calibration    from a budget to noise scales, threshold and loss
    plan           what a release would cost, before anything is read
    windows        which spans of time to release
    noise/         the one place where randomness comes from
    engine/        Spark: read, check, bound, aggregate, add noise, select
    content        item vectors from public facts
    run            reserve → draw → publish → commit, and recovery
    cli            init, plan, run

The definitions are importable from here; nothing on this page imports Spark.
"""

from pipelines.definitions import (
    ZCDP,
    ApproxDP,
    ContentEmbedding,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    Interval,
    KeepRandom,
    Mean,
    Metric,
    PrivacyUnit,
    PrivateSelection,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    PublicTable,
    PureDP,
    Purpose,
    Signal,
    Sum,
    UnitKind,
    Window,
)

__all__ = [
    "ZCDP",
    "ApproxDP",
    "ContentEmbedding",
    "Count",
    "CountDistinct",
    "Entity",
    "EventSource",
    "Interval",
    "KeepRandom",
    "Mean",
    "Metric",
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
]
