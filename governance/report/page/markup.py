"""HTML as values: text is escaped unless it is `Markup`, so nothing from a manifest can become markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

__all__ = ["Child", "Markup", "anchor", "definition_list", "element", "join", "scrolling", "table"]

_VOID = frozenset({"br"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


class Markup(str):
    """HTML that may be inserted as it is."""

    __slots__ = ()


Child = str | None
"""What an element may hold: `Markup` as it is, other text escaped, None left out."""


def escaped(value: str) -> Markup:
    """Text as markup."""
    return value if isinstance(value, Markup) else Markup(html.escape(value, quote=True))


def join(*children: Child) -> Markup:
    """Children one after the other."""
    return Markup("".join(escaped(child) for child in children if child is not None))


def element(tag: str, *children: Child, **attributes: str | int | bool | None) -> Markup:
    """One element.

    Args:
        tag: its name.
        children: what it holds, escaped unless it is `Markup`.
        attributes: a trailing underscore is dropped (`class_`), others become hyphens (`aria_label`). True writes the
            bare name; None and False leave the attribute out.
    """
    written = []
    for key, value in attributes.items():
        name = key.removesuffix("_").replace("_", "-")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not an attribute's name")
        if value is True:
            written.append(f" {name}")
        elif value is not None and value is not False:
            written.append(f' {name}="{escaped(str(value))}"')
    opening = f"<{tag}{''.join(written)}>"
    return Markup(opening) if tag in _VOID and not children else Markup(f"{opening}{join(*children)}</{tag}>")


def table(
    caption: str,
    head: Iterable[Child],
    rows: Iterable[Iterable[Child]],
    *,
    numbers: frozenset[int] = frozenset(),
    prose: bool = False,
) -> Markup:
    """A data table in a container of its own that scrolls sideways where the screen is narrow.

    Args:
        caption: what the table shows; read aloud, and shown above it.
        head: column titles.
        rows: cells; the first of each row is its header.
        numbers: positions of the columns that hold numbers.
        prose: cells hold sentences, so that on a phone a row becomes a card with its column titles.
    """
    head = tuple(head)

    def css(position: int) -> str | None:
        return "number" if position in numbers else None

    titles = [element("th", cell, scope="col", class_=css(i)) for i, cell in enumerate(head)]
    body = [
        element(
            "tr",
            *(
                element("td", cell, class_=css(i), data_label=head[i] if prose else None)
                if i
                else element("th", cell, scope="row", class_=css(i))
                for i, cell in enumerate(row)
            ),
        )
        for row in rows
    ]
    return scrolling(
        caption,
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", *titles)),
            element("tbody", *body),
            class_="prose" if prose else None,
        ),
    )


def scrolling(label: str, *children: Child) -> Markup:
    """A container that scrolls by itself, reachable by keyboard."""
    return element("div", *children, class_="scroll", role="region", tabindex=0, aria_label=label)


def definition_list(*pairs: tuple[str, Child], class_: str = "facts") -> Markup:
    """Names and values, in pairs; a pair whose value is None or empty is left out."""
    return element(
        "dl",
        *(element("div", element("dt", name), element("dd", value)) for name, value in pairs if value),
        class_=class_,
    )


def anchor(*parts: str) -> str:
    """An id for use in links, made from names: one to one, of letters, digits, dots, hyphens and underscores."""
    return ".".join(re.sub(r"[^A-Za-z0-9-]", lambda found: f"_{ord(found[0]):x}_", part) for part in parts)
