"""A small project with a full ledger, and ways to change it behind the ledger's back."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.balances import AccountState
from governance.caps import change_cap, propose_cap
from governance.errors import BudgetExceeded
from governance.heads import HEADS_FILE, HeadFiles
from governance.keys import load_signing_key, public_key_hex
from governance.ledger import Ledger
from governance.privacy import PrivacyLoss
from governance.recording import Recorder
from governance.settings import Account, Settings
from governance.verify.entries import SQLITE_SCHEMA, read_sqlite
from governance.verify.heads import TreeHead, canonical, read_public_key
from governance.verify.merkle import Frontier, leaf_hash
from governance.verify.verification import Verification, verify
from tests.support.releases import make_project, make_release, make_vector_release

__all__ = ["Scene", "make_scene"]

START = datetime(2025, 11, 3, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A project with releases, a refusal, a cap change and an unfinished run; a witness has its heads."""

    settings: Settings
    witness: Path
    officer: Ed25519PrivateKey

    @property
    def database(self) -> Path:
        return self.settings.ledger_path

    @property
    def heads(self) -> Path:
        return self.settings.state_dir / HEADS_FILE

    @property
    def roles(self) -> dict[str, str]:
        return {"officer": public_key_hex(self.officer.public_key())}

    @property
    def key(self) -> Ed25519PrivateKey:
        """The ledger's own signing key, for insiders."""
        return load_signing_key(self.settings.keys_dir / "ledger.ed25519")

    def release(self, week: int = 0) -> Path:
        """One release's folder."""
        return self.settings.releases_dir / "genre_weekly" / "v1" / f"{START + timedelta(days=7 * week):%Y-%m-%d}"

    def open(self) -> Ledger:
        return Ledger(self.database, heads=HeadFiles(self.settings.state_dir, (self.witness,)), clock=lambda: START)

    def verify(self) -> Verification:
        """As a reviewer: the key they were given, the published heads and the witness's."""
        return verify(
            read_sqlite(self.database),
            key=read_public_key(self.witness / "ledger.pub"),
            head_files=[self.heads, self.witness / HEADS_FILE],
            releases=self.settings.releases_dir,
            roles=self.roles,
        )

    def copy(self, root: Path) -> Scene:
        """The same scene elsewhere."""
        shutil.copytree(self.settings.root, root)
        settings = replace(self.settings, root=root, signals_dir=root / "signals", state_dir=root / "var")
        return Scene(settings=settings, witness=root / "witness", officer=self.officer)

    # --- as somebody with the file ---------------------------------------------------------------------------

    @contextmanager
    def raw(self) -> Iterator[sqlite3.Connection]:
        """The database without its triggers; they are put back as they were."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as database:
            for name in ("entries_keep_update", "entries_keep_delete"):
                database.execute(f"DROP TRIGGER {name}")
            yield database
            for name in ("entries_keep_update", "entries_keep_delete"):
                database.execute(SQLITE_SCHEMA[name])

    def rewrite(self, sequence: int, change: Callable[[dict[str, Any]], object]) -> None:
        """Edits an entry the careful way: canonical, with its own hash made new."""
        with self.raw() as database:
            (body,) = database.execute("SELECT body FROM entries WHERE sequence = ?", (sequence,)).fetchone()
            value = json.loads(body)
            change(value)
            data = canonical(value)
            database.execute(
                "UPDATE entries SET body = ?, hash = ? WHERE sequence = ?",
                (data.decode(), leaf_hash(data).hex(), sequence),
            )

    # --- as somebody with the key ------------------------------------------------------------------------------

    @contextmanager
    def insider(self) -> Iterator[Recorder]:
        """Records whatever is asked for, with a genuine head that is published everywhere."""
        with self.open() as ledger, ledger.recording() as book:
            yield book

    def state(self, **changes: Any) -> AccountState:
        """The account's true state, with something changed."""
        with self.open() as ledger, ledger._store.reading():
            state = Recorder(ledger._store, Frontier(), lambda: START).account("events/user_id")
        assert state is not None
        return replace(state, **changes)


def make_scene(root: Path) -> Scene:
    """Three weekly releases, a public one, a refusal, a changed cap, and a run that is held."""
    settings = make_project(root / "project")
    witness = root / "project" / "witness"
    witness.mkdir()
    scene = Scene(settings=settings, witness=witness, officer=Ed25519PrivateKey.generate())
    account = settings.account("events", "user_id")
    assert account is not None
    with scene.open() as ledger:
        for week in range(3):
            make_release(
                settings,
                ledger,
                signal="genre_weekly",
                keys={"genre": "string"},
                features={"users": "int64"},
                rows={"genre": ["jazz", "rock"], "users": [120 + week, 80]},
                window_start=START + timedelta(days=7 * week),
                rho="0.1",
            )
        make_vector_release(settings, ledger, ids=[1, 2], vectors=[[1.0, 0.0], [0.0, 1.0]])
        with suppress(BudgetExceeded):
            ledger.reserve("too-much", account, "genre_weekly/v1/x", PrivacyLoss.of(5, 0))
        lawful_change(scene, ledger, replace(account, cap=PrivacyLoss.of("0.9", "1e-6")))
        ledger.reserve(
            "held",
            replace(account, cap=PrivacyLoss.of("0.9", "1e-6")),
            "genre_weekly/v1/2025-11-24",
            PrivacyLoss.of("0.1", 0),
        )
    return scene


def lawful_change(scene: Scene, ledger: Ledger, account: Account) -> int:
    """A lawful cap change."""
    change = propose_cap(
        ledger,
        account,
        role="officer",
        public_key=scene.roles["officer"],
        justification="The season ends earlier.",
    )
    return change_cap(ledger, change.signed(scene.officer), scene.roles)


def forged_head(scene: Scene, signer: Ed25519PrivateKey, **changes: Any) -> TreeHead:
    """A head with something changed, signed by `signer` in the ledger's name."""
    newest = TreeHead.from_line(scene.heads.read_text().splitlines()[-1])
    head = replace(newest, **changes)
    return replace(head, signature=signer.sign(head.signed_bytes()).hex())


def entry_fields(scene: Scene, sequence: int) -> Mapping[str, Any]:
    """One entry as stored."""
    with closing(sqlite3.connect(scene.database)) as database:
        (body,) = database.execute("SELECT body FROM entries WHERE sequence = ?", (sequence,)).fetchone()
    value: Mapping[str, Any] = json.loads(body)
    return value
