"""GetFeatures: columns of released values by entity. A function of one publication and one request."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from featurestore.online import OnlineColumns
from featurestore.publication import FeatureField, PublishedView
from governance.errors import NotServed
from serving.columns import KINDS, bitmap, get_column, packed, set_column
from serving.limits import MAX_FEATURES, MAX_ROWS
from serving.problems import FieldProblem, TooLarge, shown
from serving.provenance import ReleaseNames
from serving.state import Published
from serving.v1 import features_pb2

__all__ = ["get_features"]

_EVENT_TIMES: Final = features_pb2.ViewRows.EVENT_TIMES_FIELD_NUMBER
_RELEASE_INDEXES: Final = features_pb2.ViewRows.RELEASE_INDEXES_FIELD_NUMBER

Keys = dict[str, Any]


def get_features(published: Published, request: features_pb2.GetFeaturesRequest) -> features_pb2.GetFeaturesResponse:
    """Answers one request.

    Raises:
        RequestInvalid: see `proto/serving/v1/features.proto`.
        NotServed: a feature service, view or feature that is not published.
        StoreUnreachable: the online store does not answer.
    """
    selected = _select(published, request)
    views = {view.name: view for view, _ in selected}
    rows, keys = _keys(request, views)
    reader = published.reader
    assert reader is not None, "views come with a reader"
    response = features_pb2.GetFeaturesResponse(rows=rows, publication=published.sequence)
    releases: dict[str, int] = {}
    answers: dict[str, OnlineColumns] = {}
    for name, view in views.items():
        wanted = [field.name for owner, field in selected if owner.name == name]
        own = {key.name: keys[key.name] for key in view.keys}
        answers[name] = reader.read(view, wanted, own)
        _describe_rows(response.views.add(), view, answers[name], published.releases, releases)
    for view, field in selected:
        column = response.columns.add(reference=view.reference(field.name))
        answer = answers[view.name]
        set_column(column, field.type, answer.values[field.name])
        column.validity = bitmap(~answer.nulls[field.name])
        if field.noise_stddev is not None:
            column.noise_stddev = field.noise_stddev
    response.releases.extend(releases)
    return response


def _select(
    published: Published, request: features_pb2.GetFeaturesRequest
) -> tuple[tuple[PublishedView, FeatureField], ...]:
    """The views and features that are asked for, in order."""
    selection = request.WhichOneof("selection")
    if selection is None:
        raise FieldProblem("selection", "found none; name a feature_service or list features")
    if selection == "feature_service":
        service = published.services.get(request.feature_service)
        if service is None:
            known = ", ".join(sorted(published.services)) or "none"
            raise NotServed(f"no feature service {shown(request.feature_service)}; published: {known}")
        references, where = service.features, "feature_service"
    else:
        references, where = tuple(request.features.references), "features.references"
        if not references:
            raise FieldProblem(where, "found no feature; name at least one, as 'view:feature'")
        if len(references) > MAX_FEATURES:
            raise TooLarge(where, "features", len(references), MAX_FEATURES)
        if len(set(references)) != len(references):
            raise FieldProblem(where, "a feature is named twice; name each once")
    return tuple(_feature(published, reference, where) for reference in references)


def _feature(published: Published, reference: str, where: str) -> tuple[PublishedView, FeatureField]:
    name, colon, feature = reference.partition(":")
    if not colon:
        raise FieldProblem(where, f"found a feature {shown(reference)}; allowed: 'view:feature'")
    view = published.views.get(name)
    if view is None:
        known = ", ".join(sorted(published.views)) or "none"
        raise NotServed(f"no view {shown(name)}; published: {known}")
    field = view.feature(feature)
    if field is None:
        known = ", ".join(sorted(own.name for own in view.features))
        raise NotServed(f"view {name} has no feature {shown(feature)}; it has: {known}")
    return view, field


def _keys(request: features_pb2.GetFeaturesRequest, views: dict[str, PublishedView]) -> tuple[int, Keys]:
    """The number of rows and the key columns by name, all as the views need them."""
    needed = {key.name: key.type for view in views.values() for key in view.keys}
    allowed = ", ".join(f"{name} ({kind})" for name, kind in needed.items())
    keys: Keys = {}
    for position, column in enumerate(request.keys):
        where = f"keys[{position}]"
        if column.name not in needed:
            raise FieldProblem(f"{where}.name", f"found a key {shown(column.name)}; these features need: {allowed}")
        if column.name in keys:
            raise FieldProblem(f"{where}.name", f"key {column.name!r} is given twice; give each once")
        field = column.WhichOneof("values")
        wanted = needed[column.name]
        if field is None or KINDS[field] != wanted:
            found = KINDS[field] if field else "no values"
            raise FieldProblem(f"{where}.values", f"key {column.name!r}: found {found}, allowed: {wanted}")
        keys[column.name] = get_column(column)[1]
    if missing := [name for name in needed if name not in keys]:
        raise FieldProblem("keys", f"key columns are missing: {', '.join(missing)}; these features need: {allowed}")
    lengths = {name: len(values) for name, values in keys.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {length:,}" for name, length in lengths.items())
        raise FieldProblem("keys", f"columns of unequal length: {listed}; give one value of each key for every entity")
    rows = next(iter(lengths.values()))
    if rows > MAX_ROWS:
        raise TooLarge("keys", "entities", rows, MAX_ROWS)
    return rows, keys


def _describe_rows(
    message: features_pb2.ViewRows,
    view: PublishedView,
    answer: OnlineColumns,
    names: ReleaseNames,
    releases: dict[str, int],
) -> None:
    """Says for every row whether it was found, its event time, and its release (a position in `releases`)."""
    message.view = view.name
    message.found = bitmap(answer.found)
    indexes = np.full(len(answer.found), -1, dtype="<i4")
    instants = np.zeros(len(answer.found), dtype="<i8")
    instants[answer.found] = answer.event_times[answer.found].astype("M8[us]").astype(np.int64)
    for instant in np.unique(answer.event_times[answer.found]):
        release = names.name(view, instant.astype("M8[us]").item())
        if release is not None:
            indexes[answer.event_times == instant] = releases.setdefault(release, len(releases))
    message.MergeFromString(packed(_EVENT_TIMES, instants) + packed(_RELEASE_INDEXES, indexes))
