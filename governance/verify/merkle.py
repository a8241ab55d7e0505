"""The Merkle tree of RFC 6962 (section 2.1): what one signed hash can prove about a list that only grows.

    leaf  SHA-256(0x00 || data)          node  SHA-256(0x01 || left || right)          empty  SHA-256("")

A tree of n leaves splits at the largest power of two below n. `Frontier` appends in O(log n) and holds O(log n) hashes;
`Tree` holds every perfect subtree and answers any proof in O(log n); the two `verify_` functions need neither.

Source: RFC 6962 sections 2.1.1 and 2.1.2; the verification procedures are RFC 9162 sections 2.1.3.2 and 2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["EMPTY_ROOT", "Frontier", "Tree", "leaf_hash", "node_hash", "verify_consistency", "verify_inclusion"]

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """The hash of one leaf, 32 bytes."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node, 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """All that an append needs of a tree: the roots of its perfect subtrees.

    Attributes:
        size: number of leaves.
        peaks: one root for each one-bit of `size`, largest subtree first.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.peaks) != self.size.bit_count() or any(len(peak) != 32 for peak in self.peaks):
            raise ValueError(f"a tree of {self.size} leaves has {self.size.bit_count()} perfect subtrees of 32 bytes")

    def append(self, leaf: bytes) -> Frontier:
        """The tree with one more leaf (its `leaf_hash`)."""
        peaks, height = list(self.peaks), self.size
        while height & 1:
            leaf, height = node_hash(peaks.pop(), leaf), height >> 1
        return Frontier(size=self.size + 1, peaks=(*peaks, leaf))

    @classmethod
    def from_text(cls, size: int, text: str) -> Frontier:
        """The inverse of `text`.

        Raises:
            ValueError: not the peaks of a tree of that size.
        """
        return cls(size=size, peaks=tuple(bytes.fromhex(peak) for peak in text.split(",") if peak))

    @property
    def text(self) -> str:
        """The peaks in hex, separated by commas."""
        return ",".join(peak.hex() for peak in self.peaks)

    @property
    def root(self) -> bytes:
        """The tree's root, 32 bytes."""
        if not self.peaks:
            return EMPTY_ROOT
        *larger, root = self.peaks
        for peak in reversed(larger):
            root = node_hash(peak, root)
        return root


class Tree:
    """A whole tree in memory, two hashes a leaf.

    Args:
        leaves: the leaves' hashes, in order.
    """

    def __init__(self, leaves: Iterable[bytes]) -> None:
        level = list(leaves)
        self._levels = [level]
        while len(level) > 1:
            level = [node_hash(level[k], level[k + 1]) for k in range(0, len(level) - 1, 2)]
            self._levels.append(level)

    def __len__(self) -> int:
        return len(self._levels[0])

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves; None: of all.

        Raises:
            ValueError: there are not so many.
        """
        size = self._checked(size)
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """`PATH(index, D[size])`: the hashes that lead from leaf `index` (counted from 0) to the root.

        Raises:
            ValueError: no such leaf among the first `size`.
        """
        size = self._checked(size)
        if not 0 <= index < size:
            raise ValueError(f"leaf {index} is not among the first {size}")
        path, low, high = [], 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return tuple(reversed(path))

    def consistency_proof(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """`PROOF(old_size, D[size])`: the hashes that show the tree of `old_size` to be a prefix of that of `size`.

        Raises:
            ValueError: not `0 <= old_size <= size`.
        """
        size = self._checked(size)
        if not 0 <= old_size <= size:
            raise ValueError(f"{old_size} is not between 0 and {size}")
        if old_size in (0, size):
            return ()
        path, low, high, whole = [], 0, size, True
        while old_size != high:
            middle = low + _split(high - low)
            if old_size <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low, whole = middle, False
        return tuple(reversed(path if whole else [*path, self._range(low, high)]))

    def _checked(self, size: int | None) -> int:
        if size is None:
            return len(self)
        if not 0 <= size <= len(self):
            raise ValueError(f"{size} is not between 0 and {len(self)}")
        return size

    def _range(self, low: int, high: int) -> bytes:
        """Root of the leaves `[low, high)`, where `low` is where RFC 6962 starts a subtree."""
        length = high - low
        if length & (length - 1) == 0:
            height = length.bit_length() - 1
            return self._levels[height][low >> height]
        middle = low + _split(length)
        return node_hash(self._range(low, middle), self._range(middle, high))


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` shows that `leaf` (its hash) is leaf `index` of the tree with this size and root."""
    if not 0 <= index < size:
        return False
    position, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            found = node_hash(sibling, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, path: Sequence[bytes]) -> bool:
    """Whether `path` shows that the tree of `old_size` is a prefix of the tree of `size`."""
    if not 0 <= old_size <= size:
        return False
    if old_size == size:
        return not path and old_root == root
    if old_size == 0:
        return not path and old_root == EMPTY_ROOT
    hashes = list(path)
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    position, last = old_size - 1, size - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    old_found = found = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old_found, found = node_hash(sibling, old_found), node_hash(sibling, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and old_found == old_root and found == root


def _split(length: int) -> int:
    """The largest power of two below `length`, which is at least 2."""
    return int(1 << ((length - 1).bit_length() - 1))
