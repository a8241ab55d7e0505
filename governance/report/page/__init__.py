"""The report as one self-contained HTML page: no scripts, and nothing requested from anywhere.

Reading guide
    markup      HTML as values; everything that is not markup is escaped
    words       numbers, times and terms as people read them
    chart       the budget bar and the chart of spend, inline SVG
    overview    what is open, and the key figures
    accounts    budgets: what is spent and what is left
    processing  the processing record; minimisation and retention
    guarantees  each signal's promise, by NIST's questions
    releases    each release with its guarantee and the evidence
    picture     the lineage picture
    governing   policy, access, quality
    closing     refused requests, how to verify, glossary
    assemble    the sections in their order, the style, the frame

Frame and style are `../templates/page.html` and `style.css`; for paper, `paper.html` and `paper.css`.
"""

from governance.report.page.assemble import render, render_paper

__all__ = ["render", "render_paper"]
