"""Small releases made without Spark, for tests of what reads releases (feature store, serving, device, report)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from governance.canonical import canonical_bytes, sha256_file, sha256_hex
from governance.ledger import Ledger
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
from governance.settings import Account, Settings, load_settings

PROJECT_TOML = """
[project]
name = "{name}"
description = "A project made by tests"
reporting_delta = "1e-6"

[[accounts]]
dataset = "events"
unit = "user_id"
rho = "1.0"
delta = "1e-6"

[[accounts]]
dataset = "events"
unit = "event_id"
rho = "2.0"
delta = "1e-6"

[serving]
port = 0
"""

_ARROW = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "date": pa.date32()}


def make_project(root: Path, name: str = "shop", extra: str = "") -> Settings:
    """A project folder with hedgerow.toml and nothing else."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "hedgerow.toml").write_text(PROJECT_TOML.format(name=name) + extra, encoding="utf-8")
    (root / "signals").mkdir(exist_ok=True)
    return load_settings(root)


def make_release(
    settings: Settings,
    ledger: Ledger,
    *,
    signal: str,
    keys: Mapping[str, str],
    features: Mapping[str, str],
    rows: Mapping[str, Sequence[Any]],
    window_start: datetime = datetime(2025, 11, 3, tzinfo=UTC),
    window_length: timedelta = timedelta(days=7),
    version: int = 1,
    entity: str | None = None,
    unit: str = "user_id",
    rho: str = "0.01",
    delta: str = "1e-9",
    ttl: timedelta = timedelta(days=28),
    commit: bool = True,
) -> Manifest:
    """Publishes one release of a signal: columns and types as given, committed in the ledger like a real run."""
    release_id = f"{signal}/v{version}/{window_start:%Y-%m-%d}"
    run_id = uuid4().hex
    account = Account(dataset="events", unit=unit, cap=_cap(settings, unit))
    loss = PrivacyLoss.of(rho, delta)
    reserve = ledger.reserve(run_id, account, release_id, loss)
    draw = ledger.draw(run_id)
    staged = settings.staging_dir / run_id
    staged.mkdir(parents=True)
    types = {**keys, **features}
    table = pa.table({name: pa.array(list(rows[name]), _ARROW[kind]) for name, kind in types.items()})
    pq.write_table(table, staged / "part-00000.parquet")
    definition = {"name": signal, "version": version, "note": "made by tests"}
    manifest = Manifest(
        release_id=release_id,
        signal=SignalReference(
            name=signal,
            version=version,
            owner="tests",
            purpose="ranking",
            description=f"{signal}, made by tests",
            kind="signal",
            entity=entity or "_".join(keys),
            ttl_seconds=int(ttl.total_seconds()),
            definition_sha256=sha256_hex(canonical_bytes(definition)),
            definition=definition,
        ),
        window=WindowReference(start=window_start.isoformat(), end=(window_start + window_length).isoformat()),
        created_at=datetime(2025, 12, 1, tzinfo=UTC).isoformat(),
        keys=tuple(keys),
        columns=(
            *(Column(name=name, type=kind, role="key", description=f"key {name}") for name, kind in keys.items()),
            *(
                Column(name=name, type=kind, role="feature", description=f"feature {name}", noise_stddev=3.5)
                for name, kind in features.items()
            ),
        ),
        rows=table.num_rows,
        guarantee=Guarantee(
            variant="zCDP",
            unit=unit,
            relation="add_remove_one",
            protects="With or without all events of one user_id, what is released is about as likely.",
            bounds={"kind": "keep_random", "max_partitions": 8, "max_rows_per_partition": 1},
            measurements=tuple(
                Measurement(
                    name=name,
                    grid_step=1.0,
                    l0=8,
                    coordinates=8,
                    linf=1,
                    l2=8**0.5,
                    mechanism="discrete Gaussian",
                    noise_stddev=3.5,
                    rho=rho,
                )
                for name in features
            ),
            selection="private",
            threshold=12,
            selection_delta=delta,
            sampler_delta="0",
            rho=rho,
            delta=delta,
            epsilon=loss.epsilon(settings.reporting_delta),
            epsilon_delta=settings.reporting_delta,
            sampler=KEYED_SAMPLER,
        ),
        ledger=LedgerReference(account=account.name, run_id=run_id, reserve_entry=reserve, draw_entry=draw),
        inputs=(
            InputFingerprint(
                dataset="events",
                table="data/events.parquet",
                access="private",
                fingerprint="hmac-sha256:" + sha256_hex(release_id.encode()),
                columns=("user_id", *keys),
            ),
        ),
        quality=({"check": "no null unit ids", "passed": True}, {"check": "values are finite", "passed": True}),
        code={"hedgerow": "0.1.0"},
        files=_files(staged),
    )
    ReleaseStore(settings.releases_dir).publish(staged, manifest)
    if commit:
        ledger.commit(run_id, manifest.sha256)
    return manifest


def make_vector_release(
    settings: Settings,
    ledger: Ledger,
    *,
    name: str = "item_content",
    key: str = "item_id",
    ids: Sequence[int],
    vectors: Any,
    titles: Sequence[str] | None = None,
    tags: Sequence[Sequence[str]] | None = None,
    metric: str = "cosine",
    version: int = 1,
) -> Manifest:
    """Publishes a release of item vectors, shape (n, d), made from public inputs; same layout as the real one.

    Columns: the id key, `vector` (fixed_size_list<float32>[d]), `title` (string, nullable), `tags` (list<string>).
    """
    import numpy as np

    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    dimension = matrix.shape[1]
    staged = settings.staging_dir / uuid4().hex
    staged.mkdir(parents=True)
    table = pa.table(
        {
            key: pa.array(list(ids), pa.int64()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), pa.float32()), dimension),
            "title": pa.array(list(titles) if titles else [f"item {i}" for i in ids], pa.string()),
            "tags": pa.array([list(t) for t in tags] if tags else [[] for _ in ids], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, staged / "part-00000.parquet")
    fingerprint = sha256_hex(matrix.tobytes())
    run_id = uuid4().hex
    definition = {"name": name, "version": version, "dimensions": dimension, "metric": metric, "note": "made by tests"}
    manifest = Manifest(
        release_id=f"{name}/v{version}/{fingerprint[:12]}",
        signal=SignalReference(
            name=name,
            version=version,
            owner="tests",
            purpose="ranking",
            description="Item vectors made by tests",
            kind="content_embedding",
            entity=key.removesuffix("_id"),
            ttl_seconds=0,
            definition_sha256=sha256_hex(canonical_bytes(definition)),
            definition=definition,
        ),
        window=WindowReference(start="", end=""),
        created_at=datetime(2025, 12, 1, tzinfo=UTC).isoformat(),
        keys=(key,),
        columns=(
            Column(name=key, type="int64", role="key", description="item"),
            Column(name="vector", type=f"vector<float32>[{dimension}]", role="vector", description="content vector"),
            Column(name="title", type="string", role="label", description="public title"),
            Column(name="tags", type="list<string>", role="label", description="public tags, e.g. genres"),
        ),
        rows=table.num_rows,
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
            epsilon_delta=settings.reporting_delta,
            sampler=PUBLIC_SAMPLER,
        ),
        ledger=LedgerReference(account=None, run_id=run_id, reserve_entry=None, draw_entry=None),
        inputs=(
            InputFingerprint(
                dataset="items",
                table="data/items.parquet",
                access="public",
                fingerprint="sha256:" + fingerprint,
                columns=(key,),
            ),
        ),
        quality=(),
        code={"hedgerow": "0.1.0"},
        files=_files(staged),
    )
    ReleaseStore(settings.releases_dir).publish(staged, manifest)
    ledger.commit_public(run_id, manifest.release_id, manifest.sha256)
    return manifest


def _cap(settings: Settings, unit: str) -> PrivacyLoss:
    account = settings.account("events", unit)
    assert account is not None, f"the test project has no account for {unit}"
    return account.cap


def _files(staged: Path) -> tuple[DataFile, ...]:
    return tuple(
        DataFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(staged.glob("*.parquet"))
    )
