from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from governance.report.page.markup import anchor, element, join, table

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"))


class _Read(HTMLParser):
    """What a browser's parser sees: tags, attributes and text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str | None] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXT, TEXT)
def test_text_and_attributes_come_back_as_they_were(text: str, title: str) -> None:
    read = _Read(element("span", text, title=title))
    assert (read.tags, read.text, read.titles) == (["span"], text, [title])


@given(TEXT)
def test_formatting_markup_into_text_makes_it_text_again(text: str) -> None:
    inner = element("b", text)
    read = _Read(join(f"{inner}"))
    assert read.tags == []
    assert read.text == inner


@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=3))
def test_tables_hold_nothing_but_their_cells(rows: list[list[str]]) -> None:
    read = _Read(table("caption", ("a", "b"), rows))
    assert set(read.tags) <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert read.text == "captionab" + "".join("".join(row) for row in rows)


@given(TEXT, TEXT)
def test_anchors_are_one_to_one_and_plain(one: str, other: str) -> None:
    assert (anchor("release", one) == anchor("release", other)) is (one == other)
    assert anchor("release", one).isascii()
    assert not set(anchor("release", one)) & set("\"'<>& #/")
