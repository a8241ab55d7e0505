"""What is known publicly, or was released under differential privacy, of how much units contribute."""

from __future__ import annotations

from dataclasses import dataclass

from governance.errors import DefinitionError
from pipelines.definitions.checks import check_kind, check_number, check_whole

__all__ = ["ContributionProfile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContributionProfile:
    """In how many partitions units have rows, and how many in each. `hedgerow plan` weighs bounds by it; nothing else
    reads it.

    Attributes:
        partitions: pairs of (number of partitions, share of units); shares add up to 1.
        origin: where this comes from: a public fact, an estimate, or the release that it was read from. Never the
            private data as such: bounds chosen by it would leak.
        rows_per_partition: rows that a unit typically has in a partition where it has any.
    """

    partitions: tuple[tuple[int, float], ...]
    origin: str
    rows_per_partition: int = 1

    def __post_init__(self) -> None:
        check_kind("ContributionProfile", "partitions", self.partitions, tuple, list)
        pairs = tuple((count, share) for count, share in self.partitions)
        object.__setattr__(self, "partitions", pairs)
        for count, share in pairs:
            check_whole("ContributionProfile", "number of partitions", count, least=1, most=1_000_000)
            check_number("ContributionProfile", "share", share, above=0, most=1)
        total = sum(share for _, share in pairs)
        if not pairs or abs(total - 1) > 0.01:
            raise DefinitionError("ContributionProfile", f"partitions: shares add up to {total:g}, allowed: 1")
        check_whole("ContributionProfile", "rows_per_partition", self.rows_per_partition, least=1, most=1_000_000)
        check_kind("ContributionProfile", "origin", self.origin, str)
        if not self.origin.strip():
            raise DefinitionError("ContributionProfile", "origin: empty; say where the profile comes from")
