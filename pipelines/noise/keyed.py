"""Noise as a keyed function: a retried task, a speculative copy or a second action draws the same noise.

`word(release key, measurement, stream, partition key) = AES-256(K, SHA-256(canonical partition key)[:16])` where
`K = HKDF-SHA256(release secret, info = measurement | stream)`.

Why this is as good as fresh noise. AES-256 under a secret random key is a pseudorandom permutation; on q distinct
blocks it differs from a random function by at most `q^2 2^-129` (PRP/PRF switching lemma), and different
(measurement, stream) pairs have independent keys (HKDF, Krawczyk 2010). Distinct partition keys give distinct blocks
unless SHA-256 truncated to 128 bits collides. So to anyone who does not hold the secret, words are independent
and uniform, and each is used for one
draw: once per (release, measurement, stream, partition key). The secret is drawn by the operating system for one
release, is never written, and is dropped with the process.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from governance.release import KEYED_SAMPLER
from pipelines.noise.sampler import Distribution

__all__ = ["BLOCK_BYTES", "KeyedNoise", "NoiseSource", "ReleaseKey", "ZeroNoise"]

BLOCK_BYTES = 16


@dataclass(frozen=True, slots=True)
class ReleaseKey:
    """The secret of one release in one run. It never shows itself: not in `repr`, not in an error."""

    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> ReleaseKey:
        """A new one from the operating system."""
        return cls(secrets.token_bytes(32))

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose, independent of those for any other."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose.encode()).derive(self.secret)

    def salt(self, purpose: str) -> int:
        """A signed 64-bit number for public use (sampling salts): it tells nothing about the key."""
        return int.from_bytes(self.derive(purpose)[:8], "big", signed=True)


class NoiseSource(Protocol):
    """Gives the noise of a measurement for partitions known by their digests."""

    @property
    def label(self) -> str:
        """What a manifest calls it."""

    def noise(self, measurement: str, distribution: Distribution, blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Noise for n partitions.

        Args:
            measurement: its name.
            distribution: what to draw.
            blocks: shape `(n, 16)` uint8, the partitions' truncated digests.

        Returns:
            Shape `(n,)` int64.
        """


@dataclass(frozen=True, slots=True)
class KeyedNoise:
    """The real source."""

    key: ReleaseKey
    label: str = KEYED_SAMPLER

    def noise(self, measurement: str, distribution: Distribution, blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        """See `NoiseSource.noise`."""
        return distribution.draw(self._words(measurement, blocks))

    def _words(self, measurement: str, blocks: NDArray[np.uint8]) -> Callable[[int], NDArray[np.uint64]]:
        data = np.ascontiguousarray(blocks).tobytes()

        def words(stream: int) -> NDArray[np.uint64]:
            key = self.key.derive(f"noise|{measurement}|{stream}")
            # One block is one call of the keyed permutation; ECB is exactly that, applied to distinct blocks.
            encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
            output = encryptor.update(data) + encryptor.finalize()
            return np.frombuffer(output, dtype=">u8").astype(np.uint64).reshape(-1, 2)

        return words


@dataclass(frozen=True, slots=True)
class ZeroNoise:
    """No noise at all, to compare a release with the plain bounded aggregation. What it makes is never published."""

    label: str = "none: test of zero scale"

    def noise(self, measurement: str, distribution: Distribution, blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Zeros, whatever the measurement and distribution."""
        del measurement, distribution
        return np.zeros(len(blocks), dtype=np.int64)
