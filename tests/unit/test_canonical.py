"""Canonical JSON and hashes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from datetime import date
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from governance.canonical import canonical_bytes, decimal_text, sha256_file, sha256_hex


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1.5, None, True], "é": "ü\n"}, '{"a":[1.5,null,true],"b":1,"é":"ü\\n"}'),
        (OrderedDict(b=1, a=2), '{"a":2,"b":1}'),
        ({"z": {"y": {"x": ()}}}, '{"z":{"y":{"x":[]}}}'),
        ({Colour.RED: Colour.RED}, '{"red":"red"}'),
        (0.1 + 0.2, "0.30000000000000004"),
        (2**70, "1180591620717411303424"),
        ({"B": 1, "a": 2, "_": 3}, '{"B":1,"_":3,"a":2}'),
    ],
)
def test_the_one_form(value: object, text: str) -> None:
    assert canonical_bytes(value) == text.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")], {"a": {"b": float("nan")}}, "\ud800"])
def test_numbers_and_texts_that_json_lacks(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON|surrogates"):
        canonical_bytes(value)


@pytest.mark.parametrize(
    "value",
    [{1, 2}, b"x", date(2025, 1, 1), Decimal(1), Path(), object(), MappingProxyType({"a": 1})],
)
def test_types_that_json_lacks(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_bytes(value)


@pytest.mark.parametrize("key", [1, None, True, 1.5, ("a",)])
@pytest.mark.parametrize("nest", [lambda v: v, lambda v: [v], lambda v: {"a": (v,)}])
def test_keys_are_strings(key: object, nest: Any) -> None:
    """`{1: ...}` and `{"1": ...}` must not share one form, and one hash."""
    with pytest.raises(TypeError, match="an object key must be a string"):
        canonical_bytes(nest({key: 0}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("0", "0"),
        ("-0", "0"),
        ("-0.00", "0"),
        ("0E+7", "0"),
        ("1E+3", "1000"),
        ("1.500", "1.5"),
        ("100", "100"),
        ("1e-12", "0.000000000001"),
        ("-2.50", "-2.5"),
        ("1.00000000000000000000000000000000000000001", "1.00000000000000000000000000000000000000001"),
        ("123456789012345678901234567890123456789", "123456789012345678901234567890123456789"),
    ],
)
def test_decimals_are_written_exactly(value: str, text: str) -> None:
    assert decimal_text(Decimal(value)) == text


def test_hashes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == sha256_hex(data) == hashlib.sha256(data).hexdigest()
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
