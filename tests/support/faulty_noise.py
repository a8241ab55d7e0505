"""Noise whose first draw goes wrong in a chosen way, once in a cluster, and which keeps a record of every attempt."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import psutil
from numpy.typing import NDArray

from pipelines.noise import KeyedNoise
from pipelines.noise.sampler import Distribution

FAULTS = ("none", "task killed", "slow task", "executor lost")


@dataclass(frozen=True, slots=True)
class FaultyNoise:
    """Keyed noise; what goes wrong does so after it was drawn, when a second draw would do harm.

    Attributes:
        inner: the real source.
        fault: one of `FAULTS`.
        folder: for the marker that it happened, and for one file an attempt: `<question>.<answer>`.
    """

    inner: KeyedNoise
    fault: str
    folder: str

    @property
    def label(self) -> str:
        """The real one's."""
        return self.inner.label

    def noise(self, measurement: str, distribution: Distribution, blocks: NDArray[np.uint8]) -> NDArray[np.int64]:
        """See `NoiseSource.noise`."""
        drawn = self.inner.noise(measurement, distribution, blocks)
        if len(blocks):
            asked = hashlib.sha256(measurement.encode() + np.sort(blocks.view("V16").ravel()).tobytes()).hexdigest()
            by_block = drawn[np.argsort(blocks.view("V16").ravel(), kind="stable")]
            name = f"{asked[:32]}.{hashlib.sha256(by_block.tobytes()).hexdigest()[:32]}.{uuid4().hex}"
            Path(self.folder, name).touch()
            self._go_wrong()
        return drawn

    def _go_wrong(self) -> None:
        if self.fault == "none":
            return
        try:
            os.close(os.open(Path(self.folder, "marker"), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        if self.fault == "task killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "executor lost":
            executor = next(p for p in psutil.Process().parents() if "CoarseGrained" in " ".join(p.cmdline()))
            executor.kill()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(20)
