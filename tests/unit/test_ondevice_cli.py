from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import hedgerow
from featurestore.catalogue.signing import public_key_bytes
from ondevice.cli import app
from tests.support.devices import (
    KEY,
    OTHER_KEY,
    SnapshotServer,
    make_catalogue,
    make_parcel,
    serve_snapshots,
    snapshot_parts,
)

KEY_HEX = public_key_bytes(KEY).hex()


def run(*arguments: object, stdin: str = "") -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def store(tmp_path: Path) -> Path:
    run("init", "--store", tmp_path / "device", "--public-key", KEY_HEX)
    return tmp_path / "device"


@pytest.fixture
def address() -> Iterator[str]:
    with serve_snapshots(SnapshotServer(snapshot_parts(make_parcel(make_catalogue())))) as serving:
        yield serving


def test_a_persons_first_minutes(store: Path, address: str) -> None:
    told = run("sync", "--server", address, "-s", store).output
    assert "catalogue 1" in told
    assert "signature verified" in told
    assert "40 items" in told
    assert "popular with everyone" in run("rank", "-k", 3, "-s", store).output

    assert "Title 2" in run("record", 102, "--value", 4, "--kind", "rate", "-s", store).output
    run("record", 106, "-s", store)
    ranked = run("rank", "-k", 3, "-s", store).output
    assert "because of Drama" in ranked
    assert "nothing was sent" in ranked
    assert len(re.findall(r"^ +\d+ ", ranked, re.MULTILINE)) == 3
    known = run("features", "-s", store).output
    assert "Drama" in known
    assert "Title 2 × 1" in known

    assert "1 event deleted" in run("forget", 106, "--yes", "-s", store).output
    assert "0 left" in run("forget", "--yes", "-s", store).output
    assert "popular with everyone" in run("rank", "-k", 3, "-s", store).output
    assert "unchanged" in run("sync", "--server", address, "-s", store).output


def test_recording_the_same_event_twice_says_so(store: Path) -> None:
    when = ("--event-id", "e1", "--at", (datetime.now(UTC) - timedelta(days=1)).isoformat())
    assert "recorded" in run("record", "sku-1", *when, "-s", store).output
    assert "known already" in run("record", "sku-1", *when, "-s", store).output
    long_ago = ("--event-id", "e2", "--at", "2001-01-01T12:00")
    told = run("record", "sku-1", *long_ago, "-s", store).output
    assert "not kept, being older than 180 days" in told
    assert "1 event on this device" in told


def test_forgetting_asks_first(store: Path) -> None:
    run("record", 1, "-s", store)
    refused = CliRunner().invoke(app, ["forget", "-s", str(store)], input="n\n")
    assert refused.exit_code == 1
    assert "0 events deleted" not in refused.output
    assert "1 event deleted" in run("forget", "-s", store, stdin="y\n").output


def test_forgetting_works_on_a_damaged_store(store: Path) -> None:
    (store / "events.db").write_bytes(b"x" * 5000)
    assert "damaged" in run("forget", "--yes", "-s", store).output
    assert "recorded" in run("record", 1, "-s", store).output


def test_the_key_from_a_file_and_from_a_project(tmp_path: Path) -> None:
    raw = tmp_path / "catalogue.pub"
    raw.write_bytes(public_key_bytes(KEY))
    assert KEY_HEX[:16] in run("init", "-s", tmp_path / "one", "--public-key", raw).output
    (tmp_path / "hedgerow.toml").write_text('[project]\nname = "shop"\n')
    (tmp_path / "var" / "serving").mkdir(parents=True)
    raw.rename(tmp_path / "var" / "serving" / "catalogue.pub")
    assert KEY_HEX[:16] in run("init", "-s", tmp_path / "two", "-p", tmp_path).output


def test_titles_cannot_drive_the_terminal(store: Path) -> None:
    catalogue = make_catalogue()
    object.__setattr__(catalogue, "titles", ("\x1b[31m[red]title\x07",) * 40)
    with serve_snapshots(SnapshotServer(snapshot_parts(make_parcel(catalogue)))) as hostile:
        run("sync", "--server", hostile, "-s", store)
    shown = run("rank", "-k", 2, "-s", store).output + run("record", 102, "-s", store).output
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[31m[red]title" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank", "-s", "ABSENT"], "no device here"),
        (["rank", "-s", "STORE"], "no catalogue yet"),
        (["sync", "--server", "127.0.0.1:1", "-s", "STORE"], "is the server running there"),
        (["sync", "--server", "nonsense", "-s", "STORE"], "HOST:PORT"),
        (["record", "secret-item", "--value", "nan", "-s", "STORE"], "finite"),
        (["record", "secret-item", "--kind", "Not Good", "-s", "STORE"], "kind"),
        (["record", "secret-item", "--at", "tomorrow", "-s", "STORE"], "ISO 8601"),
        (["record", "secret-item", "--at", "2999-01-01", "-s", "STORE"], "future"),
        (["init", "-s", "STORE", "--public-key", KEY_HEX], "not an empty folder"),
        (["init", "-s", "NEW", "--public-key", "zz"], "neither a file nor 64 hex"),
        (["init", "-s", "NEW", "--public-key", "00ff"], "32 bytes, found 2"),
        (["init", "-s", "NEW", "-p", "ABSENT"], "--public-key"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"STORE": str(store), "ABSENT": str(tmp_path / "absent"), "NEW": str(tmp_path / "new")}
    with pytest.raises(SystemExit) as leaving:
        hedgerow.main(["device", *(places.get(argument, argument) for argument in arguments)])
    assert leaving.value.code == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert "secret-item" not in shown.err + shown.out
    assert not (tmp_path / "new").exists()


def test_a_catalogue_of_another_publisher_is_refused(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = make_parcel(make_catalogue(), OTHER_KEY)
    with serve_snapshots(SnapshotServer(snapshot_parts(foreign))) as address, pytest.raises(SystemExit) as leaving:
        hedgerow.main(["device", "sync", "--server", address, "-s", str(store)])
    assert leaving.value.code == 2
    assert "signature is not the pinned key's" in capsys.readouterr().err
