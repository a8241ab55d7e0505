from __future__ import annotations

import ast
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from examples.demo import recommender
from examples.demo.generator import generate
from examples.demo.mapping import Dataset, load_datasets
from examples.demo.workspace import (
    TEMPLATE,
    Generated,
    GivenFiles,
    open_workspace,
    render_constants,
)
from examples.scaffold import new_folder
from governance.errors import BudgetExceeded, ConfigError, InputError
from governance.ledger import Ledger
from governance.settings import Settings, load_settings
from pipelines.compiled import definition_sha256
from pipelines.definitions import PrivateSelection, UnitKind
from pipelines.plan import SignalPlan, plan_signal
from pipelines.project import load_project

DATASETS = load_datasets()


@pytest.fixture
def sample(tmp_path: Path) -> GivenFiles:
    files = generate(tmp_path / "sample", users=40, items=30, events=200)
    return GivenFiles(events=files.events, items=files.items)


def project_of(dataset: Dataset, folder: Path, sample: GivenFiles, windows: int = 4) -> Settings:
    """The demo's project with a dataset's definitions and accounts. Only the generated files are at hand everywhere, so
    their workspace gets the other dataset's constants."""
    from examples.demo import workspace as module

    settings = open_workspace(folder, sample, windows).settings
    (folder / "signals" / "_dataset.py").write_text(render_constants(dataset), encoding="utf-8")
    caps = module._caps(folder, dataset, windows)
    (folder / "hedgerow.toml").write_text(module.render_settings(dataset, caps), encoding="utf-8")
    return load_settings(settings.root)


def plans_of(settings: Settings) -> list[SignalPlan]:
    return [plan_signal(signal, settings) for signal in load_project(settings).signals]


def test_template_is_what_the_generated_sample_gets(tmp_path: Path, sample: GivenFiles) -> None:
    made = open_workspace(tmp_path / "out", sample, 4).settings.root
    for name in ("hedgerow.toml", "signals/_dataset.py", "signals/item_activity.py"):
        assert (made / name).read_text() == (TEMPLATE / name).read_text(), name


def test_template_runs_as_it_stands() -> None:
    settings = load_settings(TEMPLATE)
    project = load_project(settings)
    assert {signal.name for signal in project.signals} == {
        "genre_cohort_weekly",
        "item_weekly",
        "platform_trend",
        "user_genre_affinity",
    }
    assert [embedding.name for embedding in project.embeddings] == ["item_content"]
    for signal in project.signals:
        assert plan_signal(signal, settings).calibration.epsilon < 4


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
@pytest.mark.parametrize("windows", [4, 7])
def test_accounts_pay_for_what_was_asked_and_not_for_one_more(
    tmp_path: Path, sample: GivenFiles, dataset: Dataset, windows: int
) -> None:
    settings = project_of(dataset, tmp_path / "out", sample, windows)
    plans = plans_of(settings)
    with Ledger(settings.ledger_path) as ledger:
        for number in range(windows):
            for plan in plans:
                ledger.reserve(f"{number} {plan.signal.name}", plan.account, f"{plan.signal.name} {number}", plan.loss)
        refused: list[BudgetExceeded] = []
        for plan in plans:
            try:
                ledger.reserve(f"more {plan.signal.name}", plan.account, f"{plan.signal.name} more", plan.loss)
            except BudgetExceeded as error:
                refused.append(error)
        assert {error.account for error in refused} == {account.name for account in settings.accounts}
        assert {error.quantity for error in refused} == {"rho"}
        for account in settings.accounts:
            balance = ledger.balance(account)
            assert Decimal(0) <= balance.remaining.rho < balance.cap.rho


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: dataset.name)
def test_signals_protect_what_the_demo_says(tmp_path: Path, sample: GivenFiles, dataset: Dataset) -> None:
    plans = {plan.signal.name: plan for plan in plans_of(project_of(dataset, tmp_path / "out", sample))}
    item, affinity = plans[f"item_{dataset.window.period}"], plans["user_genre_affinity"]
    cohort = plans[f"genre_cohort_{dataset.window.period}"]
    assert isinstance(item.signal.partitions, PrivateSelection)
    assert item.signal.bounds.max_rows_per_partition == 1
    assert affinity.signal.privacy_unit.kind is UnitKind.EVENT
    assert isinstance(cohort.signal.partitions, PrivateSelection) == (dataset.name == "uci-online-retail")
    person = [plan for plan in plans.values() if plan.signal.privacy_unit.kind is UnitKind.PERSON]
    assert len(person) == 3
    per_release = {"generated": 1.5, "ml-latest-small": 1.5, "uci-online-retail": 3.5}[dataset.name]
    assert max(plan.calibration.epsilon for plan in person) <= per_release


def test_definitions_of_a_dataset_are_the_same_everywhere(tmp_path: Path, sample: GivenFiles) -> None:
    first = plans_of(open_workspace(tmp_path / "one", sample, 4).settings)
    second = plans_of(open_workspace(tmp_path / "two", sample, 9).settings)
    assert [definition_sha256(plan.signal) for plan in first] == [definition_sha256(plan.signal) for plan in second]


def test_same_input_continues_and_keeps_its_accounts(tmp_path: Path, sample: GivenFiles) -> None:
    first = open_workspace(tmp_path / "out", sample, 4)
    again = open_workspace(tmp_path / "out", sample, 40)
    assert (first.resumed, again.resumed) == (False, True)
    assert again.settings == first.settings


def test_another_input_is_refused_and_nothing_is_touched(tmp_path: Path, sample: GivenFiles) -> None:
    out = tmp_path / "out"
    open_workspace(out, sample, 4)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(ConfigError, match="another input"):
        open_workspace(out, Generated(seed=1), 4)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_folder_with_something_else_is_refused(tmp_path: Path, sample: GivenFiles) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        open_workspace(tmp_path / "out", sample, 4)
    with pytest.raises(ConfigError, match="is a file"):
        open_workspace(tmp_path / "out" / "letter.txt", sample, 4)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["letter.txt"]


def test_bad_input_leaves_nothing_behind(tmp_path: Path, sample: GivenFiles) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    swapped = GivenFiles(events=sample.items, items=sample.events)
    with pytest.raises(InputError):
        open_workspace(tmp_path / "out", swapped, 4)
    with pytest.raises(InputError):
        open_workspace(tmp_path / "out", GivenFiles(events=sample.items, items=sample.items, mapping="generated"), 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with new_folder(tmp_path / "new") as staged:
            (staged / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "new") as staged:
        (staged / "whole").write_text("x")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "whole").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_folder_that_fills_meanwhile_stays_as_it_is(tmp_path: Path) -> None:
    def race() -> None:
        with new_folder(tmp_path / "new"):
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "theirs").write_text("x")

    with pytest.raises(ConfigError, match="meanwhile"):
        race()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "theirs"]


def test_recommender_is_short_and_knows_only_the_client() -> None:
    text = Path(recommender.__file__).read_text()
    assert len(text.splitlines()) < 40
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"collections.abc", "numpy", "serving.client"}
