"""docs/signals.md names all that a definition may say, and its blocks are a project that can be planned and run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hedgerow
import pipelines
from governance.settings import Settings, load_settings
from pipelines.project import load_project
from pipelines.results import Outcome
from pipelines.run import run

PAGE = (Path(__file__).parents[2] / "docs/signals.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ACCOUNT = re.search(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
WEEK = 7 * 86_400


def test_everything_that_a_definition_may_say_is_on_the_page() -> None:
    examples = "\n".join(BLOCKS)
    # What is a default may be told in words; all else has an example.
    assert {name for name in pipelines.__all__ if not re.search(rf"\b{name}\b", PAGE)} == set()
    assert {name for name in pipelines.__all__ if not re.search(rf"\b{name}\b", examples)} <= {"UnitCount"}


@pytest.fixture
def project(tmp_path: Path) -> Settings:
    """The page's project, with four weeks of invented plays."""
    assert ACCOUNT is not None
    account = ACCOUNT[1]
    others = "".join(account.replace('unit = "user_id"', f'unit = "{unit}"') for unit in ("user_id/day", "play_id"))
    text = '[project]\nname = "shop"\n[calendar]\nfirst_day = 2025-11-03\nlast_day = 2025-11-30\n'
    text += '[spark]\nmaster = "local[2]"\ndriver_memory = "1g"\nshuffle_partitions = 2\n' + account + others
    (tmp_path / "hedgerow.toml").write_text(text, encoding="utf-8")
    (tmp_path / "signals").mkdir()
    (tmp_path / "signals/page.py").write_text("\n".join(BLOCKS), encoding="utf-8")
    random, n, items = np.random.default_rng(3), 8_000, 40
    played = 1_762_128_000 + random.integers(0, 4 * WEEK, n)
    genres, countries = np.array(["jazz", "polka", "rock"]), np.array(["DE", "FR", "US", "IT"])
    plays = {
        "play_id": np.arange(n),
        "user_id": random.integers(0, 800, n),
        "item_id": random.integers(0, items, n),
        "genre": genres[random.choice(3, n, p=[0.3, 0.2, 0.5])],
        "country": countries[random.integers(0, 4, n)],
        "seconds_played": random.gamma(2, 90, n),
        "rating": random.integers(1, 6, n),
        "embedding": random.normal(size=(n, 4)).tolist(),
        "played_at": played,
        "seen_at": played + random.integers(0, 40_000, n),
    }
    catalogue = {
        "item_id": range(items),
        "title": [f"song {index} of love" for index in range(items)],
        "styles": [["a", "b", "c"][: 1 + index % 3] for index in range(items)],
        "year": [1960 + index for index in range(items)],
    }
    (tmp_path / "data").mkdir()
    for name, columns in {"plays": plays, "items": catalogue, "users": {"user_id": range(200)}}.items():
        table = pa.table({column: pa.array(values) for column, values in columns.items()})
        pq.write_table(table, tmp_path / f"data/{name}.parquet")
    return load_settings(tmp_path)


def test_the_page_can_be_planned(project: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        hedgerow.main(["plan", "--project", str(project.root), "--json"])
    assert not left.value.code
    told = json.loads(capfd.readouterr().out)
    names = {one["signal"] for one in told["signals"]} | {one["name"] for one in told["embeddings"]}
    assert names == set(re.findall(r'\bname="(\w+)"', "\n".join(BLOCKS))) - {"plays", "items", "users"}


@pytest.mark.long
def test_the_page_can_be_run(project: Settings) -> None:
    results = run(project)
    assert {one.outcome for one in results} == {Outcome.RELEASED}
    loaded = load_project(project)
    names = [one.name for one in loaded.signals] + [one.name for one in loaded.embeddings]
    assert [one.manifest.signal.name for one in results] == names
    assert all(one.manifest.rows for one in results)
    assert {one.outcome for one in run(project)} == {Outcome.PRESENT}
