"""Formats a table as LaTeX source for a document that loads booktabs and graphicx."""

from __future__ import annotations

import itertools
import re

from protoseg.errors import UsageError
from protoseg.report import wording
from protoseg.report.formats.latex_letters import escape_latex
from protoseg.report.tables.model import Cell, Column, Footnote, Table

SPANNING = 60
"""Characters per line above which a table spans both text columns."""
SMALLER = ((110, r"\scriptsize", "2pt"), (75, r"\footnotesize", "3pt"), (0, r"\small", "3pt"))
"""(characters per line above which it applies, font size, space between columns)."""


def to_latex(table: Table) -> str:
    """Format a ``table`` environment: caption, label ``tab:NAME``, booktabs rules, footnotes.

    The table is never wider than the text column: if its font is too large, it is scaled down.

    Raises:
        UsageError: a letter that LaTeX cannot show.
    """
    try:
        return _format_table(table)
    except UsageError as error:
        raise UsageError(f"{table.name}: {error}") from error


def _format_table(table: Table) -> str:
    split = [_is_split(table, index) for index in range(len(table.header))]
    # A table made with overrides is another table and gets another label.
    label = re.sub(r"[^A-Za-z0-9:_.-]+", "-", " ".join((table.name, *table.overrides))).strip("-")
    name = table.matrix or table.name
    command = " ".join(map(wording.clean_text, ("protoseg tables", name, *table.overrides)))
    length = _line_length(table)
    environment = "table*" if length > SPANNING else "table"  # equal in one-column text
    caption = " ".join(f"{part.rstrip('.')}." for part in (table.title, table.caption) if part)
    lines = [
        f"% Made by `{command}`; changes made here are lost.",
        f"\\begin{{{environment}}}[t]",
        r"  \centering",
        *(f"  {line}" for line in _choose_size(length)),
        r"  \setlength{\belowcaptionskip}{4pt}",
        f"  \\caption{{{escape_latex(caption)}}}",
        f"  \\label{{tab:{label}}}",
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        f"  \\begin{{tabular}}{{@{{}}{_format_alignment(table.header, split)}@{{}}}}",
        r"    \toprule",
        *(f"    {line}" for line in _format_header(table.header, split)),
        r"    \midrule",
    ]
    for row in table.rows:
        lines += [r"    \midrule"] * row.rule
        cells = [_format_cell(cell, halves) for cell, halves in zip(row.cells, split, strict=True)]
        lines.append(f"    {_format_row(cells)}")
    lines += [
        r"    \bottomrule",
        r"  \end{tabular}}",
        r"  \par\smallskip",
        r"  \begin{minipage}{\linewidth}",
        r"    \footnotesize",
        *(f"    {_format_footnote(footnote)}" for footnote in table.footnotes),
        r"  \end{minipage}",
        f"\\end{{{environment}}}",
    ]
    return "\n".join(lines) + "\n"


def _format_row(cells: list[str]) -> str:
    # After a rule or a line end, LaTeX would read a bracket or a star as its argument.
    start = "{}" if cells[0].startswith(("[", "*")) else ""
    return f"{start}{' & '.join(cells)} \\\\"


def _is_split(table: Table, index: int) -> bool:
    """Whether LaTeX aligns a column as two: the value to the right, the rest to the left."""
    if table.header[index].kind == "verdict":  # text without numbers to align
        return False
    return any(r.cells[index].std_text or r.cells[index].note for r in table.rows)


def _choose_size(length: int) -> tuple[str, str]:
    """Choose a smaller font and column space for a long line, before the table is scaled."""
    size, space = next((size, space) for least, size, space in SMALLER if length > least)
    return size, rf"\setlength{{\tabcolsep}}{{{space}}}"


def _line_length(table: Table) -> int:
    lines = (
        [column.title for column in table.header],
        *([c.plain for c in r.cells] for r in table.rows),
    )
    return sum(max(map(len, cells)) for cells in zip(*lines, strict=True))


def _format_alignment(header: tuple[Column, ...], split: list[bool]) -> str:
    alignments = {"label": "l", "verdict": "l"}
    return "".join(
        r"r@{}l" if halves else alignments.get(column.kind, "r")
        for column, halves in zip(header, split, strict=True)
    )


def _format_header(header: tuple[Column, ...], split: list[bool]) -> list[str]:
    above, rules, position = [], [], 1
    for group, members in itertools.groupby(
        zip(header, split, strict=True), key=lambda pair: (pair[0].group, pair[0].values)
    ):
        width = sum(2 if halves else 1 for _, halves in members)
        if group[0]:
            above.append(f"\\multicolumn{{{width}}}{{c}}{{{escape_latex(group[0])}}}")
            rules.append(f"\\cmidrule(lr){{{position}-{position + width - 1}}}")
        else:
            above += [""] * width
        position += width
    titles = []
    for column, halves in zip(header, split, strict=True):
        title = escape_latex(column.title) + _format_mark(column.mark)
        width = 2 if halves else 1
        is_label = column.kind == "label"
        titles.append(title if is_label else f"\\multicolumn{{{width}}}{{c}}{{{title}}}")
    lines = [f"{' & '.join(above)} \\\\", " ".join(rules)] if rules else []
    return [*lines, _format_row(titles)]


def _format_cell(cell: Cell, split: bool) -> str:
    value = escape_latex(cell.text)
    if cell.kind == "status":
        status = (f"\\textit{{{value}}}" if value else "") + _format_mark(cell.mark)
        return f"\\multicolumn{{2}}{{c}}{{{status}}}" if split else status
    if cell.bold:
        value = f"\\textbf{{{value}}}"
    rest = f"$\\pm${cell.std_text}" if cell.std_text else ""
    if cell.note:
        rest = f"{rest} ({escape_latex(cell.note)})".strip()
    rest = f"{{\\scriptsize{{}}{rest}}}" if rest else ""
    if split:
        return f"{value} & {rest}{_format_mark(cell.mark)}"
    return " ".join(filter(None, (value, rest))) + _format_mark(cell.mark)


def _format_footnote(footnote: Footnote) -> str:
    # Notes without a mark form one paragraph; a note with a mark starts a new line.
    start = f"\\par{_format_mark(footnote.mark)} " if footnote.mark else ""
    return start + escape_latex(footnote.text)


def _format_mark(mark: str) -> str:
    return f"\\textsuperscript{{{mark}}}" if mark else ""
