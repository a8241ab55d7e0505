"""Starts the gate and hands what it brings to the core: a process for the network, one for the person, one way between.

The gate's process is given the server's address and a timeout. Its folder is `/`, its standard input is closed, it
inherits no descriptor, and its environment is this list of names and no other. So it has neither the store's path nor
a handle on it, and the same start on every device.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

from governance.errors import (
    ConfigError,
    DeviceError,
    HedgerowError,
    NotServed,
    PublicationCorrupt,
    ServerUnavailable,
)
from ondevice.device import Device
from ondevice.parcel import MAX_PARCEL_BYTES, Parcel
from ondevice.snapshot import Accepted

__all__ = ["fetch_in_gate", "gate_command", "gate_environment", "sync"]

_ENVIRONMENT: Final = ("http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy", "SSL_CERT_FILE")
_ERRORS: Final[dict[str, type[HedgerowError]]] = {
    error.__name__: error for error in (ConfigError, NotServed, PublicationCorrupt, ServerUnavailable)
}
_GRACE_SECONDS: Final = 15.0
_MESSAGE_CHARACTERS: Final = 500


def sync(device: Device, target: str, *, timeout_seconds: float = 60.0) -> Accepted:
    """Downloads the newest catalogue in the gate's process and takes it into use, if the core may.

    Args:
        device: the core.
        target: the server's `host:port`.
        timeout_seconds: for the download.

    Raises:
        ConfigError: not `host:port`.
        NotServed: the server has no catalogue.
        ServerUnavailable: no answer, or not whole in time.
        PublicationCorrupt: not what was announced, or not signed by the pinned key; the catalogue in use stays.
        SnapshotRefused: it would take the device back; the catalogue in use stays.
    """
    return device.accept(fetch_in_gate(target, timeout_seconds=timeout_seconds))


def gate_command(target: str, timeout_seconds: float) -> tuple[str, ...]:
    """What the gate is started with: nothing that depends on the person."""
    return (sys.executable, "-P", "-m", "ondevice.gate", target, f"{timeout_seconds:g}")


def gate_environment() -> dict[str, str]:
    """All that the gate sees of the environment: how to reach the network, and where the code is."""
    code = str(Path(__file__).resolve().parent.parent)
    return {**{name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}, "PYTHONPATH": code}


def fetch_in_gate(target: str, *, timeout_seconds: float = 60.0) -> Parcel:
    """Runs the gate and returns its parcel, not yet verified.

    Raises:
        ConfigError, NotServed, ServerUnavailable, PublicationCorrupt: as the gate says.
        DeviceError: the gate ended without a reason.
    """
    with subprocess.Popen(
        gate_command(target, timeout_seconds),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env=gate_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        timer = threading.Timer(timeout_seconds + _GRACE_SECONDS, process.kill)
        timer.daemon = True
        timer.start()
        try:
            raw = process.stdout.read(MAX_PARCEL_BYTES + 1)
            if len(raw) > MAX_PARCEL_BYTES:
                process.kill()
            said = process.stderr.read(1 << 16)
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            timer.cancel()
    if status != 0:
        raise _typed(said.decode(errors="replace"))
    return Parcel.from_bytes(raw)


def _typed(said: str) -> HedgerowError:
    """The gate's last line as the error it names; anything else is told without its text."""
    lines = said.strip().splitlines()
    name, _, message = (lines[-1] if lines else "").partition(": ")
    if name not in _ERRORS:
        return DeviceError("device sync: the gate ended without a snapshot or a reason; try again")
    printable = "".join(character for character in message if character.isprintable())
    return _ERRORS[name](printable[:_MESSAGE_CHARACTERS])
