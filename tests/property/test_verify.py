"""The verifier on whatever somebody wrote into a ledger: it never fails to answer, and never says that it holds."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.verify.entries import Row, columns_of, read_sqlite
from governance.verify.heads import canonical
from governance.verify.merkle import leaf_hash
from governance.verify.verification import verify
from tests.support.strategies import examples, json_values
from tests.support.tampering import Scene, make_scene


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with tempfile.TemporaryDirectory() as folder:
        yield make_scene(Path(folder))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from places(item, (*path, name))


TEXTS = st.sampled_from(["", "0", "1e5", "-1", "0.10", "NaN", "Infinity", "9" * 700, "held", "OPEN", "DRAW", "x"])
VALUES = json_values | TEXTS | st.integers(-(2**70), 2**70)


@given(data=st.data())
@examples(150)
def test_a_rewritten_entry_is_always_found(scene: Scene, data: st.DataObject) -> None:
    source = read_sqlite(scene.database)
    number = data.draw(st.integers(0, len(source.rows) - 1))
    body = str(source.rows[number].body)
    value = json.loads(body)
    changed = copy.deepcopy(value)
    path = data.draw(st.sampled_from([place for place in places(value) if place]))
    target = changed
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = data.draw(VALUES)
    written = canonical(changed)
    if written.decode() == body:
        return
    row = source.rows[number]
    columns = row.columns
    if all(type(changed[name]) is type(value[name]) for name in value):
        columns = columns_of(changed)
    source.rows[number] = Row(
        sequence=row.sequence, body=written.decode(), digest=leaf_hash(written).hex(), columns=columns
    )
    result = verify(source, key=scene.key.public_key(), head_files=[scene.heads], roles=scene.roles)
    assert not result.holds
    alone = replace(source, rows=source.rows[number : number + 1], signed_head=None)
    assert not verify(alone, key=scene.key.public_key(), head_files=[]).holds


@given(body=st.text() | st.binary() | st.none() | st.integers() | json_values.map(lambda v: canonical(v).decode()))
@examples(150)
def test_anything_in_place_of_an_entry_is_answered(scene: Scene, body: object) -> None:
    source = read_sqlite(scene.database)
    source.rows[3] = replace(source.rows[3], body=body)
    assert not verify(source, key=scene.key.public_key(), head_files=[scene.heads]).holds
