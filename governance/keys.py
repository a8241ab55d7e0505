"""Ed25519 keys of this installation: made on first use, mode 0600, public half beside them for reviewers."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from governance.errors import ConfigError
from governance.files import sync_directory

__all__ = ["load_signing_key", "make_signing_key", "public_key_hex", "public_key_pem"]


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Reads a private key (PKCS #8 PEM).

    Raises:
        FileNotFoundError: there is none.
        ConfigError: the file is not such a key, or others may read it.
    """
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path}: others may read this private key; run: chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 private key (PEM); restore it from a backup")
    return key


def make_signing_key(path: Path) -> Ed25519PrivateKey:
    """Makes a private key, or reads the one that is there: of many that ask at once, one makes it and all get the same.

    Raises:
        ConfigError: what is there is not such a key, or others may read it.
    """
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(pem)
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, path)
        except FileExistsError:
            pass  # another process made it first: its key is the one
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    return load_signing_key(path)


def public_key_pem(key: Ed25519PublicKey) -> bytes:
    """The public half as reviewers get it."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_key_hex(key: Ed25519PublicKey) -> str:
    """The 32 raw bytes, in hex."""
    return key.public_bytes_raw().hex()
