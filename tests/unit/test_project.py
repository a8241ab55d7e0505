"""Discovery of a project's definitions, and what a person is told when a file is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from governance.errors import ConfigError, DefinitionError, UnknownSignal
from governance.settings import Settings
from pipelines.project import Project, load_project
from pipelines.run import run
from tests.support.releases import make_project

DEFINITION = """
from datetime import timedelta

from pipelines import *  # noqa: F403
{imports}

{variable} = Signal(
    name="{name}",
    version={version},
    owner="tests",
    purpose=Purpose.RANKING,
    description="{description}",
    source=EventSource(name="events", table="e.parquet", timestamp="ts", person="user_id"),
    privacy_unit=PrivacyUnit("user_id"),
    entity=Entity("item", "item_id"),
    aggregates={{"users": Count()}},
    window=Window(timedelta(days=7)),
    bounds=KeepRandom(max_partitions=3, max_rows_per_partition=1),
    partitions=PrivateSelection(delta=1e-9),
    budget_per_release=ZCDP({rho}),
    ttl=timedelta(days=14),
)
"""


def definition(
    name: str = "weekly", version: int = 1, *, imports: str = "", rho: str = "0.1", variable: str = "SIGNAL"
) -> str:
    return DEFINITION.format(
        name=name, version=version, imports=imports, rho=rho, variable=variable, description="Users of items."
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path / "project")


@pytest.fixture(autouse=True)
def bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python writes bytecode, as it does unless told otherwise: some machines are told."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


def write(settings: Settings, **files: str) -> Settings:
    for name, text in files.items():
        path = settings.signals_dir / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return settings


def names(project: Project) -> list[tuple[str, int]]:
    return [(d.name, d.version) for d in project.definitions]


def test_definitions_in_the_order_of_their_files(settings: Settings) -> None:
    write(settings, b_second=definition("second"), a_first=definition("first"), _helper="raise RuntimeError")
    (settings.signals_dir / "notes.txt").write_text("not Python")
    assert names(load_project(settings)) == [("first", 1), ("second", 1)]


def test_helpers_are_shared_and_leave_nothing_behind(settings: Settings) -> None:
    before, path = set(sys.modules), list(sys.path)
    write(
        settings,
        _budgets="RHO = 0.25\n",
        _more__init_="",
        one=definition("one", imports="from _budgets import RHO", rho="RHO"),
        two=definition("two", imports="import _budgets, one as other", rho="_budgets.RHO * 2").replace(
            ", one as other", ""
        ),
    )
    project = load_project(settings)
    assert [signal.budget_per_release.rho for signal in project.signals] == [0.25, 0.5]  # type: ignore[union-attr]
    assert set(sys.modules) == before
    assert sys.path == path
    assert not list(settings.signals_dir.rglob("__pycache__")), "a project's folder stays as its author left it"


def test_two_projects_do_not_mix(tmp_path: Path) -> None:
    """Same names of files and helpers, different content; helper packages too."""
    loaded = []
    for name, rho in (("one", "0.125"), ("two", "0.375")):
        settings = make_project(tmp_path / name, name=name)
        (settings.signals_dir / "_shared").mkdir()
        (settings.signals_dir / "_shared" / "__init__.py").write_text("from _shared.budget import RHO\n")
        (settings.signals_dir / "_shared" / "budget.py").write_text(f"RHO = {rho}\n")
        write(settings, _plain=f"RHO = {rho}\n", a=definition("a", imports="from _shared import RHO", rho="RHO"))
        write(settings, b=definition("b", imports="from _plain import RHO", rho="RHO"))
        loaded.append(settings)
    for settings, rho in zip(loaded * 2, [0.125, 0.375] * 2, strict=True):
        assert [signal.budget_per_release.rho for signal in load_project(settings).signals] == [rho, rho]  # type: ignore[union-attr]


def test_an_edit_within_the_same_second_is_seen(settings: Settings) -> None:
    for rho in ("0.1", "0.2", "0.3"):
        write(settings, _rho=f"RHO = {rho}\n", a=definition(imports="from _rho import RHO", rho="RHO"))
        assert load_project(settings).signals[0].budget_per_release.rho == float(rho)  # type: ignore[union-attr]
    write(settings, _late="RHO = 0.4\n", a=definition(imports="from _late import RHO", rho="RHO"))
    assert load_project(settings).signals[0].budget_per_release.rho == 0.4  # type: ignore[union-attr]


def test_one_definition_under_several_names(settings: Settings) -> None:
    """An alias, or a helper's definition that two files import, is one definition."""
    write(settings, _common=definition("common"), a=definition() + "ALIAS = SIGNAL\n")
    write(settings, b="from _common import SIGNAL\n", c="from _common import SIGNAL as OTHER\n")
    assert names(load_project(settings)) == [("weekly", 1), ("common", 1)]


def test_select(settings: Settings) -> None:
    write(settings, a=definition("a"), b=definition("b", 2), c=definition("b", 10), d=definition("b", 9))
    project = load_project(settings)
    assert [d.identity for d in project.select(())] == ["a v1", "b v10"], "the newest version of each"
    assert [d.identity for d in project.select(("b",))] == ["b v10"]
    assert [d.identity for d in project.select(("b", "a", "b"))] == ["a v1", "b v10"]
    with pytest.raises(UnknownSignal, match="no signal named 'c'; this project defines: a, b") as caught:
        project.select(("a", "c"))
    assert caught.value.known == ("a", "b")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a": "x = 1\n\nraise RuntimeError('why')\n"}, "a.py, line 3: RuntimeError: why"),
        ({"a": "x = 1\nimport nowhere_to_be_found\n"}, "a.py, line 2: ModuleNotFoundError: No module named"),
        ({"a": "x = (\n"}, "a.py, line 1: SyntaxError: '(' was never closed"),
        ({"a": "x = 1\x00\n"}, "a.py, line ?: "),
        ({"a": "import sys\nsys.exit(3)\n"}, "a.py, line 2: SystemExit: 3"),
        ({"a": "\ndef f():\n    return 1 / 0\n\nf()\n"}, "a.py, line 3: ZeroDivisionError"),
        ({"a": "import json\n\njson.loads('{')\n"}, "a.py, line 3: JSONDecodeError"),
        ({"a": "x = 1\neval('(')\n"}, "a.py, line 2: SyntaxError"),
        ({"a": "import _h\n", "_h": "\n\n1 / 0\n"}, "_h.py, line 3: ZeroDivisionError"),
        ({"a": "import _h\n", "_h": "\n\ndef broken(\n"}, "_h.py, line 3: SyntaxError"),
        (
            {"a": "from pipelines import Interval\n\nVALUE = Interval(5, 1)\n"},
            "a.py, line 3: Interval: found [5.0, 1.0], allowed: lower below upper",
        ),
        ({"a": definition(rho="0")}, "ZCDP: rho: found 0, allowed: greater than 0 and at most 100"),
        ({"a": definition("Weekly")}, "Signal: name: found 'Weekly'"),
        (
            {"a": definition(), "b": definition()},
            "weekly v1: defined twice, the second time in b.py; keep one or raise",
        ),
        ({"a": definition() + definition(variable="OTHER")}, "weekly v1: defined twice, the second time in a.py"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(settings: Settings, files: dict[str, str], message: str) -> None:
    before, path = set(sys.modules), list(sys.path)
    with pytest.raises(DefinitionError) as caught:
        load_project(write(settings, **files))
    assert message in str(caught.value)
    assert caught.value.__cause__ is None
    assert sys.path == path
    assert {name for name in set(sys.modules) - before if name.startswith("_h")} == set()


def test_an_unlawful_definition_is_named_with_its_line(settings: Settings) -> None:
    text = definition(rho="0")
    line = 1 + text.splitlines().index("    budget_per_release=ZCDP(0),")
    with pytest.raises(DefinitionError, match=f"a.py, line {line}: ZCDP: rho"):
        load_project(write(settings, a=text))


def test_bytes_that_are_no_python(settings: Settings) -> None:
    (settings.signals_dir / "a.py").write_bytes(b"x = '\xff\xfe'\n")
    with pytest.raises(DefinitionError, match=r"a\.py, line .*SyntaxError"):
        load_project(settings)


def test_projects_without_definitions(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="no Signal or ContentEmbedding in any"):
        load_project(write(settings, a="x = 1\n", _b=definition()))
    for path in settings.signals_dir.iterdir():
        path.unlink()
    settings.signals_dir.rmdir()
    with pytest.raises(ConfigError, match="no such folder; put one definition a file there"):
        load_project(settings)


PUBLIC = 'PublicTable(name="facts", table="{table}")'
USES = {
    "join": ("    window=", f'    joins=(PublicJoin(table={PUBLIC}, on="item_id", columns=("x",)),),\n    window='),
    "keys": (
        "PrivateSelection(delta=1e-9)",
        f'PublicPartitions({{{{"item_id": PublicColumn(table={PUBLIC}, column="item_id")}}}})',
    ),
}
VECTORS = f"""
from pipelines import *  # noqa: F403

VECTORS = ContentEmbedding(
    name="vectors", version=1, owner="tests", purpose=Purpose.RANKING, description="Items.", key="item_id",
    source={PUBLIC}, title="title",
)
"""


def using(use: str, table: str) -> str:
    """A definition over other events that takes a table for public."""
    if use == "vectors":
        return VECTORS.format(table=table)
    old, new = USES[use]
    text = definition("other").replace('name="events", table="e.parquet"', 'name="others", table="o.parquet"')
    return text.replace(old, new.format(table=table))


@pytest.mark.parametrize("table", ["data/plays", "data", "data/plays/2025.parquet", "data/../link", "links"])
@pytest.mark.parametrize("use", [*USES, "vectors"])
def test_no_signals_events_are_public_to_another_definition(settings: Settings, use: str, table: str) -> None:
    plays = settings.root / "data" / "plays"
    plays.mkdir(parents=True)
    (plays / "2025.parquet").write_bytes(b"events")
    (settings.root / "link").symlink_to(plays)
    (settings.root / "links").mkdir()
    (settings.root / "links" / "any.parquet").symlink_to(plays / "2025.parquet")
    write(settings, a=definition().replace("e.parquet", "data/plays"), b=using(use, table))
    with pytest.raises(DefinitionError, match=r"v1: .* shares files with the private events data/plays; "):
        load_project(settings)
    write(settings, b=using(use, "facts/plays"))
    assert len(load_project(settings).definitions) == 2


@pytest.mark.parametrize("table", ["e.parquet", "./e.parquet", "e.parquet/2025", ".", "link"])
def test_events_have_one_name_whatever_path_leads_to_them(settings: Settings, table: str) -> None:
    """Each name has an account of its own, and each would pay for the same people."""
    (settings.root / "link").symlink_to(settings.root / "e.parquet")
    again = definition("other").replace("e.parquet", table)
    write(settings, a=definition(), b=again.replace('name="events"', 'name="others"'))
    with pytest.raises(DefinitionError, match="accounts are kept by name, so give both one"):
        load_project(settings)
    assert len(load_project(write(settings, b=again)).signals) == 2, "under one name they share an account"


def test_definitions_that_are_given_to_run_are_held_to_the_same(settings: Settings) -> None:
    private = load_project(write(settings, a=definition())).definitions
    (settings.signals_dir / "a.py").unlink()
    public = load_project(write(settings, b=using("join", "e.parquet"))).definitions
    with pytest.raises(DefinitionError, match=r"shares files with the private events e\.parquet; "):
        run(settings, definitions=(*private, *public))


def test_loading_does_not_change_how_python_writes_bytecode(settings: Settings) -> None:
    load_project(write(settings, a=definition()))
    assert sys.dont_write_bytecode is False
