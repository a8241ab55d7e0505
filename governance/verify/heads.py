"""Signed tree heads: what the ledger's key says the tree was, at one size.

A head is one line of canonical JSON. What is signed is a fixed context followed by the head without its signature, so
that a signature made for anything else under the same key is never one for a head:

    {"at":"2026-01-05T10:00:00.000+00:00","key":"<sha256 of the public key>","previous":"<sha256 of the line before>",
     "root":"<hex>","schema":"hedgerow.ledger-head/1","signature":"<hex>","size":12}

A file of heads holds one line for each time that entries were recorded, oldest first. It is only ever appended to; a
last line without its end was cut off by a crash and counts as not written. `previous` chains the lines, so that one
signature vouches for all lines before it that are the ones it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

__all__ = [
    "CAP_CONTEXT",
    "HEAD_CONTEXT",
    "HEAD_SCHEMA",
    "NO_PREVIOUS",
    "TreeHead",
    "canonical",
    "fingerprint",
    "head_lines",
    "read_public_key",
    "signed_by",
]

HEAD_SCHEMA = "hedgerow.ledger-head/1"
HEAD_CONTEXT = b"hedgerow.ledger-head/1\x00"
CAP_CONTEXT = b"hedgerow.cap-change/1\x00"
NO_PREVIOUS = "0" * 64
"""What the first head of a ledger says of the one before."""

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_LINE = re.compile(
    r'\{"at":"(?P<at>[0-9T:.+-]{19,40})","key":"(?P<key>[0-9a-f]{64})","previous":"(?P<previous>[0-9a-f]{64})",'
    r'"root":"(?P<root>[0-9a-f]{64})","schema":"hedgerow\.ledger-head/1","signature":"(?P<signature>[0-9a-f]{128})",'
    r'"size":(?P<size>[1-9][0-9]{0,17})\}'
)


def canonical(value: object) -> bytes:
    """The one byte form of a JSON value (RFC 8785 as far as the ledger uses it)."""
    return _ENCODER.encode(value).encode()


def fingerprint(key: Ed25519PublicKey) -> str:
    """SHA-256 of the raw public key, hex: what names a ledger."""
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key in PEM.

    Raises:
        ValueError: the file holds something else.
        OSError: it cannot be read.
    """
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 public key")
    return key


def signed_by(key: Ed25519PublicKey, signature: str, data: bytes) -> bool:
    """Whether the hex signature of `data` is this key's."""
    try:
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeHead:
    """One signed head.

    Attributes:
        size: number of entries.
        root: the tree's root, hex.
        at: when it was signed, ISO 8601 UTC.
        key: `fingerprint` of the ledger's key.
        previous: `digest` of the ledger's head before this one; `NO_PREVIOUS` for the first.
        signature: Ed25519, hex.
    """

    size: int
    root: str
    at: str
    key: str
    previous: str = NO_PREVIOUS
    signature: str = ""

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        unsigned = self.to_json()
        del unsigned["signature"]
        return HEAD_CONTEXT + canonical(unsigned)

    def to_json(self) -> dict[str, object]:
        """The head with its signature."""
        return {
            "at": self.at,
            "key": self.key,
            "previous": self.previous,
            "root": self.root,
            "schema": HEAD_SCHEMA,
            "signature": self.signature,
            "size": self.size,
        }

    def to_line(self) -> str:
        """Canonical JSON, without the end of the line."""
        return canonical(self.to_json()).decode()

    @property
    def digest(self) -> str:
        """SHA-256 of the line, hex: what the next head calls `previous`."""
        return hashlib.sha256(self.to_line().encode()).hexdigest()

    @classmethod
    def from_line(cls, line: str) -> TreeHead:
        """The inverse of `to_line`.

        Raises:
            ValueError: not a head in its canonical form.
        """
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"not a {HEAD_SCHEMA}")
        fields: dict[str, str] = found.groupdict()
        return cls(size=int(fields.pop("size")), **fields)

    def is_signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether the key made the signature."""
        return signed_by(key, self.signature, self.signed_bytes())


def head_lines(data: bytes) -> list[bytes]:
    """The whole lines of a file of heads; a last line without its end is left out."""
    return data.split(b"\n")[:-1]
