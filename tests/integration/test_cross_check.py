"""What the statistical tests repeat without Spark is what Spark releases: the same bytes, for every case of theirs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.settings import Settings
from pipelines.engine.inputs import open_inputs
from pipelines.engine.kernel import Salts
from pipelines.engine.release import Engine
from pipelines.engine.session import spark_context
from pipelines.noise import KeyedNoise, ReleaseKey
from tests.support.cross_checked import CASES, table_rows
from tests.support.projects import SPAN, engine_settings
from tests.support.repeated import Repeated, side_by_side
from tests.support.written import released_table

KEY = ReleaseKey(bytes(range(32)))
RUNS = 5


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The statistical tests' table, five runs of it, shuffled into three files."""
    root = tmp_path_factory.mktemp("cross-check")
    events = side_by_side(table_rows(), RUNS)
    order = np.random.default_rng(1).permutation(events.num_rows)
    folder = root / "data" / "events.parquet"
    folder.mkdir(parents=True)
    for index, part in enumerate(np.array_split(order, 3)):
        pq.write_table(events.take(pa.array(part)), folder / f"part-{index}.parquet")
    return engine_settings(root)


FAST = ("user, sampled", "event, sampled", "user-day, clipped", "replaced user, clipped")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_spark_releases_what_the_repeated_runs_release(name: str, settings: Settings) -> None:
    plan = CASES[name].plan(runs=RUNS)
    repeated = Repeated(signal=plan.signal, recipe=plan.recipe, calibration=plan.calibration, span=SPAN)
    expected = repeated.release(side_by_side(table_rows(), RUNS), range(RUNS), KEY)
    engine = Engine(
        plan=plan,
        inputs=open_inputs(plan.signal, plan.recipe, settings.root),
        span=SPAN,
        salts=Salts(rows=KEY.salt("rows"), partitions=KEY.salt("partitions")),
    )
    with engine.sums(spark_context(settings.spark)) as sums:
        found = released_table(sums, KeyedNoise(KEY))
    keys = [(key, "ascending") for key in plan.signal.entity.keys]
    assert found.num_rows == RUNS * 4
    assert found.column_names == expected.column_names
    assert found.sort_by(keys).to_pydict() == expected.sort_by(keys).to_pydict()
