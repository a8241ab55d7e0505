"""The report of a fixed project, byte for byte.

`UPDATE_GOLDEN=1 pytest tests/golden/test_report_golden.py` writes the file anew; read the difference before you commit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from governance.canonical import canonical_bytes, sha256_hex
from governance.report import build
from tests.support.report_fixture import NOW, make_shop

GOLDEN = Path(__file__).with_name("report.json")


def test_report_json(tmp_path: Path) -> None:
    shop = make_shop(tmp_path, weeks=1)
    report = build(shop.settings, shop.ledger, lambda: NOW)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(report.to_json(), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert report.to_json() == golden
    assert report.to_bytes() == canonical_bytes(golden)
    assert report.sha256 == sha256_hex(canonical_bytes(golden))
