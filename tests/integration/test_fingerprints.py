"""Fingerprints of events follow what the window's rows were read from, to the byte, and nothing else."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import Count, Signal, VectorSum
from pipelines.engine.inputs import open_inputs
from pipelines.engine.session import spark_context
from pipelines.fingerprints import events_fingerprint
from pipelines.recipes import recipe_of
from pipelines.windows import Span
from tests.support.projects import SPAN, a_signal, engine_settings, make_events

KEY = b"k" * 32
SECOND = Span(SPAN.end, SPAN.end + timedelta(days=7))
SIGNAL = a_signal(aggregates={"users": Count(), "v": VectorSum("vector", 3, 1.0)})


def fingerprint(root: Path, signal: Signal = SIGNAL, span: Span = SPAN, key: bytes = KEY) -> str:
    recipe = recipe_of(signal)
    inputs = open_inputs(signal, recipe, root)
    spark = spark_context(engine_settings(root).spark)
    found = events_fingerprint(signal, recipe, inputs, span, key, spark)
    assert (found.access, found.columns) == ("private", inputs.event_columns)
    return found.fingerprint


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three row groups, a week each, of the columns that are read and of others."""
    events = pa.table(make_events(events=300)).sort_by("ts")
    folder = tmp_path / "data/events.parquet"
    folder.mkdir(parents=True)
    weeks = (events.column("ts").to_numpy() - int(SPAN.start.timestamp())) // (7 * 86400)
    with pq.ParquetWriter(folder / "part-0.parquet", events.schema) as writer:
        for week in range(3):
            writer.write_table(events.filter(pa.array(weeks == week)))
    return folder / "part-0.parquet"


def flipped(file: Path, group: int, column: str) -> None:
    """Changes the last byte of a column chunk; footers stay as they are."""
    footer = pq.read_metadata(file)
    chunks = [footer.row_group(group).column(index) for index in range(footer.num_columns)]
    [chunk] = [one for one in chunks if one.path_in_schema.split(".")[0] == column]
    first = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)))
    data = bytearray(file.read_bytes())
    data[first + chunk.total_compressed_size - 1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("column", ["user_id", "item_id", "ts", "vector"])
def test_every_byte_that_is_read_counts(file: Path, tmp_path: Path, column: str) -> None:
    before = fingerprint(tmp_path)
    flipped(file, 0, column)
    assert fingerprint(tmp_path) != before


def test_what_is_not_read_does_not_count(file: Path, tmp_path: Path) -> None:
    before = fingerprint(tmp_path)
    for group, column in ((0, "value"), (0, "tag"), (1, "user_id"), (2, "ts")):
        flipped(file, group, column)
    assert fingerprint(tmp_path) == before
    assert fingerprint(tmp_path, a_signal()) != before, "other columns"
    assert fingerprint(tmp_path, span=SECOND) != before, "another window"
    assert fingerprint(tmp_path, key=b"l" * 32) != before, "another installation"


def test_later_events_leave_it_as_it_was(file: Path, tmp_path: Path) -> None:
    before, after = fingerprint(tmp_path), fingerprint(tmp_path, span=SECOND)
    later = pq.ParquetFile(file).read_row_group(1)
    pq.write_table(later, file.with_name("part-1.parquet"))
    assert fingerprint(tmp_path) == before
    assert fingerprint(tmp_path, span=SECOND) != after


def test_a_copy_elsewhere_has_the_same_and_order_counts(file: Path, tmp_path: Path) -> None:
    """So that a release's events can be recognised in a backup; rows in another order are another input."""
    shutil.copytree(tmp_path / "data", tmp_path / "copy/data")
    (tmp_path / "copy/data/events.parquet/part-0.parquet").rename(tmp_path / "copy/data/events.parquet/other.parquet")
    assert fingerprint(tmp_path / "copy") == fingerprint(tmp_path)
    table = pq.read_table(file)
    pq.write_table(table.take(pa.array(range(table.num_rows)[::-1])), file)
    assert fingerprint(tmp_path / "copy") != fingerprint(tmp_path)


def test_a_window_without_events_has_one_too(file: Path, tmp_path: Path) -> None:
    assert file.is_file()
    empty = Span(SPAN.start - timedelta(days=70), SPAN.start - timedelta(days=63))
    assert fingerprint(tmp_path, span=empty).startswith("hmac-sha256:")
