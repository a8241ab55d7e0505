"""Every committed release of a project, disclosed: reads ledger and releases, and hands the facts to pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from governance.disclosure.build import Accounting, disclosure_of
from governance.disclosure.model import Disclosure, Proof
from governance.disclosure.registry import registry_entry
from governance.errors import ReleaseError
from governance.ledger import Balance, Entry, EntryKind, Ledger
from governance.policy import Policy, load_policy
from governance.release import Manifest, ReleaseStore
from governance.settings import Account, Settings

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

__all__ = [
    "LINEAGE_FILE",
    "Committed",
    "Disclosed",
    "committed",
    "disclose",
    "proof_of",
    "record_lineage",
    "renewal_of",
]

LINEAGE_FILE = "lineage.ndjson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A release that the ledger committed, as its manifest says it is.

    Attributes:
        manifest: with the hash that was committed.
        started_at: when its run reserved (for public inputs: committed), ISO 8601 UTC.
        commit: the COMMIT entry.
    """

    manifest: Manifest
    started_at: str
    commit: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Disclosed:
    """A release and what is told of it."""

    manifest: Manifest
    disclosure: Disclosure
    events: tuple[RunEvent, RunEvent]
    registry: Mapping[str, Any]


def committed(settings: Settings, entries: Sequence[Entry]) -> tuple[tuple[Committed, ...], tuple[str, ...]]:
    """The releases that the ledger committed and the disk holds unchanged; and why others are left out."""
    store = ReleaseStore(settings.releases_dir)
    started = {
        entry.run_id: entry.at for entry in reversed(entries) if entry.run_id and entry.kind is EntryKind.RESERVE
    }
    newest = {entry.subject: entry for entry in entries if entry.kind is EntryKind.COMMIT}
    found, left_out = [], []
    for release_id, entry in sorted(newest.items()):
        try:
            manifest = store.load(release_id)
        except ReleaseError as error:
            left_out.append(str(error))
            continue
        if manifest.sha256 != entry.detail["manifest_sha256"]:
            left_out.append(f"{release_id}: the manifest is not the one that the ledger committed")
            continue
        started_at = started.get(entry.run_id, entry.at) if entry.run_id else entry.at
        found.append(Committed(manifest=manifest, started_at=started_at, commit=entry))
    return tuple(found), tuple(left_out)


def disclose(settings: Settings, ledger: Ledger, policy: Policy) -> tuple[tuple[Disclosed, ...], tuple[str, ...]]:
    """Discloses every committed release.

    Returns:
        The disclosures by release id, and why releases are left out: they are gone or were changed.

    Raises:
        LedgerCorrupt: the ledger does not hold together; nothing could be proved.
    """
    from governance.lineage import event_sha256, release_events

    entries = ledger.entries()
    releases, left_out = committed(settings, entries)
    proofs = ledger.inclusion_proofs(release.commit.sequence for release in releases)
    balances = {balance.account: balance for balance in ledger.balances()}
    disclosed = []
    for release in releases:
        manifest, proof = release.manifest, proof_of(proofs[release.commit.sequence])
        events = release_events(
            manifest,
            project=settings.name,
            started_at=release.started_at,
            completed_at=release.commit.at,
            proof=proof,
        )
        disclosure = disclosure_of(
            manifest,
            committed_at=release.commit.at,
            policy=policy,
            reporting_delta=settings.reporting_delta,
            accounting=accounting_of(settings, manifest, balances, releases),
            proof=proof,
            lineage_sha256=event_sha256(events[1]),
        )
        disclosed.append(
            Disclosed(manifest=manifest, disclosure=disclosure, events=events, registry=registry_entry(disclosure))
        )
    return tuple(disclosed), left_out


def record_lineage(settings: Settings, ledger: Ledger) -> Path:
    """Writes the lineage of every committed release to `lineage.ndjson` in the state folder; whole or not at all.

    Raises:
        LedgerCorrupt: the ledger does not hold together.
        OSError: the folder cannot be written.
    """
    from governance.lineage import write_events

    disclosed, _ = disclose(settings, ledger, load_policy(settings))
    path = settings.state_dir / LINEAGE_FILE
    write_events(path, (event for item in disclosed for event in item.events))
    return path


def proof_of(document: Mapping[str, Any]) -> Proof:
    """A ledger's inclusion proof as a disclosure tells it."""
    head = document["head"]
    return Proof(
        ledger_entry=document["entry"]["sequence"],
        tree_size=head["size"],
        root=head["root"],
        inclusion=tuple(document["path"]),
        sth_signature=head["signature"],
        key_id=head["key"],
    )


def accounting_of(
    settings: Settings, manifest: Manifest, balances: Mapping[str, Balance], releases: Sequence[Committed]
) -> Accounting | None:
    """The account that paid for a release; None if none did."""
    name = manifest.ledger.account
    if name is None or name not in balances:
        return None
    others = (r.manifest.release_id for r in releases if r.manifest.ledger.account == name)
    account = next((account for account in settings.accounts if account.name == name), None)
    return Accounting(
        balance=balances[name],
        others=tuple(other for other in others if other != manifest.release_id),
        renewal=renewal_of(account),
    )


def renewal_of(account: Account | None) -> str:
    """Whether and when an account's cap is renewed, in words."""
    if account is None or account.renews_days is None:
        return "none: the cap is for the account's whole life"
    days = account.renews_days
    return f"every {days} days; what may be lost over a lifetime therefore grows with every {days} days"
