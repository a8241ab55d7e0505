"""Whether two tables share files, by whatever paths they are known."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.errors import DefinitionError
from pipelines import PublicColumn, PublicJoin, PublicPartitions, PublicTable, Signal
from pipelines.engine.inputs import open_inputs
from pipelines.engine.places import Place
from pipelines.recipes import recipe_of
from tests.support.projects import a_signal


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Private events and a catalogue, each in a folder of its own, and links."""
    for folder in ("private/2025", "catalogue/eu"):
        (tmp_path / folder).mkdir(parents=True)
        columns = {"user_id": [1], "item_id": [2], "ts": [3], "title": ["x"]}
        pq.write_table(pa.table(columns), tmp_path / folder / "part-0.parquet")
    for name, target in {
        "folder": "private",
        "file.parquet": "private/2025/part-0.parquet",
        "round/self": "round",
        "catalogue/eu/back": "catalogue",
        "of_folder/deep": "private/2025",
        "of_file/a.parquet": "private/2025/part-0.parquet",
        "nowhere/a.parquet": "gone.parquet",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / target)
    (tmp_path / "hard").mkdir()
    os.link(tmp_path / "private/2025/part-0.parquet", tmp_path / "hard" / "b.parquet")
    return tmp_path


SHARING = (
    "private",
    "private/2025",
    "private/2025/part-0.parquet",
    "private/2025/../2025/part-0.parquet",
    "catalogue/../private",
    ".",
    "folder",
    "folder/2025/part-0.parquet",
    "file.parquet",
    "of_folder",
    "of_file",
    "of_file/a.parquet",
    "hard",
)
APART = ("catalogue", "catalogue/eu/part-0.parquet", "privates", "privat", "round", "nowhere", "gone.parquet")


@pytest.mark.parametrize("private", ["private", "folder/2025", "private/2025/part-0.parquet", "hard/b.parquet"])
@pytest.mark.parametrize("other", SHARING)
def test_tables_that_share_files(root: Path, private: str, other: str) -> None:
    one, two = Place.of(root, private), Place.of(root, other)
    assert one.shares(two)
    assert two.shares(one)


@pytest.mark.parametrize("other", APART)
def test_tables_that_do_not(root: Path, other: str) -> None:
    one, two = Place.of(root, "private"), Place.of(root, str(root / other))
    assert not one.shares(two)
    assert not two.shares(one)


def test_a_file_of_a_folder_that_is_not_there_yet(root: Path) -> None:
    assert Place.of(root, "private/2025/part-1.parquet").shares(Place.of(root, "folder"))
    assert not Place.of(root, "private/2025/part-1.parquet").shares(Place.of(root, "file.parquet"))


def reading(table: str) -> dict[str, Signal]:
    """Each way in which a signal takes a table for public."""
    public = PublicTable(name="titles", table=table)
    signal = a_signal(source=replace(a_signal().source, table="private/2025"))
    return {
        "join": replace(signal, joins=(PublicJoin(table=public, on="item_id", columns=("title",)),)),
        "keys": replace(signal, partitions=PublicPartitions({"item_id": PublicColumn(table=public, column="item_id")})),
    }


@pytest.mark.parametrize("table", ["folder", "of_file/a.parquet", "."])
@pytest.mark.parametrize("use", ["join", "keys"])
def test_the_engine_takes_no_private_table_for_a_public_one(root: Path, use: str, table: str) -> None:
    """Whoever calls it: without a project, too."""
    signal = reading(table)[use]
    with pytest.raises(DefinitionError, match="shares files with the private events private/2025"):
        open_inputs(signal, recipe_of(signal), root)
