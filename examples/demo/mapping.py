"""`datasets.toml` as frozen values, and which of its datasets some files are."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from governance.errors import ConfigError, InputError

__all__ = [
    "AccountFile",
    "AccountRange",
    "Bounds",
    "BudgetPerWindow",
    "Dataset",
    "Domains",
    "EventColumns",
    "ItemColumns",
    "Period",
    "Record",
    "Value",
    "load_datasets",
    "recognise",
]

_FILE = Path(__file__).with_name("datasets.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class EventColumns:
    """Columns of the events file.

    Attributes:
        user: whole number.
        item: whole number.
        value: a number; finite.
        time: whole Unix seconds, or a timestamp.
        cohort: string; None: everyone is in the cohort "all".
        platform: string; None: everything happens on the platform "all".
        positive_value: drop rows whose value is not above 0.
        drop_where: a boolean column; rows where it is true are dropped.
    """

    user: str
    item: str
    value: str
    time: str
    cohort: str | None = None
    platform: str | None = None
    positive_value: bool = False
    drop_where: str | None = None

    @property
    def required(self) -> tuple[str, ...]:
        """Every column that is read."""
        columns = (self.user, self.item, self.value, self.time, self.cohort, self.platform, self.drop_where)
        return tuple(column for column in columns if column is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemColumns:
    """Columns of the items file.

    Attributes:
        item: whole number, once each.
        title: string.
        year: whole number; None: no years.
        genres: list of strings; None: bands of `price` stand in.
        keep_where: a boolean column; rows where it is not true are dropped.
        price: a number.
        price_edges: ascending edges between the bands.
        currency: written before the edges.
        also: columns that are not read and by which the dataset is recognised.
    """

    item: str
    title: str
    year: str | None = None
    genres: str | None = None
    keep_where: str | None = None
    price: str | None = None
    price_edges: tuple[float, ...] = ()
    currency: str = ""
    also: tuple[str, ...] = ()

    @property
    def required(self) -> tuple[str, ...]:
        """Every column that is read."""
        columns = (self.item, self.title, self.year, self.genres, self.keep_where, self.price)
        return tuple(column for column in columns if column is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRange:
    """Account numbers `first` to `last`, stated publicly."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFile:
    """A public list of accounts beside the events: a parquet file with the events' user column."""

    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What an event's value means, and the public interval it is clamped to."""

    meaning: str
    lower: float
    upper: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """A window's name, length and a day on which one starts."""

    period: str
    days: int
    origin: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """First and last complete day of the record."""

    first_day: date
    last_day: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Domains:
    """Public values of keys; None: the data chooses, privately."""

    platforms: tuple[str, ...]
    cohorts: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Contribution bounds of the demo's signals."""

    items_per_person: int
    cells_per_person: int
    platforms_per_person: int
    events_per_platform: int
    genres_per_event: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPerWindow:
    """rho of one window of each signal."""

    item: float
    genre_cohort: float
    trend: float
    affinity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One dataset of `datasets.toml`."""

    name: str
    description: str
    events: EventColumns
    items: ItemColumns
    accounts: AccountRange | AccountFile
    value: Value
    window: Period
    calendar: Record
    domains: Domains
    bounds: Bounds
    budget: BudgetPerWindow


def load_datasets() -> tuple[Dataset, ...]:
    """Every dataset that the demo knows, in the file's order."""
    document = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    return tuple(_dataset(name, table) for name, table in document.items())


def recognise(events: tuple[str, ...], items: tuple[str, ...], chosen: str | None = None) -> Dataset:
    """The dataset that two files are.

    Args:
        events: column names of the events file.
        items: column names of the items file.
        chosen: a dataset's name; None: the first one whose columns are all there.

    Raises:
        ConfigError: no dataset of the chosen name.
        InputError: the columns fit no dataset.
    """
    datasets = load_datasets()
    if chosen is not None:
        found = next((dataset for dataset in datasets if dataset.name == chosen), None)
        if found is None:
            known = ", ".join(dataset.name for dataset in datasets)
            raise ConfigError(f"no mapping {chosen!r} in examples/demo/datasets.toml; it has: {known}")
        return found
    for dataset in datasets:
        if set(dataset.events.required) <= set(events) and {*dataset.items.required, *dataset.items.also} <= set(items):
            return dataset
    wanted = "; ".join(
        f"{d.name}: events with {', '.join(d.events.required)} and items with "
        f"{', '.join((*d.items.required, *d.items.also))}"
        for d in datasets
    )
    raise InputError(
        f"the files' columns fit no dataset that the demo knows; found: events with {', '.join(events)} and items with "
        f"{', '.join(items)}; needed: {wanted}; rename columns, or name the nearest with --mapping to see what it lacks"
    )


def _dataset(name: str, table: Mapping[str, Any]) -> Dataset:
    items, domains, accounts = table["items"], table["domains"], table["accounts"]
    lists = {key: tuple(items[key]) for key in ("price_edges", "also") if key in items}
    return Dataset(
        name=name,
        description=table["description"],
        events=EventColumns(**table["events"]),
        items=ItemColumns(**{**items, **lists}),
        accounts=AccountFile(**accounts) if "file" in accounts else AccountRange(**accounts),
        value=Value(**table["value"]),
        window=Period(**table["window"]),
        calendar=Record(**table["calendar"]),
        domains=Domains(**{key: tuple(values) for key, values in domains.items()}),
        bounds=Bounds(**table["bounds"]),
        budget=BudgetPerWindow(**table["budget"]),
    )
