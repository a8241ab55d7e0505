"""Post-processing of released tables: functions of released values alone, so the guarantee stays as it is.

Proof: if M is delta-approximate rho-zCDP, so is f(M) for every f that does not read the data (Bun and Steinke 2016,
Lemma 2.2 and 8.4). Every step here reads the release, a parent's release, and variances that follow from definitions.

Consistency where children may be missing. Released children have true values t_i and noise e_i of variance v, their
parent's noise is e_P of variance V, and what is missing is `U >= 0`, so the parent's value is `P = sum of t + U + e_P`.
Least squares over t and `U >= 0` leaves the children where they add up to P at most (U takes the rest), and else sets
`U = 0`, which adds `a (P - sum of c)` with `a = v / (V + k v)` to each. No child's error exceeds any bound more often
than before, whatever U is: with `w = e_P - sum of e`, the step acts where `w < -U`. There the error was `r - a w`, with
`r = e_i + a w` independent of w (both are Gaussian, and uncorrelated), and becomes `r + a U`; r is symmetric about zero
and has one mode, and `0 <= a U < -a w`, so `|r + a U|` is the smaller of both in distribution (Anderson 1955). So the
half-width that is told of a child without the step holds with it, and the squared error is no larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from governance.errors import DefinitionError
from governance.release import Manifest
from pipelines.calibration import TWO_SIDED_95
from pipelines.definitions import ConsistentWith, NonNegative, ShrinkTo
from pipelines.engine.hashing import joint_codes
from pipelines.plan import SignalPlan
from pipelines.recipes import UNCERTAIN, not_negative

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Parent", "Step", "steps_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A parent's release: its folder and its manifest."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, with what it needs of the definitions. Travels with the task.

    Attributes:
        step: the declaration.
        columns: the columns it changes.
        keys: the parent's keys; empty without a parent.
        files: the parent's parquet files.
        stddevs: column → noise standard deviation of the child, where it is the same on every row.
        parent_stddevs: the same of the parent.
        lacking: whether children may be missing, so that their parent's value is the most that the others add up to.
    """

    step: NonNegative | ConsistentWith | ShrinkTo
    columns: tuple[str, ...]
    keys: tuple[str, ...]
    files: tuple[str, ...]
    stddevs: Mapping[str, float]
    parent_stddevs: Mapping[str, float]
    lacking: bool = False

    def table(self, released: pa.Table) -> pa.Table:
        """Applies the step to rows that hold all children of their parents."""
        if isinstance(self.step, NonNegative):
            for column in self.columns:
                released = _replaced(released, column, np.maximum(_numbers(released, column), 0))
            return released
        group, parents = self._groups(released)
        for column in self.columns:
            child, parent = _numbers(released, column).astype(np.float64), parents[column]
            if isinstance(self.step, ConsistentWith):
                released = _replaced(released, column, self._consistent(column, child, parent, group))
            else:
                half = _numbers(released, column + UNCERTAIN)
                above = parents[column + UNCERTAIN] / TWO_SIDED_95
                value, uncertain = _shrunk(child, parent, half / TWO_SIDED_95, above, group)
                released = _replaced(released, column, value)
                released = _replaced(released, column + UNCERTAIN, TWO_SIDED_95 * uncertain)
        return released

    def _groups(self, released: pa.Table) -> tuple[NDArray[np.int64], Mapping[str, Floats]]:
        """Each row's parent as a dense code, and each parent's values by code; NaN where there is no such parent."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = self.columns
        if isinstance(self.step, ShrinkTo):
            wanted = (*wanted, *(column + UNCERTAIN for column in wanted))
        columns = [*self.keys, *wanted]
        parents = pa.concat_tables([pq.read_table(file, columns=columns) for file in self.files])
        together = pa.concat_tables(
            [released.select(self.keys), parents.select(self.keys)], promote_options="permissive"
        )
        codes, n = joint_codes(together, self.keys)
        group, of_parent = codes[: released.num_rows], codes[released.num_rows :]
        told = {}
        for column in wanted:
            values_by_code = np.full(n, np.nan)
            values_by_code[of_parent] = _numbers(parents, column)
            told[column] = values_by_code
        return group, told

    def _consistent(self, column: str, child: Floats, parent: Floats, group: NDArray[np.int64]) -> Floats:
        assert isinstance(self.step, ConsistentWith)
        children = np.bincount(group, minlength=len(parent))
        missing = parent - np.bincount(group, child, len(parent))
        if self.lacking:
            missing = np.minimum(missing, 0.0)
        if self.step.exactly:
            shares = missing / np.maximum(children, 1)
        else:
            own, above = self.stddevs[column] ** 2, self.parent_stddevs[column] ** 2
            shares = missing * own / (above + children * own)
        # A parent that was not released says nothing.
        return child + np.nan_to_num(shares, nan=0.0)[group]


def _shrunk(
    child: Floats, parent: Floats, stddev: Floats, parent_stddev: Floats, group: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Means pulled to their parents, and their standard deviation: what is left of their own and of the parents."""
    above = parent[group]
    known = np.isfinite(above)
    noise = np.square(stddev)
    beyond = np.where(known, np.square(child - np.where(known, above, 0.0)) - noise, 0.0)
    counted = np.maximum(np.bincount(group, known, len(parent)), 1)
    between = np.maximum(np.bincount(group, beyond, len(parent)) / counted, 0.0)[group]
    weight = between / np.maximum(between + noise, 1e-300)
    pulled = np.where(known, above + weight * (child - above), child)
    left = np.hypot(np.sqrt(weight) * stddev, (1 - weight) * parent_stddev[group])
    return pulled, np.where(known, left, stddev)


def _numbers(table: pa.Table, column: str) -> NDArray[Any]:
    return np.asarray(table.column(column).to_numpy())


def _replaced(table: pa.Table, column: str, values: NDArray[Any]) -> pa.Table:
    import pyarrow as pa

    new: Any = pa.array(values)
    return table.set_column(table.column_names.index(column), column, new)


def steps_of(plan: SignalPlan, parents: Mapping[str, Parent]) -> tuple[Step, ...]:
    """The declared steps with what they need, checked against the parents' releases.

    Args:
        plan: the signal.
        parents: `<signal>/v<version>` → its release.

    Raises:
        DefinitionError: a parent without the columns or keys that a step needs.
    """
    return tuple(_step(plan, step, parents) for step in plan.signal.post_processing)


def _step(plan: SignalPlan, step: NonNegative | ConsistentWith | ShrinkTo, parents: Mapping[str, Parent]) -> Step:
    signal = plan.signal
    stddevs = {o.name: plan.calibration.stddev(o) for o in plan.recipe.outputs if o.linear}
    if isinstance(step, NonNegative):
        columns = step.columns or not_negative(plan.recipe)
        return Step(step=step, columns=columns, keys=(), files=(), stddevs=stddevs, parent_stddevs={})
    parent = parents[f"{step.signal}/v{step.version}"]
    manifest = parent.manifest
    if not set(manifest.keys) < set(signal.entity.keys):
        raise DefinitionError(
            signal.identity,
            f"post_processing: {step.signal} v{step.version} has the keys {', '.join(manifest.keys)}, allowed: some of "
            f"{', '.join(signal.entity.keys)}, but not all",
        )
    there = {column.name: column for column in manifest.features}
    for column in step.columns:
        if column not in there:
            raise DefinitionError(
                signal.identity,
                f"post_processing: {step.signal} v{step.version} has no column {column!r}, allowed: {', '.join(there)}",
            )
        if isinstance(step, ConsistentWith) and there[column].noise_stddev is None:
            # Taken as exact, its noise would go into the children untold.
            raise DefinitionError(
                signal.identity,
                f"post_processing: {column!r} of {step.signal} v{step.version} tells no noise of its own (it was made "
                "to add up exactly, or is no count or sum), so it cannot be weighed against; leave it out",
            )
    return Step(
        step=step,
        columns=step.columns,
        keys=manifest.keys,
        files=tuple(str(parent.folder / file.name) for file in manifest.files),
        stddevs=stddevs,
        parent_stddevs={name: column.noise_stddev or 0.0 for name, column in there.items()},
        lacking=isinstance(step, ConsistentWith) and signal.may_lack_children(step),
    )
