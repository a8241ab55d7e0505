"""The report as one self-contained HTML page: no scripts, and nothing requested from anywhere.

Reading guide
    markup      HTML as values; everything that is not markup is escaped
    words       numbers, times and terms as people read them
    chart       the budget bar and the chart of spend, inline SVG
    overview    what is open, and the key figures
    accounts    budgets: what is spent and what is left
    releases    each release with its guarantee and the evidence
    closing     refused requests, how to verify, glossary
    assemble    the sections in their order, the style, the frame

The frame and the style are `../templates/page.html` and `../templates/style.css`.
"""

from governance.report.page.assemble import render

__all__ = ["render"]
