"""The first of two rounds of selection: which keys it found, so that the second spends no weight on them.

Its noisy weights count again in the second round (pipelines.thresholds, where the guarantee is proved): noise is a
function of the key, so the second round, which sums the first one's weights again, meets the same draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.engine.blocks import blocks_of
from pipelines.engine.hashing import joint_codes
from pipelines.engine.sums import int_matrix, merged_sums
from pipelines.noise import NoiseSource, discrete_gaussian

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FirstRound", "Found"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRound:
    """From exact weights to the keys that the first round finds; runs in the Python worker.

    Attributes:
        source: where noise comes from.
        measurement: its name.
        sigma: of the noise, in grid steps.
        threshold: smallest noisy weight that is found.
        keys: number of key columns.
    """

    source: NoiseSource
    measurement: str
    sigma: float
    threshold: int
    keys: int

    def table(self, sums: pa.Table) -> pa.Table:
        """The keys found among those whose weights are all here."""
        import pyarrow as pa

        labels = tuple(f"__k{i}" for i in range(self.keys))
        exact = merged_sums(sums, labels)
        blocks = blocks_of([exact.column(label).combine_chunks() for label in labels])
        noise = self.source.noise(self.measurement, discrete_gaussian(self.sigma), blocks)
        found = int_matrix(exact.column("__m0")) + noise >= self.threshold
        return exact.select(labels).filter(pa.array(found))


@dataclass(frozen=True, slots=True)
class Found:
    """The keys of the first round, in parquet files that every worker can read."""

    folder: str

    def among(self, keys: Mapping[str, pa.Array[Any] | pa.ChunkedArray[Any]]) -> NDArray[np.bool_]:
        """Which of some keys were found, shape `(n,)`.

        Args:
            keys: `__k0 ..`, n values each.
        """
        import pyarrow as pa

        found = _found(self.folder)
        columns: dict[str, Any] = dict(keys)
        asked = pa.table(columns)
        if not found.num_rows:
            return np.zeros(asked.num_rows, dtype=np.bool_)
        together = pa.concat_tables([asked, found.select(asked.column_names).cast(asked.schema)])
        codes, _ = joint_codes(together, asked.column_names)
        return np.isin(codes[: asked.num_rows], codes[asked.num_rows :])


@lru_cache(maxsize=2)
def _found(folder: str) -> pa.Table:
    """A folder is written once, by one run, before anybody reads it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.concat_tables([pq.read_table(file) for file in sorted(Path(folder).glob("part-*.parquet"))])
