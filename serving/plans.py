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
from featurestore.rows import RowField, Runs, Texts
from governance.errors import NotServed
from serving.columns import FIELDS, run_array
from serving.limits import MAX_FEATURES, MAX_ROWS
from serving.problems import FieldProblem, TooLarge, shown
from serving.v1 import features_pb2
from serving.wire import Buffer, IdRun, delimited, first_field, header, texts_field, uint, varint

if TYPE_CHECKING:
    from serving.state import Published

__all__ = ["ColumnPlan", "FeaturePlan", "Frame", "ViewPlan", "plan_for", "planned_run"]

_PLANS: Final = 1_000
"""Kept in one publication; then all are forgotten."""
_FRAMES: Final = 64
"""Kept in one plan; then all are forgotten."""
_MESSAGE: Final = features_pb2.FeatureColumn.DESCRIPTOR.fields_by_name
_VALIDITY: Final = _MESSAGE["validity"].number
_NOISE: Final = varint(_MESSAGE["noise_stddev"].number << 3 | 1)
_KEYS: Final = features_pb2.GetFeaturesRequest.KEYS_FIELD_NUMBER
_KEY_INTEGERS: Final = features_pb2.KeyColumn.INT64S_FIELD_NUMBER
_COLUMNS: Final = features_pb2.GetFeaturesResponse.COLUMNS_FIELD_NUMBER


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPlan:
    """One column of an answer.

    Attributes:
        view: the view it comes from.
        feature: the feature's name.
        position: of the feature among those wanted of the view.
        kind: its type, a value of `serving.columns.KINDS`.
        reference: the wire form of `FeatureColumn.reference`.
        noise: the wire form of `FeatureColumn.noise_stddev`; empty where there is none.
    """

    view: PublishedView
    feature: str
    position: int
    kind: str
    reference: bytes
    noise: bytes

    def encode(self, values: NDArray[Any] | Texts, validity: bytes) -> list[Buffer]:
        """The column as pieces of `GetFeaturesResponse`; memory of arrays is a `memoryview`, all else bytes.

        Args:
            values: as `FeatureColumns.values` holds them.
            validity: the bitmap of values that are there; empty: all are.
        """
        after = (header(_VALIDITY, len(validity)) + validity if validity else b"") + self.noise
        if isinstance(values, Texts):
            inner, run = b"", memoryview(texts_field(1, values.data, values.offsets))
            size = run.nbytes
        else:
            array = run_array(self.kind, values)
            run, size, dimension = array.data, array.nbytes, values.shape[1] if values.ndim == 2 else 0
            inner = uint(1, dimension) + (header(2 if dimension else 1, size) if size else b"")
        head = header(_MESSAGE[FIELDS[self.kind]].number, len(inner) + size) + inner
        whole = len(self.reference) + len(head) + size + len(after)
        return [header(_COLUMNS, whole) + self.reference + head, run, after]


class Frame:
    """The constant bytes of an answer in which every value is there and each view's rows come from one release.

    Such answers of n rows differ in the memory of their arrays only, so one of them teaches all that stands between.

    Args:
        pieces: of a whole answer; memory of arrays is a `memoryview`, all else bytes.
    """

    __slots__ = ("_constant",)

    def __init__(self, pieces: Sequence[Buffer]) -> None:
        self._constant: list[bytes] = [b""]
        for piece in pieces:
            if isinstance(piece, memoryview):
                self._constant.append(b"")
            else:
                self._constant[-1] += piece

    def fill(self, runs: Sequence[bytes]) -> bytes:
        """The answer with the memory of these arrays in their places."""
        pieces = [b""] * (2 * len(runs) + 1)
        pieces[0::2] = self._constant
        pieces[1::2] = runs
        return b"".join(pieces)


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
        places: of each column, which view it comes from and its position there; none if all come from one, in order.
        run: finds the entities at the end of a request's bytes, where one column of integers names them; else None.
        frames: rows and releases → the constant bytes of such answers, see `Frame`.
    """

    columns: tuple[ColumnPlan, ...]
    views: tuple[ViewPlan, ...]
    keys: Mapping[str, str]
    needed: str
    resources: tuple[str, ...]
    places: tuple[tuple[int, int], ...]
    run: IdRun | None
    frames: dict[tuple[Any, ...], Frame] = field(default_factory=dict)

    def runs(self, answers: Sequence[Runs]) -> list[bytes]:
        """The memory between an answer's constant bytes: columns, then the event times of each view."""
        if not self.places:
            (answer,) = answers
            return [*answer.columns, answer.event_times]
        columns = [answers[view].columns[position] for view, position in self.places]
        return columns + [answer.event_times for answer in answers]

    def remember(self, key: tuple[Any, ...], frame: Frame) -> None:
        """Keeps a frame; when there are too many, the others are forgotten."""
        if len(self.frames) >= _FRAMES:
            self.frames.clear()
        self.frames[key] = frame


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
        NotServed: a feature service, view or feature that is not published.
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
            known = ", ".join(sorted(published.services)) or "none"
            raise NotServed(f"no feature service {shown(request.feature_service)}; published: {known}")
        return service.features
    references = tuple(request.features.references)
    if not references:
        raise FieldProblem(_list(where), "found no feature; name at least one, as 'view:feature'")
    if len(references) > MAX_FEATURES:
        raise TooLarge(_list(where), "features", len(references), MAX_FEATURES)
    if len(set(references)) != len(references):
        raise FieldProblem(_list(where), "a feature is named twice; name each once")
    return references


def _plan(published: Published, references: Sequence[str], where: str) -> FeaturePlan:
    selected = [_feature(published, reference, where) for reference in references]
    wanted: dict[str, list[str]] = {}
    for view, feature in selected:
        wanted.setdefault(view.name, []).append(feature.name)
    views = tuple(_view(published.views[name], features) for name, features in wanted.items())
    keys = {key.name: key.type for own in views for key in own.view.keys}
    columns = tuple(_column(view, feature, wanted[view.name].index(feature.name)) for view, feature in selected)
    order = {own.view.name: position for position, own in enumerate(views)}
    return FeaturePlan(
        columns=columns,
        views=views,
        keys=keys,
        needed=", ".join(f"{name} ({kind})" for name, kind in keys.items()),
        resources=tuple(own.view.name for own in views),
        places=tuple((order[column.view.name], column.position) for column in columns) if len(views) > 1 else (),
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


def _column(view: PublishedView, feature: FeatureField, position: int) -> ColumnPlan:
    noise = feature.noise_stddev
    return ColumnPlan(
        view=view,
        feature=feature.name,
        position=position,
        kind=feature.type.partition("<")[0],
        reference=delimited(1, view.reference(feature.name).encode()),
        noise=b"" if noise is None else _NOISE + struct.pack("<d", noise),
    )


def _feature(published: Published, reference: str, where: str) -> tuple[PublishedView, FeatureField]:
    name, colon, feature = reference.partition(":")
    if not colon:
        raise FieldProblem(where, f"found a feature {shown(reference)}; allowed: 'view:feature'")
    view = published.views.get(name)
    if view is None:
        known = ", ".join(sorted(published.views)) or "none"
        raise NotServed(f"no view {shown(name)}; published: {known}")
    found = view.feature(feature)
    if found is None:
        known = ", ".join(sorted(own.name for own in view.features))
        raise NotServed(f"view {name} has no feature {shown(feature)}; it has: {known}")
    return view, found
