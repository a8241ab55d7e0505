"""Writes a report: the canonical JSON and its signature, and the page and the paper that carry its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from governance.canonical import sha256_hex
from governance.errors import EnvironmentProblem
from governance.files import write_atomic
from governance.heads import PUBLIC_KEY_FILE
from governance.keys import load_signing_key, public_key_pem
from governance.ledger import KEY_FILE
from governance.report.document import Report
from governance.report.page import render
from governance.report.paper import pdf
from governance.settings import Settings

__all__ = ["ReportFiles", "report_key", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """A written report.

    Attributes:
        json: `report.json`, the object of record.
        html: `report.html`, the same content to read.
        pdf: `report.pdf`, the same on paper; None if this machine cannot make it.
        signature: `report.sig`, 64 bytes of Ed25519 over report.json; None without the ledger's private key.
        sha256: SHA-256 of `report.json`, which page and paper show.
        problem: why there is no PDF; empty if there is one.
    """

    json: Path
    html: Path
    pdf: Path | None
    signature: Path | None
    sha256: str
    problem: str


def report_key(settings: Settings) -> Ed25519PrivateKey | None:
    """The ledger's private key, which signs reports; None on a machine that has it not.

    Raises:
        ConfigError: the file is not such a key, or others may read it.
    """
    try:
        return load_signing_key(settings.keys_dir / KEY_FILE)
    except FileNotFoundError:
        return None


def write(report: Report, directory: Path, *, key: Ed25519PrivateKey | None = None, paper: bool = True) -> ReportFiles:
    """Writes a report, each file atomically, and makes the directory if it is absent.

    What an earlier report left there and this one lacks (a PDF, a signature) is removed first, so that no two files of
    the folder belong to different reports for longer than the writing takes.

    Args:
        report: what to write.
        directory: where.
        key: signs report.json; None: unsigned.
        paper: also as PDF.

    Raises:
        EnvironmentProblem: the directory cannot be written.
    """
    data = report.to_bytes()
    digest = sha256_hex(data)
    page = render(report, digest)
    printed, problem = _printed(report, digest) if paper else (None, "")
    sheet, signature, public = directory / "report.pdf", directory / "report.sig", directory / PUBLIC_KEY_FILE
    files = ReportFiles(
        json=directory / "report.json",
        html=directory / "report.html",
        pdf=sheet if printed is not None else None,
        signature=signature if key is not None else None,
        sha256=digest,
        problem=problem,
    )
    try:
        for stale in (sheet, signature, public):
            stale.unlink(missing_ok=True)
        write_atomic(files.json, data)
        write_atomic(files.html, page.encode())
        if printed is not None:
            write_atomic(sheet, printed)
        if key is not None:
            write_atomic(public, public_key_pem(key.public_key()))
            write_atomic(signature, key.sign(data))
    except OSError as error:
        raise EnvironmentProblem(
            f"{directory}: the report cannot be written there ({error.strerror}); choose another folder with --out"
        ) from None
    return files


def _printed(report: Report, digest: str) -> tuple[bytes | None, str]:
    """The PDF, or why there is none: a report without paper is still a report."""
    try:
        return pdf(report, digest), ""
    except EnvironmentProblem as error:
        return None, str(error)
