"""Definitions as canonical JSON: what is hashed into manifests, compared between runs and golden-tested.

A definition's JSON names every choice, defaults included, and nothing that depends on the machine: the same definition
compiles to the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

from governance.canonical import canonical_bytes, sha256_hex
from pipelines.definitions import Definition, Signal

__all__ = ["SCHEMA", "compile_definition", "definition_bytes", "definition_sha256"]

SCHEMA = "hedgerow.definition/1"


def compile_definition(definition: Definition) -> dict[str, Any]:
    """A definition as a JSON object: `schema`, `kind` and the definition's fields.

    Values of a union carry their `type`; lengths of time are whole seconds, named `..._seconds`.
    """
    kind = "signal" if isinstance(definition, Signal) else "content_embedding"
    return {"schema": SCHEMA, "kind": kind, **_fields(definition)}


def definition_bytes(definition: Definition) -> bytes:
    """Canonical JSON of the compiled definition."""
    return canonical_bytes(compile_definition(definition))


def definition_sha256(definition: Definition) -> str:
    """SHA-256 of the canonical JSON: two definitions with one hash release the same thing."""
    return sha256_hex(definition_bytes(definition))


def _fields(value: Any) -> dict[str, Any]:
    compiled: dict[str, Any] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if isinstance(item, timedelta):
            compiled[f"{field.name}_seconds"] = int(item.total_seconds())
        else:
            compiled[field.name] = _json(item)
    return compiled


def _json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **_fields(value)}
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, date):
        # A public key may be a date or a string that looks like one: two different tables.
        return {"type": "date", "day": value.isoformat()}
    if isinstance(value, Mapping):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    return value
