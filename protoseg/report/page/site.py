"""Writes pages of matrices and an index page of them: static files for a project site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from protoseg import files
from protoseg.errors import ProtosegError, UsageError
from protoseg.report.page.model import Page
from protoseg.report.page.render import GENERATOR, render_template
from protoseg.report.statistics.power import SIGNIFICANCE

INDEX = "index.html"
TITLE = "Matrices"
HEAD_BYTES = 4096
"""Beginning of a file in which the mark of our pages is looked for."""


@dataclass(frozen=True)
class IndexEntry:
    """One row of the index page."""

    name: str
    title: str
    file: str
    """Address of the page; empty if it cannot be built."""
    planned: int
    finished: int
    last: str
    result: str
    """The verdicts, or why there is no page."""


def name_file(name: str) -> str:
    """The file of a matrix's page.

    Raises:
        UsageError: the name is that of the index page, or no file name.
    """
    file = f"{name}.html"
    if file == INDEX or "/" in name or not name.strip("."):
        raise UsageError(
            f"matrix '{name}': its page cannot be called {file}. Rename the file of the matrix."
        )
    return file


def render_page(page: Page, index: str = "") -> str:
    """Render the page of a matrix.

    Args:
        index: address of the index page; empty without one.
    """
    sections = {
        "summary": "Summary",
        "tables": "Tables" if page.tables else "",
        "charts": "Charts" if page.charts else "",
        "examples": "Examples" if page.examples else "",
        "tuning": "Tuning" if page.search else "",
        "provenance": "Provenance" if page.origins else "",
        "reproduce": "How to reproduce",
        "missing": "What is missing",
    }
    shown = [(key, name) for key, name in sections.items() if name]
    return render_template("page.html", page=page, index=index, sections=shown)


def render_index(entries: Sequence[IndexEntry], title: str = TITLE) -> str:
    """Render the index page."""
    return render_template("index.html", entries=entries, title=title)


def make_entry(page: Page) -> IndexEntry:
    """The row of a page in the index."""
    file = quote(name_file(page.name))
    return IndexEntry(
        page.name,
        page.title,
        file,
        page.planned,
        page.finished,
        page.last,
        _describe_result(page),
    )


def _describe_result(page: Page) -> str:
    """The numbers of tests and of clear differences; the page has the verdicts."""
    family = page.tables[0].table.family if page.tables else None
    if family is None:
        return page.summary[1] if page.finished else page.summary[0]
    tested = [c.adjusted_p for c in family.comparisons if c.adjusted_p is not None]
    clear = sum(p < SIGNIFICANCE for p in tested)
    tuned = "" if page.search is not None else " Untuned."
    return (
        f"{clear} of {len(tested)} tested differences in {family.metric.title} have an adjusted "
        f"p < {SIGNIFICANCE:.2g}.{tuned}"
    )


def write_page(path: Path, text: str) -> None:
    """Write a page; an earlier one is replaced, and one with equal bytes is not written again.

    Raises:
        UsageError: another file is at the path.
        ProtosegError: the folder is not writable.
    """
    check_replaceable(path)
    # A lone surrogate, from a file name that is not UTF-8, cannot be encoded.
    content = text.encode("utf-8", "replace")
    if not path.is_file() or path.read_bytes() != content:
        files.write_bytes(path, content)


def check_replaceable(path: Path) -> None:
    """Check that nothing is at a path, or a page of ours.

    Raises:
        UsageError: another file, or a folder.
        ProtosegError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise UsageError(f"{path}: is a folder. Name a file, or move the folder away.") from None
    except OSError as error:
        raise ProtosegError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if GENERATOR.encode() not in head:
        raise UsageError(
            f"{path}: is not a page of protoseg, so it is not replaced. Move it away, or "
            "name another folder."
        )
