"""The report: what was released, what it cost, and whether the record holds together.

Reading guide
    document    the report as data: frozen records, one canonical JSON form
    collect     build(): reads the ledger and the releases, and checks them against each other
    checks      what is checked of each release, and what is reported as open
    page        the same content as one self-contained HTML page
    output      write(): report.json, and report.html that carries its SHA-256

`report.json` is the object of record; the page shows it. A report states facts and evidence, and it holds no unit ids,
keys or values: it is made from manifests, which have none, and from the ledger, which has none.
"""

from governance.report.collect import build
from governance.report.document import Report
from governance.report.output import ReportFiles, write

__all__ = ["Report", "ReportFiles", "build", "write"]
