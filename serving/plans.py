"""What a request's selection means in one publication, and the cached bytes of its answers.

A model asks for the same features again and again. The first request of a kind resolves names, checks them and writes
the bytes that stand between the columns; later ones find all that by the selection's own bytes. A plan belongs to one
publication and goes with it.

Where a request's bytes are at hand, and its entities are one column of integers, no message is made of it at all: the
selection is the first field, and the integers are what the message ends with (`planned_run`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.column_types import row_field
from featurestore.publication import FeatureField, PublishedView
from featurestore.rows import RowField
from serving.columns import WIDTHS
from serving.limits import MAX_FEATURES, MAX_ROWS
from serving.problems import FieldProblem, TooLarge, UnknownName, shown
from serving.v1 import features_pb2
from serving.wire import IdRun, delimited, first_field, header, varint

if TYPE_CHECKING:
    from serving.state import Published

__all__ = ["ColumnPlan", "FeaturePlan", "ViewPlan", "plan_for", "planned_run"]

_PLANS: Final = 1_000
"""Kept in one publication; then all are forgotten."""
_FRAMES: Final = 64
"""Kept in one plan; then all are forgotten."""
_MESSAGE: Final = features_pb2.FeatureColumn.DESCRIPTOR.fields_by_name
_NOISE: Final = varint(_MESSAGE["noise_stddev"].number << 3 | 1)
_KEYS: Final = features_pb2.GetFeaturesRequest.KEYS_FIELD_NUMBER
_KEY_INTEGERS: Final = features_pb2.KeyColumn.INT64S_FIELD_NUMBER


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPlan:
    """One column of an answer.

    Attributes:
        view: the view it comes from.
        source: the view's position among the plan's.
        feature: the feature's name.
        position: of the feature among those wanted of the view.
        kind: its type, a value of `serving.columns.KINDS`.
        dimension: of vectors; else 0.
        width: bytes of a row's value; 0 for texts.
        reference: the wire form of `FeatureColumn.reference`.
        noise: the wire form of `FeatureColumn.noise_stddev`; empty where there is none.
    """

    view: PublishedView
    source: int
    feature: str
    position: int
    kind: str
    dimension: int
    width: int
    reference: bytes
    noise: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPlan:
    """One view that a selection reads.

    Attributes:
        view: the view.
        features: what is wanted of it.
        fields: the same as rows hold them.
        keys: names of its key columns.
        direct: whether a snapshot takes its keys as they come: integers and texts.
    """

    view: PublishedView
    features: tuple[str, ...]
    fields: tuple[RowField, ...]
    keys: tuple[str, ...]
    direct: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePlan:
    """A selection, resolved.

    Attributes:
        columns: in the order of the answer.
        views: each view that is read.
        keys: name of every key column that is needed → its type.
        needed: the same in words, for messages.
        resources: what is read, as access rules name it.
        run: finds the entities at the end of a request's bytes, where one column of integers names them; else None.
        frames: rows and releases → what stands between the arrays of such an answer if nothing is missing in it.
        shapes: rows → what stands before the values of each column; see `serving.feature_answers`.
    """

    columns: tuple[ColumnPlan, ...]
    views: tuple[ViewPlan, ...]
    keys: Mapping[str, str]
    needed: str
    resources: tuple[str, ...]
    run: IdRun | None
    frames: dict[tuple[Any, ...], list[bytes]] = field(default_factory=dict)
    shapes: dict[int, list[tuple[bytes, bytes, bytes]]] = field(default_factory=dict)

    def remember(self, key: tuple[Any, ...], frame: list[bytes]) -> None:
        """Keeps a frame; when there are too many, the others are forgotten."""
        if len(self.frames) >= _FRAMES:
            self.frames.clear()
        self.frames[key] = frame

    def keep_shape(self, rows: int, shape: list[tuple[bytes, bytes, bytes]]) -> None:
        """Keeps a shape; when there are too many, the others are forgotten."""
        if len(self.shapes) >= _FRAMES:
            self.shapes.clear()
        self.shapes[rows] = shape


def planned_run(published: Published, data: bytes) -> tuple[FeaturePlan, NDArray[np.int64]] | None:
    """Plan and entities of a GetFeaturesRequest in its wire form, without a message; None where it must be parsed.

    It is found where such a selection was planned before and the rest is one column of integers, written as usual.
    """
    end = first_field(data)
    plan = published.plans.get(data[:end])
    if plan is None or plan.run is None:
        return None
    run = plan.run.find(data, end)
    return None if run is None else (plan, run)


def plan_for(published: Published, request: Any, where: str = "") -> FeaturePlan:
    """The plan of a request's selection, made once.

    Args:
        request: a message with the oneof `selection` of `feature_service` (1) and `features` (2).
        where: what a field violation's path begins with.

    Raises:
        RequestInvalid: no selection, no features, too many, or one twice.
        UnknownName: a feature service, view or feature that is not published.
    """
    named = request.WhichOneof("selection")
    if named == "feature_service":
        key = delimited(1, request.feature_service.encode())
    elif named == "features":
        key = delimited(2, request.features.SerializeToString())
    else:
        raise FieldProblem(f"{where}selection", "found none; name a feature_service or list features")
    plans = published.plans
    if (plan := plans.get(key)) is None:
        references = _references(published, request, named, where)
        plan = _plan(published, references, f"{where}feature_service" if named == "feature_service" else _list(where))
        if len(plans) >= _PLANS:
            plans.clear()
        plans[key] = plan
    return plan


def _list(where: str) -> str:
    return f"{where}features.references"


def _references(published: Published, request: Any, named: str, where: str) -> Sequence[str]:
    if named == "feature_service":
        service = published.services.get(request.feature_service)
        if service is None:
            raise UnknownName(
                f"{where}feature_service",
                f"no feature service {shown(request.feature_service)}",
                {name: _views_of(service.features) for name, service in published.services.items()},
            )
        return service.features
    references = tuple(request.features.references)
    if not references:
        raise FieldProblem(_list(where), "found no feature; name at least one, as 'view:feature'")
    if len(references) > MAX_FEATURES:
        raise TooLarge(_list(where), "features", len(references), MAX_FEATURES)
    if len(set(references)) != len(references):
        raise FieldProblem(_list(where), "a feature is named twice; name each once")
    return references


def _views_of(references: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reference.partition(":")[0] for reference in references))


def _plan(published: Published, references: Sequence[str], where: str) -> FeaturePlan:
    selected = [_feature(published, reference, where) for reference in references]
    wanted: dict[str, list[str]] = {}
    for view, feature in selected:
        wanted.setdefault(view.name, []).append(feature.name)
    views = tuple(_view(published.views[name], features) for name, features in wanted.items())
    keys = {key.name: key.type for own in views for key in own.view.keys}
    order = {own.view.name: position for position, own in enumerate(views)}
    return FeaturePlan(
        columns=tuple(
            _column(view, feature, order[view.name], wanted[view.name].index(feature.name))
            for view, feature in selected
        ),
        views=views,
        keys=keys,
        needed=", ".join(f"{name} ({kind})" for name, kind in keys.items()),
        resources=tuple(own.view.name for own in views),
        run=_run(next(iter(keys))) if list(keys.values()) == ["int64"] else None,
    )


def _run(key: str) -> IdRun:
    """What finds a request's only key column, of integers and of this name, behind the selection."""
    name = delimited(1, key.encode())

    def before(size: int) -> bytes:
        values = header(1, size)
        column = name + header(_KEY_INTEGERS, len(values) + size) + values
        return header(_KEYS, len(column) + size) + column

    return IdRun(before, MAX_ROWS)


def _view(view: PublishedView, features: Sequence[str]) -> ViewPlan:
    types = {field.name: field.type for field in view.features}
    return ViewPlan(
        view=view,
        features=tuple(features),
        fields=tuple(row_field(name, types[name]) for name in features),
        keys=tuple(key.name for key in view.keys),
        direct=all(key.type in ("int64", "string") for key in view.keys),
    )


def _column(view: PublishedView, feature: FeatureField, source: int, position: int) -> ColumnPlan:
    noise, kind = feature.noise_stddev, feature.type.partition("<")[0]
    dimension = row_field(feature.name, feature.type).dimension
    return ColumnPlan(
        view=view,
        source=source,
        feature=feature.name,
        position=position,
        kind=kind,
        dimension=dimension or 0,
        width=np.dtype(WIDTHS[kind]).itemsize * (dimension or 1) if kind in WIDTHS else 0,
        reference=delimited(1, view.reference(feature.name).encode()),
        noise=b"" if noise is None else _NOISE + struct.pack("<d", noise),
    )


def _feature(published: Published, reference: str, where: str) -> tuple[PublishedView, FeatureField]:
    name, colon, feature = reference.partition(":")
    if not colon:
        raise FieldProblem(where, f"found a feature {shown(reference)}; allowed: 'view:feature'")
    view = published.views.get(name)
    if view is None:
        raise UnknownName(where, f"no view {shown(name)}", {name: (name,) for name in published.views})
    found = view.feature(feature)
    if found is None:
        problem, there = f"view {name} has no feature {shown(feature)}", {own.name: (name,) for own in view.features}
        raise UnknownName(where, problem, there, lead="it has", within=(name,))
    return view, found
