"""Documentation that can be run is run, and what it links to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_run(page: Path) -> None:
    """The blocks of one page, one after the other, in a process of their own."""
    blocks = PYTHON_BLOCK.findall(page.read_text())
    if blocks:
        subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(blocks)], cwd=ROOT, timeout=120, check=True)


def test_the_readme_has_a_block_that_runs() -> None:
    assert PYTHON_BLOCK.search((ROOT / "README.md").read_text())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert broken == []


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_picture_is_self_contained_and_named() -> None:
    picture = ET.parse(ROOT / "docs/architecture.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert picture.findtext(f"{space}title")
    assert picture.find(f".//{space}image") is None
    zones = "".join(picture.itertext())
    assert all(zone in zones for zone in ("RAW DATA ZONE", "RELEASED ZONE", "DEVICE ZONE", "PRIVACY BOUNDARY"))
