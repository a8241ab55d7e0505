"""Parquet tables as the engine finds them: files, columns, types, nulls by their footers, and fingerprints.

Only footers are read here; the rows are read by tasks (scan.py).
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance.canonical import sha256_file
from governance.errors import ColumnMissing, ColumnTypeError, ConfigError, EmptyInput, InputMissing, NullValue
from governance.files import write_atomic
from pipelines.engine.layout import LAYOUT_NAME, Layout

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Table", "fingerprint_key", "kind_of", "leaves_of", "open_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A parquet table.

    Attributes:
        name: its path as configured, for messages.
        path: absolute.
        files: its parquet files, sorted.
        schema: of the first file.
        rows: how many rows it has: private where the table is; it sizes buffers and is told to nobody.
        without_nulls: columns of which every footer says that they have no null.
        with_nulls: columns of which some footer says that they have one.
        layout: how `hedgerow ingest` laid it out, or None.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    schema: pa.Schema
    rows: int
    without_nulls: frozenset[str]
    with_nulls: frozenset[str]
    layout: Layout | None = None

    def type_of(self, column: str) -> pa.DataType:
        """A column's type.

        Raises:
            ColumnMissing: no such column.
        """
        if column not in self.schema.names:
            raise ColumnMissing(self.name, column, tuple(self.schema.names))
        kind: pa.DataType = self.schema.field(column).type
        return kind

    def element_type(self, column: str) -> pa.DataType:
        """The type of a list column's elements.

        Raises:
            ColumnMissing, ColumnTypeError: no such column, or it holds no lists.
        """
        self.require(column, "list")
        found: Any = self.type_of(column)
        element: pa.DataType = found.value_type
        return element

    def kind(self, column: str) -> str:
        """A column's kind, as `kind_of` tells it."""
        return kind_of(self.type_of(column))

    def require(self, column: str, role: str, *, element: bool = False) -> None:
        """Checks that a column is there and that its type fits its role: unit, key, time, value, list or vector.

        Args:
            column: its name.
            role: what it is to be used for.
            element: whether the column holds lists, whose elements are meant.

        Raises:
            ColumnMissing, ColumnTypeError
        """
        found = self.element_type(column) if element else self.type_of(column)
        kinds, allowed = _ROLES[role]
        if kind_of(found) not in kinds:
            raise ColumnTypeError(self.name, column, str(found), allowed)

    def require_no_nulls(self, column: str, role: str) -> None:
        """Checks that a public column has no null, nor a list of it one; where footers do not settle it, by reading.

        Raises:
            NullValue: it has.
            InputMissing: the table cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if column in self.with_nulls:
            raise NullValue(self.name, column, role)
        if column in self.without_nulls:
            return
        try:
            for file in self.files:
                with pq.ParquetFile(file, memory_map=True) as opened:
                    for batch in opened.iter_batches(columns=[column], use_threads=False):
                        values: Any = batch.column(column)
                        lists = kind_of(values.type) in ("list", "vector")
                        if values.null_count or (lists and values.flatten().null_count):
                            raise NullValue(self.name, column, role)
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(self.name, error) from None

    def public_fingerprint(self) -> str:
        """`sha256:<hex>` over the files' hashes, in name order."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(bytes.fromhex(sha256_file(file)))
        return f"sha256:{digest.hexdigest()}"


_ROLES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "unit": (("integer", "text"), "whole numbers (up to 64 bits, signed), strings"),
    "key": (("integer", "text", "date"), "whole numbers (up to 64 bits, signed), strings, dates"),
    "time": (("time", "integer"), "timestamps, whole Unix seconds"),
    "value": (("integer", "number"), "numbers"),
    "list": (("list", "vector"), "lists"),
    "vector": (("vector",), "lists of numbers"),
}


def kind_of(found: pa.DataType) -> str:
    """What a type is to the engine: `integer`, `text`, `date`, `time`, `number`, `vector`, `list` or `other`.

    A vector is a list of numbers, whole ones too.
    """
    from pyarrow import types

    if types.is_list(found) or types.is_large_list(found):
        return "vector" if kind_of(found.value_type) in ("integer", "number") else "list"
    kinds = {
        "integer": types.is_integer(found) and not types.is_uint64(found),
        "text": types.is_string(found) or types.is_large_string(found),
        "date": types.is_date(found),
        "time": types.is_timestamp(found),
        "number": types.is_floating(found) or types.is_decimal(found) or types.is_uint64(found),
    }
    return next((kind for kind, fits in kinds.items() if fits), "other")


def open_table(root: Path, name: str) -> Table:
    """Finds a table and reads its footers.

    Args:
        root: the project's folder.
        name: parquet file or folder, relative to it or absolute.

    Raises:
        InputMissing: nothing there, or not parquet.
        EmptyInput: no row.
        LayoutCorrupt: it is laid out by person, and its files are not as its layout says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = (root / name).resolve()
    layout = Layout.read(path) if (path / LAYOUT_NAME).is_file() else None
    if layout is not None:
        files = layout.files_in(path)
        if not files:
            raise EmptyInput(name)
    elif path.is_dir():
        hidden = ("_", ".")
        files = tuple(
            sorted(
                file
                for file in path.rglob("*.parquet")
                if not any(part.startswith(hidden) for part in file.relative_to(path).parts)
            )
        )
        if not files:
            raise InputMissing(
                f"{name}: the folder has no parquet file; point the source at the events' folder or file"
            )
    elif path.is_file():
        files = (path,)
    else:
        raise InputMissing(f"{name}: no such file or folder in {root}; correct the source's table")
    try:
        footers = [pq.read_metadata(file) for file in files]
        schemas = [pq.read_schema(file) for file in files]
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(name, error) from None
    schema = _one_schema(name, schemas)
    rows = sum(footer.num_rows for footer in footers)
    if not rows:
        raise EmptyInput(name)
    clean, nulls = _null_columns(footers)
    return Table(
        name=name,
        path=path,
        files=files,
        schema=schema,
        rows=rows,
        without_nulls=clean,
        with_nulls=nulls,
        layout=layout,
    )


def _unreadable(name: str, error: Exception) -> InputMissing:
    return InputMissing(f"{name}: cannot be read as parquet ({type(error).__name__}); write it again as parquet")


def _one_schema(name: str, schemas: list[pa.Schema]) -> pa.Schema:
    """The schema of every file; the first file's, when the others agree with it column by column."""
    first, *others = schemas
    for other in others:
        for column in first.names:
            if column not in other.names:
                raise ColumnMissing(name, column, tuple(other.names))
            one, two = first.field(column).type, other.field(column).type
            if one != two:
                raise ColumnTypeError(name, column, f"{one} in one file and {two} in another", "one type in every file")
    return first


def leaves_of(footer: pa.parquet.FileMetaData) -> dict[str, int]:
    """Where statistics of a column stand in a footer, by the column's path.

    A field of a struct is a leaf as well, at the path `struct.field`; where a flat column is called just like that,
    nothing tells the two apart, and neither is here.
    """
    paths = [footer.schema.column(index).path for index in range(footer.num_columns)]
    counts = Counter(paths)
    return {path: place for place, path in enumerate(paths) if counts[path] == 1}


def _null_columns(footers: list[pa.parquet.FileMetaData]) -> tuple[frozenset[str], frozenset[str]]:
    """Flat columns of which the footers' statistics say that they have no null at all, and that they have some."""
    clean: set[str] | None = None
    nulls: set[str] = set()
    for footer in footers:
        leaves = leaves_of(footer)
        for group in (footer.row_group(index) for index in range(footer.num_row_groups)):
            if not group.num_rows:
                continue
            known = {}
            for name, place in leaves.items():
                statistics = group.column(place).statistics
                if statistics is not None and statistics.null_count is not None:
                    known[name] = statistics.null_count
            without = {name for name, count in known.items() if count == 0}
            clean = without if clean is None else clean & without
            nulls |= known.keys() - without
    return frozenset(clean or ()), frozenset(nulls)


def fingerprint_key(path: Path) -> bytes:
    """This installation's 32-byte fingerprint key, made on first use (mode 0600).

    Raises:
        ConfigError: what is there is no such key.
    """
    if not path.is_file():
        write_atomic(path, secrets.token_bytes(32), mode=0o600)
    key = path.read_bytes()
    if len(key) != 32:
        raise ConfigError(f"{path}: found {len(key)} bytes, allowed: 32; restore the key or remove it for a new one")
    return key
