from __future__ import annotations

import base64
import hashlib
import html
import re
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from governance.errors import EnvironmentProblem
from governance.report import ReportFiles, build, report_key, write
from tests.support.report_fixture import NOW, SIGNALS, Shop, make_empty_shop, make_open_shop, make_shop

REPOSITORY = Path(__file__).parents[2]
HOSTILE = "</style></p><script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">'&amp;"


def written(shop: Shop, out: Path) -> tuple[ReportFiles, str]:
    files = write(build(shop.settings, shop.ledger, lambda: NOW), out, key=report_key(shop.settings), paper=False)
    return files, files.html.read_text(encoding="utf-8")


class _Page(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportFiles, str, Path]:
    root = tmp_path_factory.mktemp("shop")
    files, page = written(make_open_shop(root), tmp_path_factory.mktemp("out"))
    return files, page, root


def test_the_page_shows_the_hash_of_the_json(open_page: tuple[ReportFiles, str, Path]) -> None:
    files, page, _ = open_page
    assert files.sha256 == hashlib.sha256(files.json.read_bytes()).hexdigest()
    assert files.sha256 in page


def test_the_page_asks_for_nothing(open_page: tuple[ReportFiles, str, Path]) -> None:
    _, page, _ = open_page
    assert not re.search(r"https?://|url\(|@import|javascript:", page)
    read = _Page(page)
    assert {name for name, _ in read.found} & {"script", "link", "img", "iframe", "object", "embed", "form"} == set()
    assert not [a for _, a in read.found for name in a if name.startswith("on") or name in ("src", "srcset", "style")]
    assert all((a["href"] or "").startswith("#") for a in read.all("a"))


def test_links_lead_somewhere(open_page: tuple[ReportFiles, str, Path]) -> None:
    read = _Page(open_page[1])
    ids = [a["id"] for _, a in read.found if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "")[1:] for a in read.all("a")} <= set(ids)


def test_the_policy_allows_the_page_own_style_only(open_page: tuple[ReportFiles, str, Path]) -> None:
    _, page, _ = open_page
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    expected = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = next(a["content"] for a in _Page(page).all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'sha256-{expected}'"


def test_the_page_states_facts_and_no_verdict_about_itself(open_page: tuple[ReportFiles, str, Path]) -> None:
    assert "complian" not in open_page[1].lower()


def test_open_failures_come_first(open_page: tuple[ReportFiles, str, Path]) -> None:
    _, page, _ = open_page
    positions = [page.index(text) for text in ("2 open failures", "does not match the record", 'id="accounts"')]
    assert positions == sorted(positions)
    assert "what it says is not shown here" in page


def test_the_printed_commands_find_exactly_what_changed(open_page: tuple[ReportFiles, str, Path]) -> None:
    files, page, root = open_page
    commands = [
        html.unescape(re.sub(r"<[^>]+>", "", text)) for text in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    ]
    of_report, of_releases, of_ledger = commands
    ran = subprocess.run(["bash", "-c", of_report], cwd=files.json.parent, capture_output=True, text=True, check=True)
    assert ran.stdout == "report.json: OK\nSignature Verified Successfully\n"
    of_ledger = of_ledger.replace("python", sys.executable).replace("--key ledger.pub", "--key var/ledger.pub")
    ran = subprocess.run(
        ["bash", "-c", f"PYTHONPATH={REPOSITORY} {of_ledger}"], cwd=root, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "DOES NOT HOLD" in ran.stdout
    assert "genre_weekly_users/v1/2025-11-10" in ran.stdout
    ran = subprocess.run(["bash", "-c", of_releases], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    lines = ran.stdout.splitlines()
    assert [line for line in lines if not line.endswith(": OK")] == [
        "genre_weekly_users/v1/2025-11-10/part-00000.parquet: FAILED",
        "ticket_topics/v1/2025-11-03/manifest.json: FAILED",
    ]
    assert len(lines) == 45  # 21 manifests, and 24 files of the 20 releases whose manifest is believed


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path / "shop", description=HOSTILE)
    shop.release(
        SIGNALS[2],
        datetime(2025, 11, 24, tzinfo=UTC),
        change=lambda m: replace(
            m,
            signal=replace(m.signal, description=HOSTILE, owner=HOSTILE, purpose=HOSTILE, entity=HOSTILE),
            guarantee=replace(
                m.guarantee, protects=HOSTILE, bounds={HOSTILE: HOSTILE}, post_processing=(HOSTILE,), relation=HOSTILE
            ),
            columns=tuple(replace(column, description=HOSTILE, name=HOSTILE) for column in m.columns),
            inputs=tuple(replace(source, table=HOSTILE, dataset=HOSTILE, fingerprint=HOSTILE) for source in m.inputs),
            quality=({"check": HOSTILE, "passed": False},),
            code={HOSTILE: HOSTILE},
            created_at=HOSTILE,
        ),
    )
    shop.ledger.refuse("plays/user_id", HOSTILE, HOSTILE)
    _, page = written(shop, tmp_path / "out")
    read = _Page(page)
    assert read.all("script") == read.all("img") == []
    assert page.count(html.escape(HOSTILE)) >= 15


@pytest.mark.parametrize("weeks", [0, 1])
def test_small_projects_have_a_page(tmp_path: Path, weeks: int) -> None:
    shop = make_shop(tmp_path / "shop", weeks=weeks) if weeks else make_empty_shop(tmp_path / "shop")
    _, page = written(shop, tmp_path / "out")
    assert ("Nothing is open" if weeks else "Nothing has been released yet") in page


def test_a_project_without_accounts_has_a_page(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path / "shop")
    bare = replace(shop.settings, accounts=())
    page = write(build(bare, shop.ledger, lambda: NOW), tmp_path / "out").html.read_text(encoding="utf-8")
    assert "declares no account" in page


def test_public_inputs_are_shown_as_costing_nothing(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path / "shop")
    shop.publish_vectors()
    _, page = written(shop, tmp_path / "out")
    assert "costs nothing" in page
    assert "no account: public inputs" in page


def test_a_folder_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path / "shop")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentProblem, match="--out"):
        written(shop, tmp_path / "file" / "report")
