"""Parquet tables by their footers: what is found, what is refused, and fingerprints that tell nobody anything."""

from __future__ import annotations

import hashlib
import shutil
import stat
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from governance.errors import ColumnMissing, ColumnTypeError, ConfigError, EmptyInput, InputMissing
from pipelines.engine.tables import fingerprint_key, open_table


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "data" / "b.parquet", {"x": [1, 2]})
    write(tmp_path / "data" / "a.parquet", {"x": [3]})
    write(tmp_path / "data" / "day=1" / "c.parquet", {"x": [4]})
    for hidden in ("_temporary/d.parquet", ".e.parquet", "_f.parquet"):
        write(tmp_path / "data" / hidden, {"x": [5]})
    (tmp_path / "data" / "_SUCCESS").write_text("")
    folder = open_table(tmp_path, "data")
    assert [file.name for file in folder.files] == ["a.parquet", "b.parquet", "c.parquet"]
    assert folder.name == "data"
    assert folder.path == (tmp_path / "data").resolve()
    single = open_table(tmp_path, "data/a.parquet")
    assert [file.name for file in single.files] == ["a.parquet"]
    assert open_table(Path("/"), str(tmp_path / "data")).files == folder.files


def test_a_table_below_a_hidden_folder_is_found(tmp_path: Path) -> None:
    """Only what lies hidden within the table is left out."""
    write(tmp_path / "_work" / ".x" / "data" / "a.parquet", {"x": [1]})
    assert len(open_table(tmp_path, "_work/.x/data").files) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: no such file or folder in"),
        ("empty", "empty: the folder has no parquet file"),
        ("text.parquet", r"text\.parquet: cannot be read as parquet \(Arrow"),
        ("cut.parquet", r"cut\.parquet: cannot be read as parquet"),
        ("nothing.parquet", r"nothing\.parquet: cannot be read as parquet"),
        ("mixed", "mixed: cannot be read as parquet"),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.parquet").write_text("user_id,ts\n1,2\n" * 10)
    (tmp_path / "nothing.parquet").write_bytes(b"")
    data = write(tmp_path / "whole.parquet", {"x": list(range(1000))}).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    write(tmp_path / "mixed" / "a.parquet", {"x": [1]})
    (tmp_path / "mixed" / "b.parquet").write_bytes(data[:-1] + b"x")
    with pytest.raises(InputMissing, match=message):
        open_table(tmp_path, name)


def test_no_rows_at_all(tmp_path: Path) -> None:
    none = {"x": pa.array([], pa.int64())}
    write(tmp_path / "none.parquet", none)
    with pytest.raises(EmptyInput, match=r"none\.parquet: the table has no rows"):
        open_table(tmp_path, "none.parquet")
    write(tmp_path / "some" / "a.parquet", none)
    with pytest.raises(EmptyInput):
        open_table(tmp_path, "some")
    write(tmp_path / "some" / "b.parquet", {"x": [1]})
    assert len(open_table(tmp_path, "some").files) == 2


COLUMNS: dict[str, pa.Array] = {
    "int8": pa.array([1], pa.int8()),
    "int64": pa.array([1], pa.int64()),
    "text": pa.array(["a"], pa.string()),
    "large_text": pa.array(["a"], pa.large_string()),
    "day": pa.array([date(2025, 1, 1)], pa.date32()),
    "moment": pa.array([datetime(2025, 1, 1)], pa.timestamp("us", "UTC")),  # noqa: DTZ001
    "naive": pa.array([datetime(2025, 1, 1)], pa.timestamp("us")),  # noqa: DTZ001
    "float": pa.array([1.0], pa.float32()),
    "double": pa.array([1.0], pa.float64()),
    "decimal": pa.array([Decimal("1.5")], pa.decimal128(10, 2)),
    "truth": pa.array([True]),
    "bytes": pa.array([b"a"]),
    "texts": pa.array([["a"]], pa.list_(pa.string())),
    "record": pa.array([{"a": 1}]),
}
WHOLE, TEXT = {"int8", "int64"}, {"text", "large_text"}
FITS = {
    "unit": WHOLE | TEXT,
    "key": WHOLE | TEXT | {"day"},
    "time": WHOLE | {"moment", "naive"},
    "value": WHOLE | {"float", "double", "decimal"},
    "list": {"texts"},
}


@pytest.mark.parametrize("role", FITS)
def test_each_role_takes_its_types(tmp_path: Path, role: str) -> None:
    write(tmp_path / "t.parquet", COLUMNS)
    table = open_table(tmp_path, "t.parquet")
    for column in COLUMNS:
        if column in FITS[role]:
            table.require(column, role)
        else:
            with pytest.raises(ColumnTypeError, match=f"t.parquet: column '{column}' has type") as caught:
                table.require(column, role)
            assert (caught.value.table, caught.value.column) == ("t.parquet", column)
    with pytest.raises(ColumnMissing, match=r"t\.parquet: column 'absent' is missing; found: int8, int64"):
        table.require("absent", role)


def test_nulls_by_the_footers(tmp_path: Path) -> None:
    """Known to be without nulls: by every row group of every file. Without statistics nothing is known."""
    write(tmp_path / "a.parquet", {"x": [1, 2, 3, 4], "y": [1, None, 3, 4], "z": [1, 2, 3, None]}, row_group_size=2)
    assert open_table(tmp_path, "a.parquet").without_nulls == {"x"}
    write(tmp_path / "s.parquet", {"x": [1], "y": [1]}, write_statistics=["y"])
    assert open_table(tmp_path, "s.parquet").without_nulls == {"y"}
    write(tmp_path / "n.parquet", {"x": [1], "y": [1]}, write_statistics=False)
    assert open_table(tmp_path, "n.parquet").without_nulls == frozenset()
    write(tmp_path / "many" / "1.parquet", {"x": [1], "y": [1]})
    write(tmp_path / "many" / "2.parquet", {"x": pa.array([None], pa.int64()), "y": [1]})
    assert open_table(tmp_path, "many").without_nulls == {"y"}
    write(tmp_path / "many" / "3.parquet", {"x": pa.array([], pa.int64()), "y": pa.array([], pa.int64())})
    assert open_table(tmp_path, "many").without_nulls == {"y"}
    write(tmp_path / "many" / "4.parquet", {"x": [1], "y": [1]}, write_statistics=False)
    assert open_table(tmp_path, "many").without_nulls == frozenset()
    write(tmp_path / "d.parquet", {"x": [{"y": None}], "x.y": [1], "y": [1]})
    assert open_table(tmp_path, "d.parquet").without_nulls == {"y"}, "a struct's field has the path of a column"


def test_fingerprints_follow_the_content_alone(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a.parquet", {"x": [1]})
    write(tmp_path / "one" / "b.parquet", {"x": [2]})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = open_table(tmp_path, "one"), open_table(tmp_path, "two")
    assert one.public_fingerprint() == two.public_fingerprint()
    digests = b"".join(hashlib.sha256(file.read_bytes()).digest() for file in one.files)
    content = hashlib.sha256(digests).digest()
    assert one.public_fingerprint() == f"sha256:{content.hex()}"
    write(tmp_path / "two" / "b.parquet", {"x": [3]})
    changed = open_table(tmp_path, "two")
    assert changed.public_fingerprint() != one.public_fingerprint()
    (tmp_path / "one" / "a.parquet").rename(tmp_path / "one" / "c.parquet")
    assert open_table(tmp_path, "one").public_fingerprint() != f"sha256:{content.hex()}", "the files' order counts"


def test_the_fingerprint_key_is_made_once_and_kept_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "fingerprint.key"
    key = fingerprint_key(path)
    assert len(key) == 32
    assert fingerprint_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fingerprint_key(tmp_path / "other.key") != key


@pytest.mark.parametrize("content", [b"", b"short", b"k" * 33])
def test_a_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """An empty key would make fingerprints that anyone can test a guess against."""
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"key: found {len(content)} bytes, allowed: 32"):
        fingerprint_key(tmp_path / "key")
