"""The PDF and the signature: what goes along with report.json, and belongs to it."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from governance.report import build, report_key, write
from governance.report.page import render_paper
from governance.report.paper import pdf
from tests.support.report_fixture import NOW, SIGNALS, make_empty_shop, make_open_shop, make_shop


def text_streams(data: bytes) -> bytes:
    """The deflated streams of a PDF (text, objects), inflated."""
    starts = [found.end() for found in re.finditer(rb"stream\r?\n(?=\x78)", data)]
    return b"".join(zlib.decompressobj().decompress(data[start:]) for start in starts)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = make_shop(tmp_path_factory.mktemp("shop"), weeks=1, signals=SIGNALS[:2])
    report = build(shop.settings, shop.ledger, lambda: NOW)
    out = tmp_path_factory.mktemp("out")
    files = write(report, out, key=report_key(shop.settings))
    assert files.problem == ""
    assert files.pdf is not None
    assert files.pdf.read_bytes() == pdf(report, files.sha256), "the same report gives the same bytes"
    return out


def test_the_pdf_carries_the_hash_of_the_json(small: Path) -> None:
    import hashlib

    digest = hashlib.sha256((small / "report.json").read_bytes()).hexdigest()
    data = (small / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    assert digest.encode() in text_streams(data), "in the document's information"
    assert bytes.fromhex(digest)[:16].hex().encode() in (data + text_streams(data)).lower(), "and as its identifier"


def test_the_pdf_asks_for_nothing_and_runs_nothing(small: Path) -> None:
    data = (small / "report.pdf").read_bytes()
    for forbidden in (b"/JavaScript", b"/JS", b"/Launch", b"/URI", b"/EmbeddedFile", b"/SubmitForm"):
        assert forbidden not in data + text_streams(data)


def test_paper_shows_evidence_of_the_newest_and_of_what_is_open(tmp_path: Path) -> None:
    shop = make_open_shop(tmp_path)
    report = build(shop.settings, shop.ledger, lambda: NOW)
    page = render_paper(report, report.sha256)
    shown = set(re.findall(r"Evidence<span class=\"unseen\"> for ([^<]+)</span>", page))
    newest = {group: max(r.release_id for r in report.releases if r.group == group) for group in
              {r.group for r in report.releases}}  # fmt: skip
    opened = {release.release_id for release in report.releases if release.status != "verified"}
    assert shown == {*newest.values(), *opened}
    assert len(shown) < len(report.releases)
    assert not re.search(r"https?://|<script|<img|<link", page)


def test_the_signature_is_of_the_json_by_the_ledgers_key(small: Path) -> None:
    key = load_pem_public_key((small / "ledger.pub").read_bytes())
    signature, data = (small / "report.sig").read_bytes(), (small / "report.json").read_bytes()
    key.verify(signature, data)  # type: ignore[union-attr, call-arg]
    with pytest.raises(InvalidSignature):
        key.verify(signature, data.replace(b"listening_shop", b"listening_shoq"))  # type: ignore[union-attr, call-arg]


def test_without_the_key_a_report_is_not_signed_and_an_old_signature_does_not_stay(tmp_path: Path) -> None:
    shop = make_shop(tmp_path / "shop", weeks=1, signals=SIGNALS[:2])
    report = build(shop.settings, shop.ledger, lambda: NOW)
    write(report, tmp_path / "out", key=report_key(shop.settings), paper=False)
    (shop.settings.keys_dir / "ledger.ed25519").unlink()
    assert report_key(shop.settings) is None
    files = write(report, tmp_path / "out", key=None, paper=False)
    assert files.signature is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.json"]


def test_a_machine_without_weasyprint_still_gets_json_and_html(tmp_path: Path) -> None:
    shop = make_empty_shop(tmp_path / "shop")
    shop.ledger.close()
    script = (
        "import sys; sys.modules['weasyprint'] = None\n"
        "from pathlib import Path\n"
        "from governance.ledger import open_ledger\n"
        "from governance.report import build, write\n"
        "from governance.settings import load_settings\n"
        f"settings = load_settings(Path({str(shop.settings.root)!r}))\n"
        "with open_ledger(settings) as ledger:\n"
        f"    files = write(build(settings, ledger), Path({str(tmp_path / 'out')!r}))\n"
        "print(files.pdf, files.problem)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("None report.pdf needs WeasyPrint, which is not installed; pip install")
    assert (tmp_path / "out" / "report.html").is_file()


def test_no_report_calls_itself_compliant(small: Path) -> None:
    for name in ("report.json", "report.html"):
        assert "complian" not in (small / name).read_text(encoding="utf-8").lower()
