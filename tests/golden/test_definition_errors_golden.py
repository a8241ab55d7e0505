"""Every way in which a definition can be unlawful, with the whole text that a person reads.

`UPDATE_GOLDEN=1 pytest tests/golden/test_definition_errors_golden.py` writes the texts anew; read the difference.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

import pipelines.definitions
from governance.errors import DefinitionError
from pipelines import (
    ZCDP,
    ApproxDP,
    ClipNorm,
    ConsistentWith,
    ContentEmbedding,
    ContributionProfile,
    Count,
    CountDistinct,
    Entity,
    EventSource,
    Histogram,
    Interval,
    KeepRandom,
    Mean,
    PrivacyUnit,
    PrivateSelection,
    PublicColumn,
    PublicJoin,
    PublicPartitions,
    PublicTable,
    PureDP,
    Purpose,
    Quantiles,
    ReleasedColumn,
    ShrinkTo,
    Sum,
    TopK,
    UnitKind,
    Variance,
    VectorSum,
    WeightedUnits,
    Window,
)
from tests.support.projects import EVENTS, ITEMS, a_signal

GOLDEN = Path(__file__).with_name("definition_errors.json")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def embedding(**changes: Any) -> ContentEmbedding:
    fields: dict[str, Any] = {
        "name": "item_content",
        "version": 1,
        "owner": "tests",
        "purpose": Purpose.RETRIEVAL,
        "description": "Item vectors.",
        "source": ITEMS,
        "key": "item_id",
        "title": "title",
    }
    return ContentEmbedding(**{**fields, **changes})


def wrong(value: Any) -> Any:
    """A value of a type that a type checker would refuse."""
    return value


USERS = Entity("user", ("user_id",))
PUBLIC_USERS = PublicPartitions({"user_id": (1, 2)})

CASES: dict[str, Callable[[], object]] = {
    # budgets
    "rho zero": lambda: ZCDP(0),
    "rho negative": lambda: ZCDP(-0.1),
    "rho too large": lambda: ZCDP(100.1),
    "rho NaN": lambda: ZCDP(float("nan")),
    "rho infinite": lambda: ZCDP(float("inf")),
    "rho text": lambda: ZCDP(wrong("0.1")),
    "rho truth value": lambda: ZCDP(True),
    "rho beyond any float": lambda: ZCDP(10**400),
    "epsilon zero": lambda: ApproxDP(0, 1e-6),
    "delta zero": lambda: ApproxDP(1, 0),
    "delta too large": lambda: ApproxDP(1, 0.2),
    "pure epsilon negative": lambda: PureDP(-1),
    # intervals and aggregates
    "interval reversed": lambda: Interval(5, 1),
    "interval empty": lambda: Interval(1, 1),
    "interval NaN": lambda: Interval(float("nan"), 1),
    "interval infinite": lambda: Interval(0, float("inf")),
    "interval of text": lambda: Interval(wrong("0"), 1),
    "interval huge": lambda: Interval(0, 1e16),
    "interval tiny": lambda: Interval(0, 5e-324),
    "interval narrow and far from zero": lambda: Interval(1e9, 1e9 + 1),
    "step zero": lambda: Interval(0, 1, step=0),
    "step wider than the interval": lambda: Interval(0, 1, step=1.5),
    "step too fine": lambda: Interval(0, 1, step=1e-12),
    "sum without a column": lambda: Sum("", Interval(0, 1)),
    "sum of a reserved column": lambda: Sum("__rows", Interval(0, 1)),
    "sum without an interval": lambda: Sum("value", wrong((0, 1))),
    "mean without an interval": lambda: Mean("value", wrong(None)),
    "half-life zero": lambda: Count(half_life=timedelta(0)),
    "half-life no span": lambda: Sum("value", Interval(0, 1), half_life=wrong(7)),
    "variance with too many steps": lambda: Variance("value", Interval(0, 1, step=1e-5)),
    "histogram of one edge": lambda: Histogram("value", (0,)),
    "histogram edges reversed": lambda: Histogram("value", (0, 2, 1)),
    "histogram edge infinite": lambda: Histogram("value", (0, float("inf"))),
    "histogram edges a text": lambda: Histogram("value", wrong("012")),
    "quantile zero": lambda: Quantiles("value", Interval(0, 1), (0.0, 0.5)),
    "quantile twice": lambda: Quantiles("value", Interval(0, 1), (0.5, 0.5)),
    "quantile bins": lambda: Quantiles("value", Interval(0, 1), bins=100),
    "quantile bins few": lambda: Quantiles("value", Interval(0, 1), bins=1),
    "top of mixed candidates": lambda: TopK("tag", ("a", 1), 1),
    "top of too many candidates": lambda: TopK("tag", tuple(range(5000)), 1),
    "top of candidates beyond 64 bits": lambda: TopK("tag", (1, 2**63), 1),
    "top more than there are": lambda: TopK("tag", ("a", "b"), 3),
    "vector without numbers": lambda: VectorSum("vector", 0, 1.0),
    "vector norm negative": lambda: VectorSum("vector", 3, -1.0),
    # sources
    "table name": lambda: PublicTable(name="Items", table="items.parquet"),
    "table empty": lambda: PublicTable(name="items", table=" "),
    "table no text": lambda: EventSource(name="e", table=wrong(Path("e")), timestamp="ts", person="user_id"),
    "source name": lambda: EventSource(name="events-2", table="e", timestamp="ts", person="user_id"),
    "source timestamp": lambda: EventSource(name="e", table="e", timestamp="", person="user_id"),
    "source person": lambda: EventSource(name="e", table="e", timestamp="ts", person="__u"),
    "join with private data": lambda: PublicJoin(table=wrong(EVENTS), on="user_id", columns=("age",)),
    "join on nothing": lambda: PublicJoin(table=ITEMS, on="", columns=("genre",)),
    "join without columns": lambda: PublicJoin(table=ITEMS, on="item_id", columns=()),
    "join of a number": lambda: PublicJoin(table=ITEMS, on="item_id", columns=wrong((1,))),
    "explode another column": lambda: PublicJoin(table=ITEMS, on="item_id", columns=("genres",), explode="tags"),
    "entity name": lambda: Entity("Genre", "genre"),
    "entity key": lambda: Entity("genre", ("Genre",)),
    "entity without keys": lambda: Entity("genre", ()),
    "entity key twice": lambda: Entity("genre", ("genre", "genre")),
    "entity keys a set": lambda: Entity("genre", wrong({"genre"})),
    "unit without columns": lambda: PrivacyUnit(()),
    "unit column twice": lambda: PrivacyUnit(("user_id", "user_id")),
    "unit column no text": lambda: PrivacyUnit(wrong((1,))),
    "unit kind as text": lambda: PrivacyUnit("item_id", kind=wrong("person")),
    "unit per too short": lambda: PrivacyUnit("user_id", per=timedelta(minutes=59)),
    "unit per no span": lambda: PrivacyUnit("user_id", per=wrong("day")),
    "event per day": lambda: PrivacyUnit("event_id", per=DAY, kind=UnitKind.EVENT),
    "window too short": lambda: Window(timedelta(seconds=59)),
    "window in part seconds": lambda: Window(DAY + timedelta(microseconds=1)),
    "window too long": lambda: Window(timedelta(days=40_000)),
    "window no span": lambda: Window(wrong("week")),
    "stride zero": lambda: Window(DAY, timedelta(0)),
    "stride negative": lambda: Window(DAY, -DAY),
    "origin no moment": lambda: Window(DAY, origin=wrong(date(2025, 1, 1))),
    "origin naive": lambda: Window(DAY, origin=datetime(2025, 1, 1)),  # noqa: DTZ001
    "origin not UTC": lambda: Window(DAY, origin=datetime(2025, 1, 1, tzinfo=timezone(HOUR))),
    "origin in part seconds": lambda: Window(DAY, origin=datetime(2025, 1, 1, microsecond=1, tzinfo=UTC)),
    # bounds and partitions
    "no partition": lambda: KeepRandom(max_partitions=0, max_rows_per_partition=1),
    "too many partitions": lambda: KeepRandom(max_partitions=1_000_001, max_rows_per_partition=1),
    "half a row": lambda: KeepRandom(max_partitions=1, max_rows_per_partition=wrong(0.5)),
    "a truth value of rows": lambda: KeepRandom(max_partitions=1, max_rows_per_partition=True),
    "public column of events": lambda: PublicColumn(table=wrong(EVENTS), column="item_id"),
    "public column without a name": lambda: PublicColumn(table=ITEMS, column=""),
    "domains no mapping": lambda: PublicPartitions(wrong(("a", "b"))),
    "no domain": lambda: PublicPartitions({}),
    "domain key": lambda: PublicPartitions({"Genre": ("a",)}),
    "domain empty": lambda: PublicPartitions({"genre": ()}),
    "domain value twice": lambda: PublicPartitions({"genre": ("a", "a")}),
    "domain of mixed types": lambda: PublicPartitions({"genre": ("a", 1)}),
    "domain of truth values": lambda: PublicPartitions({"genre": (True, False)}),
    "domain of floats": lambda: PublicPartitions({"genre": wrong((1.0, 2.0))}),
    "domain of moments": lambda: PublicPartitions({"day": (datetime(2025, 1, 1, tzinfo=UTC),)}),
    "domain a text": lambda: PublicPartitions({"genre": wrong("jazz")}),
    "domain a set": lambda: PublicPartitions({"genre": wrong({"jazz", "rock"})}),
    "domain beyond 64 bits": lambda: PublicPartitions({"item_id": (2**63,)}),
    "selection delta zero": lambda: PrivateSelection(delta=0),
    "selection delta too large": lambda: PrivateSelection(delta=0.02),
    "clip zero": lambda: ClipNorm(l2=0),
    "clip infinite": lambda: ClipNorm(l2=float("inf")),
    "clip no partition": lambda: ClipNorm(l2=1, max_partitions=0),
    "too many weighted keys": lambda: WeightedUnits(max_keys=100_001),
    "selection by a class": lambda: PrivateSelection(delta=1e-9, by=wrong(WeightedUnits)),
    "released column's version": lambda: ReleasedColumn(signal="parent", version=0, column="item_id"),
    "lateness negative": lambda: Window(DAY, allowed_lateness=-DAY),
    "relation as text": lambda: PrivacyUnit("user_id", relation=wrong("replace_one")),
    "arrival without a name": lambda: EventSource(name="e", table="e", timestamp="t", person="p", arrival=""),
    # post-processing and profiles
    "parent's columns none": lambda: ConsistentWith(signal="parent", version=1, columns=()),
    "profile shares": lambda: ContributionProfile(partitions=((1, 0.5),), origin="a survey"),
    "profile without an origin": lambda: ContributionProfile(partitions=((1, 1.0),), origin=" "),
    "shrinking a count": lambda: a_signal(post_processing=(ShrinkTo(signal="p", version=1, columns=("users",)),)),
    # signals
    "signal name": lambda: a_signal(name="Item Weekly"),
    "signal name too long": lambda: a_signal(name="a" * 64),
    "signal name no text": lambda: a_signal(name=None),
    "signal version": lambda: a_signal(version=0),
    "signal version text": lambda: a_signal(version="1"),
    "signal owner": lambda: a_signal(owner=" "),
    "signal description": lambda: a_signal(description=None),
    "signal purpose as text": lambda: a_signal(purpose="ranking"),
    "signal source": lambda: a_signal(source=ITEMS),
    "signal joins no tuple": lambda: a_signal(joins=PublicJoin(table=ITEMS, on="item_id", columns="genre")),  # type: ignore[arg-type]
    "signal joins a table": lambda: a_signal(joins=(ITEMS,)),
    "signal unit as text": lambda: a_signal(privacy_unit="user_id"),
    "signal entity": lambda: a_signal(entity="item"),
    "signal aggregates a list": lambda: a_signal(aggregates=[Count()]),
    "signal without aggregates": lambda: a_signal(aggregates={}),
    "signal aggregate name": lambda: a_signal(aggregates={"Users": Count()}),
    "signal aggregate class": lambda: a_signal(aggregates={"users": Count}),
    "signal aggregate named like a key": lambda: a_signal(aggregates={"item_id": Count()}),
    "a bin's column and a count of one name": lambda: a_signal(
        aggregates={"a": Histogram("value", (0, 1, 5)), "a_0": CountDistinct()}
    ),
    "a bin's column named like a key": lambda: a_signal(
        entity=Entity("item", "a_0"), aggregates={"a": Histogram("value", (0, 1, 5))}
    ),
    "a half-width and a count of one name": lambda: a_signal(
        aggregates={"m": Mean("value", Interval(0, 1)), "m_half_width": Count()}
    ),
    "a quantile's half-width named like a key": lambda: a_signal(
        entity=Entity("item", "q_p50_half_width"), aggregates={"q": Quantiles("value", Interval(0, 1))}
    ),
    "a candidate's column and a quantile of one name": lambda: a_signal(
        aggregates={"q_p50": TopK("tag", ("a", "b"), 1), "q_p50_1": Count()}
    ),
    "quantiles that share a name": lambda: Quantiles("value", Interval(0, 1), (0.1, 0.1 + 1e-15)),
    "signal window": lambda: a_signal(window=DAY),
    "signal bounds": lambda: a_signal(bounds=None),
    "signal partitions": lambda: a_signal(partitions=("a",)),
    "signal budget": lambda: a_signal(budget_per_release=0.1),
    "signal ttl number": lambda: a_signal(ttl=14),
    "signal ttl zero": lambda: a_signal(ttl=timedelta(0)),
    "signal ttl in part seconds": lambda: a_signal(ttl=timedelta(minutes=2, microseconds=5)),
    "domains for other keys": lambda: a_signal(partitions=PublicPartitions({"genre": ("a",)})),
    "private selection with pure DP": lambda: a_signal(budget_per_release=PureDP(1)),
    "selection uses all delta": lambda: a_signal(
        budget_per_release=ApproxDP(1, 1e-9), partitions=PrivateSelection(delta=1e-9)
    ),
    "unit is not the person": lambda: a_signal(privacy_unit=PrivacyUnit("session_id")),
    "unit splits the person": lambda: a_signal(privacy_unit=PrivacyUnit(("user_id", "device"))),
    "person as an event": lambda: a_signal(privacy_unit=PrivacyUnit("user_id", kind=UnitKind.EVENT)),
    "row per user, whole person": lambda: a_signal(entity=USERS, partitions=PUBLIC_USERS),
    "row per user, private keys": lambda: a_signal(entity=USERS, privacy_unit=PrivacyUnit("user_id", per=DAY)),
    "row per user, private keys, events": lambda: a_signal(
        entity=USERS, privacy_unit=PrivacyUnit("event_id", kind=UnitKind.EVENT)
    ),
    "consistency of all with a parent of private keys": lambda: a_signal(
        post_processing=(ConsistentWith(signal="p", version=1, columns=("users",), exactly=True),)
    ),
    "consistency of sums of any sign": lambda: a_signal(
        aggregates={"s": Sum("value", Interval(-2, 5))},
        post_processing=(ConsistentWith(signal="p", version=1, columns=("s",)),),
    ),
    "weight of nothing": lambda: a_signal(weights={"clicks": 1.0}),
    "weight negative": lambda: a_signal(weights={"users": -1.0}),
    "clip with pure DP": lambda: a_signal(
        bounds=ClipNorm(l2=1), budget_per_release=PureDP(1), partitions=PublicPartitions({"item_id": (1,)})
    ),
    "clip over any number of private keys": lambda: a_signal(bounds=ClipNorm(l2=1)),
    # embeddings
    "embedding name": lambda: embedding(name="Item"),
    "embedding version": lambda: embedding(version=True),
    "embedding dimensions": lambda: embedding(dimensions=1),
    "embedding owner": lambda: embedding(owner=""),
    "embedding of events": lambda: embedding(source=EVENTS),
    "embedding purpose as text": lambda: embedding(purpose="retrieval"),
    "embedding metric as text": lambda: embedding(metric="hamming"),
    "embedding key": lambda: embedding(key=""),
    "embedding categories a set": lambda: embedding(categories={"genres"}),
    "embedding numeric a number": lambda: embedding(numeric=5),
}


def error_of(case: Callable[[], object]) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        case()
    return caught.value


def test_every_unlawful_definition_says_why() -> None:
    texts = {name: str(error_of(case)) for name, case in CASES.items()}
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(texts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert texts == json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_messages_start_with_their_subject(name: str) -> None:
    error = error_of(CASES[name])
    assert str(error).startswith(f"{error.subject}: ")
    assert "\n" not in str(error)


def test_every_refusal_of_the_package_is_here() -> None:
    """Each `raise DefinitionError` in `pipelines/definitions` is reached by a case above."""
    reached = set()
    for case in CASES.values():
        trace = error_of(case).__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        assert trace is not None
        reached.add((Path(trace.tb_frame.f_code.co_filename).name, trace.tb_lineno))
    folder = Path(pipelines.definitions.__file__).parent
    sites = [
        (path.name, node.lineno, node.end_lineno or node.lineno)
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise)
    ]
    assert len(sites) > 20
    missed = [
        f"{name}:{first}"
        for name, first, last in sites
        if not any(name == file and first <= line <= last for file, line in reached)
    ]
    assert missed == []


def test_the_refusal_of_user_rows_names_the_three_lawful_choices() -> None:
    text = str(error_of(CASES["row per user, whole person"]))
    for choice in (
        "(a) one event or one user-day as the unit, over a public list of users",
        "(b) a local randomizer per user",
        "(c) compute it on the device",
    ):
        assert choice in text
