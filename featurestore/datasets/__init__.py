"""Training sets: labels that people or models gave, joined with what was known when each was given.

Reading guide
    spec       what a training set is made of: labels, their source, features
    labels     the label table: its files, a chunk at a time
    join       which row was the newest at a time: as many answers as questions, always
    views      what one view answers to label rows, by that join
    engine     reads labels, joins and writes: in memory here, on Spark in `pipelines.datasets`
    build      from what is asked for to a training set on disk
    manifest   what a training set says of itself; checking it later

`hedgerow dataset` is in `pipelines.datasets_cli`, which may use both engines.

A feature's value counts from when its window ended, or from when the release was made: never earlier. Feast's default
join is not used: it drops rows that share entity and timestamp.
"""

from featurestore.datasets.build import BuiltDataset, build_dataset, verify_dataset
from featurestore.datasets.spec import (
    AnnotatedLabels,
    ConfidenceColumn,
    CountsFrom,
    DatasetSpec,
    InferredLabels,
    LabelTable,
)

__all__ = [
    "AnnotatedLabels",
    "BuiltDataset",
    "ConfidenceColumn",
    "CountsFrom",
    "DatasetSpec",
    "InferredLabels",
    "LabelTable",
    "build_dataset",
    "verify_dataset",
]
