"""Many releases of one small table at once, without Spark: keyed runs side by side, each with units of its own.

`run` is a part of the entity and of every unit's id, so that runs share neither sample nor noise; and each block of
runs has a release key of its own, as each run of the engine has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks._sparkless import Sparkless
from pipelines.calibration import Calibration
from pipelines.definitions import Entity, PublicPartitions, Signal
from pipelines.noise import ReleaseKey
from pipelines.recipes import Recipe
from pipelines.windows import Span
from tests.support.projects import a_signal

__all__ = ["IDS", "Repeated", "repeatable", "side_by_side"]

IDS = 1000
"""Ids of units within a run lie below."""

Columns = dict[str, NDArray[Any]]


def repeatable(items: Sequence[int], runs: int = 1, **changes: Any) -> Signal:
    """A signal whose entity has the run beside the item; both are public."""
    domains = {"run": tuple(range(runs)), "item_id": tuple(items)}
    return a_signal(entity=Entity("item", ("run", "item_id")), partitions=PublicPartitions(domains), **changes)


def side_by_side(rows: Sequence[dict[str, Any]], runs: int, first: int = 0) -> pa.Table:
    """The same rows once for each run; `user_id` and `event_id` are told apart by the run."""
    names = [name for name in rows[0] if name != "vector"]
    run = np.repeat(np.arange(first, first + runs), len(rows))
    columns: dict[str, Any] = {"run": pa.array(run)}
    for name in names:
        values = np.tile(np.array([row[name] for row in rows]), runs)
        columns[name] = pa.array(run * IDS + values if name in ("user_id", "event_id") else values)
    vectors = np.tile(np.array([row["vector"] for row in rows]), (runs, 1))
    offsets = np.arange(len(run) + 1, dtype=np.int32) * vectors.shape[1]
    columns["vector"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(vectors.reshape(-1)))
    return pa.table(columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A signal with its noise, released again and again.

    Attributes:
        signal: from `repeatable`.
        recipe: its measurements.
        calibration: their noise.
        span: the window.
    """

    signal: Signal
    recipe: Recipe
    calibration: Calibration
    span: Span

    def release(self, events: pa.Table, runs: Sequence[int], key: ReleaseKey) -> pa.Table:
        """One release with this key, of these runs."""
        engine = Sparkless(signal=self.signal, recipe=self.recipe, calibration=self.calibration, key=key)
        items = self._items
        sums = engine.sums(events, end=int(self.span.end.timestamp()), domains=(None, tuple(items.tolist())))
        sums.append(engine.without_sums((np.repeat(runs, len(items)), np.tile(items, len(runs)))))
        return engine.released(sums)

    def columns(self, rows: Sequence[dict[str, Any]], runs: int, blocks: int, seed: str) -> Columns:
        """Released columns, each of shape `(runs, items)`, or with one more dimension for vectors.

        Args:
            rows: of one run.
            runs: in all.
            blocks: release keys; runs are divided among them.
            seed: of the keys.
        """
        each = runs // blocks
        released = []
        for block in range(blocks):
            key = ReleaseKey(f"{seed} {block}".encode())
            table = self.release(side_by_side(rows, each, block * each), range(block * each, (block + 1) * each), key)
            released.append(table)
        return self._arranged(pa.concat_tables(released), runs)

    @property
    def _items(self) -> NDArray[np.int64]:
        assert isinstance(self.signal.partitions, PublicPartitions)
        items: Any = self.signal.partitions.domains["item_id"]
        return np.array(items, dtype=np.int64)

    def _arranged(self, released: pa.Table, runs: int) -> Columns:
        items = self._items
        place = released.column("run").to_numpy() * len(items)
        place = place + np.searchsorted(items, released.column("item_id").to_numpy())
        assert sorted(place.tolist()) == list(range(runs * len(items))), "every public key once, and no other"
        order = np.argsort(place)
        columns: Columns = {}
        for name in released.column_names[2:]:
            values = released.column(name).combine_chunks()
            if pa.types.is_list(values.type):
                matrix = values.flatten().to_numpy().astype(np.float64).reshape(released.num_rows, -1)[order]
                columns |= {f"{name}[{j}]": matrix[:, j].reshape(runs, -1) for j in range(matrix.shape[1])}
            else:
                numbers = values.to_numpy(zero_copy_only=False)[order].reshape(runs, -1)
                columns[name] = numbers if numbers.dtype == object else numbers.astype(np.float64)
        return columns
