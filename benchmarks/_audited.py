"""What the audit runs: the engine without Spark, many independent runs at once, on neighbors chosen to be worst.

Each run has users of its own, and `run` is one more key of the entity. So one call of the engine bounds, sums, noises
and selects thousands of runs side by side, each with its own sample and its own noise (benchmarks._sparkless).

A **case** is a signal and two tables that differ by one unit. The unit does the most that its bounds allow in every
partition it touches, and then as much again, which the bounds must cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks._sparkless import Sparkless
from pipelines.accounting import GaussianEvent, LaplaceEvent, plan_epsilon, released_epsilon
from pipelines.calibration import Calibration, calibrate
from pipelines.definitions import (
    ZCDP,
    AdaptiveWeights,
    ClipNorm,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PrivateSelection,
    PublicPartitions,
    PureDP,
    Purpose,
    Quantiles,
    Relation,
    Signal,
    Sum,
    TopK,
    UnitKind,
    Variance,
    VectorSum,
    WeightedUnits,
    Window,
)
from pipelines.engine.kernel import Bounds
from pipelines.engine.noisy import Noising, noisy_late
from pipelines.engine.rows import Values
from pipelines.engine.tasks import _distinct_units
from pipelines.noise import Distribution, KeyedNoise, NoiseSource, ReleaseKey
from pipelines.profile import profile_signal
from pipelines.recipes import Recipe, recipe_of
from pipelines.unit_rows import STEPS, UnitRows

__all__ = ["CASES", "FAULTS", "SOUND", "Case", "Fault", "Laboratory"]

START = datetime(2025, 11, 3, tzinfo=UTC)
DAY = 86400
END = int(START.timestamp()) + 7 * DAY
USERS = 100
HALF, ALL = (0, 1, 2, 3), tuple(range(8))
KEPT_ROWS = 3
BOUNDS = KeepRandom(max_partitions=4, max_rows_per_partition=KEPT_ROWS)
MANY = KeepRandom(max_partitions=len(ALL), max_rows_per_partition=1)
EXPOSED = 0.009
_MOST_AT_ONCE = 20_000
GRID = Interval(-1, 5)
RHO = 0.5
"""Claims of mu = 1: small enough to be of interest, large enough to be seen in some 10,000 runs."""

Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Rows of one run: of `users` users each, in each of `items`, `rows` rows with these values, or late, in turn."""

    first_user: int
    users: int
    items: tuple[int, ...]
    rows: int
    values: tuple[float, ...] = (2.0,)
    vector: tuple[float, ...] = (0.1, -0.2, 0.3)
    late: tuple[bool, ...] = (False,)

    def columns(self) -> dict[str, Any]:
        """As columns of one run."""
        shape = (self.users, len(self.items), self.rows)
        n = int(np.prod(shape))
        users, items, rows = (index.ravel() for index in np.indices(shape))
        return {
            "user": self.first_user + users,
            "event": self.first_user + users,
            "item": np.array(self.items, dtype=np.int64)[items],
            "value": np.resize(np.array(self.values), self.rows)[rows],
            "choice": np.resize(np.array(self.values), self.rows)[rows].astype(np.int64),
            "ts": np.full(n, END - 1, dtype=np.int64),
            "seen": np.where(np.resize(np.array(self.late), self.rows)[rows], END + 3600 + 1, END + 3600),
            "vector": np.tile(np.array(self.vector), (n, 1)),
        }


CROWD = Events(first_user=0, users=2, items=HALF, rows=KEPT_ROWS, values=(0.0, 2.0, 5.0))
UNIT = Events(first_user=99, users=1, items=HALF, rows=2 * KEPT_ROWS, values=(5.0,), vector=(4.0, 4.0, 4.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One audited signal.

    Attributes:
        name: what is audited.
        aggregates: of the signal.
        without: the table without the unit.
        unit: its rows.
        instead: its rows on the other neighbor, where one unit is replaced.
        more: further statistics of the attacker, computed from released columns of shape `(runs, items)`.
        changes: fields of the signal that differ from the usual ones.
    """

    name: str
    aggregates: Mapping[str, Any]
    without: tuple[Events, ...] = (CROWD,)
    unit: Events = UNIT
    instead: Events | None = None
    more: Callable[[Columns], list[NDArray[np.float64]]] = field(default=lambda _: [])
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> tuple[int, ...]:
        """The public keys: all that anybody has on either side."""
        events = (*self.without, self.unit, *(() if self.instead is None else (self.instead,)))
        return tuple(sorted({item for one in events for item in one.items}))

    @property
    def definition(self) -> Signal:
        """A signal over the events, with `run` as a part of the entity."""
        fields: dict[str, Any] = {
            "name": self.name,
            "version": 1,
            "owner": "audit",
            "purpose": Purpose.ANALYTICS,
            "description": "Audited.",
            "source": EventSource(name="events", table="events", timestamp="ts", person="user"),
            "privacy_unit": PrivacyUnit("user"),
            "entity": Entity("item", ("run", "item")),
            "aggregates": self.aggregates,
            "window": Window(timedelta(days=7)),
            "bounds": BOUNDS,
            "partitions": PublicPartitions({"run": (0,), "item": self.items}),
            "budget_per_release": ZCDP(RHO),
            "ttl": timedelta(days=14),
        }
        return Signal(**fields | dict(self.changes))

    @property
    def signal(self) -> Signal:
        """What is released."""
        return self.definition


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileCase(Case):
    """The profile of a signal: units by how many of its keys they have, over a table with one row a unit."""

    @property
    def items(self) -> tuple[int, ...]:
        """Steps of numbers of keys."""
        return STEPS[: STEPS.index(len(ALL)) + 1]

    @property
    def signal(self) -> Signal:
        """The derived signal, with `run` as a part of the entity."""
        return replace(
            profile_signal(self.definition, RHO, "units"),
            entity=Entity("step", ("run", "partitions")),
            partitions=PublicPartitions({"run": (0,), "partitions": self.items}),
        )

    def units(self, events: pa.Table, change: Callable[[pa.Table], pa.Table]) -> pa.Table:
        """The table with one row for each unit, by the functions that Spark's workers call.

        Args:
            events: raw.
            change: of the pairs of a unit and a key, for planted faults.
        """
        signal = self.definition
        recipe = recipe_of(signal)
        engine = Sparkless(
            signal=signal,
            recipe=recipe,
            calibration=calibrate(signal, recipe, reporting_delta=0.01),
            key=ReleaseKey.fresh(),
        )
        # The run is told by the user, and is no key of the profiled signal.
        plan = replace(engine.row_plan(events, END), keys=("item",), domains=(Values(given=ALL),), codes=())
        rows = UnitRows.of(signal, plan, ("integer",), ("integer",))
        units = rows.rows(change(pa.Table.from_batches(rows.pairs(iter([(events, True)])))))
        return units.append_column("run", pa.array(units.column("user").to_numpy() // USERS))


def _mean_sums(columns: Columns) -> list[NDArray[np.float64]]:
    """The noisy centred sum behind a mean, which the count released beside it gives back."""
    count = np.maximum(columns["n"], 1.0)
    return [(columns["m"] - 2.0) * count]


def _variance_sums(columns: Columns) -> list[NDArray[np.float64]]:
    count = np.maximum(columns["n"], 1.0)
    return [*_mean_sums(columns), (columns["v"] + np.square(columns["m"] - 2.0)) * count]


CASES = (
    Case(name="count", aggregates={"n": Count()}),
    Case(name="count_of_empty_groups", aggregates={"n": Count()}, without=()),
    Case(
        name="count_distinct",
        aggregates={"u": CountDistinct()},
        without=(replace(CROWD, items=ALL, rows=1),),
        unit=replace(UNIT, items=ALL, rows=2),
        changes={"bounds": MANY},
    ),
    Case(name="sum", aggregates={"s": Sum("value", GRID)}),
    Case(
        name="count_and_sum",
        aggregates={"n": Count(), "s": Sum("value", GRID)},
        unit=replace(UNIT, values=(-1.0,)),
    ),
    Case(
        name="count_of_a_scattered_unit",
        aggregates={"n": Count()},
        changes={"bounds": KeepRandom(max_partitions=1, max_rows_per_partition=KEPT_ROWS)},
    ),
    Case(name="mean", aggregates={"n": Count(), "m": Mean("value", GRID)}, more=_mean_sums),
    Case(
        name="variance",
        aggregates={"n": Count(), "m": Mean("value", GRID), "v": Variance("value", GRID)},
        more=_variance_sums,
    ),
    Case(name="histogram", aggregates={"h": Histogram("value", (-1.0, 1.0, 3.0, 5.0))}),
    Case(name="quantiles", aggregates={"q": Quantiles("value", GRID, (0.25, 0.5, 0.9), bins=16)}),
    Case(
        name="top_k",
        aggregates={"t": TopK("choice", (2, 5), 1)},
        without=(replace(CROWD, values=(2.0, 2.0, 5.0)),),
    ),
    Case(name="vector_sum", aggregates={"v": VectorSum("vector", 3, 1.0)}),
    Case(name="decayed_count", aggregates={"n": Count(half_life=timedelta(days=2))}),
    Case(name="decayed_sum", aggregates={"s": Sum("value", GRID, half_life=timedelta(days=2))}),
    Case(
        name="clipped_norm",
        aggregates={"n": Count(), "s": Sum("value", GRID)},
        changes={"bounds": ClipNorm(l2=3.0)},
    ),
    Case(
        name="selection_by_units",
        aggregates={"u": CountDistinct()},
        without=(replace(CROWD, items=ALL, users=20, rows=1),),
        unit=replace(UNIT, items=ALL, rows=2),
        changes={"partitions": PrivateSelection(delta=EXPOSED), "bounds": MANY},
    ),
    Case(
        name="selection_of_a_unit_s_own_keys",
        aggregates={"u": CountDistinct()},
        without=(CROWD,),
        unit=replace(UNIT, items=ALL[4:]),
        changes={"partitions": PrivateSelection(delta=EXPOSED), "budget_per_release": ZCDP(0.02)},
    ),
    Case(
        name="selection_by_weight",
        aggregates={"u": CountDistinct()},
        without=(replace(CROWD, users=20, rows=1),),
        unit=UNIT,
        changes={"partitions": PrivateSelection(delta=EXPOSED, by=WeightedUnits(max_keys=4))},
    ),
    Case(
        name="selection_in_two_rounds",
        aggregates={"u": CountDistinct()},
        without=(replace(CROWD, users=12, rows=1),),
        unit=UNIT,
        changes={"partitions": PrivateSelection(delta=EXPOSED, by=AdaptiveWeights(max_keys=4, first=0.5))},
    ),
    Case(
        name="two_rounds_of_a_unit_s_own_keys",
        aggregates={"u": CountDistinct()},
        without=(replace(CROWD, items=(0, 1), users=40, rows=1),),
        # The first round finds what others have too, and the second gives all of the unit's weight to a key of its own.
        unit=replace(UNIT, items=(0, 1, 7)),
        changes={
            "partitions": PrivateSelection(delta=EXPOSED, by=AdaptiveWeights(max_keys=4, first=0.5)),
            "budget_per_release": ZCDP(0.1),
        },
    ),
    Case(
        name="pure_dp_count",
        aggregates={"n": Count()},
        unit=replace(UNIT, items=(0,)),
        changes={"bounds": KeepRandom(max_partitions=1, max_rows_per_partition=3), "budget_per_release": PureDP(1.0)},
    ),
    Case(
        name="replaced_unit",
        aggregates={"n": Count()},
        instead=replace(UNIT, items=ALL[4:]),
        changes={"privacy_unit": PrivacyUnit("user", relation=Relation.REPLACE_ONE)},
    ),
    Case(
        name="user_day",
        aggregates={"n": Count()},
        changes={"privacy_unit": PrivacyUnit("user", per=timedelta(days=1))},
    ),
    Case(
        name="late_units",
        aggregates={"n": Count()},
        without=(replace(CROWD, rows=2 * KEPT_ROWS, late=(False, True)),),
        unit=replace(UNIT, rows=8 * KEPT_ROWS, late=(False, True)),
        changes={
            "source": EventSource(name="events", table="events", timestamp="ts", person="user", arrival="seen"),
            "window": Window(timedelta(days=7), allowed_lateness=timedelta(hours=1)),
        },
    ),
    ProfileCase(
        name="profile",
        aggregates={"n": Count()},
        without=(replace(CROWD, rows=1),),
        unit=replace(UNIT, items=ALL, rows=2),
    ),
    Case(
        name="one_event",
        aggregates={"n": Count(), "s": Sum("value", GRID)},
        changes={"privacy_unit": PrivacyUnit("event", kind=UnitKind.EVENT)},
    ),
)
"""Every aggregate, bounding, selection, unit and mechanism."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A change to the engine's parts that breaks its promise; the sound engine changes none.

    Attributes:
        name: what is broken.
        case: name of the case in which it is looked for.
        pairs: replaces the pairs of a unit and a key that it has, from which a profile counts.
        bounds: replaces the kernel's bounds.
        noising: replaces the noise stage.
        late: how many units of one run came too late, by their rows that did.
        empty_groups: whether public keys without people are released.
    """

    name: str
    case: str = ""
    pairs: Callable[[pa.Table], pa.Table] = field(default=lambda pairs: pairs)
    bounds: Callable[[Bounds], Bounds] = field(default=lambda bounds: bounds)
    noising: Callable[[Noising], Noising] = field(default=lambda noising: noising)
    late: Callable[[pa.Table], int] = field(default=_distinct_units)
    empty_groups: bool = True


SOUND = Fault(name="none")


class Laboratory:
    """Runs a case; noise and samples are fresh unless a seed is given."""

    def __init__(self, case: Case, fault: Fault = SOUND, seed: int | None = None) -> None:
        self.case, self.fault, self.seed = case, fault, seed
        self.signal = case.signal
        self.recipe: Recipe = recipe_of(self.signal)
        self.calibration: Calibration = calibrate(self.signal, self.recipe, reporting_delta=0.01)

    @property
    def exposure_claim(self) -> float:
        """How often any of the keys that the unit has alone may show; 0 where it has none."""
        own = set(self.case.unit.items) - {item for events in self.case.without for item in events.items}
        return float(self.calibration.selection_delta) if own else 0.0

    def claim(self, delta: float) -> float:
        """Epsilon that the engine's noise is said to prove at `delta`."""
        selection = float(self.calibration.selection_delta)
        if isinstance(self.signal.budget_per_release, PureDP):
            events = [
                LaplaceEvent(linf=m.measure.linf, scale=m.distribution.scale, coordinates=m.measure.l0)
                for m in self.calibration.mechanisms
            ]
            return plan_epsilon(events, delta)
        noises = self.calibration.mechanisms
        if isinstance(self.signal.bounds, ClipNorm):
            gaussians = [
                GaussianEvent.jointly(
                    rho=sum(m.rho for m in noises),
                    smallest_sigma=min(m.distribution.scale for m in noises),
                    coordinates=sum(m.measure.changed for m in noises),
                )
            ]
        else:
            gaussians = [
                GaussianEvent(l2=m.measure.l2, sigma=m.distribution.scale, coordinates=m.measure.changed)
                for m in noises
            ]
        equal_keys = (
            isinstance(self.signal.bounds, KeepRandom)
            and self.signal.privacy_unit.relation is Relation.ADD_REMOVE_ONE
            and self.recipe.first is None
        )
        return released_epsilon(gaussians, delta, selection, equal_keys=equal_keys)

    def outputs(self, runs: int, *, with_unit: bool) -> NDArray[np.float64]:
        """What an attacker sees of so many runs: shape `(runs, features)`."""
        sizes = [min(_MOST_AT_ONCE, runs - done) for done in range(0, runs, _MOST_AT_ONCE)]
        return np.concatenate([self._outputs(size, i, with_unit=with_unit) for i, size in enumerate(sizes)])

    def _outputs(self, runs: int, batch: int, *, with_unit: bool) -> NDArray[np.float64]:
        key = ReleaseKey.fresh()
        if self.seed is not None:
            key = ReleaseKey(f"{self.seed} {self.case.name} {batch} {with_unit}".encode())
        engine = Sparkless(signal=self.signal, recipe=self.recipe, calibration=self.calibration, key=key)
        with TemporaryDirectory(prefix="hedgerow-audit-") as folder:
            features = self._features(self._released(engine, runs, Path(folder), with_unit=with_unit), runs)
        if self.recipe.late is None:
            return features
        return np.concatenate([features, self._late(engine, runs, key, with_unit=with_unit)], axis=1)

    def _late(self, engine: Sparkless, runs: int, key: ReleaseKey, *, with_unit: bool) -> NDArray[np.float64]:
        """What each run's manifest says of late units: a release of its own has noise of its own. Shape `(runs, 1)`."""
        rows = engine.late(self._table(runs, with_unit=with_unit), end=END)
        of_run = rows.column("__u0").to_numpy() // USERS
        edges = np.searchsorted(of_run, np.arange(runs + 1))  # the table's rows are in the order of runs
        told = np.zeros((runs, 1))
        for run in range(runs):
            late = self.fault.late(rows.slice(edges[run], edges[run + 1] - edges[run]))
            source = KeyedNoise(ReleaseKey(key.derive(f"run {run}")))
            told[run] = noisy_late(late, self.recipe, self.calibration, source)["late_units"]
        return told

    def _released(self, engine: Sparkless, runs: int, folder: Path, *, with_unit: bool) -> pa.Table:
        table, domains = self._table(runs, with_unit=with_unit), (None, self.case.items)
        if isinstance(self.case, ProfileCase):
            table = self.case.units(table, self.fault.pairs)
        found = None
        if self.recipe.first is not None:
            weights = engine.sums(table, end=END, domains=domains, change=self.fault.bounds, first=True)
            found = engine.first_round(weights, folder)
        sums = engine.sums(table, end=END, domains=domains, change=self.fault.bounds, found=found)
        public = isinstance(self.signal.partitions, PublicPartitions) and self.fault.empty_groups
        items = np.array(self.case.items if public else (), dtype=np.int64)
        sums.append(engine.without_sums((np.repeat(np.arange(runs), len(items)), np.tile(items, runs))))
        return engine.released(sums, change=self.fault.noising)

    def _events(self, *, with_unit: bool) -> tuple[Events, ...]:
        if with_unit:
            return (*self.case.without, self.case.unit)
        return self.case.without if self.case.instead is None else (*self.case.without, self.case.instead)

    def _table(self, runs: int, *, with_unit: bool) -> pa.Table:
        parts = [events.columns() for events in self._events(with_unit=with_unit)]
        # A user of no known item, so that a table without anybody else has its columns; it is dropped.
        parts.append(Events(first_user=0, users=1, items=(-1,), rows=1).columns())
        one = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        n = len(one["user"])
        vectors = pa.array(np.tile(one.pop("vector"), (runs, 1)).reshape(-1))
        columns: dict[str, Any] = {name: pa.array(np.tile(values, runs)) for name, values in one.items()}
        run = np.repeat(np.arange(runs), n)
        columns |= {"run": pa.array(run), "user": pa.array(run * USERS + np.tile(one["user"], runs))}
        columns["event"] = columns["user"]
        columns["vector"] = pa.ListArray.from_arrays(
            pa.array(np.arange(0, 3 * n * runs + 1, 3, dtype=np.int32)), vectors
        )
        return pa.table(columns)

    def _features(self, released: pa.Table, runs: int) -> NDArray[np.float64]:
        items = self.case.items
        place = released.column("run").to_numpy() * len(items)
        place = place + np.searchsorted(items, released.column(self.signal.entity.keys[1]).to_numpy())
        columns = {"released": np.ones(released.num_rows)}
        for name in released.column_names[len(self.signal.entity.keys) :]:
            values = released.column(name).combine_chunks()
            if pa.types.is_list(values.type):
                matrix = values.flatten().to_numpy().astype(np.float64).reshape(released.num_rows, -1)
                columns |= {f"{name}[{i}]": matrix[:, i] for i in range(matrix.shape[1])}
            else:
                columns[name] = values.to_numpy(zero_copy_only=False).astype(np.float64)
        spread = {}
        for name, values in columns.items():
            spread[name] = np.zeros(runs * len(items))
            spread[name][place] = values
            spread[name] = spread[name].reshape(runs, len(items))
        return np.concatenate([*spread.values(), *self.case.more(spread)], axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Averaged:
    """Noise drawn twice, of which the mean is used."""

    first: NoiseSource
    second: NoiseSource
    label: str = "averaged"

    def noise(self, measurement: str, distribution: Distribution, blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        drawn = [source.noise(measurement, distribution, blocks) for source in (self.first, self.second)]
        return np.asarray((drawn[0] + drawn[1]) // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SameForAll:
    """Noise that does not depend on the partition."""

    source: NoiseSource
    label: str = "same for all"

    def noise(self, measurement: str, distribution: Distribution, blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        return self.source.noise(measurement, distribution, np.repeat(blocks[:1], len(blocks), axis=0))


def _half_scale(noising: Noising) -> Noising:
    return replace(noising, noises=tuple(replace(noise, scale=noise.scale / 2) for noise in noising.noises))


def _averaged(noising: Noising) -> Noising:
    again = KeyedNoise(ReleaseKey.fresh())
    return replace(noising, source=_Averaged(first=noising.source, second=again))


def _units_of_one_key(pairs: pa.Table) -> pa.Table:
    """As if each key that a unit has belonged to a unit of its own, of the same run."""
    users = pairs.column("__u0").to_numpy()
    first = np.searchsorted(users, users // USERS * USERS, sorter=(order := np.argsort(users, kind="stable")))
    own = np.empty_like(users)
    own[order] = users[order] // USERS * USERS + np.arange(len(users)) - first[order]
    return pairs.set_column(0, "__u0", pa.array(own))


FAULTS = (
    Fault(name="noise_at_half_scale", case="count_and_sum", noising=_half_scale),
    Fault(name="noise_drawn_twice_and_averaged", case="count_and_sum", noising=_averaged),
    Fault(
        name="one_noise_for_all_keys",
        case="count",
        noising=lambda noising: replace(noising, source=_SameForAll(source=noising.source)),
    ),
    Fault(
        name="rows_not_bounded",
        case="count",
        bounds=lambda bounds: replace(bounds, max_rows=None),
    ),
    Fault(
        name="partitions_not_bounded",
        case="count_of_a_scattered_unit",
        bounds=lambda bounds: replace(bounds, max_partitions=None),
    ),
    Fault(name="norm_not_clipped", case="clipped_norm", bounds=lambda bounds: replace(bounds, norm=1e9)),
    Fault(
        name="keys_released_without_threshold",
        case="selection_of_a_unit_s_own_keys",
        noising=lambda noising: replace(noising, selecting=None),
    ),
    Fault(name="profile_counts_a_unit_for_each_of_its_keys", case="profile", pairs=_units_of_one_key),
    Fault(name="late_rows_counted_for_units", case="late_units", late=lambda rows: rows.num_rows),
    Fault(name="empty_groups_left_out", case="count_of_empty_groups", empty_groups=False),
)
"""Ways to break the promise that the audit must catch."""
