"""Ed25519 signatures of catalogue snapshots: a device that pins the public key takes nothing else.

What is signed is a fixed context followed by the snapshot's bytes, so that a signature made for anything else under the
same key is never one for a catalogue.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from governance.errors import PublicationCorrupt
from governance.keys import make_signing_key
from governance.settings import Settings

__all__ = ["public_key_bytes", "sign", "signing_key", "verify"]

KEY_FILE: Final = "catalogue.ed25519"
_CONTEXT: Final = b"hedgerow.catalogue/1\x00"


def signing_key(settings: Settings) -> Ed25519PrivateKey:
    """This installation's signing key, `keys_dir/catalogue.ed25519` (PKCS #8 PEM, mode 0600); made on first use.

    Of many processes that ask for the first time at once, one makes it and all get the same.

    Raises:
        ConfigError: the file is not such a key, or others may read it.
    """
    return make_signing_key(settings.keys_dir / KEY_FILE)


def public_key_bytes(key: Ed25519PrivateKey) -> bytes:
    """The 32 raw bytes that a device pins."""
    return key.public_key().public_bytes_raw()


def sign(data: bytes, private_key: Ed25519PrivateKey) -> bytes:
    """The signature of a snapshot, 64 bytes."""
    return private_key.sign(_CONTEXT + data)


def verify(data: bytes, signature: bytes, public_key: Ed25519PublicKey | bytes) -> None:
    """Returns if, and only if, the holder of the key signed these bytes as a catalogue.

    Args:
        data: the snapshot.
        signature: 64 bytes.
        public_key: the key, or its 32 raw bytes.

    Raises:
        PublicationCorrupt: it is not so.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key) if isinstance(public_key, bytes) else public_key
        key.verify(signature, _CONTEXT + data)
    except (InvalidSignature, ValueError):
        raise PublicationCorrupt(
            "catalogue snapshot: the signature is not the pinned key's; nothing of it was used; download it again, "
            "or pin the new key if the publisher announced one"
        ) from None
