"""The whole demo, once, in a process of its own, on a small sample: what it prints, writes and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from jsonschema import Draft202012Validator, FormatChecker
from playwright.sync_api import sync_playwright

from examples.demo.generator import GeneratedFiles, generate
from governance.disclosure import registry_schema, schema
from governance.ledger import Ledger
from governance.settings import load_settings
from tests.support.openlineage import RUN_EVENT

ROOT = Path(__file__).parents[2]
WINDOWS = 2
SIGNALS = {"genre_cohort_weekly", "item_weekly", "platform_trend", "user_genre_affinity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """One run of the demo."""

    files: GeneratedFiles
    out: Path
    stdout: str
    stderr: str
    document: dict[str, Any]


def hedgerow(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "hedgerow.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=500, check=False)


def play(files: GeneratedFiles, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return hedgerow("demo", "--events", files.events, "--items", files.items, "--out", out, *more)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    files = generate(folder / "sample", users=600, items=150, events=8_000)
    ended = play(files, folder / "out", "--windows", str(WINDOWS), "--json")
    assert ended.returncode == 0, ended.stderr
    return Demo(
        files=files,
        out=folder / "out",
        stdout=ended.stdout,
        stderr=ended.stderr,
        document=json.loads(ended.stdout.splitlines()[-1]),
    )


def test_stdout_is_one_json_object_of_the_promised_shape(demo: Demo) -> None:
    assert len(demo.stdout.splitlines()) == 1
    assert set(demo.document) == {
        "dataset",
        "releases",
        "accounts",
        "served",
        "recommendations",
        "report",
        "seconds",
    }
    assert demo.document["dataset"] == "generated"
    for release in demo.document["releases"]:
        assert set(release) == {"name", "version", "window", "rows", "rho", "delta", "epsilon", "protects"}
    stages = {"prepare", "plan", "run", "publish", "serve", "recommend", "device", "report", "total"}
    assert set(demo.document["seconds"]) == stages


def test_every_signal_is_released_for_every_window(demo: Demo) -> None:
    releases = demo.document["releases"]
    for name in SIGNALS:
        mine = [release for release in releases if release["name"] == name]
        assert len(mine) == WINDOWS
        assert len({release["window"]["start"] for release in mine}) == WINDOWS
        assert all(release["rho"] > 0 and release["epsilon"] > 0 for release in mine)
    (content,) = (release for release in releases if release["name"] == "item_content")
    assert (content["rho"], content["delta"], content["epsilon"], content["rows"]) == (0, 0, 0, 150)
    rows = {release["name"]: release["rows"] for release in releases}
    genres = pq.read_table(demo.out / "data" / "genres.parquet").num_rows
    assert rows["user_genre_affinity"] == 600 * genres  # public keys: everybody, active or not
    assert rows["genre_cohort_weekly"] == 6 * genres
    assert rows["platform_trend"] == 3


def test_accounts_add_up_exactly(demo: Demo) -> None:
    releases = demo.document["releases"]
    spent = {
        "events/user_id": sum(
            Fraction(str(r["rho"])) for r in releases if r["name"] in SIGNALS - {"user_genre_affinity"}
        ),
        "events/event_id": sum(Fraction(str(r["rho"])) for r in releases if r["name"] == "user_genre_affinity"),
    }
    assert {account["name"] for account in demo.document["accounts"]} == set(spent)
    for account in demo.document["accounts"]:
        assert Fraction(account["spent"]["rho"]) == spent[account["name"]]
        for quantity in ("rho", "delta"):
            left = Fraction(account["cap"][quantity]) - Fraction(account["spent"][quantity])
            assert Fraction(account["remaining"][quantity]) == left >= 0


def test_the_ledger_says_the_same(demo: Demo) -> None:
    settings = load_settings(demo.out)
    with Ledger(settings.ledger_path) as ledger:
        balances = {account.name: ledger.balance(account) for account in settings.accounts}
    for account in demo.document["accounts"]:
        assert balances[account["name"]].spent.to_json() == account["spent"]
        assert balances[account["name"]].held.rho == 0


def test_recommendations_are_personal_and_the_popular_list_is_not(demo: Demo) -> None:
    people = demo.document["recommendations"]
    assert [person["user"] for person in people] == ["A", "B", "C"]
    for kind in ("personalised", "popular", "device"):
        assert all(len(person[kind]) == 5 for person in people)
        assert all(len(set(person[kind])) == 5 for person in people)
    assert len({tuple(person["personalised"]) for person in people}) == 3
    assert len({tuple(person["device"]) for person in people}) == 3
    assert len({tuple(person["popular"]) for person in people}) == 1
    titles = set(pq.read_table(demo.files.items).column("title").to_pylist())
    assert all(set(person[kind]) <= titles for person in people for kind in ("personalised", "popular", "device"))


def test_features_vectors_and_neighbors_were_served(demo: Demo) -> None:
    served = demo.document["served"]
    assert served["features"] >= 500 * pq.read_table(demo.out / "data" / "genres.parquet").num_rows
    assert served["vectors"] > 0
    assert served["neighbors"] >= 300


def test_report_is_there_and_names_every_release(demo: Demo) -> None:
    page = Path(demo.document["report"])
    assert page.is_file()
    assert "http://" not in page.read_text() or "w3.org" in page.read_text()
    record = json.loads(page.with_suffix(".json").read_text())
    assert len(record["releases"]) == len(demo.document["releases"])
    assert not [finding for finding in record["findings"] if finding["severity"] == "failure"]


def test_every_signal_of_the_demo_is_disclosed(demo: Demo, tmp_path: Path) -> None:
    """Disclosures, lineage and registry entries of all its releases are valid, and its own policy refuses none."""

    def problems(document: object, against: dict[str, Any]) -> list[str]:
        validator = Draft202012Validator(against, format_checker=FormatChecker())
        return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document)]

    ended = hedgerow("disclosure", "-p", demo.out, "--out", tmp_path, "--json")
    assert ended.returncode == 0, ended.stderr
    written = json.loads(ended.stdout)
    assert len(written["files"]) == len(demo.document["releases"])
    assert {item["release_id"].partition("/")[0] for item in written["files"]} == {*SIGNALS, "item_content"}
    for item in written["files"]:
        assert problems(json.loads(Path(item["disclosure"]).read_text(encoding="utf-8")), schema()) == []
        entry = yaml.safe_load(Path(item["registry"]).read_text(encoding="utf-8"))
        assert problems(entry, registry_schema()) == []
    events = [json.loads(line) for line in Path(written["lineage"]).read_text(encoding="utf-8").splitlines()]
    assert len(events) == 2 * len(written["files"])
    for event in events:
        assert problems(event, RUN_EVENT) == []
    for command in ("check", "test"):
        ended = hedgerow("policy", command, "-p", demo.out)
        assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, pytest.param(390, marks=pytest.mark.long)])
def test_its_report_reads_well_in_a_browser(demo: Demo, chromium: str, tmp_path: Path, width: int) -> None:
    ended = hedgerow("report", "-p", demo.out, "--out", tmp_path, "--json")
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout)
    assert summary["failures"] == 0
    assert Path(summary["pdf"]).read_bytes().startswith(b"%PDF-")
    told: list[str] = []
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(Path(summary["report"]).as_uri())
        found = Axe().run(page).response["violations"]
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.screenshot(path=str(tmp_path / f"report-{width}.png"), full_page=True)
        browser.close()
    assert told == []
    assert asked == [Path(summary["report"]).as_uri()]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_words_say_what_was_protected_and_show_nobody(demo: Demo) -> None:
    words = " ".join(demo.stderr.split())
    for said in ("protected", "one person", "one event", "cost", "remains", "report", "user A", "nobody"):
        assert said in words, said
    assert "Traceback" not in words
    assert "user_id=" not in words


def test_a_rerun_pays_nothing_and_recommends_the_same(demo: Demo) -> None:
    ended = play(demo.files, demo.out, "--windows", str(WINDOWS), "--json")
    assert ended.returncode == 0, ended.stderr
    again = json.loads(ended.stdout.splitlines()[-1])
    assert again["accounts"] == demo.document["accounts"]
    assert again["releases"] == demo.document["releases"]
    assert [p["personalised"] for p in again["recommendations"]] == [
        p["personalised"] for p in demo.document["recommendations"]
    ]
    assert "cost nothing again" in " ".join(ended.stderr.split())


def test_more_windows_than_the_accounts_pay_are_refused_whole(demo: Demo) -> None:
    ended = play(demo.files, demo.out, "--windows", "6", "--json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "no data was read" in ended.stderr
    assert "Traceback" not in ended.stderr
    with Ledger(load_settings(demo.out).ledger_path) as ledger:
        spent = {balance.account: balance.spent.to_json() for balance in ledger.balances()}
    assert spent == {account["name"]: account["spent"] for account in demo.document["accounts"]}


def test_another_input_for_the_same_folder_is_refused(demo: Demo) -> None:
    ended = hedgerow("demo", "--seed", "1", "--out", demo.out)
    assert ended.returncode == 2
    assert "another input" in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--events", "x.parquet"), "--items"),
        (("--mapping", "generated"), "--mapping"),
        (("--events", "x.parquet", "--items", "y.parquet"), "cannot be read"),
        (("--events", "x.parquet", "--items", "y.parquet", "--seed", "1"), "--seed"),
    ],
)
def test_wrong_arguments_are_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    ended = hedgerow("demo", *arguments, "--out", tmp_path / "out")
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
