"""Which requests are answered where they are read, on the event loop, and which go to a thread.

On the loop: lookups in mapped memory, and searches that take less than a millisecond by what the last ones took. To a
thread: whatever asks a store, or computes for longer. A wrong guess costs time, never an answer.
"""

from __future__ import annotations

from typing import Final

from serving.plans import FeaturePlan, plan_for, planned_run
from serving.state import Published
from serving.v1 import embeddings_pb2, features_pb2, recommendation_pb2
from serving.wire import parsed

__all__ = ["SearchPace", "mapped_embeddings", "mapped_features"]

_REQUEST_BYTES: Final = 16 * 1024
"""Of a request that is quick, so at most about 2,000 keys."""
_MOST_SECONDS: Final = 0.001
_GAIN: Final = 0.1
_REMEMBERED: Final = 1_000


def mapped_features(published: Published, request: bytes) -> bool:
    """Whether a GetFeatures, in its wire form, reads mapped snapshots only, and not much of them.

    Raises:
        HedgerowError: as the request itself will.
    """
    if len(request) > _REQUEST_BYTES:
        return False
    known = planned_run(published, request)
    plan = plan_for(published, parsed(features_pb2.GetFeaturesRequest, request)) if known is None else known[0]
    return _mapped(published, plan)


def mapped_embeddings(_published: Published, request: bytes) -> bool:
    """Whether a GetEmbeddings, in its wire form, is small."""
    return len(request) <= _REQUEST_BYTES


class SearchPace:
    """How long searches take, by space and k, learnt from those that were made."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, int], float] = {}

    def search(self, published: Published, request: embeddings_pb2.SearchRequest) -> bool:
        """Whether a Search is short by what others of its space took for each query."""
        pace = self._seconds.get((request.space, request.k))
        return pace is not None and _plain(request) and pace * _queries(published, request) <= _MOST_SECONDS

    def context(self, published: Published, request: recommendation_pb2.GetRecommendationContextRequest) -> bool:
        """Whether a GetRecommendationContext's three parts are."""
        return (
            request.ByteSize() <= _REQUEST_BYTES
            and self.search(published, request.candidates)
            and (not request.HasField("user") or _mapped(published, plan_for(published, request.user)))
            and (not request.HasField("items") or _mapped(published, plan_for(published, request.items)))
        )

    def note(self, published: Published, request: embeddings_pb2.SearchRequest, seconds: float) -> None:
        """Learns from a search that took so long."""
        if not _plain(request):
            return
        of, taken = (request.space, request.k), seconds / _queries(published, request)
        known = self._seconds.get(of)
        if known is None and len(self._seconds) >= _REMEMBERED:
            self._seconds.clear()
        # A space that was slow once, with cold pages or on a busy machine, is believed as soon as it is fast.
        self._seconds[of] = taken if known is None or taken < known else known + _GAIN * (taken - known)


def _mapped(published: Published, plan: FeaturePlan) -> bool:
    return all(own.direct and own.view.name in published.snapshots for own in plan.views)


def _plain(request: embeddings_pb2.SearchRequest) -> bool:
    """Without conditions, whose cost depends on more than the number of queries."""
    return not request.tags and not request.HasField("allow") and not request.HasField("exclude")


def _queries(published: Published, request: embeddings_pb2.SearchRequest) -> int:
    """The number of queries, at least 1."""
    if request.WhichOneof("queries") == "ids":
        ids = request.ids
        return max(1, len(ids.int64s.values) + len(ids.strings.values))
    space = published.spaces.get(request.space)
    return max(1, len(request.vectors) // (4 * space.meta.dimension)) if space is not None else 1
