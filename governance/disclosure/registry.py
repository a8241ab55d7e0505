"""A disclosure as an entry of the public Differential Privacy Deployments Registry.

The registry (registry.opendp.org, proposed for NIST) describes a deployment by a card in three tiers of transparency:
data product; flavour, privacy loss and model; then accounting and implementation. The fields are those of its schema as
published by Nanayakkara, Ghazi and Vadhan (arXiv 2509.13509, section 3). A disclosure fills all three tiers.
"""

from __future__ import annotations

from typing import Any

from governance.disclosure.model import Disclosure

__all__ = ["registry_entry", "registry_schema"]

SCHEMA = "hedgerow.dp-registry-entry/1"
_LEVELS = {
    "event": "Event-level",
    "user-window": "User-window-level",
    "user": "User-level",
    "device": "Device-level",
    "household": "Household-level",
}
_PRODUCTS = (
    "Summary statistics",
    "Machine learning model",
    "Dataset",
    "Synthetic data",
    "Interactive API",
    "SQL queries",
)


def registry_entry(disclosure: Disclosure) -> dict[str, Any]:
    """The card of one release, as a JSON value; its YAML holds the same. What nobody stated is left out."""
    given = disclosure.to_json()
    basic, guarantee, unit, trust = given["basic"], given["guarantee"], given["unit"], given["trust"]
    accounting, mechanism = given["accounting"], given["mechanism"]
    entry: dict[str, Any] = _without_none(
        {
            "schema": SCHEMA,
            "tier": 3,
            "data_product": {
                "name": basic["name"],
                "data_curator": basic["curators"],
                "description": basic["description"],
                "intended_use": basic["intended_use"],
                "product_type": basic["product_type"],
                "publication_date": basic["first_published"],
                "region": basic["region"],
                "sector": basic.get("sector"),
            },
            "flavor": {
                "name": guarantee["variant"],
                "data_domain": guarantee["data_domain"],
                "unprotected_quantities": guarantee["unprotected_quantities"],
            },
            "privacy_loss": {
                "privacy_unit": _LEVELS[unit["name"]],
                "privacy_unit_description": unit["definition"],
                "neighboring_relation": unit["relation"],
                "contribution_bounds": unit["contribution_bounds"],
                "parameters": guarantee["parameters"],
            },
            "model": {
                "name": trust["model"],
                "actors": trust["actors"],
                "access": trust.get("access"),
                "release_type": accounting["release_type"],
                "data_source": accounting["source"],
            },
            "accounting": {
                "composition": accounting["composition"],
                "post_processing": accounting["post_processing"],
                "budget": accounting["budget_cap"],
                "renewal": accounting["renewal"],
            },
            "implementation": {
                "mechanism": mechanism["name"],
                "library": f"{mechanism['library']} {mechanism['version']}",
                "random_numbers": mechanism.get("rng"),
                "justification": given["sign_off"]["justification"],
                "hazards": {name: hazard["status"] for name, hazard in given["hazards"].items()},
            },
            "additional_information": {"disclosure_id": given["id"], "disclosure_schema": given["schema"]},
        }
    )
    return entry


def registry_schema() -> dict[str, Any]:
    """The entry's JSON Schema (draft 2020-12)."""
    text, texts, free = (
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string"}},
        {"type": "object"},
    )
    actor = _object({"actor": text, "sees": text, "trusted_for": text}, rationale=text)
    parameters = _object({}, epsilon={"type": "number"}, delta={"type": "number"}, rho={"type": "number"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:hedgerow:dp-registry-entry:1",
        **_object(
            {
                "schema": {"const": SCHEMA},
                "tier": {"enum": [1, 2, 3]},
                "data_product": _object(
                    {
                        "name": text,
                        "data_curator": {**texts, "minItems": 1},
                        "description": text,
                        "intended_use": text,
                        "product_type": {"enum": list(_PRODUCTS)},
                        "publication_date": {"type": "string", "format": "date"},
                        "region": text,
                    },
                    sector=text,
                ),
                "flavor": _object({"name": text, "data_domain": text, "unprotected_quantities": texts}),
                "privacy_loss": _object(
                    {
                        "privacy_unit": {"enum": list(_LEVELS.values())},
                        "privacy_unit_description": text,
                        "neighboring_relation": text,
                        "contribution_bounds": free,
                        "parameters": {**parameters, "minProperties": 1},
                    }
                ),
                "model": _object(
                    {
                        "name": {"enum": ["Central", "Local", "Shuffle", "Federated"]},
                        "actors": {"type": "array", "minItems": 1, "items": actor},
                        "release_type": text,
                        "data_source": text,
                    },
                    access=text,
                ),
                "accounting": _object({"composition": text, "post_processing": text, "budget": free, "renewal": text}),
                "implementation": _object(
                    {
                        "mechanism": text,
                        "library": text,
                        "justification": text,
                        "hazards": {"type": "object", "minProperties": 14, "additionalProperties": text},
                    },
                    random_numbers=text,
                ),
                "additional_information": free,
            }
        ),
    }


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": {**required, **optional},
    }


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
