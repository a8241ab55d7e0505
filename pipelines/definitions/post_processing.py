"""Free steps after the noise: they read released values and public facts only, so they cost no privacy.

Steps that compare with a parent read its release of the same window, which has to be there.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.definitions.checks import check_column, check_kind, check_name, check_whole, names_of

__all__ = ["ConsistentWith", "NonNegative", "PostProcessing", "ShrinkTo"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NonNegative:
    """Raises negative values of counts and of sums of values that cannot be negative to zero.

    Noise makes small counts negative. Zero is nearer to the truth, but averages over many small counts are then too
    high: leave it out where counts are added up later.

    Attributes:
        columns: the columns; empty: all counts, and sums whose lower bound is not negative.
    """

    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", names_of(self.columns))
        for column in self.columns:
            check_column("NonNegative", "columns", column)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistentWith:
    """Moves counts and sums towards what a parent's release says of their total: weighted least squares.

    The signal's keys are the parent's keys and more; rows that share the parent's keys are its children, and their true
    values add up to the parent's. They do where both count the same rows, bounds cut little, and public domains hold
    every value that events have; distinct units add up only where each is in one child. Then the best linear estimate
    adds `(P - sum of c) v / (V + k v)` to each of k children, with v and V the noise variances of child and parent (Hay
    et al. 2010). It never has more noise than the child alone.

    Where children may be missing (private selection, or keys that a signal other than the parent released) the true
    values of the rest add up to the parent's at most. Then the same is added only where children add up to more than
    the parent's value, which lowers them; else what is missing explains the difference, and they stay. Columns that
    cannot be negative are needed for that. No child is off by more, in distribution, than without the step, whatever is
    missing (pipelines.engine.post_processing has the proof).

    Attributes:
        signal: the parent.
        version: its version.
        columns: columns that both have, under the same names.
        exactly: whether the children must add up to the parent's released value: `(P - sum of c) / k` is added, which
            takes over the parent's noise. Not where children may be missing.
    """

    signal: str
    version: int
    columns: tuple[str, ...]
    exactly: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _check_parent("ConsistentWith", self.signal, self.version, self.columns))
        check_kind("ConsistentWith", "exactly", self.exactly, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkTo:
    """Pulls each mean towards its parent's by as much as its noise weighs (empirical Bayes; James and Stein 1961).

    With v the noise variance of a child's mean and t the variance of children around their parent beyond noise, as
    estimated from the released values, the child becomes `parent + t / (t + v) (child - parent)`. Means of few rows
    come close to their parent's; means of many stay.

    Attributes:
        signal: the parent.
        version: its version.
        columns: means that both have, under the same names.
    """

    signal: str
    version: int
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _check_parent("ShrinkTo", self.signal, self.version, self.columns))


def _check_parent(subject: str, signal: str, version: int, columns: object) -> tuple[str, ...]:
    check_name(subject, "signal", signal)
    check_whole(subject, "version", version, least=1, most=1_000_000)
    names = names_of(columns)
    check_whole(subject, "number of columns", len(names), least=1, most=1_000)
    for column in names:
        check_column(subject, "columns", column)
    return names


PostProcessing = NonNegative | ConsistentWith | ShrinkTo
