"""What a release's files hold."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.exchange import unpacked
from pipelines.engine.release import Sums
from pipelines.engine.tasks import Told
from pipelines.noise import NoiseSource

__all__ = ["released_table", "summed_table"]


def released_table(sums: Sums, source: NoiseSource, files: int = 1) -> pa.Table:
    """The released rows, file after file."""
    with tempfile.TemporaryDirectory() as folder:
        written = sums.write(source, Path(folder) / "out", files=files)
        return pa.concat_tables([pq.read_table(file) for file in written]).combine_chunks()


def summed_table(sums: Sums) -> pa.Table:
    """The exact sums, each key once for each task that met it."""
    items = sums.exact.items.collect()
    found = unpacked([data for _, data in items if not isinstance(data, Told)])
    assert found is not None
    return found
