"""The layout's value: what it refuses, who belongs where, and codes of numbers without hashing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from governance.errors import EmptyInput, LayoutCorrupt
from pipelines.engine.hashing import dense_codes
from pipelines.engine.layout import LAYOUT_NAME, Layout, LayoutFile
from pipelines.engine.tables import open_table

LAYOUT = Layout(person="user_id", buckets=7, salt=2**62 + 1, batches=("a",), inputs=("00",))


def test_a_layout_survives_its_bytes(tmp_path: Path) -> None:
    layout = replace(LAYOUT, files=(LayoutFile(path="bucket=0003/a-0.parquet", bucket=3, bytes=12),))
    (tmp_path / LAYOUT_NAME).write_bytes(layout.to_bytes())
    assert Layout.read(tmp_path) == layout


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"[]",
        b"null",
        LAYOUT.to_bytes().replace(b"layout/1", b"layout/2"),
        LAYOUT.to_bytes().replace(b'"buckets":7', b'"buckets":0'),
        LAYOUT.to_bytes().replace(b'"batches":["a"]', b'"batches":3'),
        LAYOUT.to_bytes().replace(b'"inputs"', b'"more"'),
        replace(LAYOUT, files=(LayoutFile(path="x", bucket=7, bytes=1),)).to_bytes(),
    ],
)
def test_what_is_no_layout_is_refused(change: bytes, tmp_path: Path) -> None:
    (tmp_path / LAYOUT_NAME).write_bytes(change)
    with pytest.raises(LayoutCorrupt, match="ingest the events again"):
        Layout.read(tmp_path)


def test_a_table_without_a_whole_batch_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / LAYOUT_NAME).write_bytes(LAYOUT.to_bytes())
    with pytest.raises(EmptyInput):
        open_table(tmp_path.parent, tmp_path.name)


def test_a_person_has_one_bucket_whatever_the_type_and_the_company() -> None:
    people = [5, -1, 5, 2**62, 0]
    buckets = LAYOUT.buckets_for(pa.array(people))
    assert buckets[0] == buckets[2]
    assert [int(LAYOUT.buckets_for(pa.array([one]))[0]) for one in people] == buckets.tolist()
    texts = LAYOUT.buckets_for(pa.array(["ü", "a", "ü"]))
    assert texts[0] == texts[2] == LAYOUT.buckets_for(pa.array(["ü"]))[0]


def test_somebody_of_another_bucket_is_noticed() -> None:
    people = np.arange(1000)
    buckets = LAYOUT.buckets_for(pa.array(people))
    LAYOUT.check_bucket(pa.chunked_array([people[buckets == 3]]), 3)
    stranger = np.append(people[buckets == 3], people[buckets == 4][:1])
    with pytest.raises(LayoutCorrupt, match="bucket 3"):
        LAYOUT.check_bucket(pa.chunked_array([stranger]), 3)


def test_persons_are_spread_evenly() -> None:
    """Chi-squared with 6 degrees of freedom: above 27.9 with probability 1e-4 if buckets are uniform."""
    found = np.bincount(LAYOUT.buckets_for(pa.array(np.arange(70_000))), minlength=7)
    assert ((found - 10_000) ** 2 / 10_000).sum() < 27.9


@pytest.mark.parametrize(
    "values",
    [
        [3, 1, 2, 3],
        [-(2**63), 2**63 - 1, 0, 0],
        [10**15, 10**15, 2 * 10**15, 3 * 10**15],  # sorted runs
        [10**15, 10**15, 2 * 10**15, 10**15],  # a run that comes back
        [7],
        ["b", "a", "b"],
    ],
)
def test_codes_are_equal_exactly_where_values_are(values: list[Any]) -> None:
    codes, distinct = dense_codes(pa.array(values))
    assert [distinct[code].as_py() for code in codes.tolist()] == values
    assert sorted(set(codes.tolist())) == list(range(len(distinct))) == list(range(len(set(values))))
