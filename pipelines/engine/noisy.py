"""Noise, selection and outputs, on aggregated rows only: the one place where exact sums end.

Noise touches data once. It is a keyed function of (release, measurement, partition key), so a task that Spark runs
again, a speculative copy, or a second action computes the same bytes. Exact sums live in memory and in shuffle
blocks, never in a file of ours.

The partition's 128-bit block is `SHA-256(hex of each key column's bytes, joined by commas)[:16]`: of the bytes, because
a text that is not valid UTF-8 would turn into replacement characters on its way through a string function, and two such
keys would share their noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.calibration import Calibration
from pipelines.definitions import Signal
from pipelines.measurements import OutputKind, Recipe
from pipelines.noise import BLOCK_BYTES, Distribution, NoiseSource, discrete_gaussian, discrete_laplace

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyspark.sql import DataFrame

__all__ = ["add_noise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Noise:
    """One measurement's noise by its parameters: tables are rebuilt in the worker, not shipped with the task."""

    measurement: str
    gaussian: bool
    scale: float

    def distribution(self) -> Distribution:
        return discrete_gaussian(self.scale) if self.gaussian else discrete_laplace(self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """One output: which measurements it uses, by position."""

    name: str
    kind: OutputKind
    measure: int
    count: int | None
    grid_step: float
    centre: int
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What runs in the Python worker, on Arrow batches of aggregated rows."""

    source: NoiseSource
    noises: tuple[_Noise, ...]
    columns: tuple[_Column, ...]
    keys: tuple[str, ...]
    units: int | None
    threshold: int | None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        distributions = [noise.distribution() for noise in self.noises]
        for batch in batches:
            if batch.num_rows:
                yield self._released(batch, distributions)

    def _released(self, batch: pa.RecordBatch, distributions: list[Distribution]) -> pa.RecordBatch:
        import numpy as np
        import pyarrow as pa

        blocks = np.frombuffer(_concatenated(batch.column("__digest")), dtype=np.uint8).reshape(-1, 32)
        blocks = blocks[:, :BLOCK_BYTES]
        noisy = [
            batch.column(f"__m{i}").to_numpy(zero_copy_only=False).astype(np.int64)
            + self.source.noise(noise.measurement, distribution, blocks)
            for i, (noise, distribution) in enumerate(zip(self.noises, distributions, strict=True))
        ]
        arrays = [batch.column(f"__k{i}") for i in range(len(self.keys))]
        arrays += [pa.array(_output(column, noisy)) for column in self.columns]
        released = pa.RecordBatch.from_arrays(arrays, names=[*self.keys, *(column.name for column in self.columns)])
        if self.units is None or self.threshold is None:
            return released
        return released.filter(pa.array(noisy[self.units] >= self.threshold))


def _concatenated(digests: pa.Array[Any]) -> bytes:
    """The 32-byte digests one after the other, without a Python object for each."""
    import pyarrow as pa

    fixed = digests.cast(pa.binary(32))
    data = fixed.buffers()[1]
    return b"" if data is None else data.to_pybytes()[32 * fixed.offset : 32 * (fixed.offset + len(fixed))]


def _output(column: _Column, noisy: list[NDArray[np.int64]]) -> NDArray[Any]:
    """A released column from noisy integers: post-processing."""
    import numpy as np

    sums = noisy[column.measure]
    if column.kind is OutputKind.INTEGER or column.count is None:
        return sums if column.kind is OutputKind.INTEGER else sums * column.grid_step
    centred = sums / np.maximum(noisy[column.count], 1)
    return np.clip((centred + column.centre) * column.grid_step, column.lower, column.upper)


def add_noise(
    sums: DataFrame, signal: Signal, recipe: Recipe, calibration: Calibration, source: NoiseSource, *, files: int = 1
) -> DataFrame:
    """The released table: the entity's keys and the signal's outputs, in `files` partitions sorted by key.

    Counts are int64, sums and means float64. Rows below the selection threshold are dropped.

    Which row lands in which file, and where, is a function of the released rows alone: they are exchanged once more
    after selection. Otherwise Spark would split files by the exact sizes before it, unselected keys included.
    """
    from pyspark.sql import functions as F

    names = [mechanism.measure.name for mechanism in calibration.mechanisms]
    stage = _Stage(
        source=source,
        noises=tuple(
            _Noise(
                measurement=mechanism.measure.name,
                gaussian=mechanism.name == "discrete Gaussian",
                scale=mechanism.distribution.scale,
            )
            for mechanism in calibration.mechanisms
        ),
        columns=tuple(
            _Column(
                name=output.name,
                kind=output.kind,
                measure=names.index(output.measure),
                count=None if output.count is None else names.index(output.count),
                grid_step=(measure := recipe.measure(output.measure)).grid_step,
                centre=measure.centre,
                lower=0.0 if measure.interval is None else measure.interval.lower,
                upper=0.0 if measure.interval is None else measure.interval.upper,
            )
            for output in recipe.outputs
        ),
        keys=signal.entity.keys,
        units=None if recipe.units is None else names.index(recipe.units),
        threshold=calibration.threshold,
    )
    keys = [f"__k{i}" for i in range(len(signal.entity.keys))]
    texts = (F.hex(F.col(key).cast("string").cast("binary")) for key in keys)
    digest = F.unhex(F.sha2(F.concat_ws(",", *texts), 256))
    types = dict(sums.dtypes)
    schema = ", ".join(
        [
            *(f"`{name}` {types[key]}" for name, key in zip(signal.entity.keys, keys, strict=True)),
            *(f"`{o.name}` {'bigint' if o.kind is OutputKind.INTEGER else 'double'}" for o in recipe.outputs),
        ]
    )
    released = sums.withColumn("__digest", digest).mapInArrow(stage, schema)
    return released.repartition(files, *signal.entity.keys).sortWithinPartitions(*signal.entity.keys)
