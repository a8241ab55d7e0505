from __future__ import annotations

import hashlib
import json
from pathlib import Path

import typer
from typer.testing import CliRunner

from governance.cli import report
from tests.support.report_fixture import make_open_shop, make_shop

APP = typer.Typer()
APP.command()(report)


def test_the_summary_names_what_is_open_and_where_the_report_lies(tmp_path: Path) -> None:
    shop = make_open_shop(tmp_path / "shop")
    result = CliRunner().invoke(APP, ["-p", str(shop.settings.root), "--no-pdf"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "21 releases, 19 verified; 2 refused requests" in result.output
    assert "failure  ticket_topics/v1/2025-11-03" in result.output
    assert str(shop.settings.report_dir / "report.html") in result.output


def test_the_json_form_is_one_object(tmp_path: Path) -> None:
    shop = make_shop(tmp_path / "shop", weeks=1)
    out = tmp_path / "out"
    result = CliRunner().invoke(APP, ["-p", str(shop.settings.root), "--out", str(out), "--json"])
    value = json.loads(result.output)
    assert (value["releases"], value["verified"], value["failures"], value["refused"]) == (6, 6, 0, 2)
    assert value["accounts"][0]["spent"] == {"rho": "0.03075", "delta": "0.000000010000000004"}
    assert value["sha256"] == hashlib.sha256((out / "report.json").read_bytes()).hexdigest()
    assert Path(value["report"]).is_file()
    assert Path(value["pdf"]).read_bytes().startswith(b"%PDF-")
    assert len(Path(value["signature"]).read_bytes()) == 64
