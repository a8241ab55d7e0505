"""Files that a running server must not take: the last good publication stays in force, and the server stays small."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from featurestore.snapshots import open_snapshot
from governance.canonical import canonical_bytes
from governance.errors import PublicationCorrupt
from governance.files import write_atomic
from governance.settings import Settings
from serving import watch
from serving.index import VectorSpace
from serving.server import RunningServer, start_server
from serving.state import Published
from tests.support.fronts import comes_true
from tests.support.serving import connected, patient, served_items

ALIGNMENT, DIGEST = 64, 32


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return served_items(tmp_path_factory.mktemp("refused"))


@pytest.fixture
def server(project: Settings) -> Iterator[RunningServer]:
    record = project.serving_dir / "publication.json"
    good = record.read_bytes()
    with start_server(project, config=patient(project), port=0) as running:
        yield running
    write_atomic(record, good)


def with_header(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """A snapshot whose header says something else, whole and with the right digest."""
    length = int.from_bytes(data[8:12], "little")
    header = json.loads(data[16 : 16 + length])
    old = -(-(16 + length) // ALIGNMENT) * ALIGNMENT
    change(header)
    text = canonical_bytes(header)
    base = -(-(16 + len(text)) // ALIGNMENT) * ALIGNMENT
    head = data[:8] + len(text).to_bytes(4, "little") + bytes(4) + text
    body = head + bytes(base - len(head)) + data[old:-DIGEST]
    return body + hashlib.sha256(body).digest()


def bomb(header: dict[str, Any]) -> None:
    """A few kilobytes that claim to be a petabyte."""
    header["rows"] = 10**15


def larger(header: dict[str, Any]) -> None:
    header["bytes"] = 10**15
    header["sections"] = [[name, start, count * 10**9] for name, start, count in header["sections"]]


def wide(header: dict[str, Any]) -> None:
    header["fields"] = [[f"f{i}", "float64"] for i in range(20_000)]


def outside(header: dict[str, Any]) -> None:
    header["sections"] = [[name, start + 10**12, count] for name, start, count in header["sections"]]


def overlapping(header: dict[str, Any]) -> None:
    header["sections"] = [[name, 0, count] for name, _, count in header["sections"]]


def astronomical(header: dict[str, Any]) -> None:
    """More rows than any integer of the machine counts."""
    header["rows"] = 10**30


def unfathomable(header: dict[str, Any]) -> None:
    header["fields"] = [["score", f"vector<float32>[{10**30}]"]]


def immense(header: dict[str, Any]) -> None:
    header["bytes"] = 10**30
    header["sections"] = [[name, 64 * 10**30, count] for name, _, count in header["sections"]]


CHANGES = [bomb, larger, wide, outside, overlapping, astronomical, unfathomable, immense]


@pytest.mark.parametrize("change", CHANGES)
def test_a_server_does_not_start_with_a_snapshot_that_claims_what_it_is_not(
    project: Settings, change: Callable[[dict[str, Any]], None]
) -> None:
    """At the start there is no last good one: it is told in one line, which is no traceback."""
    publication = json.loads((project.serving_dir / "publication.json").read_bytes())
    path = project.serving_dir / publication["views"][0]["snapshot"]["file"]
    forged = path.with_name(f"{change.__name__}.start.snapshot")
    forged.write_bytes(with_header(path.read_bytes(), change))
    with pytest.raises(PublicationCorrupt, match="the snapshot is refused"):
        open_snapshot(forged)


def test_a_server_does_not_start_with_a_space_that_claims_what_it_is_not(project: Settings) -> None:
    publication = json.loads((project.serving_dir / "publication.json").read_bytes())
    directory = project.serving_dir / publication["spaces"][0]["directory"]
    good = (directory / "meta.json").read_bytes()
    for name in ("rows", "dimension", "probes", "effort_10", "effort_100"):
        meta = json.loads(good)
        (meta if name in meta else meta["tuning"])[name] = 10**30
        (directory / "meta.json").write_bytes(json.dumps(meta).encode())
        with pytest.raises(PublicationCorrupt, match=r"meta\.json is not as published"):
            VectorSpace(directory)
    (directory / "meta.json").write_bytes(good)
    VectorSpace(directory)


@pytest.mark.parametrize("change", CHANGES)
def test_a_snapshot_that_claims_what_it_is_not_is_refused(
    project: Settings,
    server: RunningServer,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[dict[str, Any]], None],
) -> None:
    record = project.serving_dir / "publication.json"
    publication = json.loads(record.read_bytes())
    snapshot = publication["views"][0]["snapshot"]
    data = with_header((project.serving_dir / snapshot["file"]).read_bytes(), change)
    forged = Path(snapshot["file"]).with_name(f"{change.__name__}.snapshot")
    write_atomic(project.serving_dir / forged, data)
    snapshot |= {"file": forged.as_posix(), "bytes": len(data), "sha256": data[-DIGEST:].hex()}
    refused(server, record, publication, caplog)


def another(header: dict[str, Any]) -> None:
    """Whole and right, but not the snapshot that is open already."""
    header["releases"] = ["items/v1/another"]


def test_a_publication_whose_files_come_after_its_record_is_taken_over(
    project: Settings, server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    """As a copy that is under way leaves it: first no file, then half of it, then all."""
    record = project.serving_dir / "publication.json"
    publication = json.loads(record.read_bytes())
    snapshot = publication["views"][0]["snapshot"]
    data = with_header((project.serving_dir / snapshot["file"]).read_bytes(), another)
    late = project.serving_dir / Path(snapshot["file"]).with_name("late.snapshot")
    publication["views"][0]["releases"][-1]["release_id"] = "items/v1/another"
    name = late.relative_to(project.serving_dir).as_posix()
    snapshot |= {"file": name, "bytes": len(data), "sha256": data[-DIGEST:].hex()}
    refused(server, record, publication, caplog)
    assert "late.snapshot: not there" in caplog.text
    late.write_bytes(data[: len(data) // 2])
    wait_until(lambda: caplog.text.count("stays in force") >= 2)
    write_atomic(late, data)
    wait_until(lambda: server.publication == publication["sequence"])
    with connected(server.address) as client:
        assert client.get_features(features=["items_v1:users"], entities={"item_id": [3]}).publication == 2


def test_the_watcher_outlives_what_fails_once(
    project: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No file descriptors for a moment, a folder that cannot be looked at, a listener that raises."""
    record = project.serving_dir / "publication.json"
    good = record.read_bytes()
    failing: list[str] = []
    looks: list[int] = []

    def looked(published: Published) -> None:
        looks.append(published.sequence)
        if "looked" in failing:
            raise ZeroDivisionError

    def fails(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if name in failing:
                raise OSError(errno.EMFILE, name)
            return real(*args)

        return call

    monkeypatch.setattr(watch, "_identity", fails("stat", watch._identity))
    monkeypatch.setattr(watch, "load_publication", fails("open", watch.load_publication))
    with closing(watch.InForce(project, looked)) as in_force:
        for sequence, what in enumerate(("looked", "stat", "open"), 2):
            caplog.clear()  # first: what fails is told once
            failing.append(what)
            write_atomic(record, canonical_bytes({**json.loads(good), "sequence": sequence}))
            wait_until(lambda: "stays in force" in caplog.text)
            failing.clear()
            wait_until(lambda expected=sequence: in_force.current().sequence == expected)  # type: ignore[misc]
    assert looks[-1] >= 3
    write_atomic(record, good)


def wait_until(there: Callable[[], bool]) -> None:
    """What could not be opened is tried again after ten times as long as that took."""
    assert comes_true(there, 120.0), "it did not come"


def cut(publication: dict[str, Any]) -> None:
    publication["views"][0]["snapshot"]["sha256"] = "0" * 64


def climb(publication: dict[str, Any]) -> None:
    publication["views"][0]["snapshot"] |= {"file": "../../../../etc/passwd", "sha256": "1" * 64}


def climb_to_a_space(publication: dict[str, Any]) -> None:
    publication["spaces"][0]["directory"] = "spaces/../../releases"


def climb_to_a_catalogue(publication: dict[str, Any]) -> None:
    publication["catalogue"]["file"] = "/etc/passwd"


def rename(publication: dict[str, Any]) -> None:
    publication["spaces"][0]["dimension"] = 1 << 30


@pytest.mark.parametrize("change", [cut, climb, climb_to_a_space, climb_to_a_catalogue, rename])
def test_a_record_that_names_what_is_not_its_own_is_refused(
    project: Settings,
    server: RunningServer,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[dict[str, Any]], None],
) -> None:
    record = project.serving_dir / "publication.json"
    publication = json.loads(record.read_bytes())
    change(publication)
    refused(server, record, publication, caplog)


def refused(server: RunningServer, record: Path, publication: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Puts a record in force, and sees that it does not come into force."""
    before = psutil.Process().memory_info().rss
    publication["sequence"] += 1
    with caplog.at_level(logging.WARNING, "hedgerow"):
        write_atomic(record, canonical_bytes(publication))
        wait_until(lambda: "stays in force" in caplog.text)
    assert f"publication {server.publication} stays in force" in caplog.text
    assert "root:" not in caplog.text
    assert server.publication == publication["sequence"] - 1
    with connected(server.address) as client:
        table = client.get_features(features=["items_v1:users"], entities={"item_id": [3]})
        assert table["items_v1:users"].tolist() == [3]
        assert table.publication == server.publication
    assert psutil.Process().memory_info().rss - before < 256 * 1024 * 1024
