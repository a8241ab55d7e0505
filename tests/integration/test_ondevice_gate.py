"""The gate over real sockets: what it sends is the same for everyone, and it opens nothing of the person's."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from governance.errors import (
    ConfigError,
    HedgerowError,
    NotServed,
    PublicationCorrupt,
    ServerUnavailable,
    SnapshotRefused,
)
from ondevice import gate
from ondevice.device import Device
from ondevice.events import Event
from ondevice.sync import fetch_in_gate, gate_command, sync
from serving.v1 import snapshots_pb2
from tests.support.devices import (
    DATA,
    GOAWAY,
    HEADERS,
    NOW,
    OTHER_KEY,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frame,
    SnapshotServer,
    Tap,
    frames,
    make_catalogue,
    make_device,
    make_parcel,
    serve_snapshots,
    snapshot_parts,
)
from tests.support.redis import held_port

PARCEL = make_parcel(make_catalogue(items=2000))
EMPTY_MESSAGE = bytes(5)
"""gRPC's prefix of a message of no bytes: not compressed, length 0."""

FIXED_LENGTHS = {PING: 8, WINDOW_UPDATE: 4, RST_STREAM: 4}
"""Flow control: when these frames come depends on the answer's timing, so their number differs from run to run."""


@pytest.fixture
def served() -> Iterator[tuple[SnapshotServer, str]]:
    service = SnapshotServer(snapshot_parts(PARCEL))
    with serve_snapshots(service) as address:
        yield service, address


def request_frames(sent: bytes) -> list[Frame]:
    """What says something: all but flow control, which is checked to be of the fixed size."""
    said = []
    for frame in frames(sent):
        if frame.kind in FIXED_LENGTHS:
            assert len(frame.payload) == FIXED_LENGTHS[frame.kind]
        elif frame.kind == GOAWAY:
            assert len(frame.payload) <= 8 + 32, "last stream, error code, and a short fixed text"
        else:
            assert frame.kind in (DATA, HEADERS, SETTINGS)
            said.append(frame)
    return said


def one_connection(tap: Tap) -> list[Frame]:
    (sent,) = tap.take()
    return request_frames(sent)


def lived_in(root: Path, person: int) -> Device:
    """A device with a life of its own: other items, kinds, values and times for each person."""
    device = make_device(root, catalogue=make_catalogue(items=50 if person else 2000))
    device.record_all(
        tuple(
            Event(
                event_id=f"person-{person}-{n}",
                item=f"private-item-{person}-{n}",
                kind=("view", "rate")[person],
                value=(1.0, -3.5)[person],
                at=NOW - timedelta(hours=n),
            )
            for n in range((3, 400)[person])
        )
    )
    return device


def test_two_people_with_different_lives_send_the_same_bytes(served: Any, tmp_path: Path) -> None:
    service, address = served
    sent: list[list[Frame]] = []
    with Tap(address) as tap:
        for person in (0, 1):
            with lived_in(tmp_path / str(person), person) as device:
                if person:
                    device.forget()
                    device.record("another-private-item")
                # The other device had the same number already with other content; what it then does with the answer is
                # its own affair, and must not show on the wire.
                try:
                    sync(device, tap.address)
                except SnapshotRefused:
                    assert person == 1
            sent.append(one_connection(tap))
    assert sent[0] == sent[1]
    assert [frame.payload for frame in sent[0] if frame.kind == DATA] == [EMPTY_MESSAGE]
    assert sum(frame.kind == HEADERS for frame in sent[0]) == 1
    assert service.requests == [b"", b""]


def test_nothing_of_person_or_machine_is_in_the_request(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, address = served
    monkeypatch.setenv("HEDGEROW_NEEDLE", "needle-in-the-environment")
    with Tap(address) as tap:
        fetch_in_gate(tap.address)
        (sent,) = tap.take()
    for secret in (socket.gethostname(), str(Path.home()), os.getcwd(), "needle", "timeout"):  # noqa: PTH109
        assert secret.encode() not in sent
    assert b"/hedgerow.serving.v1.SnapshotService/GetCatalogue" in sent


def test_the_tap_would_show_a_gate_that_tells_something(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, address = served
    with Tap(address) as tap:
        gate.fetch(tap.address)
        honest = one_connection(tap)
        gate.fetch(tap.address)
        assert one_connection(tap) == honest, "a second honest run must look the same, or the comparison proves nothing"

        for what, told in (
            ("a field more", lambda call, _: call(snapshots_pb2.GetCatalogueRequest(sequence=1))),
            ("a header more", lambda call, message: call(message, metadata=(("x-likes", "drama"),))),
        ):
            with monkeypatch.context() as patched:
                patched.setattr(gate.snapshots_pb2_grpc, "SnapshotServiceStub", telling_stub(told))
                gate.fetch(tap.address)
            assert one_connection(tap) != honest, what


def telling_stub(told: Any) -> type:
    """A stub whose GetCatalogue says what `told` makes of it."""

    class Telling(gate.snapshots_pb2_grpc.SnapshotServiceStub):
        def __init__(self, channel: grpc.Channel) -> None:
            super().__init__(channel)
            call = self.GetCatalogue
            self.GetCatalogue = lambda message: told(call, message)

    return Telling


def test_the_requests_have_no_field_about_a_person() -> None:
    fields = {field.name for field in snapshots_pb2.GetCatalogueRequest.DESCRIPTOR.fields}
    assert fields == {"sequence"}, "a new field: say in ondevice/gate.py why it cannot tell anything about the person"


@contextmanager
def opens_in(folder: Path) -> Iterator[list[str]]:
    """Names of files in a folder that any process opens or reads meanwhile, as the kernel sees it (inotify)."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    access, opened = 0x1, 0x20
    assert library.inotify_add_watch(descriptor, os.fsencode(folder), access | opened) >= 0
    found: list[str] = []
    try:
        yield found
        while True:
            try:
                block = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                break
            cursor = 0
            while cursor < len(block):
                (length,) = struct.unpack_from("I", block, cursor + 12)
                found.append(block[cursor + 16 : cursor + 16 + length].rstrip(b"\0").decode())
                cursor += 16 + length
    finally:
        os.close(descriptor)


def test_the_gate_opens_nothing_of_the_device(served: Any, tmp_path: Path) -> None:
    _, address = served
    root = tmp_path / "device"
    make_device(root, catalogue=make_catalogue()).close()
    with opens_in(root) as touched:
        (root / "events.db").open("rb").close()
    assert touched == ["events.db"], "the watch must be able to see an open"
    with opens_in(root) as touched:
        parcel = fetch_in_gate(address)
    assert parcel == PARCEL
    assert touched == []


def test_the_gate_is_started_the_same_way_on_every_device(
    served: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, address = served
    started: list[dict[str, Any]] = []
    real = subprocess.Popen

    class Watched(real):  # type: ignore[misc, valid-type]
        def __init__(self, arguments: Any, **rest: Any) -> None:
            started.append({"arguments": arguments, **rest})
            super().__init__(arguments, **rest)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    for person in (0, 1):
        monkeypatch.setenv("HOME", str(tmp_path / f"home-{person}"))
        monkeypatch.setenv("USER", f"person-{person}")
        with make_device(tmp_path / f"private-{person}") as device:
            device.record(person)
            sync(device, address)
    assert started[0] == started[1]
    assert str(tmp_path) not in repr(started)
    assert set(started[0]["env"]) <= {
        "PYTHONPATH",
        "http_proxy",
        "https_proxy",
        "grpc_proxy",
        "no_proxy",
        "no_grpc_proxy",
    } | {"SSL_CERT_FILE"}
    assert (started[0]["cwd"], started[0]["stdin"]) == ("/", subprocess.DEVNULL)


def test_the_gate_inherits_no_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = (
        "import os, sys; found = [os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')];"
        "sys.stdout.write(' ' * 64 + repr(found))"
    )
    monkeypatch.setattr("ondevice.sync.gate_command", lambda *_: (*gate_command("127.0.0.1:1", 5)[:2], "-c", look))
    with make_device(tmp_path / "device"):
        kept = os.open(tmp_path / "device" / "events.db", os.O_RDONLY)
        os.set_inheritable(kept, True)
        try:
            found = fetch_in_gate("127.0.0.1:1").data.decode()
        finally:
            os.close(kept)
    assert "/dev/null" in found
    assert "events.db" not in found


def wrong(**info: Any) -> list[snapshots_pb2.GetCatalogueResponse]:
    return snapshot_parts(PARCEL, **info)


DATA_PART = snapshots_pb2.GetCatalogueResponse(data=b"x")


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([], NotServed),
        ([DATA_PART], PublicationCorrupt),
        ([*wrong(), DATA_PART], PublicationCorrupt),
        (wrong()[:-1], PublicationCorrupt),
        ([wrong()[0], *wrong()], PublicationCorrupt),
        (wrong(bytes=0), PublicationCorrupt),
        (wrong(bytes=1 << 40), PublicationCorrupt),
        (wrong(bytes=len(PARCEL.data) - 1), PublicationCorrupt),
        (wrong(sha256=bytes(32)), PublicationCorrupt),
        (wrong(signature=b"short"), PublicationCorrupt),
        ([snapshots_pb2.GetCatalogueResponse(data=bytes(5 << 20))], ServerUnavailable),
    ],
)
def test_answers_that_are_not_what_they_say(parts: Any, error: type[HedgerowError], tmp_path: Path) -> None:
    with (
        serve_snapshots(SnapshotServer(parts)) as address,
        make_device(tmp_path / "d", catalogue=make_catalogue()) as device,
    ):
        with pytest.raises(error):
            gate.fetch(address)
        ranker = device.ranker()
        assert ranker is not None
        assert len(ranker.catalogue.ids) == 40


def test_the_gates_reason_comes_through_its_process(tmp_path: Path) -> None:
    with (
        serve_snapshots(SnapshotServer([])) as address,
        pytest.raises(NotServed, match="no catalogue is published there"),
    ):
        fetch_in_gate(address)
    with held_port() as port, pytest.raises(ServerUnavailable, match="is the server running there"):
        fetch_in_gate(f"127.0.0.1:{port}")


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerUnavailable):
            gate.fetch(address, timeout_seconds=0.3)


def test_a_server_that_stops_in_the_middle_is_given_up() -> None:
    hold = threading.Event()

    class Stalling(SnapshotServer):
        def GetCatalogue(self, _request: Any, _context: Any) -> Iterator[snapshots_pb2.GetCatalogueResponse]:  # noqa: N802
            yield from self.parts[:2]
            hold.wait(30)

    with serve_snapshots(Stalling(snapshot_parts(PARCEL))) as address:
        try:
            with pytest.raises(ServerUnavailable, match=r"no whole snapshot within 0\.5 s"):
                gate.fetch(address, timeout_seconds=0.5)
        finally:
            hold.set()


def test_a_snapshot_of_another_key_is_downloaded_and_refused(tmp_path: Path) -> None:
    parcel = make_parcel(make_catalogue(sequence=9), OTHER_KEY)
    with (
        serve_snapshots(SnapshotServer(snapshot_parts(parcel))) as address,
        make_device(tmp_path / "d", catalogue=make_catalogue(sequence=2)) as device,
    ):
        with pytest.raises(PublicationCorrupt, match="pinned"):
            sync(device, address)
        assert device.rank(k=1)


@pytest.mark.parametrize(
    "target", ["unix:/tmp/x", "localhost", "dns:///a:1", "a:b", "a:0", "a:99999", "a:1/x", "", "[::1]", "a:1\n"]
)
def test_only_host_and_port_are_taken(target: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        gate.fetch(target)


def test_a_gate_that_goes_wrong_in_its_own_way_is_an_error_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    said = "import sys; sys.exit('Traceback: \\x1b[31msecret')"
    monkeypatch.setattr("ondevice.sync.gate_command", lambda *_: (sys.executable, "-c", said))
    with pytest.raises(HedgerowError) as caught:
        fetch_in_gate("127.0.0.1:1")
    assert "secret" not in str(caught.value)
