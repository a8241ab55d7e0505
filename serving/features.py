"""GetFeatures and StreamFeatures: columns of released values by entity.

Functions of one publication and one request; answers are serialised messages. Permission is asked for as soon as it is
known what is read, so whoever may not read it learns nothing of its keys. A request may come as a message or in its
wire form, which the usual ones are read from directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from featurestore.freshness import earliest
from featurestore.rows import FeatureColumns, KeyColumn, Runs, text_keys
from serving.access import Permit
from serving.columns import KINDS, column_length, get_column
from serving.feature_answers import write_answer
from serving.limits import MAX_MESSAGE_BYTES, MAX_ROWS, MAX_STREAM_ROWS
from serving.plans import FeaturePlan, ViewPlan, plan_for, planned_run
from serving.problems import FieldProblem, TooLarge, shown
from serving.state import Published
from serving.v1 import features_pb2
from serving.wire import delimited, parsed

__all__ = ["answer_features", "encode_features", "get_features", "key_columns", "stream_features"]

Keys = Mapping[str, Any]
"""Key columns by name: int64 arrays, and lists of texts."""


def get_features(published: Published, request: features_pb2.GetFeaturesRequest | bytes, permit: Permit) -> bytes:
    """Answers one request with a serialised `GetFeaturesResponse`.

    Raises:
        RequestInvalid: see `proto/serving/v1/features.proto`.
        NotServed: a feature service, view or feature that is not published.
        AccessDenied: the caller may not read one of the views.
        StoreUnreachable: the online store does not answer.
    """
    return answer_features(published, request, permit)


def answer_features(
    published: Published, request: features_pb2.GetFeaturesRequest | bytes, permit: Permit, where: str = ""
) -> bytes:
    """`get_features` as a part of another request, whose field paths begin with `where`."""
    # Writing a message again takes less time than asking it for its fields.
    data = request if isinstance(request, bytes) else request.SerializeToString()
    if (known := planned_run(published, data)) is not None:
        plan, run = known
        permit(plan.resources, len(run))
        return encode_features(published, plan, len(run), dict.fromkeys(plan.keys, run))
    message = parsed(features_pb2.GetFeaturesRequest, request) if isinstance(request, bytes) else request
    plan = plan_for(published, message, where)
    permit(plan.resources, _asked(message))
    rows, keys = key_columns(plan, message, MAX_ROWS, where)
    return encode_features(published, plan, rows, keys)


def stream_features(
    published: Published, request: features_pb2.StreamFeaturesRequest, permit: Permit
) -> Iterator[bytes]:
    """Answers in serialised `StreamFeaturesResponse` parts, all from one publication.

    Raises:
        RequestInvalid, NotServed, AccessDenied, StoreUnreachable: as `get_features`.
    """
    step = request.part_rows or MAX_ROWS
    if step > MAX_ROWS:
        raise FieldProblem("part_rows", f"found {step:,}, allowed: 1 to {MAX_ROWS:,}, or 0 for as many")
    plan = plan_for(published, request.request, "request.")
    permit(plan.resources, _asked(request.request))
    rows, keys = key_columns(plan, request.request, MAX_STREAM_ROWS, "request.")
    for start in range(0, rows, step):
        part = {name: values[start : start + step] for name, values in keys.items()}
        yield delimited(1, encode_features(published, plan, min(step, rows - start), part))


def _asked(request: features_pb2.GetFeaturesRequest) -> int:
    """How many entities are asked for, rightly or not."""
    return max(map(column_length, request.keys), default=0)


def key_columns(
    plan: FeaturePlan, request: features_pb2.GetFeaturesRequest, most: int, where: str
) -> tuple[int, dict[str, Any]]:
    """The number of rows and the key columns by name, all as the plan's views need them.

    Raises:
        RequestInvalid: columns that are missing, unknown, of a wrong type, of unequal length or too long.
    """
    needed = plan.keys
    keys: dict[str, Any] = {}
    for position, column in enumerate(request.keys):
        name, field = column.name, column.WhichOneof("values")
        if name not in needed or name in keys or field is None or KINDS[field] != needed[name]:
            raise _bad_column(f"{where}keys[{position}]", plan, column, twice=name in keys)
        keys[name] = list(column.strings.values) if field == "strings" else get_column(column)[1]
    if missing := [name for name in needed if name not in keys]:
        listed = ", ".join(missing)
        raise FieldProblem(f"{where}keys", f"key columns are missing: {listed}; these features need: {plan.needed}")
    rows = min(map(len, keys.values()))
    if rows != max(map(len, keys.values())):
        listed = ", ".join(f"{name} has {len(values):,}" for name, values in keys.items())
        raise FieldProblem(
            f"{where}keys", f"columns of unequal length: {listed}; give one value of each key for every entity"
        )
    if rows > most:
        raise TooLarge(f"{where}keys", "entities", rows, most)
    return rows, keys


def _bad_column(path: str, plan: FeaturePlan, column: features_pb2.KeyColumn, *, twice: bool) -> FieldProblem:
    """What is wrong with a key column."""
    if column.name not in plan.keys:
        return FieldProblem(f"{path}.name", f"found a key {shown(column.name)}; these features need: {plan.needed}")
    if twice:
        return FieldProblem(f"{path}.name", f"key {column.name!r} is given twice; give each once")
    field = column.WhichOneof("values")
    found = KINDS[field] if field else "no values"
    return FieldProblem(f"{path}.values", f"key {column.name!r}: found {found}, allowed: {plan.keys[column.name]}")


def encode_features(published: Published, plan: FeaturePlan, rows: int, keys: Keys) -> bytes:
    """Reads the plan's views and writes a `GetFeaturesResponse`.

    Raises:
        RequestInvalid: a key value that its type does not allow; an answer that is larger than a message may be.
        StoreUnreachable: the online store does not answer.
    """
    encoded = write_answer(published.sequence, plan, rows, [_look_up(published, own, keys) for own in plan.views])
    if len(encoded) > MAX_MESSAGE_BYTES:
        raise TooLarge("request", "bytes in the answer", len(encoded), MAX_MESSAGE_BYTES)
    return encoded


def _look_up(published: Published, plan: ViewPlan, keys: Keys) -> Runs | FeatureColumns:
    """A view's rows: straight from its snapshot where that takes the keys as they are, else through the reader.

    The plan has checked the names already, once for all calls.
    """
    snapshot = published.snapshots.get(plan.view.name) if plan.direct else None
    if snapshot is None:
        reader = published.reader
        assert reader is not None, "views come with a reader"
        return reader.look_up(plan.view, plan.features, {name: keys[name] for name in plan.keys})
    columns: dict[str, KeyColumn] = {}
    for name in plan.keys:
        column = keys[name]
        columns[name] = text_keys(column) if isinstance(column, list) else column
    seconds = plan.view.ttl_seconds
    return snapshot.look_up(columns, plan.features, earliest=earliest(seconds, published.clock()) if seconds else None)
