"""Writes a report: the canonical JSON, and the page that carries its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from governance.canonical import sha256_hex
from governance.errors import EnvironmentProblem
from governance.files import write_atomic
from governance.report.document import Report
from governance.report.page import render

__all__ = ["ReportFiles", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """A written report.

    Attributes:
        json: `report.json`, the object of record.
        html: `report.html`, the same content to read.
        sha256: SHA-256 of `report.json`, which `report.html` shows.
    """

    json: Path
    html: Path
    sha256: str


def write(report: Report, directory: Path) -> ReportFiles:
    """Writes `report.json` and `report.html`, each atomically, and makes the directory if it is absent.

    Raises:
        EnvironmentProblem: the directory cannot be written.
    """
    data = report.to_bytes()
    digest = sha256_hex(data)
    files = ReportFiles(json=directory / "report.json", html=directory / "report.html", sha256=digest)
    page = render(report, digest)
    try:
        write_atomic(files.json, data)
        write_atomic(files.html, page.encode())
    except OSError as error:
        raise EnvironmentProblem(
            f"{directory}: the report cannot be written there ({error.strerror}); choose another folder with --out"
        ) from None
    return files
