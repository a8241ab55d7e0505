"""Columns and runs → the bytes of a `GetFeaturesResponse`, which are protobuf's own.

Three ways, by what is known of the rows. Nothing missing: all bytes between the arrays depend on selection, number of
rows and releases only, and are kept (`FeaturePlan.frames`). Gaps: the arrays are at hand as bytes, and masks come
between them. Anything else, texts and rows of several releases: from arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurestore.publication import PublishedView
from featurestore.rows import FeatureColumns, Runs, Texts
from serving.columns import FIELDS, bitmap, run_array
from serving.plans import ColumnPlan, FeaturePlan
from serving.v1 import features_pb2
from serving.wire import Buffer, delimited, header, packed, texts_field, uint

__all__ = ["write_answer"]

_ANSWER: Final = features_pb2.GetFeaturesResponse
_COLUMN: Final = features_pb2.FeatureColumn.DESCRIPTOR.fields_by_name
_VALIDITY: Final = _COLUMN["validity"].number
_ROW: Final = features_pb2.ViewRows


def write_answer(sequence: int, plan: FeaturePlan, rows: int, answers: Sequence[Runs | FeatureColumns]) -> bytes:
    """A serialised `GetFeaturesResponse`.

    Args:
        sequence: the publication's.
        plan: the selection.
        rows: n.
        answers: what each of the plan's views says of the n rows.
    """
    runs = [answer for answer in answers if isinstance(answer, Runs)]
    if len(runs) < len(answers):
        columns = {
            own.view.name: answer.as_columns(own.fields) if isinstance(answer, Runs) else answer
            for own, answer in zip(plan.views, answers, strict=True)
        }
        return b"".join(_of_columns(sequence, plan, rows, columns))
    for answer in runs:
        if answer.gaps is not None:
            return b"".join(_of_runs(sequence, plan, rows, runs))
    key = (rows, *[answer.release for answer in runs])
    frame = plan.frames.get(key)
    if frame is None:
        pieces = _of_runs(sequence, plan, rows, runs)
        plan.remember(key, pieces[0::2])
        return b"".join(pieces)
    arrays = _arrays(plan, runs)
    pieces = [b""] * (2 * len(arrays) + 1)
    pieces[0::2] = frame
    pieces[1::2] = arrays
    return b"".join(pieces)


def _arrays(plan: FeaturePlan, answers: Sequence[Runs]) -> list[bytes]:
    """The arrays of an answer without gaps: columns, then the event times of each view."""
    if len(answers) == 1:
        return [*answers[0].columns, answers[0].event_times]
    columns = [answers[column.source].columns[column.position] for column in plan.columns]
    return columns + [answer.event_times for answer in answers]


# --- from runs -------------------------------------------------------------------------------------------------


def _of_runs(sequence: int, plan: FeaturePlan, rows: int, answers: Sequence[Runs]) -> list[bytes]:
    """An answer in pieces: by turns what stands between arrays, and arrays."""
    pieces: list[bytes] = []
    before = uint(_ANSWER.ROWS_FIELD_NUMBER, rows)
    for column, (whole, gapped, mask_head) in zip(plan.columns, _shape(plan, rows), strict=True):
        answer = answers[column.source]
        mask = b"" if answer.gaps is None else answer.gaps.values[column.position]
        if mask:
            pieces += (before + gapped, answer.columns[column.position], mask_head, mask)
        else:
            pieces += (before + whole, answer.columns[column.position])
        before = column.noise
    releases: dict[str, int] = {}
    for own, answer in zip(plan.views, answers, strict=True):
        found = b"" if answer.gaps is None else answer.gaps.found
        position = -1 if answer.release is None else releases.setdefault(answer.release, len(releases))
        start = delimited(_ROW.VIEW_FIELD_NUMBER, own.view.name.encode())
        if found:
            start += delimited(_ROW.FOUND_FIELD_NUMBER, found)
        start += header(_ROW.EVENT_TIMES_FIELD_NUMBER, 8 * rows)
        end = packed(_ROW.RELEASE_INDEXES_FIELD_NUMBER, _positions(position, found, rows))
        head = header(_ANSWER.VIEWS_FIELD_NUMBER, len(start) + 8 * rows + len(end))
        pieces += (before + head + start, answer.event_times)
        before = end
    names = [delimited(_ANSWER.RELEASES_FIELD_NUMBER, release.encode()) for release in releases]
    pieces.append(b"".join((before, *names, uint(_ANSWER.PUBLICATION_FIELD_NUMBER, sequence))))
    return pieces


def _positions(position: int, found: bytes, rows: int) -> NDArray[np.int32]:
    """The position of the rows' only release, and -1 where not found."""
    if not found:
        return np.full(rows, position, "<i4")
    there = np.unpackbits(np.frombuffer(found, np.uint8), count=rows, bitorder="little").astype("<i4")
    return there - 1 if position == 0 else there * np.int32(position + 1) - np.int32(1)


def _shape(plan: FeaturePlan, rows: int) -> list[tuple[bytes, bytes, bytes]]:
    """For each column what stands before its values, without a mask and with one, and what stands before the mask."""
    shape = plan.shapes.get(rows)
    if shape is None:
        mask = (rows + 7) // 8
        mask_head = header(_VALIDITY, mask)
        shape = []
        for column in plan.columns:
            size, after = rows * column.width, len(column.noise)
            whole = _before_values(column, size, after)
            shape.append((whole, _before_values(column, size, after + len(mask_head) + mask), mask_head))
        plan.keep_shape(rows, shape)
    return shape


def _before_values(column: ColumnPlan, size: int, after: int) -> bytes:
    """What stands before a column's values.

    Args:
        column: of fixed width.
        size: of the values, in bytes.
        after: bytes of the column behind them.
    """
    dimension = column.dimension
    inner = uint(1, dimension) + (header(2 if dimension else 1, size) if size else b"")
    head = column.reference + header(_COLUMN[FIELDS[column.kind]].number, len(inner) + size) + inner
    return header(_ANSWER.COLUMNS_FIELD_NUMBER, len(head) + size + after) + head


# --- from arrays -----------------------------------------------------------------------------------------------


def _of_columns(sequence: int, plan: FeaturePlan, rows: int, answers: Mapping[str, FeatureColumns]) -> list[Buffer]:
    """An answer in pieces: the memory of columns and event times, and the bytes between."""
    pieces: list[Buffer] = [uint(_ANSWER.ROWS_FIELD_NUMBER, rows)]
    for column in plan.columns:
        answer = answers[column.view.name]
        pieces += _column(column, answer.values[column.feature], bitmap(~answer.nulls[column.position]))
    releases: dict[str, int] = {}
    for own in plan.views:
        content = _view_rows(own.view, answers[own.view.name], releases)
        pieces += (header(_ANSWER.VIEWS_FIELD_NUMBER, sum(map(_size, content))), *content)
    pieces += [delimited(_ANSWER.RELEASES_FIELD_NUMBER, release.encode()) for release in releases]
    pieces.append(uint(_ANSWER.PUBLICATION_FIELD_NUMBER, sequence))
    return pieces


def _column(column: ColumnPlan, values: NDArray[Any] | Texts, validity: bytes) -> list[Buffer]:
    """A column of values as `FeatureColumns.values` holds them, and the bitmap of those that are there."""
    after = (delimited(_VALIDITY, validity) if validity else b"") + column.noise
    if isinstance(values, Texts):
        run: Buffer = texts_field(1, values.data, values.offsets)
        head = column.reference + header(_COLUMN[FIELDS[column.kind]].number, len(run))
        return [header(_ANSWER.COLUMNS_FIELD_NUMBER, len(head) + len(run) + len(after)) + head, run, after]
    array = run_array(column.kind, values)
    return [_before_values(column, array.nbytes, len(after)), array.data, after]


def _view_rows(view: PublishedView, answer: FeatureColumns, releases: dict[str, int]) -> list[Buffer]:
    """`ViewRows`: of every row whether it was found, its event time, and its release (a position in `releases`)."""
    bits = bitmap(answer.found)
    times = run_array("timestamp", answer.event_times)
    return [
        delimited(_ROW.VIEW_FIELD_NUMBER, view.name.encode()),
        delimited(_ROW.FOUND_FIELD_NUMBER, bits) if bits else b"",
        header(_ROW.EVENT_TIMES_FIELD_NUMBER, times.nbytes) if times.nbytes else b"",
        times.data,
        packed(_ROW.RELEASE_INDEXES_FIELD_NUMBER, _release_indexes(answer, releases)),
    ]


def _size(piece: Buffer) -> int:
    return piece.nbytes if isinstance(piece, memoryview) else len(piece)


def _release_indexes(answer: FeatureColumns, releases: dict[str, int]) -> NDArray[np.int32]:
    """The rows' positions in `releases`, which gains those that occur."""
    own = answer.release_indexes
    table = np.full(len(answer.releases) + 1, -1, dtype="<i4")  # the last one is for -1
    for position in np.unique(own[own >= 0]).tolist():
        table[position] = releases.setdefault(answer.releases[position], len(releases))
    return table[own]
