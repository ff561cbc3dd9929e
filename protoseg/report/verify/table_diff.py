"""Where two versions of a written table differ: named by row and column, not by line.

Both files are read back into grids of cells (Markdown, LaTeX, CSV, HTML as `protoseg.report`
writes them) and lines around them; a damaged file gives what can be read of it.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import PurePath

from protoseg.report.verify.check import Problem

KEYS = ("metric", "class", "who")
"""The last of the columns that name a line of our CSV files."""


@dataclass
class Grid:
    """One table of a file."""

    title: str
    header: list[list[str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    labels: int = 1
    """How many cells at its beginning name a row."""

    def names(self) -> list[str]:
        """What each row is called."""
        return [", ".join(dict.fromkeys(c for c in row[: self.labels] if c)) for row in self.rows]

    def columns(self) -> list[str]:
        """What each column is called."""
        width = max(map(len, (*self.header, *self.rows)), default=0)
        named = []
        for index in range(width):
            parts = dict.fromkeys(line[index] for line in self.header if index < len(line))
            named.append(" ".join(part for part in parts if part) or f"number {index + 1}")
        return named


@dataclass
class Document:
    """A file as tables, and the lines around them with their numbers."""

    grids: list[Grid] = field(default_factory=list)
    lines: list[tuple[int, str]] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return sum(len(row) for grid in self.grids for row in grid.rows)


def read_csv(text: str, labels: int) -> Document:
    """All of a CSV file is one grid."""
    try:
        lines = list(csv.reader(io.StringIO(text)))
    except csv.Error:  # bytes that no CSV file holds
        lines = [[line] for line in text.splitlines()]
    header = lines[0] if lines else []
    found = [index + 1 for index, name in enumerate(header) if name in KEYS]
    return Document([Grid("", [header], lines[1:], found[0] if found else labels)])


def read_markdown(text: str, labels: int) -> Document:
    """Lines that begin with '|' are cells; a heading names the table below it."""
    document, title, inside = Document(), "", False
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not inside:
                document.grids.append(Grid(title, [cells], labels=labels))
            elif not re.fullmatch(r"[\s|:-]+", line):  # the rule only draws
                document.grids[-1].rows.append(cells)
            inside = True
            continue
        inside = False
        title = line.lstrip("# ") if line.startswith("#") else title
        document.lines.append((number, line.rstrip()))
    return document


def read_latex(text: str, labels: int) -> Document:
    """The lines of cells between ``toprule`` and ``bottomrule``."""
    document, title, place = Document(), "", "outside"
    for number, line in enumerate(text.splitlines(), start=1):
        plain = line.strip()
        if plain == r"\toprule":
            document.grids.append(Grid(title, labels=labels))
            place = "header"
        elif plain == r"\bottomrule":
            place = "outside"
        elif plain == r"\midrule" and place == "header":
            place = "rows"
        elif place != "outside" and plain.endswith(r"\\"):
            grid = document.grids[-1]
            cells = _latex_cells(plain.removesuffix(r"\\"))
            (grid.header if place == "header" else grid.rows).append(cells)
            continue
        if plain.startswith(r"\caption"):
            title = plain.removeprefix(r"\caption{").partition(".")[0]
        document.lines.append((number, plain))
    return document


def _latex_cells(line: str) -> list[str]:
    cells = []
    for cell in re.split(r"(?<!\\)&", line):
        span = re.fullmatch(r"\\multicolumn\{(\d+)\}\{\w+\}\{(.*)\}", cell.strip())
        cells += [span[2]] * min(int(span[1]), 100) if span else [cell.strip()]
    return cells


def read_html(text: str, labels: int) -> Document:
    """Cells stand on lines of their own inside ``tr``."""
    document, head, inside = Document(), False, False
    for number, line in enumerate(text.splitlines(), start=1):
        plain = line.strip()
        if re.fullmatch(r"<table\b[^>]*>", plain):
            document.grids.append(Grid("", labels=labels))
        if plain in ("<thead>", "<tbody>"):
            head = plain == "<thead>"
        if re.fullmatch(r"</?tr\b[^>]*>", plain):
            inside = plain != "</tr>" and bool(document.grids)
            if inside:
                (document.grids[-1].header if head else document.grids[-1].rows).append([])
            if "=" in plain:
                document.lines.append((number, plain))
        elif inside:
            lines = document.grids[-1].header if head else document.grids[-1].rows
            span = re.search(r'colspan="(\d+)"', plain)
            lines[-1].extend([plain] * (min(int(span[1]), 100) if span else 1))
        else:
            document.lines.append((number, plain))
    for grid in document.grids:
        grid.header = [[_words(cell) for cell in line] for line in grid.header]
    return document


def _words(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", markup)).strip()


READERS: dict[str, Callable[[str, int], Document]] = {
    ".csv": read_csv,
    ".md": read_markdown,
    ".tex": read_latex,
    ".html": read_html,
}


def compare(file: str, committed: str, rebuilt: str, labels: int) -> tuple[list[Problem], int]:
    """Every difference between a committed file and the same made anew, and the cells compared.

    Args:
        file: its name, as problems are to show it; the ending says its form.
        labels: how many columns name a row.
    """
    read = READERS[PurePath(file).suffix]
    expected = read(rebuilt, labels)
    if committed == rebuilt:
        return [], expected.cells
    found = read(committed, labels)
    problems: list[Problem] = []
    if len(found.grids) != len(expected.grids):
        message = f"holds {len(found.grids)} tables where the records give {len(expected.grids)}."
        problems.append(Problem(file, message))
    several = len(expected.grids) > 1
    for theirs, ours in zip(found.grids, expected.grids, strict=False):
        theirs.labels = ours.labels
        problems += _grids(file, theirs, ours, f"{ours.title}: " if several else "")
    problems += _lines(file, found.lines, expected.lines)
    if not problems:
        number = _first_line(committed, rebuilt)
        problems = [Problem(file, f"differs in layout alone, first in line {number}.")]
    return problems, expected.cells


def _grids(file: str, theirs: Grid, ours: Grid, prefix: str) -> Iterator[Problem]:
    """The differences of two tables; ``prefix`` says which of several they are."""
    shown = _words if file.endswith(".html") else str
    columns, given_columns = theirs.columns(), ours.columns()
    pairs = list(_aligned(columns, given_columns))
    for i, j in pairs:
        if i is None and j is not None:
            yield Problem(file, "the file has no such column.", prefix, given_columns[j])
        elif j is None and i is not None:
            yield Problem(file, "the records give no such column.", prefix, columns[i])

    def cells(row: str, left: Sequence[str], right: Sequence[str]) -> Iterator[Problem]:
        for i, j in pairs:
            if i is None or j is None:
                continue
            said = left[i] if i < len(left) else None
            given = right[j] if j < len(right) else None
            if said == given:
                continue
            if said is not None and given is not None and shown(said) != shown(given):
                said, given = shown(said), shown(given)  # else the markup alone differs
            words = _sentence("has no such cell", said, given)
            yield Problem(file, words, prefix + shown(row), given_columns[j], said, given)

    for number, (left, right) in enumerate(zip_longest(theirs.header, ours.header), start=1):
        yield from cells(f"header {number}", left or [], right or [])
    names, given_names = theirs.names(), ours.names()
    for i, j in _aligned(names, given_names):
        if i is not None and j is not None:
            yield from cells(given_names[j], theirs.rows[i], ours.rows[j])
        elif j is not None:
            yield Problem(file, "the file has no such row.", prefix + shown(given_names[j]))
        elif i is not None:
            yield Problem(file, "the records give no such row.", prefix + shown(names[i]))
    for what, one, other in (("rows", names, given_names), ("columns", columns, given_columns)):
        if one != other and sorted(one) == sorted(other):
            yield Problem(file, f"{prefix}its {what} stand in another order.")


def _sentence(lack: str, said: str | None, given: str | None) -> str:
    left = f"the file {lack}" if said is None else f"the file says '{said}'"
    right = "the records give none" if given is None else f"the records give '{given}'"
    return f"{left}, {right}."


def _aligned(left: list[str], right: list[str]) -> Iterator[tuple[int | None, int | None]]:
    """Which row or column of one is which of the other: by name where the names are the same, else
    by place, else as a comparison of texts pairs them."""
    if sorted(left) == sorted(right) and len(set(left)) == len(left):
        places = {name: index for index, name in enumerate(left)}
        yield from ((places[name], index) for index, name in enumerate(right))
        return
    if len(left) == len(right):
        yield from zip(range(len(left)), range(len(right)), strict=True)
        return
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "replace" and i2 - i1 != j2 - j1:
            yield from ((i, None) for i in range(i1, i2))
            yield from ((None, j) for j in range(j1, j2))
            continue
        for k in range(max(i2 - i1, j2 - j1)):
            yield (i1 + k if i1 + k < i2 else None, j1 + k if j1 + k < j2 else None)


def _lines(
    file: str, theirs: list[tuple[int, str]], ours: list[tuple[int, str]]
) -> Iterator[Problem]:
    left, right = [text for _, text in theirs], [text for _, text in ours]
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for k in range(max(i2 - i1, j2 - j1)):
            said = left[i1 + k] if i1 + k < i2 else None
            given = right[j1 + k] if j1 + k < j2 else None
            if not said and not given:
                continue
            number = theirs[i1 + k][0] if said is not None else ours[j1 + k][0]
            message = f"line {number}: {_sentence('lacks this line', said, given)}"
            yield Problem(file, message, committed=said, rebuilt=given)


def _first_line(left: str, right: str) -> int:
    pairs = zip(left.splitlines(True), right.splitlines(True), strict=False)
    for number, (one, other) in enumerate(pairs, start=1):
        if one != other:
            return number
    return min(len(left.splitlines()), len(right.splitlines())) + 1
