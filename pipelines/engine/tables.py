"""Parquet tables as the engine finds them: files, columns, types, nulls by their footers, and fingerprints.

Only footers are read here, with pyarrow; the rows are Spark's.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from governance.canonical import sha256_file
from governance.errors import ColumnMissing, ColumnTypeError, ConfigError, EmptyInput, InputMissing
from governance.files import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Table", "fingerprint_key", "open_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A parquet table.

    Attributes:
        name: its path as configured, for messages.
        path: absolute.
        files: its parquet files, sorted.
        schema: of the first file.
        without_nulls: columns of which every footer says that they have no null.
        with_nulls: columns of which some footer says that they have one.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    schema: pa.Schema
    without_nulls: frozenset[str]
    with_nulls: frozenset[str]

    def type_of(self, column: str) -> pa.DataType:
        """A column's type.

        Raises:
            ColumnMissing: no such column.
        """
        if column not in self.schema.names:
            raise ColumnMissing(self.name, column, tuple(self.schema.names))
        kind: pa.DataType = self.schema.field(column).type
        return kind

    def require(self, column: str, role: str) -> None:
        """Checks that a column is there and has a type that fits its role: unit, key, time, value, text or list.

        Raises:
            ColumnMissing, ColumnTypeError
        """
        from pyarrow import types

        found = self.type_of(column)
        text = types.is_string(found) or types.is_large_string(found)
        checks = {
            "unit": (types.is_integer(found) or text, "whole numbers, strings"),
            "key": (types.is_integer(found) or text or types.is_date(found), "whole numbers, strings, dates"),
            "time": (types.is_timestamp(found) or types.is_integer(found), "timestamps, whole Unix seconds"),
            "value": (
                types.is_integer(found) or types.is_floating(found) or types.is_decimal(found),
                "numbers",
            ),
            "list": (types.is_list(found) or types.is_large_list(found), "lists"),
        }
        fits, allowed = checks[role]
        if not fits:
            raise ColumnTypeError(self.name, column, str(found), allowed)

    def content_hash(self) -> str:
        """SHA-256 over the files' hashes, in name order."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(bytes.fromhex(sha256_file(file)))
        return digest.hexdigest()

    def private_fingerprint(self, key: bytes) -> str:
        """`hmac-sha256:<hex>` of the content under this installation's key: useless to anyone without it."""
        return "hmac-sha256:" + hmac.new(key, bytes.fromhex(self.content_hash()), hashlib.sha256).hexdigest()

    def public_fingerprint(self) -> str:
        """`sha256:<hex>` of the content."""
        return "sha256:" + self.content_hash()


def open_table(root: Path, name: str) -> Table:
    """Finds a table and reads its footers.

    Args:
        root: the project's folder.
        name: parquet file or folder, relative to it or absolute.

    Raises:
        InputMissing: nothing there, or not parquet.
        EmptyInput: no row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = (root / name).resolve()
    if path.is_dir():
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
        schema = pq.read_schema(files[0])
    except (pa.ArrowInvalid, OSError) as error:
        reason = type(error).__name__
        raise InputMissing(f"{name}: cannot be read as parquet ({reason}); write it again as parquet") from None
    if not any(footer.num_rows for footer in footers):
        raise EmptyInput(name)
    clean, nulls = _null_columns(footers)
    return Table(name=name, path=path, files=files, schema=schema, without_nulls=clean, with_nulls=nulls)


def _null_columns(footers: list[pa.parquet.FileMetaData]) -> tuple[frozenset[str], frozenset[str]]:
    """Flat columns of which the footers' statistics say that they have no null at all, and that they have some."""
    clean: set[str] | None = None
    nulls: set[str] = set()
    for footer in footers:
        for group in (footer.row_group(index) for index in range(footer.num_row_groups)):
            known = {}
            for column in (group.column(index) for index in range(group.num_columns)):
                if column.statistics is not None and column.statistics.null_count is not None:
                    known[column.path_in_schema] = column.statistics.null_count
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
