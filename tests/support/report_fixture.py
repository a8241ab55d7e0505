"""A project as a reviewer meets it: three accounts, five signals over four weeks, refusals, public vectors.

Everything is fixed (clock, run ids, file contents), so the report of it is the same on every machine. The data files
are opaque bytes: a report hashes them and never looks inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from governance.canonical import canonical_bytes, sha256_hex
from governance.errors import BudgetExceeded
from governance.files import write_atomic
from governance.ledger import KEY_FILE, Ledger
from governance.privacy import PrivacyLoss
from governance.release import (
    KEYED_SAMPLER,
    PUBLIC_SAMPLER,
    Column,
    DataFile,
    Guarantee,
    InputFingerprint,
    LedgerReference,
    Manifest,
    Measurement,
    ReleaseStore,
    SignalReference,
    WindowReference,
)
from governance.settings import Settings, load_settings

__all__ = ["NOW", "SIGNALS", "Shop", "SignalShape", "make_empty_shop", "make_open_shop", "make_shop"]

NOW = datetime(2025, 12, 2, 9, 30, tzinfo=UTC)
"""When the report is made."""

_TOML = """
[project]
name = "listening_shop"
description = {description}
reporting_delta = "1e-6"

[[accounts]]
dataset = "plays"
unit = "user_id"
rho = "0.25"
delta = "5e-7"

[[accounts]]
dataset = "plays"
unit = "event_id"
rho = "2"
delta = "1e-7"

[[accounts]]
dataset = "support_tickets"
unit = "user_id/day"
rho = "0.5"
delta = "1e-7"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalShape:
    """What one signal's releases look like."""

    name: str
    description: str
    entity: str
    keys: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, str, str, float], ...]  # name, type, meaning, noise sd
    unit: str
    rho: str
    delta: str
    rows: int
    protects: str
    max_partitions: int
    max_rows: int
    threshold: int | None
    post_processing: tuple[str, ...] = ()


_POLICY = """
datasets:
  plays: {category: behaviour, description: "What people played, when and how long", kept: 13 months}
  support_tickets: {category: contact, description: Topics of support tickets, kept: 2 years}
rules:
  - {id: EPS-1, kind: max_epsilon_per_release, epsilon: 4, reason: one week must leave guesses uncertain}
  - {id: PURPOSE-1, kind: allowed_purposes, category: behaviour, purposes: [ranking], reason: as people were told}
  - {id: COLUMNS-1, kind: forbidden_columns, columns: ["*email*"], reason: nobody needs them here}
  - id: READ-1
    kind: may_read
    callers: [recommender]
    purposes: [ranking]
    views: ["*"]
    reason: the recommender is what it is made for
examples:
  - {say: modest is fine, when: {action: run, datasets: [plays], purpose: ranking, epsilon: 1}, allowed: true}
  - say: too much is refused
    when: {action: run, datasets: [plays], purpose: ranking, epsilon: 5}
    refused_by: [EPS-1]
  - {say: not for ads, when: {action: run, datasets: [plays], purpose: ads}, refused_by: [PURPOSE-1]}
  - say: no addresses
    when: {action: run, datasets: [plays], purpose: ranking, columns: [email]}
    refused_by: [COLUMNS-1]
  - {say: reads, when: {action: read, caller: recommender, purpose: ranking, view: x_v1}, allowed: true}
record:
  controller: {name: Listening Shop Ltd, contact: privacy@example.org}
  data_protection_officer: {name: DPO, contact: dpo@example.org}
  legal_basis: Art. 6(1)(f)
  data_subjects: [people with an account]
  recipients: [the recommender]
  security_measures: [contribution bounds and noise, a signed ledger]
  region: EU
  sector: Media
  people_with_several_units: k accounts of one person lose k times as much
  sign_off: {decided_by: DPO, justification: the loss is small and the lists get better, date: 2025-10-20}
"""

_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)
"""The ledger's key: fixed, so that heads and proofs are the same everywhere."""

_USER = (
    "Whether any one user is in the data at all, and everything that user did in the window, is protected: "
    "adding or removing all of it changes what is released only within the stated loss."
)
_EVENT = (
    "Each single event is protected, for a public list of users: adding or removing one event changes what is released "
    "only within the stated loss. A user's events together are protected less."
)

SIGNALS = (
    SignalShape(
        name="genre_weekly_users",
        description="Distinct listeners of each genre in a week, by cohort.",
        entity="genre_cohort",
        keys=(("genre", "string"), ("cohort", "string")),
        features=(("users", "int64", "listeners in the week", 21.4),),
        unit="user_id",
        rho="0.00875",
        delta="0",
        rows=342,
        protects=_USER,
        max_partitions=8,
        max_rows=1,
        threshold=None,
        post_processing=("negative counts are set to 0",),
    ),
    SignalShape(
        name="item_weekly",
        description="Listeners and mean seconds listened for each item in a week.",
        entity="item",
        keys=(("item_id", "int64"),),
        features=(
            ("users", "int64", "listeners in the week", 28.9),
            ("mean_seconds", "float64", "mean seconds listened, of at most 600", 12.75),
        ),
        unit="user_id",
        rho="0.02",
        delta="1.0000000004e-8",
        rows=1218,
        protects=_USER,
        max_partitions=20,
        max_rows=1,
        threshold=163,
    ),
    SignalShape(
        name="overall_trend",
        description="Events and listeners a week over everything.",
        entity="everything",
        keys=(("scope", "string"),),
        features=(
            ("events", "int64", "events in the week", 353.6),
            ("users", "int64", "listeners in the week", 17.7),
        ),
        unit="user_id",
        rho="0.002",
        delta="0",
        rows=1,
        protects=_USER,
        max_partitions=1,
        max_rows=50,
        threshold=None,
    ),
    SignalShape(
        name="ticket_topics",
        description="Support tickets a week by topic.",
        entity="topic",
        keys=(("topic", "string"),),
        features=(("tickets", "int64", "tickets in the week", 4.1),),
        unit="user_id/day",
        rho="0.03",
        delta="2e-9",
        rows=17,
        protects=(
            "Everything one user did on one day is protected: adding or removing it changes what is released only "
            "within the stated loss. Several days of a user together are protected less."
        ),
        max_partitions=2,
        max_rows=3,
        threshold=31,
    ),
    SignalShape(
        name="user_genre_affinity",
        description="How often each listed user played each genre in a week.",
        entity="user",
        keys=(("user_id", "int64"),),
        features=(
            ("rock", "float64", "share of plays in the genre", 0.035),
            ("jazz", "float64", "share of plays in the genre", 0.035),
            ("folk", "float64", "share of plays in the genre", 0.035),
        ),
        unit="event_id",
        rho="0.125",
        delta="0",
        rows=20_000,
        protects=_EVENT,
        max_partitions=1,
        max_rows=1,
        threshold=None,
        post_processing=("shares are clipped to [0, 1]",),
    ),
)

_DATASETS = {"user_id": "plays", "event_id": "plays", "user_id/day": "support_tickets"}


class _Clock:
    """Time that moves only when told."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=7)
        return self.now


@dataclass
class Shop:
    """The project, with what is needed to add to it or spoil it."""

    settings: Settings
    ledger: Ledger
    clock: _Clock
    runs: int = 0

    def run_id(self) -> str:
        """Fixed, one after the other, as long as a real one."""
        self.runs += 1
        return sha256_hex(f"run {self.runs}".encode())[:32]

    def release_directory(self, release_id: str) -> Path:
        """Where a release lies."""
        return ReleaseStore(self.settings.releases_dir).directory(release_id)

    def release(
        self,
        shape: SignalShape,
        start: datetime,
        *,
        change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
        commit: bool = True,
    ) -> Manifest:
        """One run from RESERVE to COMMIT. `change` edits the manifest before it is published and committed."""
        release_id = f"{shape.name}/v1/{start:%Y-%m-%d}"
        account = self.settings.account(_DATASETS[shape.unit], shape.unit)
        assert account is not None
        run_id, loss = self.run_id(), PrivacyLoss.of(shape.rho, shape.delta)
        reserve = self.ledger.reserve(run_id, account, release_id, loss)
        draw = self.ledger.draw(run_id)
        staged = self.settings.staging_dir / run_id
        staged.mkdir(parents=True)
        files = _write(staged, release_id, parts=2 if shape.rows > 10_000 else 1)
        reference = LedgerReference(account=account.name, run_id=run_id, reserve_entry=reserve, draw_entry=draw)
        manifest = change(_manifest(shape, release_id, start, files, reference, self.clock.now))
        ReleaseStore(self.settings.releases_dir).publish(staged, manifest)
        if commit:
            self.ledger.commit(run_id, manifest.sha256)
        return manifest

    def refuse(self, shape: SignalShape, start: datetime, *, rho: str) -> None:
        """A request that is too large for its account."""
        account = self.settings.account(_DATASETS[shape.unit], shape.unit)
        assert account is not None
        try:
            self.ledger.reserve(self.run_id(), account, f"{shape.name}/v1/{start:%Y-%m-%d}", PrivacyLoss.of(rho, "0"))
        except BudgetExceeded:
            return
        raise AssertionError("the account should have refused")

    def publish_vectors(self) -> Manifest:
        """Item vectors from public catalogue facts."""
        run_id = self.run_id()
        staged = self.settings.staging_dir / run_id
        staged.mkdir(parents=True)
        fingerprint = sha256_hex(b"items")
        release_id = f"item_content/v1/{fingerprint[:12]}"
        files = _write(staged, release_id, parts=1)
        manifest = _vectors(release_id, fingerprint, files, run_id, self.clock.now)
        ReleaseStore(self.settings.releases_dir).publish(staged, manifest)
        self.ledger.commit_public(run_id, release_id, manifest.sha256)
        return manifest


def make_empty_shop(root: Path, *, description: str = "Features for the listening shop's recommender.") -> Shop:
    """The project before its first run."""
    root.mkdir(parents=True, exist_ok=True)
    quoted = canonical_bytes(description).decode()
    (root / "hedgerow.toml").write_text(_TOML.format(description=quoted), encoding="utf-8")
    settings = load_settings(root)
    settings.policy_dir.mkdir(exist_ok=True)
    (settings.policy_dir / "policy.yaml").write_text(_POLICY, encoding="utf-8")
    write_atomic(settings.keys_dir / KEY_FILE, _KEY, mode=0o600)
    clock = _Clock(datetime(2025, 11, 3, 5, 0, tzinfo=UTC))
    return Shop(settings=settings, ledger=Ledger(settings.ledger_path, clock=clock), clock=clock)


def make_shop(root: Path, *, weeks: int = 4, signals: tuple[SignalShape, ...] = SIGNALS) -> Shop:
    """The project after some weeks: every signal released weekly, two requests refused, vectors published."""
    shop = make_empty_shop(root)
    first = datetime(2025, 10, 27, tzinfo=UTC)
    shop.publish_vectors()
    for week in range(weeks):
        start = first + timedelta(days=7 * week)
        shop.clock.now = start + timedelta(days=7, hours=5)
        for shape in signals:
            shop.release(shape, start)
    shop.clock.now = first + timedelta(days=7 * weeks, hours=11)
    shop.refuse(signals[1], first, rho="0.3")
    shop.ledger.refuse(
        "plays/user_id", "user_sessions/v1/2025-11-17", "the entity is the privacy unit: a row would describe one user"
    )
    return shop


def make_open_shop(root: Path) -> Shop:
    """The same, with something open of every common kind: a changed file, a changed manifest, two unfinished runs."""
    shop = make_shop(root)
    part = shop.release_directory("genre_weekly_users/v1/2025-11-10") / "part-00000.parquet"
    part.write_bytes(part.read_bytes().replace(b"PAR1", b"PAR2"))
    manifest = shop.release_directory("ticket_topics/v1/2025-11-03") / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows":17', b'"rows":71'))
    later = datetime(2025, 11, 24, tzinfo=UTC)
    shop.clock.now = later + timedelta(days=7, hours=6)
    account = shop.settings.account("plays", "user_id")
    assert account is not None
    drawn, held = shop.run_id(), shop.run_id()
    shop.ledger.reserve(drawn, account, f"overall_trend/v1/{later:%Y-%m-%d}", PrivacyLoss.of("0.002", "0"))
    shop.ledger.draw(drawn)
    shop.ledger.reserve(held, account, f"item_weekly/v1/{later:%Y-%m-%d}", PrivacyLoss.of("0.02", "1e-8"))
    return shop


def _write(staged: Path, release_id: str, *, parts: int) -> tuple[DataFile, ...]:
    files = []
    for number in range(parts):
        name, data = f"part-{number:05d}.parquet", b"PAR1" + f"{release_id} {number}".encode() * 97 + b"PAR1"
        (staged / name).write_bytes(data)
        files.append(DataFile(name=name, bytes=len(data), sha256=sha256_hex(data)))
    return tuple(files)


def _reference(name: str, *, owner: str, description: str, kind: str, entity: str) -> SignalReference:
    definition: dict[str, Any] = {"name": name, "version": 1, "entity": entity}
    return SignalReference(
        name=name,
        version=1,
        owner=owner,
        purpose="ranking",
        description=description,
        kind=kind,
        entity=entity,
        ttl_seconds=14 * 86_400,
        definition_sha256=sha256_hex(canonical_bytes(definition)),
        definition=definition,
    )


def _manifest(
    shape: SignalShape,
    release_id: str,
    start: datetime,
    files: tuple[DataFile, ...],
    reference: LedgerReference,
    now: datetime,
) -> Manifest:
    loss = PrivacyLoss.of(shape.rho, shape.delta)
    epsilon = round(loss.epsilon(1e-6) + 5e-7, 6)  # rounded up, and the same on every machine
    share = float(shape.rho) / len(shape.features)
    dataset = _DATASETS[shape.unit]
    return Manifest(
        release_id=release_id,
        signal=_reference(
            shape.name, owner="reco-platform", description=shape.description, kind="signal", entity=shape.entity
        ),
        window=WindowReference(start=start.isoformat(), end=(start + timedelta(days=7)).isoformat()),
        created_at=now.isoformat(),
        keys=tuple(name for name, _ in shape.keys),
        columns=(
            *(Column(name=name, type=kind, role="key", description=f"public {name}") for name, kind in shape.keys),
            *(
                Column(name=name, type=kind, role="feature", description=meaning, noise_stddev=stddev)
                for name, kind, meaning, stddev in shape.features
            ),
        ),
        rows=shape.rows,
        guarantee=Guarantee(
            variant="zCDP",
            unit=shape.unit,
            relation="add_remove_one",
            protects=shape.protects,
            bounds={
                "kind": "keep_random",
                "max_partitions": shape.max_partitions,
                "max_rows_per_partition": shape.max_rows,
            },
            measurements=tuple(
                Measurement(
                    name=name,
                    grid_step=1.0 if kind == "int64" else 0.015625,
                    l0=shape.max_partitions,
                    coordinates=shape.max_partitions,
                    linf=shape.max_rows if kind == "int64" else 64,
                    l2=round(shape.max_partitions**0.5 * shape.max_rows * (1 if kind == "int64" else 64), 6),
                    mechanism="discrete Gaussian",
                    noise_stddev=stddev,
                    rho=f"{share:.6f}",
                )
                for name, kind, _, stddev in shape.features
            ),
            selection="public" if shape.threshold is None else "private",
            threshold=shape.threshold,
            selection_delta="0" if shape.threshold is None else shape.delta,
            sampler_delta="0",
            rho=shape.rho,
            delta=shape.delta,
            epsilon=epsilon,
            epsilon_delta=1e-6,
            sampler=KEYED_SAMPLER,
            post_processing=shape.post_processing,
        ),
        ledger=reference,
        inputs=(
            InputFingerprint(
                dataset=dataset,
                table=f"data/{dataset}.parquet",
                access="private",
                fingerprint="hmac-sha256:" + sha256_hex(release_id.encode()),
                columns=("user_id", "played_at", "genre", "seconds_played"),
            ),
            InputFingerprint(
                dataset="catalogue",
                table="data/items.parquet",
                access="public",
                fingerprint="sha256:" + sha256_hex(b"items"),
                columns=("item_id", "genre"),
            ),
        ),
        quality=(
            {"check": "no null unit ids", "passed": True},
            {"check": "values are finite", "passed": True},
            {"check": "event times lie in the window", "passed": True},
        ),
        code={"hedgerow": "0.1.0", "pyspark": "4.3.0", "python": "3.11"},
        files=files,
    )


def _vectors(release_id: str, fingerprint: str, files: tuple[DataFile, ...], run_id: str, now: datetime) -> Manifest:
    return Manifest(
        release_id=release_id,
        signal=replace(
            _reference(
                "item_content",
                owner="reco-platform",
                description="Item vectors of 64 dimensions from genres, title tokens and year.",
                kind="content_embedding",
                entity="item",
            ),
            ttl_seconds=0,
        ),
        window=WindowReference(start="", end=""),
        created_at=now.isoformat(),
        keys=("item_id",),
        columns=(
            Column(name="item_id", type="int64", role="key", description="item"),
            Column(name="vector", type="vector<float32>[64]", role="vector", description="content vector, unit length"),
            Column(name="title", type="string", role="label", description="public title"),
        ),
        rows=2000,
        guarantee=Guarantee(
            variant="public inputs",
            unit="",
            relation="",
            protects="No personal data was read: the vectors come from public catalogue facts alone.",
            bounds={},
            measurements=(),
            selection="public",
            threshold=None,
            selection_delta="0",
            sampler_delta="0",
            rho="0",
            delta="0",
            epsilon=0.0,
            epsilon_delta=1e-6,
            sampler=PUBLIC_SAMPLER,
        ),
        ledger=LedgerReference(account=None, run_id=run_id, reserve_entry=None, draw_entry=None),
        inputs=(
            InputFingerprint(
                dataset="catalogue",
                table="data/items.parquet",
                access="public",
                fingerprint="sha256:" + fingerprint,
                columns=("item_id", "title", "genre", "year"),
            ),
        ),
        quality=(),
        code={"hedgerow": "0.1.0", "numpy": "2.3"},
        files=files,
    )
