"""Preparation and content vectors of the real sets, against an independent computation in DuckDB."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from examples.demo.workspace import GivenFiles, Workspace, open_workspace
from pipelines.content import build_vectors
from pipelines.project import load_project

SHARED = Path(__file__).parents[3] / "shared" / "data"
SETS = ("ml-latest-small", "uci-online-retail")
needs_data = pytest.mark.skipif(
    not all((SHARED / name).is_dir() for name in SETS), reason=f"the real sets are not at {SHARED}"
)
pytestmark = needs_data


@pytest.fixture(scope="module", params=SETS)
def workspace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = SHARED / request.param
    source = GivenFiles(events=folder / "interactions.parquet", items=folder / "items.parquet")
    return open_workspace(tmp_path_factory.mktemp("real") / "out", source, 4)


def query(text: str, **files: Path) -> Any:
    tables = {name: f"read_parquet('{path}')" for name, path in files.items()}
    with duckdb.connect() as connection:
        return connection.execute(text.format(**tables)).fetchone()


def test_recognised_and_kept_as_an_independent_query_keeps(workspace: Workspace) -> None:
    raw = SHARED / workspace.dataset.name
    condition = {
        "ml-latest-small": "true",
        "uci-online-retail": "value > 0 and not is_cancellation "
        "and item_id in (select item_id from {items} where is_product)",
    }[workspace.dataset.name]
    numbers = "count(*), count(distinct user_id), sum(value), count(distinct item_id), sum(item_id)"
    expected = query(
        f"select {numbers}, sum(ts) from {{events}} where {condition}",
        events=raw / "interactions.parquet",
        items=raw / "items.parquet",
    )
    prepared = workspace.settings.root / "data" / "events.parquet"
    assert query(f"select {numbers}, sum(epoch(ts)::bigint) from {{events}}", events=prepared) == expected


def test_every_event_has_its_own_id(workspace: Workspace) -> None:
    ids = pq.read_table(workspace.settings.root / "data" / "events.parquet").column("event_id").to_numpy()
    assert len(np.unique(ids)) == len(ids)


def test_public_facts_cover_the_data(workspace: Workspace) -> None:
    data = workspace.settings.root / "data"
    calendar = workspace.settings.calendar
    seconds = query("select epoch(min(ts)), epoch(max(ts)) from {events}", events=data / "events.parquet")
    first, last = (datetime.fromtimestamp(moment, UTC).date() for moment in seconds)
    assert calendar.first_day is not None
    assert calendar.last_day is not None
    assert calendar.first_day <= first
    assert last <= calendar.last_day
    text = "select count(*) from {events} where user_id not in (select user_id from {users})"
    assert query(text, events=data / "events.parquet", users=data / "users.parquet") == (0,)


def test_neighbors_share_genres_far_more_often_than_chance(workspace: Workspace) -> None:
    (embedding,) = load_project(workspace.settings).embeddings
    found = build_vectors(embedding, workspace.settings.root)
    tags = [set(several) for several in found.tags]
    stream = np.random.default_rng(1)
    pairs = stream.integers(len(tags), size=(4000, 2))
    chance = np.mean([bool(tags[a] & tags[b]) for a, b in pairs])
    queries = [int(row) for row in stream.integers(len(tags), size=100) if tags[row]]
    scores = found.vectors[queries] @ found.vectors.T
    near = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    shared = np.mean(
        [bool(tags[row] & tags[other]) for row, others in zip(queries, near, strict=True) for other in others]
    )
    assert shared > 0.95
    assert chance < 0.6
