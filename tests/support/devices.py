"""Catalogues, a real snapshot server and a wire tap, for tests of the device."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from featurestore.catalogue.build import quantize
from featurestore.catalogue.format import Catalogue, encode
from featurestore.catalogue.signing import public_key_bytes, sign
from governance.canonical import sha256_hex
from ondevice.device import Device, DeviceSettings
from ondevice.parcel import Parcel
from ondevice.store import Retention
from serving.v1 import snapshots_pb2, snapshots_pb2_grpc

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
GENRES = ("Comedy", "Crime", "Drama", "Sci-Fi")


def make_catalogue(
    *,
    sequence: int = 1,
    items: int = 40,
    dimension: int = 8,
    metric: str = "cosine",
    text_ids: bool = False,
    seed: int = 7,
) -> Catalogue:
    """Items in four clusters, one a genre: item i has genre i % 4, and its vector lies near that genre's axis."""
    generator = np.random.default_rng(seed)
    matrix = 0.2 * generator.standard_normal((items, dimension)).astype(np.float32)
    matrix[np.arange(items), np.arange(items) % 4] += 1.0
    vectors, scales = quantize(matrix, normalize=metric == "cosine")
    users = generator.uniform(5, 500, items).astype(np.float32)
    users[::10] = np.nan
    ids: Any = np.array([f"sku-{row:04d}" for row in range(items)], object) if text_ids else np.arange(items) + 100
    return Catalogue(
        sequence=sequence,
        created_at="2026-02-28T00:00:00+00:00",
        key="item_id",
        ids=ids,
        vectors=vectors,
        scales=scales,
        titles=tuple(f"Title {row}" for row in range(items)),
        tags=tuple((GENRES[row % 4],) for row in range(items)),
        features={"item_week_v1:mean": users / 100, "item_week_v1:users": users},
        releases=("item_content/v1/abc", "item_week/v1/2026-02-23"),
        metric=metric,
    )


def make_parcel(catalogue: Catalogue, key: Ed25519PrivateKey = KEY) -> Parcel:
    """A catalogue, signed."""
    data = encode(catalogue)
    return Parcel(signature=sign(data, key), data=data)


def make_device(root: Path, *, catalogue: Catalogue | None = None, retention: Retention | None = None) -> Device:
    """A device set up with `KEY`, at `NOW`, with a catalogue if one is given."""
    Device.create(root, DeviceSettings(public_key=public_key_bytes(KEY), retention=retention or Retention()))
    device = Device(root, clock=lambda: NOW)
    if catalogue is not None:
        device.accept(make_parcel(catalogue))
    return device


class SnapshotServer(snapshots_pb2_grpc.SnapshotServiceServicer):
    """The snapshot service over a real gRPC server, answering with `parts` as they are, right or wrong."""

    def __init__(self, parts: Sequence[snapshots_pb2.GetCatalogueResponse]) -> None:
        self.parts = tuple(parts)
        self.requests: list[bytes] = []

    def GetCatalogueInfo(self, _request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the device does not ask for this")

    def GetCatalogue(self, request: Any, context: Any) -> Iterator[snapshots_pb2.GetCatalogueResponse]:  # noqa: N802
        self.requests.append(request.SerializeToString())
        if not self.parts:
            context.abort(grpc.StatusCode.NOT_FOUND, "no catalogue")
        yield from self.parts


def snapshot_parts(parcel: Parcel, *, chunk: int = 1000, **info: Any) -> list[snapshots_pb2.GetCatalogueResponse]:
    """What a server sends for a parcel; `info` overrides what it announces."""
    announced = {
        "sequence": 1,
        "bytes": len(parcel.data),
        "sha256": bytes.fromhex(sha256_hex(parcel.data)),
        "signature": parcel.signature,
        **info,
    }
    data = [parcel.data[start : start + chunk] for start in range(0, len(parcel.data), chunk)]
    first = snapshots_pb2.GetCatalogueResponse(info=snapshots_pb2.CatalogueInfo(**announced))
    return [first, *(snapshots_pb2.GetCatalogueResponse(data=piece) for piece in data)]


@contextmanager
def serve_snapshots(service: SnapshotServer) -> Iterator[str]:
    """A real gRPC server on a free loopback port; yields its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@dataclass(frozen=True, slots=True)
class Frame:
    """One HTTP/2 frame that a client sent."""

    kind: int
    flags: int
    stream: int
    payload: bytes


DATA, HEADERS, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, RST_STREAM = 0, 1, 4, 6, 7, 8, 3
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frames(sent: bytes) -> list[Frame]:
    """Splits all that a client sent on a connection into HTTP/2 frames (RFC 9113, section 4.1)."""
    assert sent.startswith(PREFACE), "not an HTTP/2 client"
    found, cursor = [], len(PREFACE)
    while cursor < len(sent):
        length = int.from_bytes(sent[cursor : cursor + 3], "big")
        kind, flags, stream = struct.unpack_from(">BBI", sent, cursor + 3)
        assert cursor + 9 + length <= len(sent), "a torn frame"
        found.append(Frame(kind, flags, stream & 0x7FFFFFFF, sent[cursor + 9 : cursor + 9 + length]))
        cursor += 9 + length
    return found


class Tap:
    """A TCP relay in front of a server that keeps every byte the clients send, by connection."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._sent: list[bytearray] = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept)

    def __enter__(self) -> Tap:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        self._drain()

    def take(self) -> list[bytes]:
        """What was sent on each connection since the last call; waits until those connections have ended."""
        self._drain()
        taken, self._sent = [bytes(sent) for sent in self._sent], []
        return taken

    def _drain(self) -> None:
        for thread in self._threads:
            thread.join()
        for ended in self._sockets:
            ended.close()
        self._threads, self._sockets = [], []

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            sent = bytearray()
            self._sent.append(sent)
            self._sockets += [client, server]
            for source, sink, keep in ((client, server, sent), (server, client, None)):
                thread = threading.Thread(target=_relay, args=(source, sink, keep))
                self._threads.append(thread)
                thread.start()


def _relay(source: socket.socket, sink: socket.socket, keep: bytearray | None) -> None:
    try:
        while block := source.recv(1 << 16):
            if keep is not None:
                keep += block
            sink.sendall(block)
    except OSError:
        pass
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
