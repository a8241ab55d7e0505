"""Writes that happen whole or not at all, and locks that die with their process."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from governance.errors import RunInProgress
from governance.files import exclusive_lock, publish_directory, remove_tree, sync_tree, write_atomic

ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from pathlib import Path
from governance.files import write_atomic

path, size = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
turn = 0
while True:
    turn += 1
    write_atomic(path, bytes([turn % 251]) * size)
"""

LOCKER = """
import sys, time
from pathlib import Path
from governance.files import exclusive_lock

with exclusive_lock(Path(sys.argv[1]), "genres v1"):
    print("locked", flush=True)
    time.sleep(600)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() in ("ready\n", "locked\n")
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """Ten writers killed at different points of large writes: the content is always one write, whole."""
    path, size = tmp_path / "record.json", 3_000_000
    path.write_bytes(b"\xff" * size)
    seen = set()
    for _ in range(10):
        before = path.read_bytes()
        process = start(WRITER, str(path), str(size))
        while path.read_bytes() == before:
            pass
        kill(process)
        content = path.read_bytes()
        assert len(content) == size
        assert len(set(content)) == 1
        seen.add(content[0])
    assert seen - {0xFF}, "some write must have gone through"


def test_a_reader_never_sees_half(tmp_path: Path) -> None:
    path, size = tmp_path / "record.json", 500_000
    path.write_bytes(b"\xff" * size)
    process = start(WRITER, str(path), str(size))
    seen, reads, until = set(), 0, time.monotonic() + 60
    try:
        while reads < 300 or (len(seen) < 5 and time.monotonic() < until):
            content = path.read_bytes()
            assert len(content) == size
            assert len(set(content)) == 1
            seen.add(content[0])
            reads += 1
    finally:
        kill(process)
    assert len(seen) >= 5, "the writer must have written meanwhile"


def test_write_atomic_modes_folders_and_replacement(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "key"
    write_atomic(path, b"one", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_atomic(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.mkdir()
    (path / "inside").write_bytes(b"x")
    with pytest.raises(OSError, match="record"):
        write_atomic(path, b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["record"]
    with pytest.raises(TypeError):
        write_atomic(tmp_path / "other", "text")  # type: ignore[arg-type]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["record"]


def test_a_directory_appears_whole_and_once(tmp_path: Path) -> None:
    staged, target = tmp_path / "staging" / "run", tmp_path / "releases" / "s" / "v1" / "w"
    (staged / "deep").mkdir(parents=True)
    (staged / "deep" / "part").write_bytes(b"x")
    publish_directory(staged, target)
    assert (target / "deep" / "part").read_bytes() == b"x"
    assert not staged.exists()
    staged.mkdir()
    (staged / "other").write_bytes(b"y")
    with pytest.raises(FileExistsError):
        publish_directory(staged, target)
    assert (staged / "other").exists(), "nothing was moved"
    assert [path.name for path in target.iterdir()] == ["deep"]


def test_sync_and_remove(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"x")
    sync_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_a_lock_is_exclusive_and_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "release.lock"
    with (
        exclusive_lock(path, "genres v1"),
        pytest.raises(RunInProgress, match="genres v1: another process"),
        exclusive_lock(path, "genres v1"),
    ):
        pytest.fail("both hold it")
    process = start(LOCKER, str(path))
    with pytest.raises(RunInProgress), exclusive_lock(path, "genres v1"):
        pytest.fail("both hold it")
    kill(process)
    with exclusive_lock(path, "genres v1"), exclusive_lock(tmp_path / "locks" / "other.lock", "other"):
        pass


def test_a_lock_is_given_back_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive_lock(tmp_path / "l", "x"):
        _ = 1 / 0
    with exclusive_lock(tmp_path / "l", "x"):
        pass
