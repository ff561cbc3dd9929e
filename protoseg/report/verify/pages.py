"""Compares the marked numbers of Markdown pages with those that the records give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from protoseg.errors import ProtosegError
from protoseg.report.prose.pages import fill_page, read_page
from protoseg.report.prose.result_reader import ResultReader
from protoseg.report.verify.check import Check


def check_pages(folder: Path, paths: Iterable[Path], results: ResultReader) -> Check:
    """Compare the marked numbers of pages with the records.

    Args:
        folder: the folder that the names of pages are relative to.
        paths: the pages.
        results: reads the records.
    """
    check = Check("pages", "numbers in README.md and docs, against the records")
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            page = fill_page(read_page(path), results)
        except ProtosegError as error:
            check.problem(name, str(error).removeprefix(f"{path}: "))
            continue
        check.count += page.count
        for line, sentence in page.problems:
            check.problem(name, f"line {line}: {sentence}")
        for change in page.changes:
            check.problem(
                name,
                f"line {change.line}: '{change.old}' is '{change.new}' in the records "
                f"({change.source}). Correct it: protoseg fill {name}",
                committed=change.old,
                rebuilt=change.new,
            )
    return check
