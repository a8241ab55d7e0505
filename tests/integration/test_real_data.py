"""Releases of real interaction data with noise of zero scale, against DuckDB and against the independent bounding.

The data lie beside the repository (`../shared/data`) and are not part of it: without them these tests are skipped.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from governance.settings import Calendar, Settings
from pipelines import (
    ZCDP,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PrivateSelection,
    PublicColumn,
    PublicPartitions,
    PublicTable,
    Signal,
    Sum,
    Window,
)
from pipelines.definitions import Partitions
from pipelines.engine.inputs import check_footers, open_inputs
from pipelines.engine.kernel import Salts
from pipelines.engine.release import Engine
from pipelines.engine.session import spark_context
from pipelines.noise import ZeroNoise
from pipelines.plan import plan_signal
from pipelines.windows import Span
from tests.support.bounded import bounded_sums
from tests.support.plain_outputs import released_row
from tests.support.projects import a_signal, engine_settings
from tests.support.written import released_table

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"real data are not there: {DATA}")

SALTS = Salts(rows=11, partitions=-7)
YEAR = Span(datetime(2017, 9, 25, tzinfo=UTC), datetime(2018, 9, 25, tzinfo=UTC))
MONTH = Span(datetime(2011, 11, 7, tzinfo=UTC), datetime(2011, 12, 5, tzinfo=UTC))


PRIVATE = PrivateSelection(delta=1e-7)
FILM_ITEMS = PublicTable(name="films", table=str(DATA / "ml-latest-small/items.parquet"))
SHOP_ITEMS = PublicTable(name="products", table=str(DATA / "uci-online-retail/items.parquet"))
COUNTRIES = ("France", "Germany", "Malta", "United Kingdom")


def films(bounds: KeepRandom, partitions: Partitions = PRIVATE) -> Signal:
    return a_signal(
        source=EventSource(
            name="events",
            table=str(DATA / "ml-latest-small/interactions.parquet"),
            timestamp="ts",
            person="user_id",
        ),
        aggregates={"people": CountDistinct(), "mean": Mean("value", Interval(0.5, 5)), "ratings": Count()},
        window=Window(timedelta(days=365), origin=YEAR.start),
        bounds=bounds,
        partitions=partitions,
        budget_per_release=ZCDP(10.0),
    )


def purchases(bounds: KeepRandom, partitions: Partitions = PRIVATE) -> Signal:
    return a_signal(
        source=EventSource(
            name="events",
            table=str(DATA / "uci-online-retail/interactions.parquet"),
            timestamp="ts",
            person="user_id",
        ),
        entity=Entity("item_country", ("item_id", "country")),
        privacy_unit=PrivacyUnit("user_id", per=timedelta(days=1)),
        aggregates={
            "lines": Count(),
            "quantity": Sum("value", Interval(-5, 40)),
            "price": Mean("unit_price", Interval(0, 20)),
        },
        window=Window(timedelta(days=28), origin=MONTH.start),
        bounds=bounds,
        partitions=partitions,
        budget_per_release=ZCDP(10.0),
    )


DECADES = Span(datetime(1996, 1, 1, tzinfo=UTC), YEAR.end)
CASES = {"films": (films, DECADES), "purchases": (purchases, MONTH)}
LOOSE = KeepRandom(max_partitions=10_000, max_rows_per_partition=1_000)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    calendar = Calendar(first_day=date(1996, 1, 1), last_day=date(2018, 9, 24))
    return replace(engine_settings(tmp_path_factory.mktemp("real")), calendar=calendar)


def released(signal: Signal, span: Span, settings: Settings) -> dict[tuple[Any, ...], dict[str, Any]]:
    plan = plan_signal(signal, settings)
    inputs = open_inputs(signal, plan.recipe, settings.root)
    check_footers(signal, inputs)
    engine = Engine(plan=plan, inputs=inputs, span=span, salts=SALTS)
    with engine.sums(spark_context(settings.spark)) as sums:
        rows = released_table(sums, ZeroNoise()).to_pylist()
    return {tuple(row[key] for key in signal.entity.keys): row for row in rows}


def steps(column: str, interval: Interval) -> str:
    """A clamped value in whole grid steps, in SQL."""
    return f"floor(greatest(least({column}::double, {interval.upper}), {interval.lower}) / {interval.grid_step} + 0.5)"


def test_films_equal_duckdb(settings: Settings) -> None:
    """Every film of the catalogue, rated or not, with bounds that do not bind."""
    signal = films(LOOSE, PublicPartitions({"item_id": PublicColumn(table=FILM_ITEMS, column="item_id")}))
    interval = Interval(0.5, 5)
    expected = duckdb.sql(f"""
        select item_id, count(distinct user_id) as people, count(*) as ratings,
               sum({steps("value", interval)}) * {interval.grid_step} as total
        from '{signal.source.table}'
        where ts >= {int(YEAR.start.timestamp())} and ts < {int(YEAR.end.timestamp())}
        group by item_id
    """).fetchall()
    got = released(signal, YEAR, settings)
    assert len(got) == 9742 > len(expected) > 1000
    for item, people, ratings, total in expected:
        row = got.pop((item,))
        assert (row["people"], row["ratings"]) == (people, ratings)
        assert row["mean"] == pytest.approx(total / ratings, abs=1e-12)
    assert all((row["people"], row["ratings"]) == (0, 0) for row in got.values())


def test_purchases_equal_duckdb(settings: Settings) -> None:
    """Quantities below and above their interval, cancellations and exact duplicates, by item and country."""
    keys = PublicPartitions({"item_id": PublicColumn(table=SHOP_ITEMS, column="item_id"), "country": COUNTRIES})
    signal = purchases(LOOSE, keys)
    quantity, price = Interval(-5, 40), Interval(0, 20)
    expected = duckdb.sql(f"""
        select item_id, country, count(*) as lines, sum({steps("value", quantity)}) * {quantity.grid_step} as quantity,
               sum({steps("unit_price", price)}) * {price.grid_step} as paid
        from '{signal.source.table}'
        where ts >= {int(MONTH.start.timestamp())} and ts < {int(MONTH.end.timestamp())} and country in {COUNTRIES}
        group by item_id, country
    """).fetchall()
    got = released(signal, MONTH, settings)
    assert len(got) == 4 * 4070 > len(expected) > 1000
    for item, country, lines, total, paid in expected:
        row = got.pop((item, country))
        assert (row["lines"], row["quantity"]) == (lines, total)
        assert row["price"] == pytest.approx(paid / lines, abs=1e-12)
    assert all((row["lines"], row["quantity"]) == (0, 0) for row in got.values())


@pytest.mark.parametrize("name", ["purchases", pytest.param("films", marks=pytest.mark.long)])
def test_binding_bounds_equal_the_independent_bounding(name: str, settings: Settings) -> None:
    make, span = CASES[name]
    signal = make(KeepRandom(max_partitions=40, max_rows_per_partition=2))
    plan = plan_signal(signal, settings)
    columns = [signal.source.timestamp, "user_id", *signal.entity.keys, "value"]
    columns += ["unit_price"] if name == "purchases" else []
    rows = pq.read_table(signal.source.table, columns=columns).to_pylist()
    exact = bounded_sums(rows, signal, span, SALTS.rows, SALTS.partitions)
    units = plan.recipe.units or ""
    expected = {key: sums for key, sums in exact.items() if sums[units] >= (plan.calibration.threshold or 0)}
    got = released(signal, span, settings)
    assert len(expected) >= 3
    assert set(got) == set(expected)
    loose = bounded_sums(rows, make(LOOSE), span, SALTS.rows, SALTS.partitions)
    assert sum(s[units] for s in exact.values()) < sum(s[units] for s in loose.values()), "the bounds must bind"
    for key, sums in expected.items():
        for column, value in released_row(sums, plan.recipe, plan.calibration).items():
            assert got[key][column] == (value if isinstance(value, int) else pytest.approx(value, rel=1e-11)), column
