"""Ranks the catalogue for one person, on the device: three parts, each bounded, blended in the open.

    taste       similarity of an item's vector to the profile, the decayed weighted mean of the vectors interacted with
    tags        cosine between an item's set of tags and the person's tag affinities
    popularity  log(1 + released popularity) over its largest; a differentially private release about everyone

    score = trust * (blend.taste * taste + blend.tags * tags) + blend.popularity * popularity
    trust = mass / (mass + blend.prior_mass),   mass = sum over known items of |decayed affinity|

Taste and tags lie in [-1, 1], popularity in [0, 1]. Without events, and again as they fade, trust goes to 0 and the
list to the popular one. Items already met are left out. Equal scores are ordered by id, so a ranking is a function of
catalogue, events, time and blend.

Claim: no lookup is visible to anyone. Proof sketch: the search runs over the whole catalogue, which every device
holds in full, and reads nothing but its arguments; so there is no request whose content could depend on the person.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.catalogue.format import Catalogue
from governance.errors import NotPublished, RequestInvalid
from ondevice.events import EventLog
from ondevice.features import HALF_LIFE, item_affinities, tag_affinities

__all__ = ["DEFAULT_BLEND", "Blend", "Ranked", "Ranker"]

_POPULARITY_NAMES: Final = ("users", "listeners", "viewers", "buyers", "count", "events")
_BLOCK_ROWS: Final = 1 << 15
_REASON_TAGS: Final = 3
_F = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """How the parts add up.

    Attributes:
        taste: weight of vector similarity.
        tags: weight of tag affinity.
        popularity: weight of the released popularity.
        prior_mass: affinity at which the personal part has half its weight, in the events' value units.
        half_life: of the affinities.

    Raises:
        ValueError: a weight that is negative or not finite, or a prior mass or half-life that is not positive.
    """

    taste: float = 0.6
    tags: float = 0.25
    popularity: float = 0.15
    prior_mass: float = 1.0
    half_life: timedelta = HALF_LIFE

    def __post_init__(self) -> None:
        if not all(math.isfinite(weight) and weight >= 0 for weight in (self.taste, self.tags, self.popularity)):
            raise ValueError("blend: weights must be finite and not negative")
        if not (math.isfinite(self.prior_mass) and self.prior_mass > 0 and self.half_life > timedelta(0)):
            raise ValueError("blend: prior_mass and half_life must be positive")


DEFAULT_BLEND: Final = Blend()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One item of a ranking.

    Attributes:
        item: its id, of the catalogue's type.
        title: its title, or empty.
        score: taste + tags + popularity.
        taste: what similarity adds to the score.
        tags: what tag affinity adds.
        popularity: what the released popularity adds.
        reason: why it is here, in words for the person.
    """

    item: int | str
    title: str
    score: float
    taste: float
    tags: float
    popularity: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Known:
    """The m items of the log that the catalogue has.

    Attributes:
        rows: int64 `(m,)`, their rows.
        weights: float64 `(m,)`, their affinities.
        tags: tag → affinity.
        trust: weight of the personal part, in [0, 1).
    """

    rows: NDArray[np.int64]
    weights: _F
    tags: Mapping[str, float]
    trust: float


class Ranker:
    """A catalogue, ready to be searched. It keeps no state about anyone.

    Args:
        catalogue: n items with vectors of d dimensions.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._ids = [str(item) for item in catalogue.ids.tolist()]
        self._row_of = {item: row for row, item in enumerate(self._ids)}
        self._tags = tuple(tuple(sorted(set(tags))) for tags in catalogue.tags)
        self._vocabulary = tuple(sorted({tag for tags in self._tags for tag in tags}))
        code_of = {tag: code for code, tag in enumerate(self._vocabulary)}
        self._tag_counts = np.array([len(tags) for tags in self._tags], np.int64)
        self._tag_rows = np.repeat(np.arange(len(self._tags)), self._tag_counts)
        self._tag_codes = np.array([code_of[tag] for tags in self._tags for tag in tags], np.int64)
        squares = [np.einsum("nd,nd->n", block, block) for block in _blocks(catalogue.vectors)]
        self._norms = np.sqrt(np.concatenate([np.zeros(0, np.float32), *squares])).astype(np.float64)

    def __contains__(self, item: str) -> bool:
        return item in self._row_of

    def tags_of(self, item: str) -> tuple[str, ...]:
        """An item's tags; none if the catalogue does not have it."""
        row = self._row_of.get(item)
        return () if row is None else self._tags[row]

    def title_of(self, item: str) -> str:
        """An item's title; empty if it has none or the catalogue does not have it."""
        row = self._row_of.get(item)
        return "" if row is None else self.catalogue.titles[row]

    def popularity_reference(self) -> str | None:
        """The released feature that says how popular items are: `...:users` and the like; None without one."""
        for name in _POPULARITY_NAMES:
            for reference in sorted(self.catalogue.features):
                if reference.rpartition(":")[2] == name:
                    return reference
        return None

    def rank(
        self,
        log: EventLog,
        now: datetime,
        *,
        k: int,
        blend: Blend = DEFAULT_BLEND,
        popularity: str | None = None,
        include_seen: bool = False,
    ) -> tuple[Ranked, ...]:
        """The k items with the highest scores, highest first; fewer if fewer are left.

        Args:
            log: the person's events.
            now: affinities hold at this time; later events do not count.
            k: at least 1.
            popularity: `view:feature` to use; None: `popularity_reference`.
            include_seen: also rank items of the log.

        Raises:
            RequestInvalid: k below 1.
            NotPublished: the catalogue has no such feature.
        """
        if k < 1:
            raise RequestInvalid(f"rank: k is {k}, allowed: 1 or more")
        known = self._known(log, now, blend)
        parts = np.stack(
            [
                known.trust * blend.taste * self._taste(known),
                known.trust * blend.tags * self._tag_match(known),
                blend.popularity * self._popularity(popularity),
            ]
        )
        allowed = np.ones(len(self._ids), np.bool_)
        if not include_seen:
            allowed[[self._row_of[item] for item in set(log.items) if item in self._row_of]] = False
        rows = self._top(parts.sum(axis=0), allowed, k)
        reasons = self._reasons(known, rows, parts)
        return tuple(
            Ranked(
                item=self.catalogue.ids[row].item() if self.catalogue.ids.dtype.kind == "i" else self._ids[row],
                title=self.catalogue.titles[row],
                score=float(parts[:, row].sum()),
                taste=float(parts[0, row]),
                tags=float(parts[1, row]),
                popularity=float(parts[2, row]),
                reason=reason,
            )
            for row, reason in zip(rows.tolist(), reasons, strict=True)
        )

    def _known(self, log: EventLog, now: datetime, blend: Blend) -> _Known:
        affinities = item_affinities(log, now, blend.half_life)
        items = sorted(item for item in affinities if item in self._row_of)
        weights = [affinities[item] for item in items]
        mass = math.fsum(abs(weight) for weight in weights)
        return _Known(
            rows=np.array([self._row_of[item] for item in items], np.int64),
            weights=np.array(weights, np.float64),
            tags=tag_affinities({item: affinities[item] for item in items}, self.tags_of),
            trust=mass / (mass + blend.prior_mass),
        )

    def _vectors(self, rows: NDArray[np.int64]) -> _F:
        """Vectors as they are compared, float64 `(m, d)`: of norm 1 for cosine, else dequantised."""
        steps = self.catalogue.vectors[rows].astype(np.float64)
        if self.catalogue.metric == "cosine":
            unit: _F = steps / np.maximum(self._norms[rows], 1.0)[:, None]
            return unit
        return steps * self.catalogue.scales[rows, None].astype(np.float64)

    def _taste(self, known: _Known) -> _F:
        """Similarity of each item to the profile, `(n,)` in [-1, 1]; 0 for everyone without a profile.

        cosine: the cosine. dot: the product over its largest size. l2: 1 - squared distance over the largest one, from
        the mean of what is liked.
        """
        weights = np.maximum(known.weights, 0.0) if self.catalogue.metric == "l2" else known.weights
        mass = np.abs(weights).sum()
        neutral = np.zeros(len(self._ids))
        if mass == 0:
            return neutral
        profile = (weights / mass) @ self._vectors(known.rows)
        length = float(np.linalg.norm(profile))
        direction = profile / length if length > 0 else profile
        products = self._products(direction.astype(np.float32))  # steps · direction, still without scales
        if self.catalogue.metric == "cosine":
            cosines: _F = np.clip(products / np.maximum(self._norms, 1.0), -1.0, 1.0)
            return cosines
        scales = self.catalogue.scales.astype(np.float64)
        if self.catalogue.metric == "dot":
            return _over_largest(products * scales)
        distances = np.maximum(length**2 - 2 * length * products * scales + (scales * self._norms) ** 2, 0.0)
        nearness: _F = np.clip(1.0 - _over_largest(distances), 0.0, 1.0)
        return nearness

    def _products(self, direction: NDArray[np.float32]) -> _F:
        """`vectors @ direction`, `(n,)`: blocks of int8 become float32 one at a time, so memory stays small."""
        products = [block @ direction for block in _blocks(self.catalogue.vectors)]
        return np.concatenate([np.zeros(0, np.float32), *products]).astype(np.float64)

    def _tag_match(self, known: _Known) -> _F:
        """Cosine between each item's tags and the tag affinities, `(n,)` in [-1, 1]; 0 where there are none."""
        affinities = np.array([known.tags.get(tag, 0.0) for tag in self._vocabulary])
        length = float(np.linalg.norm(affinities))
        if length == 0:
            return np.zeros(len(self._ids))
        sums = np.bincount(self._tag_rows, affinities[self._tag_codes], len(self._ids))
        match: _F = np.clip(sums / (np.sqrt(np.maximum(self._tag_counts, 1)) * length), -1.0, 1.0)
        return match

    def _popularity(self, reference: str | None) -> _F:
        """`(n,)` in [0, 1]; 0 where the item was not released or noise took the count below 0."""
        chosen = self.popularity_reference() if reference is None else reference
        if chosen is None:
            return np.zeros(len(self._ids))
        if chosen not in self.catalogue.features:
            found = ", ".join(sorted(self.catalogue.features)) or "none"
            raise NotPublished(f"{chosen}: no such feature in the catalogue; found: {found}")
        released = np.nan_to_num(self.catalogue.features[chosen].astype(np.float64), nan=0.0)
        return _over_largest(np.log1p(np.maximum(released, 0.0)))

    def _top(self, scores: _F, allowed: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
        """Rows of the k best allowed scores, best first, equal ones by id."""
        rows = np.flatnonzero(allowed)
        if k < len(rows):
            least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
            rows = rows[scores[rows] >= least]
        ids = self.catalogue.ids
        ordered = sorted(rows.tolist(), key=lambda row: (-scores[row], ids[row]))
        return np.array(ordered[:k], np.int64)

    def _reasons(self, known: _Known, rows: NDArray[np.int64], parts: _F) -> Iterator[str]:
        """For each row, the largest part in words."""
        liked = np.flatnonzero(known.weights > 0)
        if len(liked) and len(rows):
            nearness = (self._vectors(rows) @ self._vectors(known.rows[liked]).T) * known.weights[liked]
            nearest = known.rows[liked][nearness.argmax(axis=1)].tolist()
        else:
            nearest = [-1] * len(rows)
        for row, near in zip(rows.tolist(), nearest, strict=True):
            taste, tags, popularity = parts[:, row].tolist()
            shared = [tag for tag in self._tags[row] if known.tags.get(tag, 0.0) > 0]
            if popularity > 0 and popularity >= max(taste, 0.0) + max(tags, 0.0):
                yield "popular with everyone"
            elif tags > 0 and shared:
                shared.sort(key=lambda tag: (-known.tags[tag], tag))
                yield f"because of {', '.join(shared[:_REASON_TAGS])}"
            elif taste > 0 and near >= 0:
                yield f"close to {self.catalogue.titles[near] or f'item {self._ids[near]}'}"
            else:
                yield "from the catalogue"


def _blocks(vectors: NDArray[np.int8]) -> Iterator[NDArray[np.float32]]:
    return (vectors[start : start + _BLOCK_ROWS].astype(np.float32) for start in range(0, len(vectors), _BLOCK_ROWS))


def _over_largest(values: NDArray[Any]) -> _F:
    """Values over the largest size among them; zeros stay zeros."""
    largest = np.abs(values).max(initial=0.0)
    scaled: _F = values / largest if largest > 0 else np.zeros_like(values)
    return scaled
