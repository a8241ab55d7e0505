"""Where each of N integers stands, for integers that lie close together, as ids that were counted up do.

    places    N, then for each integer from the least to the greatest its row, or N where there is none, then N

Finding many is one subtraction and one lookup: whatever lies outside of the table meets the N at either end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["PlaceTable"]

_SPARSE: Final = 4
"""So many places may there be for each integer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlaceTable:
    """A table of N distinct integers.

    Attributes:
        base: int64 `(1,)`, one less than the least, modulo 2^64.
        places: int64 `(greatest - least + 3,)`, as above.
    """

    base: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, integers: NDArray[np.int64]) -> PlaceTable | None:
        """The table of N distinct integers, `(N,)`; None where there are none, or they lie too far apart for one."""
        count = len(integers)
        if not count:
            return None
        least, greatest = int(integers.min()), int(integers.max())
        if greatest - least >= _SPARSE * count:
            return None
        places = np.full(greatest - least + 3, count, np.int64)
        places[integers - least + 1] = np.arange(count)
        return cls(base=_before(integers), places=places)

    @classmethod
    def checked(cls, integers: NDArray[np.int64], places: NDArray[np.int64]) -> PlaceTable:
        """A table that was kept somewhere, and is the one of these integers.

        Raises:
            ValueError: it is not.
        """
        count = len(integers)
        if not count or len(places) < 3:
            raise ValueError("a table of places has another size")
        table, there = cls(base=_before(integers), places=places), places != count
        # Every integer finds its row, there are no other rows, and the ends are N: so nothing else finds one.
        if there[0] or there[-1] or there.sum() != count or not np.array_equal(table.find(integers), np.arange(count)):
            raise ValueError("a table of places contradicts its integers")
        return table

    def find(self, integers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of n integers, `(n,)`; N where there is none."""
        # The difference is exact modulo 2^64, so that only integers of the table fall into it; others are clipped.
        return self.places.take(integers - self.base, mode="clip")


def _before(integers: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(integers.min(keepdims=True) - 1)
