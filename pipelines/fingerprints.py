"""What a manifest says was read: tables, columns, and a fingerprint of what they held.

A public table is named by the hash of its files. Events are named by what the window's rows were read from: the column
chunks, byte by byte as they lie in the files, of every row group that may hold rows of the window and every column that
is read. What neither was nor could have been looked at is not in it: so it costs what reading costs, wherever the
history began, and events that come later leave it as it was. Who holds the key can thus show long afterwards that a
release's events are still there, unchanged.

Row groups are hashed by Spark's workers, which read them anyway; the driver gets one hash for each, and never events.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance.release import InputFingerprint, Manifest
from pipelines.definitions import PublicColumn, PublicPartitions, Signal
from pipelines.engine.exchange import Item, numbered
from pipelines.engine.inputs import SignalInputs, row_plan
from pipelines.engine.scan import Part, parts_of, tasks_of
from pipelines.engine.tables import Table
from pipelines.recipes import Recipe
from pipelines.windows import Span

if TYPE_CHECKING:
    from pyspark import SparkContext

__all__ = ["RowGroups", "events_fingerprint", "public_fingerprints"]


def events_fingerprint(
    signal: Signal, recipe: Recipe, inputs: SignalInputs, span: Span, key: bytes, spark: SparkContext
) -> InputFingerprint:
    """Names the events that a window's rows are read from: `hmac-sha256:<hex>`, of no use without the key.

    Args:
        signal: the definition.
        recipe: its measurements.
        inputs: its tables.
        span: the window.
        key: this installation's.
        spark: where row groups are hashed.
    """
    parts = parts_of(inputs.events.files, row_plan(signal, recipe, inputs, span))
    hashing = RowGroups(tasks=tasks_of(parts, 1), columns=inputs.event_columns)
    hashes = dict(found for _, found in numbered(spark, len(hashing.tasks), hashing).collect())
    content = b"".join(hashes[part.file, part.group] for part in parts)
    return InputFingerprint(
        dataset=signal.source.name,
        table=inputs.events.name,
        access="private",
        fingerprint="hmac-sha256:" + hmac.new(key, content, hashlib.sha256).hexdigest(),
        columns=inputs.event_columns,
    )


def public_fingerprints(
    signal: Signal, inputs: SignalInputs, parents: Mapping[str, Manifest]
) -> tuple[InputFingerprint, ...]:
    """Names the public tables and the releases that a signal reads: `sha256:<hex>`, which anybody can check."""

    def public(dataset: str, table: Table, columns: tuple[str, ...]) -> InputFingerprint:
        return InputFingerprint(
            dataset=dataset,
            table=table.name,
            access="public",
            fingerprint=table.public_fingerprint(),
            columns=columns,
        )

    prints = [
        public(join.table.name, table, (join.on, *join.columns))
        for join, table in zip(signal.joins, inputs.joined, strict=True)
    ]
    if isinstance(signal.partitions, PublicPartitions):
        for name, domain in signal.partitions.domains.items():
            if isinstance(domain, PublicColumn):
                prints.append(public(domain.table.name, inputs.domains[name], (domain.column,)))
    # A release is public, and its manifest names its files by their hashes.
    prints.extend(
        InputFingerprint(
            dataset=manifest.signal.name,
            table=manifest.release_id,
            access="public",
            fingerprint=f"sha256:{manifest.sha256}",
            columns=(*manifest.keys, *(column.name for column in manifest.features)),
        )
        for manifest in parents.values()
    )
    return tuple(prints)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroups:
    """Hashes the row groups of a task: their rows, and name, type and bytes of each column that is read.

    Attributes:
        tasks: row groups of each.
        columns: that are read.
    """

    tasks: tuple[tuple[Part, ...], ...]
    columns: tuple[str, ...]

    def __call__(self, tasks: Iterable[int]) -> Iterator[Item]:
        """((file, row group), SHA-256) of each, addressed to nobody."""
        for task in tasks:
            in_files = sorted(self.tasks[task], key=lambda part: (part.file, part.group))
            for file, parts in groupby(in_files, key=lambda part: part.file):
                yield from ((0, one) for one in self._of_file(file, tuple(parts)))

    def _of_file(self, file: str, parts: tuple[Part, ...]) -> Iterator[tuple[tuple[str, int], bytes]]:
        import pyarrow.parquet as pq

        footer = pq.read_metadata(file)
        leaves = [footer.schema.column(index) for index in range(len(footer.schema))]
        # A column of lists is a leaf below its name.
        read = [
            index for index, leaf in enumerate(leaves) if any(f"{leaf.path}.".startswith(f"{c}.") for c in self.columns)
        ]
        with Path(file).open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for part in parts:
                group = footer.row_group(part.group)
                digest = hashlib.sha256(json.dumps([group.num_rows, len(read)]).encode())
                for index in read:
                    chunk, leaf = group.column(index), leaves[index]
                    start, length = _place(chunk), chunk.total_compressed_size
                    about = [leaf.path, leaf.physical_type, str(leaf.logical_type), chunk.compression, length]
                    digest.update(json.dumps(about).encode())
                    with memoryview(data) as view:
                        digest.update(view[start : start + length])
                yield (file, part.group), digest.digest()


def _place(chunk: Any) -> int:
    """Where a column chunk begins: at its dictionary, where it has one."""
    first: int = chunk.data_page_offset
    dictionary = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    return min(first, dictionary) if dictionary else first
