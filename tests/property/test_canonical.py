"""Canonical JSON: one value, one form; one form, one value."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from governance.canonical import canonical_bytes, decimal_text
from tests.support.strategies import examples, json_values


def reordered(value: Any) -> Any:
    """The same value, its objects built in the opposite order and its lists as tuples."""
    if isinstance(value, dict):
        return {key: reordered(item) for key, item in reversed(value.items())}
    return tuple(reordered(item) for item in value) if isinstance(value, list) else value


@examples(300)
@given(json_values)
def test_round_trip_and_order(value: Any) -> None:
    data = canonical_bytes(value)
    assert json.loads(data) == value
    assert canonical_bytes(json.loads(data)) == data
    assert canonical_bytes(reordered(value)) == data


@examples(300)
@given(json_values, json_values)
def test_different_values_have_different_forms(one: Any, other: Any) -> None:
    if canonical_bytes(one) == canonical_bytes(other):
        assert one == other


@examples(300)
@given(st.decimals(allow_nan=False, allow_infinity=False).filter(lambda d: abs(d.adjusted()) < 500))
def test_decimals_keep_every_digit(value: Decimal) -> None:
    text = decimal_text(value)
    assert Fraction(text) == Fraction(value)
    assert decimal_text(Decimal(text)) == text
    assert decimal_text(value * Decimal("1.0")) == decimal_text(+value), "trailing zeros do not show"
