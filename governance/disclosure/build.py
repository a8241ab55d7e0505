"""From what ran to its disclosure. Pure: manifest, ledger facts and the project's record in, document out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from governance.disclosure import model
from governance.disclosure.hazards import hazards_of, reads_people
from governance.ledger import Balance
from governance.policy import Policy, ProcessingRecord
from governance.release import Manifest

__all__ = ["NOT_STATED", "Accounting", "disclosure_of"]

NOT_STATED = "not stated"
_VARIANTS: Mapping[str, Literal["Pure DP", "Approximate DP", "Zero-concentrated DP"]] = {
    "pure DP": "Pure DP",
    "approximate DP": "Approximate DP",
    "zCDP": "Zero-concentrated DP",
}
_RELATIONS: Mapping[str, Literal["ADD_OR_REMOVE_ONE", "REPLACE_ONE"]] = {
    "": "ADD_OR_REMOVE_ONE",
    "add_remove_one": "ADD_OR_REMOVE_ONE",
    "replace_one": "REPLACE_ONE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """What the ledger knows about the account that paid.

    Attributes:
        balance: the account's.
        others: ids of the other releases that it paid for.
        renewal: whether and when the cap is renewed, in words.
    """

    balance: Balance
    others: tuple[str, ...]
    renewal: str = "none: the cap is for the account's whole life"


def disclosure_of(
    manifest: Manifest,
    *,
    committed_at: str,
    policy: Policy,
    reporting_delta: float,
    accounting: Accounting | None,
    proof: model.Proof,
    lineage_sha256: str | None = None,
) -> model.Disclosure:
    """Discloses one committed release.

    Args:
        manifest: what ran.
        committed_at: when the ledger committed it, ISO 8601.
        policy: the project's, for its record and its datasets.
        reporting_delta: the delta at which the account's epsilon is told.
        accounting: of the account that paid; None for public inputs.
        proof: that the ledger holds its COMMIT entry.
        lineage_sha256: of the release's OpenLineage COMPLETE event.
    """
    return model.Disclosure(
        id=manifest.release_id,
        basic=_basic(manifest, committed_at, policy.record),
        guarantee=_guarantee(manifest, policy, accounting, reporting_delta),
        unit=_unit(manifest, policy.record),
        trust=_trust(manifest, policy.record),
        accounting=_accounting(manifest, accounting, reporting_delta),
        mechanism=_mechanism(manifest),
        hazards=hazards_of(manifest),
        utility=_utility(manifest),
        lineage=_lineage(manifest, lineage_sha256),
        proof=proof,
        sign_off=_sign_off(policy.record),
    )


def _basic(manifest: Manifest, committed_at: str, record: ProcessingRecord | None) -> model.Basic:
    signal = manifest.signal
    vectors = any(column.role == "vector" for column in manifest.columns)
    product: Literal["Summary statistics", "Machine learning model", "Dataset"] = "Summary statistics"
    if vectors:
        product = "Machine learning model" if reads_people(manifest) else "Dataset"
    curators = (record.controller, *record.joint_controllers) if record else ()
    return model.Basic(
        name=f"{signal.name} v{signal.version}",
        curators=tuple(curator.name for curator in curators) or (NOT_STATED,),
        description=signal.description,
        intended_use=f"{signal.purpose}: {'vectors' if vectors else 'features'} for recommendation models",
        product_type=product,
        region=record.region if record else NOT_STATED,
        first_published=date.fromisoformat(committed_at[:10]),
        sector=record.sector if record else None,
        purpose_keys=(signal.purpose,),
        audience=", ".join(record.recipients) if record else None,
    )


def _guarantee(manifest: Manifest, policy: Policy, accounting: Accounting | None, delta: float) -> model.Guarantee:
    guarantee = manifest.guarantee
    rho = float(guarantee.rho)
    pure = guarantee.variant == "pure DP"
    return model.Guarantee(
        variant=_VARIANTS.get(guarantee.variant, "Custom"),
        parameters=model.Parameters(
            epsilon=guarantee.epsilon,
            delta=0.0 if pure or not reads_people(manifest) else guarantee.epsilon_delta,
            rho=rho,
        ),
        per_release={
            "rho": guarantee.rho,
            "delta": guarantee.delta,
            "epsilon": guarantee.epsilon,
            "epsilon_at_delta": guarantee.epsilon_delta,
            "delta_of_selection": guarantee.selection_delta,
            "delta_of_sampler": guarantee.sampler_delta,
        },
        lifetime=_lifetime(accounting, delta) if accounting else None,
        plain_language=guarantee.protects,
        data_domain=_domain(manifest, policy),
        unprotected_quantities=_unprotected(manifest),
    )


def _lifetime(accounting: Accounting, delta: float) -> dict[str, Any]:
    balance = accounting.balance
    spent = balance.spent if balance.lifetime_spent is None else balance.lifetime_spent
    return {
        "account": balance.account,
        "spent": spent.to_json(),
        "cap": balance.cap.to_json(),
        "cap_is_for": "the whole life" if balance.lifetime_spent is None else "one period, then renewed",
        "epsilon_spent": _finite(spent.epsilon(delta)),
        "epsilon_cap": _finite(balance.cap.epsilon(delta)),
        "epsilon_at_delta": delta,
    }


def _finite(epsilon: float) -> float | None:
    return None if epsilon == float("inf") else epsilon


def _domain(manifest: Manifest, policy: Policy) -> str:
    described = dict(policy.datasets)
    private = [source.dataset for source in manifest.inputs if source.access != "public"]
    if not private:
        return "Public inputs only: " + ", ".join(source.dataset for source in manifest.inputs)
    parts = [f"{name} ({described[name].description})" if name in described else name for name in private]
    window = f" from {manifest.window.start} to before {manifest.window.end}" if manifest.window.start else ""
    return f"All events of {', '.join(parts)}{window}"


def _unprotected(manifest: Manifest) -> tuple[str, ...]:
    guarantee = manifest.guarantee
    stated = ["what the definition states: window, contribution bounds, clamping intervals, owner and purpose"]
    if not reads_people(manifest):
        return ("everything: the inputs are public",)
    if guarantee.selection == "public":
        stated.append("the public list of keys: a key that is listed shows, whether or not anybody is in it")
    if _is_event(manifest):
        stated.append("a person's activity as a whole: k events of one person lose up to k² times rho")
    elif "/" in guarantee.unit:
        stated.append("habits of a person over several spans of the privacy unit")
    stated.append("that the release was made, and when")
    return tuple(stated)


def _is_event(manifest: Manifest) -> bool:
    return manifest.guarantee.bounds.get("unit_is") == "one event" or manifest.guarantee.unit.startswith("event")


def _unit(manifest: Manifest, record: ProcessingRecord | None) -> model.Unit:
    guarantee = manifest.guarantee
    bounds = {key: value for key, value in guarantee.bounds.items() if key != "unit_is"}
    window = f"{manifest.window.start}/{manifest.window.end}" if manifest.window.start else None
    if not reads_people(manifest):
        return model.Unit(
            name="user",
            relation="ADD_OR_REMOVE_ONE",
            definition="No personal data was read: the release is the same with and without any person.",
            contribution_bounds=bounds,
            window=window,
        )
    name: Literal["event", "user-window", "user"] = "user"
    if _is_event(manifest):
        name = "event"
    elif "/" in guarantee.unit:
        name = "user-window"
    one = guarantee.bounds.get("unit_is") or f"everything of one {guarantee.unit}"
    several = record.people_with_several_units if record else NOT_STATED
    return model.Unit(
        name=name,
        relation=_RELATIONS.get(guarantee.relation, "REPLACE_SPECIAL"),
        definition=f"{one} ({guarantee.unit}): {guarantee.protects}",
        contribution_bounds=bounds,
        window=window,
        people_with_several_units=several,
    )


def _trust(manifest: Manifest, record: ProcessingRecord | None) -> model.Trust:
    readers = ", ".join(record.recipients) if record else "those who read releases"
    local = manifest.guarantee.relation == "replace_one" and reads_people(manifest)
    operator = model.Actor(
        actor="those who run pipelines",
        sees="raw events" if reads_people(manifest) else "public inputs",
        trusted_for="running the published mechanism, and keeping raw events and memory to themselves",
        rationale="Each row is randomised by itself, but by the same machines." if local else None,
    )
    return model.Trust(
        model="Central",
        actors=(
            operator,
            model.Actor(actor=readers, sees="releases", trusted_for="nothing: anyone may see a release"),
        ),
        access="Non-interactive",
        collusion_assumption="None: readers may pool all that they read, with whatever else they know.",
    )


def _accounting(manifest: Manifest, accounting: Accounting | None, delta: float) -> model.Accounting:
    steps = "; ".join(manifest.guarantee.post_processing) or "none"
    if accounting is None:
        return model.Accounting(
            release_type="One release",
            source="Static",
            composition="none: nothing is spent",
            filter="none: no account is touched",
            reported_by="not needed",
            budget_cap={},
            renewal="not needed",
            post_processing=steps,
        )
    balance = accounting.balance
    return model.Accounting(
        release_type="Many releases",
        source="Dynamic",
        composition="rho and delta of all releases of the account add up (delta-approximate zCDP)",
        filter="rho-sum filter: the ledger refuses what the cap does not carry, before any data is read",
        reported_by=f"epsilon at delta {delta:g} by conversion from rho (Canonne, Kamath, Steinke 2020, Corollary 13), "
        "or by a tighter accountant of the release's own mechanism",
        adaptive=True,
        budget_cap=balance.cap.to_json(),
        spent=balance.spent.to_json(),
        renewal=accounting.renewal,
        other_releases_same_data=accounting.others,
        post_processing=steps,
    )


def _mechanism(manifest: Manifest) -> model.Mechanism:
    guarantee = manifest.guarantee
    names = tuple(dict.fromkeys(m.mechanism for m in guarantee.measurements))
    return model.Mechanism(
        name=" and ".join(names) or "none: public inputs",
        library="hedgerow",
        version=manifest.code.get("hedgerow", NOT_STATED),
        commit=manifest.code.get("commit"),
        noise={m.name: {"stddev": m.noise_stddev, "mechanism": m.mechanism} for m in guarantee.measurements},
        sensitivity={
            m.name: {"l0": m.l0, "linf": m.linf, "l2": m.l2, "grid_step": m.grid_step} for m in guarantee.measurements
        },
        rng=guarantee.sampler,
    )


def _utility(manifest: Manifest) -> model.Utility:
    guarantee = manifest.guarantee
    errors = tuple(
        {
            "metric": "noise",
            "column": column.name,
            "stddev": column.noise_stddev,
            "absolute_error_p95": 1.959964 * column.noise_stddev if column.half_width is None else column.half_width,
        }
        for column in manifest.columns
        if column.noise_stddev is not None
    )
    if not reads_people(manifest):
        return model.Utility(error=errors)
    suppression = (
        f"a key is left out where its {guarantee.selected_by} is below {guarantee.threshold_text}"
        if guarantee.selection == "private"
        else "none: every public key is released"
    )
    return model.Utility(
        error=errors,
        bias_by_group_size=(
            "Noise does not grow with the group, so the relative error falls as one over its size. Contribution bounds "
            "bias sums towards zero by what they cut, which is not told."
        ),
        suppression=suppression,
    )


def _lineage(manifest: Manifest, event_sha256: str | None) -> model.Lineage:
    return model.Lineage(
        inputs=tuple(f"{source.dataset}: {source.table} ({source.access})" for source in manifest.inputs),
        run_id=manifest.ledger.run_id,
        openlineage_event_sha256=event_sha256,
        dq={
            "checks": [{"check": str(result["check"]), "passed": bool(result["passed"])} for result in manifest.quality]
        },
    )


def _sign_off(record: ProcessingRecord | None) -> model.SignOff:
    if record is None:
        return model.SignOff(justification=NOT_STATED, decided_by=NOT_STATED, date=NOT_STATED)
    decision = record.sign_off
    return model.SignOff(
        justification=decision.justification,
        decided_by=decision.decided_by,
        date=decision.date.isoformat(),
        review_by=decision.review_by.isoformat() if decision.review_by else None,
        dpia_ref=decision.dpia,
    )
