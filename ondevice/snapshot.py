"""What the core takes from the gate: a catalogue that the pinned key signed, never an older one, always whole.

    catalogue.signed    the parcel in use, verified again each time it is opened
    catalogue.floor     the highest sequence number ever accepted, and the SHA-256 of what it stands for

The core trusts neither gate nor server, only the key it was set up with. A parcel replaces the one in use if its
signature is that key's, it decodes, its sequence number is not below the floor, and a number that was accepted before
has the same content. Otherwise it is refused and the one in use stays. The floor is made durable before the file, so
that no crash can open the way back. That a server withholds newer snapshots cannot be seen from here; their dates are
shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from featurestore.catalogue.format import Catalogue, decode
from featurestore.catalogue.signing import verify
from governance.canonical import canonical_bytes, sha256_hex
from governance.errors import DeviceCorrupt, SnapshotRefused
from governance.files import exclusive_lock, write_atomic
from ondevice.parcel import Parcel

__all__ = ["Accepted", "SnapshotKeeper"]

FILE: Final = "catalogue.signed"
FLOOR: Final = "catalogue.floor"
LOCK: Final = "catalogue.lock"
_SCHEMA: Final = "hedgerow.device-floor/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What a parcel brought.

    Attributes:
        catalogue: now in use.
        new: whether its sequence number is higher than any before.
    """

    catalogue: Catalogue
    new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Floor:
    sequence: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotKeeper:
    """The catalogue of one device.

    Attributes:
        root: the device's folder.
        public_key: the pinned Ed25519 key, 32 bytes.
    """

    root: Path
    public_key: bytes

    def accept(self, parcel: Parcel) -> Accepted:
        """Verifies a parcel and takes it into use, atomically.

        Raises:
            PublicationCorrupt: not signed by the pinned key, or not a catalogue. The one in use stays.
            SnapshotRefused: older than the last one accepted, or other content under its number. The one in use stays.
            RunInProgress: another process takes a snapshot now.
        """
        verify(parcel.data, parcel.signature, self.public_key)
        catalogue = decode(parcel.data)
        sha256 = sha256_hex(parcel.data)
        with exclusive_lock(self.root / LOCK, "device catalogue"):
            floor = self._floor()
            if floor is not None and catalogue.sequence < floor.sequence:
                raise SnapshotRefused(
                    f"catalogue {catalogue.sequence}: this device has had {floor.sequence} and never goes back; "
                    "sync with a server that has the newest publication"
                )
            if floor is not None and catalogue.sequence == floor.sequence and sha256 != floor.sha256:
                raise SnapshotRefused(
                    f"catalogue {catalogue.sequence}: differs from the one accepted under this number before; "
                    "the publisher must give new content a new number"
                )
            body = {"schema": _SCHEMA, "sequence": catalogue.sequence, "sha256": sha256}
            write_atomic(self.root / FLOOR, canonical_bytes(body), mode=0o600)
            write_atomic(self.root / FILE, parcel.to_bytes(), mode=0o600)
        return Accepted(catalogue=catalogue, new=floor is None or catalogue.sequence > floor.sequence)

    def load(self) -> Catalogue | None:
        """The catalogue in use, verified again; None before the first sync.

        Raises:
            PublicationCorrupt: the file has changed since it was accepted; syncing brings it back.
        """
        try:
            parcel = Parcel.from_bytes((self.root / FILE).read_bytes())
        except FileNotFoundError:
            return None
        verify(parcel.data, parcel.signature, self.public_key)
        return decode(parcel.data)

    def _floor(self) -> _Floor | None:
        path = self.root / FLOOR
        try:
            body: Any = json.loads(path.read_bytes())
            sequence, sha256 = body["sequence"], body["sha256"]
            if body["schema"] != _SCHEMA or type(sequence) is not int or type(sha256) is not str:
                raise ValueError
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise DeviceCorrupt(
                f"{path}: damaged, so going back would go unnoticed; set the device up again in another folder"
            ) from None
        return _Floor(sequence=sequence, sha256=sha256)
