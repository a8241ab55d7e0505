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


@dataclass(frozen=True, slots=True)
class PublicPartitions:
    """The released keys are known beforehand: the product of public domains, one for each of the entity's keys.

    Every combination is released, with noise, whether or not anybody is in it. Keys outside are dropped.

    Attributes:
        domains: key column → tuple of values, or a `PublicColumn`. They must not come from the private data.
    """

    domains: Mapping[str, tuple[PublicValue, ...] | PublicColumn]

    def __post_init__(self) -> None:
        checked: dict[str, tuple[PublicValue, ...] | PublicColumn] = {}
        check_kind("PublicPartitions", "domains", self.domains, Mapping)
        for key, domain in self.domains.items():
            check_name("PublicPartitions", "key", key)
            if isinstance(domain, PublicColumn):
                checked[key] = domain
                continue
            # A string is a sequence of letters and a set has no order of its own: neither is meant.
            check_kind("PublicPartitions", key, domain, tuple, list, PublicColumn)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateSelection:
    """The released keys are chosen by the data: those whose noisy unit count reaches a threshold set by `delta`."""

    delta: float

    def __post_init__(self) -> None:
        check_number("PrivateSelection", "delta", self.delta, above=0, most=0.01)


Partitions = PublicPartitions | PrivateSelection
