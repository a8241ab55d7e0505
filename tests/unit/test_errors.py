"""The error tree: drawn as it is, and messages that say what, found, allowed and the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

import pytest

from governance import errors
from governance.errors import (
    AccountUnknown,
    BudgetExceeded,
    ColumnMissing,
    ColumnTypeError,
    DefinitionError,
    EmptyInput,
    HedgerowError,
    NonFiniteValue,
    NullValue,
    PortBusy,
    UnknownSignal,
)


def tree(cls: type, depth: int = 0) -> Iterator[tuple[int, str]]:
    yield depth, cls.__name__
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child, depth + 1)


def test_the_tree_is_drawn_as_it_is() -> None:
    assert errors.__doc__ is not None
    drawn = [
        (len(match.group(1)) // 4, match.group(2))
        for line in errors.__doc__.splitlines()
        if (match := re.fullmatch(r"    ((?:[│├└ ]...)*)(\w+)(?: .*)?", line))
    ]
    assert sorted(drawn) == sorted(tree(HedgerowError))
    assert drawn[0] == (0, "HedgerowError")


def test_every_error_is_exported() -> None:
    assert errors.__all__ == sorted(name for _, name in tree(HedgerowError))


TEXTS = [
    (
        DefinitionError("genres v1", "ttl: found 0"),
        "genres v1: ttl: found 0",
    ),
    (UnknownSignal("x", ("a", "b")), "no signal named 'x'; this project defines: a, b"),
    (UnknownSignal("x", ()), "no signal named 'x'; this project defines: none"),
    (
        ColumnMissing("e.parquet", "ts", ("a", "b")),
        "e.parquet: column 'ts' is missing; found: a, b; rename the column or correct the definition",
    ),
    (
        ColumnTypeError("e.parquet", "ts", "string", "timestamps"),
        "e.parquet: column 'ts' has type string; allowed: timestamps; convert it upstream",
    ),
    (
        NullValue("e.parquet", "user_id", "unit"),
        "e.parquet: column 'user_id' (unit) has nulls; drop or fill those rows upstream, nothing was released",
    ),
    (
        NonFiniteValue("e.parquet", "v"),
        "e.parquet: column 'v' has NaN or infinite values; drop or fill those rows upstream, nothing was released",
    ),
    (EmptyInput("e.parquet"), "e.parquet: the table has no rows; point the source at a folder or file with events"),
    (
        AccountUnknown("e/u", ("e/v",)),
        "no account 'e/u'; hedgerow.toml declares: e/v; add [[accounts]] with dataset, unit, rho and delta",
    ),
    (
        PortBusy("127.0.0.1:7433"),
        "127.0.0.1:7433 is in use; stop the other server or choose another with --port (0 picks a free one)",
    ),
]


@pytest.mark.parametrize(("error", "text"), TEXTS, ids=lambda value: type(value).__name__)
def test_texts(error: HedgerowError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    ("requested", "remaining", "shown"),
    [
        ("0.0050", "0.003", "rho=0.005, remaining 0.003"),
        ("100", "0.00", "rho=1e+2, remaining 0"),
        ("0.1234567", "0.1", "rho=0.1234567, remaining 0.1"),
        ("1.000000001e-6", "1e-6", "rho=0.000001000000001, remaining 0.000001"),
        (f"1.{'0' * 33}1e-9", "1e-9", f"rho=1.{'0' * 33}1e-9, remaining 1e-9"),
    ],
)
def test_what_does_not_fit_looks_like_it(requested: str, remaining: str, shown: str) -> None:
    """A request a hair above what is left must not read `requested 1e-6, remaining 1e-6`."""
    error = BudgetExceeded("events/user_id", "genres v1", "rho", Decimal(requested), Decimal(remaining))
    assert str(error).startswith(f"genres v1: requested {shown} in account events/user_id; lower budget_per_release")
    assert (error.requested, error.remaining) == (Decimal(requested), Decimal(remaining))


def test_errors_carry_their_fields() -> None:
    error = BudgetExceeded("e/u", "s v1", "delta", Decimal(2), Decimal(1))
    assert (error.account, error.subject, error.quantity) == ("e/u", "s v1", "delta")
    assert DefinitionError("Interval", "x").subject == "Interval"
    assert (ColumnMissing("t", "c", ()).table, ColumnMissing("t", "c", ()).column) == ("t", "c")
    assert UnknownSignal("x", ("a",)).known == ("a",)
    assert AccountUnknown("e/u", ()).account == "e/u"
