"""The report: what was released, what it cost, and whether the record holds together.

Reading guide
    document    the report as data: frozen records, one canonical JSON form
    records     the same for processing, policy, guarantees and quality
    collect     build(): reads the ledger and the releases, and checks them against each other
    checks      what is checked of each release, and what is reported as open
    context     policy, processing record and guarantees, from what ran and what the project states
    page        the same content as one self-contained HTML page
    paper       and as PDF
    output      write(): report.json and its signature; report.html and report.pdf, which carry its SHA-256

`report.json` is the object of record; the page shows it. A report states facts and evidence, and it holds no unit ids,
keys or values: it is made from manifests, which have none, and from the ledger, which has none.
"""

from governance.report.collect import build
from governance.report.document import Report
from governance.report.output import ReportFiles, report_key, write

__all__ = ["Report", "ReportFiles", "build", "report_key", "write"]
