"""The engine in one process makes what it makes on Spark: sums and public keys without any are of the same types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from benchmarks._sparkless import Sparkless
from pipelines import Count, Histogram, PublicPartitions, TopK, VectorSum
from pipelines.calibration import calibrate
from pipelines.noise import ReleaseKey
from pipelines.recipes import recipe_of
from tests.support.projects import SPAN, START, a_signal


@pytest.mark.parametrize(
    "aggregate",
    [
        Count(),
        Histogram("value", (0, 5)),
        Histogram("value", (0, 1, 5)),
        TopK("tag", ("a",), 1),
        VectorSum("vector", 1, 1.0),
        VectorSum("vector", 2, 1.0),
    ],
    ids=str,
)
def test_public_keys_with_and_without_anybody(aggregate: Any) -> None:
    signal = a_signal(aggregates={"a": aggregate}, partitions=PublicPartitions({"item_id": (1, 2)}))
    recipe = recipe_of(signal)
    engine = Sparkless(
        signal=signal, recipe=recipe, calibration=calibrate(signal, recipe, 1e-6), key=ReleaseKey(bytes(32))
    )
    width = getattr(aggregate, "dimension", 1)
    columns: dict[str, Any] = {
        "user_id": [1, 2, 3],
        "item_id": [1, 1, 1],
        "ts": [int(START.timestamp())] * 3,
        "value": [0.5, 1.5, 2.5],
        "tag": ["a", "b", "a"],
        "vector": [[0.1] * width] * 3,
    }
    events = pa.table(columns)
    sums = engine.sums(events, end=int(SPAN.end.timestamp()), domains=((1, 2),))
    released = engine.released([*sums, engine.without_sums((np.array([1, 2]),))])
    assert set(released.column("item_id").to_pylist()) == {1, 2}
    assert released.num_rows == 2
