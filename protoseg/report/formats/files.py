"""Formats a table as Markdown and CSV, and writes all formats to files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from protoseg import files
from protoseg.errors import UsageError
from protoseg.report.formats.html import to_html
from protoseg.report.formats.latex import to_latex
from protoseg.report.metrics import METRICS
from protoseg.report.tables.comparison_table import (
    SUFFIX,
    list_csv_rows,
    make_comparison_table,
)
from protoseg.report.tables.model import Cell, Column, Table

__all__ = [
    *("render_files", "split_parts", "to_csv", "to_html", "to_latex", "to_markdown"),
]

# Fields of to_csv after the axes of rows and columns.
CSV_FIELDS = (
    *("metric", "unit", "n", "expected_n", "mean", "std"),
    *("delta", "delta_std", "delta_n", "published", "verdict", "bold", "status", "run_ids"),
    *("brackets", "published_brackets", "published_delta", "source", "note"),
)


def to_markdown(table: Table) -> str:
    """Format a table as GitHub Markdown with title, caption and footnotes."""
    header = [_escape_markdown(column.title) + _sup(column.mark) for column in table.header]
    for index, column in enumerate(table.header):
        if column.group:
            header[index] = f"{_escape_markdown(column.group)}: {header[index]}"
    body = [[_markdown_cell(cell) for cell in row.cells] for row in table.rows]
    widths = [max(3, *map(len, cells)) for cells in zip(header, *body, strict=True)]
    left = [column.kind in ("label", "verdict") for column in table.header]

    def line(cells: Iterable[str]) -> str:
        padded = (
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(cells, widths, left, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = (
        "-" * width if is_left else "-" * (width - 1) + ":"
        for width, is_left in zip(widths, left, strict=True)
    )
    parts = [f"## {_escape_markdown(table.title)}", ""]
    parts += [_escape_markdown(table.caption), ""] if table.caption else []
    parts += [line(header), line(rule), *map(line, body), ""]
    for note in table.footnotes:
        parts.append(f"- {_sup(note.mark)}{' ' if note.mark else ''}{_escape_markdown(note.text)}")
    return "\n".join(parts) + "\n"


def _escape_markdown(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", text)


def _sup(mark: str) -> str:
    return f"<sup>{mark}</sup>" if mark else ""


def _markdown_cell(cell: Cell) -> str:
    text = _escape_markdown(cell.text)
    if cell.kind == "status":
        return (f"*{text}*" if text else "") + _sup(cell.mark)
    spread = f" ± {cell.std_text}" if cell.std_text else ""
    note = f" ({_escape_markdown(cell.note)})" if cell.note else ""
    return f"{f'**{text}**' if cell.bold else text}{spread}{note}{_sup(cell.mark)}"


def to_csv(table: Table) -> str:
    """Format one line per row, pivot value and metric; numbers unrounded, missing ones empty."""
    axes = [column.metric for column in table.header if column.kind == "label"]
    lines: list[list[Any]] = [["row", *axes, *table.pivot, *CSV_FIELDS]]
    notes = {note.mark: note.text for note in table.footnotes if note.mark}
    for row in table.rows:
        line: dict[str, Any] = {}
        for column, cell in zip(table.header, row.cells, strict=True):
            if column.kind in ("measured", "parameters"):
                line = _make_csv_fields(column, cell)
                lines.append([row.label, *row.values, *column.values, line])
            elif column.kind == "delta" and cell.kind == "delta":
                line |= {"delta": cell.value, "delta_std": cell.std, "delta_n": cell.n or None}
            elif column.kind == "published":
                line |= {"published": cell.value, "published_brackets": cell.brackets}
                line |= {"published_delta": cell.difference}
                line["source"] = notes.get(column.mark, "") if cell.value is not None else ""
            elif column.kind == "verdict":
                line["verdict"] = cell.text
            cell_notes = [notes.get(cell.mark, "")] if column.kind != "label" else []
            if column.kind == "delta" and cell.kind == "status" and cell.text:
                cell_notes.append(f"Δ: {cell.text}.")
            line["note"] = " ".join(dict.fromkeys(filter(None, [line.get("note"), *cell_notes])))
    for index, entries in enumerate(lines[1:], start=1):
        lines[index] = [*entries[:-1], *(_format_csv_value(entries[-1].get(k)) for k in CSV_FIELDS)]
    return _csv_text(lines)


def _make_csv_fields(column: Column, cell: Cell) -> dict[str, Any]:
    return {
        "metric": column.metric,
        "unit": METRICS[column.metric].unit,
        "n": cell.n,
        "expected_n": cell.expected_n,
        "mean": cell.value,
        "std": cell.std,
        "bold": cell.bold,
        "status": cell.text if cell.kind == "status" else cell.note,
        "run_ids": " ".join(cell.run_ids),
        "brackets": cell.brackets,
    }


def _format_csv_value(value: Any) -> Any:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value


def _csv_text(lines: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def to_per_class_csv(table: Table) -> str:
    """Format one line per row, pivot value and class: IoU in percent, mean and std over seeds."""
    lines: list[list[Any]] = [["row", "column", "class", "mean", "std", "n"]]
    lines += [[c.row, c.group, c.name, c.mean, c.std, c.n] for c in table.per_class]
    return _csv_text(lines)


def split_parts(table: Table) -> list[Table]:
    """Return the table and, if comparisons are tested, the table of these."""
    return [table, *([make_comparison_table(table, table.family)] if table.family else [])]


def render_files(table: Table, per_class: bool = False) -> dict[str, str]:
    """Format a table as files: file name -> content.

    They are NAME.md, .tex, .csv, .html, NAME_per_class.csv, and with tested comparisons
    NAME_comparisons.tex and .csv.

    Args:
        per_class: add NAME_per_class.csv even if no class has a result.

    Raises:
        UsageError: the name of the table is not a file name.
    """
    if not re.fullmatch(r"[\w][\w.-]*", table.name):
        raise UsageError(f"'{table.name}' is not a file name. Use letters, digits, '_', '-'.")
    parts = split_parts(table)
    contents = {
        f"{table.name}.md": "\n".join(map(to_markdown, parts)),
        f"{table.name}.csv": to_csv(table),
        f"{table.name}.html": to_html(*parts),
    }
    contents |= {f"{part.name}.tex": to_latex(part) for part in parts}
    if table.family is not None:
        contents[f"{table.name}{SUFFIX}.csv"] = _csv_text(list_csv_rows(table.family))
    if table.per_class or per_class:
        contents[f"{table.name}_per_class.csv"] = to_per_class_csv(table)
    return contents


def write_table_files(table: Table, folder: Path) -> list[Path]:
    """Write a table in all formats and return the paths.

    The bytes depend only on the table; a file with equal bytes is not written again.

    Raises:
        UsageError: the name of the table is not a file name.
        ProtosegError: the folder is not writable.
    """
    # An existing file is updated even without any record left, or it would keep old results.
    contents = render_files(table, (folder / f"{table.name}_per_class.csv").exists())
    files.make_folder(folder)
    for name, content in contents.items():
        _write_if_changed(folder / name, content.encode())
    return [folder / name for name in contents]


def _write_if_changed(path: Path, content: bytes) -> None:
    try:
        if path.read_bytes() == content:
            return
    except OSError:
        pass  # the file is missing, or the write below raises the error
    files.write_bytes(path, content)
