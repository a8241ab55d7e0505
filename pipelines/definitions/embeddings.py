"""Item vectors from public facts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from governance.errors import DefinitionError
from pipelines.definitions.checks import check_column, check_kind, check_name, check_texts, check_whole, names_of
from pipelines.definitions.signals import Purpose
from pipelines.definitions.sources import PublicTable


class Metric(StrEnum):
    """How vectors are compared."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentEmbedding:
    """Item vectors from public catalogue facts alone: they cost no privacy.

    Attributes:
        source: the public catalogue.
        key: column that identifies an item.
        title: column with the item's title; its words are features.
        categories: columns with a category, or lists of them (genres, price bands); they become the items' tags.
        numeric: columns with numbers (a year); binned by quantiles.
        dimensions: length of the vectors.
        metric: how the vectors are to be compared.
    """

    name: str
    version: int
    owner: str
    purpose: Purpose
    description: str
    source: PublicTable
    key: str
    title: str
    categories: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    dimensions: int = 64
    metric: Metric = Metric.COSINE

    def __post_init__(self) -> None:
        check_name("ContentEmbedding", "name", self.name)
        check_whole(self.name, "version", self.version, least=1, most=1_000_000)
        check_whole(self.identity, "dimensions", self.dimensions, least=2, most=1024)
        check_texts(self.identity, self.owner, self.description)
        if not isinstance(self.source, PublicTable):
            raise DefinitionError(
                self.identity, f"source: found {type(self.source).__name__}, allowed: PublicTable (nothing personal)"
            )
        check_kind(self.identity, "purpose", self.purpose, Purpose)
        check_kind(self.identity, "metric", self.metric, Metric)
        check_kind(self.identity, "categories", self.categories, str, tuple, list)
        check_kind(self.identity, "numeric", self.numeric, str, tuple, list)
        object.__setattr__(self, "categories", names_of(self.categories))
        object.__setattr__(self, "numeric", names_of(self.numeric))
        for column in (self.key, self.title, *self.categories, *self.numeric):
            check_column(self.identity, "column", column)

    @property
    def identity(self) -> str:
        """`name vN`, as messages and reports call it."""
        return f"{self.name} v{self.version}"
