"""The gate: downloads the catalogue snapshot. The only network code on the device, and it knows nothing about anyone.

    python -m ondevice.gate HOST:PORT TIMEOUT_SECONDS > parcel

Claim: what a server, or anyone on the way, receives is independent of the person's events. Proof sketch:
    1. `fetch` takes an address and a timeout, reads no file and keeps no state, so all it sends is a function of the
       address, of gRPC itself and of time. No module of the core is imported here.
    2. `ondevice.sync` runs it in a process of its own: arguments, environment, folder and descriptors are the same
       whatever the events are, and nothing comes back to it.
    3. It makes one call, of one empty message (five zero bytes on the wire). It asks for the newest snapshot always,
    not
       for "newer than", so not even the state of this device's catalogue is told. No deadline is sent: it would carry
       the device's timing, so a timer on this side ends a slow call.
Tests compare the bytes of two devices with different events on a real socket, frame by frame.

What remains visible is the network address, the time of the download, and the versions of gRPC and the operating
system. Size and hash are checked here; whether to believe the snapshot is the core's decision.
"""

from __future__ import annotations

import hashlib
import math
import re
import sys
import threading
from typing import Final

import grpc

from governance.errors import ConfigError, HedgerowError, NotServed, PublicationCorrupt, ServerUnavailable
from ondevice.parcel import MAX_PARCEL_BYTES, SIGNATURE_BYTES, Parcel
from serving.v1 import snapshots_pb2, snapshots_pb2_grpc

__all__ = ["check_target", "fetch", "main"]

MAX_MESSAGE_BYTES: Final = 4 << 20
_TARGET: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
)


def check_target(target: str) -> str:
    """Returns `target` if it is `host:port`; other schemes that gRPC would follow are refused.

    Raises:
        ConfigError: it is not.
    """
    found = _TARGET.fullmatch(target)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise ConfigError("device sync: the server must be HOST:PORT, e.g. 127.0.0.1:7433; correct --server")
    return target


def fetch(target: str, *, timeout_seconds: float = 60.0) -> Parcel:
    """Downloads the newest snapshot. Nothing about the device is asked, so there is nothing to tell.

    Args:
        target: `host:port`.
        timeout_seconds: for the whole download.

    Raises:
        ConfigError: not `host:port`.
        NotServed: the server has no catalogue.
        ServerUnavailable: no answer, or not whole in time.
        PublicationCorrupt: the bytes are not what the server announced.
    """
    check_target(target)
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        answer = snapshots_pb2_grpc.SnapshotServiceStub(channel).GetCatalogue(snapshots_pb2.GetCatalogueRequest())
        timer = threading.Timer(timeout_seconds, answer.cancel)
        timer.daemon = True
        timer.start()
        try:
            return _collect(answer)
        except grpc.RpcError as error:
            raise _typed(error, target, timeout_seconds) from None
        finally:
            timer.cancel()
            answer.cancel()  # type: ignore[no-untyped-call]


def _collect(answer: object) -> Parcel:
    """Checks the announced size before taking bytes, and their hash after."""
    info: snapshots_pb2.CatalogueInfo | None = None
    data = bytearray()
    for message in answer:  # type: ignore[attr-defined]
        if message.WhichOneof("part") == "info":
            if info is not None or not 0 < message.info.bytes <= MAX_PARCEL_BYTES - SIGNATURE_BYTES:
                raise PublicationCorrupt("catalogue snapshot: the server announces it wrongly; try another server")
            info = message.info
        elif info is None or len(data) + len(message.data) > info.bytes:
            raise PublicationCorrupt("catalogue snapshot: not of the announced size; download it again")
        else:
            data += message.data
    if info is None or len(data) != info.bytes or hashlib.sha256(data).digest() != info.sha256:
        raise PublicationCorrupt("catalogue snapshot: not what the server announced; download it again")
    return Parcel(signature=info.signature, data=bytes(data))


def _typed(error: grpc.RpcError, target: str, timeout_seconds: float) -> HedgerowError:
    """The failure in our words: a server's own text is never shown."""
    code = error.code()
    if code is grpc.StatusCode.NOT_FOUND:
        return NotServed(f"{target}: no catalogue is published there; run 'hedgerow publish' on the server's project")
    if code is grpc.StatusCode.CANCELLED:
        return ServerUnavailable(f"{target}: no whole snapshot within {timeout_seconds:g} s; raise --timeout")
    return ServerUnavailable(f"{target}: {code.name}; is the server running there?")


def main(arguments: list[str]) -> int:
    """Writes the parcel to standard output and returns 0, or `ErrorName: message` to standard error and returns 2."""
    try:
        target, timeout = arguments
        timeout_seconds = float(timeout)
        if not (math.isfinite(timeout_seconds) and timeout_seconds > 0):
            raise ValueError
    except ValueError:
        sys.stderr.write("ConfigError: usage: python -m ondevice.gate HOST:PORT TIMEOUT_SECONDS\n")
        return 2
    try:
        parcel = fetch(target, timeout_seconds=timeout_seconds)
    except HedgerowError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 2
    sys.stdout.buffer.write(parcel.to_bytes())
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
