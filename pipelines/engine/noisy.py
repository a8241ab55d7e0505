"""Noise, selection and outputs, on summed rows only: the one place where exact sums end.

Noise touches data once. It is a keyed function of (release, measurement, coordinate, partition key), so a task that
Spark runs again, a speculative copy, or a second action computes the same bytes. Exact sums live in memory and in
shuffle blocks, never in a file of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.calibration import Calibration
from pipelines.definitions import PublicPartitions, Signal
from pipelines.engine.blocks import blocks_of
from pipelines.engine.first_round import Found
from pipelines.engine.inputs import SignalInputs, public_values
from pipelines.engine.outputs import Released, tree_levels
from pipelines.engine.sums import int_matrix, merged_sums
from pipelines.measurements import Measure
from pipelines.noise import BLOCK_BYTES, Distribution, NoiseSource, discrete_gaussian, discrete_laplace
from pipelines.recipes import Recipe

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Noising", "add_noise", "noisy_late"]


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
    """From exact sums to released rows; runs in the Python worker.

    Attributes:
        source: where noise comes from.
        noises: one for each measurement, in order.
        released: how columns are computed.
        keys: the released names of the keys.
        units: position of the measurement that selects, or None.
        threshold: smallest noisy value of it that is released.
        found: keys that a first round found already, or None.
    """

    source: NoiseSource
    noises: tuple[_Noise, ...]
    released: Released
    keys: tuple[str, ...]
    units: int | None
    threshold: int | None
    found: Found | None = None

    @classmethod
    def of(
        cls,
        signal: Signal,
        recipe: Recipe,
        calibration: Calibration,
        source: NoiseSource,
        found: Found | None = None,
    ) -> Noising:
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
            threshold=calibration.threshold,
            found=found,
        )

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The released rows of a Spark partition, which holds all sums of its keys."""
        import pyarrow as pa

        held = [batch for batch in batches if batch.num_rows]
        if held:
            yield from self.table(pa.Table.from_batches(held)).to_batches()

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
        if self.units is not None and self.threshold is not None:
            selected = noisy[self.noises[self.units].measure.name] >= self.threshold
            if self.found is not None:
                selected |= self.found.among({label: exact.column(label) for label in labels})
            exact = exact.select(labels).filter(pa.array(selected))
            noisy = {name: values[selected] for name, values in noisy.items()}
        columns: dict[str, Any] = {key: exact.column(label) for key, label in zip(self.keys, labels, strict=True)}
        return pa.table(columns | self.released.columns(noisy))

    def _noisy(self, noise: _Noise, exact: NDArray[np.int64], blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        distribution, measure = noise.distribution(), noise.measure
        if measure.width == 1 and exact.ndim == 1:
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


def add_noise(
    sums: DataFrame,
    signal: Signal,
    recipe: Recipe,
    calibration: Calibration,
    source: NoiseSource,
    inputs: SignalInputs,
    spark: SparkSession,
    found: Found | None = None,
) -> DataFrame:
    """The released table: the entity's keys and the signal's outputs, in no particular order.

    With public partitions every public key gets a row, noise alone where nobody is. With private selection rows below
    the threshold are dropped.

    Args:
        sums: what `bounding.bound` gives.
        signal: the definition.
        recipe: its measurements and outputs.
        calibration: its noise.
        source: where the noise comes from.
        inputs: for the public keys.
        spark: the session.
        found: keys of a first round.
    """
    from pyspark.sql import functions as F

    keys = [f"__k{i}" for i in range(len(signal.entity.keys))]
    measures = [f"__m{i}" for i in range(len(calibration.summed))]
    types = dict(sums.dtypes)
    exact = sums.where(F.col("__k0").isNotNull()).select(*keys, *measures)
    if isinstance(signal.partitions, PublicPartitions):
        public = _public_keys(signal, signal.partitions, inputs, types, spark)
        empty = [F.lit(None).cast(types[name]).alias(name) for name in measures]
        exact = exact.unionByName(public.select(*keys, *empty))
    noising = Noising.of(signal, recipe, calibration, source, found)
    schema = ", ".join(
        [
            *(f"`{name}` {types[key]}" for name, key in zip(signal.entity.keys, keys, strict=True)),
            *(f"`{name}` {kind}" for name, kind in released_types(recipe).items()),
        ]
    )
    return exact.repartition(*keys).mapInArrow(noising, schema)


def released_types(recipe: Recipe) -> Mapping[str, str]:
    """Released column → Spark type."""
    return {column.name: _SPARK_TYPES[column.type] for column in recipe.columns}


_SPARK_TYPES = {"int64": "bigint", "float64": "double", "string": "string", "vector": "array<float>"}


def _public_keys(
    signal: Signal, partitions: PublicPartitions, inputs: SignalInputs, types: dict[str, str], spark: SparkSession
) -> DataFrame:
    from pyspark.sql import functions as F

    product: DataFrame | None = None
    for i, key in enumerate(signal.entity.keys):
        name = f"__k{i}"
        values = public_values(partitions, inputs, key, types[name], spark).withColumnRenamed(key, name)
        product = values if product is None else product.crossJoin(F.broadcast(values))
    assert product is not None
    return product
