"""Hierarchies: which releases a signal reads, and in which order signals run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from governance.errors import DefinitionError, ReleaseMissing
from governance.release import ReleaseStore
from pipelines import ConsistentWith, PublicPartitions, ReleasedColumn
from pipelines.parents import parents_first, parents_of
from pipelines.windows import Span
from tests.support.projects import a_signal

END = datetime(2025, 11, 10, tzinfo=UTC)
SPAN = Span(END - timedelta(days=7), END)


def child_of(name: str, parent: str) -> object:
    return a_signal(
        name=name,
        partitions=PublicPartitions({"item_id": ReleasedColumn(signal=parent, version=1, column="item_id")}),
    )


def test_parents_come_first_and_the_rest_keeps_its_order() -> None:
    signals = (child_of("c", "b"), child_of("b", "a"), a_signal(name="x"), a_signal(name="a"))
    assert [signal.name for signal in parents_first(signals)] == ["a", "b", "c", "x"]  # type: ignore[arg-type]


def test_a_step_reads_its_parent_too() -> None:
    step = ConsistentWith(signal="z", version=1, columns=("users",))
    signals = (a_signal(name="y", post_processing=(step,)), a_signal(name="z"))
    assert [signal.name for signal in parents_first(signals)] == ["z", "y"]


def test_a_circle_is_refused() -> None:
    with pytest.raises(DefinitionError, match="reads its own keys through a -> b"):
        parents_first((child_of("a", "b"), child_of("b", "a")))  # type: ignore[arg-type]


def test_a_parent_without_a_release_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseMissing, match="reads a v1, which has no release that ends by 2025-11-10; run it first"):
        parents_of(child_of("b", "a"), SPAN, ReleaseStore(tmp_path))  # type: ignore[arg-type]
