"""A signal: one differentially private feature table, released once for each window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType, NoneType
from typing import get_args

from governance.errors import DefinitionError
from pipelines.definitions.aggregates import (
    Aggregate,
    Count,
    CountDistinct,
    Histogram,
    Mean,
    Sum,
    column_names,
    released_names,
)
from pipelines.definitions.budgets import ZCDP, ApproxDP, Budget, PureDP
from pipelines.definitions.checks import check_kind, check_name, check_number, check_span, check_texts, check_whole
from pipelines.definitions.partitions import (
    Bounding,
    ClipNorm,
    KeepRandom,
    Partitions,
    PrivateSelection,
    PublicPartitions,
    ReleasedColumn,
)
from pipelines.definitions.post_processing import ConsistentWith, NonNegative, PostProcessing, ShrinkTo
from pipelines.definitions.profiles import ContributionProfile
from pipelines.definitions.sources import Entity, EventSource, PrivacyUnit, PublicJoin, Relation, UnitKind, Window


class Purpose(StrEnum):
    """What a signal may be used for. Policies decide by it."""

    RANKING = "ranking"
    RETRIEVAL = "retrieval"
    TRENDS = "trends"
    EXPLORATION = "exploration"
    ANALYTICS = "analytics"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Signal:
    """One differentially private feature table, released once for each window.

    Attributes:
        name: lower case with underscores; with `version` it names releases and views.
        version: raise it when the meaning changes.
        owner: who answers for it.
        purpose: what it may be used for.
        description: one sentence.
        source: the raw events.
        joins: public facts added to the events before bounding.
        privacy_unit: whose presence is hidden.
        entity: what a row is about.
        aggregates: output column → aggregate.
        window: which spans of event time.
        bounds: contribution bounds.
        partitions: public keys, or private selection.
        budget_per_release: what one window costs.
        ttl: how long after its window's end a value may be served.
        weights: aggregate → how much its squared error matters against the others'; those not named weigh 1. Each error
            is measured against what one unit can add to a partition, and the budget is split so that the weighted total
            is least.
        post_processing: free steps after the noise, in order.
        profile: how much units contribute, as far as that is public: `plan` weighs bounds by it.
    """

    name: str
    version: int
    owner: str
    purpose: Purpose
    description: str
    source: EventSource
    privacy_unit: PrivacyUnit
    entity: Entity
    aggregates: Mapping[str, Aggregate]
    window: Window
    bounds: Bounding
    partitions: Partitions
    budget_per_release: Budget
    ttl: timedelta
    joins: tuple[PublicJoin, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    post_processing: tuple[PostProcessing, ...] = ()
    profile: ContributionProfile | None = None

    def __post_init__(self) -> None:
        check_name("Signal", "name", self.name)
        check_whole(self.name, "version", self.version, least=1, most=1_000_000)
        check_texts(self.identity, self.owner, self.description)
        for what, kinds in _SIGNAL_TYPES.items():
            check_kind(self.identity, what, getattr(self, what), *kinds)
        object.__setattr__(self, "joins", tuple(self.joins))
        object.__setattr__(self, "post_processing", tuple(self.post_processing))
        object.__setattr__(self, "aggregates", MappingProxyType(dict(self.aggregates)))
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        for join in self.joins:
            check_kind(self.identity, "joins", join, PublicJoin)
        self._check_aggregates()
        self._check_partitions()
        self._check_unit()
        self._check_bounds()
        self._check_post_processing()
        check_span(self.identity, "ttl", self.ttl, least=timedelta(minutes=1))

    @property
    def identity(self) -> str:
        """`name vN`, as messages and reports call it."""
        return f"{self.name} v{self.version}"

    def may_lack_children(self, step: ConsistentWith) -> bool:
        """Whether some children of a parent may not be released, though the parent counts them.

        Public domains are taken to hold every value that events have. What another signal released is such a domain
        only if that signal is the parent itself: a key that it lacks has neither a parent nor children.
        """
        if not isinstance(self.partitions, PublicPartitions):
            return True
        released = (d for d in self.partitions.domains.values() if isinstance(d, ReleasedColumn))
        return any((domain.signal, domain.version) != (step.signal, step.version) for domain in released)

    def _check_aggregates(self) -> None:
        if not self.aggregates:
            raise DefinitionError(self.identity, "aggregates: none; add e.g. {'users': Count()}")
        for name, aggregate in self.aggregates.items():
            check_name(self.identity, "aggregates", name)
            if name in self.entity.keys:
                raise DefinitionError(self.identity, f"aggregates: {name!r} is also a key of the entity; rename one")
            if not isinstance(aggregate, Aggregate):
                raise DefinitionError(
                    self.identity,
                    f"aggregates: {name}: found {type(aggregate).__name__}, allowed: "
                    + ", ".join(kind.__name__ for kind in get_args(Aggregate)),
                )
        self._check_columns()
        for name, weight in self.weights.items():
            if name not in self.aggregates:
                raise DefinitionError(self.identity, f"weights: found {name!r}, allowed: {', '.join(self.aggregates)}")
            check_number(self.identity, f"weights: {name}", weight, above=0, most=1e6)

    def _check_columns(self) -> None:
        """Refuses two released columns of one name: a reader would take either for the other."""
        made_by = dict.fromkeys(self.entity.keys, "a key of the entity")
        for name, aggregate in self.aggregates.items():
            for column in released_names(name, aggregate):
                if column in made_by:
                    raise DefinitionError(
                        self.identity,
                        f"aggregates: {name!r} releases a column {column!r}, which is also {made_by[column]}; rename "
                        "one",
                    )
                made_by[column] = f"released by {name!r}"

    def _check_partitions(self) -> None:
        if isinstance(self.partitions, PublicPartitions):
            if set(self.partitions.domains) != set(self.entity.keys):
                raise DefinitionError(
                    self.identity,
                    f"partitions: domains for {', '.join(self.partitions.domains)}, but the entity's keys are "
                    f"{', '.join(self.entity.keys)}; give a domain for each key",
                )
        elif isinstance(self.budget_per_release, PureDP):
            raise DefinitionError(
                self.identity,
                "partitions: private selection needs a delta, which PureDP has not; use ZCDP or public keys",
            )
        elif isinstance(self.budget_per_release, ApproxDP) and self.partitions.delta >= self.budget_per_release.delta:
            raise DefinitionError(
                self.identity,
                f"partitions: delta {self.partitions.delta:g} leaves nothing of the budget's "
                f"{self.budget_per_release.delta:g}; make it smaller",
            )

    def _check_unit(self) -> None:
        unit, person = self.privacy_unit, self.source.person
        whole_person = unit.kind is UnitKind.PERSON and unit.per is None
        if unit.kind is UnitKind.PERSON and person not in unit.columns:
            raise DefinitionError(
                self.identity,
                f"privacy_unit: {unit.label!r} does not contain the person column {person!r}; "
                "use it, or kind=UnitKind.EVENT if one row is one event",
            )
        if unit.kind is UnitKind.PERSON and len(unit.columns) > 1:
            raise DefinitionError(
                self.identity,
                f"privacy_unit: {unit.label!r} splits one person over several units; name only {person!r}",
            )
        if unit.kind is UnitKind.EVENT and unit.columns == (person,):
            raise DefinitionError(
                self.identity, f"privacy_unit: {person!r} identifies a person, not an event; leave kind out"
            )
        local = unit.relation is Relation.REPLACE_ONE
        if person in self.entity.keys and (
            (whole_person and not local) or not isinstance(self.partitions, PublicPartitions)
        ):
            raise DefinitionError(
                self.identity,
                f"a row for each {person!r} cannot be released while the whole person is the privacy unit or the "
                "keys are private; lawful are: (a) one event or one user-day as the unit, over a public list of users, "
                "so that absent users get noise too; (b) a local randomizer per user, whose row protects the whole "
                "user: the unit with relation=Relation.REPLACE_ONE, over a public list of users; (c) compute it on the "
                "device (hedgerow device)",
            )

    def _check_bounds(self) -> None:
        if isinstance(self.bounds, KeepRandom):
            return
        if isinstance(self.budget_per_release, PureDP):
            raise DefinitionError(
                self.identity,
                "bounds: ClipNorm bounds the Euclidean norm, and PureDP needs the sum of absolute changes; "
                "use KeepRandom, or ZCDP",
            )
        if isinstance(self.partitions, PrivateSelection) and self.bounds.max_partitions is None:
            raise DefinitionError(
                self.identity,
                "bounds: with private selection ClipNorm needs max_partitions, for a unit could else bring any number "
                "of new keys; give it, or use public keys",
            )

    def _check_post_processing(self) -> None:
        kinds = {
            NonNegative: (Count, CountDistinct, Sum, Histogram),
            ConsistentWith: (Count, CountDistinct, Sum, Histogram),
            ShrinkTo: (Mean,),
        }
        owners = {column: a for name, a in self.aggregates.items() for column in column_names(name, a)}
        for step in self.post_processing:
            check_kind(self.identity, "post_processing", step, *kinds)
            allowed = [column for column, aggregate in owners.items() if isinstance(aggregate, kinds[type(step)])]
            for column in step.columns:
                if column not in allowed:
                    raise DefinitionError(
                        self.identity,
                        f"post_processing: {type(step).__name__}: found {column!r}, allowed: "
                        + (", ".join(allowed) or "no column of this signal; leave the step out"),
                    )
            if isinstance(step, ConsistentWith) and self.may_lack_children(step):
                self._check_lacking_children(step, owners)

    def _check_lacking_children(self, step: ConsistentWith, owners: Mapping[str, Aggregate]) -> None:
        """Refuses what a parent's total does not say of children while others of its children are not released."""
        fix = (
            f"use public keys, or ReleasedColumn of {step.signal} v{step.version} for its keys and public ones for the "
            "others"
        )
        if step.exactly:
            raise DefinitionError(
                self.identity,
                "post_processing: ConsistentWith: exactly: children that are not released belong to the parent's total "
                f"too, so the others must not add up to it; leave exactly out, or {fix}",
            )
        for column in step.columns:
            aggregate = owners[column]
            if isinstance(aggregate, Sum) and aggregate.interval.lower < 0:
                raise DefinitionError(
                    self.identity,
                    f"post_processing: ConsistentWith: {column!r} sums values from {aggregate.interval.lower:g} on, so "
                    "children that are not released may have any sum and the parent's says nothing of the others; "
                    f"leave the column out, or {fix}",
                )


_SIGNAL_TYPES: Mapping[str, tuple[type, ...]] = {
    "purpose": (Purpose,),
    "source": (EventSource,),
    "joins": (tuple, list),
    "privacy_unit": (PrivacyUnit,),
    "entity": (Entity,),
    "aggregates": (Mapping,),
    "window": (Window,),
    "bounds": (KeepRandom, ClipNorm),
    "partitions": (PublicPartitions, PrivateSelection),
    "budget_per_release": (ZCDP, ApproxDP, PureDP),
    "ttl": (timedelta,),
    "weights": (Mapping,),
    "post_processing": (tuple, list),
    "profile": (ContributionProfile, NoneType),
}
