"""From a signal's aggregates to its measurements, and from those to the released columns.

An **output** is a released column computed from measurements: post-processing. Measurements are shared: a mean uses the
row count that a `Count` releases anyway, a sum whose rows are counted is the centred sum plus the centre for each row
(centred values are half as large, so the sum comes out less noisy), and selection uses the unit count where one is
released (no second spend).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from pipelines.definitions import (
    UNCERTAIN,
    AdaptiveWeights,
    ClipNorm,
    Count,
    CountDistinct,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    PrivateSelection,
    Quantiles,
    Signal,
    Sum,
    TopK,
    UnitCount,
    Variance,
    VectorSum,
    column_names,
)
from pipelines.measurements import COUNT_STEP, WEIGHTS, Code, CodeKind, Measure, MeasureKind, vector_step

__all__ = ["UNCERTAIN", "Output", "OutputKind", "Recipe", "ReleasedColumnType", "Term", "not_negative", "recipe_of"]


class OutputKind(StrEnum):
    """How a released column follows from measurements."""

    INTEGER = "integer"
    SCALED = "scaled"
    MEAN = "mean"
    VARIANCE = "variance"
    BIN = "bin"
    QUANTILE = "quantile"
    TOP = "top"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True)
class Term:
    """A measurement's part in a linear output: `coefficient` times the noisy integer."""

    measure: str
    coefficient: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One released column.

    Attributes:
        name: the column.
        aggregate: the aggregate of the definition that it belongs to.
        kind: how it is computed.
        terms: its linear part, in the column's units: exactly the column for `INTEGER` and `SCALED`; what its error is
            judged by for the others.
        measure: the main measurement; for a mean the centred sum, for a variance the centred squares.
        count: the row count under a mean or variance; None otherwise.
        first: the centred sum under a variance; None otherwise.
        scale: what one row of full size adds, in the column's units: errors are weighed against it.
        index: bin of `BIN`, rank of `TOP` (0 is the best).
        probability: of `QUANTILE`.
        description: its meaning, with units.
    """

    name: str
    aggregate: str
    kind: OutputKind
    terms: tuple[Term, ...]
    measure: str
    count: str | None = None
    first: str | None = None
    scale: float = 1.0
    index: int = 0
    probability: float = 0.0
    description: str

    @property
    def uncertain(self) -> bool:
        """Whether its uncertainty depends on the row, and is released beside it."""
        return self.kind in (OutputKind.MEAN, OutputKind.VARIANCE, OutputKind.QUANTILE)

    @property
    def measurements(self) -> tuple[str, ...]:
        """The measurements it is computed from."""
        named = (self.measure, self.first, self.count, *(term.measure for term in self.terms))
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def linear(self) -> bool:
        """Whether `terms` are exactly the column, so that its noise is the same on every row."""
        return self.kind in (OutputKind.INTEGER, OutputKind.SCALED, OutputKind.BIN, OutputKind.VECTOR)


@dataclass(frozen=True, slots=True)
class ReleasedColumnType:
    """A released column: name, type (`int64`, `float64`, `string`, `vector`) and output (None: a half-width)."""

    name: str
    type: str
    output: Output | None
    dimension: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything noisy in a signal and what is released of it.

    Attributes:
        measures: in a fixed order.
        outputs: in the order of the definition.
        codes: what is read of each row, each once.
        units: the measurement by which private selection decides; None for public partitions.
        first: what a first round of selection decides by; None: there is only one.
        late: the number of units with rows that came too late; None where arrival is not known.
    """

    measures: tuple[Measure, ...]
    outputs: tuple[Output, ...]
    codes: tuple[Code, ...]
    units: str | None
    first: str | None = None
    late: str | None = None

    @property
    def columns(self) -> tuple[ReleasedColumnType, ...]:
        """Every released column but the keys, in order."""
        columns = []
        for output in self.outputs:
            measure = self.measure(output.measure)
            kind, dimension = "float64", 0
            if output.kind is OutputKind.INTEGER or (output.kind is OutputKind.BIN and measure.grid_step == 1):
                kind = "int64"
            elif output.kind is OutputKind.VECTOR:
                kind, dimension = "vector", measure.width
            elif output.kind is OutputKind.TOP and measure.code is not None:
                kind = "string" if isinstance(measure.code.candidates[0], str) else "int64"
            columns.append(ReleasedColumnType(output.name, kind, output, dimension))
            if output.uncertain:
                columns.append(ReleasedColumnType(output.name + UNCERTAIN, "float64", None))
        return tuple(columns)

    def measure(self, name: str) -> Measure:
        """A measurement by name."""
        return next(measure for measure in self.measures if measure.name == name)


def recipe_of(signal: Signal) -> Recipe:
    """The measurements that a signal needs, each once, and its outputs."""
    builder = _Builder(signal)
    outputs: dict[str, tuple[Output, ...]] = {}
    # What needs a row count comes after the counts that are released anyway, a plain sum last: it takes the centred
    # sum where the rows are counted.
    units = first = None
    ranked = sorted(signal.aggregates.items(), key=lambda item: _rank(item[1]))
    for name, aggregate in ranked:
        if _rank(aggregate) < _SUMS:
            outputs[name] = builder.outputs(name, aggregate)
    if isinstance(signal.partitions, PrivateSelection):
        by = signal.partitions.by
        if isinstance(by, AdaptiveWeights):
            first = builder.weight("selection.first_weight", MeasureKind.FIRST_WEIGHT)
        units = builder.units("selection.units") if isinstance(by, UnitCount) else builder.weight("selection.weight")
    for name, aggregate in ranked:
        if _rank(aggregate) == _SUMS:
            outputs[name] = builder.outputs(name, aggregate)
    late = builder.late("late.units") if signal.source.arrival is not None else None
    return Recipe(
        measures=tuple(builder.measures.values()),
        outputs=tuple(output for name in signal.aggregates for output in outputs[name]),
        codes=tuple(dict.fromkeys(m.code for m in builder.measures.values() if m.code is not None)),
        units=units,
        first=first,
        late=late,
    )


def not_negative(recipe: Recipe) -> tuple[str, ...]:
    """Counts, and sums of values that cannot be negative."""
    columns = []
    for output in recipe.outputs:
        interval = recipe.measure(output.measure).interval
        counts = output.kind in (OutputKind.INTEGER, OutputKind.BIN)
        if counts or (output.kind is OutputKind.SCALED and (interval is None or interval.lower >= 0)):
            columns.append(output.name)
    return tuple(columns)


_SUMS = 2


def _rank(aggregate: object) -> int:
    if isinstance(aggregate, Mean | Variance):
        return 1
    return _SUMS if isinstance(aggregate, Sum) else 0


class _Builder:
    """Collects measurements, each once."""

    def __init__(self, signal: Signal) -> None:
        self.signal = signal
        self.bounds = signal.bounds
        self.clip = isinstance(signal.bounds, ClipNorm)
        # A row count and a unit count are the same integer where each unit keeps at most one row in a partition.
        self.one_row = isinstance(signal.bounds, KeepRandom) and signal.bounds.max_rows_per_partition == 1
        self.measures: dict[tuple[MeasureKind, Code | None, int], Measure] = {}

    def outputs(self, name: str, aggregate: object) -> tuple[Output, ...]:
        """The columns of an aggregate."""
        unit = self.signal.privacy_unit.label
        units_text = f"Number of distinct {unit}s, noisy"
        match aggregate:
            case Count(half_life=half_life) if half_life is not None:
                code = Code(kind=CodeKind.AGE, half_life=half_life)
                measure = self.add(name, MeasureKind.SUM, code, COUNT_STEP)
                text = f"Number of rows, each halved for every {half_life} of age, noisy"
                return (self._linear(name, measure, text, 1.0),)
            case Count():
                text = units_text if self.one_row else "Number of rows, noisy"
                return (self._linear(name, self.rows(name), text, 1.0),)
            case CountDistinct():
                return (self._linear(name, self.units(name), units_text, 1.0),)
            case Sum(column, interval, half_life=half_life):
                return (self._sum(name, column, interval, half_life),)
            case Mean(column, interval):
                return (self._mean(name, column, interval),)
            case Variance(column, interval):
                return (self._variance(name, column, interval),)
            case VectorSum(column, dimension, l2):
                code = Code(kind=CodeKind.VECTOR, column=column, dimension=dimension, l2=l2)
                step = vector_step(l2)
                measure = self.add(name, MeasureKind.VECTOR, code, step)
                text = f"Sum of {column} ({dimension} numbers), each vector clipped to norm {l2:g}, noisy"
                terms = (Term(measure, step),)
                return (
                    Output(
                        name=name,
                        aggregate=name,
                        kind=OutputKind.VECTOR,
                        terms=terms,
                        measure=measure,
                        scale=l2,
                        description=text,
                    ),
                )
            case Histogram() | Quantiles() | TopK():
                return self._counted(name, aggregate)
        raise TypeError(f"no aggregate: {type(aggregate).__name__}")

    def _linear(self, name: str, measure: str, text: str, scale: float) -> Output:
        step = next(m.grid_step for m in self.measures.values() if m.name == measure)
        kind = OutputKind.INTEGER if step == 1.0 and scale == 1.0 else OutputKind.SCALED
        terms = (Term(measure, step),)
        return Output(name=name, aggregate=name, kind=kind, terms=terms, measure=measure, scale=scale, description=text)

    def _sum(self, name: str, column: str, interval: Interval, half_life: timedelta | None) -> Output:
        text = f"Sum of {column} clamped to {_span(interval)}, noisy"
        scale = max(abs(interval.lower), abs(interval.upper))
        code = Code(kind=CodeKind.GRID, column=column, interval=interval, half_life=half_life)
        step = interval.grid_step
        counted = self.measures.get((self._row_kind, None, 0))
        centre = sum(interval.grid) // 2
        if half_life is not None:
            text += f"; each value halved for every {half_life} of age"
        elif counted is not None and centre:
            measure = self.centred(f"{name}.centred_sum", code)
            terms = (Term(measure, step), Term(counted.name, step * centre * counted.grid_step))
            return Output(
                name=name,
                aggregate=name,
                kind=OutputKind.SCALED,
                terms=terms,
                measure=measure,
                scale=scale,
                description=text,
            )
        measure = self.add(name, MeasureKind.SUM, code, step)
        return Output(
            name=name,
            aggregate=name,
            kind=OutputKind.SCALED,
            terms=(Term(measure, step),),
            measure=measure,
            scale=scale,
            description=text,
        )

    def _mean(self, name: str, column: str, interval: Interval) -> Output:
        code = Code(kind=CodeKind.GRID, column=column, interval=interval)
        centred, rows = self.centred(f"{name}.centred_sum", code), self.rows(f"{name}.rows")
        width, step = interval.upper - interval.lower, interval.grid_step
        # The count's noise weighs by the mean's distance from the centre: a quarter of the width, halfway to a bound.
        terms = (Term(centred, step), Term(rows, width / 4 * self._count_step))
        return Output(
            name=name,
            aggregate=name,
            kind=OutputKind.MEAN,
            terms=terms,
            measure=centred,
            count=rows,
            scale=width,
            description=f"Mean of {column} clamped to {_span(interval)}, from a noisy sum and a noisy count",
        )

    def _variance(self, name: str, column: str, interval: Interval) -> Output:
        code = Code(kind=CodeKind.GRID, column=column, interval=interval)
        centred, rows = self.centred(f"{name}.centred_sum", code), self.rows(f"{name}.rows")
        step, middle = interval.grid_step, sum(interval.grid) // 2
        farthest = max(abs(bound - middle) for bound in interval.grid)
        squares = self.add(
            f"{name}.centred_squares",
            MeasureKind.CENTRED_SQUARES,
            code,
            step**2,
            centre=farthest**2 // 2,
            square_centre=middle,
        )
        quarter = (interval.upper - interval.lower) ** 2 / 4
        terms = (
            Term(squares, step**2),
            Term(centred, step * (interval.upper - interval.lower) / 4),
            Term(rows, quarter / 4 * self._count_step),
        )
        return Output(
            name=name,
            aggregate=name,
            kind=OutputKind.VARIANCE,
            terms=terms,
            measure=squares,
            count=rows,
            first=centred,
            scale=quarter,
            description=f"Variance of {column} clamped to {_span(interval)}, from noisy sums and a noisy count",
        )

    def _counted(self, name: str, aggregate: Histogram | Quantiles | TopK) -> tuple[Output, ...]:
        step = self._count_step
        columns = column_names(name, aggregate)
        match aggregate:
            case Histogram(column, edges):
                measure = self.add(
                    name, MeasureKind.BINS, Code(kind=CodeKind.BIN, column=column, edges=edges[1:-1]), step
                )
                kind = OutputKind.BIN
                texts = [
                    f"Number of rows with {column} from {low:g} to {high:g}, noisy"
                    for low, high in itertools.pairwise(edges)
                ]
            case Quantiles(column, interval, probabilities):
                width = (interval.upper - interval.lower) / aggregate.bins
                inner = tuple(interval.lower + width * i for i in range(1, aggregate.bins))
                code = Code(kind=CodeKind.BIN, column=column, edges=inner, interval=interval)
                measure, kind = self.add(name, MeasureKind.TREE, code, step), OutputKind.QUANTILE
                texts = [f"{100 * p:g}th percentile of {column} within {_span(interval)}, noisy" for p in probabilities]
            case TopK(column, candidates, k):
                code = Code(kind=CodeKind.CANDIDATE, column=column, candidates=candidates)
                measure, kind = self.add(name, MeasureKind.BINS, code, step), OutputKind.TOP
                texts = [f"Number {i + 1} among the most frequent {column}, by noisy counts" for i in range(k)]
        chances = aggregate.probabilities if isinstance(aggregate, Quantiles) else (0.0,) * len(columns)
        return tuple(
            Output(
                name=column,
                aggregate=name,
                kind=kind,
                terms=(Term(measure, step),),
                measure=measure,
                index=i,
                probability=chances[i],
                description=texts[i],
            )
            for i, column in enumerate(columns)
        )

    @property
    def _row_kind(self) -> MeasureKind:
        return MeasureKind.UNITS if self.one_row else MeasureKind.ROWS

    @property
    def _count_step(self) -> float:
        return COUNT_STEP if self.clip else 1.0

    def rows(self, name: str) -> str:
        """The measurement that counts rows."""
        return self.add(name, self._row_kind, None, self._count_step)

    def units(self, name: str) -> str:
        """The measurement that counts units."""
        return self.add(name, MeasureKind.UNITS, None, self._count_step)

    def weight(self, name: str, kind: MeasureKind = MeasureKind.WEIGHT) -> str:
        """The measurement of selection weights."""
        return self.add(name, kind, None, 2.0**-20)

    def late(self, name: str) -> str:
        """The measurement of units with rows that came too late: one number for the whole release."""
        return self.add(name, MeasureKind.LATE, None, 1.0)

    def centred(self, name: str, code: Code) -> str:
        """The measurement of a centred sum."""
        assert code.interval is not None
        return self.add(
            name, MeasureKind.CENTRED_SUM, code, code.interval.grid_step, centre=sum(code.interval.grid) // 2
        )

    def add(
        self, name: str, kind: MeasureKind, code: Code | None, step: float, *, centre: int = 0, square_centre: int = 0
    ) -> str:
        """The name of the measurement of this kind, which is new or was there under another name."""
        bounds = self.bounds
        if kind is MeasureKind.LATE:
            bounds = KeepRandom(max_partitions=1, max_rows_per_partition=1)
        if kind in WEIGHTS and isinstance(self.signal.partitions, PrivateSelection):
            scheme = self.signal.partitions.by
            kept = 1 if isinstance(scheme, UnitCount) else scheme.max_keys
            bounds = KeepRandom(max_partitions=kept, max_rows_per_partition=1)
        measure = Measure(
            name=name,
            kind=kind,
            code=code,
            grid_step=step,
            centre=centre,
            bounds=bounds,
            relation=self.signal.privacy_unit.relation,
            square_centre=square_centre,
        )
        return self.measures.setdefault((kind, code, centre), measure).name


def _span(interval: Interval) -> str:
    return f"[{interval.lower:g}, {interval.upper:g}]"
