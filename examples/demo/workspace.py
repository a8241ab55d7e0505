"""The demo's project folder: the template, and the two files that a dataset decides.

    signals/_dataset.py   constants: tables, windows, intervals, bounds, budgets
    hedgerow.toml         calendar, and accounts whose caps pay a little more than what was asked for
    data/                 the prepared tables
    demo.json             which input this is, so that a rerun continues and another input is refused

The template holds both files as they are for the generated sample, so it can be read and run as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from examples.demo.generator import generate
from examples.demo.mapping import Dataset, load_datasets, recognise
from examples.demo.prepare import column_names, prepare
from examples.scaffold import copy_tree, new_folder
from governance.canonical import canonical_bytes, decimal_text, sha256_file
from governance.errors import ConfigError
from governance.privacy import PrivacyLoss
from governance.settings import Account, Settings, load_settings

__all__ = ["TEMPLATE", "Generated", "GivenFiles", "Workspace", "open_workspace", "render_constants", "render_settings"]

TEMPLATE = Path(__file__).with_name("project")
MARKER = "demo.json"
SCHEMA = "hedgerow.demo/1"
LEAST_WINDOWS = 4
_LEAST_DELTA = Decimal("1e-9")  # of a cap: negligible, and readable where hardly any is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """The seeded sample, with its seed."""

    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFiles:
    """Somebody's files. `mapping` names a dataset of datasets.toml; None: recognise it by its columns."""

    events: Path
    items: Path
    mapping: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A project folder that is ready to run.

    Attributes:
        settings: of the project.
        dataset: what its data is.
        resumed: whether it was there already.
    """

    settings: Settings
    dataset: Dataset
    resumed: bool


def open_workspace(out: Path, source: Generated | GivenFiles, windows: int) -> Workspace:
    """Makes the project folder, or continues in it if it holds the same input.

    Args:
        out: the folder; absent, empty, or one that the demo made from the same input.
        source: the input.
        windows: how many windows the accounts are to pay for, at least `LEAST_WINDOWS`. A folder that is there keeps
            its accounts: a cap does not grow because somebody asks for more.

    Raises:
        ConfigError: the folder holds something else, or cannot be written.
        InputError: the input is not as its mapping says. Nothing is left behind.
    """
    out = out.expanduser().resolve()
    dataset = _dataset_of(source)
    identity = _identity(dataset, source)
    if (out / MARKER).is_file():
        if _read_marker(out / MARKER) != identity:
            raise ConfigError(f"{out}: holds the demo of another input; choose another folder with --out, or remove it")
        return Workspace(settings=load_settings(out), dataset=dataset, resumed=True)
    with new_folder(out) as staged:
        if isinstance(source, Generated):
            files = generate(staged / "input", seed=source.seed)
            prepare(dataset, files.events, files.items, staged / "data")
        else:
            prepare(dataset, source.events, source.items, staged / "data")
        copy_tree(TEMPLATE, staged)
        (staged / "signals" / "_dataset.py").write_text(render_constants(dataset), encoding="utf-8")
        caps = _caps(staged, dataset, max(windows, LEAST_WINDOWS))
        (staged / "hedgerow.toml").write_text(render_settings(dataset, caps), encoding="utf-8")
        (staged / MARKER).write_bytes(canonical_bytes(identity))
    return Workspace(settings=load_settings(out), dataset=dataset, resumed=False)


def _dataset_of(source: Generated | GivenFiles) -> Dataset:
    if isinstance(source, Generated):
        return load_datasets()[0]
    return recognise(column_names(source.events), column_names(source.items), source.mapping)


def _identity(dataset: Dataset, source: Generated | GivenFiles) -> dict[str, Any]:
    """What makes two inputs the same. Hashes of private files stay in the project folder, beside the data itself."""
    if isinstance(source, Generated):
        return {"schema": SCHEMA, "dataset": dataset.name, "seed": source.seed}
    return {
        "schema": SCHEMA,
        "dataset": dataset.name,
        "events_sha256": _content_sha256(source.events),
        "items_sha256": _content_sha256(source.items),
    }


def _content_sha256(path: Path) -> str:
    if path.is_file():
        return sha256_file(path)
    names = sorted(file for file in path.rglob("*.parquet") if file.is_file())
    return canonical_bytes([[str(file.relative_to(path)), sha256_file(file)] for file in names]).hex()


def _read_marker(path: Path) -> Mapping[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


# --- what a dataset decides ------------------------------------------------------------------------------------------


def render_constants(dataset: Dataset) -> str:
    """The text of `signals/_dataset.py`."""
    bounds, budget, origin = dataset.bounds, dataset.budget, dataset.window.origin
    if dataset.domains.cohorts is None:
        selection, keys = "PrivateSelection", "PrivateSelection(delta=1e-8)  # the cohorts come from the data"
    else:
        selection = "PublicPartitions"
        keys = (
            'PublicPartitions(\n    {"genre": PublicColumn(table=GENRES, column="genre"), '
            f'"cohort": {_tuple_text(dataset.domains.cohorts)}}}\n)'
        )
    names = ["EventSource", "Interval", "PublicTable", selection, "Window"]
    if dataset.domains.cohorts is not None:
        names.append("PublicColumn")
    return f'''"""What differs between datasets: constants for "{dataset.name}", from examples/demo/datasets.toml."""

from datetime import UTC, datetime, timedelta

from pipelines import {", ".join(sorted(names))}

EVENTS = EventSource(name="events", table="data/events.parquet", timestamp="ts", person="user_id")
ITEMS = PublicTable(name="items", table="data/items.parquet")
USERS = PublicTable(name="users", table="data/users.parquet")
GENRES = PublicTable(name="genres", table="data/genres.parquet")

VALUE = Interval({dataset.value.lower}, {dataset.value.upper})
VALUE_MEANING = "{dataset.value.meaning}"

PERIOD = "{dataset.window.period}"
ORIGIN = datetime({origin.year}, {origin.month}, {origin.day}, tzinfo=UTC)  # one window starts here
WINDOW = Window(timedelta(days={dataset.window.days}), origin=ORIGIN)
TTL = timedelta(days=36_500)  # a closed record does not go stale

GENRE_COHORT_KEYS = {keys}
PLATFORMS = {_tuple_text(dataset.domains.platforms)}

# Contribution bounds: what one person (for affinity: one event) can add to one window.
ITEMS_PER_PERSON = {bounds.items_per_person}
CELLS_PER_PERSON = {bounds.cells_per_person}
PLATFORMS_PER_PERSON = {bounds.platforms_per_person}
EVENTS_PER_PLATFORM = {bounds.events_per_platform}
GENRES_PER_EVENT = {bounds.genres_per_event}

# Budgets: rho of one window.
ITEM_RHO = {budget.item}
GENRE_COHORT_RHO = {budget.genre_cohort}
TREND_RHO = {budget.trend}
AFFINITY_RHO = {budget.affinity}
'''


def _tuple_text(values: tuple[str, ...]) -> str:
    quoted = ", ".join(json.dumps(value, ensure_ascii=False) for value in values)
    return f"({quoted},)" if len(values) == 1 else f"({quoted})"


def render_settings(dataset: Dataset, caps: tuple[Account, ...]) -> str:
    """The text of `hedgerow.toml`."""
    accounts = "\n".join(
        f'''[[accounts]]
dataset = "{account.dataset}"
unit = "{account.unit}"
rho = "{decimal_text(account.cap.rho)}"
delta = "{account.cap.delta.normalize():e}"
'''
        for account in caps
    )
    name = "demo_" + dataset.name.replace("-", "_")
    return f'''[project]
name = "{name}"
description = "{dataset.description}"
reporting_delta = "1e-6"            # the delta at which epsilon is told to people

[calendar]                          # public facts about the record, never read from it
first_day = {dataset.calendar.first_day}
last_day = {dataset.calendar.last_day}

# What may ever be released about one person, and about one event: enough for the windows that were asked for, and half
# of another. A run that needs more is refused before it reads anything.
{accounts}
[spark]
master = "local[2]"
driver_memory = "2g"
shuffle_partitions = 4

[online_store]
type = "sqlite"

[serving]
host = "127.0.0.1"
port = 7433
'''


def _caps(project: Path, dataset: Dataset, windows: int) -> tuple[Account, ...]:
    """Accounts whose rho pays for `windows` windows of every signal and half of another; of delta there is more."""
    from pipelines.calibration import calibrate
    from pipelines.project import load_project
    from pipelines.recipes import recipe_of

    # The caps follow from the signals, which are read with accounts yet to come.
    (project / "hedgerow.toml").write_text(render_settings(dataset, ()), encoding="utf-8")
    settings = load_settings(project)
    window: dict[tuple[str, str], PrivacyLoss] = {}
    for signal in load_project(settings).signals:
        account = (signal.source.name, signal.privacy_unit.label)
        loss = calibrate(signal, recipe_of(signal), settings.reporting_delta).loss
        window[account] = window.get(account, PrivacyLoss.zero()) + loss
    factor = windows + Decimal("0.5")
    return tuple(
        Account(
            dataset=name,
            unit=unit,
            cap=PrivacyLoss(
                _rounded_up(factor * loss.rho, 3), max(_LEAST_DELTA, _rounded_up(2 * factor * loss.delta, 1))
            ),
        )
        for (name, unit), loss in window.items()
    )


def _rounded_up(value: Decimal, digits: int) -> Decimal:
    """The value rounded up to so many significant digits."""
    return value.quantize(Decimal(1).scaleb(value.adjusted() - digits + 1), rounding=ROUND_CEILING)
