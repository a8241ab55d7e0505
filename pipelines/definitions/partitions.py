"""Contribution bounds, and which keys are released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

from governance.errors import DefinitionError
from pipelines.definitions.checks import check_column, check_kind, check_name, check_number, check_whole
from pipelines.definitions.sources import PublicTable


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRandom:
    """Contribution bounds by keyed-hash sampling, independent of the data's order and of other units.

    Attributes:
        max_partitions: L0: partitions that one unit may contribute to; the rest is dropped at random.
        max_rows_per_partition: rows of one unit kept in each partition.
    """

    max_partitions: int
    max_rows_per_partition: int

    def __post_init__(self) -> None:
        check_whole("KeepRandom", "max_partitions", self.max_partitions, least=1, most=1_000_000)
        check_whole("KeepRandom", "max_rows_per_partition", self.max_rows_per_partition, least=1, most=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipNorm:
    """Contribution bounds by scaling: a unit's whole vector, over all partitions and aggregates, has norm `l2` at most.

    Nothing is sampled. Each aggregate is measured in multiples of what one row can add to it at most (a row count in
    rows, a sum in its larger bound), and the vector of all of them over all partitions is scaled down to Euclidean
    norm `l2` where it is longer. A unit's few rows then count in full, and a heavy unit's proportions stay.

    Attributes:
        l2: the clip, in rows of full size.
        max_partitions: partitions kept at random before scaling; None: all. Private selection needs it.
    """

    l2: float
    max_partitions: int | None = None

    def __post_init__(self) -> None:
        check_number("ClipNorm", "l2", self.l2, above=0, most=1e6)
        object.__setattr__(self, "l2", float(self.l2))
        if self.max_partitions is not None:
            check_whole("ClipNorm", "max_partitions", self.max_partitions, least=1, most=1_000_000)


Bounding = KeepRandom | ClipNorm

PublicValue = str | int | date


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicColumn:
    """The distinct values of a public table's column."""

    table: PublicTable
    column: str

    def __post_init__(self) -> None:
        if not isinstance(self.table, PublicTable):
            raise DefinitionError("PublicColumn", f"table: found {type(self.table).__name__}, allowed: PublicTable")
        check_column("PublicColumn", "column", self.column)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedColumn:
    """The values of a key column that another signal released: a parent's release gives its children's public keys.

    Read from the newest release of that signal whose window ends no later than the child's, so it is post-processing
    of what is public already and costs nothing.

    Attributes:
        signal: the parent's name.
        version: its version.
        column: one of its keys.
    """

    signal: str
    version: int
    column: str

    def __post_init__(self) -> None:
        check_name("ReleasedColumn", "signal", self.signal)
        check_whole("ReleasedColumn", "version", self.version, least=1, most=1_000_000)
        check_name("ReleasedColumn", "column", self.column)


Domain = tuple[PublicValue, ...] | PublicColumn | ReleasedColumn


@dataclass(frozen=True, slots=True)
class PublicPartitions:
    """The released keys are known beforehand: the product of public domains, one for each of the entity's keys.

    Every combination is released, with noise, whether or not anybody is in it. Keys outside are dropped.

    Attributes:
        domains: key column → tuple of values, a `PublicColumn` or a `ReleasedColumn`. They must not come from the
            private data.
    """

    domains: Mapping[str, Domain]

    def __post_init__(self) -> None:
        checked: dict[str, Domain] = {}
        check_kind("PublicPartitions", "domains", self.domains, Mapping)
        for key, domain in self.domains.items():
            check_name("PublicPartitions", "key", key)
            if isinstance(domain, PublicColumn | ReleasedColumn):
                checked[key] = domain
                continue
            # A string is a sequence of letters and a set has no order of its own: neither is meant.
            check_kind("PublicPartitions", key, domain, tuple, list, PublicColumn, ReleasedColumn)
            values = tuple(domain)
            kinds = {type(value) for value in values}
            if not values or len(set(values)) != len(values) or len(kinds) != 1 or not kinds <= {str, int, date}:
                raise DefinitionError(
                    "PublicPartitions", f"{key}: allowed: one or more different values, all str, all int or all date"
                )
            for value in values:
                if isinstance(value, int):
                    check_whole("PublicPartitions", key, value, least=-(2**63), most=2**63 - 1)
            checked[key] = values
        if not checked:
            raise DefinitionError("PublicPartitions", "no key; give a domain for each of the entity's keys")
        object.__setattr__(self, "domains", MappingProxyType(checked))


@dataclass(frozen=True, slots=True)
class UnitCount:
    """Selects by the noisy number of units: one draw selects and releases where a unit count is released anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedUnits:
    """Selects by weight: a unit with t keys gives each `1 / sqrt(t)`, which has norm 1 in all (Gopi et al. 2020).

    Units with few keys count more than under a bound made for units with many, which finds more of a long tail. The
    weights take a share of the budget of their own.

    Attributes:
        max_keys: keys of one unit that are weighted; the rest is dropped at random.
    """

    max_keys: int = 1000

    def __post_init__(self) -> None:
        check_whole("WeightedUnits", "max_keys", self.max_keys, least=1, most=100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveWeights:
    """Selects by weight in two rounds: keys that the first one finds get no weight in the second.

    Units that have frequent keys then spread their weight over their rare ones. What decides is the mean of both
    rounds' noisy weights, so that the first one's budget is not lost to the second. It reads the data twice. Proof in
    pipelines.thresholds.

    Attributes:
        max_keys: keys of one unit that are weighted; the rest is dropped at random.
        first: the first round's share of what selection takes of the budget.
    """

    max_keys: int = 1000
    first: float = 0.25

    def __post_init__(self) -> None:
        check_whole("AdaptiveWeights", "max_keys", self.max_keys, least=1, most=100_000)
        check_number("AdaptiveWeights", "first", self.first, above=0, most=0.9)


SelectionScheme = UnitCount | WeightedUnits | AdaptiveWeights


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSelection:
    """The released keys are chosen by the data: those whose noisy count or weight reaches a threshold set by `delta`.

    Attributes:
        delta: probability that a key which only one unit has is released.
        by: what is compared with the threshold.
    """

    delta: float
    by: SelectionScheme = UnitCount()

    def __post_init__(self) -> None:
        check_number("PrivateSelection", "delta", self.delta, above=0, most=0.01)
        check_kind("PrivateSelection", "by", self.by, UnitCount, WeightedUnits, AdaptiveWeights)


Partitions = PublicPartitions | PrivateSelection
