"""What tests of the server share: certificates, tokens, a small published project.

And patience: a machine that stands still for a second or two is neither an overload nor a server that is away.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import jwt
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from governance.ledger import Ledger
from governance.settings import Settings, load_settings
from serving.client import Client
from serving.config import Limits, ServerConfig, demo_config
from serving.publish import publish
from tests.support.releases import make_project, make_release, make_vector_release

_TEMPLATES: dict[tuple[int, int], TemporaryDirectory[str]] = {}
CALENDAR = "\n[calendar]\nlast_day = 2025-11-30\n"
ISSUER, AUDIENCE = "https://login.example.com", "hedgerow"


def published_items(
    root: Path, *, rows: int = 64, dimension: int = 8, extra: str = CALENDAR, users: int | None = None
) -> Settings:
    """A project with a view `items_v1` (key item_id, features users and score) and a space `item_content`."""
    settings = make_project(root, extra=extra)
    publish_items(settings, rows=rows, dimension=dimension, users=users)
    return settings


def served_items(root: Path, *, rows: int = 64, dimension: int = 8) -> Settings:
    """The same, published once in a test run and copied: enough for serving, not for publishing again."""
    template = _TEMPLATES.get((rows, dimension))
    if template is None:
        template = _TEMPLATES[rows, dimension] = TemporaryDirectory(prefix="served-")
        published_items(Path(template.name) / "project", rows=rows, dimension=dimension)
    shutil.copytree(Path(template.name) / "project", root, dirs_exist_ok=True)
    return load_settings(root)


def publish_items(
    settings: Settings, *, rows: int = 64, dimension: int = 8, users: int | None = None, week: int = 0
) -> None:
    """Releases and publishes; every value of `users` is `users`, or the item's number."""
    ids = np.arange(rows)
    with Ledger(settings.ledger_path) as ledger:
        make_release(
            settings,
            ledger,
            signal="items",
            keys={"item_id": "int64"},
            features={"users": "int64", "score": "float64"},
            rows={
                "item_id": ids,
                "users": ids if users is None else np.full(rows, users),
                "score": ids / 2 if users is None else np.full(rows, float(users)),
            },
            window_start=datetime(2025, 10, 6, tzinfo=UTC) + week * timedelta(days=7),
            rho="0.001",
            ttl=timedelta(0),
        )
        vectors = np.random.default_rng(week).standard_normal((rows, dimension)).astype(np.float32)
        make_vector_release(settings, ledger, ids=ids.tolist(), vectors=vectors, tags=[[f"t{i % 3}"] for i in ids])
        publish(settings, ledger)


def patient(settings: Settings) -> ServerConfig:
    """How a server runs without a file, but calls may wait long for their turn."""
    return replace(demo_config(settings), limits=Limits(queue_seconds=60))


@contextmanager
def connected(address: str, **how: Any) -> Iterator[Client]:
    """A client whose connections stand: one that takes a second to make would be given up, and the call with it."""
    with Client(address, **{"timeout_seconds": 30.0, **how}) as client:
        for connection in client._turns.all:
            grpc.channel_ready_future(connection.channel).result(timeout=60)
        yield client


class Authority:
    """A certificate authority of a test."""

    def __init__(self, name: str = "test CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.pem = _signed(self._name, self._name, self._key.public_key(), self._key, ca=True)

    def issue(self, name: str, *, server: bool = False) -> tuple[bytes, bytes]:
        """A certificate and its key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = _signed(subject, self._name, key.public_key(), self._key, server=server)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate, private


def _signed(
    subject: x509.Name, issuer: x509.Name, public: Any, key: Any, *, ca: bool = False, server: bool = False
) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if server:
        names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Issuer:
    """Who signs tokens in a test."""

    def __init__(self) -> None:
        self._key = ed25519.Ed25519PrivateKey.generate()
        self.public_pem = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def token(self, subject: str = "ranker", *, seconds: float = 600, **claims: Any) -> str:
        """A token; a claim that is None is left out."""
        now = datetime.now(UTC)
        body = {"sub": subject, "iss": ISSUER, "aud": AUDIENCE, "exp": now + timedelta(seconds=seconds), **claims}
        return jwt.encode({name: value for name, value in body.items() if value is not None}, self._key, "EdDSA")
