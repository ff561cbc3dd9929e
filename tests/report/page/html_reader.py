"""Reads pages with the parser of the standard library, independent of the templates."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "link", "img", "line", "circle", "polyline", "polygon"}


@dataclass
class Element:
    """An element of a page."""

    name: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, with single spaces."""
        parts = [c if isinstance(c, str) else c.text for c in self.children]
        return " ".join(" ".join(parts).split())

    def find_all(self, name: str, **attributes: str) -> list[Element]:
        """All elements inside with this name and these attributes, in order."""
        matches = []
        for child in self.children:
            if isinstance(child, Element):
                wanted = attributes.items() <= child.attributes.items()
                matches += [child] * (wanted and name in ("*", child.name))
                matches += child.find_all(name, **attributes)
        return matches

    def find(self, name: str, **attributes: str) -> Element:
        """The only element inside with this name and these attributes."""
        (match,) = self.find_all(name, **attributes)
        return match


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        element = self.open.pop()
        assert element.name == tag, f"</{tag}> closes <{element.name}>"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_html(text: str) -> Element:
    """Read a page; its elements must be closed in order, and its ids must differ.

    Raises:
        AssertionError: an element is closed out of order or never, or an id is used twice.
    """
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root], "an element is not closed"
    ids = [e.attributes["id"] for e in reader.root.find_all("*") if "id" in e.attributes]
    assert len(ids) == len(set(ids)), "an id is used twice"
    return reader.root


def read_rows(table: Element) -> list[list[str]]:
    """The texts of the cells of each row of the body of a table."""
    (body,) = table.find_all("tbody")
    return [
        [cell.text for cell in row.find_all("*") if cell.name in ("td", "th")]
        for row in body.find_all("tr")
    ]
