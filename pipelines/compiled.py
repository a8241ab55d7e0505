"""Definitions as canonical JSON: what is hashed into manifests, compared between runs and golden-tested.

A definition's JSON names every choice that what is released depends on, defaults included, and nothing that depends on
the machine: the same definition compiles to the same bytes everywhere. A `ContributionProfile` is what `plan` advises
by and changes no release, so it is left out: whoever writes one down releases the same signal as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any

from governance.canonical import canonical_bytes, sha256_hex
from pipelines.definitions import Definition, Signal

__all__ = ["SCHEMA", "compile_definition", "definition_bytes", "definition_sha256", "releases_the_same"]

SCHEMA = "hedgerow.definition/1"


def compile_definition(definition: Definition) -> dict[str, Any]:
    """A definition as a JSON object: `schema`, `kind` and the definition's fields.

    Values of a union carry their `type`; lengths of time are whole seconds, named `..._seconds`.
    """
    if isinstance(definition, Signal):
        return {"schema": SCHEMA, "kind": "signal", **_fields(replace(definition, profile=None))}
    return {"schema": SCHEMA, "kind": "content_embedding", **_fields(definition)}


def definition_bytes(definition: Definition) -> bytes:
    """Canonical JSON of the compiled definition."""
    return canonical_bytes(compile_definition(definition))


def definition_sha256(definition: Definition) -> str:
    """SHA-256 of the canonical JSON: two definitions with one hash release the same thing."""
    return sha256_hex(definition_bytes(definition))


def releases_the_same(compiled: Mapping[str, Any], definition: Definition) -> bool:
    """Whether a compiled definition, as a manifest carries it, is of the same signal; older ones name their profile."""
    of_plan = {"profile": None} if "profile" in compiled else {}
    return canonical_bytes({**compiled, **of_plan}) == definition_bytes(definition)


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
