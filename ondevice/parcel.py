"""What goes from the gate to the core, and lies on the disk: a signature and the snapshot it is for.

    Ed25519 signature    64 bytes
    catalogue snapshot   the rest, in the format of `featurestore.catalogue.format`

It is the same for every device and says nothing about anyone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from governance.errors import PublicationCorrupt

__all__ = ["MAX_PARCEL_BYTES", "Parcel"]

SIGNATURE_BYTES: Final = 64
MAX_PARCEL_BYTES: Final = SIGNATURE_BYTES + (1 << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A snapshot as it came, to be believed only after `ondevice.snapshot` has verified it.

    Attributes:
        signature: 64 bytes.
        data: the snapshot.

    Raises:
        PublicationCorrupt: a size that no parcel has.
    """

    signature: bytes
    data: bytes

    def __post_init__(self) -> None:
        if len(self.signature) != SIGNATURE_BYTES or len(self.data) > MAX_PARCEL_BYTES - SIGNATURE_BYTES:
            raise PublicationCorrupt("catalogue snapshot: not of a size that snapshots have; download it again")

    def to_bytes(self) -> bytes:
        """Signature, then snapshot."""
        return self.signature + self.data

    @classmethod
    def from_bytes(cls, raw: bytes) -> Parcel:
        """The inverse of `to_bytes`.

        Raises:
            PublicationCorrupt: a size that no parcel has.
        """
        return cls(signature=raw[:SIGNATURE_BYTES], data=raw[SIGNATURE_BYTES:])
