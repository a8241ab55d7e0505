"""Tasks in this process, as Spark's workers call them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.engine.layout import Layout
from pipelines.engine.scan import Bucket, parts_of
from pipelines.engine.tasks import Clustered, Sent, Told
from tests.support.kernel import Kernel, plan_of
from tests.support.projects import EVENTS, SPAN, START, a_signal

LAYOUT = Layout(person="user_id", buckets=2, salt=7)
T0, END = int(START.timestamp()), int(SPAN.end.timestamp())


def told(folder: Path, buckets: list[dict[str, Any]]) -> Told:
    """What a task tells of buckets of events, all of them together."""
    signal = a_signal(source=replace(EVENTS, arrival="seen"))
    plan = plan_of(signal, ["user_id", "item_id", "ts", "seen"])
    parts = []
    for index, columns in enumerate(buckets):
        file = folder / f"{index}.parquet"
        n = len(columns["user_id"])
        pq.write_table(pa.table({"item_id": [1] * n, "ts": [T0] * n, **columns}), file)
        parts.append(Bucket(index, parts_of((file,), plan)))
    bounds = Kernel.of(signal).bounds
    sent = Sent(keys=bounds.key_names, partitions=1, wide=False)
    task = Clustered(tasks=(tuple(parts),), plan=plan, bounds=bounds, layout=LAYOUT, sent=sent)
    found = [item for place, item in task([0]) if place == sent.partitions]
    return Told(
        misplaced=max((one.misplaced for one in found), default=-1),
        late_units=sum(one.late_units for one in found),
        sums=sum(one.sums for one in found),
    )


def test_persons_of_other_buckets_are_told_even_if_all_they_did_came_too_late(tmp_path: Path) -> None:
    """Whoever lies in two buckets would be counted twice, and one unit would change the noisy count by two."""
    places = LAYOUT.buckets_for(pa.array(range(20)))
    first, second = (np.flatnonzero(places == bucket).tolist() for bucket in (0, 1))
    late = [END + 1]
    good = [
        {"user_id": [*first, first[0]], "seen": [T0] * len(first) + late},
        {"user_id": [*second, second[0], second[0]], "seen": [T0] * len(second) + 2 * late},
    ]
    assert told(tmp_path, good) == Told(late_units=2, sums=1)
    twice = [good[0], {"user_id": [*second, first[0]], "seen": [T0] * len(second) + late}]
    assert told(tmp_path, twice).misplaced == 1
    in_time = [good[0], {"user_id": [*second, first[0]], "seen": [T0] * (len(second) + 1)}]
    assert told(tmp_path, in_time).misplaced == 1
    alone = [{"user_id": [second[0]], "seen": late}]
    assert told(tmp_path, alone).misplaced == 0
