"""Noise, selection and outputs, on summed rows only: the one place where exact sums end.

Noise touches data once. It is a keyed function of (release, measurement, coordinate, partition key), so a task that
Spark runs again, a speculative copy, or a second action computes the same bytes. Exact sums live in memory and in
shuffle blocks, never in a file of ours.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.calibration import Calibration
from pipelines.definitions import Signal
from pipelines.engine.blocks import blocks_of
from pipelines.engine.outputs import Released, tree_levels
from pipelines.engine.sums import int_matrix, merged_sums
from pipelines.measurements import Measure
from pipelines.noise import BLOCK_BYTES, Distribution, NoiseSource, discrete_gaussian, discrete_laplace
from pipelines.recipes import Recipe
from pipelines.thresholds import Selecting

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Noising", "noisy_late"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noise:
    """One measurement's noise by its parameters: tables are rebuilt in the worker, not shipped with the task."""

    measure: Measure
    gaussian: bool
    scale: float

    def distribution(self) -> Distribution:
        return discrete_gaussian(self.scale) if self.gaussian else discrete_laplace(self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noising:
    """From exact sums to released rows; runs in Python workers.

    Attributes:
        source: where noise comes from.
        noises: one for each measurement, in order.
        released: how columns are computed.
        keys: the released names of the keys.
        units: position of the measurement that selects, or None.
        first: position of the first round's, or None.
        selecting: what decides which keys are released, or None.
    """

    source: NoiseSource
    noises: tuple[_Noise, ...]
    released: Released
    keys: tuple[str, ...]
    units: int | None
    first: int | None
    selecting: Selecting | None

    @classmethod
    def of(cls, signal: Signal, recipe: Recipe, calibration: Calibration, source: NoiseSource) -> Noising:
        """For a signal."""
        names = [mechanism.measure.name for mechanism in calibration.summed]
        return cls(
            source=source,
            noises=tuple(
                _Noise(measure=m.measure, gaussian=m.name == "discrete Gaussian", scale=m.distribution.scale)
                for m in calibration.summed
            ),
            released=Released.of(recipe, calibration),
            keys=signal.entity.keys,
            units=None if recipe.units is None else names.index(recipe.units),
            first=None if recipe.first is None else names.index(recipe.first),
            selecting=calibration.selecting,
        )

    def table(self, sums: pa.Table) -> pa.Table:
        """The released rows of some keys, all of whose sums are here.

        Args:
            sums: `__k0 ..`, `__m0 ..`; a key may have several rows, and nulls are zeros.
        """
        import pyarrow as pa

        labels = tuple(f"__k{i}" for i in range(len(self.keys)))
        exact = merged_sums(sums, labels)
        blocks = blocks_of([exact.column(label).combine_chunks() for label in labels])
        noisy = {
            noise.measure.name: self._noisy(noise, int_matrix(exact.column(f"__m{i}")), blocks)
            for i, noise in enumerate(self.noises)
        }
        if self.units is not None and self.selecting is not None:
            first = None if self.first is None else noisy[self.noises[self.first].measure.name]
            selected = self.selecting.selects(noisy[self.noises[self.units].measure.name], first)
            exact = exact.select(labels).filter(pa.array(selected))
            noisy = {name: values[selected] for name, values in noisy.items()}
        columns: dict[str, Any] = {key: exact.column(label) for key, label in zip(self.keys, labels, strict=True)}
        return pa.table(columns | self.released.columns(noisy))

    def _noisy(self, noise: _Noise, exact: NDArray[np.int64], blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        distribution, measure = noise.distribution(), noise.measure
        if exact.ndim == 1:
            return exact + self.source.noise(measure.name, distribution, blocks)
        if not exact.size:
            exact = np.zeros((len(blocks), measure.summed_width), dtype=np.int64)
        noisy = tree_levels(exact, measure.levels) if measure.levels else exact.copy()
        for coordinate in range(noisy.shape[1]):
            noisy[:, coordinate] += self.source.noise(f"{measure.name}[{coordinate}]", distribution, blocks)
        return noisy


def noisy_late(late: int, recipe: Recipe, calibration: Calibration, source: NoiseSource) -> dict[str, Any]:
    """The noisy number of units with rows that came too late, for the manifest; empty where it is not measured."""
    if recipe.late is None:
        return {}
    mechanism = calibration.mechanism(recipe.late)
    block = np.frombuffer(hashlib.sha256(b"late").digest()[:BLOCK_BYTES], dtype=np.uint8).reshape(1, -1)
    noise = int(source.noise(recipe.late, mechanism.distribution, block)[0])
    return {"late_units": late + noise, "noise_stddev": mechanism.noise_stddev}
