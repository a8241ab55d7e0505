"""Spaces from releases: versions side by side, vectors taken out, swaps under way, refusal of what is damaged."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from featurestore.catalogue import decode
from featurestore.publication import Publication, PublishedSpace, write_publication
from governance.errors import (
    ConfigError,
    HedgerowError,
    NotPublished,
    PublicationCorrupt,
    PublicationError,
    RunInProgress,
)
from governance.files import exclusive_lock, remove_tree
from governance.ledger import Ledger
from governance.settings import Search, Settings, load_settings
from serving.index import IndexKind, VectorSpace, write_space
from serving.index.tuning import RecallUnreached
from serving.publish import publish as publish_all
from serving.spaces import build_spaces, remove_unused_spaces, remove_vectors, vector_releases
from serving.state import open_published
from serving.vectors_cli import app
from tests.support.releases import make_project, make_vector_release

ROWS, DIMENSION = 200, 8
IDS = list(range(1000, 1000 + ROWS))
VECTORS = np.random.default_rng(3).normal(size=(ROWS, DIMENSION)).astype(np.float32)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_project(tmp_path / "shop")


def release(settings: Settings, vectors: np.ndarray = VECTORS, version: int = 1) -> None:
    with Ledger(settings.ledger_path) as ledger:
        make_vector_release(settings, ledger, ids=IDS[: len(vectors)], vectors=vectors, version=version)


def build(settings: Settings) -> dict[str, PublishedSpace]:
    with Ledger(settings.ledger_path) as ledger:
        return {space.name: space for space in build_spaces(settings, ledger, lambda _: None)}


def publish(settings: Settings, sequence: int = 1) -> Publication:
    publication = Publication(
        sequence=sequence,
        created_at="2025-12-01T00:00:00+00:00",
        project=settings.name,
        views=(),
        services=(),
        spaces=tuple(build(settings).values()),
        catalogue=None,
    )
    write_publication(settings, publication)
    return publication


def opened(settings: Settings, space: PublishedSpace) -> VectorSpace:
    return VectorSpace(settings.serving_dir / space.directory)


def vector(space: VectorSpace, item: int) -> np.ndarray:
    rows, found = space.find(np.array([item]))
    assert found.all()
    return space.vectors(rows)[0]


def test_the_two_newest_versions_are_served_side_by_side(settings: Settings) -> None:
    for version in (1, 2, 10):
        release(settings, VECTORS + np.float32(version), version)
    release(settings, VECTORS - 5, 2)  # a later run of an older version

    spaces = build(settings)

    assert list(spaces) == ["item_content", "item_content/v10", "item_content/v2"]
    assert spaces["item_content"].directory == spaces["item_content/v10"].directory
    assert np.array_equal(vector(opened(settings, spaces["item_content"]), IDS[4]), VECTORS[4] + np.float32(10))
    assert np.array_equal(vector(opened(settings, spaces["item_content/v2"]), IDS[4]), VECTORS[4] - 5)
    with Ledger(settings.ledger_path) as ledger:
        assert [r.signal.version for r in vector_releases(settings, ledger)] == [10, 2]
    published = open_published(settings, publish(settings), None)
    assert published.spaces["item_content"] is published.spaces["item_content/v10"]


def test_removed_vectors_are_gone_from_every_file(settings: Settings) -> None:
    release(settings)
    before = publish(settings)
    state = open_published(settings, before, None)
    gone, kept = IDS[17], IDS[18]

    assert remove_vectors(settings, "item_content", [gone, 5]) == 2
    assert remove_vectors(settings, "item_content/v1", [gone]) == 2
    after = publish(settings, 2)

    swapped = open_published(settings, after, None, state)
    space = swapped.spaces["item_content"]
    assert space is not state.spaces["item_content"]
    assert space.meta.release_id == before.spaces[0].release_id
    assert space.find(np.array([gone, kept]))[1].tolist() == [False, True]
    assert space.meta.rows == ROWS - 1
    assert gone not in space.ids(space.search(VECTORS[17:18], ROWS).rows)
    remove_unused_spaces(settings, frozenset(s.directory for s in after.spaces))
    needle = VECTORS[17].tobytes()
    files = [path for path in settings.serving_dir.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(needle in path.read_bytes() for path in files)
    assert state.spaces["item_content"].find(np.array([gone]))[1].all()  # the old one still answers who holds it


def test_removing_from_the_command_line(settings: Settings, tmp_path: Path) -> None:
    """From the next publication on neither the server nor a device has them."""
    release(settings)
    with Ledger(settings.ledger_path) as ledger:
        publish_all(settings, ledger)
        listed = tmp_path / "gone.txt"
        listed.write_text("1017\n1018\n\n")
        arguments = ["remove", "item_content", "1001", "--ids-from", str(listed), "-p", str(settings.root)]
        told = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert told.output == "item_content: 3 removed in all; run 'hedgerow publish' to put it in force\n"
        publication = publish_all(settings, ledger)
    (space, *_) = publication.spaces
    assert opened(settings, space).find(np.array([1001, 1017, 1018, 1019]))[1].tolist() == [False, False, False, True]
    assert publication.catalogue is not None
    catalogue = decode((settings.serving_dir / publication.catalogue.file).read_bytes())
    assert set(IDS) - set(catalogue.ids.tolist()) == {1001, 1017, 1018}
    with Ledger(settings.ledger_path) as ledger:
        publish_all(settings, ledger)  # now the publication before this one lacks them too
    left = [decode(path.read_bytes()) for path in (settings.serving_dir / "catalogues").iterdir()]
    assert [one.sequence for one in left] == [publication.catalogue.sequence] == [2]

    for wrong, message in (
        (["item_content", "abc"], "whole numbers"),
        (["item_content"], "no id is named"),
        (["nothing", "1"], "no embedding space"),
        (["item_content", "--ids-from", str(tmp_path / "none.txt")], "cannot be read"),
    ):
        refused = CliRunner().invoke(app, ["remove", *wrong, "-p", str(settings.root)])
        assert isinstance(refused.exception, HedgerowError)
        assert message in str(refused.exception)


@pytest.mark.parametrize(
    ("name", "ids", "error", "message"),
    [
        ("item_contents", [1], NotPublished, "no embedding space of that name"),
        ("../item_content", [1], NotPublished, "no embedding space of that name"),
        ("item_content", ["1000"], PublicationError, "must be int64"),
        ("item_content", [True], PublicationError, "must be int64"),
    ],
)
def test_what_cannot_be_removed(
    settings: Settings, name: str, ids: list[int], error: type[Exception], message: str
) -> None:
    release(settings)
    publish(settings)
    with pytest.raises(error, match=message):
        remove_vectors(settings, name, ids)
    assert not (settings.serving_dir / "removed").exists()


def test_removal_waits_for_no_running_publish(settings: Settings) -> None:
    release(settings)
    publish(settings)
    with exclusive_lock(settings.locks_dir / "publish.lock", "publish"), pytest.raises(RunInProgress):
        remove_vectors(settings, "item_content", [1])


def test_a_space_without_vectors_and_a_damaged_record_are_refused(settings: Settings) -> None:
    release(settings)
    publish(settings)
    remove_vectors(settings, "item_content", IDS)
    with pytest.raises(PublicationError, match="all its vectors are removed"):
        build(settings)
    record = settings.serving_dir / "removed" / "item_content.json"
    record.write_bytes(record.read_bytes()[:-3])
    with pytest.raises(PublicationCorrupt, match="record of removed vectors"):
        build(settings)


def test_the_declared_recall_decides_the_index(settings: Settings) -> None:
    release(settings)
    exact = build(settings)["item_content"]
    closer = build(replace(settings, search=Search(recall=0.99)))["item_content"]
    assert closer.directory != exact.directory
    assert opened(settings, closer).meta.tuning.target == 0.99
    with pytest.raises(RecallUnreached, match="no index fits into memory_mib"):
        build(replace(settings, search=Search(memory_mib=0)))


def test_search_settings_are_read_and_checked(tmp_path: Path) -> None:
    made = make_project(tmp_path, extra="\n[search]\nrecall = 0.9\nmemory_mib = 512\n")
    assert made.search == Search(recall=0.9, memory_mib=512)
    assert make_project(tmp_path / "plain").search == Search()
    for text in ("recall = 0", "recall = 1.5", "memory_mib = 0", "probes = 3"):
        (tmp_path / "hedgerow.toml").write_text(f'[project]\nname = "x"\n[search]\n{text}\n')
        with pytest.raises(ConfigError, match=r"\[search\]"):
            load_settings(tmp_path)


@pytest.mark.parametrize("damage", ["half", "flip", "lost"])
def test_a_damaged_space_is_refused_and_the_last_good_one_stays(settings: Settings, damage: str) -> None:
    release(settings)
    state = open_published(settings, publish(settings), None)
    release(settings, VECTORS + 1)
    after = publish(settings, 2)
    path = settings.serving_dir / after.spaces[0].directory / "index.faiss"
    whole = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(
            whole[: len(whole) // 2] if damage == "half" else whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
        )

    with pytest.raises(PublicationCorrupt, match=r"index\.faiss"):
        open_published(settings, after, None, state)

    assert state.spaces["item_content"].search(VECTORS[:1], 1).scores == pytest.approx([1])
    publish(settings, 3)  # builds it anew
    assert open_published(settings, after, None, state).sequence == 2


def test_readers_in_flight_never_notice_a_swap(tmp_path: Path) -> None:
    """While spaces are built, opened, swapped and their directories removed, each answer is of one space."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(600, DIMENSION)).astype(np.float32)
    kinds = (IndexKind.FLAT, IndexKind.HNSW, IndexKind.HNSW_SQ8, IndexKind.IVF_SQ8, IndexKind.IVF_PQ)

    def made(number: int) -> VectorSpace:
        directory = tmp_path / str(number)
        directory.mkdir()
        write_space(
            directory,
            name="s",
            release_id=f"s/v1/{number}",
            key="id",
            ids=np.arange(600) + 1000 * number,
            vectors=base,
            tags=[["even"] if row % 2 == 0 else [] for row in range(600)],
            metric="cosine",
            kind=kinds[number % len(kinds)],
        )
        return VectorSpace(directory)

    current = [made(0)]
    ended, faults, answers = threading.Event(), [], [0, 0]

    def read(who: int) -> None:
        while not ended.is_set():
            space = current[0]
            number = int(space.meta.release_id.rpartition("/")[2])
            hits = space.search(base[:16], 5, tags=["even"] if who else ())
            ids = space.ids(hits.rows)
            if hits.counts.tolist() != [5] * 16 or (ids // 1000 != number).any() or (who and (ids % 2).any()):
                faults.append(number)
            answers[who] += 1

    readers = [threading.Thread(target=read, args=(who,)) for who in (0, 1)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 16):
            space = made(number)
            old, current[0] = current[0], space
            remove_tree(old.directory)
            before, until = tuple(answers), time.monotonic() + 60
            while any(now == one for now, one in zip(answers, before, strict=True)):
                assert time.monotonic() < until, "a reader reads no more"
                time.sleep(0.001)
    finally:
        ended.set()
        for reader in readers:
            reader.join()
    assert not faults


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system does not tell which pages are mapped")
def test_every_page_is_in_memory_before_the_first_search(settings: Settings) -> None:
    vectors = np.random.default_rng(1).normal(size=(3000, 64)).astype(np.float32)
    directory = settings.root / "space"
    directory.mkdir()
    arguments = {"name": "s", "release_id": "s/v1/x", "key": "id", "metric": "cosine", "tags": [[]] * 3000}
    write_space(directory, ids=np.arange(3000), vectors=vectors, kind=IndexKind.HNSW_SQ8, **arguments)  # type: ignore[arg-type]
    space = VectorSpace(directory)
    sizes = mapped_pages(directory)
    assert {"index.faiss", "vectors.f32", "unit.f32", "ids.i64"} <= set(sizes)
    assert all(resident == size for size, resident in sizes.values())
    assert space.meta.rows == 3000


def mapped_pages(directory: Path) -> dict[str, tuple[int, int]]:
    """File name → KiB mapped, KiB of that in memory."""
    found: dict[str, tuple[int, int]] = {}
    name, size = "", 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0] and len(fields) >= 5:
            path = fields[5] if len(fields) > 5 else ""
            name = Path(path).name if path.startswith(str(directory.resolve()) + "/") else ""
        elif name and fields[0] == "Size:":
            size = int(fields[1])
        elif name and fields[0] == "Rss:":
            found[name] = (size, int(fields[1]))
    return found
