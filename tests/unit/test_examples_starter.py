from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from examples.starter.cli import create_project, init
from examples.starter.sample import EVENTS, FIRST_DAY, TOPICS, WEEKS
from governance.canonical import sha256_file
from governance.errors import ConfigError
from governance.ledger import Balance
from governance.privacy import PrivacyLoss
from governance.settings import load_settings
from pipelines.definitions import PublicPartitions
from pipelines.plan import plan_signal
from pipelines.project import load_project


def test_project_loads_and_plans(tmp_path: Path) -> None:
    create_project(tmp_path / "shop")
    settings = load_settings(tmp_path / "shop")
    (signal,) = load_project(settings).signals
    plan = plan_signal(signal, settings)
    assert plan.calibration.epsilon < 2.5
    fresh = Balance(account=plan.account.name, cap=plan.account.cap, spent=PrivacyLoss.zero(), held=PrivacyLoss.zero())
    assert plan.affordable(fresh) == 3  # so that four weeks show a refusal, as its README says
    assert isinstance(signal.partitions, PublicPartitions)
    assert signal.partitions.domains["topic"] == TOPICS


def test_sample_is_the_same_every_time_and_lies_in_the_calendar(tmp_path: Path) -> None:
    create_project(tmp_path / "one")
    create_project(tmp_path / "two")
    first, second = (tmp_path / name / "data" / "reads.parquet" for name in ("one", "two"))
    assert sha256_file(first) == sha256_file(second)
    table = pq.read_table(first)
    assert table.num_rows == EVENTS
    calendar = load_settings(tmp_path / "one").calendar
    assert calendar.first_day == FIRST_DAY.date()
    assert calendar.last_day is not None
    assert (calendar.last_day - FIRST_DAY.date()).days + 1 == 7 * WEEKS
    days = [moment.date() for moment in table.column("read_at").to_pylist()]
    assert min(days) >= FIRST_DAY.date()
    assert max(days) <= calendar.last_day
    assert set(table.column("topic").to_pylist()) == set(TOPICS)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("shop", "shop"), ("My Shop!", "my_shop"), ("2025-reads", "project_2025_reads"), ("ä", "project")],
)
def test_project_is_named_after_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    create_project(tmp_path / folder)
    assert load_settings(tmp_path / folder).name == name


def test_a_folder_with_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        create_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    create_project(tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "README.md",
        "data",
        "hedgerow.toml",
        "policy",
        "signals",
    ]


def test_init_says_what_comes_next(tmp_path: Path) -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        init(tmp_path / "shop")
    for command in ("plan", "run", "publish", "report"):
        assert f"hedgerow {command} -p {tmp_path / 'shop'}" in out.getvalue()
