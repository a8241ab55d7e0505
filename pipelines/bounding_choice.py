"""Which contribution bounds are expected to err less: bias of what they cut against the noise that they need.

For a group of N rows in a signal whose units have d partitions with probability p(d), and r rows in each (of a count of
distinct units: N units, and r = 1):

    KeepRandom(L0, m)   loses 1 - sum p(d) min(d, L0) min(r, m) / sum p(d) d r of them
    ClipNorm(l2)        loses 1 - sum p(d) d min(1, l2 / (R sqrt(d))) / sum p(d) d, where R is the norm of what a unit
                        has in one partition: r for a row count alone, 1 for a unit count alone, as the budget's shares
                        weigh them for both (pipelines.measurements)

Noise is what the plan of the same signal with these bounds would have: of a row count it grows with `m sqrt(L0)`, of a
unit count with `sqrt(L0)`, under pure DP with `m L0` and `L0`, under ClipNorm with `l2`; and the budget's split over
several measurements depends on the bounds too. So each choice is planned. Bounds that the definition could not have
(ClipNorm under pure DP) are no choice.

The expected error is `sqrt(bias^2 + noise^2)`, relative to N. It reads the definition and its public
`ContributionProfile`, never data (Amin et al. 2019 on this trade; ClipNorm as in DP-SGD, Abadi et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from governance.errors import DefinitionError
from pipelines.calibration import Calibration, calibrate, is_clipped, shares_of
from pipelines.curves import TYPICAL_GROUP
from pipelines.definitions import (
    Bounding,
    ClipNorm,
    ContributionProfile,
    CountDistinct,
    KeepRandom,
    PrivateSelection,
    Signal,
)
from pipelines.measurements import MeasureKind
from pipelines.plan import SignalPlan
from pipelines.recipes import Output, Recipe, recipe_of

__all__ = ["BoundingError", "compare_bounds"]

_TRIED = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80, 125, 200, 500, 1000)
_COUNTS = (MeasureKind.UNITS, MeasureKind.ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundingError:
    """What one choice of bounds is expected to do to a column in a group of `TYPICAL_GROUP` rows, or distinct units.

    Attributes:
        bounds: the choice.
        column: the column that is judged: the signal's noisiest count, else its noisiest column, of full rows.
        bias: share of the group that is lost.
        noise: standard deviation of the noise over the group's size.
        given: whether it is the signal's own choice.
    """

    bounds: KeepRandom | ClipNorm
    column: str
    bias: float
    noise: float
    given: bool

    @property
    def error(self) -> float:
        """Root mean squared error over the group's size."""
        return math.hypot(self.bias, self.noise)


def compare_bounds(plan: SignalPlan, profile: ContributionProfile) -> tuple[BoundingError, ...]:
    """The signal's own bounds, the best `KeepRandom` and the best `ClipNorm` of those tried; the best comes first."""
    judge = _Judge(plan=plan, profile=profile, column=_judged(plan))
    given = judge.of(plan.signal.bounds, plan.recipe, plan.calibration, given=True)
    kept = [choice for rows in sorted(judge.rows_kept) if (choice := judge.best(judge.keeping(rows))) is not None]
    best = (min(kept, key=lambda choice: choice.error, default=None), judge.best(judge.clipping()))
    others = (choice for choice in best if choice is not None and choice.bounds != given.bounds)
    return tuple(sorted((given, *others), key=lambda choice: choice.error))


def _judged(plan: SignalPlan) -> str:
    """The noisiest count, against what a full row adds to it; where nothing is counted, the noisiest column."""
    measures = {output.name: plan.recipe.measure(output.measure) for output in plan.recipe.outputs}
    counts = [output for output in plan.recipe.outputs if measures[output.name].kind in _COUNTS]
    return max(counts or plan.recipe.outputs, key=lambda output: plan.calibration.stddev(output) / output.scale).name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judge:
    """Judges bounds for one column of a signal.

    Attributes:
        plan: of the signal.
        profile: how much units contribute.
        column: which column.
    """

    plan: SignalPlan
    profile: ContributionProfile
    column: str

    @property
    def rows_kept(self) -> frozenset[int]:
        """Rows in a partition that are worth keeping: what units have, and what the definition says."""
        given = self.plan.signal.bounds
        own = {given.max_rows_per_partition} if isinstance(given, KeepRandom) else set()
        return frozenset({self.profile.rows_per_partition, *own})

    @property
    def tried(self) -> tuple[int, ...]:
        """Numbers of partitions, ascending: those that units have, and a few more."""
        return tuple(sorted({*_TRIED, *(count for count, _ in self.profile.partitions)}))

    def keeping(self, rows: int) -> Iterator[KeepRandom]:
        """Ever more partitions, with so many rows in each."""
        return (KeepRandom(max_partitions=n, max_rows_per_partition=rows) for n in self.tried)

    def clipping(self) -> Iterator[ClipNorm]:
        """Norms up to that of a unit with very many partitions, each without loss for units with some number."""
        private = isinstance(self.plan.signal.partitions, PrivateSelection)
        most = max(count for count, _ in self.profile.partitions) if private else None
        planned = self._recipe(ClipNorm(l2=1.0, max_partitions=most))
        if planned is None:
            return iter(())
        norm = self._norm(*planned)
        return (ClipNorm(l2=round(norm * math.sqrt(n), 3), max_partitions=most) for n in self.tried)

    def best(self, tried: Iterable[Bounding]) -> BoundingError | None:
        """The choice with the least error; None where none is lawful.

        Args:
            tried: by growing noise, and falling bias.
        """
        best: BoundingError | None = None
        for bounds in tried:
            planned = self._recipe(bounds)
            if planned is None or (best is not None and self._bias(bounds, *planned) >= best.error):
                continue
            signal, recipe = planned
            try:
                choice = self.of(bounds, recipe, calibrate(signal, recipe, self.plan.calibration.epsilon_delta))
            except DefinitionError:
                break  # noise too large for exact sums, as that of all that follow
            if best is None or choice.error < best.error:
                best = choice
            elif choice.noise >= best.error:
                break
        return best

    def of(self, bounds: Bounding, recipe: Recipe, calibration: Calibration, *, given: bool = False) -> BoundingError:
        """One choice, as planned."""
        output = self._output(recipe)
        return BoundingError(
            bounds=bounds,
            column=self.column,
            bias=self._bias(bounds, replace(self.plan.signal, bounds=bounds), recipe),
            noise=calibration.stddev(output) / output.scale / TYPICAL_GROUP,
            given=given,
        )

    def _recipe(self, bounds: Bounding) -> tuple[Signal, Recipe] | None:
        """The signal with other bounds; None where these are unlawful for it."""
        try:
            signal = replace(self.plan.signal, bounds=bounds)
        except DefinitionError:
            return None
        return signal, recipe_of(signal)

    def _output(self, recipe: Recipe) -> Output:
        return next(output for output in recipe.outputs if output.name == self.column)

    def _bias(self, bounds: Bounding, signal: Signal, recipe: Recipe) -> float:
        """Share of the group that the bounds lose."""
        partitions, most = self.profile.partitions, bounds.max_partitions or math.inf
        if isinstance(bounds, KeepRandom):
            # Bounds of one row make a row count one of units, which is then what they cut it to.
            aggregate = signal.aggregates[self._output(recipe).aggregate]
            has = 1 if isinstance(aggregate, CountDistinct) else self.profile.rows_per_partition
            each = min(has, bounds.max_rows_per_partition) / has
            kept = sum(share * min(count, most) * each for count, share in partitions)
        else:
            norm = self._norm(signal, recipe)
            numbers = [(min(count, most), share) for count, share in partitions]
            kept = sum(share * n * min(1.0, bounds.l2 / (norm * math.sqrt(n))) for n, share in numbers)
        return 1 - kept / sum(share * count for count, share in partitions)

    def _norm(self, signal: Signal, recipe: Recipe) -> float:
        """Norm of what a unit has in one partition, under `ClipNorm`: its rows weighed by each measurement's share."""
        shares = shares_of(signal, recipe)
        joint = {m.name: shares[m.name] for m in recipe.measures if is_clipped(m, signal)}
        squares = sum(share * self._rows(recipe, name) ** 2 for name, share in joint.items())
        return math.sqrt(squares / sum(joint.values()))

    def _rows(self, recipe: Recipe, measurement: str) -> int:
        """What a unit has of a measurement in a partition, in rows of full size."""
        return 1 if recipe.measure(measurement).kind is MeasureKind.UNITS else self.profile.rows_per_partition
