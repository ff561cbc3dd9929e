"""Compares a committed table file with the same file rebuilt from the records.

CSV files are compared cell by cell: a difference is named by row and column. Markdown, LaTeX and
HTML hold the same cells in another format. They are compared as text: a difference is named by its
line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import PurePath

from protoseg.report.verify.check import Problem

TABLE_SUFFIXES = (".csv", ".md", ".tex", ".html")
LAST_KEYS = ("metric", "class", "who")
"""The columns of our CSV files up to one of these identify a row."""


def compare_table_files(file: str, committed: str, rebuilt: str, labels: int) -> list[Problem]:
    """List every difference between a committed file and the rebuilt one.

    Args:
        file: file name for the problems; its suffix selects the comparison.
        committed: content of the committed file.
        rebuilt: content of the file rebuilt from the records.
        labels: number of columns that identify a row of a CSV file without a key column.
    """
    if committed == rebuilt:
        return []
    if PurePath(file).suffix == ".csv":
        problems = list(_compare_csv(file, committed, rebuilt, labels))
    else:
        problems = list(_compare_lines(file, committed, rebuilt))
    if not problems:
        number = _find_first_difference(committed, rebuilt)
        problems = [Problem(file, f"differs only in its layout, first in line {number}.")]
    return problems


def _compare_lines(file: str, committed: str, rebuilt: str) -> Iterator[Problem]:
    old, new = committed.splitlines(), rebuilt.splitlines()
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for offset in range(max(i2 - i1, j2 - j1)):
            line = old[i1 + offset] if i1 + offset < i2 else None
            expected = new[j1 + offset] if j1 + offset < j2 else None
            number = i1 + offset + 1 if line is not None else j1 + offset + 1
            message = f"line {number}: {_describe('does not have this line', line, expected)}"
            yield Problem(file, message, committed=line, rebuilt=expected)


def _compare_csv(file: str, committed: str, rebuilt: str, labels: int) -> Iterator[Problem]:
    header, rows = _read_csv(committed)
    expected_header, expected_rows = _read_csv(rebuilt)
    keys = [index + 1 for index, name in enumerate(expected_header) if name in LAST_KEYS]
    labels = keys[0] if keys else labels
    columns = list(_align(header, expected_header))
    for i, j in columns:
        if i is None and j is not None:
            yield Problem(file, "the file does not have this column.", column=expected_header[j])
        elif j is None and i is not None:
            yield Problem(file, "the records do not give this column.", column=header[i])
    names, expected_names = _row_names(rows, labels), _row_names(expected_rows, labels)
    compared = [("header", header, expected_header)]
    for i, j in _align(names, expected_names):
        if i is not None and j is not None:
            compared.append((expected_names[j], rows[i], expected_rows[j]))
        elif j is not None:
            yield Problem(file, "the file does not have this row.", expected_names[j])
        elif i is not None:
            yield Problem(file, "the records do not give this row.", names[i])
    for name, row, expected_row in compared:
        for i, j in columns:
            if i is None or j is None:
                continue
            cell = row[i] if i < len(row) else None
            expected = expected_row[j] if j < len(expected_row) else None
            if cell != expected:
                message = _describe("does not have this cell", cell, expected)
                yield Problem(file, message, name, expected_header[j], cell, expected)
        if len(row) > len(header):  # cells without a column
            yield Problem(file, f"has {len(row)} cells; the header has {len(header)}.", name)
    sides = (("rows", names, expected_names), ("columns", header, expected_header))
    for what, present, expected_order in sides:
        if present != expected_order and sorted(present) == sorted(expected_order):
            yield Problem(file, f"its {what} are in another order.")


def _read_csv(text: str) -> tuple[list[str], list[list[str]]]:
    """Read the header and the rows; a damaged file gives one cell per line."""
    try:
        lines = list(csv.reader(io.StringIO(text)))
    except csv.Error:  # characters that the csv module rejects
        lines = [[line] for line in text.splitlines()]
    return (lines[0], lines[1:]) if lines else ([], [])


def _row_names(rows: list[list[str]], labels: int) -> list[str]:
    names = [", ".join(dict.fromkeys(cell for cell in row[:labels] if cell)) for row in rows]
    return [name or f"number {index}" for index, name in enumerate(names, start=1)]


def _describe(lack: str, committed: str | None, rebuilt: str | None) -> str:
    present = f"the file {lack}" if committed is None else f"the file has '{committed}'"
    expected = "the records give none" if rebuilt is None else f"the records give '{rebuilt}'"
    return f"{present}, {expected}."


def _align(old: list[str], new: list[str]) -> Iterator[tuple[int | None, int | None]]:
    """Pair the indices of two lists of names; None where one list has no partner.

    Equal sets of unique names are paired by name, lists of equal length by position, others by
    `difflib.SequenceMatcher`.
    """
    if sorted(old) == sorted(new) and len(set(old)) == len(old):
        index_of = {name: index for index, name in enumerate(old)}
        yield from ((index_of[name], index) for index, name in enumerate(new))
        return
    if len(old) == len(new):
        yield from zip(range(len(old)), range(len(new)), strict=True)
        return
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "replace" and i2 - i1 != j2 - j1:
            yield from ((i, None) for i in range(i1, i2))
            yield from ((None, j) for j in range(j1, j2))
            continue
        for offset in range(max(i2 - i1, j2 - j1)):
            yield (
                i1 + offset if i1 + offset < i2 else None,
                j1 + offset if j1 + offset < j2 else None,
            )


def _find_first_difference(committed: str, rebuilt: str) -> int:
    """Number of the first line that differs, line endings included."""
    lines = zip_longest(committed.splitlines(keepends=True), rebuilt.splitlines(keepends=True))
    return next(number for number, (old, new) in enumerate(lines, start=1) if old != new)
