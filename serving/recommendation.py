"""GetRecommendationContext: a person's features, a search and the candidates' features, from one publication."""

from __future__ import annotations

from typing import Any

from serving.access import Permit
from serving.embeddings import search_space
from serving.features import answer_features, encode_features
from serving.limits import MAX_MESSAGE_BYTES, MAX_ROWS
from serving.plans import plan_for
from serving.problems import FieldProblem, TooLarge
from serving.state import Published
from serving.v1 import recommendation_pb2
from serving.wire import delimited

__all__ = ["get_recommendation_context"]


def get_recommendation_context(
    published: Published, request: recommendation_pb2.GetRecommendationContextRequest, permit: Permit
) -> bytes:
    """Answers one request with a serialised `GetRecommendationContextResponse`.

    Raises:
        RequestInvalid, NotServed, AccessDenied, StoreUnreachable: as the parts do, see
            `proto/serving/v1/recommendation.proto`.
    """
    parts = []
    if request.HasField("user"):
        parts.append(delimited(1, answer_features(published, request.user, permit, "user.")))
    if not request.HasField("candidates"):
        raise FieldProblem("candidates", "found none; say what to search for")
    answer, space, ids = search_space(published, request.candidates, permit, "candidates.")
    parts.append(delimited(2, answer))
    if request.HasField("items"):
        plan = plan_for(published, request.items, "items.")
        permit(plan.resources, len(ids))
        key = request.items.key or space.meta.key
        if plan.keys != {key: space.meta.key_type}:
            raise FieldProblem(
                "items.key",
                f"the candidates' ids are {space.meta.key} ({space.meta.key_type}), these features need: {plan.needed}",
            )
        if len(ids) > MAX_ROWS:
            raise TooLarge("candidates.k", "candidates", len(ids), MAX_ROWS)
        values: Any = ids if space.meta.key_type == "int64" else ids.tolist()
        parts.append(delimited(3, encode_features(published, plan, len(ids), {key: values})))
    whole = b"".join(parts)
    if len(whole) > MAX_MESSAGE_BYTES:
        raise TooLarge("request", "bytes in the answer", len(whole), MAX_MESSAGE_BYTES)
    return whole
