"""Canonical JSON and content hashes: the bytes that are hashed, signed and compared.

The form is RFC 8785 (JSON Canonicalization Scheme) restricted to what hedgerow writes: objects with string keys in
code-point order, no insignificant white space, UTF-8, finite numbers in Python's shortest round-trip notation, exact
decimals as strings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

__all__ = ["Json", "canonical_bytes", "decimal_text", "sha256_file", "sha256_hex"]

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def canonical_bytes(value: object) -> bytes:
    """Serialises a JSON value to its one canonical byte form.

    Raises:
        ValueError: a NaN or infinite number.
        TypeError: a value that is not JSON (sets, bytes, dates ...), or an object key that is not a string.
    """
    _check_keys(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _check_keys(value: object) -> None:
    """Python's `json` would turn the keys 1, None and True into text, so that two objects could share one form."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"an object key must be a string; found {type(key).__name__}")
            _check_keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_keys(item)


def decimal_text(value: Decimal) -> str:
    """An exact decimal as its one canonical text: plain notation, every digit, no exponent, no trailing zeros."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def sha256_hex(data: bytes) -> str:
    """SHA-256 of `data`, as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, read in blocks, as 64 lower-case hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
