"""What a lookup gives: columns, which rows were found, when and by which release each was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurestore.rows.texts import Texts

__all__ = ["FeatureColumns", "release_code", "release_indexes"]


@lru_cache(maxsize=4096)
def release_code(release_id: str) -> int:
    """What names a release in a packed row: 8 bytes of a SHA-256, never 0."""
    return int.from_bytes(hashlib.sha256(release_id.encode()).digest()[:8], "little") or 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureColumns:
    """k features of n entities, in the order of the keys that were asked for. Arrays may be views of others.

    Attributes:
        names: the features, `k`.
        values: feature → column of n values, by the feature's published type:

            float64 `<f8`, float32 `<f4`, int64 `<i8`, bool, timestamp `<i8` (microseconds since 1970 UTC), date `<i4`
            (days since 1970): arrays `(n,)`; `vector<float32>[d]`: `<f4` `(n, d)`; string and bytes: `Texts`.

            Where null or not found: NaN, 0, False or no bytes.
        nulls: bool `(k, n)`; True where there is no value (null in the release, or the row was not found).
        found: bool `(n,)`; False for keys that were not released, or whose row is older than the view's ttl.
        event_times: microseconds since 1970 UTC, `(n,)`; 0 where not found.
        releases: ids of the releases behind the answer.
        release_indexes: int32 `(n,)`, positions in `releases`; -1 where not found, and for rows that no known release
            wrote.
    """

    names: tuple[str, ...]
    values: Mapping[str, NDArray[Any] | Texts]
    nulls: NDArray[np.bool_]
    found: NDArray[np.bool_]
    event_times: NDArray[np.int64]
    releases: tuple[str, ...]
    release_indexes: NDArray[np.int32]

    def __len__(self) -> int:
        """n."""
        return len(self.found)

    def null(self, name: str) -> NDArray[np.bool_]:
        """One feature's nulls, bool `(n,)`."""
        nulls: NDArray[np.bool_] = self.nulls[self.names.index(name)]
        return nulls

    def since(self, earliest: int) -> FeatureColumns:
        """The same answer without rows whose event time, in microseconds, is earlier: these are not found."""
        stale = self.found & (self.event_times < earliest)
        if not stale.any():
            return self
        values: dict[str, NDArray[Any] | Texts] = {}
        for name, column in self.values.items():
            if isinstance(column, Texts):
                values[name] = Texts.gather(column.data, column.offsets[:-1], np.where(stale, 0, column.lengths))
            else:
                values[name] = column.copy()
                values[name][stale] = np.nan if column.dtype.kind == "f" else 0  # type: ignore[index]
        return FeatureColumns(
            names=self.names,
            values=values,
            nulls=self.nulls | stale,
            found=self.found & ~stale,
            event_times=np.where(stale, 0, self.event_times),
            releases=self.releases,
            release_indexes=np.where(stale, -1, self.release_indexes).astype(np.int32),
        )


def release_indexes(codes: NDArray[np.uint64], known: Sequence[int]) -> NDArray[np.int32]:
    """Positions of the rows' release codes among the known ones, int32 `(n,)`; -1 where it is none of them."""
    if len(known) == 1:
        return np.where(codes == np.uint64(known[0]), 0, -1).astype(np.int32)
    if not len(known) or not len(codes):
        return np.full(len(codes), -1, np.int32)
    if (codes == codes[0]).all():
        code = int(codes[0])
        return np.full(len(codes), known.index(code) if code in known else -1, np.int32)
    table = np.array(known, np.uint64)
    order = np.argsort(table)
    at = np.minimum(np.searchsorted(table[order], codes), len(known) - 1)
    return np.where(table[order][at] == codes, order[at], -1).astype(np.int32)
