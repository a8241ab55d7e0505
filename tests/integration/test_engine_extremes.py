"""Extremes through Spark: a million groups, one user with all rows, all users with one row; and noise a million times.

The noise of a million released rows is held against the exact distribution (`tests.statistical.exact`): false alarms
with probability 1e-6, a scale that is a tenth off is rejected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import (
    ZCDP,
    Count,
    CountDistinct,
    KeepRandom,
    PrivateSelection,
    PublicColumn,
    PublicPartitions,
    Signal,
    Sum,
)
from pipelines.definitions import Interval
from pipelines.engine.inputs import open_inputs
from pipelines.engine.kernel import Salts
from pipelines.engine.release import Engine
from pipelines.engine.session import spark_context
from pipelines.noise import KeyedNoise, NoiseSource, ReleaseKey, ZeroNoise
from pipelines.plan import plan_signal
from tests.statistical.exact import edges_of, expected_cells, fits, gaussian_weight, observed_cells
from tests.support.projects import ITEMS, SPAN, START, a_signal, engine_settings
from tests.support.written import released_table

KEY = ReleaseKey(bytes(range(32)))
T0 = int(START.timestamp())


def write(root: Path, users: Any, items: Any, *, groups: int, rows: int) -> None:
    data = root / "data"
    data.mkdir(parents=True, exist_ok=True)
    value = np.arange(rows) % 64 / 8
    table = pa.table({"user_id": users, "item_id": items, "value": value, "ts": T0 + np.arange(rows) % 600_000})
    pq.write_table(table, data / "events.parquet", row_group_size=200_000)
    pq.write_table(pa.table({"item_id": np.arange(groups)}), data / "items.parquet")


def released(signal: Signal, root: Path, source: NoiseSource) -> tuple[pa.Table, float]:
    """The released rows by item, and sigma of the first measurement's noise."""
    settings = engine_settings(root)
    plan = plan_signal(signal, settings)
    engine = Engine(
        plan=plan,
        inputs=open_inputs(signal, plan.recipe, settings.root),
        span=SPAN,
        salts=Salts(rows=KEY.salt("rows"), partitions=KEY.salt("partitions")),
    )
    with engine.sums(spark_context(settings.spark)) as sums:
        table = released_table(sums, source, files=3).sort_by("item_id")
    return table, plan.calibration.mechanisms[0].distribution.scale


@pytest.mark.long
def test_a_million_groups_of_whom_half_are_empty(tmp_path: Path) -> None:
    """Half a million users with one row each, in a group of their own; a million public keys, and then private ones."""
    groups, users = 1_000_000, 500_000
    write(tmp_path, np.arange(users), 2 * np.arange(users), groups=groups, rows=users)
    one = KeepRandom(max_partitions=1, max_rows_per_partition=1)
    public = PublicPartitions({"item_id": PublicColumn(table=ITEMS, column="item_id")})
    signal = a_signal(aggregates={"n": Count()}, bounds=one, partitions=public, budget_per_release=ZCDP(0.02))
    table, sigma = released(signal, tmp_path, KeyedNoise(KEY))
    assert table.column("item_id").to_numpy().tolist() == list(range(groups))
    noisy = table.column("n").to_numpy()
    edges = edges_of(sigma)
    for noise in (noisy[::2] - 1, noisy[1::2]):  # groups of one user, and of nobody
        observed = observed_cells(noise, edges)
        assert fits(observed, expected_cells(gaussian_weight(sigma), edges, 400))
        for wrong in (1.1 * sigma, sigma / 1.1):
            assert not fits(observed, expected_cells(gaussian_weight(wrong), edges, 400)), "a wrong scale must show"
    private = a_signal(
        aggregates={"n": Count()}, bounds=one, partitions=PrivateSelection(delta=1e-9), budget_per_release=ZCDP(0.02)
    )
    none, _ = released(private, tmp_path, KeyedNoise(KEY))
    assert none.num_rows == 0, "half a million keys of one user each: one shows with probability 5e-4 at most"
    assert none.column_names == ["item_id", "n"]


def test_one_user_with_all_rows_counts_within_the_bounds(tmp_path: Path) -> None:
    rows, groups = 300_000, 50
    write(tmp_path, np.zeros(rows, np.int64), np.arange(rows) % groups, groups=groups, rows=rows)
    signal = a_signal(
        aggregates={"u": CountDistinct(), "n": Count(), "s": Sum("value", Interval(0, 8, step=0.125))},
        bounds=KeepRandom(max_partitions=7, max_rows_per_partition=4),
        partitions=PublicPartitions({"item_id": PublicColumn(table=ITEMS, column="item_id")}),
    )
    table, _ = released(signal, tmp_path, ZeroNoise())
    assert table.num_rows == groups
    kept = table.filter(pa.compute.greater(table.column("u"), 0)).to_pylist()
    assert [(row["u"], row["n"]) for row in kept] == [(1, 4)] * 7
    assert all(0 < row["s"] <= 4 * 8 for row in kept)
    assert pa.compute.sum(table.column("s")).as_py() == pytest.approx(sum(row["s"] for row in kept))


def test_all_users_with_one_row_lose_nothing(tmp_path: Path) -> None:
    rows, groups = 200_000, 11
    write(tmp_path, np.arange(rows), np.arange(rows) % groups, groups=groups, rows=rows)
    signal = a_signal(
        aggregates={"u": CountDistinct(), "s": Sum("value", Interval(0, 8, step=0.125))},
        bounds=KeepRandom(max_partitions=1, max_rows_per_partition=1),
    )
    table, _ = released(signal, tmp_path, ZeroNoise())
    value = np.arange(rows) % 64 / 8
    assert table.column("u").to_pylist() == np.bincount(np.arange(rows) % groups).tolist()
    assert table.column("s").to_pylist() == pytest.approx(np.bincount(np.arange(rows) % groups, value).tolist())
