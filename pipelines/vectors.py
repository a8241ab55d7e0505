"""Releases item vectors made from public facts: a release like any other, at no cost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import uuid4

from governance.canonical import sha256_file
from governance.files import exclusive_lock, remove_tree
from governance.ledger import Ledger
from governance.recovery import release_lock_path
from governance.release import (
    Column,
    DataFile,
    InputFingerprint,
    LedgerReference,
    Manifest,
    ReleaseStore,
    WindowReference,
)
from governance.settings import Settings
from pipelines.content import build_vectors
from pipelines.definitions import ContentEmbedding
from pipelines.engine.tables import open_table
from pipelines.manifests import code_versions, public_guarantee, signal_reference
from pipelines.results import Outcome, Progress, RunResult, Stage, check_same_version, unchanged

__all__ = ["release_vectors"]


def release_vectors(
    embedding: ContentEmbedding,
    settings: Settings,
    store: ReleaseStore,
    ledger: Ledger,
    progress: Progress,
    clock: Callable[[], datetime],
) -> RunResult:
    """Item vectors from public facts: a release that costs nothing, named by its input's fingerprint."""
    source = open_table(settings.root, embedding.source.table)
    fingerprint = source.public_fingerprint()
    check_same_version(store, embedding)
    release_id = f"{embedding.name}/v{embedding.version}/{fingerprint.removeprefix('sha256:')[:12]}"
    with exclusive_lock(release_lock_path(settings, release_id), release_id):
        if store.exists(release_id):
            manifest = store.load(release_id)
            store.verify_files(manifest)
            ledger.commit_public(manifest.ledger.run_id, release_id, manifest.sha256)
            return RunResult(
                release_id=release_id,
                outcome=Outcome.PRESENT,
                manifest=unchanged(store, ledger, embedding, release_id),
            )
        progress.stage(release_id, Stage.CHECK)
        vectors = build_vectors(embedding, settings.root)
        run_id = uuid4().hex
        # Named by the release, so that the next run removes what a killed one left.
        staging = settings.staging_dir / release_id.replace("/", "~")
        remove_tree(staging)
        try:
            progress.stage(release_id, Stage.WRITE)
            file = vectors.write(staging / "release" / "part-00000.parquet", embedding.key)
            key_type = "string" if vectors.ids.dtype.kind in "OU" else "int64"
            dimension = vectors.vectors.shape[1]
            manifest = Manifest(
                release_id=release_id,
                signal=signal_reference(embedding),
                window=WindowReference(start="", end=""),
                created_at=clock().isoformat(timespec="seconds"),
                keys=(embedding.key,),
                columns=(
                    Column(name=embedding.key, type=key_type, role="key", description="item"),
                    Column(
                        name="vector",
                        type=f"vector<float32>[{dimension}]",
                        role="vector",
                        description=f"content vector, compared by {embedding.metric}",
                    ),
                    Column(name="title", type="string", role="label", description="public title"),
                    Column(name="tags", type="list<string>", role="label", description="public categories"),
                ),
                rows=len(vectors.ids),
                guarantee=public_guarantee(settings),
                ledger=LedgerReference(account=None, run_id=run_id, reserve_entry=None, draw_entry=None),
                inputs=(
                    InputFingerprint(
                        dataset=embedding.source.name,
                        table=embedding.source.table,
                        access="public",
                        fingerprint=fingerprint,
                        columns=(embedding.key, embedding.title, *embedding.categories, *embedding.numeric),
                    ),
                ),
                quality=({"check": "item ids are unique and have no nulls", "passed": True},),
                code=code_versions(),
                files=(DataFile(name=file.name, bytes=file.stat().st_size, sha256=sha256_file(file)),),
            )
            progress.stage(release_id, Stage.PUBLISH)
            store.publish(file.parent, manifest)
            progress.stage(release_id, Stage.COMMIT)
            ledger.commit_public(run_id, release_id, manifest.sha256)
        finally:
            remove_tree(staging)
        progress.stage(release_id, Stage.DONE)
    return RunResult(release_id=release_id, outcome=Outcome.RELEASED, manifest=manifest)
