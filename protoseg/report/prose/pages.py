"""Fills the marked numbers of Markdown pages from the records, or compares them.

A number in prose is marked by an HTML comment that names its source, and an empty comment:
``<!-- delta camvid_methods 1 5 -->+11.29<!-- -->``. `protoseg.report.prose.sources` lists the
sources. Comments in fenced code and in code spans are shown to the reader, so they are no marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from protoseg.errors import ProtosegError, UsageError
from protoseg.report import wording
from protoseg.report.prose.result_reader import ResultReader
from protoseg.report.prose.sources import compute_source

# Code before comments: of several matches at one position, the first alternative counts.
_TOKEN = re.compile(
    r"^[ \t]*(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})(?:.*?^[ \t]*(?P=fence)[`~]*[ \t]*$|.*\Z)"
    r"|(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)(?P=ticks)(?!`)"
    r"|<!--(?P<comment>.*?)-->"
    r"|(?P<open><!--)",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class MarkedNumber:
    """A marked number of a page."""

    line: int
    """Line of the comment that names the source, from 1."""
    source: str
    """The content of the comment, for example ``delta camvid_methods 1 5``."""
    text: str
    """The text between the two comments."""
    start: int
    """Position of the text in the page, in characters."""


@dataclass(frozen=True)
class Change:
    """A marked number that differs from the records; of a table, one line."""

    line: int
    source: str
    old: str
    new: str


@dataclass(frozen=True)
class FilledPage:
    """A page with its numbers from the records."""

    text: str
    """The whole page. Numbers with a problem are not changed."""
    count: int
    """Number of marked numbers."""
    changes: tuple[Change, ...]
    problems: tuple[tuple[int, str], ...]
    """(line, sentence) of each number that cannot be computed."""


def list_pages(folder: Path) -> list[Path]:
    """List the pages of a checkout: README.md, results/README.md and docs/*.md.

    Raises:
        UsageError: there is none.
    """
    pages = [folder / "README.md", folder / "results" / "README.md"]
    pages = [path for path in (*pages, *sorted((folder / "docs").glob("*.md"))) if path.is_file()]
    if not pages:
        raise UsageError(f"{folder}: no README.md and no docs/*.md. Name the pages to fill.")
    return pages


def read_page(path: Path) -> str:
    """Read a Markdown page; line ends are kept.

    Raises:
        UsageError: the file is missing, is a folder or cannot be read.
        ProtosegError: it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror or error}). Name a Markdown page."
        ) from error
    except UnicodeDecodeError as error:
        raise ProtosegError(
            f"{path}: not UTF-8 (byte {error.start}). Save the page as UTF-8."
        ) from error


def list_marked_numbers(text: str) -> Iterator[MarkedNumber | tuple[int, str]]:
    """Yield the marked numbers of a page in their order; for a broken mark, (line, sentence)."""
    opened: re.Match[str] | None = None
    for token in _TOKEN.finditer(text):
        if token["open"]:
            yield _line_of(text, token), "the comment has no end. Add -->."
        if token["comment"] is None:
            continue
        is_end = not token["comment"].strip()
        if opened is not None:
            source, line = opened["comment"].strip(), _line_of(text, opened)
            if is_end:
                number = text[opened.end() : token.start()]
                yield MarkedNumber(line, source, number, opened.end())
            else:
                yield line, f"'{wording.clean_text(source)}' is not closed. Add <!-- -->."
        elif is_end:
            yield _line_of(text, token), "<!-- --> closes no source. Name one before the number."
        opened = None if is_end else token
    if opened is not None:
        source = wording.clean_text(opened["comment"])
        yield _line_of(text, opened), f"'{source}' is not closed. Add <!-- -->."


def _line_of(text: str, token: re.Match[str]) -> int:
    return text.count("\n", 0, token.start()) + 1


def fill_page(text: str, results: ResultReader) -> FilledPage:
    """Compute the marked numbers of a page.

    Only the text between the comments changes.
    """
    parts: list[str] = []
    changes: list[Change] = []
    problems: list[tuple[int, str]] = []
    count = position = 0
    for mark in list_marked_numbers(text):
        if not isinstance(mark, MarkedNumber):
            problems.append(mark)
            continue
        count += 1
        try:
            new = compute_source(results, mark.source)
        except ProtosegError as error:
            problems.append((mark.line, str(error)))
            continue
        if new != mark.text:
            changes += _list_changes(mark, new)
        parts += [text[position : mark.start], new]
        position = mark.start + len(mark.text)
    filled = "".join([*parts, text[position:]])
    return FilledPage(filled, count, tuple(changes), tuple(problems))


def _list_changes(mark: MarkedNumber, new: str) -> Iterator[Change]:
    """Yield the change of a number; of a table, those of its lines."""
    old_lines, new_lines = mark.text.split("\n"), new.split("\n")
    if len(old_lines) != len(new_lines):
        old, new = (f"{len(lines)} lines" for lines in (old_lines, new_lines))
        yield Change(mark.line, mark.source, old, new)
        return
    for offset, (old, line) in enumerate(zip(old_lines, new_lines, strict=True)):
        if old != line:
            yield Change(mark.line + offset, mark.source, old, line)
