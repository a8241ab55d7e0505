"""The lineage picture: datasets, signals and those who may read them, with a line for each way that data takes.

Drawn at its natural size in a container that scrolls; the same facts follow as a table, for those who cannot see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from governance.report.document import Report
from governance.report.page.markup import Markup, element, join, scrolling, table

__all__ = ["lineage_picture"]

_ROW, _TOP, _HEIGHT = 56, 34, 40
_COLUMNS = ((0, 250), (350, 320), (770, 210))  # x and width of inputs, signals, readers
_WIDTH = 980


@dataclass(frozen=True, slots=True)
class _Box:
    """A node: where it stands, what it says."""

    column: int
    y: float
    name: str
    note: str
    tone: str


def lineage_picture(report: Report) -> Markup:
    """Every input, signal and reader of the project."""
    inputs = _inputs(report)
    if not inputs:
        return element("p", "Nothing has been released, so there is nothing to draw.", class_="empty")
    signals = list(dict.fromkeys(signal for signal, _, _ in inputs))
    readers = _readers(report, signals)
    sources = {name: access for _, name, access in inputs}
    callers = list(dict.fromkeys(caller for _, caller in readers))
    notes = {activity.group: activity.unit for activity in report.processing.activities}
    left = {
        name: _box(0, place, len(sources), signals, name, access, access)
        for place, (name, access) in enumerate(sources.items())
    }
    middle = {
        name: _box(
            1, place, len(signals), signals, name, f"hides one {notes[name]}" if notes.get(name) else "public", "signal"
        )
        for place, name in enumerate(signals)
    }
    right = {
        name: _box(2, place, len(callers), signals, name, "may read", "reader") for place, name in enumerate(callers)
    }
    edges = [_edge(left[name], middle[signal], access) for signal, name, access in inputs]
    edges += [_edge(middle[signal], right[caller], "released") for signal, caller in readers]
    height = _TOP + max(len(signals), len(sources), len(callers)) * _ROW
    label = (
        f"Lineage: {len(sources)} inputs flow into {len(signals)} signals, read by {len(callers)} kinds of caller. "
        "The table below says the same."
    )
    drawing = element(
        "svg",
        element("title", label),
        *(_heading(column, text) for column, text in enumerate(("read", "released as", "read by"))),
        *edges,
        *(_drawn(box) for box in (*left.values(), *middle.values(), *right.values())),
        viewBox=f"0 0 {_WIDTH} {height}",
        width=_WIDTH,
        height=height,
        role="img",
        aria_label=label,
        class_="picture",
    )
    return join(
        element(
            "p",
            "Raw, private data stays on the left: what leaves a signal is a release, and only releases are read.",
            class_="intro",
        ),
        element("div", scrolling("Lineage picture", drawing), _as_table(inputs, readers, signals), class_="card"),
    )


def _inputs(report: Report) -> list[tuple[str, str, str]]:
    """(signal, dataset, access), once each, from releases that can be read."""
    return list(
        dict.fromkeys(
            (release.group, source.dataset, source.access)
            for release in report.releases
            if release.content
            for source in release.content.inputs
        )
    )


def _readers(report: Report, signals: Sequence[str]) -> list[tuple[str, str]]:
    """(signal, caller) as the `may_read` rules permit: a view is `<signal>_v<version>`, vectors go by the signal."""
    pairs = []
    for rule in report.policy.rules:
        if rule.kind == "may_read":
            for signal in signals:
                name, _, version = signal.partition("/")
                views = (f"{name}_{version}", name)
                if any(fnmatchcase(view, pattern) for pattern in rule.says["views"] for view in views):
                    pairs += [(signal, caller) for caller in rule.says["callers"]]
    return list(dict.fromkeys(pairs))


def _box(column: int, place: int, of: int, signals: Sequence[str], name: str, note: str, tone: str) -> _Box:
    """Fewer boxes than signals are spread over their height."""
    step = max(len(signals), of) / of
    return _Box(column, _TOP + (place * step + (step - 1) / 2) * _ROW, name, note, tone)


def _heading(column: int, text: str) -> Markup:
    return element("text", text, x=_COLUMNS[column][0], y=16, class_="picture-step")


def _drawn(box: _Box) -> Markup:
    x, width = _COLUMNS[box.column]
    return element(
        "g",
        element("rect", x=x, y=f"{box.y:g}", width=width, height=_HEIGHT, rx=7, class_=f"box-{box.tone}"),
        element("text", _short(box.name, width), x=x + 12, y=f"{box.y + 17:g}", class_="picture-name"),
        element("text", box.note, x=x + 12, y=f"{box.y + 32:g}", class_="picture-note"),
    )


def _short(name: str, width: int) -> str:
    most = width // 9
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _edge(start: _Box, end: _Box, tone: str) -> Markup:
    x1 = _COLUMNS[start.column][0] + _COLUMNS[start.column][1]
    x2 = _COLUMNS[end.column][0]
    y1, y2, bend = start.y + _HEIGHT / 2, end.y + _HEIGHT / 2, (x2 - x1) / 2
    path = f"M{x1} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2} {y2:g}"
    return element("path", d=path, class_=f"edge-{tone}")


def _as_table(
    inputs: Sequence[tuple[str, str, str]], readers: Sequence[tuple[str, str]], signals: Sequence[str]
) -> Markup:
    rows = [
        (
            signal,
            ", ".join(f"{name} ({access})" for mine, name, access in inputs if mine == signal),
            ", ".join(caller for mine, caller in readers if mine == signal) or "nobody by rule",
        )
        for signal in signals
    ]
    return table("The same in words", ("signal", "reads", "read by"), rows, prose=True)
