"""Tables that also read well on a narrow terminal: side by side where there is room, one below the other where not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

__all__ = ["Columns", "Records"]

NARROW = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Rows with named fields; the first field names the row.

    Attributes:
        headings: one for each field; a line break is fine.
        rows: texts, one for each field.
        numeric: how many of the last fields are numbers, set to the right.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A table, or a paragraph for each row."""
        if options.max_width >= NARROW:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            first_number = len(self.headings) - self.numeric
            for index, heading in enumerate(self.headings):
                table.add_column(Text(heading), justify="right" if index >= first_number else "left", overflow="fold")
            for row in self.rows:
                table.add_row(*map(Text, row))
            yield table
            return
        for row in self.rows:
            yield Text(row[0], style="bold")
            facts = Table.grid(padding=(0, 2))
            for heading, field in zip(self.headings[1:], row[1:], strict=True):
                facts.add_row(Text(heading.replace("\n", " "), style="dim"), Text(field))
            yield Padding(facts, (0, 0, 0, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Ranked lists, best first.

    Attributes:
        headings: each list's name and a remark.
        lists: each list's texts.
    """

    headings: tuple[tuple[str, str], ...]
    lists: tuple[Sequence[str], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lists beside one another, or below."""
        titles = [Text.assemble((name, "bold"), "\n", (remark, "dim")) for name, remark in self.headings]
        if options.max_width >= NARROW:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="", expand=True)
            table.add_column("", style="dim")
            for title in titles:
                table.add_column(title, overflow="fold", ratio=1)
            for place in range(max(map(len, self.lists), default=0)):
                cells = [Text(texts[place] if place < len(texts) else "") for texts in self.lists]
                table.add_row(str(place + 1), *cells)
            yield table
            return
        for title, texts in zip(titles, self.lists, strict=True):
            yield title
            ranks = Table.grid(padding=(0, 2))
            for place, text in enumerate(texts, 1):
                ranks.add_row(Text(str(place), style="dim"), Text(text))
            yield Padding(ranks, (0, 0, 1, 2))
