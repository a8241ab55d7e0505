"""The device catalogue: one signed snapshot, the same for everyone, so that downloading it says nothing about anyone.

Reading guide
    format    `Catalogue` and its bytes: `encode`, and a strict `decode` for bytes from anywhere
    signing   Ed25519: `signing_key`, `sign`, `verify`
    build     makes it from released item vectors and released item features

A device imports `catalogue.format` and `catalogue.signing` and needs numpy and cryptography, nothing else; `build`
needs pyarrow, when it runs.
"""

from featurestore.catalogue.build import build_catalogue, remove_unused_catalogues
from featurestore.catalogue.format import Catalogue, decode, encode
from featurestore.catalogue.signing import public_key_bytes, sign, signing_key, verify

__all__ = [
    "Catalogue",
    "build_catalogue",
    "decode",
    "encode",
    "public_key_bytes",
    "remove_unused_catalogues",
    "sign",
    "signing_key",
    "verify",
]
