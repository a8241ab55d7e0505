"""The report on paper: PDF by WeasyPrint, byte for byte the same for the same report.

WeasyPrint needs Pango, a library of the system. A machine without it still writes report.json and report.html, and is
told how to get the PDF.
"""

from __future__ import annotations

from typing import Any, NoReturn

from governance.errors import EnvironmentProblem
from governance.report.document import Report
from governance.report.page import render_paper

__all__ = ["pdf"]

_REMEDY = "install Pango (Debian and Ubuntu: apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0)"


def pdf(report: Report, sha256: str) -> bytes:
    """Renders a report as PDF, which carries the hash of its JSON at the foot of every page.

    Raises:
        EnvironmentProblem: WeasyPrint or Pango is not installed.
    """
    try:
        import weasyprint
    except ModuleNotFoundError:
        raise EnvironmentProblem(
            "report.pdf needs WeasyPrint, which is not installed; pip install 'hedgerow[governance]'"
        ) from None
    except OSError:
        raise EnvironmentProblem(f"report.pdf needs a library that is not installed; {_REMEDY}") from None
    document = weasyprint.HTML(string=render_paper(report, sha256), url_fetcher=_ask_for_nothing)
    data: bytes = document.write_pdf(pdf_identifier=bytes.fromhex(sha256)[:16], pdf_tags=True)
    return data


def _ask_for_nothing(url: str, *_: Any, **__: Any) -> NoReturn:
    """The page is self-contained, and a report must not be able to fetch anything."""
    raise ValueError(f"a report asks for nothing, found {url[:60]}")
