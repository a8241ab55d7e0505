"""What a training set is made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from governance.errors import DatasetError

__all__ = [
    "AnnotatedLabels",
    "ConfidenceColumn",
    "CountsFrom",
    "DatasetSpec",
    "InferredLabels",
    "LabelSource",
    "LabelTable",
]

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedLabels:
    """Labels that people gave, or that are what people did.

    Attributes:
        annotator: who: a team, a vendor, or `"behaviour"` for what was observed.
    """

    annotator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceColumn:
    """The column of the labels that tells how sure the model was of each."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InferredLabels:
    """Labels that a model gave.

    Attributes:
        model: which one, with its version.
        confidence: in [0, 1]: of every label, or a column that tells it of each.
    """

    model: str
    confidence: float | ConfidenceColumn

    def __post_init__(self) -> None:
        if not isinstance(self.confidence, ConfidenceColumn) and not 0 <= self.confidence <= 1:
            raise DatasetError(f"labels by {self.model}: confidence {self.confidence}; allowed: from 0 to 1")


LabelSource = AnnotatedLabels | InferredLabels


class CountsFrom(StrEnum):
    """From when on a released value counts.

    `WINDOW_END` is what Feast's point-in-time join does, and right where a release follows its window at once.
    `PUBLISHED` is stricter: the release must have been made; it is right where releases come late, and of no use for
    windows that were released long after they ended.
    """

    WINDOW_END = "window-end"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTable:
    """Where the labels are.

    Attributes:
        path: a parquet or CSV file: the keys of the features, a time, and everything that is to be kept.
        timestamp: the column with the time at which features must be known; without a zone it is UTC.
        labels: the columns that are labels; the others are kept too.
        source: who or what gave them.
    """

    path: Path
    timestamp: str = "event_timestamp"
    labels: tuple[str, ...]
    source: LabelSource

    def __post_init__(self) -> None:
        if not self.labels:
            raise DatasetError(f"{self.path}: no label column is named; name one or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """A training set.

    Attributes:
        name: letters, digits and underscores.
        labels: what is joined.
        features: `view:feature`, each once.
        counts_from: from when on a value counts.
        in_force: only what the newest release at that time holds, which is what serving answers; otherwise the newest
            row of each key within the view's ttl, which is Feast's join.
    """

    name: str
    labels: LabelTable
    features: tuple[str, ...]
    counts_from: CountsFrom = CountsFrom.WINDOW_END
    in_force: bool = False

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DatasetError(
                f"dataset name {self.name!r}; allowed: a Latin letter, then up to 63 letters, digits, underscores"
            )
        if not self.features:
            raise DatasetError(f"{self.name}: no features; name some as 'view:feature', or a feature service")
        if twice := sorted({name for name in self.features if self.features.count(name) > 1}):
            raise DatasetError(f"{self.name}: features named twice: {', '.join(twice)}; name each once")
        if wrong := [name for name in self.features if name.count(":") != 1]:
            raise DatasetError(f"{self.name}: features {', '.join(wrong)}; write each as 'view:feature'")
