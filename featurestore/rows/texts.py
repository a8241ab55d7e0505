"""n byte strings of any length in one buffer, so that text moves like numbers: whole columns at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Texts", "ragged"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Texts:
    """n byte strings; string i is `data[offsets[i]:offsets[i + 1]]`.

    Attributes:
        data: uint8 `(total,)`.
        offsets: int64 `(n + 1,)`, rising from 0 to `total`.
        width: the length that every string is known to have; None where they may differ.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    width: int | None = None

    @classmethod
    def of(cls, values: Sequence[bytes]) -> Texts:
        """From byte strings.

        Raises:
            TypeError: a value is not bytes.
        """
        data = b"".join(values)
        lengths = np.fromiter(map(len, values), np.int64, len(values))
        return cls(data=np.frombuffer(data, np.uint8), offsets=_offsets(lengths))

    @classmethod
    def encoded(cls, values: Iterable[str]) -> Texts:
        """From Python strings, as UTF-8.

        Raises:
            TypeError: a value is not a string.
            UnicodeEncodeError: lone surrogates, which are not text.
        """
        return cls.of(list(map(str.encode, values)))

    @classmethod
    def empty(cls, count: int) -> Texts:
        """n empty strings."""
        return cls(data=np.zeros(0, np.uint8), offsets=np.zeros(count + 1, np.int64))

    @classmethod
    def gather(cls, data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Texts:
        """Copies n runs of another buffer.

        Args:
            data: uint8, any size.
            starts: where each run begins in `data`, `(n,)`.
            lengths: `(n,)`.

        Raises:
            IndexError: a run lies outside of `data`.
        """
        offsets = _offsets(lengths)
        return cls(data=data[ragged(starts, lengths, offsets)], offsets=offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Texts]) -> Texts:
        """All strings of several, one after another."""
        lengths = [part.lengths for part in parts]
        return cls(
            data=np.concatenate([part.data for part in parts]) if parts else np.zeros(0, np.uint8),
            offsets=_offsets(np.concatenate(lengths) if lengths else np.zeros(0, np.int64)),
        )

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """n strings, each the parts' strings at its position one after another; every part has n."""
        if all(part.width is not None for part in parts):
            return cls.fixed(np.concatenate([part.matrix() for part in parts], axis=1))
        lengths = np.stack([part.lengths for part in parts])
        offsets = _offsets(lengths.sum(axis=0))
        out = np.empty(offsets[-1], np.uint8)
        at = offsets[:-1].copy()
        for part, own in zip(parts, lengths, strict=True):
            part.scatter(out, at)
            at += own
        return cls(data=out, offsets=offsets)

    @classmethod
    def fixed(cls, rows: NDArray[np.uint8]) -> Texts:
        """The rows of a matrix, uint8 `(n, width)`."""
        count, width = rows.shape
        offsets = np.arange(0, (count + 1) * width, width) if width else np.zeros(count + 1, np.int64)
        return cls(data=np.ascontiguousarray(rows).reshape(-1), offsets=offsets, width=width)

    @classmethod
    def repeated(cls, value: bytes, count: int) -> Texts:
        """n times the same string."""
        return cls.fixed(np.broadcast_to(np.frombuffer(value, np.uint8), (count, len(value))))

    def __len__(self) -> int:
        """n."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each string in bytes, `(n,)`."""
        return self.offsets[1:] - self.offsets[:-1]

    def matrix(self) -> NDArray[np.uint8]:
        """The strings as the rows of a matrix, uint8 `(n, width)`; only where all have one known width."""
        assert self.width is not None, "strings of any length are no matrix"
        return self.data.reshape(len(self), self.width)

    def take(self, indexes: NDArray[np.integer[Any]]) -> Texts:
        """The strings at these positions, `(m,)`."""
        if self.width is not None:
            return Texts.fixed(self.matrix().take(indexes, axis=0))
        starts = self.offsets[indexes]
        return Texts.gather(self.data, starts, self.offsets[indexes + 1] - starts)

    def scatter(self, out: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        """Writes string i to `out` from `starts[i]` on."""
        out[ragged(starts, self.lengths, self.offsets)] = self.data

    def tolist(self) -> list[bytes]:
        """The strings as Python bytes."""
        if self.width and len(self):
            rows: list[bytes] = self.matrix().view(f"V{self.width}")[:, 0].tolist()
            return rows
        data, offsets = self.data.tobytes(), self.offsets.tolist()
        return [data[a:b] for a, b in pairwise(offsets)]

    def strings(self) -> list[str]:
        """The strings as Python text.

        Raises:
            UnicodeDecodeError: they are not UTF-8.
        """
        data, offsets = self.data.tobytes(), self.offsets.tolist()
        if data.isascii():  # then characters are bytes, and one decoding serves all
            text = data.decode("ascii")
            return [text[a:b] for a, b in pairwise(offsets)]
        return [data[a:b].decode() for a, b in pairwise(offsets)]

    def equals(self, other: Texts) -> NDArray[np.bool_]:
        """Which strings are the same as the other's at the same position, bool `(n,)`."""
        same: NDArray[np.bool_] = self.lengths == other.lengths
        left, right = self, other
        if not same.all():
            there = np.flatnonzero(same)
            left, right = self.take(there), other.take(there)
        differing = _offsets(left.data != right.data)
        same[same] = differing[left.offsets[1:]] == differing[left.offsets[:-1]]
        return same

    def are(self, indexes: NDArray[np.int64], others: Texts) -> bool:
        """Whether the strings at these positions, `(m,)`, are the m others, every one of them."""
        starts = self.offsets.take(indexes)
        lengths = self.offsets.take(indexes + 1) - starts
        if lengths.tobytes() != others.lengths.tobytes():
            return False
        if len(indexes) == 1:
            return self.data[starts[0] : starts[0] + lengths[0]].tobytes() == others.data.tobytes()
        return self.data.take(ragged(starts, lengths, others.offsets)).tobytes() == others.data.tobytes()


def ragged(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], offsets: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Positions `starts[0], starts[0]+1, ..., starts[1], ...`: all runs, one after another.

    Args:
        starts: `(n,)`.
        lengths: `(n,)`.
        offsets: `(n + 1,)`, running sum of the lengths, if the caller has it.
    """
    offsets = _offsets(lengths) if offsets is None else offsets
    return (starts - offsets[:-1]).repeat(lengths) + np.arange(offsets[-1])


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    lengths.cumsum(out=offsets[1:])
    return offsets
