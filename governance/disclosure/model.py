"""The form of a disclosure (`hedgerow.dp-disclosure/1`), as types that refuse anything else, and as JSON Schema.

The fields answer NIST SP 800-226's questions (parameters, unit, trust model, composition, hazards) and those of the
public registry of deployments (Nanayakkara, Ghazi, Vadhan 2025, arXiv 2509.13509).
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from governance.canonical import canonical_bytes

__all__ = [
    "Accounting",
    "Actor",
    "Basic",
    "Disclosure",
    "Guarantee",
    "Hazard",
    "Hazards",
    "Lineage",
    "Mechanism",
    "Parameters",
    "Proof",
    "SignOff",
    "Trust",
    "Unit",
    "Utility",
    "schema",
]

SCHEMA: Final = "hedgerow.dp-disclosure/1"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Basic(_Part):
    """What was released, by whom, for what."""

    name: str
    curators: Annotated[tuple[str, ...], Field(min_length=1)]
    description: str
    intended_use: str
    product_type: Literal[
        "Summary statistics",
        "Machine learning model",
        "Dataset",
        "Synthetic data",
        "Interactive API",
        "SQL queries",
    ]
    region: str
    first_published: dt.date
    sector: str | None = None
    purpose_keys: tuple[str, ...] | None = None
    audience: str | None = None


class Parameters(_Part):
    """The loss in numbers; at least one of them."""

    epsilon: float | None = None
    delta: float | None = None
    rho: float | None = None


class Guarantee(_Part):
    """What is promised."""

    variant: Literal["Pure DP", "Approximate DP", "Zero-concentrated DP", "Renyi DP", "Custom"]
    parameters: Parameters
    per_release: dict[str, Any] | None = None
    lifetime: dict[str, Any] | None = None
    plain_language: str
    data_domain: str
    unprotected_quantities: tuple[str, ...]


class Unit(_Part):
    """Whose presence is hidden."""

    name: Literal["event", "user-window", "user", "device", "household"]
    relation: Literal["ADD_OR_REMOVE_ONE", "REPLACE_ONE", "REPLACE_SPECIAL"]
    definition: Annotated[str, Field(min_length=20)]
    contribution_bounds: dict[str, Any]
    window: str | None = None
    people_with_several_units: str | None = None


class Actor(_Part):
    """Somebody who sees something, and what they are trusted for."""

    actor: str
    sees: str
    trusted_for: str
    rationale: str | None = None


class Trust(_Part):
    """Who must be trusted."""

    model: Literal["Central", "Local", "Shuffle", "Federated"]
    actors: Annotated[tuple[Actor, ...], Field(min_length=1)]
    access: Literal["Interactive", "Non-interactive"] | None = None
    collusion_assumption: str | None = None


class Accounting(_Part):
    """How losses add up."""

    release_type: Literal["One release", "Many releases"]
    source: Literal["Static", "Dynamic"]
    composition: str
    filter: str
    reported_by: str
    adaptive: bool | None = None
    budget_cap: dict[str, Any]
    spent: dict[str, Any] | None = None
    renewal: str
    other_releases_same_data: tuple[str, ...] | None = None
    post_processing: str


class Mechanism(_Part):
    """What made the noise."""

    name: str
    library: str
    version: str
    commit: str | None = None
    noise: dict[str, Any]
    sensitivity: dict[str, Any]
    rng: str | None = None


class Hazard(_Part):
    """One way in which it could fail: how that is met, and the test that shows it (a pytest node id)."""

    status: Literal["addressed", "partly", "not_addressed", "not_applicable"]
    evidence: Annotated[str, Field(min_length=1)]
    test: str | None = None


class Hazards(_Part):
    """The fourteen."""

    floating_point: Hazard
    timing_side_channel: Hazard
    data_dependent_errors: Hazard
    data_dependent_partitions: Hazard
    unprotected_quantities: Hazard
    retry_redraw: Hazard
    rng_quality: Hazard
    preprocessing_unaccounted: Hazard
    hyperparameter_tuning: Hazard
    logs_and_dq_reports: Hazard
    backend_access: Hazard
    data_collection_exposure: Hazard
    synthetic_or_model_memorisation: Hazard
    bias_and_small_groups: Hazard


class Utility(_Part):
    """How good it is."""

    error: tuple[dict[str, Any], ...]
    bias_by_group_size: str | None = None
    suppression: str | None = None


class Lineage(_Part):
    """What it came from."""

    inputs: tuple[str, ...]
    run_id: str
    openlineage_event_sha256: str | None = None
    dq: dict[str, Any] | None = None


class Proof(_Part):
    """That the ledger holds its entry: an RFC 6962 inclusion proof under a signed tree head.

    Attributes:
        ledger_entry: the COMMIT entry.
        tree_size: entries under the head.
        root: the head's root, hex.
        inclusion: hashes from the entry's leaf to the root, hex.
        sth_signature: Ed25519 over the head, hex.
        key_id: SHA-256 of the ledger's public key, hex.
    """

    ledger_entry: int
    tree_size: int
    root: str
    inclusion: tuple[str, ...]
    sth_signature: str
    key_id: str


class SignOff(_Part):
    """Who decided that it may be made."""

    justification: str
    decided_by: str
    date: str
    review_by: str | None = None
    dpia_ref: str | None = None


class Disclosure(_Part):
    """One release, disclosed."""

    schema_: Annotated[Literal["hedgerow.dp-disclosure/1"], Field(alias="schema")] = SCHEMA
    id: str
    basic: Basic
    guarantee: Guarantee
    unit: Unit
    trust: Trust
    accounting: Accounting
    mechanism: Mechanism
    hazards: Hazards
    utility: Utility
    lineage: Lineage
    proof: Proof
    sign_off: SignOff

    def to_json(self) -> dict[str, Any]:
        """The document; what is not stated is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_bytes(self.to_json())


def schema() -> dict[str, Any]:
    """The document's JSON Schema (draft 2020-12)."""
    described = Disclosure.model_json_schema(by_alias=True)
    flat = _inlined(described, described.pop("$defs"))
    flat["required"] = ["schema", *flat["required"]]
    flat["properties"]["guarantee"]["properties"]["parameters"]["minProperties"] = 1
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:hedgerow:dp-disclosure:1",
        **flat,
    }


_DROPPED = frozenset({"title", "description", "default"})


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """Pydantic's schema without references, titles and null alternatives: an absent field is left out, not null."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in node:
        (other,) = [option for option in node["anyOf"] if option != {"type": "null"}]
        return _inlined(other, definitions)
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            kept[key] = {name: _inlined(item, definitions) for name, item in value.items()}
        elif key not in _DROPPED and not (key == "additionalProperties" and value is True):
            kept[key] = _inlined(value, definitions)
    if "const" in kept:
        kept.pop("type", None)
    if "enum" in kept:
        kept.pop("type", None)
    return kept
